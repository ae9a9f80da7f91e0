//! How does web speak gRPC, TCP and Redis? Just enough of each to see that it crosses.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::app::grpc::{TooLarge, message, take_message};

/// Longest time for one exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest line that a server may greet with.
const LINE_BYTES_MAX: usize = 1_024;

/// A TCP connection to the echo.
#[derive(Debug)]
pub(crate) struct TcpCaller {
    stream: TcpStream,
}

impl TcpCaller {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let connected = timeout(EXCHANGE_TIMEOUT, TcpStream::connect(to)).await;
        let stream = connected.context("connecting took too long")?;
        Ok(Self {
            stream: stream.with_context(|| format!("connecting to {to}"))?,
        })
    }

    /// Sends a text and waits for the same text.
    ///
    /// # Errors
    /// The connection ends, or something else comes back.
    pub(crate) async fn echo(&mut self, text: &str) -> anyhow::Result<()> {
        let exchange = async {
            self.stream
                .write_all(text.as_bytes())
                .await
                .context("sending")?;
            let mut back = vec![0_u8; text.len()];
            self.stream
                .read_exact(&mut back)
                .await
                .context("reading the echo")?;
            ensure!(back == text.as_bytes(), "another text came back");
            Ok(())
        };
        timeout(EXCHANGE_TIMEOUT, exchange)
            .await
            .context("no echo in time")?
    }

    /// Reads a line before anything is sent.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        let read = async {
            while line.len() < LINE_BYTES_MAX {
                match self.stream.read_u8().await.context("reading a line")? {
                    b'\n' => break,
                    byte => line.push(byte),
                }
            }
            anyhow::Ok(())
        };
        timeout(EXCHANGE_TIMEOUT, read)
            .await
            .context("nobody spoke")??;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Waits until the other side ends the connection, and says when.
    ///
    /// # Errors
    /// It stays open for `within`.
    pub(crate) async fn until_closed(&mut self, within: Duration) -> anyhow::Result<Instant> {
        let closed = async {
            let mut buffer = [0_u8; 256];
            while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {}
            Instant::now()
        };
        let at = timeout(within, closed).await;
        at.with_context(|| format!("was not closed within {} s", within.as_secs()))
    }
}

/// One gRPC call: a message there, the same back, status 0.
///
/// # Errors
/// Anything else.
pub(crate) async fn grpc_unary(to: SocketAddr, host: &str, content: &[u8]) -> anyhow::Result<()> {
    let frames = stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(message(
        content,
    )))]);
    let response = grpc(to, host, "Unary", StreamBody::new(frames)).await?;
    let mut answer = Answer::new(response)?;
    ensure!(
        answer.next().await?.as_deref() == Some(&message(content)[..]),
        "another message came back"
    );
    ensure!(answer.next().await?.is_none(), "a second message came back");
    answer.is_ok()
}

/// One gRPC stream: `messages` there and back, each awaited before the next is sent.
///
/// # Errors
/// A message does not come back while the stream is open, or the status is not 0.
pub(crate) async fn grpc_stream(to: SocketAddr, host: &str, messages: usize) -> anyhow::Result<()> {
    let (send, receive) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(receive, |mut receive| async move {
        let next = receive.recv().await?;
        Some((
            Ok::<_, std::convert::Infallible>(Frame::data(next)),
            receive,
        ))
    });
    let opening = grpc(to, host, "Stream", StreamBody::new(Box::pin(frames)));
    // The server may wait for the first message before it answers at all.
    send.send(message(b"message 0"))
        .await
        .context("the stream is closed")?;
    let mut answer = Answer::new(opening.await?)?;
    for number in 0..messages {
        let expected = message(format!("message {number}").as_bytes());
        let back = answer
            .next()
            .await
            .with_context(|| format!("message {number}"))?;
        ensure!(
            back.as_ref() == Some(&expected),
            "message {number} did not come back"
        );
        if number + 1 < messages {
            let next = message(format!("message {}", number + 1).as_bytes());
            send.send(next).await.context("the stream is closed")?;
        }
    }
    drop(send);
    ensure!(
        answer.next().await?.is_none(),
        "more messages came back than were sent"
    );
    answer.is_ok()
}

async fn grpc<B>(
    to: SocketAddr,
    host: &str,
    call: &str,
    body: B,
) -> anyhow::Result<Response<Incoming>>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + Send + 'static,
{
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    let (mut send, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Ends with the call: nobody else has the sender.
    tokio::spawn(async move {
        let _closed = connection.await;
    });
    let request = Request::post(format!("http://{host}/isthmus.demo.Echo/{call}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    send.send_request(request).await.context("calling")
}

/// The messages of an answer, then its trailers.
struct Answer {
    body: Incoming,
    unread: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn new(response: Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = response.into_parts();
        ensure!(head.status.is_success(), "status {}", head.status);
        // An error may come without a body: its trailers are the headers then.
        let trailers = head
            .headers
            .contains_key("grpc-status")
            .then_some(head.headers);
        Ok(Self {
            body,
            unread: BytesMut::new(),
            trailers,
        })
    }

    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            match take_message(&mut self.unread) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(TooLarge) => bail!("a message is too large"),
            }
            let frame = timeout(EXCHANGE_TIMEOUT, self.body.frame())
                .await
                .context("no message in time")?;
            let Some(frame) = frame else { return Ok(None) };
            match frame.context("reading the answer")?.into_data() {
                Ok(data) => self.unread.extend_from_slice(&data),
                Err(other) => self.trailers = other.into_trailers().ok(),
            }
        }
    }

    fn is_ok(&self) -> anyhow::Result<()> {
        let trailers = self
            .trailers
            .as_ref()
            .context("the answer has no trailers")?;
        let status = trailers
            .get("grpc-status")
            .context("the trailers have no grpc-status")?;
        ensure!(
            status == "0",
            "grpc-status {status:?}, {:?}",
            trailers.get("grpc-message")
        );
        Ok(())
    }
}

/// SET, GET and DEL of one key, in Redis' own protocol.
///
/// # Errors
/// The server says something else than expected.
pub(crate) async fn redis(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    let exchanges: [(&[&str], &str); 4] = [
        (&["PING"], "+PONG\r\n"),
        (&["SET", "isthmus", "from east"], "+OK\r\n"),
        (&["GET", "isthmus"], "$9\r\nfrom east\r\n"),
        (&["DEL", "isthmus"], ":1\r\n"),
    ];
    for (command, expected) in exchanges {
        stream.write_all(&resp(command)).await.context("sending")?;
        let mut reply = vec![0_u8; expected.len()];
        let read = timeout(EXCHANGE_TIMEOUT, stream.read_exact(&mut reply)).await;
        read.context("no reply in time")?
            .with_context(|| format!("reply to {}", command.join(" ")))?;
        let reply = String::from_utf8_lossy(&reply);
        ensure!(
            reply == expected,
            "{} was answered {reply:?}",
            command.join(" ")
        );
    }
    Ok(())
}

/// A command as an array of bulk strings (RESP2).
fn resp(command: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_its_words() {
        assert_eq!(
            resp(&["GET", "isthmus"]),
            b"*2\r\n$3\r\nGET\r\n$7\r\nisthmus\r\n"
        );
    }
}
