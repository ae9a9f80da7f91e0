//! Is a key made once, by one, and never another one taken for it?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::config::Home;
use crate::kubernetes::client::fake::{Answer, Asked, Fake, answer};
use crate::kubernetes::{Allow, Api, Leadership};

const SECRETS: &str = "/api/v1/namespaces/isthmus-system/secrets";

/// What an API server has under this path.
type Objects = Arc<Mutex<BTreeMap<String, Value>>>;

fn east() -> TrustDomain {
    "east.mesh.internal".parse().unwrap()
}

/// Keeps Secrets as an API server does: 409 for what is there, versions that are compared.
fn serve(objects: &Mutex<BTreeMap<String, Value>>, asked: &Asked) -> Answer {
    let mut objects = objects.lock().unwrap();
    let path = asked.uri.path().to_owned();
    let body = || serde_json::from_slice::<Value>(&asked.body).unwrap();
    let status = |code: u16| answer(code, json!({ "kind": "Status" }).to_string());
    match asked.method {
        Method::GET => match objects.get(&path) {
            Some(object) => answer(200, object.to_string()),
            None => status(404),
        },
        Method::POST => {
            let mut object = body();
            let at = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
            if objects.contains_key(&at) {
                return status(409);
            }
            object["metadata"]["resourceVersion"] = "1".into();
            objects.insert(at, object.clone());
            answer(201, object.to_string())
        }
        Method::PUT => {
            let mut object = body();
            let Some(old) = objects.get(&path) else {
                return status(404);
            };
            let version = old["metadata"]["resourceVersion"].clone();
            if object["metadata"]["resourceVersion"] != version {
                return status(409);
            }
            let next: u64 = version.as_str().unwrap().parse().unwrap();
            object["metadata"]["resourceVersion"] = (next + 1).to_string().into();
            objects.insert(path, object.clone());
            answer(200, object.to_string())
        }
        _ => status(405),
    }
}

async fn server() -> (Fake, Objects) {
    let objects = Objects::default();
    let served = Arc::clone(&objects);
    let fake = Fake::plain(move |asked| serve(&served, asked)).await;
    (fake, objects)
}

fn replica(server: &Fake, leads: bool) -> KeyStore {
    let home = Home {
        providers: crate::config::Providers::new(),
        cluster: "east".parse().unwrap(),
        namespace: None,
        allow: Allow::default(),
        quota: isthmus_control_plane_core::quota::Quota::default(),
    };
    let api = Api::new(server.access()).unwrap();
    let (_, apis) = watch::channel(BTreeMap::from([(home.cluster.clone(), api)]));
    let secrets = Secrets::new(&home, None, apis, Leadership::fixed(leads));
    KeyStore::Secrets(secrets)
}

fn made(text: &str) -> impl FnOnce() -> Result<Vec<u8>, KeyError> {
    let bytes = text.as_bytes().to_vec();
    move || Ok(bytes)
}

/// Both makers keep the same promises.
async fn contract(store: &KeyStore, other: &KeyStore) {
    let root = Item::Root(east(), 1);
    assert_eq!(store.read(&root).await.unwrap(), None);
    assert!(store.create(&root, b"one").await.unwrap());
    assert!(!other.create(&root, b"two").await.unwrap());
    assert_eq!(other.read(&root).await.unwrap().unwrap(), b"one");
    let theirs = other.read_or_create(&root, made("mine")).await.unwrap();
    assert_eq!(theirs, b"one");
    let version = store.look(&root).await.unwrap().unwrap().version;
    let never = store.replace(&root, b"two", &version).await.unwrap_err();
    assert!(never.to_string().contains("never replaced"), "{never}");

    let rotation = Item::Rotation(east());
    assert!(
        !store.replace(&rotation, b"x", "1").await.unwrap(),
        "nothing is there"
    );
    assert!(store.create(&rotation, b"first").await.unwrap());
    let seen = store.look(&rotation).await.unwrap().unwrap();
    assert!(
        other
            .replace(&rotation, b"second", &seen.version)
            .await
            .unwrap()
    );
    assert!(
        !store
            .replace(&rotation, b"third", &seen.version)
            .await
            .unwrap()
    );
    let kept = store.look(&rotation).await.unwrap().unwrap();
    assert_eq!(kept.bytes, b"second");
    assert!(
        store
            .replace(&rotation, b"third", &kept.version)
            .await
            .unwrap()
    );

    let issuer = |number| Item::Issuer(east(), number);
    for number in [1, 2, 4] {
        store.create(&issuer(number), &[4]).await.unwrap();
    }
    let all = store.list(1..=10, issuer).await.unwrap();
    let numbers: Vec<u32> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2], "a series ends where one is missing");
}

