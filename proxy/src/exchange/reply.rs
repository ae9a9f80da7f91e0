//! What does the mesh say when a request fails?

use isthmus_proxy_core::failure::{Failure, Retry};
use isthmus_proxy_core::message::{BodyLength, Method, ResponseHead};
use isthmus_proxy_core::route::grpc::answer as grpc_answer;

use super::Answer;
use super::feed::send_whole;
use crate::connect::reason;

/// Between proxies: the request reached no application, so whatever it asks for may be asked again.
const UNTOUCHED_FIELD: &[u8] = b"x-mesh-untouched";

/// ... and which failure it was: the reason's id alone says that to nobody but the one who gave it.
const FAILURE_FIELD: &[u8] = b"x-mesh-failure";

/// Another proxy has refused a request.
#[derive(Debug)]
pub struct Refusal {
    /// Why. None: by a name that is not known here.
    pub failure: Option<Failure>,
    /// The id under which it knows more.
    pub reason: String,
    /// The request reached no application.
    pub untouched: bool,
}

/// Who is told of a failure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listener {
    /// It speaks gRPC.
    pub grpc: bool,
    /// It is a proxy of the mesh.
    pub peer: bool,
}

/// Takes off what a peer says of the request beside its answer. None: the answer is its application's.
pub(super) fn take_refusal(head: &mut ResponseHead, peer: bool) -> Option<Box<Refusal>> {
    if !peer {
        return None;
    }
    let failure = match head.fields.get(FAILURE_FIELD) {
        Some(name) => Failure::named(name),
        // Its codec's answer.
        None if head.status == Failure::HeadTooLarge.status() => Some(Failure::HeadTooLarge),
        None => return None,
    };
    let reason = reason(head)?;
    head.fields.remove(FAILURE_FIELD);
    Some(Box::new(Refusal {
        failure,
        reason,
        untouched: head.fields.remove(UNTOUCHED_FIELD),
    }))
}

/// Answers a request that failed before its answer began: the status, the reason's id, and a line
/// of text. gRPC clients get a trailers-only answer.
pub async fn failure(
    answer: &mut Answer,
    failure: Failure,
    reason: &str,
    detail: &str,
    to: Listener,
) {
    let told = |head: &mut ResponseHead| {
        head.fields.push(b"x-mesh-reason", reason.as_bytes());
        if to.peer {
            head.fields.push(FAILURE_FIELD, failure.name().as_bytes());
            if failure.retry() == Retry::Always {
                head.fields.push(UNTOUCHED_FIELD, b"1");
            }
        }
    };
    let text = format!("{} {failure}: {detail}\n", failure.flag());
    if to.grpc {
        let mut head = grpc_answer(failure, text.trim_end());
        told(&mut head);
        return simple(answer, head, b"").await;
    }
    let length = u64::try_from(text.len()).unwrap_or(0);
    let mut head = ResponseHead::new(failure.status(), BodyLength::Exact(length));
    told(&mut head);
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
