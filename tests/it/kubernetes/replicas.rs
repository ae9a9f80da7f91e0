//! Does anybody who calls notice that one of two control planes is killed?

use isthmus_control_plane::admin::{ACCOUNT as ADMIN, AUDIENCE};
use isthmus_proto::admin::Token;
use isthmus_tests::servers::programs;
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{Mesh, admin};

use super::NOTICED;
use crate::load::Load;

/// Short, so that certificates are renewed while only one replica is there: after 15 s.
const CERTIFICATE_SECONDS: u64 = 50;
const PROXIES: [&str; 6] = [
    "east/web-1",
    "east/cart-1",
    "east/cart-2",
    "east/gateway-1",
    "west/books-1",
    "west/gateway-1",
];

fn audit(name: &str) -> String {
    format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ action: Audit, rules: [ {{ from: [ {{ clusters: [east] }} ] }} ] }}\n"
    )
}

/// Waits until every sidecar of east has a policy.
async fn until_policy(mesh: &Mesh, name: &str) {
    for proxy in ["east/web-1", "east/cart-1", "east/cart-2"] {
        until_within(NOTICED, &format!("{proxy} has {name}"), async || {
            let config = mesh.proxy(proxy).json("/config").await;
            let policies = config["policies"].to_string();
            check(policies.contains(name), policies)
        })
        .await;
    }
}

/// Waits until every proxy is on the replica that is left.
async fn until_all_are_on(mesh: &Mesh, replica: usize) {
    until_within(NOTICED, "the proxies have moved", async || {
        let proxies = mesh.replicas()[replica].json("/proxies").await;
        let text = proxies.to_string();
        let missing = PROXIES.iter().find(|name| {
            !text.contains(&name.replacen('/', "/shop/", 1))
                && !text.contains(&name.replacen('/', "/isthmus-system/", 1))
        });
        check(missing.is_none(), format!("{missing:?} of {text}"))
    })
    .await;
}

/// The certificate of a proxy, and what signed it.
fn chain(mesh: &Mesh, proxy: &str) -> (String, String) {
    let file = mesh.proxy(proxy).state_dir().join("identity.pem");
    let text = std::fs::read_to_string(file).unwrap();
    let (leaf, issuer) = text.split_once("-----END CERTIFICATE-----").unwrap();
    (leaf.to_owned(), issuer.to_owned())
}

#[tokio::test]
async fn one_of_two_control_planes_is_killed_and_nobody_who_calls_notices() {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 2))
        .cluster("west", |c| c.service("books", 1))
        .certificate_seconds(CERTIFICATE_SECONDS)
        .two_replicas(programs);
    let mut mesh = Box::pin(mesh.start()).await;
    // Both have the same roots, and both serve, although only one of them leads.
    let roots = mesh
        .replicas()
        .map(|replica| std::fs::read_to_string(replica.roots_file()).unwrap());
    assert_eq!(roots[0], roots[1]);
    for replica in mesh.replicas() {
        let proxies = replica.json("/proxies").await;
        let served = proxies.as_array().map_or(0, Vec::len);
        assert!((1..PROXIES.len()).contains(&served), "{proxies}");
    }
    let web = mesh.client("east/web");
    let load = Load::start(vec![web.http("cart"), web.http("books")]);
    load.more(50).await;

    for killed in [0, 1] {
        let before = chain(&mesh, "west/books-1");
        mesh.replica_mut(killed).kill();
        load.more(50).await;
        until_all_are_on(&mesh, 1 - killed).await;
        let policy = format!("round-{killed}");
        mesh.server("east").apply(&audit(&policy)).await;
        until_policy(&mesh, &policy).await;
        until_within(NOTICED, "a certificate of the other replica", async || {
            let now = chain(&mesh, "west/books-1");
            check(now.0 != before.0, "the old one is there").map(|()| {
                assert_eq!(now.1, before.1, "the same authority signs");
            })
        })
        .await;
        load.more(50).await;
        mesh.replica_mut(killed).start().await;
    }
    load.stop_without_failure().await;
}

/// Whoever starts without the home cluster makes no keys of its own.
#[tokio::test]
async fn a_replica_that_does_not_reach_its_keys_serves_nobody_and_says_why() {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .two_replicas(programs);
    let mut mesh = Box::pin(mesh.start()).await;
    let roots = std::fs::read_to_string(mesh.control().roots_file()).unwrap();
    mesh.replica_mut(1).kill();
    mesh.server("east").link.set(isthmus_tests::Fault::Stall);
    mesh.replica_mut(1).begin();
    let other = mesh.replicas()[1];
    until_within(NOTICED, "it says what it waits for", async || {
        let ready = admin::get(other.admin(), "/ready").await;
        let (status, text) = ready.map_err(|error| error.to_string())?;
        let secret = "Secret isthmus-system/isthmus-issuer-1.control";
        check(status == 503 && text.contains(secret), text)
    })
    .await;
    mesh.server("east").link.set(isthmus_tests::Fault::Reset);
    mesh.server("east").link.set(isthmus_tests::Fault::None);
    until_within(NOTICED, "it has its keys", async || {
        let ready = admin::get(other.admin(), "/ready").await;
        let ready = ready.map_err(|error| error.to_string())?;
        check(ready.0 == 200, ready.1)
    })
    .await;
    assert_eq!(std::fs::read_to_string(other.roots_file()).unwrap(), roots);
}

/// S10: an admin is whoever may make a token of the account for admins, for this audience.
#[tokio::test]
async fn the_admin_pages_open_to_whom_the_home_cluster_lets_make_a_token() {
    let Some(programs) = programs() else { return };
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .two_replicas(programs);
    let mesh = Box::pin(mesh.start()).await;
    let server = mesh.server("east");
    let account = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\n\
             metadata: {{ name: {name}, namespace: isthmus-system }}\n"
        )
    };
    for name in [ADMIN, "somebody"] {
        server.apply(&account(name)).await;
    }
    let made = async |name: &str, audience: &str| {
        let token = server
            .cluster
            .token("isthmus-system", name, Some(audience), None);
        Token::read(token.await.unwrap().as_bytes()).unwrap()
    };
    let own = admin::token(mesh.control().state_dir()).unwrap();
    let right = made(ADMIN, AUDIENCE).await;
    for replica in mesh.replicas() {
        let asked = async |token: Option<&Token>| {
            let asked = admin::ask(replica.admin(), "GET", "/world", token).await;
            asked.unwrap()
        };
        for _ in 0..2 {
            assert_eq!(asked(Some(&right)).await.0, 200);
        }
        for (token, why) in [
            (
                made("somebody", AUDIENCE).await,
                "is that of isthmus-system:somebody",
            ),
            (made(ADMIN, "isthmus").await, "does not accept the token"),
            (Token::of([7; 32]), "does not accept the token"),
        ] {
            let (status, text) = asked(Some(&token)).await;
            assert!(status == 401 && text.contains(why), "{status} {text}");
        }
        assert_eq!(asked(None).await.0, 401);
    }
    // That of the state folder is its own replica's.
    let [first, second] = mesh.replicas();
    for (replica, status) in [(first, 200), (second, 401)] {
        let asked = admin::ask(replica.admin(), "GET", "/world", Some(&own)).await;
        assert_eq!(asked.unwrap().0, status);
    }
}
