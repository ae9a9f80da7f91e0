//! What is answered to a request that is no gRPC?
//!
//! A whole answer of HTTP, whatever it asks for, and only after the request has been read to its
//! end, within bounds: an answer in the middle resets the stream under a client that still sends, and
//! hides from the codec what is wrong with the rest.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;

/// So much is read of a request that is no gRPC ...
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// ... for so long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const TEXT: &str = "415 this port is for the proxies of the mesh: it speaks gRPC\n";

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Gives these routes gRPC and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct OnlyGrpc(pub(crate) Routes);

impl Service<Request<Body>> for OnlyGrpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        if is_grpc(&request) {
            return Box::pin(self.0.call(request));
        }
        Box::pin(async move {
            let mut body = Limited::new(request.into_body(), REQUEST_BYTES_MAX);
            let reading = async { while let Some(Ok(_)) = body.frame().await {} };
            // Whoever sends more than that, or does not come to an end, is answered nevertheless.
            let _ = timeout(REQUEST_TIMEOUT, reading).await;
            Ok(refusal())
        })
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// gRPC over HTTP/2, Requests: whose content type is not application/grpc should get 415.
fn refusal() -> Response<Body> {
    let text = Full::new(Bytes::from_static(TEXT.as_bytes()));
    let mut answer = Response::new(Body::new(text));
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio_stream::wrappers::ReceiverStream;
    use tokio_stream::{Stream, iter, pending};

    use super::*;

    type Piece = Result<Frame<Bytes>, Infallible>;

    fn request(pieces: impl Stream<Item = Piece> + Send + 'static) -> Request<Body> {
        Request::post("/a/b")
            .body(Body::new(StreamBody::new(pieces)))
            .unwrap()
    }

    fn asked(request: Request<Body>) -> Answering {
        OnlyGrpc(Routes::default()).call(request)
    }

    #[tokio::test]
    async fn it_is_answered_when_it_has_ended() {
        let (send, receive) = tokio::sync::mpsc::channel::<Piece>(1);
        let mut answering = asked(request(ReceiverStream::new(receive)));
        send.send(Ok(Frame::data("half of it".into())))
            .await
            .unwrap();
        let waits = poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx).is_pending()));
        assert!(waits.await);
        drop(send);
        let answer = answering.await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, TEXT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_end_is_answered_in_the_end() {
        let begun = tokio::time::Instant::now();
        let answer = asked(request(pending())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(begun.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
        // And however fast it comes, it is not read for so long.
        let begun = tokio::time::Instant::now();
        let piece = || Ok(Frame::data(Bytes::from_static(&[0; 1024])));
        let answer = asked(request(iter(std::iter::repeat_with(piece)))).await;
        assert_eq!(answer.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_method_that_is_none_is_said_in_grpcs_own_words() {
        for kind in ["application/grpc", "application/grpc+proto"] {
            let request = Request::post("/a/b").header(CONTENT_TYPE, kind);
            let answer = asked(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{kind}");
            assert_eq!(answer.headers()["grpc-status"], "12", "{kind}");
        }
    }
}
