//! What can a server do to us that is broken, or means harm (SECURITY S27, F30-F34)?

use std::sync::atomic::AtomicUsize;

use super::server::{Answer, stream};
use super::*;
use bytes::Bytes;

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

/// A pod as a server would send it.
fn sent(name: &str, uid: &str, version: u64, ip: &str) -> Value {
    let mut pod = pod(name, ip);
    pod["metadata"]["uid"] = json!(uid);
    pod["metadata"]["resourceVersion"] = json!(version.to_string());
    pod
}

/// The first answers to what `is` says, then the usual ones.
fn at_first(
    answers: usize,
    is: impl Fn(&server::Asked) -> bool + Send + Sync + 'static,
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> impl Fn(&server::Asked) -> Option<Answer> + Send + Sync + 'static {
    let count = AtomicUsize::new(0);
    move |asked| {
        if !is(asked) {
            return None;
        }
        let at = count.fetch_add(1, Ordering::SeqCst);
        (at < answers).then(|| answer(at))
    }
}

#[tokio::test]
async fn duplicates_swaps_and_half_lines_change_nothing_in_the_end() {
    let server = Server::start().await;
    server.script(at_first(
        2,
        |asked| asked.watches("pods"),
        |_| {
            let mut text = String::new();
            text += &line("ADDED", &sent("b", "2", 30, "10.0.0.2"));
            text += &line("ADDED", &sent("a", "1", 29, "10.0.0.1"));
            text += &line("DELETED", &sent("c", "3", 32, "10.0.0.3"));
            text += &line("MODIFIED", &sent("c", "3", 31, "10.0.0.3"));
            text += &line("MODIFIED", &sent("a", "1", 33, "10.0.0.9"));
            text += &line("MODIFIED", &sent("a", "1", 29, "10.0.0.1"));
            text += &line("ADDED", &sent("b", "2", 30, "10.0.0.2"));
            text += &line(
                "BOOKMARK",
                &json!({ "metadata": { "resourceVersion": "34" } }),
            );
            let cut = line("ADDED", &sent("d", "4", 35, "10.0.0.4"));
            text += &cut[..cut.len() / 2];
            whole(200, text)
        },
    ));
    let mut running = Running::listed(&server).await;
    running
        .until("a and b are there", |r| {
            r.ip("a") == "10.0.0.9" && r.has("Pod shop/b")
        })
        .await;
    assert_eq!(running.objects.len(), 2);
    let resumed = |r: &Running| {
        let _ = r;
        let asked = server.asked();
        let watches: Vec<_> = asked.iter().filter(|asked| asked.watches("pods")).collect();
        watches.len() > 2
            && watches
                .iter()
                .skip(1)
                .all(|asked| asked.query["resourceVersion"] == "34")
    };
    running.until("it goes on at the bookmark", resumed).await;
    assert_eq!(running.reached.get(&Kind::Pod), Some(&34));
    running
        .until("it is not lost", |r| {
            r.state("Pod") == Some(KindState::Watching)
        })
        .await;
}

#[tokio::test]
async fn a_list_from_the_past_brings_nothing_back() {
    let mut server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.put(PODS, pod("pay", "10.0.0.2"));
    let past = server.list_of(PODS).to_string();
    let mut running = Running::listed(&server).await;
    server.delete(PODS, "shop/pay");
    running
        .until("pay is gone", |r| !r.has("Pod shop/pay"))
        .await;
    server.compact();
    server.put(PODS, pod("new", "10.0.0.3"));
    server.compact();
    server.stop().await;
    // A replica that has seen nothing of it.
    server.script(at_first(
        1,
        |asked| asked.lists("pods"),
        move |_| whole(200, past.clone()),
    ));
    server.resume().await;
    // Which has had its two lists for this minute.
    let why = "Pod: the list is of 12, and 13 was seen";
    running
        .until("it is refused", |r| r.lost.as_deref() == Some(why))
        .await;
    let told = running.named.iter().filter(|at| at.name == "pay").count();
    assert_eq!(told, 1, "only before it was deleted");
    assert!(!running.has("Pod shop/pay"));
}

