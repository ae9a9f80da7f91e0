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

    async fn delete(&self, path: &str, preconditions: Option<&Value>) -> Result<(), ApiError> {
        self.delete(path, preconditions).await
    }
}

/// Sends a write, in the best version in which the kind is served.
///
/// # Errors
/// There is no answer, or it is a refusal.
pub(super) async fn send<S: Server>(server: &S, write: &Write) -> Result<(), ApiError> {
    let mut sent = Err(ApiError::Malformed("not a kind that is written".to_owned()));
    for (version, path) in paths(&write.object) {
        sent = send_to(server, write, (&version, &path)).await;
        if !is_kind_absent(&sent) {
            break;
        }
    }
    sent
}

async fn send_to<S: Server>(
    server: &S,
    write: &Write,
    (version, path): (&str, &str),
) -> Result<(), ApiError> {
    let status = format!("{path}/status");
    let (path, document) = match &write.body {
        Body::Delete { uid } => {
            let gone = server.delete(path, Some(&json!({ "uid": uid }))).await;
            return match gone {
                // Somebody was faster.
                Err(error) if error.is_not_found() && !is_kind_absent(&Err(error.clone())) => {
                    Ok(())
                }
                gone => gone,
            };
        }
        Body::Parents(parents) => {
            let route = server.get(path).await?;
            let route: Value = serde_json::from_slice(&route)
                .map_err(|error| ApiError::Malformed(error.to_string()))?;
            (status.as_str(), Some(with_parents(&route, parents)))
        }
        Body::Import(_) | Body::Service(_) | Body::Slice(_) | Body::Roots(_) => {
            (path, applied(write, version))
        }
        Body::ImportStatus(_) | Body::Conditions(_) | Body::Gateway(_) => {
            (status.as_str(), applied(write, version))
        }
    };
    let document = document.unwrap_or_default();
    let applied = server.apply(path, &document, forced(write)).await;
    applied.map(drop)
}

/// 404 on a path that nothing serves: there is no such kind, or not in this version.
pub(super) fn is_kind_absent(result: &Result<(), ApiError>) -> bool {
    // The API server's texts for that. Those about an object, or its namespace, name it.
    let generic = |message: &str| {
        message.contains("could not find the requested resource")
            || message.contains("page not found")
    };
    matches!(result, Err(ApiError::Status { code: 404, message, .. }) if generic(message))
}

/// Somebody deleted the object while its status was on the way. The watch tells of it, too.
pub(super) fn is_gone(write: &Write, result: &Result<(), ApiError>) -> bool {
    let is_status = matches!(
        write.body,
        Body::Parents(_) | Body::Conditions(_) | Body::Gateway(_) | Body::ImportStatus(_)
    );
    let not_found = matches!(result, Err(error) if error.is_not_found());
    is_status && not_found && !is_kind_absent(result)
}
