//! How are keys kept in Secrets of the home cluster?
//!
//! One Secret for each key, immutable: not even we can write another into it, and of two that make one
//! at the same time the API server lets one win. A Secret that is not ours is never used and never
//! touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_proto::ids::ClusterId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Item, Kept, KeyError};
use crate::config::Home;
use crate::copies::{Copies, asked};
use crate::kubernetes::lease::Servers;
use crate::kubernetes::{Api, ApiError, Leadership};

/// What our Secrets say of themselves.
const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
const MANAGED_BY: &str = "isthmus";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const COMPONENT: &str = "keys";

/// The Secrets of the home cluster that hold keys.
#[derive(Debug, Clone)]
pub struct Secrets {
    home: ClusterId,
    namespace: String,
    apis: Servers,
    leadership: Leadership,
    copies: Arc<Copies>,
}

/// A Secret, as far as it is used.
#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    resource_version: Option<String>,
}

impl Secrets {
    /// In the home cluster, as one of `apis` leads to it; who holds `leadership` makes keys. While it is
    /// away its `copies` count, but for roots' keys, of which there are none.
    #[must_use]
    pub fn new(home: &Home, own: Option<&str>, apis: Servers, leadership: Leadership) -> Self {
        Self {
            home: home.cluster.clone(),
            namespace: home.place(own).to_owned(),
            apis,
            leadership,
            copies: Arc::default(),
        }
    }

    /// With copies of what was read.
    #[must_use]
    pub fn with_copies(self, copies: &Arc<Copies>) -> Self {
        let copies = Arc::clone(copies);
        Self { copies, ..self }
    }

    pub(super) fn leads(&self) -> bool {
        self.leadership.holds()
    }

    pub(super) fn place(&self, item: &Item) -> String {
        format!("Secret {}/{}", self.namespace, name(item))
    }

    pub(super) async fn look(&self, item: &Item) -> Result<Option<Kept>, KeyError> {
        let (api, path) = (self.api()?, self.path(item));
        let read = async {
            if is_rarely_read(item) {
                return asked(api.get(&path)).await;
            }
            self.copies.get(Some(&api), &path, &[]).await
        };
        match read.await {
            Ok(body) => self.kept(item, &body).map(Some),
            // Also if the namespace is not there: whoever makes the key is told so.
            Err(error) if error.is_not_found() => Ok(None),
            Err(cause) => Err(self.failed("read", item, cause)),
        }
    }

    pub(super) async fn create(&self, item: &Item, bytes: &[u8]) -> Result<bool, KeyError> {
        if !self.leads() {
            let place = self.place(item);
            return Err(KeyError::Awaited { place });
        }
        let api = self.api()?;
        match asked(api.create(&self.collection(), &self.secret(item, bytes))).await {
            Ok(made) => {
                tracing::info!(secret = name(item), "a key was made");
                self.keep(item, made.to_string().as_bytes());
                // It is the newest: none comes behind it yet.
                if let Some(next) = item.next() {
                    self.keep(&next, b"");
                }
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            // It is not known whether it was heard: whoever looks again will see.
            Err(cause) => Err(self.failed("create", item, cause)),
        }
    }

    pub(super) async fn replace(
        &self,
        item: &Item,
        bytes: &[u8],
        over: &str,
    ) -> Result<bool, KeyError> {
        let (api, mut secret) = (self.api()?, self.secret(item, bytes));
        secret["metadata"]["resourceVersion"] = over.into();
        let path = self.path(item);
        match asked(api.replace(&path, &secret)).await {
            Ok(written) => {
                self.keep(item, written.to_string().as_bytes());
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
            Err(cause) => Err(self.failed("replace", item, cause)),
        }
    }

    /// A copy of what is now there, if there is to be one.
    fn keep(&self, item: &Item, body: &[u8]) {
        if !is_rarely_read(item) {
            self.copies.wrote(&self.path(item), body);
        }
    }

    fn api(&self) -> Result<Api, KeyError> {
        let api = self.apis.borrow().get(&self.home).cloned();
        api.ok_or_else(|| KeyError::NoHome(self.home.clone()))
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    fn path(&self, item: &Item) -> String {
        // Names of DNS, all of them.
        format!("{}/{}", self.collection(), name(item))
    }

    fn secret(&self, item: &Item, bytes: &[u8]) -> Value {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind(item),
            "metadata": {
                "name": name(item), "namespace": self.namespace,
                "labels": {
                    "app.kubernetes.io/name": "isthmus",
                    "app.kubernetes.io/part-of": "isthmus",
                    COMPONENT_LABEL: COMPONENT,
                    MANAGED_LABEL: MANAGED_BY,
                },
            },
            "data": { data_key(item): STANDARD.encode(bytes) },
        });
        if item.is_lasting() {
            secret["immutable"] = true.into();
        }
        secret
    }

    /// What a Secret holds, if it is ours. What is said about it never holds a part of it.
    fn kept(&self, item: &Item, body: &[u8]) -> Result<Kept, KeyError> {
        let wrong = |why: String| KeyError::Invalid {
            place: self.place(item),
            why,
        };
        let secret: Secret =
            serde_json::from_slice(body).map_err(|_| wrong("is no Secret".to_owned()))?;
        if secret.kind.as_deref() != Some(kind(item)) {
            return Err(wrong(format!("is not of the type {}", kind(item))));
        }
        if secret
            .metadata
            .labels
            .get(MANAGED_LABEL)
            .map(String::as_str)
            != Some(MANAGED_BY)
        {
            return Err(wrong(format!(
                "has no label {MANAGED_LABEL}: {MANAGED_BY}, so it is not ours"
            )));
        }
        let key = data_key(item);
        let text = secret.data.get(key);
        let text = text.ok_or_else(|| wrong(format!("has no key {key}")))?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| wrong(format!("{key} is not base64")))?;
        let version = secret.metadata.resource_version;
        let version = version.ok_or_else(|| wrong("has no resource version".to_owned()))?;
        Ok(Kept { bytes, version })
    }

    fn failed(&self, act: &'static str, item: &Item, cause: ApiError) -> KeyError {
        KeyError::Api {
            act,
            place: self.place(item),
            cause,
        }
    }
}

/// A root's key is needed for the next issuer only, and lies nowhere else.
fn is_rarely_read(item: &Item) -> bool {
    match item {
        Item::Root(..) => true,
        Item::Issuer(..) | Item::Rotation(_) | Item::Handle(..) => false,
    }
}

fn name(item: &Item) -> String {
    match item {
        Item::Root(domain, number) => format!("isthmus-root-{number}.{domain}"),
        Item::Issuer(domain, number) => format!("isthmus-issuer-{number}.{domain}"),
        Item::Rotation(domain) => format!("isthmus-rotation.{domain}"),
        Item::Handle(cluster, epoch) => format!("isthmus-handle-{epoch}.{cluster}"),
    }
}

/// The API server lets nobody change the type of a Secret.
fn kind(item: &Item) -> &'static str {
    match item {
        Item::Root(..) => "isthmus.dev/root",
        Item::Issuer(..) => "isthmus.dev/issuer",
        Item::Rotation(_) => "isthmus.dev/rotation",
        Item::Handle(..) => "isthmus.dev/handle",
    }
}

fn data_key(item: &Item) -> &'static str {
    match item {
        Item::Root(..) => "root.pem",
        Item::Issuer(..) => "issuer.pem",
        Item::Rotation(_) => "rotation.json",
        Item::Handle(..) => "handle.key",
    }
}
