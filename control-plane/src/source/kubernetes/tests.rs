//! Does the source tell what the server has, whatever the server does?

mod crowded;
mod hostile;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use isthmus_control_plane_core::model::{Kind, KindFreshness, Object, ObjectRef, Spec};
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::{Access, Credential, Roots};
use crate::source::KindState;
use server::{Server, status, whole};

const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const TRUST_POLICIES: &str = "/apis/isthmus.dev/v1alpha1/trustpolicies";
const MESH_CLUSTERS: &str = "/apis/isthmus.dev/v1alpha1/meshclusters";
const POLICIES: &str = "/apis/isthmus.dev/v1alpha1/accesspolicies";
const EXPORTS: &str = "/apis/multicluster.x-k8s.io/v1beta1/serviceexports";
/// A test that waits longer than this has failed.
const LIMIT: Duration = Duration::from_secs(30);

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "managedFields": [{ "manager": "kubelet" }] },
        "spec": { "nodeName": "n1", "containers": [{ "name": "app", "image": "cart" }] },
        "status": { "podIP": ip },
    })
}

fn slice(name: &str, endpoints: usize) -> Value {
    let endpoint = |at: usize| json!({ "addresses": [format!("10.1.{}.{}", at / 250, at % 250)] });
    let endpoints: Vec<Value> = (0..endpoints).map(endpoint).collect();
    let labels = json!({ "kubernetes.io/service-name": "cart" });
    json!({
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 80 }],
    })
}

fn policy(targets: &[&str]) -> Value {
    let reference = |name: &&str| json!({ "kind": "Service", "name": name });
    let refs: Vec<Value> = targets.iter().map(reference).collect();
    json!({
        "metadata": { "name": "who", "namespace": "shop" },
        "spec": { "targetRefs": refs, "action": "Allow", "rules": [{}] },
    })
}

fn access(address: SocketAddr) -> Access {
    Access {
        server: format!("http://{address}").parse().unwrap(),
        roots: Roots::Unverified,
        server_name: None,
        credential: Credential::Anonymous,
        loopback: true,
        namespace: None,
    }
}

/// A source that runs, and what it has told so far, put together as the world does.
struct Running {
    changes: mpsc::Receiver<Change>,
    report: watch::Receiver<Report>,
    objects: BTreeMap<ObjectRef, Object>,
    /// Told since `Init`.
    named: Vec<ObjectRef>,
    listed: bool,
    kept: Vec<Kind>,
    lost: Option<String>,
    deletes: Vec<String>,
    confirmed: usize,
    refused: BTreeMap<String, String>,
    older: BTreeMap<Kind, KindFreshness>,
    reached: BTreeMap<Kind, u64>,
}

impl Running {
    fn start(server: &Server) -> Self {
        Self::with(server, Quota::default(), SILENCE_MAX)
    }

    fn with(server: &Server, quota: Quota, silence: Duration) -> Self {
        Self::by(access(server.address), quota, silence)
    }

    fn by(access: Access, quota: Quota, silence: Duration) -> Self {
        let api = Api::new(access).unwrap();
        let mut source = KubernetesSource::new(&"east".parse().unwrap(), &api, quota);
        source.silence = silence;
        Self::of(source)
    }

    /// Every end of a watch is a reason to look for a better version.
    fn looking_for_better(server: &Server) -> Self {
        let api = Api::new(access(server.address)).unwrap();
        let mut source = KubernetesSource::new(&"east".parse().unwrap(), &api, Quota::default());
        source.look_for_better = Duration::ZERO;
        Self::of(source)
    }

