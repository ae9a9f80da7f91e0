//! How does one HTTP/1 connection carry one message after another?
//!
//! A connection is a reading half and a writing half. Heads are parsed where they lie in the
//! worker's buffer; a connection keeps only what was read ahead.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http1::{
    BodyReader, Framing, Limits, Piece, ResponseContext, parse_request, parse_response,
    request_framing, response_framing, write_chunk, write_last_chunk, write_request,
    write_response,
};
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, ResponseHead};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::buffer;
use crate::stream::{Broken, Pull};
use crate::tcp::{PENDING_BYTES_MAX, TcpRx, TcpTx};

/// From the first byte of a head to its last (SECURITY: slow heads).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Read ahead of what is being answered, at most: pipelined requests wait in the socket beyond.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// A client that ends its side right after a request waits for the answer; one that does so later
/// leaves.
///
/// HTTP/1.1 has no half-close of clients: RFC 9112 §9.5 asks to watch for a close and to act on it, and
/// a close can't be told from a half-close before something is written. But simple clients do it
/// (`printf … | nc -N`), and have said all that they wanted with the same breath; who gives up waits
/// longer before that. So both get what they expect: the answer, or an application that is told.
const HALF_CLOSE_WINDOW: Duration = Duration::from_millis(250);

/// Makes both halves of a connection.
#[must_use]
pub fn split(io: TcpStream, unread: Vec<u8>) -> (H1Rx, H1Tx) {
    let io = Rc::new(io);
    let rx = H1Rx {
        io: Rc::clone(&io),
        unread,
        body: BodyReader::new(BodyLength::Empty),
        ended: false,
        closed: false,
        listening: false,
    };
    (
        rx,
        H1Tx {
            tcp: TcpTx::new(io),
            framing: Delimited::Plainly,
        },
    )
}

/// The half that is read.
#[derive(Debug)]
pub struct H1Rx {
    io: Rc<TcpStream>,
    unread: Vec<u8>,
    body: BodyReader,
    /// The body's end has been given out.
    ended: bool,
    /// The peer has ended its side.
    closed: bool,
    /// ... and waits for what it has asked for.
    listening: bool,
}

impl H1Rx {
    /// The next request's head; its body follows by pulling. `None`: the client ended between two
    /// requests. Safe to drop: nothing that was read is lost.
    ///
    /// # Errors
    /// The head is malformed, too large, or did not come to its end in time.
    pub async fn request(
        &mut self,
        limits: &Limits,
        idle: Duration,
    ) -> Result<Option<RequestHead>, Broken> {
        if self.unread.is_empty() {
            match timeout(idle, self.io.readable()).await {
                Ok(result) => result?,
                Err(_) => return Ok(None),
            }
        }
        let head = timeout(
            HEAD_TIMEOUT,
            self.head(|bytes| parse_request(bytes, limits)),
        )
        .await
        .map_err(|_| Broken::Timeout)??;
        if let Some(head) = &head {
            self.begin(BodyReader::new(head.body));
        }
        Ok(head)
    }

    /// The next response's head. `None`: the server ended before one. Safe to drop.
    ///
    /// # Errors
    /// The head is malformed or too large.
    pub async fn response(
        &mut self,
        method: &Method,
        limits: &Limits,
    ) -> Result<Option<ResponseHead>, Broken> {
        let head = self
            .head(|bytes| parse_response(bytes, method, limits))
            .await?;
        if let Some(head) = &head {
            self.begin(BodyReader::of_response(head.body));
        }
        Ok(head)
    }

    fn begin(&mut self, body: BodyReader) {
        self.body = body;
        self.ended = false;
    }

