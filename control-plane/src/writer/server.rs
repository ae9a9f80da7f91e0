//! How does one write reach one API server?

use std::future::Future;

use bytes::Bytes;
use isthmus_control_plane_core::write::{Body, Write};
use serde_json::{Value, json};

use super::document::{applied, forced, paths, with_parents};
use crate::kubernetes::{Api, ApiError};

/// What the writer needs of an API server.
pub trait Server: Clone + Send + Sync + 'static {
    /// One object.
    fn get(&self, path: &str) -> impl Future<Output = Result<Bytes, ApiError>> + Send;

    /// Server-side apply.
    fn apply(
        &self,
        path: &str,
        object: &Value,
        force: bool,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Writes over the version that was read.
    fn replace(
        &self,
        path: &str,
        object: &Value,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// Deletes an object.
    fn delete(
        &self,
        path: &str,
        preconditions: Option<&Value>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
}

impl Server for Api {
    async fn get(&self, path: &str) -> Result<Bytes, ApiError> {
        self.get(path).await
    }

    async fn apply(&self, path: &str, object: &Value, force: bool) -> Result<Value, ApiError> {
        self.apply(path, object, force).await
    }

    async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.replace(path, object).await
    }

    async fn delete(&self, path: &str, preconditions: Option<&Value>) -> Result<(), ApiError> {
        self.delete(path, preconditions).await
    }
}

/// Sends a write.
///
/// # Errors
/// There is no answer, or it is a refusal.
pub(super) async fn send<S: Server>(server: &S, write: &Write) -> Result<(), ApiError> {
    let mut paths = paths(&write.object).into_iter();
    let path = paths
        .next()
        .ok_or_else(|| ApiError::Malformed("not a kind that is written".to_owned()))?;
    match &write.body {
        Body::Delete { uid } => {
            let gone = server.delete(&path, Some(&json!({ "uid": uid }))).await;
            match gone {
                // Somebody was faster.
                Err(error) if error.is_not_found() => Ok(()),
                gone => gone,
            }
        }
        Body::Parents(parents) => {
            // Routes of layer 4 are served in several versions: the first that is there.
            let (mut path, mut found) = (path.clone(), server.get(&path).await);
            for older in paths {
                if !matches!(&found, Err(error) if error.is_not_found()) {
                    break;
                }
                found = server.get(&older).await;
                path = older;
            }
            let route: Value = serde_json::from_slice(&found?)
                .map_err(|error| ApiError::Malformed(error.to_string()))?;
            // The list is one field, which several controllers write: only over what was read.
            let route = with_parents(route, parents);
            server
                .replace(&format!("{path}/status"), &route)
                .await
                .map(drop)
        }
        Body::Import(_) | Body::Service(_) => {
            let document = applied(write).unwrap_or_default();
            server
                .apply(&path, &document, forced(write))
                .await
                .map(drop)
        }
        Body::ImportStatus(_) | Body::Conditions(_) => {
            let document = applied(write).unwrap_or_default();
            let path = format!("{path}/status");
            server
                .apply(&path, &document, forced(write))
                .await
                .map(drop)
        }
    }
}
