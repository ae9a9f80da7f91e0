//! What does a pod know only when it starts?
//!
//! Its name and its address: the file is the same for all pods of a workload, and these come beside it.

use std::str::FromStr;

use serde_json::{Value, json};

/// A value for a key of the configuration: `pod=cart-1` is text, `addresses:=["10.0.0.11"]` is JSON,
/// `listen.ready=10.0.0.11:15020` is a key inside of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    key: Vec<String>,
    value: Value,
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("not KEY=TEXT or KEY:=JSON".to_owned())?;
        let (key, value) = match key.strip_suffix(':') {
            None => (key, value.into()),
            Some(key) => {
                let value = serde_json::from_str(value);
                (key, value.map_err(|error| format!("{key}: {error}"))?)
            }
        };
        let key: Vec<String> = key.split('.').map(ToOwned::to_owned).collect();
        if key.iter().any(String::is_empty) {
            return Err("a part of the key is empty".to_owned());
        }
        Ok(Self { key, value })
    }
}

impl Set {
    /// Writes it over what the file says.
    pub(super) fn apply(&self, config: &mut Value) {
        let mut place = config;
        for part in &self.key {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[part.as_str()];
        }
        place.clone_from(&self.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_or_json_and_stands_where_its_key_says() {
        let mut config = json!({ "pod": "a", "listen": { "mesh": "b" }, "workers": 1 });
        for set in [
            "pod=42",
            "addresses:=[\"10.0.0.1\"]",
            "listen.ready=10.0.0.1:15020",
            "workers:=2",
            "a.b=c=d",
        ] {
            set.parse::<Set>().unwrap().apply(&mut config);
        }
        assert_eq!(
            config,
            json!({ "pod": "42", "addresses": ["10.0.0.1"], "workers": 2, "a": { "b": "c=d" },
                "listen": { "mesh": "b", "ready": "10.0.0.1:15020" } })
        );
        for bad in ["pod", "=a", "a..b=c", "a:=[", ".a=b"] {
            assert!(bad.parse::<Set>().is_err(), "{bad}");
        }
    }
}
