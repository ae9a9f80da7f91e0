//! How does a gRPC client hear of a failure?
//!
//! As a response without a body whose head carries the status ("Trailers-Only", gRPC over
//! HTTP/2, Responses): a client library would turn a bare HTTP status into a guess.

use crate::failure::Failure;
use crate::message::{BodyLength, RequestHead, ResponseHead};

/// Longest `grpc-message` that is written, in bytes before escaping.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// A gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the codes")]
pub enum GrpcStatus {
    Unknown,
    DeadlineExceeded,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
    Internal,
    Unavailable,
    Unauthenticated,
}

impl GrpcStatus {
    /// The number (gRPC, statuscodes.md).
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Unknown => 2,
            Self::DeadlineExceeded => 4,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// What a gRPC client would make of a bare HTTP status (gRPC, http-grpc-status-mapping.md).
    #[must_use]
    pub fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What a failure of ours is to a gRPC client: the mapping of its HTTP status, except where
    /// gRPC has a better word.
    #[must_use]
    pub fn of(failure: Failure) -> Self {
        match failure {
            Failure::RequestDeadline
            | Failure::StreamDeadline
            | Failure::TryTimeout
            | Failure::RequestTimeout => Self::DeadlineExceeded,
            Failure::HeadTooLarge => Self::ResourceExhausted,
            Failure::Internal => Self::Internal,
            Failure::NotImplemented(_) => Self::Unimplemented,
            // Gateway API v1, GRPCRouteRule.backendRefs: "MUST receive an UNAVAILABLE status".
            Failure::InvalidBackend => Self::Unavailable,
            Failure::BadRequest(_)
            | Failure::DownstreamReset
            | Failure::Unauthenticated
            | Failure::Denied
            | Failure::PolicyUnknown
            | Failure::NoDestination
            | Failure::NoRoute
            | Failure::NoEndpoint
            | Failure::NoHealthyEndpoint
            | Failure::EndpointsUnknown
            | Failure::NoCertificate
            | Failure::Overflow
            | Failure::ConnectFailed
            | Failure::ConnectTimeout
            | Failure::IdentityMismatch
            | Failure::UpstreamReset
            | Failure::UpstreamRefused
            | Failure::UpstreamProtocol(_)
            | Failure::IdleTimeout
            | Failure::NoHandle
            | Failure::Draining => Self::of_http(failure.status()),
        }
    }
}

/// Is this a gRPC request: `content-type: application/grpc`, perhaps with `+` or `;`?
#[must_use]
pub fn is_grpc(head: &RequestHead) -> bool {
    let Some(rest) = head
        .fields
        .get(b"content-type")
        .and_then(|value| value.split_at_checked(b"application/grpc".len()))
        .filter(|(start, _)| start.eq_ignore_ascii_case(b"application/grpc"))
        .map(|(_, rest)| rest)
    else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The answer to a gRPC request that failed. The caller adds the reason id.
#[must_use]
pub fn answer(failure: Failure, message: &str) -> ResponseHead {
    let mut head = ResponseHead::new(200, BodyLength::Empty);
    head.fields.push(b"content-type", b"application/grpc");
    let code = GrpcStatus::of(failure).code().to_string();
    head.fields.push(b"grpc-status", code.as_bytes());
    head.fields
        .push(b"grpc-message", escape(message).as_bytes());
    head
}

/// `Status-Message` of gRPC over HTTP/2: bytes outside of 0x20 to 0x7E, and `%`, are escaped.
fn escape(message: &str) -> String {
    let mut escaped = String::with_capacity(message.len());
    for byte in message.bytes().take(MESSAGE_BYTES_MAX) {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Fields, Method, Version};

    fn request(content_type: &[u8]) -> RequestHead {
        let mut fields = Fields::default();
        fields.push(b"content-type", content_type);
        RequestHead {
            method: Method::Post,
            version: Version::Http2,
            https: false,
            authority: b"cart".to_vec(),
            path: b"/shop.Cart/Get".to_vec(),
            protocol: Vec::new(),
            fields,
            body: BodyLength::Marked,
            keep_alive: true,
            expects_continue: false,
        }
    }

    #[test]
    fn a_grpc_request_is_known_by_its_content_type() {
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC; a=b",
        ] {
            assert!(is_grpc(&request(yes.as_bytes())), "{yes}");
        }
        for no in [
            "application/grpc-web",
            "application/json",
            "application/grp",
            "",
        ] {
            assert!(!is_grpc(&request(no.as_bytes())), "{no}");
        }
    }

    #[test]
    fn a_failure_becomes_a_status_and_an_escaped_message() {
        let head = answer(Failure::NoHealthyEndpoint, "100% gone\nü");
        assert_eq!((head.status, head.body), (200, BodyLength::Empty));
        assert_eq!(head.fields.get(b"grpc-status"), Some(b"14".as_slice()));
        let message = b"100%25 gone%0A%C3%BC".as_slice();
        assert_eq!(head.fields.get(b"grpc-message"), Some(message));
    }

    #[test]
    fn failures_map_as_grpc_says() {
        for (failure, code) in [
            (Failure::Denied, 7),
            (Failure::PolicyUnknown, 7),
            (Failure::NoRoute, 12),
            (Failure::UpstreamReset, 14),
            (Failure::RequestDeadline, 4),
            (Failure::TryTimeout, 4),
            (Failure::BadRequest("x"), 13),
            (Failure::NotImplemented("x"), 12),
            (Failure::InvalidBackend, 14),
            (Failure::HeadTooLarge, 8),
        ] {
            assert_eq!(GrpcStatus::of(failure).code(), code, "{failure}");
        }
    }
}
