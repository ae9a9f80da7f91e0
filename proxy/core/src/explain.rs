//! Why does a call go where it goes, or fail?
//!
//! A replay: the same functions that decide on the data path run again over a snapshot, and each
//! step is written down. Nothing is sent, nothing is counted.

mod inbound;
mod outbound;

pub use inbound::{InboundExplanation, InboundQuestion, explain_inbound};
pub use outbound::{
    BackendStep, ENDPOINTS_MAX, EndpointStep, Explanation, Found, Question, RouteStep,
    explain_outbound,
};

use crate::canonical::{self, CanonicalPath};
use crate::failure::Failure;
use crate::message::{BodyLength, Fields, Method, RequestHead, Version};

/// A request as somebody describes it.
#[derive(Debug, Clone, Default)]
pub struct RequestQuestion {
    /// Empty: `GET`.
    pub method: String,
    /// Path and query. Empty: `/`.
    pub path: String,
    /// Names in any case, and values.
    pub headers: Vec<(String, String)>,
}

impl RequestQuestion {
    /// The head that a proxy would see, and its canonical path.
    fn head(&self, host: &str) -> Result<(RequestHead, CanonicalPath), Failure> {
        let method = if self.method.is_empty() {
            "GET"
        } else {
            &self.method
        };
        let raw = if self.path.is_empty() {
            "/"
        } else {
            &self.path
        };
        let path = canonical::path(raw.as_bytes())?;
        let mut fields = Fields::default();
        for (name, value) in &self.headers {
            fields.push_lower(name.as_bytes(), value.trim().as_bytes());
        }
        let head = RequestHead {
            method: Method::parse(method.as_bytes())
                .ok_or(Failure::BadRequest("the method is no token"))?,
            version: Version::Http11,
            https: false,
            authority: host.as_bytes().to_vec(),
            path: path.full().as_bytes().to_vec(),
            protocol: Vec::new(),
            fields,
            body: BodyLength::Empty,
            keep_alive: true,
            expects_continue: false,
        };
        Ok((head, path))
    }
}

#[cfg(test)]
mod tests;
