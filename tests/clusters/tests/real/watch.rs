//! Does the source see what a real API server has, whatever happens to the server?

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use isthmus_control_plane::kubernetes::{Allow, Api, kubeconfig};
use isthmus_control_plane::source::kubernetes::KubernetesSource;
use isthmus_control_plane::source::{KindState, Report, Source as _};
use isthmus_control_plane_core::model::{Change, Kind, Pod};
use isthmus_control_plane_core::quota::Quota;
use isthmus_control_plane_core::world::{State, World};
use isthmus_proto::ids::ClusterId;
use isthmus_test_clusters::kubeconfig::Credential;
use isthmus_test_clusters::{Cluster, Programs, Settings};
use tokio::sync::{mpsc, watch};

/// A test that waits longer than this has failed.
const LIMIT: Duration = Duration::from_secs(90);
/// F32: silence is noticed in this time.
const NOTICED: Duration = Duration::from_secs(60);

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: { name: n1, labels: { topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a } }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: cart, namespace: shop }
";

fn pod(name: &str, ip: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, labels: {{ app: cart }} }}
spec:
  serviceAccountName: cart
  nodeName: n1
  terminationGracePeriodSeconds: 0
  containers: [ {{ name: cart, image: isthmus }} ]
status:
  phase: Running
  podIP: {ip}
  conditions: [ {{ type: Ready, status: \"True\" }} ]
"
    )
}

/// A world that hears of one cluster, and what it was told to forget.
struct Heard {
    id: ClusterId,
    world: World,
    changes: mpsc::Receiver<Change>,
    report: watch::Receiver<Report>,
    deletes: Vec<String>,
    applies: usize,
    kept: Vec<Kind>,
    confirmed: usize,
}

impl Heard {
    fn of(cluster: &Cluster, text: &str) -> Self {
        let allow = Allow {
            loopback: true,
            ..Allow::default()
        };
        let api = Api::new(kubeconfig(text, None, &allow).unwrap()).unwrap();
        let id: ClusterId = cluster.name().parse().unwrap();
        let source = KubernetesSource::new(&id, &api, Quota::default());
        let mut world = World::new("mesh.example").unwrap();
        world.add_cluster(&id).unwrap();
        let report = source.report();
        let (send, changes) = mpsc::channel(64);
        tokio::spawn(source.run(send));
        Self {
            id,
            world,
            changes,
            report,
            deletes: Vec::new(),
            applies: 0,
            kept: Vec::new(),
            confirmed: 0,
        }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is(self) {
                let step = Duration::from_millis(100);
                let Ok(change) = tokio::time::timeout(step, self.changes.recv()).await else {
                    continue;
                };
                let change = change.expect("the source goes on");
                match &change {
                    Change::Delete(at) => self.deletes.push(at.to_string()),
                    Change::Apply(_) => self.applies += 1,
                    Change::InitDone { kept, .. } => self.kept = kept.iter().copied().collect(),
                    Change::Confirmed { .. } => self.confirmed += 1,
                    Change::Refused { .. } => {}
                    Change::Init { .. }
                    | Change::Listed { .. }
                    | Change::Older { .. }
                    | Change::Reached { .. }
                    | Change::Lost { .. } => {}
                }
                self.world.apply(change, SystemTime::now());
            }
        };
        if tokio::time::timeout(LIMIT, waiting).await.is_err() {
            let status: Vec<_> = self.world.clusters().collect();
            panic!("{what}: {status:#?} {:#?}", *self.report.borrow());
        }
    }

    async fn until_state(&mut self, state: State) {
        let is = move |heard: &Self| heard.world.state(heard.id.as_str()) == Some(state);
        self.until(&format!("it is {state:?}"), is).await;
    }

    fn pod(&self, name: &str) -> Option<&Pod> {
        self.world
            .pod(&format!("{}/shop/{name}", self.id).parse().unwrap())
    }

    fn ip(&self, name: &str) -> String {
        let ip = self.pod(name).and_then(|pod| pod.ips.first());
        ip.map(ToString::to_string).unwrap_or_default()
    }

    fn counts(&self) -> BTreeMap<Kind, usize> {
        self.world.clusters().next().unwrap().objects
    }

    fn state(&self, kind: &str) -> Option<KindState> {
        self.report.borrow().kinds.get(kind).map(|kind| kind.state)
    }

    fn restarts(&self, kind: &str) -> u64 {
        let report = self.report.borrow();
        report.kinds.get(kind).map_or(0, |kind| kind.restarts)
    }

    fn lists(&self, kind: &str) -> u64 {
        self.report
            .borrow()
            .kinds
            .get(kind)
            .map_or(0, |kind| kind.lists)
    }
}

