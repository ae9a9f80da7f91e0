//! How is one TLS connection driven by hand?
//!
//! By rustls' unbuffered API: records are decrypted where they were read, in the worker's buffer,
//! and encrypted into it, and an idle connection holds no buffer. What rustls says comes as states;
//! `Tls::advance` is the one place that obeys them, for both sides, in the handshake and after.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use tokio::net::TcpStream;

use super::{Progress, Sink};
use crate::buffer;

/// Plaintext that is encrypted at once: eight records, which fit the worker's buffer encrypted.
const WRITE_BYTES_MAX: usize = 8 * 16 * 1024;
/// Fixed by the protocol: plaintext of a record, and what it is longer by when it is encrypted.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 22;
/// Read at once: what the peer writes at once, twice. (All of the worker's buffer would be more
/// than a processor's nearest caches hold of each copy that is made on the way.)
const READ_BYTES: usize = 128 * 1024;
/// What may wait for its rest: a record, or the records of one message of a handshake.
const REST_BYTES_MAX: usize = 96 * 1024;
/// Read at once in a handshake.
const HANDSHAKE_READ_BYTES: usize = 16 * 1024;

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Plaintext that fits so many bytes encrypted.
pub(super) fn plain_in(bytes: usize) -> usize {
    let records = bytes.div_ceil(RECORD_BYTES_MAX + RECORD_OVERHEAD);
    bytes.saturating_sub(records * RECORD_OVERHEAD)
}

/// One TLS connection: what rustls knows of it, and the bytes that can't go on yet.
pub struct Tls {
    side: Side,
    /// Read and not used: the beginning of a record.
    rest: Vec<u8>,
    /// Decrypted before the handshake was announced complete.
    early: Vec<u8>,
    /// Encrypted, and not taken by the socket: all after the first `sent` bytes.
    wire: Vec<u8>,
    sent: usize,
    /// The peer broke a rule: nothing goes on but the alert that says so.
    failed: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls(rest {}, wire {})", self.rest.len(), self.wire.len())
    }
}

/// What came of some steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There may be another.
    Again,
    /// More must be read.
    Blocked,
    /// Data may be written; to go on, more must be read.
    Ready,
    /// The peer has ended.
    Ended,
}

/// Whose fault?
enum Fault {
    /// The peer's.
    Tls(io::Error),
    /// Of whom the bytes were given to.
    Sink(io::Error),
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

impl Tls {
    /// Shakes hands as the client.
    ///
    /// # Errors
    /// The socket broke, or there is no agreement with that peer: a `rustls::Error` inside.
    pub async fn connect(
        io: &TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let client = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Self::new(Side::Client(client)).shake_hands(io).await
    }

