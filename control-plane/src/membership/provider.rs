//! Which plugin says as whom a cluster of an inventory is seen?

use serde_json::Value;

use super::secret::Credential;
use crate::config::Home;
use crate::connect::{Offer, Unusable, of_kubeconfig};

/// Names of providers that are told, at most.
const TOLD_MAX: usize = 8;

/// What the first provider of a profile offers that a plugin is configured for; `None`: there is none.
pub(super) fn offer(home: &Home, credential: &Credential) -> Option<Offer> {
    let Credential::OfProfile(_, access) = credential else {
        return None;
    };
    let mut known = access.iter().filter_map(|provider| {
        let plugin = home.providers.get(&provider.name)?;
        Some((provider, plugin))
    });
    let (provider, plugin) = known.next()?;
    let cluster: Value = serde_json::from_str(&provider.cluster).unwrap_or_default();
    let (text, allow) = plugin.kubeconfig(&cluster, &home.allow);
    let offer = of_kubeconfig(&text, None, &allow);
    Some(offer.map_err(|why| {
        let message = format!("provider {:?}: {}", provider.name, why.message);
        Unusable::new(why.reason, message)
    }))
}

/// Why there is no credential, where the profile names providers that no plugin is configured for.
pub(super) fn none_of(credential: &Credential, why: Unusable) -> Unusable {
    let Credential::OfProfile(_, access) = credential else {
        return why;
    };
    if access.is_empty() || why.reason != "SecretNotFound" {
        return why;
    }
    let names = access.iter().take(TOLD_MAX);
    let names: Vec<String> = names.map(|one| format!("{:?}", one.name)).collect();
    let names = names.join(", ");
    let message = format!(
        "the operator has configured no plugin (home.providers) for {names}; and {}",
        why.message
    );
    Unusable::new("ProviderNotConfigured", message)
}

#[cfg(test)]
mod tests {
    use isthmus_control_plane_core::model::AccessProvider;

    use super::*;
    use crate::config::Config;

    /// Plugins are configured for `one` and `two`.
    fn home() -> Home {
        let plugin = |name: &str| {
            serde_json::json!({ "name": name, "execConfig": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": format!("/plugins/{name}"),
            } })
        };
        let config = serde_json::json!({
            "state_dir": "state", "listen": { "discovery": "127.0.0.1:0", "admin": "127.0.0.1:0" },
            "clusters": [{ "name": "east", "kubernetes": { "in_cluster": true } }],
            "home": { "cluster": "east", "providers": [plugin("one"), plugin("two")] },
        });
        Config::parse(&config.to_string()).unwrap().home.unwrap()
    }

    fn profile(providers: &[(&str, &str)]) -> Credential {
        let one = |(name, cluster): &(&str, &str)| AccessProvider {
            name: (*name).to_owned(),
            cluster: (*cluster).to_owned(),
        };
        Credential::OfProfile("p".to_owned(), providers.iter().map(one).collect())
    }

    const AT_A: &str = r#"{"server":"http://127.0.0.1:1"}"#;

    #[test]
    fn only_a_provider_with_a_plugin_of_the_operators_is_asked() {
        let mut home = home();
        assert!(offer(&home, &profile(&[])).is_none());
        assert!(offer(&home, &profile(&[("other", AT_A)])).is_none());
        let why = offer(&home, &profile(&[("other", AT_A), ("two", AT_A)])).unwrap();
        let why = why.unwrap_err();
        assert_eq!(why.reason, "Refused");
        assert!(
            why.message.contains("\"two\"") && why.message.contains("loopback"),
            "{why:?}"
        );
        // The profile's word about its server counts as far as any kubeconfig's.
        home.allow.loopback = true;
        let (access, first) = offer(&home, &profile(&[("two", AT_A)])).unwrap().unwrap();
        let said = format!("{:?}", access.credential);
        assert_eq!(said, "Exec(/plugins/two)");
        let moved = AT_A.replace(":1", ":2");
        let (_, second) = offer(&home, &profile(&[("two", &moved)])).unwrap().unwrap();
        assert_ne!(first, second, "another server is another way");
        for bad in [
            "{}",
            "[]",
            "not json",
            r#"{"server":"http://127.0.0.1:1","exec":{"command":"x"}}"#,
        ] {
            assert!(
                offer(&home, &profile(&[("one", bad)])).unwrap().is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn providers_without_a_plugin_are_named_where_there_is_no_secret_either() {
        let none = || Unusable::new("SecretNotFound", "there is no Secret");
        let told = none_of(&profile(&[("fleet", AT_A)]), none());
        assert_eq!(told.reason, "ProviderNotConfigured");
        assert!(told.message.contains("\"fleet\"") && told.message.contains("no Secret"));
        assert_eq!(none_of(&profile(&[]), none()), none());
    }
}
