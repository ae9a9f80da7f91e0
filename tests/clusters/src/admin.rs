//! How are objects written into a cluster, as `kubectl apply --server-side` does?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use isthmus_control_plane::kubernetes::{Allow, Api, ApiError, kubeconfig};
use serde_json::{Map, Value};

use crate::manifest::{self, field, title};
use crate::wait::until;

/// Who wrote a field, for the API server: not the control plane, which owns fields of its own.
const FIELD_MANAGER: &str = "isthmus-clusters";
/// Longest time until the API server serves a kind whose definition was just written.
const KIND_TIMEOUT: Duration = Duration::from_secs(20);

/// The cluster's administrator.
#[derive(Debug, Clone)]
pub struct Admin {
    api: Api,
    kinds: Arc<Mutex<Kinds>>,
}

/// By `apiVersion` and `kind`.
type Kinds = BTreeMap<(String, String), Kind>;

/// How the API server calls a kind in paths.
#[derive(Debug, Clone)]
struct Kind {
    plural: String,
    namespaced: bool,
}

impl Admin {
    /// Whoever that kubeconfig says, on this machine.
    ///
    /// # Errors
    /// It is no kubeconfig.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        let allow = Allow {
            loopback: true,
            ..Allow::default()
        };
        let access = kubeconfig(text, None, &allow).context("a kubeconfig")?;
        Ok(Self {
            api: Api::new(access).context("a kubeconfig")?,
            kinds: Arc::default(),
        })
    }

    /// Writes every object of a text, status included, in its order.
    ///
    /// # Errors
    /// The API server refuses one, or does not answer.
    pub async fn apply_text(&self, text: &str) -> anyhow::Result<Vec<Value>> {
        let mut applied = Vec::new();
        for object in manifest::objects(text)? {
            applied.push(self.apply(&object).await?);
        }
        Ok(applied)
    }

    /// Writes an object by server-side apply, and its status where it has one.
    ///
    /// # Errors
    /// The API server refuses it, or does not answer.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        let path = self.path(object).await?;
        let mut main = object.clone();
        let status = main.as_object_mut().and_then(|map| map.remove("status"));
        let mut applied = self
            .api
            .apply_as(FIELD_MANAGER, &path, &main, true)
            .await
            .with_context(|| format!("applying {}", title(object)))?;
        if let Some(status) = status {
            let mut main = Map::new();
            for key in ["apiVersion", "kind", "metadata"] {
                main.insert(key.to_owned(), object.get(key).cloned().unwrap_or_default());
            }
            main.insert("status".to_owned(), status);
            let (path, body) = (format!("{path}/status"), Value::Object(main));
            applied = self
                .api
                .apply_as(FIELD_MANAGER, &path, &body, true)
                .await
                .with_context(|| format!("applying the status of {}", title(object)))?;
        }
        Ok(applied)
    }

    /// Removes every object of a text; one that is not there is as good.
    ///
    /// # Errors
    /// The API server refuses, or does not answer.
    pub async fn delete_text(&self, text: &str) -> anyhow::Result<()> {
        for object in manifest::objects(text)? {
            self.delete(&object).await?;
        }
        Ok(())
    }

    /// Removes an object at once; one that is not there is as good.
    ///
    /// # Errors
    /// The API server refuses, or does not answer.
    pub async fn delete(&self, object: &Value) -> anyhow::Result<()> {
        let path = self.path(object).await?;
        self.delete_path(&path).await
    }

    /// The same, by its path.
    ///
    /// # Errors
    /// The API server refuses, or does not answer.
    pub async fn delete_path(&self, path: &str) -> anyhow::Result<()> {
        match self.api.delete(path, None).await {
            Err(error) if !error.is_not_found() => {
                Err(error).with_context(|| format!("deleting {path}"))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// An object or a list, by its path.
    ///
    /// # Errors
    /// It isn't there, or the API server does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let body = self.api.get(path).await;
        json(&body.with_context(|| format!("GET {path}"))?)
    }

    /// The same, `None` where there is nothing.
    ///
    /// # Errors
    /// The API server refuses, or does not answer.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.api.get(path).await {
            Err(error) if error.is_not_found() => Ok(None),
            found => json(&found.with_context(|| format!("GET {path}"))?).map(Some),
        }
    }

    /// Makes an object in a collection, or asks a question that is written so.
    ///
    /// # Errors
    /// The API server refuses it, or does not answer.
    pub async fn create(&self, collection: &str, object: &Value) -> anyhow::Result<Value> {
        let created = self.api.create(collection, object).await;
        created.with_context(|| format!("POST {collection}"))
    }

    /// Changes fields of an object as a JSON merge patch does.
    ///
    /// # Errors
    /// It isn't there, somebody else changed it just now, or the API server does not answer.
    pub async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let mut object = self.get(path).await?;
        merge(&mut object, patch);
        let replaced = self.api.replace(path, &object).await;
        replaced.with_context(|| format!("PUT {path}"))
    }

    /// Where an object is.
    ///
    /// # Errors
    /// The API server does not know its kind, or does not answer.
    pub async fn path(&self, object: &Value) -> anyhow::Result<String> {
        let version = field(object, "/apiVersion")?;
        let kind = self.kind(version, field(object, "/kind")?).await?;
        let name = field(object, "/metadata/name")?;
        let plural = &kind.plural;
        let root = root(version);
        if !kind.namespaced {
            return Ok(format!("{root}/{plural}/{name}"));
        }
        let namespace = object.pointer("/metadata/namespace");
        let namespace = namespace.and_then(Value::as_str).unwrap_or("default");
        Ok(format!("{root}/namespaces/{namespace}/{plural}/{name}"))
    }

    /// Waits until the kind of a definition is served.
    ///
    /// # Errors
    /// It isn't in time.
    pub async fn served(&self, definition: &Value) -> anyhow::Result<()> {
        let group = field(definition, "/spec/group")?;
        let kind = field(definition, "/spec/names/kind")?;
        let versions = definition.pointer("/spec/versions");
        for version in versions.and_then(Value::as_array).into_iter().flatten() {
            let version = field(version, "/name")?;
            self.kind(&format!("{group}/{version}"), kind).await?;
        }
        Ok(())
    }

    /// Asked once; a kind whose definition was just written takes a moment.
    async fn kind(&self, version: &str, kind: &str) -> anyhow::Result<Kind> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.known().get(&key) {
            return Ok(known.clone());
        }
        let found = until(KIND_TIMEOUT, async || {
            let resources = self.find(&root(version)).await?;
            Ok(resources.and_then(|resources| resource(&resources, kind)))
        });
        let found = found
            .await?
            .with_context(|| format!("the API server does not know {version} {kind}"))?;
        self.known().insert(key, found.clone());
        Ok(found)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is the API server ready to serve?
    ///
    /// # Errors
    /// It does not answer, or says what is missing.
    pub(crate) async fn is_ready(&self) -> Result<(), ApiError> {
        self.api.get("/readyz").await.map(drop)
    }
}

