//! Is something wrong between the control plane and its clusters?

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use isthmus_control_plane::config::MESH_DOMAIN;
use isthmus_control_plane::kubernetes::{Access, Allow, Api, Credential, kubeconfig};
use serde_json::{Value, json};

use super::facts::{self, Facts};
use super::judge::{Finding, Level, judge};
use super::{CLUSTERS, CREDENTIAL_KEY, conditions, view};
use crate::args::{CheckOptions, Format};
use crate::install::installed::mesh_domain;
use crate::install::objects::SYSTEM;
use crate::install::permissions::ACCOUNT;
use crate::kubernetes::{self, strings, text};
use crate::output;

/// How long the token lasts by which the home cluster is looked at. Kubernetes gives no shorter one.
const LOOK: std::time::Duration = std::time::Duration::from_secs(600);

/// Looks at every cluster with the control plane's credentials, asks the control plane what it sees, and
/// says what is wrong.
///
/// # Errors
/// The home cluster can't be asked, or has no mesh.
pub(super) async fn run(options: &CheckOptions, format: Format) -> anyhow::Result<ExitCode> {
    let reach = &options.reach;
    let config = kubernetes::read(reach.kubeconfig.as_deref())?;
    let access = kubernetes::access(&config, reach.context.as_deref())?;
    let api = Api::new(access.clone())?;
    let known = kubernetes::list(&api, CLUSTERS)
        .await
        .context("the home cluster")?;
    let Some(known) = known else {
        bail!("this cluster has no MeshClusters: run `isthmus install --apply` first");
    };
    for name in &options.names {
        let named = |cluster: &Value| text(cluster, "/metadata/name") == name;
        ensure!(known.iter().any(named), "there is no MeshCluster {name}");
    }
    let looks = known.iter().map(|cluster| {
        let network = text(cluster, "/spec/network");
        let beside = |other: &&Value| text(other, "/spec/network") == network;
        let shared = known.iter().filter(beside).nth(1).is_some();
        look(&api, &access, cluster, shared)
    });
    let (clusters, views) = tokio::join!(join_all(looks), view::of(reach));
    let wanted = |name: &String| options.names.is_empty() || options.names.contains(name);
    let mesh_domain = match &options.mesh_domain {
        Some(given) => given.clone(),
        None => mesh_domain(&api)
            .await?
            .unwrap_or_else(|| MESH_DOMAIN.to_owned()),
    };
    let mut found = judge(&clusters, &mesh_domain, &views);
    found.retain(|finding| wanted(&finding.cluster));
    let broken = found.iter().any(|finding| finding.level == Level::Broken);
    match format {
        Format::Json => output::json(&json!({ "ok": !broken, "findings": found })),
        Format::Text => output::line(table(&found).trim_end()),
    }
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// One cluster, with the credential that the control plane has for it.
async fn look(home: &Api, access: &Access, cluster: &Value, shared: bool) -> Facts {
    let joined = cluster["spec"].get("credential").is_some();
    let facts = Facts {
        name: text(cluster, "/metadata/name").to_owned(),
        home: !joined,
        network: text(cluster, "/spec/network").to_owned(),
        pod_ranges: strings(cluster, "/spec/podRanges", ""),
        trust_domain: cluster
            .pointer("/spec/trustDomain")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned),
        conditions: conditions::of(cluster),
        ..Facts::default()
    };
    let credential = if joined {
        theirs(home, cluster).await
    } else {
        ours(home, access).await
    };
    match credential.and_then(|access| Ok(Api::new(access)?)) {
        Ok(api) => Box::pin(facts::of(&api, facts, shared)).await,
        Err(error) => Facts {
            unreachable: Some(format!("{error:#}")),
            ..facts
        },
    }
}

/// The home cluster by the control plane's own service account.
async fn ours(home: &Api, access: &Access) -> anyhow::Result<Access> {
    let issued = home.token((SYSTEM, ACCOUNT), &[], None, LOOK).await;
    let issued = issued.with_context(|| format!("a token for {SYSTEM}/{ACCOUNT}"))?;
    Ok(Access {
        credential: Credential::Token(issued.token),
        ..access.clone()
    })
}

/// A cluster that joined, by the Secret that its MeshCluster names.
async fn theirs(home: &Api, cluster: &Value) -> anyhow::Result<Access> {
    let name = text(cluster, "/spec/credential/secretRef/name");
    let key = match text(cluster, "/spec/credential/secretRef/key") {
        "" => CREDENTIAL_KEY,
        key => key,
    };
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}");
    let secret = kubernetes::find(home, &path).await?;
    let secret = secret.with_context(|| format!("there is no Secret {SYSTEM}/{name}"))?;
    let data = secret["data"][key].as_str();
    let data = data.with_context(|| format!("the Secret {SYSTEM}/{name} has no key {key}"))?;
    let config = String::from_utf8(STANDARD.decode(data)?)?;
    // From here it is looked at all the same: what the control plane refuses, its conditions tell.
    let allow = Allow {
        loopback: true,
        ..Allow::default()
    };
    Ok(kubeconfig(&config, None, &allow)?)
}

fn table(found: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Broken => "BROKEN",
        };
        vec![
            finding.cluster.clone(),
            finding.check.to_owned(),
            finding.from.clone(),
            level.to_owned(),
            finding.message.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let mut text = output::table(
        "Clusters, with the control plane's credentials",
        &["cluster", "check", "from", "is", "seen"],
        &rows,
    );
    let mut fixes: Vec<&str> = Vec::new();
    for finding in found.iter().filter(|finding| !finding.fix.is_empty()) {
        if !fixes.contains(&finding.fix.as_str()) {
            fixes.push(&finding.fix);
        }
    }
    if !fixes.is_empty() {
        text.push_str("\nWhat helps\n");
        for fix in fixes {
            text.push_str(&format!("  {fix}\n"));
        }
    }
    text
}
