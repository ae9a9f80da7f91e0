//! Which plugins may be asked for credentials of an inventory's clusters?
//!
//! A ClusterProfile says where a cluster's API server is, and names providers of access to it; a provider
//! counts only where the operator has configured a plugin under its name (KEP-5339): no object can make the
//! control plane run anything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConfigError, value};
use crate::kubernetes::{Allow, Program, kubeconfig};

/// Plugins by the names of their providers.
pub type Providers = BTreeMap<String, Plugin>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    name: String,
    exec_config: Value,
}

/// A plugin, as the user of a kubeconfig has it under `exec`.
#[derive(Clone, PartialEq, Eq)]
pub struct Plugin {
    command: String,
    exec: Value,
}

impl std::fmt::Debug for Plugin {
    /// Its environment may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({})", self.command)
    }
}

impl Plugin {
    /// The kubeconfig of a cluster that comes with this plugin, and what of it is allowed beyond what
    /// else is: this plugin.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &Value, allow: &Allow) -> (String, Allow) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
            "clusters": [{ "name": "cluster", "cluster": cluster }],
            "users": [{ "name": "plugin", "user": { "exec": self.exec } }],
            "contexts": [{ "name": "cluster", "context": { "cluster": "cluster", "user": "plugin" } }],
        });
        let mut allow = allow.clone();
        // What can't be read is refused by the kubeconfig, with what is wrong.
        allow.exec.extend(Program::of_exec(&self.exec));
        (config.to_string(), allow)
    }
}

pub(super) fn understand(raw: Vec<Raw>) -> Result<Providers, ConfigError> {
    let mut providers = Providers::new();
    for (at, one) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("home.providers[{at}].{field}");
        if one.name.is_empty() {
            return Err(value(&key("name"), "empty"));
        }
        let command = one.exec_config.get("command").and_then(Value::as_str);
        let plugin = Plugin {
            command: command.unwrap_or_default().to_owned(),
            exec: one.exec_config,
        };
        // Whatever is wrong with it is said now, and not when the first cluster comes.
        let somewhere = json!({ "server": "https://192.0.2.1", "insecure-skip-tls-verify": true });
        let allow = Allow {
            insecure: true,
            ..Allow::default()
        };
        let (text, allow) = plugin.kubeconfig(&somewhere, &allow);
        if let Err(refused) = kubeconfig(&text, None, &allow) {
            return Err(value(&key("execConfig"), refused.why));
        }
        if providers.insert(one.name.clone(), plugin).is_some() {
            return Err(value(
                &key("name"),
                format!("{:?} is there twice", one.name),
            ));
        }
    }
    Ok(providers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Providers, String> {
        let raw: Vec<Raw> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        understand(raw).map_err(|error| error.to_string())
    }

    const GOOD: &str = r#"{"name": "fleet", "execConfig": {"apiVersion": "client.authentication.k8s.io/v1",
        "command": "/plugins/fleet", "args": ["token"], "env": [{"name": "KEY", "value": "s3cret"}],
        "provideClusterInfo": true}}"#;

    #[test]
    fn a_provider_is_a_plugin_and_its_secrets_are_not_shown() {
        let found = read(&format!("[{GOOD}]")).unwrap();
        assert_eq!(format!("{:?}", found["fleet"]), "Plugin(/plugins/fleet)");
        let cluster = json!({ "server": "https://a:6443", "certificate-authority-data": "" });
        let (text, allow) = found["fleet"].kubeconfig(&cluster, &Allow::default());
        assert_eq!(allow.exec[0].command, "/plugins/fleet");
        assert_eq!(allow.exec[0].args, ["token"]);
        // The server of the profile is judged as every other.
        let refused = kubeconfig(&text, None, &allow).unwrap_err();
        assert!(
            refused.field.ends_with("certificate-authority-data"),
            "{refused}"
        );
    }

    #[test]
    fn a_plugin_that_could_not_be_run_is_refused_at_the_start() {
        let exec = |change: &str| {
            let text = GOOD.replace(r#""command": "/plugins/fleet""#, change);
            read(&format!("[{text}]")).unwrap_err()
        };
        for (change, says) in [
            (r#""colour": "red""#, "home.providers[0].execConfig"),
            (r#""command": 1"#, "home.providers[0].execConfig"),
            (
                r#""command": "a", "interactiveMode": "Always""#,
                "nobody is there to be asked",
            ),
        ] {
            let why = exec(change);
            assert!(why.contains(says) && !why.contains("s3cret"), "{why}");
        }
        let old = GOOD.replace("k8s.io/v1\"", "k8s.io/v1alpha1\"");
        assert!(
            read(&format!("[{old}]"))
                .unwrap_err()
                .contains("is not spoken")
        );
        let twice = read(&format!("[{GOOD}, {GOOD}]")).unwrap_err();
        assert!(twice.contains("home.providers[1].name"), "{twice}");
        assert!(
            read(r#"[{"name": "", "execConfig": {}}]"#)
                .unwrap_err()
                .contains("empty")
        );
        assert!(
            read(r#"[{"name": "a"}]"#)
                .unwrap_err()
                .contains("execConfig")
        );
    }
}