    fn of(source: KubernetesSource) -> Self {
        let report = source.report();
        let (send, changes) = mpsc::channel(64);
        tokio::spawn(source.run(send));
        Self {
            changes,
            report,
            objects: BTreeMap::new(),
            named: Vec::new(),
            listed: false,
            kept: Vec::new(),
            lost: None,
            deletes: Vec::new(),
            confirmed: 0,
            refused: BTreeMap::new(),
            older: BTreeMap::new(),
            reached: BTreeMap::new(),
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Init { .. } => self.named.clear(),
            Change::Apply(object) => {
                self.named.push(object.reference());
                self.objects.insert(object.reference(), object);
            }
            Change::Delete(at) => {
                self.deletes.push(at.to_string());
                self.objects.remove(&at);
            }
            Change::InitDone { kept, .. } => {
                let named = &self.named;
                self.objects
                    .retain(|at, _| kept.contains(&at.kind) || named.contains(at));
                (self.listed, self.lost) = (true, None);
                self.kept = kept.into_iter().collect();
            }
            Change::Listed { kind, .. } => {
                let named = &self.named;
                self.objects
                    .retain(|at, _| at.kind != kind || named.contains(at));
                self.kept.retain(|kept| *kept != kind);
            }
            Change::Lost { reason, .. } => self.lost = Some(reason),
            Change::Refused { at, why } => {
                self.refused.insert(at.to_string(), why.message);
            }
            Change::Older { kinds, .. } => self.older = kinds,
            Change::Confirmed { .. } => self.confirmed += 1,
            Change::Reached { kind, position, .. } => {
                self.reached.insert(kind, position);
            }
        }
    }

    /// Takes what is told until it is as expected.
    async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is(self) {
                match tokio::time::timeout(Duration::from_millis(100), self.changes.recv()).await {
                    Ok(Some(change)) => self.take(change),
                    Ok(None) => panic!("the source has ended"),
                    // The report may be what is waited for.
                    Err(_) => {}
                }
            }
        };
        if tokio::time::timeout(LIMIT, waiting).await.is_err() {
            let names = self.names();
            let report = self.report.borrow();
            panic!("{what}: {names:?}, lost: {:?}, {:#?}", self.lost, *report);
        }
    }

    async fn listed(server: &Server) -> Self {
        let mut running = Self::start(server);
        running.until("it is listed", |r| r.listed).await;
        running
    }

    fn names(&self) -> Vec<String> {
        self.objects.keys().map(ToString::to_string).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.objects
            .keys()
            .any(|at| at.to_string() == format!("east: {name}"))
    }

    fn pod(&self, name: &str) -> Option<&isthmus_control_plane_core::model::Pod> {
        self.objects.values().find_map(|object| match &object.spec {
            Spec::Pod(pod) if object.name == name => Some(pod),
            _ => None,
        })
    }

    fn ip(&self, name: &str) -> String {
        let ip =
            |pod: &isthmus_control_plane_core::model::Pod| pod.ips.first().map(ToString::to_string);
        self.pod(name).and_then(ip).unwrap_or_default()
    }

    fn state(&self, kind: &str) -> Option<KindState> {
        self.report
            .borrow()
            .kinds
            .get(kind)
            .map(|report| report.state)
    }
}

#[tokio::test]
async fn what_is_there_is_listed_and_what_happens_is_followed() {
    let server = Server::start().await;
    for at in 0..1_203 {
        server.put(
            PODS,
            pod(
                &format!("cart-{at}"),
                &format!("10.0.{}.{}", at / 250, at % 250),
            ),
        );
    }
    server.put(
        SERVICES,
        json!({ "metadata": { "name": "cart", "namespace": "shop" }, "spec": {} }),
    );
    let mut running = Running::listed(&server).await;
    assert_eq!(running.objects.len(), 1_204);
    assert_eq!(running.kept, []);
    let pages = server
        .asked()
        .iter()
        .filter(|asked| asked.lists("pods"))
        .count();
    assert_eq!(pages, 3);
    assert_eq!(running.state("HTTPRoute"), Some(KindState::Absent));

    server.put(PODS, pod("cart-7", "10.9.9.9"));
    let new = server.put(PODS, pod("new", "10.8.8.8"));
    server.delete(PODS, "shop/cart-8");
    // How far it has come is said when all of it was.
    let there = |r: &Running| r.reached.get(&Kind::Pod) == Some(&(new + 1));
    running.until("it is told how far", there).await;
    assert_eq!(running.ip("cart-7"), "10.9.9.9");
    assert_eq!(running.ip("new"), "10.8.8.8");
    assert!(!running.has("Pod shop/cart-8"));
    running.until("it is confirmed", |r| r.confirmed > 0).await;
    assert_eq!(running.deletes, ["east: Pod shop/cart-8"]);
}

