//! How do bytes come from and go to a private socket?
//!
//! Private means: one connection of an application. It writes at once (a shared tunnel collects).

use std::io::ErrorKind;
use std::net::Shutdown;
use std::rc::Rc;

use isthmus_proxy_core::detect::{Greeting, greeting};
use isthmus_proxy_core::message::Fields;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::accept;
use crate::buffer;
use crate::stream::{Broken, Pull};

/// Bytes that wait in a sink for its socket, at most.
pub const PENDING_BYTES_MAX: usize = 64 * 1024;
/// What a sink takes at once when nothing waits: what a tunnel reads at once, so that it goes to
/// the socket in one piece.
const DIRECT_BYTES_MAX: usize = 128 * 1024;
/// Pushes at least this large go to the socket without a copy.
const DIRECT_BYTES_MIN: usize = 4 * 1024;

/// Makes both halves of a connection.
#[must_use]
pub fn split(io: TcpStream) -> (TcpRx, TcpTx) {
    split_with(io, Vec::new())
}

/// Makes both halves of a connection whose first bytes are read already.
#[must_use]
pub fn split_with(io: TcpStream, first: Vec<u8>) -> (TcpRx, TcpTx) {
    let io = Rc::new(io);
    (TcpRx::new(Rc::clone(&io), first), TcpTx::new(io))
}

/// The half that is read.
#[derive(Debug)]
pub struct TcpRx {
    io: Rc<TcpStream>,
    /// Bytes that were read before it was known what they are.
    unread: Vec<u8>,
    ended: bool,
}

impl TcpRx {
    /// A half whose first bytes are already read.
    #[must_use]
    pub fn new(io: Rc<TcpStream>, unread: Vec<u8>) -> Self {
        Self {
            io,
            unread,
            ended: false,
        }
    }

    pub(crate) fn try_pull(
        &mut self,
        room: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Pull, Broken> {
        if !self.unread.is_empty() {
            let taken = self.unread.len().min(room);
            sink(self.unread.get(..taken).unwrap_or_default());
            buffer::drop_front(&mut self.unread, taken);
            return Ok(Pull::Data);
        }
        if self.ended {
            return Ok(Pull::End(Fields::default()));
        }
        let read = buffer::with(|space| {
            let limit = space.len().min(room);
            let space = space.get_mut(..limit).unwrap_or_default();
            let result = buffer::read(&self.io, space);
            if let Ok(n) = result {
                sink(space.get(..n).unwrap_or_default());
            }
            result
        });
        match read {
            Ok(0) => {
                self.ended = true;
                Ok(Pull::End(Fields::default()))
            }
            Ok(_) => Ok(Pull::Data),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Pull::Empty),
            Err(_) => Err(Broken::Reset(None)),
        }
    }

    pub(crate) async fn wait(&mut self) -> Result<(), Broken> {
        if self.unread.is_empty() && !self.ended {
            self.io.readable().await?;
        }
        Ok(())
    }

    pub(crate) async fn spoke(&mut self) -> Result<Option<Greeting>, Broken> {
        while self.unread.is_empty() && !self.ended {
            self.io.readable().await?;
            let mut space = [0; AHEAD_BYTES];
            match self.io.try_read(&mut space) {
                Ok(0) => self.ended = true,
                Ok(n) => self
                    .unread
                    .extend_from_slice(space.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken::Reset(None)),
            }
        }
        Ok((!self.unread.is_empty()).then(|| greeting(&self.unread)))
    }
}

/// Bytes read ahead to see that somebody speaks.
const AHEAD_BYTES: usize = 1024;

/// The half that is written.
#[derive(Debug)]
pub struct TcpTx {
    io: Rc<TcpStream>,
    pending: Vec<u8>,
    /// Shut the direction down when nothing is pending any more.
    finishing: bool,
    failed: bool,
}

impl TcpTx {
    /// A half with nothing pending.
    #[must_use]
    pub fn new(io: Rc<TcpStream>) -> Self {
        Self {
            io,
            pending: Vec::new(),
            finishing: false,
            failed: false,
        }
    }

    /// The buffer, for those who encode into it. Small things only; [`Self::flush`] follows.
    pub(crate) fn pending(&mut self) -> &mut Vec<u8> {
        if self.pending.capacity() == 0 {
            self.pending = buffer::spare();
        }
        &mut self.pending
    }

    pub(crate) async fn ready(&mut self) -> Result<usize, Broken> {
        loop {
            if self.failed {
                return Err(Broken::Reset(None));
            }
            let room = if self.pending.is_empty() {
                DIRECT_BYTES_MAX
            } else {
                PENDING_BYTES_MAX.saturating_sub(self.pending.len())
            };
            if room > 0 {
                return Ok(room);
            }
            self.io.writable().await?;
            self.flush();
        }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        if self.failed {
            return;
        }
        let mut rest = data;
        if self.pending.is_empty() && data.len() >= DIRECT_BYTES_MIN {
            while !rest.is_empty() {
                match self.io.try_write(rest) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.failed = true;
                        return;
                    }
                }
            }
        }
        if !rest.is_empty() {
            self.pending().extend_from_slice(rest);
        }
    }

    pub(crate) fn flush(&mut self) -> bool {
        let mut written = 0;
        while let Some(rest) = self.pending.get(written..).filter(|rest| !rest.is_empty()) {
            match self.io.try_write(rest) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.failed = true;
                    written = self.pending.len();
                }
            }
        }
        // Who waits holds no more than what waits; the rest of a worker's buffer goes back.
        if written > 0 || self.pending.len() < self.pending.capacity() / 4 {
            let left = self.pending.get(written..).unwrap_or_default().to_vec();
            buffer::keep(std::mem::replace(&mut self.pending, left));
        }
        if self.pending.is_empty() && self.finishing {
            self.finishing = false;
            // The peer may be gone already: nothing to tell then.
            let _ = SockRef::from(&*self.io).shutdown(Shutdown::Write);
        }
        self.pending.is_empty()
    }

    pub(crate) fn finish(&mut self) {
        self.finishing = true;
        self.flush();
    }

    pub(crate) async fn drained(&mut self) -> Result<(), Broken> {
        while !self.flush() {
            self.io.writable().await?;
        }
        if self.failed {
            Err(Broken::Reset(None))
        } else {
            Ok(())
        }
    }

    /// Closing will send RST: what was sent must not look like a clean end.
    pub(crate) fn abort(&mut self) {
        self.pending.clear();
        self.failed = true;
        accept::reset(&self.io);
    }

    /// Sees to it that the socket is reset if what it carries is dropped before its end.
    pub(crate) fn unfinished(&self) -> Unfinished {
        Unfinished(Some(Rc::clone(&self.io)))
    }
}

/// A socket that will be reset when this is dropped, unless it is released before.
#[derive(Debug)]
pub(crate) struct Unfinished(Option<Rc<TcpStream>>);

impl Unfinished {
    /// The end was a clean one.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(io) = &self.0 {
            accept::reset(io);
        }
    }
}