#[tokio::test]
async fn a_server_that_asks_to_wait_is_not_asked_before() {
    for (code, plural) in [(429, "pods"), (503, "namespaces")] {
        let server = Server::start().await;
        server.script(at_first(
            2,
            move |asked| asked.lists(plural),
            move |_| {
                let mut answer = status(code, "later");
                answer
                    .headers_mut()
                    .insert("retry-after", "1".parse().unwrap());
                answer
            },
        ));
        let begun = Instant::now();
        let running = Running::listed(&server).await;
        assert!(begun.elapsed() >= Duration::from_secs(2), "{code}");
        assert_eq!(running.kept, []);
        let lists = server
            .asked()
            .iter()
            .filter(|asked| asked.lists(plural))
            .count();
        assert_eq!(lists, 3, "{code}");
    }
}

#[tokio::test]
async fn errors_of_every_kind_pass() {
    for code in [401, 403, 500, 504] {
        let server = Server::start().await;
        server.put(PODS, pod("cart", "10.0.0.1"));
        server.script(at_first(
            3,
            |asked| asked.path.ends_with("/pods"),
            move |at| match at % 2 {
                0 => status(code, "no"),
                _ => whole(
                    200,
                    line("ERROR", &json!({ "code": code, "message": "no" })),
                ),
            },
        ));
        let running = Running::listed(&server).await;
        assert!(running.has("Pod shop/cart"), "{code}");
    }
}

#[tokio::test]
async fn a_list_that_does_not_end_is_given_up_and_the_other_kinds_go_on() {
    let server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.script(|asked| {
        let page =
            json!({ "metadata": { "resourceVersion": "99", "continue": "more" }, "items": [] });
        asked
            .lists("services")
            .then(|| whole(200, page.to_string()))
    });
    let mut running = Running::start(&server);
    running
        .until("the others are there", |r| r.has("Pod shop/cart"))
        .await;
    let why = "Service: the list does not end";
    running
        .until("it is given up", |r| r.lost.as_deref() == Some(why))
        .await;
    assert!(!running.listed);
    server.put(PODS, pod("cart", "10.0.0.2"));
    running
        .until("the others go on", |r| r.ip("cart") == "10.0.0.2")
        .await;
}

#[tokio::test]
async fn an_object_of_a_hundred_megabytes_is_not_read() {
    let server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.script(|asked| {
        let begin = match (asked.lists("services"), asked.watches("namespaces")) {
            (true, _) => r#"{"metadata":{"resourceVersion":"99"},"items":[{"metadata":{"name":""#,
            (_, true) => r#"{"type":"ADDED","object":{"metadata":{"name":""#,
            _ => return None,
        };
        let (send, answer) = stream();
        tokio::spawn(async move {
            let chunk = Bytes::from(vec![b'x'; 1 << 20]);
            let rest = std::iter::once(Bytes::from(begin)).chain(std::iter::repeat_n(chunk, 100));
            // Whoever hangs up is left alone.
            for data in rest {
                if send.send(data).await.is_err() {
                    break;
                }
            }
        });
        Some(answer)
    });
    let mut running = Running::start(&server);
    running
        .until("both are given up", |r| {
            let report = r.report.borrow();
            ["Service", "Namespace"].iter().all(|kind| {
                report
                    .kinds
                    .get(kind)
                    .is_some_and(|k| k.reason.contains("larger than"))
            })
        })
        .await;
    assert!(running.has("Pod shop/cart"));
    server.script(|_| None);
    running.until("it is well again", |r| r.listed).await;
}

