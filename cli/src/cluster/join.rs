//! How does a cluster come into the mesh?
//!
//! First everything in the cluster that joins, then the credential is tried, then the home cluster is
//! told: whatever stops half-way can be done again.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use isthmus_control_plane::kubernetes::{
    Access, Allow, Api, Credential, Roots, kubeconfig as judged,
};
use isthmus_control_plane::manifest::yaml;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::member::Member;
use super::properties::Stated;
use super::{CLUSTERS, CREDENTIAL_KEY, UID, home, joined_uid, own_uid, secret};
use crate::args::{Format, JoinOptions};
use crate::install::installed;
use crate::install::objects::SYSTEM;
use crate::install::permissions::ACCOUNT;
use crate::install::{self, Done};
use crate::kubernetes;

/// Characters in a line of PEM (RFC 7468 §2).
const PEM_COLUMNS: usize = 64;
/// Where HTTPS is served if a URL does not say.
const HTTPS_PORT: u16 = 443;
/// Longest wait for a connection to the way that the control plane will take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

    let server = member.server.parse().context("--server is no URL")?;
    let from_here = std::mem::replace(&mut access.server, server);
    let allow = installed::allowed(&home).await;
    let allow = allow.context("the home cluster")?;
    let doubt = taken(name.as_str(), &access, allow.as_ref())?;

    let mut done = Done::new(format);
    member.choice.tell(&mut done);
    for why in contradiction.into_iter().chain(doubt) {
        done.step("warning", &why);
    }
    install::prepare(&joining, false, options.force, &mut done).await?;
    let issued = joining
        .token((SYSTEM, ACCOUNT), &[], None, member.token_life)
        .await
        .with_context(|| format!("a token for {SYSTEM}/{ACCOUNT} in {name}"))?;
    done.step("issued", &format!("a token for {ACCOUNT} in {name}"));
    access.credential = Credential::Token(issued.token.clone());
    tried(&access, from_here, &mut done).await?;

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

/// Does the credential open the door that the control plane will use? Where that way is not open from
/// here (it leads through a network of containers, say), it is tried by the way that we came.
async fn tried(access: &Access, from_here: Uri, done: &mut Done) -> anyhow::Result<()> {
    let there = access.server.clone();
    let mut access = access.clone();
    let closed = match there == from_here {
        true => None,
        false => closed(&there).await,
    };
    if let Some(why) = closed {
        access.server = from_here;
        done.step(
            "warning",
            &format!(
                "{there} is not reached from here ({why}): `isthmus cluster check` tells whether the \
                 control plane reaches it"
            ),
        );
    }
    let server = access.server.clone();
    let api = Api::new(access)?;
    let pods = api.list("/api/v1/pods", &[("limit", "1")]).await;
    pods.context("listing pods").with_context(|| {
        format!("with the new token at {server}; --server says where the control plane finds it")
    })?;
    done.step("tried", &format!("the token at {server}"));
    Ok(())
}

/// Why nobody is connected to there from here, if so.
async fn closed(server: &Uri) -> Option<String> {
    let host = server.host()?.trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(HTTPS_PORT);
    match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer".to_owned()),
    }
}

/// Will the control plane take the kubeconfig that is to be written? Where its configuration is not
/// known, what it would refuse unless it is allowed is told.
fn taken(name: &str, access: &Access, allow: Option<&Allow>) -> anyhow::Result<Option<String>> {
    let text = yaml::text(&kubeconfig(name, access, "token")?);
    let by = allow.cloned().unwrap_or_default();
    let Err(refused) = judged(&text, None, &by) else {
        return Ok(None);
    };
    let (what, word) = if refused.field.ends_with(".server") {
        let what =
            "--server URL names the way by which the control plane's pods reach the API server";
        (what, "loopback")
    } else {
        let what = "give the roots of the API server's certificate in the kubeconfig that is joined by \
                    (certificate-authority, in place of insecure-skip-tls-verify)";
        (what, "insecure")
    };
    match allow {
        Some(_) => bail!(
            "the control plane would refuse this way to {name}: {refused}\n\
             {what}. If it is meant: `home: {{ allow: [{word}] }}` in FILE, and isthmus install --config \
             FILE --apply"
        ),
        None => Ok(Some(format!(
            "no configuration of a control plane is in the home cluster; without {word:?} in its \
             `home.allow` it refuses this way to {name}: {refused}; {what}"
        ))),
    }
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
        let read = judged(&text, None, &Allow::default()).unwrap();
        assert_eq!(read.server, access.server);
        assert_eq!(read.server_name, access.server_name);
        assert!(matches!(read.credential, Credential::Token(token) if token == "a.b.c"));
        assert!(matches!(&read.roots, Roots::Given(roots) if roots[0].as_ref() == [0x30; 100]));
        let taken = taken("west", &access, Some(&Allow::default())).unwrap();
        assert_eq!(taken, None);
    }

    /// Is it refused with this word as what would allow it, told where nobody is there to refuse, and
    /// taken where it is allowed?
    fn asks_for(access: &Access, word: &str, fix: &str) {
        let refused = taken("west", access, Some(&Allow::default())).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains(fix), "{refused}");
        assert!(refused.contains(&format!("allow: [{word}]")), "{refused}");
        let told = taken("west", access, None).unwrap().unwrap();
        assert!(told.contains(fix) && told.contains(word), "{told}");
        let allow = Allow::of_words([word]).unwrap();
        assert_eq!(taken("west", access, Some(&allow)).unwrap(), None);
    }

    #[test]
    fn a_way_that_the_control_plane_would_refuse_is_not_written() {
        let access = |server: &str, roots: Roots| Access {
            server: server.parse().unwrap(),
            roots,
            server_name: None,
            credential: Credential::Anonymous,
            loopback: true,
            namespace: None,
        };
        let roots = || Roots::Given(vec![vec![0x30; 100].into()]);
        for server in ["https://127.0.0.1:40123", "https://localhost:6443"] {
            asks_for(&access(server, roots()), "loopback", "--server URL");
        }
        let unverified = access("https://203.0.113.9:6443", Roots::Unverified);
        asks_for(&unverified, "insecure", "certificate-authority");
    }
}
