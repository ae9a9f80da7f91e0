//! What does an API server say instead of an answer?

use std::time::Duration;

/// Longest text of a server that is kept, in characters.
const TEXT_CHARS_MAX: usize = 300;
/// The longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// RFC 9110 §15.5.2.
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;
const GONE: u16 = 410;
const TOO_MANY: u16 = 429;
const UNAVAILABLE: u16 = 503;
/// Of what is no `v1.Status`.
const NO_REASON: &str = "Unknown";
/// The first of those that say that the server has failed.
const SERVER_ERROR: u16 = 500;

/// Why there is no answer, or none that is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No connection, or it ended before the answer began; of a watch, also later.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
    /// It ended in the middle of the answer.
    #[error("the answer broke off: {0}")]
    Cut(String),
    /// It is there, and says nothing.
    #[error("the API server does not answer in time")]
    Silent,
    /// It answered, and said no.
    #[error("the API server says {code} {reason}: {message}")]
    Status {
        /// The status of HTTP.
        code: u16,
        /// One word of Kubernetes: `NotFound`, `Conflict`, `Expired`.
        reason: String,
        /// For people.
        message: String,
        /// When to ask again, if it said so; at most five minutes.
        retry_after: Option<Duration>,
    },
    /// Not what an API server says.
    #[error("the answer is not understood: {0}")]
    Malformed(String),
    /// More than is read.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: usize,
    },
    /// It sends us somewhere else, where we do not go.
    #[error("the API server redirects to {0:?}")]
    Redirect(String),
    /// Our own credential can't be had: a token file is gone, a plugin failed.
    #[error("there is no credential: {0}")]
    Credential(String),
}

impl ApiError {
    /// The status of HTTP, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Unreachable(_)
            | Self::Cut(_)
            | Self::Silent
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::Redirect(_)
            | Self::Credential(_) => None,
        }
    }

    /// As if it had said that there is no such object.
    pub(crate) fn not_found(why: &str) -> Self {
        Self::Status {
            code: NOT_FOUND,
            reason: "NotFound".to_owned(),
            message: why.to_owned(),
            retry_after: None,
        }
    }

    /// The credential is not (any more) accepted.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.code() == Some(UNAUTHORIZED)
    }

    /// The credential is fine, and may not do this.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(FORBIDDEN)
    }

    /// No such object, or no such kind.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(NOT_FOUND)
    }

    /// Somebody else wrote in between, owns a field, or the object is there already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(CONFLICT)
    }

    /// The server was not reached, or has trouble of its own: what it says of an object is not known.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Cut(_) | Self::Silent | Self::Credential(_) => true,
            Self::Status { code, .. } => *code >= SERVER_ERROR || *code == TOO_MANY,
            Self::Malformed(_) | Self::TooLarge { .. } | Self::Redirect(_) => false,
        }
    }

    /// The API server is there and took the question, and has failed over this object: an admission
    /// webhook of its namespace does not answer. What it says of itself (503), and what something in between says
    /// in its place, is about all objects.
    #[must_use]
    pub fn is_about_one_object(&self) -> bool {
        matches!(self, Self::Status { code, reason, .. }
            if *code >= SERVER_ERROR && *code != UNAVAILABLE && reason != NO_REASON)
    }

    /// The resource version is not kept any more: list again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code() == Some(GONE)
    }

    /// When to ask again, if the server said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Unreachable(_)
            | Self::Cut(_)
            | Self::Silent
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::Redirect(_)
            | Self::Credential(_) => None,
        }
    }

    /// What a body of a refusal says: a `v1.Status` if it is one.
    pub(super) fn of_status(code: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let said = status.details.and_then(|details| details.retry);
        let after = retry_after.and_then(|text| text.trim().parse().ok());
        let message = match status.message {
            Some(message) => message,
            None => String::from_utf8_lossy(body).into_owned(),
        };
        Self::Status {
            code,
            reason: tame(&status.reason.unwrap_or_else(|| NO_REASON.to_owned())),
            message: tame(&message),
            retry_after: after
                .or(said)
                .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
        }
    }
}

/// `v1.Status`, as far as it is used.
#[derive(Default, serde::Deserialize)]
struct Status {
    reason: Option<String>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(serde::Deserialize)]
struct Details {
    #[serde(rename = "retryAfterSeconds")]
    retry: Option<u64>,
}

/// A text of somebody else, fit for a log: short, and in one line.
pub(super) fn tame(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().take(TEXT_CHARS_MAX).map(plain).collect();
    text.trim().to_owned()
}

/// Why a way to a cluster is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{field}: {why}", in_context(context.as_deref()))]
pub struct Refused {
    /// The context of the kubeconfig, where there is one.
    pub context: Option<String>,
    /// The field that it is about, as the kubeconfig calls it.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Refused {
    pub(super) fn new(field: &str, why: impl Into<String>) -> Self {
        Self {
            context: None,
            field: field.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn within(self, context: &str) -> Self {
        Self {
            context: Some(tame(context)),
            ..self
        }
    }
}

fn in_context(context: Option<&str>) -> String {
    context.map_or_else(String::new, |name| format!("context {name:?}: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_with_its_reason_and_its_wait() {
        let body =
            br#"{"kind":"Status","reason":"TooManyRequests","message":"slow\ndown","code":429,
            "details":{"retryAfterSeconds":7}}"#;
        let error = ApiError::of_status(429, None, body);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            error.to_string(),
            "the API server says 429 TooManyRequests: slow down"
        );
        // The header is what HTTP says, and a day is more than anybody may ask for.
        let error = ApiError::of_status(503, Some("86400"), body);
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn a_body_that_is_no_status_is_cut_and_tamed() {
        let body = format!("<html>\x1b[31m{}", "x".repeat(10_000));
        let ApiError::Status { message, .. } = ApiError::of_status(502, None, body.as_bytes())
        else {
            panic!("not a status");
        };
        assert_eq!(message.chars().count(), TEXT_CHARS_MAX);
        assert!(!message.contains('\x1b'));
    }
}
