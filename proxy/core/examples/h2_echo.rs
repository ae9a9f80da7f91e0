//! A small server on the HTTP/2 codec, for tools like h2spec: it answers every request with its own
//! body, or with a line of text.
//!
//! ```text
//! cargo run -p isthmus-proxy-core --example h2_echo -- 127.0.0.1:8080
//! h2spec -h 127.0.0.1 -p 8080 --strict
//! ```

use std::collections::HashMap;
use std::io;

use isthmus_proxy_core::http2::{Connection, ErrorCode, Event, Role, Settings, StreamId};
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a request without body gets back.
const GREETING: &[u8] = b"across the isthmus\n";
/// The most that is kept of a body, bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What is still to be said on a stream.
#[derive(Default)]
struct Answer {
    body: Vec<u8>,
    whole: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(serve(socket));
    }
}

async fn serve(mut socket: TcpStream) -> io::Result<()> {
    let mut out = Vec::new();
    let mut input = Vec::new();
    let mut http2 = Connection::new(Role::Server, Settings::default(), &mut out);
    let mut answers = HashMap::new();
    loop {
        socket.write_all(&out).await?;
        out.clear();
        http2.flushed();
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut unread = input.as_slice();
        loop {
            match http2.decode(&mut unread, &mut out) {
                Ok(Some(event)) => take(&mut http2, &mut answers, event, &mut out),
                Ok(None) => break,
                Err(_) => {
                    socket.write_all(&out).await?;
                    return socket.shutdown().await;
                }
            }
        }
        let left = unread.len();
        input.drain(..input.len() - left);
        answers.retain(|id, answer| proceed(&mut http2, *id, answer, &mut out));
    }
}

fn take(
    http2: &mut Connection,
    answers: &mut HashMap<StreamId, Answer>,
    event: Event<'_>,
    out: &mut Vec<u8>,
) {
    match event {
        Event::Request { id, head, end } => {
            let body = begin(http2, id, &head, end, out);
            answers.insert(id, Answer { body, whole: end });
        }
        Event::Data { id, data, end } => {
            http2.consumed(id, data.len(), out);
            let Some(answer) = answers.get_mut(&id) else {
                return;
            };
            if answer.body.len() + data.len() > BODY_BYTES_MAX {
                return http2.reset(id, ErrorCode::EnhanceYourCalm, out);
            }
            answer.body.extend_from_slice(data);
            answer.whole = end;
        }
        Event::Trailers { id, .. } => {
            if let Some(answer) = answers.get_mut(&id) {
                answer.whole = true;
            }
        }
        Event::Reset { id, .. } => drop(answers.remove(&id)),
        Event::TooLarge { id, end } => http2.too_large_told((id, end), &Fields::default(), out),
        Event::Refused { .. }
        | Event::Writable { .. }
        | Event::Settings
        | Event::GoAway { .. }
        | Event::Pong(_)
        | Event::Response { .. } => {}
    }
}

fn begin(
    http2: &mut Connection,
    id: StreamId,
    head: &RequestHead,
    end: bool,
    out: &mut Vec<u8>,
) -> Vec<u8> {
    let mut answer = ResponseHead::new(200, BodyLength::Marked);
    answer.fields.push(b"content-type", b"text/plain");
    // The stream was opened a moment ago.
    let _ = http2.respond(id, &answer, false, out);
    if end && head.method != Method::Head {
        GREETING.to_vec()
    } else {
        Vec::new()
    }
}

/// Sends what the windows allow. False: the answer is over.
fn proceed(http2: &mut Connection, id: StreamId, answer: &mut Answer, out: &mut Vec<u8>) -> bool {
    match http2.data(id, &answer.body, answer.whole, out) {
        Ok(sent) => {
            answer.body.drain(..sent);
            http2.is_sending(id)
        }
        Err(_) => false,
    }
}