/// A cluster with a node and some pods; `None`, and said: the programs are not here.
async fn cluster(settings: &Settings, pods: usize) -> Option<Cluster> {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(error) => {
            isthmus_test_clusters::skipped(&error);
            return None;
        }
    };
    let cluster = Cluster::start(&programs, "east", settings).await.unwrap();
    cluster.admin().apply_text(NODE).await.unwrap();
    for at in 0..pods {
        let pod = pod(&format!("cart-{at}"), &format!("10.0.0.{at}"));
        cluster.admin().apply_text(&pod).await.unwrap();
    }
    Some(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_listed_and_what_happens_is_followed() {
    let Some(cluster) = cluster(&Settings::default(), 3).await else {
        return;
    };
    let mut heard = Heard::of(&cluster, &cluster.admin_kubeconfig().unwrap());
    heard.until_state(State::Synced).await;
    assert_eq!(heard.kept, []);
    assert_eq!(heard.counts().get(&Kind::Pod), Some(&3));
    assert_eq!(heard.state("AccessPolicy"), Some(KindState::Absent));
    let found = heard.pod("cart-1").unwrap();
    assert_eq!((found.ready, found.locality.zone.as_str()), (true, "eu-a"));
    assert_eq!(found.service_account, "cart");

    cluster
        .admin()
        .apply_text(&pod("cart-1", "10.0.9.9"))
        .await
        .unwrap();
    cluster
        .admin()
        .delete_text(&pod("cart-2", "10.0.0.2"))
        .await
        .unwrap();
    heard
        .until("it follows", |h| {
            h.ip("cart-1") == "10.0.9.9" && h.pod("cart-2").is_none()
        })
        .await;

    // Kinds that are defined while it runs.
    cluster.define_kinds().await.unwrap();
    let policy = "
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: { name: who, namespace: shop }
spec: { action: Allow, rules: [ { from: [ { namespaces: [ shop ] } ] } ] }
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: { name: cart, namespace: shop }
";
    cluster.admin().apply_text(policy).await.unwrap();
    heard
        .until("the policy is there", |h| {
            let counts = h.counts();
            counts.contains_key(&Kind::AccessPolicy) && counts.contains_key(&Kind::ServiceExport)
        })
        .await;

    // Nothing happens until the watch of a kind is begun anew: it is not lost, and not listed again.
    let (before, lists) = (heard.confirmed, heard.lists("Namespace"));
    let restarts = heard.restarts("Namespace");
    heard
        .until("it is confirmed while nothing happens", |h| {
            h.restarts("Namespace") > restarts && h.confirmed > before
        })
        .await;
    assert_eq!(heard.world.state("east"), Some(State::Synced));
    assert_eq!(heard.lists("Namespace"), lists);
    cluster.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_or_stopped_loses_nothing() {
    let Some(mut cluster) = cluster(&Settings::default(), 5).await else {
        return;
    };
    cluster.define_kinds().await.unwrap();
    let mut heard = Heard::of(&cluster, &cluster.admin_kubeconfig().unwrap());
    heard.until_state(State::Synced).await;

    for round in 0..3 {
        cluster.api().kill().await.unwrap();
        let begun = Instant::now();
        heard.until_state(State::Stale).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(heard.counts().get(&Kind::Pod), Some(&5));
        cluster.revive().await.unwrap();
        let ip = format!("10.0.1.{round}");
        cluster
            .admin()
            .apply_text(&pod("cart-0", &ip))
            .await
            .unwrap();
        heard.until("it is seen", |h| h.ip("cart-0") == ip).await;
        heard.until_state(State::Synced).await;
    }
    assert_eq!(heard.deletes, [""; 0]);

    cluster.api().stop().await.unwrap();
    let begun = Instant::now();
    heard.until_state(State::Stale).await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    cluster.revive().await.unwrap();
    cluster
        .admin()
        .delete_text(&pod("cart-4", "10.0.0.4"))
        .await
        .unwrap();
    heard
        .until("the deletion is seen", |h| h.pod("cart-4").is_none())
        .await;
    heard.until_state(State::Synced).await;
    assert_eq!(heard.deletes, ["east: Pod shop/cart-4"]);
    cluster.end().await.unwrap();
}

/// How long it takes from when the server is seen again until its pods have been listed more than so often.
async fn listed_anew(mut report: watch::Receiver<Report>, lists: u64) -> Duration {
    let mut seen = None;
    loop {
        report.changed().await.unwrap();
        let pods = report.borrow_and_update().kinds.get("Pod").cloned();
        match pods {
            Some(pods) if pods.lists > lists => {
                return seen.map_or(Duration::ZERO, |seen: Instant| seen.elapsed());
            }
            Some(pods) if pods.state != KindState::Lost => {
                seen.get_or_insert_with(Instant::now);
            }
            Some(_) | None => seen = None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_etcd_has_forgotten_is_replaced_without_a_gap() {
    let settings = Settings {
        compaction: Some(Duration::from_secs(1)),
        // Without a cache of its own the server knows only what etcd knows.
        flags: vec!["--watch-cache=false".to_owned()],
        ..Settings::default()
    };
    let Some(mut cluster) = cluster(&settings, 5).await else {
        return;
    };
    let mut heard = Heard::of(&cluster, &cluster.admin_kubeconfig().unwrap());
    heard.until_state(State::Synced).await;
    let lists = heard.lists("Pod");
    let anew = tokio::spawn(listed_anew(heard.report.clone(), lists));
    for round in 0..8 {
        if heard.lists("Pod") > lists {
            break;
        }
        cluster.api().kill().await.unwrap();
        heard.until_state(State::Stale).await;
        cluster.revive().await.unwrap();
        // While the source waits to ask again, much is written and forgotten.
        for at in 0..20 {
            let ip = format!("10.0.{round}.{at}");
            cluster
                .admin()
                .apply_text(&pod("cart-0", &ip))
                .await
                .unwrap();
        }
        heard.until_state(State::Synced).await;
        let last = format!("10.0.{round}.19");
        heard
            .until("the last is seen", |h| h.ip("cart-0") == last)
            .await;
    }
    assert!(heard.lists("Pod") > lists, "nothing was forgotten");
    let took = anew.await.unwrap();
    println!("pods are listed anew {took:.2?} after their server was seen again");
    assert_eq!(heard.deletes, [""; 0]);
    assert_eq!(heard.counts().get(&Kind::Pod), Some(&5));
    cluster.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_may_not_be_read_is_said_and_the_others_go_on() {
    let Some(cluster) = cluster(&Settings::default(), 2).await else {
        return;
    };
    cluster.define_kinds().await.unwrap();
    let role = |routes: &str| {
        format!(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: reader }}
rules:
- {{ apiGroups: [ '' ], resources: [ nodes, namespaces, pods, services ], verbs: [ list, watch ] }}
- {{ apiGroups: [ discovery.k8s.io, isthmus.dev, multicluster.x-k8s.io ], resources: [ '*' ], verbs: [ list, watch ] }}
- {{ apiGroups: [ gateway.networking.k8s.io ], resources: [ {routes} gateways ], verbs: [ list, watch ] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: reader }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader }}
subjects: [ {{ kind: ServiceAccount, name: cart, namespace: shop }} ]
"
        )
    };
    cluster.admin().apply_text(&role("")).await.unwrap();
    let token = cluster.token("shop", "cart", None, None).await.unwrap();
    let mut heard = Heard::of(&cluster, &cluster.kubeconfig(&Credential::Token(token)));
    heard.until_state(State::Synced).await;
    assert!(heard.kept.contains(&Kind::HttpRoute), "{:?}", heard.kept);
    assert_eq!(heard.state("HTTPRoute"), Some(KindState::Forbidden));
    assert_eq!(heard.counts().get(&Kind::Pod), Some(&2));
    let all = "httproutes, grpcroutes, tcproutes, tlsroutes, referencegrants,";
    cluster.admin().apply_text(&role(all)).await.unwrap();
    heard
        .until("it is seen", |h| {
            h.state("HTTPRoute") == Some(KindState::Watching)
        })
        .await;
    cluster.end().await.unwrap();
}
