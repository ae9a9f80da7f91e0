//! What is installed already, that a run without its flag must not change?

use anyhow::Context as _;
use isthmus_control_plane::kubernetes::{Allow, Api};
use serde_json::Value;

use super::Done;
use super::objects::{
    CONFIG_KEY, CONTAINER, DISCOVERY_SERVICE, NETWORK_POLICY_ANNOTATION, STATE, SYSTEM, SavedWorld,
};
use super::permissions::ACCOUNT;
use crate::kubernetes::{find, text};

/// What flags of an earlier `install` decided, as it stands in the cluster. `None`: there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    /// The name of the cluster in the mesh.
    pub(crate) cluster: Option<String>,
    /// The domain of the mesh.
    pub(crate) mesh_domain: Option<String>,
    /// HOST:PORT by which proxies of other clusters reach the control plane.
    pub(crate) discovery_address: Option<String>,
    /// The image that the control plane runs.
    pub(crate) image: Option<String>,
    /// Its Service is one of type LoadBalancer.
    pub(crate) load_balancer: bool,
    /// A NetworkPolicy is not wanted.
    pub(crate) no_network_policy: bool,
    /// Where it keeps what it knows, or would by default.
    pub(crate) saved_world: SavedWorld,
    /// Its configuration.
    pub(crate) config: Option<Written>,
}

/// The control plane's configuration, as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// What it says.
    pub(crate) value: Value,
    /// As it is written.
    pub(crate) text: String,
    /// The `resourceVersion` of its ConfigMap.
    pub(crate) version: String,
}

impl Installed {
    /// Reads it from the control plane's ConfigMap, Deployment and Service.
    ///
    /// # Errors
    /// The API server does not answer or refuses, or the configuration that is there is no JSON.
    pub(crate) async fn read(api: &Api) -> anyhow::Result<Self> {
        let system = format!("namespaces/{SYSTEM}");
        let written = config(api).await?;
        let nothing = Value::Null;
        let config = written.as_ref().map_or(&nothing, |written| &written.value);
        let workload = |plural: &str| format!("/apis/apps/v1/{system}/{plural}/{ACCOUNT}");
        let claiming = find(api, &workload("statefulsets")).await?;
        let deployment = find(api, &workload("deployments")).await?;
        let saved_world = match &claiming {
            Some(claiming) => SavedWorld::Claimed(class(claiming)),
            None => SavedWorld::OfThePod,
        };
        let workload = claiming.or(deployment).unwrap_or_default();
        let service = format!("/api/v1/{system}/services/{DISCOVERY_SERVICE}");
        let service = find(api, &service).await?.unwrap_or_default();
        Ok(Self {
            cluster: own_name(config),
            mesh_domain: said(config, "/mesh_domain"),
            discovery_address: said(config, "/advertise/address"),
            image: image(&workload),
            load_balancer: text(&service, "/spec/type") == "LoadBalancer",
            no_network_policy: workload["metadata"]["annotations"][NETWORK_POLICY_ANNOTATION]
                == "false",
            saved_world,
            config: written,
        })
    }
}

/// The domain of the mesh that the control plane in this cluster serves; `None`: it does not say.
///
/// # Errors
/// As [`Installed::read`].
pub(crate) async fn mesh_domain(home: &Api) -> anyhow::Result<Option<String>> {
    let config = config(home).await?;
    Ok(config.and_then(|config| said(&config.value, "/mesh_domain")))
}

/// What the control plane in this cluster lets a kubeconfig ask for (`home.allow`); `None`: no
/// configuration of it stands here.
///
/// # Errors
/// As [`Installed::read`], or the configuration says what is not understood.
pub(crate) async fn allowed(home: &Api) -> anyhow::Result<Option<Allow>> {
    let Some(config) = config(home).await? else {
        return Ok(None);
    };
    let items = config.value["home"]["allow"].as_array();
    let allow = Allow::of(items.into_iter().flatten());
    let allow = allow
        .with_context(|| format!("home, in {CONFIG_KEY} of the ConfigMap {SYSTEM}/{ACCOUNT}"))?;
    Ok(Some(allow))
}