    /// Shakes hands as the server.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub async fn accept(io: &TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let server = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::new(Side::Server(server)).shake_hands(io).await
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            rest: Vec::new(),
            early: Vec::new(),
            wire: Vec::new(),
            sent: 0,
            failed: false,
        }
    }

    async fn shake_hands(mut self, io: &TcpStream) -> io::Result<Self> {
        let mut early = Vec::new();
        loop {
            let mut input = std::mem::take(&mut self.rest);
            let (used, step) = self.advance(&mut input, &mut |plain| {
                // Kept: nothing is decoded before the caller has looked who the peer is.
                early.extend_from_slice(plain);
                Ok(())
            });
            input.drain(..used);
            self.rest = input;
            match step {
                Ok(Step::Ended) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(Fault::Tls(error) | Fault::Sink(error)) => {
                    self.fail(io);
                    return Err(error);
                }
            }
            while !self.flush(io)? {
                io.writable().await?;
            }
            if !self.is_handshaking() {
                self.early = early;
                self.rest.shrink_to_fit();
                return Ok(self);
            }
            while !self.read_more(io)? {
                io.readable().await?;
            }
        }
    }

    /// Adds to `rest`. False: nothing is there.
    fn read_more(&mut self, io: &TcpStream) -> io::Result<bool> {
        if self.rest.len() > REST_BYTES_MAX {
            return Err(invalid("a message of the handshake is too long"));
        }
        buffer::with(|space| {
            let space = space.get_mut(..HANDSHAKE_READ_BYTES).unwrap_or_default();
            match buffer::read(io, space) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.rest
                        .extend_from_slice(space.get(..n).unwrap_or_default());
                    Ok(true)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn common(&self) -> &rustls::CommonState {
        match &self.side {
            Side::Client(client) => client,
            Side::Server(server) => server,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// The protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The certificates that the peer showed, and that were verified; its own first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.common()
            .peer_certificates()
            .unwrap_or_default()
            .to_vec()
    }

    /// What arrived together with the end of the handshake.
    pub(super) fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.early)
    }

    /// Reads once; each record goes to `sink` as soon as it is decrypted.
    pub(super) fn read(&mut self, io: &TcpStream, sink: Sink<'_>) -> io::Result<Progress> {
        if self.failed {
            return Ok(Progress::Ended);
        }
        buffer::with(|space| {
            let kept = self.rest.len();
            let space = space.get_mut(..READ_BYTES).unwrap_or_default();
            let Some((front, back)) = space.split_at_mut_checked(kept) else {
                return Err(invalid("a record without an end"));
            };
            let got = match buffer::read(io, back) {
                Ok(0) => return Ok(Progress::Ended),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Progress::Blocked);
                }
                Err(error) => return Err(error),
            };
            front.copy_from_slice(&self.rest);
            let input = space.get_mut(..kept + got).unwrap_or_default();
            let (used, step) = self.advance(input, sink);
            self.keep_rest(input.get(used..).unwrap_or_default());
            match step {
                Ok(Step::Ended) => Ok(Progress::Ended),
                Ok(_) if self.rest.len() > REST_BYTES_MAX => Err(invalid("a message is too long")),
                Ok(_) => {
                    // An answer of rustls' own; the next write takes along what is left of it.
                    self.flush(io)?;
                    Ok(Progress::More)
                }
                Err(Fault::Sink(error)) => Err(error),
                Err(Fault::Tls(error)) => {
                    self.fail(io);
                    Err(error)
                }
            }
        })
    }

    fn keep_rest(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.rest = Vec::new();
        } else {
            self.rest.clear();
            self.rest.extend_from_slice(rest);
        }
    }

    /// Encrypts some of `data`: how much. What the socket does not take at once waits.
    pub(super) fn write(&mut self, io: &TcpStream, data: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !self.flush(io)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let data = data.get(..WRITE_BYTES_MAX).unwrap_or(data);
        self.seal(io, Plain::Data(data))?;
        Ok(data.len())
    }

    /// Says that nothing follows.
    pub(super) fn close(&mut self, io: &TcpStream) -> io::Result<()> {
        if !self.failed {
            self.seal(io, Plain::End)?;
        }
        self.flush(io).map(|_| ())
    }

    fn seal(&mut self, io: &TcpStream, plain: Plain<'_>) -> io::Result<()> {
        buffer::with(|space| {
            let bytes = loop {
                let (used, sealed) = match &mut self.side {
                    Side::Client(client) => {
                        let status = client.process_tls_records(&mut self.rest);
                        seal(status, plain, space, &mut self.wire)
                    }
                    Side::Server(server) => {
                        let status = server.process_tls_records(&mut self.rest);
                        seal(status, plain, space, &mut self.wire)
                    }
                };
                self.rest.drain(..used);
                if let Some(bytes) = sealed? {
                    break bytes;
                }
            };
            let mut sealed = space.get(..bytes).unwrap_or_default();
            // What rustls wants to say by itself goes first.
            if self.wire.is_empty() {
                while !sealed.is_empty() {
                    match io.try_write(sealed) {
                        Ok(n) => sealed = sealed.get(n..).unwrap_or_default(),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
                if sealed.is_empty() {
                    return Ok(());
                }
                self.wire = buffer::spare();
            }
            self.wire.extend_from_slice(sealed);
            Ok(())
        })
    }

    /// Sends what waits. True: nothing is left.
    pub(super) fn flush(&mut self, io: &TcpStream) -> io::Result<bool> {
        while let Some(left) = self.wire.get(self.sent..).filter(|left| !left.is_empty()) {
            match io.try_write(left) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.sent > 0 {
            self.sent = 0;
            buffer::keep(std::mem::take(&mut self.wire));
        }
        Ok(true)
    }

    /// Takes steps until there is none left. How much of the input is used, and where it stands.
    fn advance(&mut self, input: &mut [u8], sink: Sink<'_>) -> (usize, Result<Step, Fault>) {
        let mut used = 0;
        loop {
            let (taken, result) = self.step(input.get_mut(used..).unwrap_or_default(), sink);
            used += taken;
            if !matches!(result, Ok(Step::Again)) {
                return (used, result);
            }
        }
    }

    fn step(&mut self, input: &mut [u8], sink: Sink<'_>) -> (usize, Result<Step, Fault>) {
        match &mut self.side {
            Side::Client(client) => {
                let status = client.process_tls_records(input);
                step(status, &mut self.wire, sink)
            }
            Side::Server(server) => {
                let status = server.process_tls_records(input);
                step(status, &mut self.wire, sink)
            }
        }
    }

    /// Tells the peer what it did wrong, as far as it listens.
    fn fail(&mut self, io: &TcpStream) {
        self.failed = true;
        // With nothing to read: rustls must not look at the bad bytes again.
        while self.common().wants_write()
            && matches!(self.step(&mut [], &mut |_| Ok(())), (_, Ok(Step::Again)))
        {}
        let _ = self.flush(io);
    }
}

/// Obeys one state. How much of the input it used up, and what comes next.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    wire: &mut Vec<u8>,
    sink: Sink<'_>,
) -> (usize, Result<Step, Fault>) {
    let UnbufferedStatus { mut discard, state } = status;
    let result = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    if let Err(error) = sink(record.payload) {
                        break Err(Fault::Sink(error));
                    }
                }
                Some(Err(error)) => break Err(Fault::Tls(invalid(error))),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(chunk)) => {
            encode(chunk, wire).map_err(|error| Fault::Tls(invalid(error)))
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            // It is in `wire`, in its order.
            sent.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Ready),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Ended),
        // Early data, which our configurations don't allow.
        Ok(_) => Err(Fault::Tls(invalid("an unexpected state of TLS"))),
        Err(error) => Err(Fault::Tls(invalid(error))),
    };
    (discard, result)
}

