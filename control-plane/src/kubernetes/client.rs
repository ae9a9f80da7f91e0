//! What may be asked of an API server, and how much of the answer is read?

mod connect;
mod read;
mod request;
mod traffic;
mod watch;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use connect::Line;
pub use read::Whole;
use request::Ask;
pub use traffic::{Outcome, Traffic, Verb};
pub use watch::Watch;

use super::access::{Access, Roots, seconds};
use super::credential::Keeper;
use super::error::{ApiError, Refused};
use super::timestamp;

/// Where an API server says who asks it. Everybody whom it knows may ask that.
const SELF_REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
/// By whom fields are owned that we apply.
pub const FIELD_MANAGER: &str = "isthmus";

/// Bounds of one cluster's client. The defaults are ours to tune (SECURITY S27, F32).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name, TCP, TLS and the first frames together.
    pub connect_timeout: Duration,
    /// From the request to the head of the answer, and of everything but a watch to its end.
    pub answer_timeout: Duration,
    /// A connection that says nothing for so long is asked ...
    pub ping_every: Duration,
    /// ... and has so long to say something.
    pub ping_timeout: Duration,
    /// Largest page of a list, in bytes.
    pub page_bytes_max: usize,
    /// Largest single object, in bytes. etcd takes 1.5 MiB.
    pub object_bytes_max: usize,
    /// Largest event of a watch, in bytes.
    pub line_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            // Whoever is silent is lost within 30 s, with what the pulse waits.
            ping_every: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(8),
            page_bytes_max: 16 << 20,
            object_bytes_max: 4 << 20,
            line_bytes_max: 4 << 20,
        }
    }
}

/// A token of a service account, as TokenRequest gives it. Shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires: SystemTime,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// One cluster's API server. Clones share its connections: one for all watches, one for the rest.
///
/// Connections are made when they are needed, and again when they have ended. Paths begin with
/// `/api/` or `/apis/`; names in them have to be names already.
#[derive(Debug, Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    access: Access,
    /// What stands before each path.
    base: String,
    keeper: Keeper,
    settings: Settings,
    watches: Line,
    rest: Line,
    traffic: Arc<Traffic>,
    /// Of answers that are large: one at a time.
    turns: Arc<Semaphore>,
}

impl Api {
    /// The client of this way. Nothing is connected yet.
    ///
    /// # Errors
    /// The way is no way: the server's address is not complete.
    pub fn new(access: Access) -> Result<Self, Refused> {
        Self::with(access, Settings::default())
    }

    /// The client with other bounds.
    ///
    /// # Errors
    /// The way is no way: the server's address is not complete.
    pub fn with(access: Access, settings: Settings) -> Result<Self, Refused> {
        let (Some(scheme), Some(authority)) = (access.server.scheme(), access.server.authority())
        else {
            return Err(Refused::new("server", "has no scheme or no host"));
        };
        if scheme.as_str() == "http" && matches!(access.roots, Roots::Given(_) | Roots::File(_)) {
            return Err(Refused::new("server", "has no TLS, and there are roots"));
        }
        let prefix = access.server.path().trim_end_matches('/');
        let base = format!("{scheme}://{authority}{prefix}");
        Ok(Self {
            inner: Arc::new(Inner {
                base,
                keeper: Keeper::new(access.credential.clone()),
                settings,
                watches: Line::default(),
                rest: Line::default(),
                traffic: Arc::default(),
                turns: Arc::new(Semaphore::new(1)),
                access,
            }),
        })
    }

