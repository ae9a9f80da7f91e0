//! What does the gRPC echo answer? Every message, as it came, each as soon as it is whole.
//!
//! A message is bytes to it: the framing of gRPC over HTTP/2 is all that it knows, so it needs no
//! generated code and echoes any protobuf.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Name;

/// Compressed flag and length before each message (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) const PREFIX_BYTES: usize = 5;
/// Largest message; the default of most implementations.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    ResourceExhausted,
    Unimplemented,
    Internal,
}

impl Status {
    /// The number on the wire (gRPC, statuscodes.md).
    fn code(self) -> HeaderValue {
        match self {
            Self::Ok => HeaderValue::from_static("0"),
            Self::ResourceExhausted => HeaderValue::from_static("8"),
            Self::Unimplemented => HeaderValue::from_static("12"),
            Self::Internal => HeaderValue::from_static("13"),
        }
    }
}

/// Serves one connection.
pub(super) async fn connection(stream: TcpStream, name: Name) {
    let service = service_fn(move |request| {
        let response = answer(request, &name);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    let _closed = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: Request<Incoming>, name: &Name) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let known = matches!(
        request.uri().path(),
        "/isthmus.demo.Echo/Unary" | "/isthmus.demo.Echo/Stream"
    );
    let echo = Echo {
        body: request.into_body(),
        unread: BytesMut::new(),
        state: State::Open,
    };
    let echo = if known {
        echo
    } else {
        Echo {
            state: State::Ending(Status::Unimplemented),
            ..echo
        }
    };
    let mut response =
        Response::new(StreamBody::new(stream::unfold(echo, Echo::next)).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    for (header, value) in [("x-pod", &name.pod), ("x-cluster", &name.cluster)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(header, value);
        }
    }
    response
}

enum State {
    Open,
    /// Trailers are next.
    Ending(Status),
    Over,
}

struct Echo {
    body: Incoming,
    unread: BytesMut,
    state: State,
}

impl Echo {
    /// The next frame of the answer: a message, the trailers, or nothing.
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Self)> {
        loop {
            match self.state {
                State::Over => return None,
                State::Ending(status) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.code());
                    self.state = State::Over;
                    return Some((Ok(Frame::trailers(trailers)), self));
                }
                State::Open => {}
            }
            match take_message(&mut self.unread) {
                Ok(Some(message)) => return Some((Ok(Frame::data(message)), self)),
                Ok(None) => self.read().await,
                Err(TooLarge) => self.state = State::Ending(Status::ResourceExhausted),
            }
        }
    }

    async fn read(&mut self) {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.unread.extend_from_slice(data);
                }
            }
            None if self.unread.is_empty() => self.state = State::Ending(Status::Ok),
            // Ended or broke in the middle of a message.
            None | Some(Err(_)) => self.state = State::Ending(Status::Internal),
        }
    }
}

/// A message says that it is larger than the maximum.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Takes a whole message, with its prefix, from the front. `None`: more bytes are needed.
///
/// # Errors
/// It would be larger than `MESSAGE_BYTES_MAX`.
pub(crate) fn take_message(unread: &mut BytesMut) -> Result<Option<Bytes>, TooLarge> {
    let Some(&[_, a, b, c, d]) = unread.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| TooLarge)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(TooLarge);
    }
    let whole = PREFIX_BYTES + length;
    Ok((unread.len() >= whole).then(|| unread.split_to(whole).freeze()))
}

/// A message with its prefix, uncompressed.
pub(crate) fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + content.len());
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(content);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut unread = BytesMut::new();
        let framed = message(b"hello");
        for &byte in &framed[..framed.len() - 1] {
            unread.extend_from_slice(&[byte]);
            assert_eq!(take_message(&mut unread), Ok(None));
        }
        unread.extend_from_slice(b"o+");
        assert_eq!(take_message(&mut unread), Ok(Some(framed)));
        assert_eq!(&unread[..], b"+");
    }

    #[test]
    fn an_oversized_message_is_refused_by_its_prefix() {
        let mut unread = BytesMut::from(&[0, 0xff, 0, 0, 0][..]);
        assert_eq!(take_message(&mut unread), Err(TooLarge));
    }
}
