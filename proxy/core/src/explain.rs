//! Why does a call go where it goes, or fail?
//!
//! A replay: the same functions that decide on the data path run again over a snapshot, and each
//! step is written down. Nothing is sent, nothing is counted.

mod exclusion;
mod inbound;
mod outbound;

pub use exclusion::{EXAMINED_MAX, Exclusions, NAMED_BYTES_MAX, exclusions};
pub use inbound::{InboundExplanation, InboundQuestion, explain_inbound};
pub use outbound::{
    BackendStep, ENDPOINTS_MAX, EndpointStep, Explanation, Found, Question, RouteStep,
    explain_outbound,
};

use isthmus_proto::resource::Protocol;

use crate::canonical::{self, CanonicalPath};
use crate::failure::Failure;
use crate::message::{BodyLength, Fields, Method, RequestHead, Version};

/// What somebody says of the call that he asks about.
#[derive(Debug, Clone, Default)]
pub enum Said {
    /// Nothing: what the port declares; where it declares nothing, a request.
    #[default]
    Nothing,
    /// This request.
    Request(RequestQuestion),
    /// A connection whose content is opaque.
    Connection {
        /// What a TLS client says in its first message.
        server_name: Option<String>,
    },
}

impl Said {
    /// What the proxy takes it for. `declares`: the protocol of a port that takes nothing else;
    /// `Unspecified`: the port takes what is said.
    fn taken(self, declares: Protocol) -> Carried {
        match (declares, self) {
            (Protocol::Tcp | Protocol::Tls, Self::Nothing | Self::Request(_)) => {
                Carried::Connection(None)
            }
            (
                Protocol::Tcp | Protocol::Tls | Protocol::Unspecified,
                Self::Connection { server_name },
            ) => Carried::Connection(server_name),
            (_, Self::Request(request)) => Carried::Request(request),
            (
                Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::Unspecified,
                Self::Nothing | Self::Connection { .. },
            ) => Carried::Request(RequestQuestion::default()),
        }
    }
}

/// What is judged.
#[derive(Debug)]
enum Carried {
    Request(RequestQuestion),
    /// With a TLS client's server name.
    Connection(Option<String>),
}

impl Carried {
    /// As an operator reads it.
    fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Connection(_) => "connection",
        }
    }
}

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