#[tokio::test]
async fn what_is_not_understood_keeps_its_last_good_state_and_is_reported_by_name() {
    let server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.put(POLICIES, policy(&["cart"]));
    let mut running = Running::listed(&server).await;
    server.put(PODS, pod("cart", "nowhere"));
    let mut odd = policy(&["cart"]);
    odd["spec"]["rules"][0]["when"] = json!("full moon");
    server.put(POLICIES, odd);
    running
        .until("both are reported", |r| {
            let report = r.report.borrow();
            report.errors.contains_key("Pod shop/cart")
                && report.invalid.contains_key("AccessPolicy shop/who")
        })
        .await;
    assert_eq!(running.ip("cart"), "10.0.0.1");
    running
        .until("it is told as what it is", |r| {
            let denies = |object: &Object| match &object.spec {
                Spec::AccessPolicy(policy) => policy.invalid.is_some(),
                _ => false,
            };
            r.objects.values().any(denies)
        })
        .await;
    server.put(PODS, pod("cart", "10.0.0.2"));
    running
        .until("it is well again", |r| {
            r.ip("cart") == "10.0.0.2" && r.report.borrow().errors.is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_service_with_an_unknown_transport_or_family_stays_as_it_was() {
    let server = Server::start().await;
    let service =
        |spec: Value| json!({ "metadata": { "name": "cart", "namespace": "shop" }, "spec": spec });
    server.put(
        SERVICES,
        service(json!({ "ports": [{ "port": 80 }, { "port": 81 }] })),
    );
    let mut running = Running::listed(&server).await;
    let before = running.objects.clone();
    let name = "Service shop/cart";
    for (spec, field) in [
        (
            json!({ "ports": [{ "port": 80, "protocol": "TPC" }] }),
            "spec.ports[0].protocol: \"TPC\"",
        ),
        (
            json!({ "ipFamilies": ["IPv5"], "ports": [{ "port": 80 }] }),
            "spec.ipFamilies: \"IPv5\"",
        ),
    ] {
        server.put(SERVICES, service(spec));
        running
            .until(field, |r| {
                let refused = r.refused.get(&format!("east: {name}"));
                let told = r
                    .report
                    .borrow()
                    .errors
                    .get(name)
                    .is_some_and(|all| all[0].message.starts_with(field));
                told && refused.is_some_and(|why| why.starts_with(field))
            })
            .await;
        assert_eq!(running.objects, before);
    }
}

/// S26: the last good state stays, and who owns it is told. S20: no proxy is led to itself.
#[tokio::test]
async fn endpoints_on_the_callers_own_host_are_refused() {
    let server = Server::start().await;
    server.put(PODS, pod("a", "10.0.0.1"));
    server.put(SLICES, slice("cart", 2));
    // By a name: a server on 127.0.0.1 may have its pods there.
    let elsewhere = Access {
        server: format!("http://localhost:{}", server.address.port())
            .parse()
            .unwrap(),
        ..access(server.address)
    };
    let mut running = Running::by(elsewhere, Quota::default(), SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    let before = running.objects.clone();
    let (a, cart) = ("Pod shop/a", "EndpointSlice shop/cart");
    for ip in [
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
    ] {
        server.put(PODS, pod("a", ip));
        let mut wrong = slice("cart", 2);
        if ip.contains(':') {
            wrong["addressType"] = "IPv6".into();
            wrong["endpoints"][0]["addresses"] = json!(["fd00::1"]);
        }
        wrong["endpoints"][1]["addresses"] = json!([ip]);
        server.put(SLICES, wrong);
        running
            .until(&format!("both are refused with {ip}"), |r| {
                let errors = &r.report.borrow().errors;
                [a, cart].iter().all(|name| {
                    let told = r.refused.get(&format!("east: {name}"));
                    let named = errors.get(*name).map(|all| &all[0].message);
                    told.is_some_and(|why| why.starts_with(&format!("{ip} is "))) && named == told
                })
            })
            .await;
        assert_eq!(running.objects, before, "{ip}");
    }
    server.put(PODS, pod("a", "10.0.0.2"));
    server.put(SLICES, slice("cart", 1));
    running
        .until("they are taken again", |r| {
            r.objects != before && r.report.borrow().errors.is_empty()
        })
        .await;
}

/// Whoever writes statuses hears of it, and again when it is gone.
#[tokio::test]
async fn what_is_refused_is_told_by_its_name_and_so_is_its_end() {
    let server = Server::start().await;
    let mut wrong = slice("a", 1);
    wrong["endpoints"] = json!("none");
    server.put(SLICES, wrong);
    let mut running = Running::listed(&server).await;
    let at = "east: EndpointSlice shop/a";
    let why = &running.refused[at];
    assert!(why.starts_with("endpoints: invalid type"), "{why}");
    server.delete(SLICES, "shop/a");
    running
        .until("it is gone", |r| {
            r.deletes.iter().any(|gone| gone.ends_with("shop/a"))
        })
        .await;
}

#[tokio::test]
async fn a_slice_that_is_of_no_service_any_more_is_gone() {
    let server = Server::start().await;
    server.put(SLICES, slice("cart-1", 2));
    let mut running = Running::listed(&server).await;
    assert!(running.has("EndpointSlice shop/cart-1"));
    let mut foreign = slice("cart-1", 2);
    foreign["metadata"]["labels"] = json!({});
    server.put(SLICES, foreign);
    running.until("it is gone", |r| r.objects.is_empty()).await;
}

#[tokio::test]
async fn a_pod_has_the_place_of_its_node_also_if_that_is_told_later() {
    let server = Server::start().await;
    let node = |name: &str, zone: Option<&str>| {
        let labels = zone.map(|zone| {
            json!({ "topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": zone })
        });
        json!({ "metadata": { "name": name, "labels": labels } })
    };
    server.put(NODES, node("n1", Some("a")));
    server.put(PODS, pod("cart", "10.0.0.1"));
    let mut late = pod("late", "10.0.0.2");
    late["spec"]["nodeName"] = json!("n2");
    server.put(PODS, late);
    let mut running = Running::listed(&server).await;
    let zone = |r: &Running, name: &str| r.pod(name).unwrap().locality.zone.clone();
    assert_eq!(
        (zone(&running, "cart"), zone(&running, "late")),
        ("a".into(), String::new())
    );
    server.put(NODES, node("n2", None));
    server.put(NODES, node("n2", Some("b")));
    running
        .until("the late one has a place", |r| zone(r, "late") == "b")
        .await;
    server.put(NODES, node("n1", Some("c")));
    running
        .until("the pods are listed again", |r| zone(r, "cart") == "c")
        .await;
    assert_eq!(running.deletes, [""; 0]);
}

#[tokio::test]
async fn an_object_beyond_the_quota_is_refused_until_there_is_room() {
    let server = Server::start().await;
    server.put(SLICES, slice("a", 6));
    server.put(SLICES, slice("b", 3));
    let quota = Quota {
        endpoints: 10,
        ..Quota::default()
    };
    let mut running = Running::with(&server, quota, SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    server.put(SLICES, slice("b", 5));
    server.put(SLICES, slice("c", 2));
    let refused = |r: &Running, name: &str| {
        r.report
            .borrow()
            .errors
            .contains_key(&format!("EndpointSlice shop/{name}"))
    };
    running
        .until("they are refused", |r| refused(r, "b") && refused(r, "c"))
        .await;
    let endpoints = |r: &Running, name: &str| {
        let of = |object: &Object| match &object.spec {
            Spec::EndpointSlice(slice) if object.name == name => Some(slice.endpoints.len()),
            _ => None,
        };
        r.objects.values().find_map(of)
    };
    assert_eq!(
        (endpoints(&running, "b"), endpoints(&running, "c")),
        (Some(3), None)
    );
    server.delete(SLICES, "shop/a");
    running
        .until("there is room", |r| {
            (endpoints(r, "b"), endpoints(r, "c")) == (Some(5), Some(2)) && !refused(r, "b")
        })
        .await;
}

#[tokio::test]
async fn a_kind_that_is_forbidden_is_kept_and_listed_when_it_may_be() {
    let server = Server::start().await;
    server.serves(EXPORTS, true);
    let export = json!({ "metadata": { "name": "cart", "namespace": "shop" } });
    server.put(EXPORTS, export);
    server.script(|asked| {
        asked
            .path
            .ends_with("/serviceexports")
            .then(|| status(403, "serviceexports is forbidden"))
    });
    let mut running = Running::listed(&server).await;
    assert_eq!(running.kept, [Kind::ServiceExport]);
    assert_eq!(running.state("ServiceExport"), Some(KindState::Forbidden));
    running
        .until("its age is told", |r| {
            let of = r.older.get(&Kind::ServiceExport);
            of.is_some_and(|of| of.confirmed_at.is_none() && of.reason.contains("is forbidden"))
        })
        .await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    running
        .until("the others go on", |r| r.has("Pod shop/cart"))
        .await;
    server.script(|_| None);
    running
        .until("it is listed late", |r| {
            r.kept.is_empty() && r.has("ServiceExport shop/cart")
        })
        .await;
    running
        .until("it is as fresh as the rest", |r| r.older.is_empty())
        .await;
    assert_eq!(running.lost, None);
}

#[tokio::test]
async fn a_kind_whose_permission_is_taken_away_is_old_and_the_others_go_on() {
    let mut server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.put(
        SERVICES,
        json!({ "metadata": { "name": "cart", "namespace": "shop" }, "spec": {} }),
    );
    server.put(POLICIES, policy(&["cart"]));
    let mut running = Running::listed(&server).await;
    server.script(|asked| {
        let may = |plural: &str| !asked.path.ends_with(plural);
        (!may("/services") || !may("/accesspolicies")).then(|| status(403, "is forbidden"))
    });
    // The open watches go on: they end with their connection.
    server.stop().await;
    server.delete(SERVICES, "shop/cart");
    server.put(PODS, pod("cart", "10.0.0.2"));
    server.resume().await;
    let kinds = [Kind::Service, Kind::AccessPolicy];
    running
        .until("both are old, and the pods are not", |r| {
            let old = |kind| {
                let of = r.older.get(kind);
                of.is_some_and(|of| of.reason.contains("is forbidden") && of.confirmed_at.is_some())
            };
            kinds.iter().all(old) && r.older.len() == 2 && r.ip("cart") == "10.0.0.2"
        })
        .await;
    running
        .until("the cluster is seen", |r| r.lost.is_none())
        .await;
    assert!(running.has("Service shop/cart"));
    assert!(running.has("AccessPolicy shop/who"));
    assert_eq!(running.state("AccessPolicy"), Some(KindState::Forbidden));
    server.script(|_| None);
    running
        .until("they may be read again", |r| {
            r.older.is_empty() && !r.has("Service shop/cart")
        })
        .await;
    assert!(running.has("AccessPolicy shop/who"));
}

#[tokio::test]
async fn policies_outlive_their_definition() {
    let mut server = Server::start().await;
    server.put(POLICIES, policy(&["cart"]));
    let mut running = Running::listed(&server).await;
    // Served in another version, or not at all: nobody has deleted the policy.
    server.serves(POLICIES, false);
    server.stop().await;
    server.resume().await;
    running
        .until("it is said", |r| {
            r.state("AccessPolicy") == Some(KindState::Unserved)
                && r.older.contains_key(&Kind::AccessPolicy)
        })
        .await;
    running
        .until("the cluster is seen", |r| r.lost.is_none())
        .await;
    assert!(running.has("AccessPolicy shop/who"));
    assert_eq!(running.deletes, [""; 0]);
    server.serves(POLICIES, true);
    running
        .until("it is fresh again", |r| r.older.is_empty())
        .await;
    assert!(running.has("AccessPolicy shop/who"));
}

/// The older version is served on, and so is the watch of it.
#[tokio::test]
async fn a_kind_that_is_served_in_a_better_version_is_watched_in_it() {
    let server = Server::start().await;
    let old = EXPORTS.replace("v1beta1", "v1alpha1");
    let export = json!({ "metadata": { "name": "cart", "namespace": "shop" } });
    server.put(&old, export.clone());
    server.serves(&old, true);
    let mut running = Running::looking_for_better(&server);
    running.until("it is listed", |r| r.listed).await;
    assert!(running.has("ServiceExport shop/cart"));
    let mut better = export;
    better["spec"] = json!({ "exportedLabels": { "tier": "gold" } });
    server.put(EXPORTS, better);
    server.serves(EXPORTS, true);
    // A watch of an API server ends after a while.
    let mut server = server;
    server.script(move |asked| (asked.is_watch() && asked.path == old).then(|| whole(200, "")));
    server.stop().await;
    server.resume().await;
    let labelled = |r: &Running| {
        r.objects.values().any(|object| match &object.spec {
            Spec::ServiceExport(export) => export.labels.contains_key("tier"),
            _ => false,
        })
    };
    running.until("the better version is read", labelled).await;
    let watched = |_: &Running| {
        let asked = server.asked();
        let mut asked = asked.iter();
        asked.any(|asked| asked.is_watch() && asked.path == EXPORTS)
    };
    running.until("it is watched", watched).await;
}

#[tokio::test]
async fn a_kind_that_is_installed_later_is_noticed_in_the_version_that_there_is() {
    let server = Server::start().await;
    let mut running = Running::listed(&server).await;
    assert_eq!(running.state("ServiceExport"), Some(KindState::Absent));
    let old = EXPORTS.replace("v1beta1", "v1alpha1");
    server.put(
        &old,
        json!({ "metadata": { "name": "cart", "namespace": "shop" } }),
    );
    server.serves(&old, true);
    running
        .until("it is noticed", |r| r.has("ServiceExport shop/cart"))
        .await;
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_has_lost_nothing() {
    let mut server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.put(PODS, pod("pay", "10.0.0.2"));
    let mut running = Running::listed(&server).await;
    server.stop().await;
    running.until("it is lost", |r| r.lost.is_some()).await;
    assert_eq!(running.objects.len(), 2);
    server.delete(PODS, "shop/pay");
    server.put(PODS, pod("ship", "10.0.0.3"));
    server.resume().await;
    running
        .until("it is back", |r| {
            r.lost.is_none() && r.has("Pod shop/ship") && !r.has("Pod shop/pay")
        })
        .await;
    assert!(running.has("Pod shop/cart"));
    // It went on where it had been: nothing was listed twice.
    let lists = server
        .asked()
        .iter()
        .filter(|asked| asked.lists("pods"))
        .count();
    assert_eq!(lists, 1);
}

#[tokio::test]
async fn history_that_is_forgotten_is_replaced_without_a_gap() {
    let mut server = Server::start().await;
    for at in 0..600 {
        server.put(PODS, pod(&format!("cart-{at}"), "10.0.0.1"));
    }
    let mut running = Running::listed(&server).await;
    server.stop().await;
    server.delete(PODS, "shop/cart-5");
    server.put(PODS, pod("cart-6", "10.0.0.6"));
    server.put(PODS, pod("new", "10.0.0.7"));
    server.compact();
    server.resume().await;
    running
        .until("it is as the server has it", |r| {
            r.ip("cart-6") == "10.0.0.6" && r.has("Pod shop/new") && !r.has("Pod shop/cart-5")
        })
        .await;
    assert_eq!(running.deletes, ["east: Pod shop/cart-5"]);
    assert_eq!(running.objects.len(), 600);
    // Only what is different was told again.
    assert_eq!(running.named.len(), 602);
}

#[tokio::test]
async fn nobody_is_asked_when_nobody_listens() {
    let server = Server::start().await;
    let api = Api::new(access(server.address)).unwrap();
    let source = KubernetesSource::new(&"east".parse().unwrap(), &api, Quota::default());
    let (send, changes) = mpsc::channel(64);
    let running = tokio::spawn(source.run(send));
    drop(changes);
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
}

#[test]
fn a_pod_is_kept_in_less_than_half_of_its_text() {
    let mut whole = pod("cart-5d8f7c9b6-x2x7p", "10.0.0.1");
    let labels = json!({
        "app.kubernetes.io/name": "cart", "app.kubernetes.io/instance": "shop",
        "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d8f7c9b6", "version": "v2",
    });
    whole["metadata"]["labels"] = labels;
    let field = json!({ "f:metadata": { "f:labels": { ".": {}, "f:app": {}, "f:version": {} } } });
    let fields: Vec<Value> = (0..20).map(|_| field.clone()).collect();
    whole["metadata"]["managedFields"] = json!(fields);
    let variable =
        |at: u32| json!({ "name": format!("VARIABLE_{at}"), "value": "some value of it" });
    let variables: Vec<Value> = (0..80).map(variable).collect();
    whole["spec"]["containers"][0]["env"] = json!(variables);
    whole["spec"]["containers"][0]["ports"] = json!([{ "name": "http", "containerPort": 8080 }]);
    let text = whole.to_string();
    assert!(text.len() > 5_400, "{}", text.len());
    let parsed = crate::manifest::object(text.as_bytes(), "v1", "Pod", &"east".parse().unwrap());
    let cost = isthmus_control_plane_core::quota::Cost::of(&parsed.objects[0]);
    assert!(cost.bytes <= 2_300, "{cost}");
}
