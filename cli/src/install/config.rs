//! What is the control plane told: by the flags of `install`, and by its operator?
//!
//! Flags, and what the other objects fit to (ports, volumes), decide some keys. Every other key is
//! the operator's: from `--config`, else as it stands in the ConfigMap.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::objects::{ADMIN_PORT, DISCOVERY_PORT, DISCOVERY_SERVICE, Plan, SYSTEM};

/// Characters of the digest by which a pod knows its configuration.
const DIGEST_CHARS: usize = 16;

/// The operator's part of the configuration, and what stands in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// What is built on: the operator's file, or what is installed. An object.
    base: Value,
    /// What is installed, as it is written there.
    written: Option<String>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            base: json!({}),
            written: None,
        }
    }
}

impl Given {
    /// What is installed: it stays, but for what the flags decide.
    pub(crate) fn installed(base: &Value, written: &str) -> Self {
        Self {
            base: if base.is_object() {
                base.clone()
            } else {
                json!({})
            },
            written: Some(written.to_owned()),
        }
    }

    /// The operator's file, JSON or YAML, in place of what is installed; an empty path is an empty
    /// file.
    ///
    /// # Errors
    /// It can't be read, is no object, or has a key that is not the operator's.
    pub(crate) fn file(path: &Path, plan: &Plan) -> anyhow::Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("read {}", path.display()))?;
        Self::understood(&text, plan).with_context(|| path.display().to_string())
    }

    fn understood(text: &str, plan: &Plan) -> anyhow::Result<Self> {
        let base: Value = serde_saphyr::from_str(text)?;
        if !base.is_object() {
            bail!("not an object of keys and values");
        }
        for (key, decided) in leaves(&decided(plan)) {
            let at = format!("/{}", key.replace('.', "/"));
            if base.pointer(&at).is_some_and(|said| *said != decided) {
                bail!("{key}: install decides it, by its flags or to fit to the other objects");
            }
        }
        Ok(Self {
            base,
            written: None,
        })
    }
}

/// The configuration, as the ConfigMap has it. What means the same as what is installed is not
/// written anew.
pub(crate) fn text(plan: &Plan) -> String {
    let whole = whole(plan);
    match &plan.given.written {
        Some(there) if plan.given.base == whole => there.clone(),
        Some(_) | None => format!("{whole:#}\n"),
    }
}

/// Changes with the configuration: a pod that is told it is replaced when its configuration is.
pub(crate) fn digest(text: &str) -> String {
    let mut all = format!("{:x}", Sha256::digest(text));
    all.truncate(DIGEST_CHARS);
    all
}

/// Keys with values that nobody but the operator has set.
pub(crate) fn added(plan: &Plan) -> Vec<String> {
    let ours: Vec<String> = leaves(&decided(plan)).map(|(key, _)| key).collect();
    let whole = whole(plan);
    let others = leaves(&whole).filter(|(key, _)| !ours.contains(key));
    let own = others.filter(|(key, _)| key != "clusters" && key != "home.cluster");
    own.map(|(key, value)| format!("{key} {value}")).collect()
}

fn whole(plan: &Plan) -> Value {
    let mut whole = plan.given.base.clone();
    if whole.get("home").is_some_and(Value::is_object) {
        whole["home"]["cluster"] = plan.cluster.as_str().into();
    }
    merge(&mut whole, &decided(plan));
    let own = json!({ "name": plan.cluster, "kubernetes": { "in_cluster": true } });
    match whole.get_mut("clusters").and_then(Value::as_array_mut) {
        Some(clusters) => match clusters.iter_mut().find(|c| c["name"] == own["name"]) {
            Some(there) => merge(there, &own),
            None => clusters.insert(0, own),
        },
        None => whole["clusters"] = json!([own]),
    }
    whole
}

/// What the flags and the other objects decide, but for the clusters. Null: there is none.
fn decided(plan: &Plan) -> Value {
    json!({
        "mesh_domain": plan.mesh_domain,
        "state_dir": "/var/lib/isthmus/state",
        "listen": {
            "discovery": format!("0.0.0.0:{DISCOVERY_PORT}"),
            "admin": format!("0.0.0.0:{ADMIN_PORT}"),
        },
        "keys": "secrets",
        "secret_copies": "/run/isthmus/secrets",
        "advertise": {
            "home": format!("{DISCOVERY_SERVICE}.{SYSTEM}.svc:{DISCOVERY_PORT}"),
            "address": plan.discovery_address,
        },
    })
}

