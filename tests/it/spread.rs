//! Does a client see every pod, also behind a gateway?

use std::time::{Duration, Instant};

use isthmus_tests::plan::ServicePlan;
use isthmus_tests::wait::check;
use isthmus_tests::{App, Mesh, until};

use crate::load::Load;

#[tokio::test]
async fn requests_through_one_gateway_are_spread_evenly_over_every_remote_pod() {
    const REQUESTS: usize = 1_200;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 4))
        .start()
        .await;
    for pod in 1..=4 {
        // Equal pods: next to this, the noise of a busy machine is small.
        mesh.app(&format!("west/cart-{pod}")).behaviour.delay(20);
    }
    let mut rounds = Vec::new();
    // Pods that other tests slow down for a while do get less: that is what it is for.
    while rounds.len() < TRIES {
        let clients = (0..16).map(|_| mesh.client("east/web").http("cart"));
        let load = Load::start(clients.collect());
        load.more(REQUESTS).await;
        let tally = load.stop_without_failure().await;
        assert_eq!(tally.pods.len(), 4, "{:?}", tally.pods);
        let counts: Vec<f64> = tally
            .pods
            .values()
            .map(|&n| f64::from(u32::try_from(n).unwrap()))
            .collect();
        let variation = variation(&counts);
        rounds.push((variation, counts));
        if variation < EVEN {
            break;
        }
    }
    assert!(rounds.iter().any(|(v, _)| *v < EVEN), "{rounds:?}");
    // One tunnel to each pod, all through the gateway, and kept.
    assert_eq!(mesh.link("west/gateway-1").accepts(), 4);
}

/// One caller, one connection, one request after another.
#[tokio::test]
async fn one_connection_is_spread_evenly_too() {
    const REQUESTS: u32 = 600;
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 3))
        .start()
        .await;
    for pod in 1..=3 {
        mesh.app(&format!("west/cart-{pod}")).behaviour.delay(20);
    }
    let client = mesh.client("east/web").http("cart");
    let mut sender = client.http1().await.unwrap();
    let mut rounds = Vec::new();
    // Pods that other tests slow down for a while do get less: that is what it is for.
    while rounds.len() < TRIES {
        let mut counts = std::collections::BTreeMap::<String, f64>::new();
        for _ in 0..REQUESTS {
            sender.ready().await.unwrap();
            let request = client
                .request("GET", "/")
                .body(isthmus_tests::client::full(""))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let reply = isthmus_tests::Reply::read(answer).await.unwrap();
            assert_eq!(reply.status, 200);
            *counts.entry(reply.pod().to_owned()).or_default() += 1.0;
        }
        assert_eq!(counts.len(), 3, "{counts:?}");
        let counts: Vec<f64> = counts.into_values().collect();
        let variation = variation(&counts);
        rounds.push((variation, counts));
        if variation < EVEN {
            break;
        }
    }
    assert!(rounds.iter().any(|(v, _)| *v < EVEN), "{rounds:?}");
    assert_eq!(mesh.link("west/gateway-1").accepts(), 3);
}

/// The coefficient of variation that may be left.
const EVEN: f64 = 0.05;

fn variation(counts: &[f64]) -> f64 {
    let pods = counts.iter().map(|_| 1.0).sum::<f64>();
    let mean = counts.iter().sum::<f64>() / pods;
    let squares = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>();
    (squares / pods).sqrt() / mean
}

/// A machine that is busy with other tests may stop all of us for longer than the promise: it is kept
/// if it is kept once.
const TRIES: usize = 3;

/// Few leave the neighbours idle, so that a pod that failed is hardly asked again.
#[tokio::test]
async fn one_bad_remote_pod_is_ejected_while_its_neighbours_serve() {
    a_bad_pod_is_ejected_in_time(2).await;
}

#[tokio::test]
async fn one_bad_remote_pod_is_ejected_under_load() {
    a_bad_pod_is_ejected_in_time(16).await;
}

async fn a_bad_pod_is_ejected_in_time(callers: usize) {
    /// From the moment that it turns bad until nobody is sent there any more.
    const EJECTION_MAX: Duration = Duration::from_secs(2);
    let mut took = Vec::new();
    for _ in 0..TRIES {
        took.push(ejected_after(callers).await);
        if took.iter().any(|took| *took < EJECTION_MAX) {
            return;
        }
    }
    panic!("ejected after {took:?}");
}

/// How long a pod that turned bad was still asked. Whatever does not depend on the time is asserted.
async fn ejected_after(callers: usize) -> Duration {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.linked().service("cart", 3))
        .start()
        .await;
    let clients = (0..callers).map(|_| mesh.client("east/web").http("cart"));
    let load = Load::start(clients.collect());
    load.more(60).await;
    mesh.app("west/cart-2").behaviour.fail_with(500);
    let begun = Instant::now();
    let web = mesh.proxy("east/web-1");
    until("the pod is ejected", async || {
        let config = web.json("/config").await;
        let stats = endpoint(&config, "west/shop/cart-2")["stats"].clone();
        check(stats["ejected"] == true, stats)
    })
    .await;
    let before = mesh.app("west/cart-2").record.requests();
    load.more(100).await;
    let after = mesh.app("west/cart-2").record.requests();
    // What was in flight at that moment, one for each caller.
    assert!(
        after <= before + callers,
        "{} requests after it was ejected",
        after - before
    );
    let config = web.json("/config").await;
    for neighbour in ["west/shop/cart-1", "west/shop/cart-3"] {
        assert_eq!(
            endpoint(&config, neighbour)["stats"]["ejected"],
            false,
            "{neighbour}"
        );
    }
    let tally = load.stop().await;
    assert!(
        tally.bad.iter().all(|bad| bad.starts_with("500")),
        "{:?}",
        tally.bad
    );
    // One tunnel to each pod, and a gateway in the way of all of them.
    assert_eq!(mesh.link("west/gateway-1").accepts(), 3);
    // Five in a row eject, and each caller may have had one more under way.
    assert!(tally.bad.len() <= 5 + callers, "{} failed", tally.bad.len());
    let last = tally.last_bad.expect("a request that it answered badly");
    last.duration_since(begun)
}