    async fn head<H>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(H, usize)>, Failure>,
    ) -> Result<Option<H>, Broken> {
        if let Some(head) = take_head(&mut self.unread, &parse)? {
            return Ok(Some(head));
        }
        loop {
            if self.closed {
                return if self.unread.is_empty() {
                    Ok(None)
                } else {
                    Err(Broken::Reset(None))
                };
            }
            self.io.readable().await?;
            let read = buffer::with(|space| {
                let got = match buffer::read(&self.io, space) {
                    Ok(0) => {
                        self.closed = true;
                        return Ok(None);
                    }
                    Ok(n) => space.get(..n).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(_) => return Err(Broken::Reset(None)),
                };
                if self.unread.is_empty() {
                    // The common case: a whole head in one read, parsed where it lies.
                    let parsed = parse(got).map_err(Broken::Malformed)?;
                    let used = parsed.as_ref().map_or(0, |(_, used)| *used);
                    self.unread
                        .extend_from_slice(got.get(used..).unwrap_or_default());
                    return Ok(parsed.map(|(head, _)| head));
                }
                self.unread.extend_from_slice(got);
                // A head that comes byte by byte is parsed again only at a line's end.
                if got.contains(&b'\n') || self.unread.len() > AHEAD_BYTES_MAX {
                    take_head(&mut self.unread, &parse)
                } else {
                    Ok(None)
                }
            })?;
            if read.is_some() {
                return Ok(read);
            }
        }
    }

    pub(crate) fn try_pull(
        &mut self,
        room: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Pull, Broken> {
        if self.ended {
            return Ok(Pull::End(Fields::default()));
        }
        if !self.unread.is_empty() || self.body.is_done() {
            let mut unread = std::mem::take(&mut self.unread);
            let (used, pull) = pieces(&mut self.body, &unread, room, sink)?;
            buffer::drop_front(&mut unread, used);
            self.unread = unread;
            if !matches!(pull, Pull::Empty) {
                self.ended = matches!(pull, Pull::End(_));
                return Ok(pull);
            }
        }
        if self.closed {
            return self.end_of_input();
        }
        let Self {
            io,
            unread,
            body,
            closed,
            ..
        } = self;
        let pull = buffer::with(|space| {
            // What is left over must fit into `unread`: framing and the next message's beginning.
            let limit = space.len().min(room.saturating_add(FRAMING_BYTES));
            let space = space.get_mut(..limit).unwrap_or_default();
            let got = match buffer::read(io, space) {
                Ok(0) => {
                    *closed = true;
                    return Ok(Pull::Empty);
                }
                Ok(n) => space.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pull::Empty),
                Err(_) => return Err(Broken::Reset(None)),
            };
            if !unread.is_empty() {
                unread.extend_from_slice(got);
                let mut joined = std::mem::take(unread);
                let (used, pull) = pieces(body, &joined, room, sink)?;
                buffer::drop_front(&mut joined, used);
                *unread = joined;
                return Ok(pull);
            }
            let (used, pull) = pieces(body, got, room, sink)?;
            unread.extend_from_slice(got.get(used..).unwrap_or_default());
            Ok(pull)
        })?;
        if self.closed && matches!(pull, Pull::Empty) {
            return self.end_of_input();
        }
        self.ended = matches!(pull, Pull::End(_));
        Ok(pull)
    }

    /// The peer has ended: right for a body until close, a break for every other.
    fn end_of_input(&mut self) -> Result<Pull, Broken> {
        if self.body.end_of_input().is_ok() {
            self.ended = true;
            return Ok(Pull::End(Fields::default()));
        }
        Err(Broken::Reset(None))
    }

    pub(crate) async fn wait(&mut self) -> Result<(), Broken> {
        if !self.ended && !self.closed {
            self.io.readable().await?;
        }
        Ok(())
    }

    /// Waits until the peer leaves; keeps what it sends meanwhile, up to a bound. One that only ends
    /// its side (`HALF_CLOSE_WINDOW`) has not left. Safe to drop.
    pub async fn gone(&mut self) -> Broken {
        self.gone_after(HALF_CLOSE_WINDOW).await
    }

    async fn gone_after(&mut self, window: Duration) -> Broken {
        let mut heard = Instant::now();
        loop {
            if self.closed && !self.listening {
                return Broken::Reset(None);
            }
            if self.closed || self.unread.len() >= AHEAD_BYTES_MAX {
                // It can't leave unseen for long: the write of the answer will tell.
                std::future::pending::<()>().await;
            }
            if self.io.readable().await.is_err() {
                return Broken::Reset(None);
            }
            let read = buffer::with(|space| {
                let limit = AHEAD_BYTES_MAX.saturating_sub(self.unread.len());
                let space = space.get_mut(..limit).unwrap_or_default();
                let read = buffer::read(&self.io, space);
                if let Ok(n) = read {
                    self.unread
                        .extend_from_slice(space.get(..n).unwrap_or_default());
                }
                read
            });
            match read {
                Ok(0) => {
                    self.closed = true;
                    self.listening = heard.elapsed() < window;
                }
                Ok(_) => heard = Instant::now(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.closed = true,
            }
        }
    }

    /// Has the message been read to its end?
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.ended || self.body.is_done()
    }

    /// Is the connection still good for another request? For idle ones: nothing may have come.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0u8; 1];
        !self.closed
            && self.unread.is_empty()
            && matches!(self.io.try_read(&mut byte), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Gives up what was read ahead.
    pub fn forget(&mut self) {
        self.unread = Vec::new();
    }

    /// The bytes of the connection from here on, without messages: after an upgrade.
    #[must_use]
    pub fn into_tcp(self) -> TcpRx {
        TcpRx::new(self.io, self.unread)
    }
}

