//! What can be read from and written to, whatever carries it?
//!
//! A body or a byte stream has two halves: `Rx` is pulled, `Tx` is pushed. Pulling and pushing are
//! synchronous and work in place; only waiting is asynchronous. So backpressure is end to end: a
//! relay asks the sink for room first, and pulls no more than that.

use isthmus_proxy_core::detect::{DETECT_BYTES_MAX, Detected, Greeting, detect};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::message::Fields;

use crate::h1::{H1Rx, H1Tx};
use crate::h2::{StreamRx, StreamTx};
use crate::tcp::{TcpRx, TcpTx, Unfinished};

/// What a pull gave.
#[derive(Debug)]
pub enum Pull {
    /// Some bytes went to the sink.
    Data,
    /// Nothing is there now.
    Empty,
    /// It is over; the trailers, where there are any.
    End(Fields),
}

/// How a half ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The connection or stream was broken off, with this code where it was a stream.
    Reset(Option<ErrorCode>),
    /// Refused before anything was processed.
    Refused,
    /// What came can't be read.
    Malformed(Failure),
    /// Nothing came for too long.
    Timeout,
}

impl Broken {
    /// It was the side that asks.
    #[must_use]
    pub fn downstream(self) -> Failure {
        match self {
            Self::Reset(_) | Self::Refused => Failure::DownstreamReset,
            Self::Malformed(failure) => failure,
            Self::Timeout => Failure::RequestTimeout,
        }
    }

    /// It was the side that answers.
    #[must_use]
    pub fn upstream(self) -> Failure {
        match self {
            Self::Reset(_) => Failure::UpstreamReset,
            Self::Refused => Failure::UpstreamRefused,
            Self::Malformed(failure) => Failure::UpstreamProtocol(match failure.why() {
                Some(why) => why,
                None => failure.name(),
            }),
            Self::Timeout => Failure::IdleTimeout,
        }
    }

    /// The code to pass on, where the other side speaks HTTP/2.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Reset(code) => code.unwrap_or(ErrorCode::Cancel),
            Self::Refused => ErrorCode::RefusedStream,
            Self::Malformed(_) => ErrorCode::ProtocolError,
            Self::Timeout => ErrorCode::Cancel,
        }
    }
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self::Reset(None)
    }
}

/// The half that is read.
#[derive(Debug)]
pub enum Rx {
    /// Bytes of a connection.
    Tcp(TcpRx),
    /// The body of a message on an HTTP/1 connection.
    H1(H1Rx),
    /// A stream of an HTTP/2 connection.
    H2(StreamRx),
    /// Bytes that began with a word, and are no HTTP for sure only by what follows.
    Worded(Box<Worded>),
}

/// The half of a client that has said a word and then waited, so that it was taken for no HTTP.
#[derive(Debug)]
pub struct Worded {
    rx: Rx,
    /// What was pulled, until that is clear.
    seen: Vec<u8>,
    is_clear: bool,
}

/// May these first bytes, after which their client waited, still be HTTP's?
pub(crate) fn is_unsure(first: &[u8]) -> bool {
    !first.is_empty() && detect(first).is_none()
}

/// Why such a client is cut.
const HTTP_BEHIND_A_WORD: &str = "a request whose first word came alone and long before the rest";

impl Worded {
    fn try_pull(&mut self, room: usize, sink: &mut dyn FnMut(&[u8])) -> Result<Pull, Broken> {
        if self.is_clear {
            return self.rx.try_pull(room, sink);
        }
        let begun = self.seen.len();
        let seen = &mut self.seen;
        let room = room.min(DETECT_BYTES_MAX);
        let pulled = self
            .rx
            .try_pull(room, &mut |data| seen.extend_from_slice(data))?;
        match detect(&self.seen) {
            Some(Detected::Http1 | Detected::Http2) => {
                let why = Failure::BadRequest(HTTP_BEHIND_A_WORD);
                return Err(Broken::Malformed(why));
            }
            Some(Detected::Tls | Detected::Opaque) => self.is_clear = true,
            None => {}
        }
        let more = self.seen.get(begun..).unwrap_or_default();
        if !more.is_empty() {
            sink(more);
        }
        Ok(pulled)
    }
}

impl Rx {
    /// The same half, whose client has said a word that may still be HTTP, of which `seen` was pulled already: where
    /// it turns out to be that, it is cut. Applications believe what proxies say in requests.
    #[must_use]
    pub fn worded(self, seen: &[u8]) -> Self {
        Self::Worded(Box::new(Worded {
            rx: self,
            seen: seen.to_vec(),
            is_clear: false,
        }))
    }

    /// Gives at most `room` bytes of what is there to `sink`.
    ///
    /// # Errors
    /// The half broke.
    pub fn try_pull(&mut self, room: usize, sink: &mut dyn FnMut(&[u8])) -> Result<Pull, Broken> {
        match self {
            Self::Tcp(rx) => rx.try_pull(room, sink),
            Self::H1(rx) => rx.try_pull(room, sink),
            Self::H2(rx) => rx.try_pull(room, sink),
            Self::Worded(worded) => worded.try_pull(room, sink),
        }
    }

