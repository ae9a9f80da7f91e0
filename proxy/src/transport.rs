//! What carries an HTTP/2 connection: a plain socket, or TLS on one?
//!
//! Reading and writing are two tasks without a lock: what they share is borrowed for the length of
//! one synchronous call.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::buffer;

pub mod tls;

use tls::Tls;

/// Linux: content of the largest packet that is cut into segments only where it leaves the host.
const PACKET_BYTES_MAX: usize = 65_215;
/// A segment on Ethernet, where the socket does not say.
const MSS_USUAL: u32 = 1448;

/// Carries one HTTP/2 connection.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each connection, inside an `Rc` already"
)]
pub enum Transport {
    /// In the clear: applications on this host, and unmeshed peers.
    Plain(TcpStream),
    /// The mesh.
    Tls(TcpStream, RefCell<Tls>),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(..) => "Tls",
        })
    }
}

/// How far a read got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Perhaps there is more.
    More,
    /// Nothing now.
    Blocked,
    /// The peer has ended.
    Ended,
}

/// Takes what was read, in place.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

impl Transport {
    fn io(&self) -> &TcpStream {
        match self {
            Self::Plain(io) | Self::Tls(io, _) => io,
        }
    }

    /// Waits until a read may give something. Safe to drop.
    ///
    /// # Errors
    /// The socket is gone.
    pub async fn readable(&self) -> io::Result<()> {
        self.io().readable().await
    }

    /// Waits until a write may go on. Safe to drop.
    ///
    /// # Errors
    /// The socket is gone.
    pub async fn writable(&self) -> io::Result<()> {
        self.io().writable().await
    }

    /// How many bytes, written at once, leave in one piece. What the kernel hands on as one packet
    /// is a whole number of segments below 64 KiB; a rest behind it is a packet of its own, which
    /// costs as much.
    #[must_use]
    pub fn burst(&self) -> usize {
        let mss = SockRef::from(self.io()).tcp_mss().unwrap_or(MSS_USUAL);
        let mss = usize::try_from(mss).unwrap_or(PACKET_BYTES_MAX).max(1);
        let packet = (PACKET_BYTES_MAX / mss).max(1) * mss;
        match self {
            Self::Plain(_) => packet,
            Self::Tls(..) => tls::plain_in(packet),
        }
    }

    /// Reads once, and gives what came, decrypted, to `sink`.
    ///
    /// # Errors
    /// The socket broke, the TLS is wrong, or the sink failed.
    pub fn read(&self, sink: Sink<'_>) -> io::Result<Progress> {
        match self {
            Self::Plain(io) => buffer::with(|space| match buffer::read(io, space) {
                Ok(0) => Ok(Progress::Ended),
                Ok(n) => sink(space.get(..n).unwrap_or_default()).map(|()| Progress::More),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Blocked),
                Err(error) => Err(error),
            }),
            Self::Tls(io, tls) => tls.borrow_mut().read(io, sink),
        }
    }

    /// Gives what arrived together with the end of the handshake to `sink`.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn read_early(&self, sink: Sink<'_>) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(_, tls) => sink(&tls.borrow_mut().take_early()),
        }
    }

    /// Writes some of `data`: how much was taken. Taken bytes may still wait for [`Self::flush`].
    ///
    /// # Errors
    /// `WouldBlock`, or the socket is gone.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(io) => io.try_write(data),
            Self::Tls(io, tls) => tls.borrow_mut().write(io, data),
        }
    }

    /// Sends what was taken and not yet sent. True: nothing is left.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn flush(&self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Tls(io, tls) => tls.borrow_mut().flush(io),
        }
    }

    /// Says goodbye: close_notify where there is TLS, then FIN.
    pub fn shut_down(&self) {
        if let Self::Tls(io, tls) = self {
            // The peer may be gone already.
            let _ = tls.borrow_mut().close(io);
        }
        let _ = SockRef::from(self.io()).shutdown(Shutdown::Write);
    }
}
