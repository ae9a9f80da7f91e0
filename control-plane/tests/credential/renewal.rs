//! Is the credential of a cluster renewed before it ends, and only over the Secret that was read?

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_control_plane::credential::{Life, Place, Tended, tend};
use isthmus_control_plane::kubernetes::{Access, Allow, Api, Credential, Roots, kubeconfig};
use isthmus_test_clusters::kubeconfig::Credential as Given;
use isthmus_test_clusters::{Cluster, Programs, Settings};
use serde_json::{Value, json};

/// What a cluster needs of the mesh for this: an account that may renew its own token.
const ACCOUNT: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: isthmus-system }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: isthmus-control-plane, namespace: isthmus-system }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: isthmus-control-plane }
rules:
  - { apiGroups: [\"\"], resources: [serviceaccounts/token], resourceNames: [isthmus-control-plane], verbs: [create] }
  - { apiGroups: [\"\"], resources: [configmaps], resourceNames: [kube-root-ca.crt], verbs: [get] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: isthmus-control-plane }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: isthmus-control-plane }
subjects: [ { kind: ServiceAccount, name: isthmus-control-plane, namespace: isthmus-system } ]
";
const SECRET: &str = "/api/v1/namespaces/isthmus-system/secrets/cluster-west";

/// The token that the Secret has now.
async fn token(cluster: &Cluster) -> String {
    match way(cluster).await.credential {
        Credential::Token(token) => token,
        other => panic!("{other:?}"),
    }
}

/// How many roots the Secret has now.
async fn roots(cluster: &Cluster) -> usize {
    match way(cluster).await.roots {
        Roots::Given(roots) => roots.len(),
        other => panic!("{other:?}"),
    }
}

/// As a cluster's controller manager writes it: the roots of its API server.
async fn tells(cluster: &Cluster, roots: &str) {
    let told = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kube-root-ca.crt", "namespace": "isthmus-system" },
        "data": { "ca.crt": roots },
    });
    cluster.admin().apply(&told).await.unwrap();
}

async fn way(cluster: &Cluster) -> Access {
    let secret = cluster.admin().get(SECRET).await.unwrap();
    let text = STANDARD
        .decode(secret["data"]["kubeconfig"].as_str().unwrap())
        .unwrap();
    kubeconfig(&String::from_utf8(text).unwrap(), None, &allowed()).unwrap()
}

fn allowed() -> Allow {
    Allow {
        loopback: true,
        ..Allow::default()
    }
}

fn secret(kubeconfig: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "cluster-west", "namespace": "isthmus-system", "labels": { "a": "b" } },
        "data": { "kubeconfig": STANDARD.encode(kubeconfig) },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_when_half_of_it_is_over_and_the_new_one_is_taken() {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(error) => return isthmus_test_clusters::skipped(&error),
    };
    // Home and joined in one: the Secret lies where the token is from.
    let cluster = Cluster::start(&programs, "west", &Settings::default())
        .await
        .unwrap();
    cluster.admin().apply_text(ACCOUNT).await.unwrap();
    let first = cluster
        .token("isthmus-system", "isthmus-control-plane", None, None)
        .await
        .unwrap();
    let text = cluster.kubeconfig(&Given::Token(first.clone()));
    cluster.admin().apply(&secret(&text)).await.unwrap();
    let home = kubeconfig(&cluster.admin_kubeconfig().unwrap(), None, &allowed()).unwrap();
    let home = Api::new(home).unwrap();
    let place = Place {
        namespace: "isthmus-system".to_owned(),
        name: "cluster-west".to_owned(),
        key: "kubeconfig".to_owned(),
    };
    let life = Life::of(&first).unwrap();
    assert_eq!(life.account, "isthmus-control-plane");

    let early = tend(&home, &place, &allowed(), life.issued).await.unwrap();
    assert_eq!(early, Tended::Until(life.due()));
    assert_eq!(token(&cluster).await, first);

    let late = tend(&home, &place, &allowed(), life.due()).await.unwrap();
    let Tended::Renewed(expires) = late else {
        panic!("{late:?}")
    };
    assert!(expires > SystemTime::now() + Duration::from_secs(60));
    let second = token(&cluster).await;
    assert_ne!(second, first);
    let kept = cluster.admin().get(SECRET).await.unwrap();
    assert_eq!(
        kept["metadata"]["labels"]["a"], "b",
        "what else the Secret has stays"
    );

    // Its CA is on its way out: the old and the new one are told.
    let pem = |der: &[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let Roots::Given(old) = way(&cluster).await.roots else {
        panic!("no roots")
    };
    let other = rcgen::generate_simple_self_signed(["kubernetes".to_owned()]).unwrap();
    let new = pem(other.cert.der());
    // Of somebody else alone: the API server is not verified by it.
    tells(&cluster, &new).await;
    let due = Life::of(&second).unwrap().due();
    tend(&home, &place, &allowed(), due).await.unwrap();
    assert_eq!(roots(&cluster).await, 1);
    tells(&cluster, &format!("{}{new}", pem(&old[0]))).await;
    let due = Life::of(&token(&cluster).await).unwrap().due();
    tend(&home, &place, &allowed(), due).await.unwrap();
    assert_eq!(roots(&cluster).await, 2);
    let second = token(&cluster).await;

    // The account is deleted: what there is stays, and it is said.
    cluster
        .admin()
        .delete_path("/api/v1/namespaces/isthmus-system/serviceaccounts/isthmus-control-plane")
        .await
        .unwrap();
    let due = Life::of(&second).unwrap().due();
    let error = tend(&home, &place, &allowed(), due).await.unwrap_err();
    assert!(error.to_string().contains("asking the cluster"), "{error}");
    assert_eq!(token(&cluster).await, second);
    cluster.end().await.unwrap();
}
