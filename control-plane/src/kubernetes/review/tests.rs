//! Whose tokens become claims?

use isthmus_control_plane_core::world::World;
use proptest::prelude::*;

use super::*;
use crate::kubernetes::client::fake::{Fake, answer};
use crate::state::StateDir;
use crate::token::{Claims, mint};

fn jwt(exp: u64) -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!(
        "{}.{}.sig",
        part(json!({ "alg": "RS256" })),
        part(json!({ "exp": exp }))
    )
}

fn good() -> Value {
    json!({ "kind": "TokenReview", "status": {
        "authenticated": true, "audiences": ["isthmus"],
        "user": {
            "username": "system:serviceaccount:shop:cart", "uid": "u",
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["cart-1"],
                "authentication.kubernetes.io/pod-uid": ["p"],
                "authentication.kubernetes.io/node-name": ["n"],
                "authentication.kubernetes.io/node-uid": ["m"],
            },
        },
    } })
}

fn east() -> ClusterId {
    "east".parse().unwrap()
}

fn mesh(clusters: &[&str]) -> Arc<Hub> {
    let mut world = World::new("mesh.internal").unwrap();
    for cluster in clusters {
        world.add_cluster(&cluster.parse().unwrap()).unwrap();
    }
    Arc::new(Hub::new(world))
}

#[test]
fn what_the_cluster_says_becomes_claims() {
    let claims = judge(&east(), &jwt(4_000_000_000), good()).unwrap();
    assert_eq!(
        (claims.namespace.as_str(), claims.service_account.as_str()),
        ("shop", "cart")
    );
    assert_eq!(claims.pod.as_deref(), Some("cart-1"));
    let bound = [claims.pod_uid, claims.node, claims.node_uid];
    assert_eq!(bound.map(Option::unwrap), ["p", "n", "m"]);
    assert_eq!(claims.cluster, east());
    assert_eq!(
        claims.expires,
        UNIX_EPOCH + Duration::from_secs(4_000_000_000)
    );
}

#[test]
fn whatever_is_missing_in_it_is_a_refusal() {
    type Change = fn(&mut Value);
    const EXTRA: &str = "/status/user/extra/authentication.kubernetes.io~1pod-name";
    let cases: [(&str, Change); 12] = [
        ("does not accept", |r| {
            r["status"]["authenticated"] = false.into()
        }),
        ("does not accept", |r| r["status"] = json!({})),
        ("does not accept", |r| {
            drop(r.as_object_mut().unwrap().remove("status"))
        }),
        ("audience", |r| {
            r["status"]["audiences"] = json!(["https://kubernetes.default.svc"])
        }),
        ("audience", |r| r["status"]["audiences"] = json!([])),
        ("subject", |r| {
            r["status"]["user"]["username"] = "admin".into()
        }),
        ("subject", |r| {
            r["status"]["user"]["username"] = "system:serviceaccount:cart".into()
        }),
        ("subject", |r| {
            r["status"]["user"]["username"] = "system:serviceaccount:Shop:cart".into();
        }),
        ("subject", |r| {
            r["status"]["user"]["username"] = "system:serviceaccount:shop:cart:x".into();
        }),
        ("subject", |r| *r.pointer_mut(EXTRA).unwrap() = json!([])),
        ("subject", |r| {
            *r.pointer_mut(EXTRA).unwrap() = json!(["cart-1", "cart-2"])
        }),
        ("subject", |r| {
            *r.pointer_mut(EXTRA).unwrap() = json!(["../cart"])
        }),
    ];
    for (expected, change) in cases {
        let mut review = good();
        change(&mut review);
        let refused = judge(&east(), &jwt(4_000_000_000), review).unwrap_err();
        assert!(
            refused.to_string().contains(expected),
            "{refused} lacks {expected}"
        );
    }
    for token in ["", "a.b.c", "opaque", "a.e30.c"] {
        let refused = judge(&east(), token, good()).unwrap_err();
        assert_eq!(refused, Refused::Malformed("it never ends"));
    }
}