/// The cluster that the control plane runs in: an operator may have named others beside it.
fn own_name(config: &Value) -> Option<String> {
    let clusters = config["clusters"].as_array()?;
    let own = |c: &&Value| c.pointer("/kubernetes/in_cluster") == Some(&Value::Bool(true));
    said(clusters.iter().find(own)?, "/name")
}

/// The control plane's configuration; `None`: it has none, or was not installed by us.
async fn config(api: &Api) -> anyhow::Result<Option<Written>> {
    let path = format!("/api/v1/namespaces/{SYSTEM}/configmaps/{ACCOUNT}");
    let Some(found) = find(api, &path).await? else {
        return Ok(None);
    };
    let Some(config) = found["data"][CONFIG_KEY].as_str() else {
        return Ok(None);
    };
    let value = serde_json::from_str(config).with_context(|| {
        format!("{CONFIG_KEY} of the ConfigMap {SYSTEM}/{ACCOUNT} is no JSON: mend or delete it")
    })?;
    Ok(Some(Written {
        value,
        text: config.to_owned(),
        version: text(&found, "/metadata/resourceVersion").to_owned(),
    }))
}

/// The StorageClass that the volumes are claimed of; `None`: the default one, which an API server may
/// have written down in the claims, and not here.
fn class(claiming: &Value) -> Option<String> {
    let templates = claiming.pointer("/spec/volumeClaimTemplates")?.as_array()?;
    let ours = |claim: &&Value| text(claim, "/metadata/name") == STATE;
    said(templates.iter().find(ours)?, "/spec/storageClassName")
}

/// The image of the control plane's container.
fn image(workload: &Value) -> Option<String> {
    let containers = workload.pointer("/spec/template/spec/containers")?;
    let mut all = containers.as_array()?.iter();
    let ours = all.find(|container| container["name"] == CONTAINER)?;
    said(ours, "/image")
}

/// Text at a pointer; `None`: there is none, or it is empty.
pub(crate) fn said(object: &Value, pointer: &str) -> Option<String> {
    match text(object, pointer) {
        "" => None,
        found => Some(found.to_owned()),
    }
}

/// What a flag comes to: what is given; else what is installed, which is told; else what is usual.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    kept: Vec<String>,
}

impl Choice {
    /// The value of a flag. One that is given and empty takes away what is installed.
    pub(crate) fn of(
        &mut self,
        flag: &str,
        given: Option<&str>,
        installed: Option<&str>,
        usual: Option<&str>,
    ) -> Option<String> {
        let chosen = match (given, installed) {
            (Some(given), _) => Some(given).filter(|given| !given.is_empty()),
            (None, Some(installed)) => {
                if usual != Some(installed) {
                    self.kept.push(format!("{flag} {installed}"));
                }
                Some(installed)
            }
            (None, None) => usual,
        };
        chosen.map(ToOwned::to_owned)
    }

    /// The value of a flag that is on or off, and usually off.
    pub(crate) fn switch(&mut self, flag: &str, given: Option<bool>, installed: bool) -> bool {
        if given.is_none() && installed {
            self.kept.push(flag.to_owned());
        }
        given.unwrap_or(installed)
    }

    /// Keys of the configuration that were kept, each with its value.
    pub(crate) fn keep(&mut self, keys: Vec<String>) {
        self.kept.extend(keys);
    }

    /// Tells what was kept that a first run would not have chosen.
    pub(crate) fn tell(&self, done: &mut Done) {
        for flag in &self.kept {
            done.step("kept", flag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_what_is_installed_and_that_over_what_is_usual() {
        let mut choice = Choice::default();
        let mut of = |given, installed| {
            choice
                .of("--image", given, installed, Some("usual"))
                .clone()
        };
        assert_eq!(of(Some("a"), Some("b")).as_deref(), Some("a"));
        assert_eq!(of(None, Some("b")).as_deref(), Some("b"));
        assert_eq!(of(None, Some("usual")).as_deref(), Some("usual"));
        assert_eq!(of(None, None).as_deref(), Some("usual"));
        assert_eq!(of(Some(""), Some("b")), None);
        assert!(choice.switch("--load-balancer", None, true));
        assert!(!choice.switch("--load-balancer", Some(false), true));
        assert!(!choice.switch("--load-balancer", None, false));
        assert_eq!(choice.kept, ["--image b", "--load-balancer"]);
    }
}
