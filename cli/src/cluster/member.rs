//! As what does a cluster join: by the flags, and by what it was where they say nothing?

use std::time::Duration;

use anyhow::Context as _;
use isthmus_control_plane::config::MESH_DOMAIN;
use isthmus_control_plane::credential::Life;
use isthmus_control_plane::kubernetes::{Access, Allow, Api, Credential, kubeconfig};
use isthmus_proto::ids::{ClusterId, NetworkId};
use isthmus_proto::range::IpRange;
use serde_json::{Value, json};

use super::{CLUSTERS, CREDENTIAL_KEY, UID, secret, secret_text};
use crate::args::JoinOptions;
use crate::install;
use crate::install::installed::{self, Choice, said};
use crate::install::objects::SYSTEM;
use crate::kubernetes::{self, strings};

/// How long a token lasts where nobody says otherwise, in hours.
const TOKEN_HOURS: &str = "72";
const SECONDS_OF_HOUR: u64 = 3600;

/// A cluster as a member of the mesh.
#[derive(Debug)]
pub(super) struct Member {
    /// Its name.
    pub(super) name: ClusterId,
    /// Where the control plane reaches its API server: a URL.
    pub(super) server: String,
    /// How long each token of the control plane's lasts.
    pub(super) token_life: Duration,
    /// Was it a member before?
    pub(super) is_known: bool,
    /// What was kept of what it was.
    pub(super) choice: Choice,
    network: NetworkId,
    pod_ranges: Vec<IpRange>,
    mesh_domain: String,
    region: Option<String>,
    zone: Option<String>,
}

impl Member {
    /// What the flags say, and what the home cluster has of an earlier `join`.
    ///
    /// # Errors
    /// A name is none, or the home cluster does not answer.
    pub(super) async fn chosen(
        (name, options): (&str, &JoinOptions),
        home: &Api,
        access: &Access,
    ) -> anyhow::Result<Self> {
        let _: ClusterId = name.parse()?;
        let before = before(home, name).await.context("the home cluster")?;
        let mesh_domain = installed::mesh_domain(home)
            .await
            .context("the home cluster")?;
        Self::of((name, options), &before, mesh_domain.as_deref(), access)
    }

    fn of(
        (name, options): (&str, &JoinOptions),
        before: &Before,
        mesh_domain: Option<&str>,
        access: &Access,
    ) -> anyhow::Result<Self> {
        let mut choice = Choice::default();
        let there = |pointer| said(&before.cluster, pointer);
        let own = there("/spec/trustDomain");
        let own = own.as_deref().and_then(|domain| {
            let rest = domain.strip_prefix(name)?;
            rest.strip_prefix('.')
        });
        let mesh_domain = choice.of(
            "--mesh-domain",
            options.mesh_domain.as_deref(),
            mesh_domain.or(own),
            Some(MESH_DOMAIN),
        );
        let mesh_domain = mesh_domain.context("--mesh-domain is empty")?;
        let name = install::named(name, &mesh_domain)?;
        let network = choice.of(
            "--network",
            options.network.as_deref(),
            there("/spec/network").as_deref(),
            Some(name.as_str()),
        );
        let pod_ranges = ranges(options, before, &mut choice)?;
        let mut place = |flag, given: &Option<String>, pointer| {
            choice.of(flag, given.as_deref(), there(pointer).as_deref(), None)
        };
        let region = place("--region", &options.region, "/spec/region");
        let zone = place("--zone", &options.zone, "/spec/zone");
        let server = choice.of(
            "--server",
            options.server.as_deref(),
            before.server.as_deref(),
            Some(&access.server.to_string()),
        );
        let given = options.token_hours.map(|hours| hours.to_string());
        let hours = choice.of(
            "--token-hours",
            given.as_deref(),
            before.token_hours.map(|hours| hours.to_string()).as_deref(),
            Some(TOKEN_HOURS),
        );
        let hours: u64 = hours.unwrap_or_default().parse().context("--token-hours")?;
        Ok(Self {
            token_life: Duration::from_secs(hours.saturating_mul(SECONDS_OF_HOUR)),
            network: network.unwrap_or_default().parse()?,
            server: server.unwrap_or_default(),
            is_known: !before.cluster.is_null(),
            pod_ranges,
            choice,
            name,
            mesh_domain,
            region,
            zone,
        })
    }

    /// Its MeshCluster. `uid` is that of its oldest namespace.
    pub(super) fn declared(&self, uid: &str) -> Value {
        let name = self.name.as_str();
        let mut spec = json!({
            "network": self.network.as_str(),
            "trustDomain": format!("{name}.{}", self.mesh_domain),
            "credential": { "secretRef": { "name": secret(name) } },
        });
        if !self.pod_ranges.is_empty() {
            let ranges = self.pod_ranges.iter().map(ToString::to_string);
            spec["podRanges"] = ranges.collect::<Vec<_>>().into();
        }
        for (key, value) in [("region", &self.region), ("zone", &self.zone)] {
            if let Some(value) = value {
                spec[key] = value.as_str().into();
            }
        }
        json!({
            "apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/part-of": "isthmus" },
                "annotations": { UID: uid },
            },
            "spec": spec,
        })
    }
}

