//! Does the client keep its bounds and find its way back?

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::net::TcpListener;

use super::fake::{Answer, Asked, Ca, Fake, answer, stream};
use super::*;
use crate::kubernetes::access::{Certificate, Credential};

/// A promise that something comes; a test that waits longer has failed.
const SOON: Duration = Duration::from_secs(30);

fn api(access: Access) -> Api {
    Api::new(access).unwrap()
}

fn impatient(access: Access) -> Api {
    let settings = Settings {
        connect_timeout: Duration::from_millis(300),
        answer_timeout: Duration::from_millis(300),
        ping_every: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        page_bytes_max: 1_000,
        object_bytes_max: 1_000,
        line_bytes_max: 100,
    };
    Api::with(access, settings).unwrap()
}

fn path(asked: &Asked) -> String {
    asked.uri.path_and_query().unwrap().to_string()
}

fn text(bytes: Option<Bytes>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_server_is_verified_and_our_token_goes_to_it_alone() {
    let ca = Ca::new();
    let fake = Fake::start(Some(ca.serving("localhost")), |_| answer(200, "{}")).await;
    let way = Access {
        server: format!("https://localhost:{}/k8s/clusters/c-1/", fake.port)
            .parse()
            .unwrap(),
        roots: ca.roots(),
        credential: Credential::Token("s3cret".to_owned()),
        ..fake.access()
    };
    let got = api(way.clone()).get("/version").await.unwrap();
    assert_eq!(&got[..], b"{}");
    let asked = &fake.asked()[0];
    assert_eq!(path(asked), "/k8s/clusters/c-1/version");
    assert_eq!(asked.header("authorization"), "Bearer s3cret");
    assert!(asked.header("user-agent").starts_with("isthmus/"));

    let strangers = [
        Access {
            roots: Ca::new().roots(),
            ..way.clone()
        },
        Access {
            server_name: Some("elsewhere".to_owned()),
            ..way.clone()
        },
    ];
    for stranger in strangers {
        let error = api(stranger).get("/version").await.unwrap_err();
        let ApiError::Unreachable(why) = &error else {
            panic!("{error}");
        };
        assert!(why.contains("certificate"), "{why}");
    }
    assert_eq!(fake.asked().len(), 1);

    let by_name = Access {
        server: format!("https://127.0.0.1:{}", fake.port).parse().unwrap(),
        server_name: Some("localhost".to_owned()),
        ..way.clone()
    };
    api(by_name).get("/version").await.unwrap();
    let anybody = Access {
        roots: Roots::Unverified,
        ..way
    };
    api(anybody).get("/version").await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_shown_and_a_newer_one_after_a_refusal() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("crt"), folder.path().join("key"));
    let write = |pair: (String, String)| {
        std::fs::write(&chain, &pair.0).unwrap();
        std::fs::write(&key, &pair.1).unwrap();
        Certificate::of_pem(pair.0.as_bytes(), pair.1.as_bytes()).unwrap()
    };
    let old = write(ca.leaf("old"));
    let new = ca.leaf("new");
    let good = Certificate::of_pem(new.0.as_bytes(), new.1.as_bytes()).unwrap();
    let only = Arc::new(Mutex::new(old.chain[0].to_vec()));
    let of_server = Arc::clone(&only);
    let fake = Fake::start(Some(ca.serving("localhost")), move |asked| {
        let known = asked.certificate.as_deref() == Some(&of_server.lock().unwrap()[..]);
        answer(if known { 200 } else { 401 }, "{}")
    })
    .await;
    let api = api(Access {
        server: format!("https://localhost:{}", fake.port).parse().unwrap(),
        roots: ca.roots(),
        credential: Credential::CertificateFiles {
            chain: chain.clone(),
            key: key.clone(),
        },
        ..fake.access()
    });
    api.get("/version").await.unwrap();
    write(new);
    *only.lock().unwrap() = good.chain[0].to_vec();
    api.get("/version").await.unwrap();
    assert_eq!((fake.asked().len(), fake.connections()), (3, 2));
    // Nothing newer there: said once, and not asked for ever.
    only.lock().unwrap().clear();
    assert!(api.get("/version").await.unwrap_err().is_unauthorized());
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn a_token_file_is_read_again_after_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "old\n").unwrap();
    let only = Arc::new(Mutex::new("Bearer old".to_owned()));
    let of_server = Arc::clone(&only);
    let fake = Fake::plain(move |asked| {
        let known = asked.header("authorization") == *of_server.lock().unwrap();
        answer(if known { 200 } else { 401 }, "{}")
    })
    .await;
    let api = api(Access {
        credential: Credential::TokenFile(file.clone()),
        ..fake.access()
    });
    api.get("/version").await.unwrap();
    std::fs::write(&file, "new").unwrap();
    *only.lock().unwrap() = "Bearer new".to_owned();
    api.get("/version").await.unwrap();
    assert_eq!((fake.asked().len(), fake.connections()), (3, 1));
}