#[tokio::test]
async fn each_cluster_is_asked_about_its_own_tokens_only() {
    let asked_east = Fake::plain(|_| answer(201, good().to_string())).await;
    let asked_west = Fake::plain(|asked| match asked.method.as_str() {
        "POST" => answer(403, r#"{"reason":"Forbidden","message":"no tokenreviews"}"#),
        _ => answer(404, ""),
    })
    .await;
    let api = |fake: &Fake| Api::new(fake.access()).unwrap();
    let west = "west".parse().unwrap();
    let apis = BTreeMap::from([(east(), api(&asked_east)), (west, api(&asked_west))]);
    let (_apis, apis) = watch::channel(apis);
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let names: Vec<ClusterId> = ["east", "home"].map(|name| name.parse().unwrap()).into();
    let keys = KeyReviewer::open(&state, &names).unwrap();
    let reviewer = Reviewer::new(keys, apis, mesh(&["east", "west", "gone", "home"]));

    let token = jwt(4_000_000_000);
    reviewer.review("east", &token).await.unwrap();
    let body: Value = serde_json::from_slice(&asked_east.asked()[0].body).unwrap();
    assert_eq!(
        body["spec"],
        json!({ "token": token, "audiences": ["isthmus"] })
    );
    assert!(asked_west.asked().is_empty());
    // Not allowed to ask, away, or not of the mesh: three different things.
    let west = reviewer.review("west", &token).await.unwrap_err();
    assert!(
        matches!(&west, Refused::Unavailable(why) if why.contains("no tokenreviews")),
        "{west}"
    );
    let gone = reviewer.review("gone", &token).await.unwrap_err();
    assert!(matches!(gone, Refused::Unavailable(_)), "{gone}");
    let nowhere = reviewer.review("nowhere", &token).await.unwrap_err();
    assert!(matches!(nowhere, Refused::UnknownCluster(_)), "{nowhere}");
    assert_eq!(asked_east.asked().len(), 1);

    // A folder's own tokens are known by its key; a key never speaks for a cluster with a server.
    let of = |cluster: &str| {
        let name = format!("{cluster}/shop/cart-1").parse().unwrap();
        let end = SystemTime::now() + Duration::from_secs(600);
        mint(folder.path(), &Claims::new(&name, "cart", end).unwrap()).unwrap()
    };
    assert!(reviewer.review("home", &of("home")).await.is_ok());
    let large = "x".repeat(TOKEN_BYTES_MAX + 1);
    assert!(reviewer.review("east", &large).await.is_err());
}

#[tokio::test]
async fn a_key_never_speaks_for_a_cluster_that_has_a_server() {
    let fake = Fake::plain(|_| answer(201, r#"{"status":{"error":"invalid bearer token"}}"#)).await;
    let (_apis, apis) =
        watch::channel(BTreeMap::from([(east(), Api::new(fake.access()).unwrap())]));
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let keys = KeyReviewer::open(&state, [&east()]).unwrap();
    let reviewer = Reviewer::new(keys, apis, mesh(&["east"]));
    let end = SystemTime::now() + Duration::from_secs(600);
    let claims = Claims::new(&"east/shop/cart-1".parse().unwrap(), "cart", end).unwrap();
    let token = mint(folder.path(), &claims).unwrap();
    let refused = reviewer.review("east", &token).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cluster east does not accept the token: invalid bearer token"
    );
}

proptest! {
    #[test]
    fn only_one_shape_of_answer_gives_an_identity(
        username in "(system:serviceaccount:)?[a-zA-Z0-9:./-]{0,30}",
        pods in prop::collection::vec("[a-z0-9A-Z./-]{0,12}", 0..3),
    ) {
        let mut review = good();
        review["status"]["user"]["username"] = username.clone().into();
        review["status"]["user"]["extra"][POD] = json!(pods);
        if let Ok(claims) = judge(&east(), &jwt(4_000_000_000), review) {
            let name = format!("{ACCOUNT}{}:{}", claims.namespace, claims.service_account);
            prop_assert_eq!(name, username);
            prop_assert_eq!(vec![claims.pod.unwrap()], pods);
        }
    }
}
