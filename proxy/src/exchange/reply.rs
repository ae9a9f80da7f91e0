//! What does the mesh say when a request fails?

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::{BodyLength, Method, ResponseHead};
use isthmus_proxy_core::route::grpc::answer as grpc_answer;

use super::Answer;
use super::feed::send_whole;

/// Answers a request that failed before its answer began: the status, the reason's id, and a line
/// of text. gRPC clients get a trailers-only answer.
pub async fn failure(
    answer: &mut Answer,
    failure: Failure,
    reason: &str,
    detail: &str,
    grpc: bool,
) {
    let text = format!("{} {failure}: {detail}\n", failure.flag());
    if grpc {
        let mut head = grpc_answer(failure, text.trim_end());
        head.fields.push(b"x-mesh-reason", reason.as_bytes());
        return simple(answer, head, b"").await;
    }
    let length = u64::try_from(text.len()).unwrap_or(0);
    let mut head = ResponseHead::new(failure.status(), BodyLength::Exact(length));
    head.fields.push(b"x-mesh-reason", reason.as_bytes());
    head.fields
        .push(b"content-type", b"text/plain; charset=utf-8");
    head.fields
        .push(b"content-length", length.to_string().as_bytes());
    let body = if answer.context.method == Method::Head {
        ""
    } else {
        text.as_str()
    };
    simple(answer, head, body.as_bytes()).await;
}

/// Sends a whole answer of our own.
pub async fn simple(answer: &mut Answer, mut head: ResponseHead, body: &[u8]) {
    if answer.respond(&mut head, body.is_empty()).await.is_err() {
        return;
    }
    // A client that is gone needs no answer.
    let _ = if body.is_empty() {
        answer.tx.drained().await
    } else {
        send_whole(&mut answer.tx, body).await
    };
}