#[tokio::test]
async fn connections_are_shared_and_made_again() {
    let fake = Fake::plain(|asked| {
        if path(asked).contains("watch=true") {
            let (send, answer) = stream();
            // Kept open for as long as the client is there.
            tokio::spawn(async move { send.closed().await });
            return answer;
        }
        answer(200, "{}")
    })
    .await;
    let api = api(fake.access());
    let kinds: Vec<String> = (0..20).map(|kind| format!("/api/v1/kind{kind}")).collect();
    let query = [("resourceVersion", "7")];
    let watches = join_all(kinds.iter().map(|kind| api.watch(kind, &query))).await;
    let lists = join_all(kinds.iter().map(|kind| api.list(kind, &[("limit", "5")]))).await;
    assert!(watches.iter().all(Result::is_ok) && lists.iter().all(Result::is_ok));
    assert_eq!((fake.connections(), fake.asked().len()), (2, 40));
    assert_eq!(api.traffic().connections(), 2);

    fake.cut();
    for watch in watches {
        let lost = timeout(SOON, watch.unwrap().next()).await.unwrap();
        assert!(matches!(lost, Err(ApiError::Unreachable(_))), "{lost:?}");
    }
    api.watch("/api/v1/pods", &query).await.unwrap();
    // Whether or not the end was noticed already: a question that may be asked twice is.
    api.get("/version").await.unwrap();
    assert_eq!(fake.connections(), 4);
    let requests = api.traffic().requests();
    assert_eq!(requests[&(Verb::Watch, Outcome::Ok)], 21);
    assert_eq!(requests[&(Verb::List, Outcome::Ok)], 20);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_noticed() {
    let fake = Fake::plain(|_| {
        let (send, answer) = stream();
        tokio::spawn(async move { send.closed().await });
        answer
    })
    .await;
    let api = impatient(fake.access());
    let mut watch = api.watch("/api/v1/pods", &[]).await.unwrap();
    fake.freeze();
    let end = timeout(SOON, watch.next()).await.unwrap();
    assert!(matches!(end, Err(ApiError::Unreachable(_))), "{end:?}");
    // And a new connection does not hang either.
    assert_eq!(api.get("/version").await, Err(ApiError::Silent));
}

#[tokio::test]
async fn many_who_wait_for_a_dead_server_wait_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let ca = Ca::new();
    let api = impatient(Access {
        server: format!("https://127.0.0.1:{port}").parse().unwrap(),
        roots: ca.roots(),
        server_name: None,
        credential: Credential::Anonymous,
        loopback: true,
        namespace: None,
    });
    let all = join_all((0..16).map(|_| api.get("/version"))).await;
    assert!(all.iter().all(|r| *r == Err(ApiError::Silent)), "{all:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!(
        api.traffic().requests()[&(Verb::Get, Outcome::Unreachable)],
        16
    );
    server.abort();
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_not_followed() {
    let fake = Fake::plain(|_| answer(200, "{}")).await;
    for host in ["localhost", "127.1", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let api = api(Access {
            server: format!("http://{host}:{}", fake.port).parse().unwrap(),
            loopback: false,
            ..fake.access()
        });
        let error = api.get("/version").await.unwrap_err().to_string();
        assert!(error.contains("loopback"), "{host}: {error}");
    }
    assert_eq!(fake.connections(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_not_read_to_its_end() {
    // Made before anybody waits for it.
    let large = Bytes::from(vec![b' '; 100_000_000]);
    let fake = Fake::plain(move |asked| match asked.uri.path() {
        // As announced.
        "/announced" => answer(200, large.clone()),
        // And without an end.
        _ => {
            let (send, answer) = stream();
            tokio::spawn(async move { while send.send(vec![b'x'; 64].into()).await.is_ok() {} });
            answer
        }
    })
    .await;
    let api = impatient(fake.access());
    let too_large = |limit| ApiError::TooLarge { limit };
    assert_eq!(api.get("/announced").await, Err(too_large(1_000)));
    assert_eq!(
        api.list("/endless", &[]).await.map(Whole::into_bytes),
        Err(too_large(1_000))
    );
    let mut watch = api.watch("/endless", &[]).await.unwrap();
    assert_eq!(watch.next().await, Err(too_large(100)));
    assert!(api.traffic().bytes() < 1_000_000);
    assert_eq!(
        api.traffic().requests()[&(Verb::List, Outcome::Unusable)],
        1
    );
}

/// A hostile server answers each of twenty questions with as much as it may.
#[tokio::test]
async fn a_large_answer_waits_until_the_one_before_is_gone() {
    const BYTES: usize = 3_000_000;
    let fake = Fake::plain(|asked| match asked.uri.path() {
        "/small" => answer(200, "{}"),
        _ => answer(200, vec![b' '; BYTES]),
    })
    .await;
    let api = api(fake.access());
    let first = api.list("/large", &[]).await.unwrap();
    let read = || usize::try_from(api.traffic().bytes()).unwrap();
    let second = {
        let api = api.clone();
        tokio::spawn(async move { api.list("/large", &[]).await.unwrap().len() })
    };
    timeout(SOON, async {
        while read() <= BYTES + (1 << 20) {
            api.get("/small").await.unwrap();
        }
    })
    .await
    .unwrap();
    // Small ones go on, and it has stopped where it became large.
    for _ in 0..20 {
        api.get("/small").await.unwrap();
    }
    assert!(read() < BYTES + (2 << 20), "{}", read());
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(timeout(SOON, second).await.unwrap().unwrap(), BYTES);
}

#[tokio::test]
async fn an_answer_that_drips_is_given_up() {
    let fake = Fake::plain(|_| {
        let (send, answer) = stream();
        tokio::spawn(async move {
            let _ = send.send("{".into()).await;
            send.closed().await;
        });
        answer
    })
    .await;
    let api = impatient(fake.access());
    let dripping = timeout(SOON, api.list("/api/v1/pods", &[])).await.unwrap();
    assert_eq!(dripping.map(Whole::into_bytes), Err(ApiError::Silent));
}

#[tokio::test]
async fn events_are_lines_however_they_are_cut() {
    let fake = Fake::plain(|asked| {
        let (send, answer) = stream();
        let parts: &[&'static str] = match asked.uri.path() {
            "/whole" => &[
                "{\"a\":",
                "1}\n{\"b\"",
                ":2}\n\n",
                "  \n{\"c\":3}\n{\"d\":4}\n",
                " ",
            ],
            _ => &["{\"a\":1}\n", "{\"b\":"],
        };
        tokio::spawn(async move {
            for part in parts {
                let _ = send.send((*part).into()).await;
            }
        });
        answer
    })
    .await;
    let api = api(fake.access());
    let mut watch = api.watch("/whole", &[]).await.unwrap();
    for expected in ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}", "{\"d\":4}"] {
        assert_eq!(text(watch.next().await.unwrap()).as_deref(), Some(expected));
    }
    assert_eq!(watch.next().await, Ok(None));
    let mut watch = api.watch("/cut", &[]).await.unwrap();
    assert!(watch.next().await.unwrap().is_some());
    assert!(matches!(watch.next().await, Err(ApiError::Malformed(_))));
}

#[tokio::test]
async fn a_watch_that_is_not_read_stops_no_other() {
    let fake = Fake::plain(|asked| {
        let (send, answer) = stream();
        let endless = asked.uri.path() == "/flood";
        tokio::spawn(async move {
            let line = Bytes::from([vec![b'x'; 60_000], vec![b'\n']].concat());
            while endless && send.send(line.clone()).await.is_ok() {}
            let _ = send.send("{}\n".into()).await;
            send.closed().await;
        });
        answer
    })
    .await;
    let api = api(fake.access());
    let _unread = api.watch("/flood", &[]).await.unwrap();
    let mut read = api.watch("/quiet", &[]).await.unwrap();
    let line = timeout(SOON, read.next()).await.unwrap();
    assert_eq!(text(line.unwrap()).as_deref(), Some("{}"));
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_dropped_watch_ends_at_the_server_too() {
    let (gone, mut seen) = tokio::sync::mpsc::channel(1);
    let fake = Fake::plain(move |_| {
        let ((send, answer), gone) = (stream(), gone.clone());
        tokio::spawn(async move {
            send.closed().await;
            let _ = gone.send(()).await;
        });
        answer
    })
    .await;
    let api = api(fake.access());
    drop(api.watch("/api/v1/pods", &[]).await.unwrap());
    timeout(SOON, seen.recv()).await.unwrap();
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Fake::plain(|_| answer(200, "{}")).await;
    let target = format!("http://127.0.0.1:{}/latest", elsewhere.port);
    let location = target.clone();
    let fake = Fake::plain(move |_| {
        let mut answer = answer(307, "");
        answer
            .headers_mut()
            .insert("location", location.parse().unwrap());
        answer
    })
    .await;
    let api = api(Access {
        credential: Credential::Token("secret".to_owned()),
        ..fake.access()
    });
    assert_eq!(api.get("/version").await, Err(ApiError::Redirect(target)));
    assert_eq!((elsewhere.connections(), fake.asked().len()), (0, 1));
}

#[tokio::test]
async fn a_refusal_says_when_to_ask_again() {
    let fake = Fake::plain(|asked| {
        let code = asked.uri.path().trim_start_matches('/').parse().unwrap();
        let mut answer: Answer = answer(code, r#"{"reason":"Because","message":"no"}"#);
        answer
            .headers_mut()
            .insert("retry-after", "9".parse().unwrap());
        answer
    })
    .await;
    let api = api(fake.access());
    let error = api.list("/429", &[]).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    assert!(api.watch("/410", &[]).await.unwrap_err().is_gone());
    assert!(api.get("/404").await.unwrap_err().is_not_found());
    assert!(api.get("/403").await.unwrap_err().is_forbidden());
    assert!(api.get("/409").await.unwrap_err().is_conflict());
    // Nothing to renew: asked once.
    assert!(api.get("/401").await.unwrap_err().is_unauthorized());
    assert_eq!(fake.asked().len(), 6);
    let requests = api.traffic().requests();
    assert_eq!(requests[&(Verb::Get, Outcome::Denied)], 2);
    assert_eq!(requests[&(Verb::List, Outcome::Throttled)], 1);
}

/// A credential is good if the server knows who it is, whatever it may do.
#[tokio::test]
async fn who_is_known_is_let_in_and_may_be_permitted_nothing() {
    for (review, version, good) in [
        (201, 200, true),
        (403, 401, true),
        (401, 200, false),
        (404, 200, true),
        (404, 403, true),
        (404, 401, false),
        (503, 200, false),
    ] {
        let fake = Fake::plain(move |asked| match asked.uri.path() {
            "/version" => answer(version, "{}"),
            _ => answer(review, "{}"),
        })
        .await;
        let found = api(fake.access()).is_let_in().await;
        assert_eq!(found.is_ok(), good, "{review} {version}: {found:?}");
    }
}

#[tokio::test]
async fn writes_say_who_writes_and_over_what() {
    let fake = Fake::plain(|_| answer(200, r#"{"kind":"Service"}"#)).await;
    let api = api(fake.access());
    let object = json!({ "kind": "Service", "metadata": { "name": "cart" } });
    let at = "/api/v1/namespaces/shop/services/cart";
    assert_eq!(
        api.apply(at, &object, true).await.unwrap()["kind"],
        "Service"
    );
    api.apply_status(at, &object, false).await.unwrap();
    api.create("/api/v1/namespaces/shop/services", &object)
        .await
        .unwrap();
    api.replace(at, &object).await.unwrap();
    api.delete(at, Some(&json!({ "uid": "u1" }))).await.unwrap();
    let asked = fake.asked();
    let lines: Vec<String> = asked
        .iter()
        .map(|a| format!("{} {}", a.method, path(a)))
        .collect();
    let expected = [
        format!("PATCH {at}?fieldManager=isthmus&force=true"),
        format!("PATCH {at}/status?fieldManager=isthmus&force=false"),
        "POST /api/v1/namespaces/shop/services?fieldManager=isthmus".to_owned(),
        format!("PUT {at}?fieldManager=isthmus"),
        format!("DELETE {at}"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        asked[0].header("content-type"),
        "application/apply-patch+yaml"
    );
    assert_eq!(asked[0].body, object.to_string());
    let options: Value = serde_json::from_slice(&asked[4].body).unwrap();
    assert_eq!(options["preconditions"]["uid"], "u1");
    // A name that leads elsewhere goes nowhere.
    let error = api.delete("/api/v1/namespaces/../secrets/x", None).await;
    assert!(matches!(error, Err(ApiError::Malformed(_))));
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn a_token_is_asked_for_with_its_audience_and_its_pod() {
    let fake = Fake::plain(|_| {
        let token = r#"{"status":{"token":"t0ken","expirationTimestamp":"2026-11-22T17:03:09Z"}}"#;
        answer(201, token)
    })
    .await;
    let api = api(fake.access());
    let pod = Some(("cart-1", "u-1"));
    let hour = Duration::from_secs(3600);
    let issued = api
        .token(("shop", "cart"), &["isthmus"], pod, hour)
        .await
        .unwrap();
    assert_eq!(issued.token, "t0ken");
    assert_eq!(
        Some(issued.expires),
        timestamp::parse("2026-11-22T17:03:09Z")
    );
    assert!(!format!("{issued:?}").contains("t0ken"));
    let asked = &fake.asked()[0];
    assert_eq!(
        asked.uri.path(),
        "/api/v1/namespaces/shop/serviceaccounts/cart/token"
    );
    let spec: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(spec["spec"]["audiences"], json!(["isthmus"]));
    assert_eq!(spec["spec"]["expirationSeconds"], 3600);
    assert_eq!(spec["spec"]["boundObjectRef"]["uid"], "u-1");
}
