//! Is there one leader, and is its lease given back?

use std::sync::{Arc, Mutex};

use super::*;
use crate::kubernetes::client::fake::{Answer, Asked, Fake, answer};

const AT: &str = "/apis/coordination.k8s.io/v1/namespaces/isthmus-system/leases";

/// Leases as an API server keeps them: one, with optimistic concurrency.
#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    away: bool,
}

impl Store {
    fn handle(&mut self, asked: &Asked) -> Answer {
        let refused = |code, reason: &str| answer(code, json!({ "reason": reason }).to_string());
        if self.away {
            return refused(503, "ServiceUnavailable");
        }
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        match (asked.method.as_str(), &self.lease) {
            ("GET", None) | ("PUT", None) => return refused(404, "NotFound"),
            ("POST", Some(_)) => return refused(409, "AlreadyExists"),
            ("GET", Some(lease)) => return answer(200, lease.to_string()),
            ("PUT", Some(lease)) => {
                let of = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
                if of(lease) != of(&body) {
                    return refused(409, "Conflict");
                }
            }
            ("POST", None) => {}
            (method, _) => panic!("{method}"),
        }
        self.version += 1;
        let mut lease = body;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = lease.to_string();
        self.lease = Some(lease);
        answer(200, text)
    }
}

struct Cluster {
    fake: Fake,
    store: Arc<Mutex<Store>>,
}

impl Cluster {
    async fn new() -> Self {
        let store = Arc::new(Mutex::new(Store::default()));
        let of_fake = Arc::clone(&store);
        let fake = Fake::plain(move |asked| {
            assert!(asked.uri.path().starts_with(AT), "{}", asked.uri);
            of_fake.lock().unwrap().handle(asked)
        })
        .await;
        Self { fake, store }
    }

    fn candidate(
        &self,
        me: &str,
    ) -> (watch::Sender<bool>, Leadership, tokio::task::JoinHandle<()>) {
        let quick = Timing {
            duration: Duration::from_millis(900),
            deadline: Duration::from_millis(600),
            retry: Duration::from_millis(50),
        };
        let api = Api::new(self.fake.access()).unwrap();
        let (home, name) = ("east".parse().unwrap(), ("isthmus-system", "isthmus"));
        let (_, apis) = watch::channel(BTreeMap::from([(ClusterId::clone(&home), api)]));
        let (candidate, leadership) = Candidate::new((&home, apis), name, me, quick).unwrap();
        let (stop, stopped) = watch::channel(false);
        (stop, leadership, tokio::spawn(candidate.run(stopped)))
    }

    fn lease(&self) -> Value {
        self.store.lock().unwrap().lease.clone().unwrap()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what)
        .await
        .expect("it comes")
}

#[tokio::test]
async fn one_leads_and_hands_over_when_it_stops() {
    let cluster = Cluster::new().await;
    let (stop, mut first, ended) = cluster.candidate("pod-a");
    soon(first.gained()).await;
    let lease = cluster.lease();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(holder.starts_with("pod-a_"), "{holder}");
    assert!(timestamp::parse(lease["spec"]["renewTime"].as_str().unwrap()).is_some());

    let (_stop, mut second, _task) = cluster.candidate("pod-b");
    assert!(!second.holds());
    stop.send_replace(true);
    soon(ended).await.unwrap();
    assert!(!first.holds());
    soon(second.gained()).await;
    let lease = cluster.lease();
    assert!(
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .starts_with("pod-b_")
    );
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_leader_that_can_not_renew_stops_and_leads_again_when_it_can() {
    let cluster = Cluster::new().await;
    let (_stop, mut leadership, _task) = cluster.candidate("pod-a");
    let (send, mut leads) = watch::channel(false);
    let telling = tokio::spawn(leadership.clone().tell(send));
    soon(leadership.gained()).await;
    soon(leads.wait_for(|leads| *leads)).await.unwrap();
    cluster.store.lock().unwrap().away = true;
    soon(leadership.lost()).await;
    assert!(!leadership.holds());
    soon(leads.wait_for(|leads| !*leads)).await.unwrap();
    cluster.store.lock().unwrap().away = false;
    soon(leadership.gained()).await;
    soon(leads.wait_for(|leads| *leads)).await.unwrap();
    drop(leads);
    soon(telling).await.unwrap();
}

#[tokio::test]
async fn what_others_wrote_into_the_lease_stays() {
    let cluster = Cluster::new().await;
    let (_stop, mut leadership, _task) = cluster.candidate("pod-a");
    soon(leadership.gained()).await;
    let version = {
        let mut store = cluster.store.lock().unwrap();
        store.version += 1;
        let version = store.version.to_string();
        let lease = store.lease.as_mut().unwrap();
        lease["metadata"]["labels"] = json!({ "team": "mesh" });
        lease["metadata"]["resourceVersion"] = version.clone().into();
        version
    };
    let acquired = cluster.lease()["spec"]["acquireTime"].clone();
    let renewed = async {
        while cluster.lease()["metadata"]["resourceVersion"] == json!(version) {
            tokio::task::yield_now().await;
        }
    };
    soon(renewed).await;
    assert_eq!(cluster.lease()["metadata"]["labels"]["team"], "mesh");
    assert_eq!(cluster.lease()["spec"]["acquireTime"], acquired);
    assert!(leadership.holds());
}