/// Where its pods' addresses are.
fn ranges(
    options: &JoinOptions,
    before: &Before,
    choice: &mut Choice,
) -> anyhow::Result<Vec<IpRange>> {
    let there = strings(&before.cluster, "/spec/podRanges", "").join(",");
    let there = Some(there).filter(|text| !text.is_empty());
    let given = options.pod_ranges.as_deref();
    let chosen = choice.of("--pod-ranges", given, there.as_deref(), None);
    let chosen = chosen.unwrap_or_default();
    let each = chosen.split(',').map(str::trim);
    let each = each.filter(|text| !text.is_empty());
    let ranges: Result<_, _> = each
        .map(|text| text.parse().and_then(IpRange::of_pods))
        .collect();
    ranges.context("--pod-ranges")
}

/// What an earlier `join` left in the home cluster.
#[derive(Debug, Default)]
struct Before {
    /// Its MeshCluster; null: there is none.
    cluster: Value,
    /// Where the control plane was to find its API server.
    server: Option<String>,
    /// How long its token lasts, if for an hour at least.
    token_hours: Option<u64>,
}

async fn before(home: &Api, name: &str) -> anyhow::Result<Before> {
    let cluster = kubernetes::find(home, &format!("{CLUSTERS}/{name}")).await?;
    let Some(cluster) = cluster else {
        return Ok(Before::default());
    };
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{}", secret(name));
    let credential = kubernetes::find(home, &path).await?.unwrap_or_default();
    // A credential that nobody understands is made anew, and has no place to be kept.
    let allow = Allow {
        loopback: true,
        insecure: true,
        ..Allow::default()
    };
    let access = secret_text(&credential, CREDENTIAL_KEY)
        .and_then(|text| kubeconfig(&text, None, &allow).ok());
    let life = match access.as_ref().map(|access| &access.credential) {
        Some(Credential::Token(token)) => Life::of(token).map(|life| life.whole()),
        _ => None,
    };
    let hours = life.map(|life| life.as_secs() / SECONDS_OF_HOUR);
    Ok(Before {
        cluster,
        server: access.map(|access| access.server.to_string()),
        token_hours: hours.filter(|hours| *hours > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Reach;
    use isthmus_control_plane::kubernetes::Roots;

    fn options() -> JoinOptions {
        JoinOptions {
            name: None,
            reach: Reach::default(),
            home_context: None,
            home_kubeconfig: None,
            network: None,
            pod_ranges: None,
            region: None,
            zone: None,
            server: None,
            mesh_domain: None,
            force: false,
            token_hours: None,
        }
    }

    fn access() -> Access {
        Access {
            server: "https://203.0.113.9:6443".parse().unwrap(),
            roots: Roots::Given(Vec::new()),
            server_name: None,
            credential: Credential::Anonymous,
            loopback: false,
            namespace: None,
        }
    }

    #[test]
    fn what_a_cluster_was_it_stays_unless_a_flag_says_otherwise() {
        let spec = json!({ "network": "shared", "podRanges": ["10.8.0.0/16", "fd00:8::/48"], "region": "r", "zone": "z",
            "trustDomain": "west.corp.example" });
        let before = Before {
            cluster: json!({ "spec": spec }),
            server: Some("https://west:6443/".to_owned()),
            token_hours: Some(240),
        };
        let kept = Member::of(("west", &options()), &before, None, &access()).unwrap();
        let declared = kept.declared("u");
        for key in ["network", "podRanges", "region", "zone", "trustDomain"] {
            assert_eq!(declared["spec"][key], spec[key], "{key}");
        }
        assert_eq!(kept.server, "https://west:6443/");
        assert_eq!(kept.token_life, Duration::from_secs(240 * SECONDS_OF_HOUR));
        let other = JoinOptions {
            network: Some("own".to_owned()),
            pod_ranges: Some("10.9.0.0/16".to_owned()),
            region: Some(String::new()),
            server: Some("https://198.51.100.1".to_owned()),
            ..options()
        };
        let changed =
            Member::of(("west", &other), &before, Some("mesh.internal"), &access()).unwrap();
        let declared = changed.declared("u");
        assert_eq!(declared["spec"]["network"], "own");
        assert_eq!(declared["spec"]["podRanges"], json!(["10.9.0.0/16"]));
        assert_eq!(declared["spec"].get("region"), None);
        assert_eq!(declared["spec"]["zone"], "z");
        assert_eq!(declared["spec"]["trustDomain"], "west.mesh.internal");
        assert_eq!(changed.server, "https://198.51.100.1");
    }

    #[test]
    fn a_range_that_takes_in_everybody_is_refused() {
        for wide in ["0.0.0.0/0", "10.8.0.0/16, ::/0"] {
            let wide = JoinOptions {
                pod_ranges: Some(wide.to_owned()),
                ..options()
            };
            let before = Before::default();
            let refused = Member::of(("west", &wide), &before, None, &access()).unwrap_err();
            let refused = format!("{refused:#}");
            assert!(
                refused.contains("--pod-ranges") && refused.contains("wider than"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_cluster_that_comes_first_gets_a_network_of_its_own() {
        let first = Member::of(("west", &options()), &Before::default(), None, &access()).unwrap();
        let declared = first.declared("u");
        assert_eq!(declared["spec"]["network"], "west");
        assert_eq!(declared["spec"]["trustDomain"], "west.mesh.internal");
        assert_eq!(first.server, access().server.to_string());
        assert_eq!(first.token_life, Duration::from_secs(72 * SECONDS_OF_HOUR));
    }
}