fn json(body: &[u8]) -> anyhow::Result<Value> {
    serde_json::from_slice(body).context("an answer that is no JSON")
}

/// RFC 7386 §2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(map) = target.as_object_mut() {
                map.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn root(version: &str) -> String {
    if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    }
}

/// A kind in an `APIResourceList`; subresources have a slash in their names.
fn resource(list: &Value, kind: &str) -> Option<Kind> {
    let resources = list.get("resources")?.as_array()?;
    resources.iter().find_map(|resource| {
        let name = resource.get("name")?.as_str()?;
        if resource.get("kind")? != kind || name.contains('/') {
            return None;
        }
        Some(Kind {
            plural: name.to_owned(),
            namespaced: resource.get("namespaced")?.as_bool()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_found_by_its_main_resource() {
        let list = json!({ "resources": [
            { "name": "pods/status", "kind": "Pod", "namespaced": true },
            { "name": "pods", "kind": "Pod", "namespaced": true },
            { "name": "nodes", "kind": "Node", "namespaced": false },
        ] });
        assert_eq!(resource(&list, "Pod").unwrap().plural, "pods");
        assert!(!resource(&list, "Node").unwrap().namespaced);
        assert!(resource(&list, "Service").is_none());
        assert!(resource(&Value::Null, "Pod").is_none());
    }

    #[test]
    fn a_merge_replaces_adds_and_removes() {
        let mut object = json!({ "a": { "b": 1, "c": [1, 2] }, "d": "x" });
        merge(
            &mut object,
            &json!({ "a": { "b": null, "c": [3], "e": { "f": null, "g": 1 } } }),
        );
        let wanted = json!({ "a": { "c": [3], "e": { "g": 1 } }, "d": "x" });
        assert_eq!(object, wanted);
    }
}
