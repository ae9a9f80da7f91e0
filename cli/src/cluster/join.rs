//! How does a cluster come into the mesh?
//!
//! First everything in the cluster that joins, then the credential is tried, then the home cluster is
//! told: whatever stops half-way can be done again.

use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_control_plane::kubernetes::{Access, Api, Credential, Roots};
use isthmus_control_plane::manifest::yaml;
use serde_json::{Value, json};

use super::member::Member;
use super::properties::Stated;
use super::{CLUSTERS, CREDENTIAL_KEY, UID, home, joined_uid, own_uid, secret};
use crate::args::{Format, JoinOptions};
use crate::install::objects::SYSTEM;
use crate::install::permissions::ACCOUNT;
use crate::install::{self, Done};
use crate::kubernetes;

/// Characters in a line of PEM (RFC 7468 §2).
const PEM_COLUMNS: usize = 64;

/// Lets the control plane in, and tells it.
///
/// # Errors
/// Something is refused; what was done before it may be done again.
pub(super) async fn run(options: &JoinOptions, format: Format) -> anyhow::Result<()> {
    let reach = &options.reach;
    let text = kubernetes::read(reach.kubeconfig.as_deref())?;
    let called = options.name.as_deref().unwrap_or("that joins");
    let mut access = kubernetes::access(&text, reach.context.as_deref())
        .with_context(|| format!("the cluster {called}"))?;
    let joining = Api::new(access.clone())?;
    let home = home(
        reach,
        options.home_context.as_deref(),
        options.home_kubeconfig.as_deref(),
    )?;
    let stated = Stated::of(&joining).await;
    let stated = stated.with_context(|| format!("the cluster {called}"))?;
    let name = stated.name(options.name.as_deref())?;
    let member = Box::pin(Member::chosen((&name, options), &home, &access)).await?;
    let name = &member.name;
    let set = Stated::of(&home).await.context("the home cluster")?;
    let contradiction = stated.agreed("join", name.as_str(), &set, member.is_known)?;
    let uid = identity(&joining)
        .await
        .with_context(|| format!("the cluster {name}"))?;
    unclaimed(&home, name.as_str(), &uid).await?;

    let mut done = Done::new(format);
    member.choice.tell(&mut done);
    if let Some(why) = contradiction {
        done.step("warning", &why);
    }
    install::prepare(&joining, false, options.force, &mut done).await?;
    let issued = joining
        .token((SYSTEM, ACCOUNT), &[], None, member.token_life)
        .await
        .with_context(|| format!("a token for {SYSTEM}/{ACCOUNT} in {name}"))?;
    done.step("issued", &format!("a token for {ACCOUNT} in {name}"));
    access.server = member.server.parse().context("--server is no URL")?;
    access.credential = Credential::Token(issued.token.clone());
    tried(&access).await.with_context(|| {
        format!(
            "with the new token at {}; --server says where the control plane finds it",
            access.server
        )
    })?;
    done.step("tried", &format!("the token at {}", access.server));

    let kubeconfig = kubeconfig(name.as_str(), &access, &issued.token)?;
    let expires = issued
        .expires
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let credential = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": secret(name.as_str()), "namespace": SYSTEM,
            "labels": { "app.kubernetes.io/part-of": "isthmus", "isthmus.dev/cluster": name.as_str() },
            // The cluster that it belongs to, also after its MeshCluster is gone: see `leave`.
            "annotations": { "isthmus.dev/expires": expires.to_string(), UID: uid },
        },
        "data": { CREDENTIAL_KEY: STANDARD.encode(yaml::text(&kubeconfig)) },
    });
    install::apply(&home, &credential, true, &mut done).await?;
    let cluster = member.declared(&uid);
    install::apply(&home, &cluster, true, &mut done).await?;
    done.end();
    Ok(())
}

/// What tells a cluster from all others.
async fn identity(api: &Api) -> anyhow::Result<String> {
    let uid = own_uid(api).await?;
    let uid = uid.context("it has no namespace kube-system")?;
    ensure!(!uid.is_empty(), "its namespace kube-system has no UID");
    Ok(uid)
}

/// Is the mesh there, the name free, and the cluster not in the mesh by another name?
async fn unclaimed(home: &Api, name: &str, uid: &str) -> anyhow::Result<()> {
    let known = kubernetes::list(home, CLUSTERS)
        .await
        .context("the home cluster")?;
    let Some(known) = known else {
        bail!("the home cluster has no MeshClusters: run `isthmus install --apply` there first");
    };
    for cluster in known {
        let other = kubernetes::text(&cluster, "/metadata/name");
        let said = joined_uid(&cluster);
        match (other == name, said) {
            (true, Some(said)) if said != uid => bail!(
                "{name} is another cluster's name, and so its trust domain: choose another one, or \
                 `isthmus cluster leave {name}` first"
            ),
            (true, None) if cluster["spec"].get("credential").is_none() => bail!(
                "{name} is the name of the cluster that the control plane runs in: choose another one"
            ),
            (false, Some(said)) if said == uid => {
                bail!("this cluster is in the mesh already, as {other}: its pods would count twice")
            }
            _ => {}
        }
    }
    Ok(())
}

/// Does the credential open the door that the control plane will use?
async fn tried(access: &Access) -> anyhow::Result<()> {
    let api = Api::new(access.clone())?;
    let pods = api.list("/api/v1/pods", &[("limit", "1")]).await;
    pods.map(drop).context("listing pods")
}

/// A kubeconfig with the token and nothing that the control plane would not take.
fn kubeconfig(name: &str, access: &Access, token: &str) -> anyhow::Result<Value> {
    let mut cluster = json!({ "server": access.server.to_string() });
    match &access.roots {
        Roots::Given(roots) => {
            let pem: String = roots.iter().map(|root| pem(root)).collect();
            cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
        }
        Roots::File(path) => {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
        }
        // The control plane takes it only if its operator allowed that.
        Roots::Unverified => cluster["insecure-skip-tls-verify"] = true.into(),
    }
    if let Some(server_name) = &access.server_name {
        cluster["tls-server-name"] = server_name.as_str().into();
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": name, "user": { "token": token } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
    }))
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(PEM_COLUMNS) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_control_plane::kubernetes::Allow;

    #[test]
    fn the_kubeconfig_that_is_written_is_one_that_the_control_plane_takes() {
        let access = Access {
            server: "https://203.0.113.9:6443".parse().unwrap(),
            roots: Roots::Given(vec![vec![0x30; 100].into()]),
            server_name: Some("api.west.example.com".to_owned()),
            credential: Credential::Anonymous,
            loopback: false,
            namespace: None,
        };
        let text = yaml::text(&kubeconfig("west", &access, "a.b.c").unwrap());
        let read =
            isthmus_control_plane::kubernetes::kubeconfig(&text, None, &Allow::default()).unwrap();
        assert_eq!(read.server, access.server);
        assert_eq!(read.server_name, access.server_name);
        assert!(matches!(read.credential, Credential::Token(token) if token == "a.b.c"));
        assert!(matches!(read.roots, Roots::Given(roots) if roots[0].as_ref() == [0x30; 100]));
    }
}