#[tokio::test]
async fn what_is_two_hundred_deep_is_refused_where_it_matters() {
    let server = Server::start().await;
    let deep = |leaf: Value, wrap: fn(Value) -> Value| (0..200).fold(leaf, |inner, _| wrap(inner));
    let mut harmless = pod("cart", "10.0.0.1");
    harmless["spec"]["affinity"] = deep(json!(1), |inner| json!([inner]));
    server.put(PODS, harmless);
    let mut odd = policy(&["cart"]);
    odd["spec"]["rules"] =
        json!([{ "from": [deep(json!({}), |inner| json!({ "except": [inner] }))] }]);
    server.put(POLICIES, odd);
    server.put(SERVICES, json!({
        "metadata": { "name": "cart", "namespace": "shop", "labels": deep(json!(1), |inner| json!([inner])) },
    }));
    let mut running = Running::listed(&server).await;
    assert_eq!(running.ip("cart"), "10.0.0.1");
    let denies = |object: &Object| match &object.spec {
        Spec::AccessPolicy(policy) => policy.invalid.is_some(),
        _ => false,
    };
    assert!(running.objects.values().any(denies));
    running
        .until("the service is reported", |r| {
            r.report.borrow().errors.contains_key("Service shop/cart")
        })
        .await;
}

/// The server has worked for such a list as for a whole one.
#[tokio::test]
async fn a_list_that_breaks_off_in_its_middle_counts_as_one_of_two_a_minute() {
    let server = Server::start().await;
    server.script(|asked| {
        let begin = r#"{"metadata":{"resourceVersion":"99"},"items":["#;
        let mut answer = whole(200, begin);
        // More was announced than comes.
        let announced = "1000".parse().unwrap();
        answer.headers_mut().insert("content-length", announced);
        asked.lists("pods").then_some(answer)
    });
    let mut running = Running::start(&server);
    let pods = |r: &Running| r.report.borrow().kinds.get("Pod").cloned();
    running
        .until("two are counted", |r| {
            pods(r).is_some_and(|pods| pods.lists == 2)
        })
        .await;
    let reason = pods(&running).unwrap().reason;
    assert!(reason.contains("broke off"), "{reason}");
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.lists("pods")).count(), 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Server::start().await;
    let server = Server::start().await;
    let location = format!("http://{}{PODS}", other.address);
    server.script(move |asked| {
        let mut answer = status(302, "");
        answer
            .headers_mut()
            .insert("location", location.parse().unwrap());
        asked.path.ends_with("/pods").then_some(answer)
    });
    let mut running = Running::start(&server);
    running
        .until("it is told", |r| {
            r.lost
                .as_deref()
                .is_some_and(|why| why.contains("redirects"))
        })
        .await;
    assert!(other.asked().is_empty());
    assert!(!running.listed);
}

#[tokio::test]
async fn a_watch_that_drips_or_says_nothing_is_begun_again() {
    let server = Server::start().await;
    server.script(at_first(
        2,
        |asked| asked.watches("pods"),
        |at| {
            let (send, answer) = stream();
            tokio::spawn(async move {
                // One says nothing; the other never comes to the end of a line.
                while at == 1 && send.send(Bytes::from_static(b" ")).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                send.closed().await;
            });
            answer
        },
    ));
    let silence = Duration::from_millis(400);
    let mut running = Running::with(&server, Quota::default(), silence);
    running.until("it is listed", |r| r.listed).await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    running
        .until("the third watch tells", |r| r.has("Pod shop/cart"))
        .await;
}

#[tokio::test]
async fn a_million_small_slices_are_not_kept() {
    let server = Server::start().await;
    // Ten pages of 500 whose slices have as many endpoints as the whole quota allows.
    server.script(|asked| {
        if !asked.lists("endpointslices") {
            return None;
        }
        let from: usize = asked
            .query
            .get("continue")
            .map_or(0, |text| text.parse().unwrap());
        let item = |at: usize| {
            let mut slice = slice(&format!("s{at}"), 10);
            slice["metadata"]["uid"] = json!(format!("u{at}"));
            slice["metadata"]["resourceVersion"] = json!("5");
            slice
        };
        let items: Vec<Value> = (from..from + 500).map(item).collect();
        let next = if from < 4_500 {
            (from + 500).to_string()
        } else {
            String::new()
        };
        let metadata = json!({ "resourceVersion": "99", "continue": next });
        Some(whole(
            200,
            json!({ "metadata": metadata, "items": items }).to_string(),
        ))
    });
    let mut running = Running::listed(&server).await;
    assert_eq!(running.objects.len(), 2_000);
    running
        .until("it is said", |r| {
            let report = r.report.borrow();
            report.errors.len() == 501 && report.errors.contains_key("more")
        })
        .await;
}