fn encode<D>(mut chunk: EncodeTlsData<'_, D>, wire: &mut Vec<u8>) -> Result<Step, EncodeError> {
    let begin = wire.len();
    if let Err(EncodeError::InsufficientSize(size)) = chunk.encode(&mut []) {
        wire.resize(begin + size.required_size, 0);
        chunk.encode(wire.get_mut(begin..).unwrap_or_default())?;
    }
    Ok(Step::Again)
}

/// What is to be encrypted.
#[derive(Debug, Clone, Copy)]
enum Plain<'a> {
    Data(&'a [u8]),
    End,
}

/// Encrypts, if this is the state for it: how many bytes of `space` that took.
fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: Plain<'_>,
    space: &mut [u8],
    wire: &mut Vec<u8>,
) -> (usize, io::Result<Option<usize>>) {
    let UnbufferedStatus { discard, state } = status;
    let result = match state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match plain {
            Plain::Data(data) => traffic.encrypt(data, space),
            Plain::End => traffic.queue_close_notify(space),
        }
        .map(Some)
        .map_err(invalid),
        Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => {
            Err(ErrorKind::BrokenPipe.into())
        }
        // What comes in here is what a reader that failed has left behind: it goes nowhere.
        state => {
            let status = UnbufferedStatus { discard, state };
            return match step(status, wire, &mut |_| Ok(())) {
                (used, Ok(_)) => (used, Ok(None)),
                (used, Err(Fault::Tls(error) | Fault::Sink(error))) => (used, Err(error)),
            };
        }
    };
    (discard, result)
}

#[cfg(test)]
mod tests;