    /// Waits until a pull may give something. Safe to drop.
    ///
    /// # Errors
    /// The half broke.
    pub async fn wait(&mut self) -> Result<(), Broken> {
        match self {
            Self::Tcp(rx) => rx.wait().await,
            Self::H1(rx) => rx.wait().await,
            Self::H2(rx) => rx.wait().await,
            Self::Worded(worded) => Box::pin(worded.rx.wait()).await,
        }
    }
}

impl Rx {
    /// Waits until the other side has said something, and looks at it. None: it ended without a word.
    /// Nothing is taken. Safe to drop.
    ///
    /// # Errors
    /// The half broke.
    pub async fn spoke(&mut self) -> Result<Option<Greeting>, Broken> {
        match self {
            Self::Tcp(rx) => rx.spoke().await,
            Self::H1(rx) => rx.wait().await.map(|()| Some(Greeting::Http1)),
            Self::H2(rx) => rx.wait().await.map(|()| rx.greeting()),
            Self::Worded(worded) => Box::pin(worded.rx.spoke()).await,
        }
    }
}

/// The half that is written.
#[derive(Debug)]
pub enum Tx {
    /// Bytes of a connection.
    Tcp(TcpTx),
    /// The body of a message on an HTTP/1 connection.
    H1(H1Tx),
    /// A stream of an HTTP/2 connection.
    H2(StreamTx),
}

impl Tx {
    /// Waits until there is room, and says how many bytes may be pushed. Safe to drop.
    ///
    /// # Errors
    /// The half broke.
    pub async fn ready(&mut self) -> Result<usize, Broken> {
        match self {
            Self::Tcp(tx) => tx.ready().await,
            Self::H1(tx) => tx.ready().await,
            Self::H2(tx) => tx.ready().await,
        }
    }

    /// Adds bytes, no more than there was room for.
    pub fn push(&mut self, data: &[u8]) {
        match self {
            Self::Tcp(tx) => tx.push(data),
            Self::H1(tx) => tx.push(data),
            Self::H2(tx) => tx.push(data),
        }
    }

    /// Marks the end, with trailers where the carrier has them.
    pub fn finish(&mut self, trailers: &Fields) {
        match self {
            Self::Tcp(tx) => tx.finish(),
            Self::H1(tx) => tx.finish(trailers),
            Self::H2(tx) => tx.finish(trailers),
        }
    }

    /// Hands what was pushed to the system as far as it takes it. True: nothing is left here.
    pub fn flush(&mut self) -> bool {
        match self {
            Self::Tcp(tx) => tx.flush(),
            Self::H1(tx) => tx.flush(),
            // The tunnel writes when the turn ends, for all of its streams together.
            Self::H2(_) => true,
        }
    }

    /// Waits until everything pushed has been handed to the system. Safe to drop.
    ///
    /// # Errors
    /// The half broke.
    pub async fn drained(&mut self) -> Result<(), Broken> {
        match self {
            Self::Tcp(tx) => tx.drained().await,
            Self::H1(tx) => tx.drained().await,
            Self::H2(_) => Ok(()),
        }
    }

    /// Sees to it that a socket is reset if what it carries is dropped before its end. A stream does that
    /// itself.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        match self {
            Self::Tcp(tx) => Some(tx.unfinished()),
            Self::H1(_) | Self::H2(_) => None,
        }
    }

    /// Ends it with an error that the other side can see.
    pub fn reset(&mut self, code: ErrorCode) {
        match self {
            Self::Tcp(tx) => tx.abort(),
            Self::H1(tx) => tx.abort(),
            Self::H2(tx) => tx.reset(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::worker::tests::pair;

    /// What comes of `word`, heard and handed on, and of `rest` behind it.
    async fn behind(word: &[u8], rest: &[&[u8]]) -> Result<Vec<u8>, Broken> {
        let (mut client, io) = pair().await;
        let (rx, _tx) = crate::tcp::split(io);
        let mut rx = Rx::Tcp(rx);
        if is_unsure(word) {
            rx = rx.worded(word);
        }
        let mut pulled = Vec::new();
        for piece in rest {
            client.write_all(piece).await.unwrap();
            let before = pulled.len();
            while pulled.len() < before + piece.len() {
                rx.wait().await?;
                rx.try_pull(1024, &mut |data| pulled.extend_from_slice(data))?;
            }
        }
        Ok(pulled)
    }

    #[tokio::test]
    async fn a_request_in_pieces_is_no_stream_of_bytes() {
        for (word, rest) in [
            ("GE", &["T / HTTP/1.1\r\n"][..]),
            ("G", &["E", "T", " /", " HTTP/1.1\r\n"]),
            ("PR", &["I * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
        ] {
            let rest: Vec<&[u8]> = rest.iter().map(|piece| piece.as_bytes()).collect();
            let said = behind(word.as_bytes(), &rest).await;
            assert!(matches!(said, Err(Broken::Malformed(_))), "{word} {said:?}");
        }
        for (word, rest) in [
            ("hello", &["world\n", "GET / HTTP/1.1\r\n"][..]),
            ("PI", &["NG\r\n"]),
            ("", &["GET / HTTP/1.1\r\n"]),
            ("\0", &["GET / HTTP/1.1\r\n"]),
        ] {
            let rest: Vec<&[u8]> = rest.iter().map(|piece| piece.as_bytes()).collect();
            assert_eq!(
                behind(word.as_bytes(), &rest).await,
                Ok(rest.concat()),
                "{word}"
            );
        }
    }
}
