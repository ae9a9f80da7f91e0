//! In which ways can a connection or a request fail, and what follows from each?
//!
//! Four exhaustive matches: a new way to fail does not compile until its flag, status, blame and
//! retry are decided.

use std::fmt;

/// Every way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The request can't be read in only one way; the text says the rule.
    BadRequest(&'static str),
    /// What the request needs is not there; the text says what.
    NotImplemented(&'static str),
    /// Head too large: bytes or fields.
    HeadTooLarge,
    /// No request head, or no first bytes, in time.
    RequestTimeout,
    /// The client went away.
    DownstreamReset,
    /// The peer showed no certificate that we believe.
    Unauthenticated,
    /// Policy says no.
    Denied,
    /// There is no policy yet; without one nothing is allowed.
    PolicyUnknown,
    /// No service, and passing through is not allowed.
    NoDestination,
    /// A route that references nothing (Gateway API: 500).
    InvalidBackend,
    /// Routes are there, none matches (Gateway API: 404).
    NoRoute,
    /// The service is known and has no endpoint.
    NoEndpoint,
    /// Endpoints are there, none can be used: unready, ejected, or on a network without gateway.
    NoHealthyEndpoint,
    /// The service's endpoints are not known yet.
    EndpointsUnknown,
    /// We have no certificate, or it has ended: no tunnel can be opened.
    NoCertificate,
    /// A circuit limit.
    Overflow,
    /// The upstream could not be reached.
    ConnectFailed,
    /// ... in time.
    ConnectTimeout,
    /// Somebody else answered than the endpoint's identity.
    IdentityMismatch,
    /// The upstream broke the connection or stream off.
    UpstreamReset,
    /// The upstream refused the stream unprocessed (REFUSED_STREAM, GOAWAY).
    UpstreamRefused,
    /// The upstream's answer was malformed; the text says the rule.
    UpstreamProtocol(&'static str),
    /// The request took longer than it may.
    RequestDeadline,
    /// One try took longer than it may.
    TryTimeout,
    /// Not a byte either way for longer than is allowed.
    IdleTimeout,
    /// The connection or request lived as long as it may.
    StreamDeadline,
    /// The gateway got no valid handle.
    NoHandle,
    /// This proxy is going away.
    Draining,
    /// A bug of ours: a panic in this connection.
    Internal,
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller.
    Downstream,
    /// The one called.
    Upstream,
    /// The mesh or its configuration.
    Mesh,
}

/// May it be tried again on another endpoint?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing was processed: every request may.
    Always,
    /// Perhaps it was processed: idempotent requests may.
    Idempotent,
    /// Never.
    Never,
}

impl Failure {
    /// Envoy's response flag, as operators know it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::NotImplemented(_) | Self::HeadTooLarge => "DPE",
            Self::RequestTimeout | Self::IdleTimeout => "SI",
            Self::DownstreamReset => "DC",
            Self::Unauthenticated | Self::Denied | Self::PolicyUnknown => "UAEX",
            Self::NoDestination | Self::NoRoute | Self::InvalidBackend | Self::NoHandle => "NR",
            Self::NoEndpoint | Self::NoHealthyEndpoint | Self::EndpointsUnknown => "UH",
            Self::Overflow | Self::Draining => "UO",
            Self::NoCertificate
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::IdentityMismatch => "UF",
            Self::UpstreamReset | Self::UpstreamRefused => "UC",
            Self::UpstreamProtocol(_) => "UPE",
            Self::RequestDeadline | Self::TryTimeout => "UT",
            Self::StreamDeadline => "DT",
            Self::Internal => "IE",
        }
    }

    /// What an HTTP client is told. 0: nothing, the connection is gone.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::HeadTooLarge => 431,
            Self::RequestTimeout => 408,
            Self::DownstreamReset => 0,
            Self::Unauthenticated | Self::Denied | Self::PolicyUnknown => 403,
            Self::NoRoute => 404,
            Self::InvalidBackend | Self::Internal => 500,
            Self::NotImplemented(_) => 501,
            Self::UpstreamProtocol(_) => 502,
            Self::RequestDeadline | Self::TryTimeout | Self::IdleTimeout | Self::StreamDeadline => {
                504
            }
            Self::NoDestination
            | Self::NoHandle
            | Self::NoEndpoint
            | Self::NoHealthyEndpoint
            | Self::EndpointsUnknown
            | Self::NoCertificate
            | Self::Overflow
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::IdentityMismatch
            | Self::UpstreamReset
            | Self::UpstreamRefused
            | Self::Draining => 503,
        }
    }

    /// Whose fault it was.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Self::BadRequest(_)
            | Self::NotImplemented(_)
            | Self::HeadTooLarge
            | Self::RequestTimeout
            | Self::DownstreamReset
            | Self::Unauthenticated
            | Self::NoHandle
            | Self::Denied => Blame::Downstream,
            Self::PolicyUnknown
            | Self::NoDestination
            | Self::NoRoute
            | Self::InvalidBackend
            | Self::NoEndpoint
            | Self::NoHealthyEndpoint
            | Self::EndpointsUnknown
            | Self::NoCertificate
            | Self::Overflow
            | Self::Draining
            | Self::StreamDeadline
            | Self::Internal => Blame::Mesh,
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::IdentityMismatch
            | Self::UpstreamReset
            | Self::UpstreamRefused
            | Self::UpstreamProtocol(_)
            | Self::RequestDeadline
            | Self::TryTimeout
            | Self::IdleTimeout => Blame::Upstream,
        }
    }

    /// May it be tried again on another endpoint?
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            // To another endpoint a tunnel may be open.
            Self::NoCertificate
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::IdentityMismatch
            | Self::UpstreamRefused => Retry::Always,
            Self::UpstreamReset | Self::UpstreamProtocol(_) | Self::TryTimeout => Retry::Idempotent,
            Self::BadRequest(_)
            | Self::NotImplemented(_)
            | Self::HeadTooLarge
            | Self::RequestTimeout
            | Self::DownstreamReset
            | Self::Unauthenticated
            | Self::Denied
            | Self::PolicyUnknown
            | Self::NoDestination
            | Self::NoHandle
            | Self::NoRoute
            | Self::InvalidBackend
            | Self::NoEndpoint
            | Self::NoHealthyEndpoint
            | Self::EndpointsUnknown
            | Self::Overflow
            | Self::RequestDeadline
            | Self::IdleTimeout
            | Self::StreamDeadline
            | Self::Draining
            | Self::Internal => Retry::Never,
        }
    }

    /// The rule that was broken, where the failure names one.
    #[must_use]
    pub fn why(self) -> Option<&'static str> {
        if let Self::BadRequest(why) | Self::NotImplemented(why) | Self::UpstreamProtocol(why) =
            self
        {
            Some(why)
        } else {
            None
        }
    }

    /// The failure of this [`Self::name`], as another proxy tells it.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        ALL.into_iter().find(|one| one.name().as_bytes() == name)
    }

    /// A short name for metrics and logs, from a fixed set.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::NotImplemented(_) => "not_implemented",
            Self::HeadTooLarge => "head_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::DownstreamReset => "downstream_reset",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::PolicyUnknown => "policy_unknown",
            Self::NoDestination => "no_destination",
            Self::InvalidBackend => "invalid_backend",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::EndpointsUnknown => "endpoints_unknown",
            Self::NoCertificate => "no_certificate",
            Self::Overflow => "overflow",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::IdentityMismatch => "identity_mismatch",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamProtocol(_) => "upstream_protocol",
            Self::RequestDeadline => "request_deadline",
            Self::TryTimeout => "try_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::StreamDeadline => "stream_deadline",
            Self::NoHandle => "no_handle",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }
}

/// Each of them. Where a failure names a rule, it is another proxy's.
const ALL: [Failure; 29] = {
    use Failure::*;
    [
        BadRequest(TOLD),
        NotImplemented(TOLD),
        HeadTooLarge,
        RequestTimeout,
        DownstreamReset,
        Unauthenticated,
        Denied,
        PolicyUnknown,
        NoDestination,
        InvalidBackend,
        NoRoute,
        NoEndpoint,
        NoHealthyEndpoint,
        EndpointsUnknown,
        NoCertificate,
        Overflow,
        ConnectFailed,
        ConnectTimeout,
        IdentityMismatch,
        UpstreamReset,
        UpstreamRefused,
        UpstreamProtocol(TOLD),
        RequestDeadline,
        TryTimeout,
        IdleTimeout,
        StreamDeadline,
        NoHandle,
        Draining,
        Internal,
    ]
};
const TOLD: &str = "as another proxy says";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.why() {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests;