    /// The way that it takes.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.inner.access
    }

    /// Goes on with another token of the same account. What is open stays open.
    ///
    /// # Errors
    /// It is no token.
    pub async fn renew(&self, token: &str) -> Result<(), ApiError> {
        self.inner.keeper.renew(token).await
    }

    /// What was asked and read so far.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.inner.traffic)
    }

    /// One object, or whatever is at a path (`/version`).
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn get(&self, path: &str) -> Result<Bytes, ApiError> {
        let ask = Ask::new(Verb::Get, Method::GET, path);
        let limit = self.inner.settings.object_bytes_max;
        Ok(self.whole(ask, limit).await?.into_bytes())
    }

    /// What time it is by the server's clock, as HTTP writes it; `None`: it does not say.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn date(&self) -> Result<Option<String>, ApiError> {
        let ask = Ask::new(Verb::Get, Method::GET, "/version");
        let asking = Box::pin(self.ask(&self.inner.rest, &ask));
        let response = timeout(self.inner.settings.answer_timeout, asking)
            .await
            .unwrap_or(Err(ApiError::Silent))?;
        let date = response.headers().get(hyper::header::DATE);
        Ok(date.and_then(|date| date.to_str().ok().map(ToOwned::to_owned)))
    }

    /// One page of a collection.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Whole, ApiError> {
        let ask = Ask::new(Verb::List, Method::GET, path).query(query);
        self.whole(ask, self.inner.settings.page_bytes_max).await
    }

    /// The events of a collection; `watch=true` is added to the query.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn watch(&self, path: &str, query: &[(&str, &str)]) -> Result<Watch, ApiError> {
        let ask = Ask::new(Verb::Watch, Method::GET, path)
            .query(query)
            .query(&[("watch", "true")]);
        let inner = &self.inner;
        let body = inner
            .traffic
            .counted(Verb::Watch, self.answer(&inner.watches, &ask))
            .await?;
        let limit = inner.settings.line_bytes_max;
        Ok(Watch::new(body, limit, Arc::clone(&inner.traffic)))
    }

    /// Server-side apply with our field manager; what the object is then. `force` takes fields that
    /// others own; without it that is a conflict.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn apply(&self, path: &str, object: &Value, force: bool) -> Result<Value, ApiError> {
        self.apply_as(FIELD_MANAGER, path, object, force).await
    }

    /// [`apply`](Self::apply) as another field manager, who owns other fields of the same object.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn apply_as(
        &self,
        manager: &str,
        path: &str,
        object: &Value,
        force: bool,
    ) -> Result<Value, ApiError> {
        let force = if force { "true" } else { "false" };
        let ask = Ask::new(Verb::Apply, Method::PATCH, path)
            .query(&[("fieldManager", manager), ("force", force)])
            .body("application/apply-patch+yaml", object);
        self.object(ask).await
    }

    /// [`apply`](Self::apply) of the status subresource.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn apply_status(
        &self,
        path: &str,
        object: &Value,
        force: bool,
    ) -> Result<Value, ApiError> {
        self.apply(&format!("{path}/status"), object, force).await
    }

    /// Creates an object in a collection, or asks a question that is written so (reviews).
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let ask = Ask::new(Verb::Create, Method::POST, path)
            .query(&[("fieldManager", FIELD_MANAGER)])
            .body("application/json", object);
        self.object(ask).await
    }

    /// Does the API server take our credential? Whatever it permits: this question needs no permission that
    /// somebody has to grant.
    ///
    /// # Errors
    /// There is no answer, or the credential is not taken.
    pub async fn is_let_in(&self) -> Result<(), ApiError> {
        let review =
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let asked = match self.create(SELF_REVIEW, &review).await {
            // Older than Kubernetes 1.28. Who has a token that is not taken is not anonymous, but refused.
            Err(error) if error.is_not_found() => self.get("/version").await.map(drop),
            asked => asked.map(drop),
        };
        // Who is known is told what he may not.
        asked.or_else(|error| {
            if error.is_forbidden() {
                Ok(())
            } else {
                Err(error)
            }
        })
    }

    /// [`create`](Self::create) for its answer alone: the API server makes nothing.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn try_create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let ask = Ask::new(Verb::Create, Method::POST, path)
            .query(&[("fieldManager", FIELD_MANAGER), ("dryRun", "All")])
            .body("application/json", object);
        self.object(ask).await
    }

    /// Writes a whole object; with a `resourceVersion` only over that one.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let ask = Ask::new(Verb::Replace, Method::PUT, path)
            .query(&[("fieldManager", FIELD_MANAGER)])
            .body("application/json", object);
        self.object(ask).await
    }

    /// Deletes an object; with preconditions (`uid`, `resourceVersion`) only that one.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn delete(&self, path: &str, preconditions: Option<&Value>) -> Result<(), ApiError> {
        let mut options = json!({ "kind": "DeleteOptions", "apiVersion": "v1" });
        if let Some(preconditions) = preconditions {
            options["preconditions"] = preconditions.clone();
        }
        let ask = Ask::new(Verb::Delete, Method::DELETE, path).body("application/json", &options);
        let limit = self.inner.settings.object_bytes_max;
        self.whole(ask, limit).await.map(drop)
    }

    /// A token of a service account, for these audiences (none: the API server's own); bound to a pod
    /// if its name and uid are given.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn token(
        &self,
        (namespace, service_account): (&str, &str),
        audiences: &[&str],
        pod: Option<(&str, &str)>,
        lifetime: Duration,
    ) -> Result<Issued, ApiError> {
        let path =
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let mut spec = json!({ "expirationSeconds": seconds(lifetime) });
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        if let Some((name, uid)) = pod {
            spec["boundObjectRef"] =
                json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid });
        }
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let answer = self.create(&path, &asked).await?;
        let status = |field: &str| answer.pointer(&format!("/status/{field}"))?.as_str();
        let expires = status("expirationTimestamp").and_then(timestamp::parse);
        let (Some(token), Some(expires)) = (status("token"), expires) else {
            let why = "a TokenRequest without a token".to_owned();
            return Err(ApiError::Malformed(why));
        };
        Ok(Issued {
            token: token.to_owned(),
            expires,
        })
    }

    async fn object(&self, ask: Ask<'_>) -> Result<Value, ApiError> {
        let body = self
            .whole(ask, self.inner.settings.object_bytes_max)
            .await?;
        serde_json::from_slice(&body).map_err(|_| ApiError::Malformed("not JSON".to_owned()))
    }

    /// An answer to its end.
    async fn whole(&self, ask: Ask<'_>, limit: usize) -> Result<Whole, ApiError> {
        let inner = &self.inner;
        let reading = async {
            let body = self.answer(&inner.rest, &ask).await?;
            Box::pin(read::whole(body, limit, (&inner.traffic, &inner.turns))).await
        };
        let bounded = async {
            timeout(inner.settings.answer_timeout, Box::pin(reading))
                .await
                .unwrap_or(Err(ApiError::Silent))
        };
        inner.traffic.counted(ask.verb, bounded).await
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