const STICKY: &str = "  sessionAffinity: ClientIP\n";

/// An ordinary field of an ordinary Service.
#[tokio::test]
async fn a_service_with_session_affinity_keeps_its_client_at_one_pod() {
    let plan = ServicePlan::new("cart", 3).port("http", 80, "http", App::Http);
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 3))
        .start()
        .await;
    let client = mesh.client("east/web").http("cart");
    let answered = async |calls: usize| {
        let mut pods = std::collections::BTreeSet::new();
        for _ in 0..calls {
            let reply = client.get("/").await;
            assert_eq!(reply.status, 200);
            pods.insert(reply.pod().to_owned());
        }
        pods
    };
    assert_eq!(answered(60).await.len(), 3);
    let text = isthmus_tests::manifest::service(&plan, "10.96.0.10");
    let sticky = text.replacen("spec:\n", &format!("spec:\n{STICKY}"), 1);
    mesh.write("west", "service-cart.yaml", &sticky);
    let kept = until("calls are kept at one pod", async || {
        let pods = answered(40).await;
        match pods.iter().next() {
            Some(only) if pods.len() == 1 => Ok(only.clone()),
            _ => Err(format!("{pods:?}")),
        }
    })
    .await;
    assert_eq!(answered(40).await, [kept].into());
}

/// A pod that joins takes its share, one that leaves gets nothing more; nobody notices.
#[tokio::test]
async fn pods_come_and_go_without_a_failed_request() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 3))
        .start()
        .await;
    mesh.mark("west/cart-3", false);
    let client = mesh.client("east/web").http("cart");
    let load = Load::start(vec![mesh.client("east/web").http("cart")]);
    load.more(50).await;
    mesh.mark("west/cart-3", true);
    until("the new pod serves", async || {
        let reply = client.get("/").await;
        check(reply.pod() == "west/cart-3", reply.pod())
    })
    .await;
    mesh.mark("west/cart-1", false);
    let web = mesh.proxy("east/web-1");
    until("the pod is known to be unready", async || {
        let config = web.json("/config").await;
        let health = endpoint(&config, "west/shop/cart-1")["health"].clone();
        check(health != "healthy", health)
    })
    .await;
    for _ in 0..50 {
        let reply = client.get("/").await;
        assert_ne!(reply.pod(), "west/cart-1");
    }
    load.stop_without_failure().await;
}

/// An endpoint in a proxy's `/config`; null if it is not there.
fn endpoint(config: &serde_json::Value, name: &str) -> serde_json::Value {
    let services = config["services"].as_array().cloned().unwrap_or_default();
    let endpoints = services
        .iter()
        .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
    let mut found = endpoints.filter(|e| e["name"] == name);
    found.next().unwrap_or_default()
}

const AT_THE_NODE: &str = "apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: cart}
  internalTrafficPolicy: Local
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";

#[tokio::test]
async fn a_service_that_ends_at_the_node_is_called_on_the_callers_node_and_nowhere_else() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| {
            c.client("web").service_with("cart", 2, |s| {
                s.port("http", 80, "http", App::Http).unexported()
            })
        })
        .start()
        .await;
    let put = |mesh: &mut Mesh, pod: &str, node: &str| {
        mesh.edit_pod(pod, |pod| pod.node = Some(node.to_owned()));
    };
    put(&mut mesh, "east/web-1", "n1");
    put(&mut mesh, "east/cart-1", "n1");
    put(&mut mesh, "east/cart-2", "n2");
    mesh.write("east", "service-cart.yaml", AT_THE_NODE);
    let client = mesh.client("east/web").http("cart");
    let answers = async || {
        let mut pods = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
            pods.insert((reply.status, reply.pod().to_owned()));
        }
        Ok::<_, String>(pods)
    };
    let only = |pod: &str| std::collections::BTreeSet::from([(200, pod.to_owned())]);
    until("only the pod of its node answers", async || {
        let found = answers().await?;
        check(found == only("east/cart-1"), format!("{found:?}"))
    })
    .await;
    // None on the node is none: the other pod is there, and is not called.
    put(&mut mesh, "east/cart-1", "n3");
    let client = mesh.client("east/web").http("cart");
    until("nobody answers", async || {
        let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
        check(reply.status == 503, reply.status)
    })
    .await;
    put(&mut mesh, "east/cart-2", "n1");
    let client = mesh.client("east/web").http("cart");
    until("the pod that is there now answers", async || {
        let reply = client.try_get("/").await.map_err(|e| e.to_string())?;
        check(reply.pod() == "east/cart-2", reply.pod().to_owned())
    })
    .await;
}