#[tokio::test]
async fn something_in_between_that_knows_nothing_takes_nothing_away() {
    let mut server = Server::start().await;
    server.put(PODS, pod("cart", "10.0.0.1"));
    server.put(POLICIES, policy(&["cart"]));
    let mut running = Running::listed(&server).await;
    server.stop().await;
    server.script(|_| Some(whole(404, "404 page not found")));
    server.resume().await;
    running
        .until("no kind is taken to be absent", |r| {
            let lost = |kind: &str| r.state(kind) == Some(KindState::Lost);
            r.lost.is_some() && lost("Pod") && lost("AccessPolicy")
        })
        .await;
    assert_eq!((running.deletes.len(), running.objects.len()), (0, 2));
    // Nor is a cluster empty of which nothing was known.
    let mut other = Running::start(&server);
    other.until("it is lost", |r| r.lost.is_some()).await;
    assert!(!other.listed);
}

#[tokio::test]
async fn what_fills_up_the_quota_keeps_out_nothing_that_governs() {
    let server = Server::start().await;
    for path in [TRUST_POLICIES, MESH_CLUSTERS] {
        server.serves(path, true);
    }
    for at in 0..150 {
        server.put(PODS, pod(&format!("cart-{at}"), "10.0.0.1"));
    }
    let quota = Quota {
        bytes: 48_000,
        ..Quota::default()
    };
    let mut running = Running::with(&server, quota, SILENCE_MAX);
    running.until("it is listed", |r| r.listed).await;
    let pods = running.objects.len();
    assert!((1..150).contains(&pods), "{pods}");
    server.put(POLICIES, policy(&["cart"]));
    let named = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    let cut_off = json!({ "distrustedClusters": ["west"] });
    server.put(TRUST_POLICIES, named("cut-off", cut_off));
    server.put(MESH_CLUSTERS, named("west", json!({ "network": "n" })));
    for name in [
        "AccessPolicy shop/who",
        "TrustPolicy cut-off",
        "MeshCluster west",
    ] {
        running.until(name, |r| r.has(name)).await;
    }
    assert!(running.report.borrow().over_quota);
}

#[tokio::test]
async fn problems_that_are_only_counted_are_over_when_their_objects_are() {
    let server = Server::start().await;
    let count = 520;
    for at in 0..count {
        server.put(PODS, pod(&format!("bad-{at}"), "no address"));
    }
    let mut running = Running::listed(&server).await;
    let more = |r: &Running| {
        let report = r.report.borrow();
        let said = report.errors.get("more").and_then(|list| list.first());
        said.map(|problem| problem.message.clone())
    };
    let counted = |r: &Running| more(r) == Some("20 more objects have problems".to_owned());
    running.until("they are counted", counted).await;
    for at in 0..count {
        server.delete(PODS, &format!("shop/bad-{at}"));
    }
    running.until("none is left", |r| more(r).is_none()).await;
}

#[tokio::test]
async fn an_object_without_a_name_is_counted_and_keeps_no_other_out() {
    let server = Server::start().await;
    server.script(|asked| {
        let named = sent("cart", "1", 9, "10.0.0.1");
        let metadata = json!({ "resourceVersion": "99" });
        let page = json!({ "metadata": metadata, "items": [{ "metadata": {} }, named, 7] });
        asked.lists("pods").then(|| whole(200, page.to_string()))
    });
    let mut running = Running::listed(&server).await;
    assert_eq!(running.names(), ["east: Pod shop/cart"]);
    running
        .until("it is said", |r| {
            let report = r.report.borrow();
            let said = report.errors.get("Pod").and_then(|list| list.first());
            said.is_some_and(|problem| problem.message == "2 objects of lists have no name")
        })
        .await;
}