/// RFC 7396: objects are merged, null takes away, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().and_then(|there| there.remove(key));
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// Every value that is no object, with its key: `home.quota.endpoints`.
fn leaves(value: &Value) -> impl Iterator<Item = (String, Value)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((key, value)) = open.pop() {
        let Value::Object(inner) = value else {
            found.push((key, value.clone()));
            continue;
        };
        open.extend(inner.iter().map(|(name, value)| {
            let dot = if key.is_empty() { "" } else { "." };
            (format!("{key}{dot}{name}"), value)
        }));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::sample()
    }

    fn given(base: &Value) -> Plan {
        let written = base.to_string();
        Plan {
            given: Given::installed(base, &written),
            ..plan()
        }
    }

    fn read(plan: &Plan) -> isthmus_control_plane::Config {
        isthmus_control_plane::Config::parse(&text(plan)).unwrap()
    }

    #[test]
    fn keys_that_no_flag_decides_stay_as_they_are_installed() {
        let mut base = whole(&plan());
        base["stale_seconds"] = 60.into();
        base["home"] = json!({ "allow": ["loopback"], "quota": { "endpoints": 7 } });
        base["writes"] = json!({ "per_second": 20 });
        base["clusters"][0]["kubernetes"]["quota"] = json!({ "mebibytes": 8 });
        base["mesh_domain"] = "other.example".into();
        base["listen"]["admin"] = "127.0.0.1:1".into();
        let merged = given(&base);
        let config = read(&merged);
        assert_eq!(config.stale_life.unwrap().as_secs(), 60);
        let home = config.home.unwrap();
        assert_eq!((home.quota.endpoints, home.allow.loopback), (7, true));
        assert_eq!(home.cluster.as_str(), "east");
        assert_eq!(config.writes.per_second, 20);
        assert_eq!(config.mesh_domain, "mesh.internal");
        assert_eq!(config.admin.port(), ADMIN_PORT);
        assert!(text(&merged).contains("\"mebibytes\": 8"));
        let told = [
            "home.allow [\"loopback\"]",
            "home.quota.endpoints 7",
            "stale_seconds 60",
            "writes.per_second 20",
        ];
        assert_eq!(added(&merged), told);
        assert_eq!(added(&plan()), Vec::<String>::new());
        // Doing it again changes not a byte, however it is written.
        let again = Plan {
            given: Given::installed(&whole(&merged), &whole(&merged).to_string()),
            ..plan()
        };
        assert_eq!(text(&again), whole(&merged).to_string());
    }

    #[test]
    fn an_address_that_is_taken_back_is_gone() {
        let mut base = whole(&plan());
        assert_eq!(base["advertise"]["address"], "cp.example.com:15012");
        base["advertise"]["address"] = "old.example.com:1".into();
        let without = Plan {
            discovery_address: None,
            ..given(&base)
        };
        assert_eq!(read(&without).advertise.unwrap().address, None);
    }

    #[test]
    fn a_file_says_what_no_flag_says_and_nothing_else() {
        let text = "stale_seconds: 0\nhome: { namespace: mesh }\nkeys: secrets\n";
        let filed = Plan {
            given: Given::understood(text, &plan()).unwrap(),
            ..plan()
        };
        let config = read(&filed);
        assert_eq!(config.stale_life, None);
        assert_eq!(config.home.unwrap().namespace.unwrap().as_str(), "mesh");
        for (text, why) in [
            ("listen: { admin: '127.0.0.1:1' }", "listen.admin: install"),
            ("mesh_domain: other.example", "mesh_domain: install"),
            ("[1]", "not an object"),
        ] {
            let refused = Given::understood(text, &plan()).unwrap_err();
            assert!(format!("{refused:#}").starts_with(why), "{refused:#}");
        }
        let unknown = Plan {
            given: Given::understood("stale_second: 1", &plan()).unwrap(),
            ..plan()
        };
        let why = format!("{:#}", unknown.check().unwrap_err());
        assert!(why.contains("stale_second"), "{why}");
    }
}