#[tokio::test]
async fn a_key_in_a_file_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let store = KeyStore::Files(state);
    contract(&store, &store.clone()).await;
}

#[tokio::test]
async fn a_key_in_a_secret_is_never_overwritten() {
    let (server, objects) = server().await;
    contract(&replica(&server, true), &replica(&server, true)).await;
    let objects = objects.lock().unwrap();
    let root = &objects[&format!("{SECRETS}/isthmus-root-1.east.mesh.internal")];
    assert_eq!(
        root["immutable"], true,
        "not even we can write another key into it"
    );
    assert_eq!(
        root["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "isthmus"
    );
    let rotation = &objects[&format!("{SECRETS}/isthmus-rotation.east.mesh.internal")];
    assert_eq!(rotation["immutable"], Value::Null);
}

#[tokio::test]
async fn a_replica_that_does_not_lead_waits_for_keys_and_makes_none() {
    let (server, objects) = server().await;
    let (leader, other) = (replica(&server, true), replica(&server, false));
    let item = Item::Issuer(east(), 1);
    assert!(leader.makes() && !other.makes());
    let awaited = other.read_or_create(&item, made("mine")).await.unwrap_err();
    assert_eq!(
        awaited.to_string(),
        "the Secret isthmus-system/isthmus-issuer-1.east.mesh.internal is not there yet: \
         the replica that leads makes it"
    );
    assert!(other.create(&item, b"mine").await.is_err());
    assert!(objects.lock().unwrap().is_empty());
    leader.read_or_create(&item, made("theirs")).await.unwrap();
    let found = other.read_or_create(&item, made("mine")).await.unwrap();
    assert_eq!(found, b"theirs");
}

#[tokio::test]
async fn a_foreign_or_corrupt_secret_is_named_and_left_alone() {
    let (server, objects) = server().await;
    let store = replica(&server, true);
    let item = Item::Handle("east".parse().unwrap(), 1);
    store.create(&item, &[7; 32]).await.unwrap();
    let path = format!("{SECRETS}/isthmus-handle-1.east");
    let good = objects.lock().unwrap()[&path].clone();
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 5] = [
        ("is not of the type isthmus.dev/handle", |s| {
            s["type"] = "Opaque".into()
        }),
        ("so it is not ours", |s| {
            s["metadata"]["labels"] = json!({ "a": "b" })
        }),
        ("has no key handle.key", |s| {
            s["data"] = json!({ "other": "aGk=" })
        }),
        ("handle.key is not base64", |s| {
            s["data"]["handle.key"] = "hunter2".into()
        }),
        ("is no Secret", |s| *s = json!([])),
    ];
    for (says, change) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        objects.lock().unwrap().insert(path.clone(), bad.clone());
        let error = store.read_or_create(&item, made("mine")).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("Secret isthmus-system/isthmus-handle-1.east"),
            "{text}"
        );
        assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
        assert_eq!(objects.lock().unwrap()[&path], bad, "nothing was written");
    }
}

#[tokio::test]
async fn of_two_that_make_a_key_at_once_one_wins_and_both_have_it() {
    let (server, objects) = server().await;
    let store = replica(&server, true);
    let root = |number| Item::Root(east(), number);
    let at = |number| format!("{SECRETS}/isthmus-root-{number}.east.mesh.internal");
    store.create(&root(2), b"theirs").await.unwrap();
    let item = root(1);
    let mine = store.read_or_create(&item, || {
        // Somebody else comes first, between our look and our write.
        let mut objects = objects.lock().unwrap();
        let theirs = objects[&at(2)].clone();
        objects.insert(at(1), theirs);
        Ok::<_, KeyError>(b"mine".to_vec())
    });
    assert_eq!(mine.await.unwrap(), b"theirs");
}