/// Room for chunk framing beside the content that was asked for.
const FRAMING_BYTES: usize = 4 * 1024;

fn take_head<H>(
    unread: &mut Vec<u8>,
    parse: &impl Fn(&[u8]) -> Result<Option<(H, usize)>, Failure>,
) -> Result<Option<H>, Broken> {
    if unread.is_empty() {
        return Ok(None);
    }
    let parsed = parse(unread).map_err(Broken::Malformed)?;
    Ok(parsed.map(|(head, used)| {
        buffer::drop_front(unread, used);
        head
    }))
}

/// Cuts the body's content out of `input`: how many bytes were used, and what came of it.
fn pieces(
    body: &mut BodyReader,
    input: &[u8],
    room: usize,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<(usize, Pull), Broken> {
    let mut used = 0;
    let mut given = 0;
    while given < room {
        let rest = input.get(used..).unwrap_or_default();
        match body
            .next_within(rest, room - given)
            .map_err(Broken::Malformed)?
        {
            Piece::NeedMore => break,
            Piece::Data { skip, data } => {
                let start = used + skip;
                sink(input.get(start..start + data).unwrap_or_default());
                used = start + data;
                given += data;
            }
            Piece::End { consumed, trailers } => {
                return Ok((used + consumed, Pull::End(trailers)));
            }
        }
    }
    Ok((used, if given > 0 { Pull::Data } else { Pull::Empty }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    /// As many bytes as the head said, or until close: bytes as they are.
    Plainly,
    ByChunks,
    /// By nothing: there is no content, whatever is pushed.
    Away,
}

impl Delimited {
    fn of(framing: Framing) -> Self {
        match framing {
            Framing::Exact(_) | Framing::Close => Self::Plainly,
            Framing::Chunked => Self::ByChunks,
            Framing::None => Self::Away,
        }
    }
}

/// The half that is written.
#[derive(Debug)]
pub struct H1Tx {
    tcp: TcpTx,
    framing: Delimited,
}

impl H1Tx {
    /// Adds a request's head; it goes out with the first bytes of the body or the next flush.
    pub fn request(&mut self, head: &RequestHead) {
        self.framing = Delimited::of(request_framing(head));
        write_request(head, self.tcp.pending());
    }

    /// Adds a response's head; it goes out with the first bytes of the body or the next flush.
    pub fn response(&mut self, head: &ResponseHead, to: &ResponseContext) {
        self.framing = Delimited::of(response_framing(head, to));
        write_response(head, to, self.tcp.pending());
    }

    pub(crate) async fn ready(&mut self) -> Result<usize, Broken> {
        // Chunks are copied: no more of them than may wait.
        Ok(self.tcp.ready().await?.min(PENDING_BYTES_MAX))
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        match self.framing {
            Delimited::Plainly => self.tcp.push(data),
            Delimited::ByChunks => write_chunk(data, self.tcp.pending()),
            Delimited::Away => {}
        }
    }

    pub(crate) fn finish(&mut self, trailers: &Fields) {
        if self.framing == Delimited::ByChunks {
            write_last_chunk(trailers, self.tcp.pending());
            self.framing = Delimited::Plainly;
        }
        self.tcp.flush();
    }

    pub(crate) fn flush(&mut self) -> bool {
        self.tcp.flush()
    }

    pub(crate) async fn drained(&mut self) -> Result<(), Broken> {
        self.tcp.drained().await
    }

    pub(crate) fn abort(&mut self) {
        self.tcp.abort();
    }

    /// Ends our side of the connection, when all is written.
    pub fn close(&mut self) {
        self.tcp.finish();
    }

    /// The bytes of the connection from here on, without messages: after an upgrade.
    #[must_use]
    pub fn into_tcp(self) -> TcpTx {
        self.tcp
    }
}

#[cfg(test)]
mod tests;
