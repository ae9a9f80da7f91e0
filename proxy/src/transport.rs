//! What carries an HTTP/2 connection: a plain socket, or TLS on one?
//!
//! rustls is driven by hand here, so that reading and writing are two tasks without a lock, and
//! what was decrypted is decoded where it lies.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};

use tokio::net::TcpStream;

use crate::buffer;

/// Carries one HTTP/2 connection.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each connection, inside an `Rc` already"
)]
pub enum Transport {
    /// In the clear: applications on this host, and unmeshed peers.
    Plain(TcpStream),
    /// The mesh.
    Tls(TcpStream, RefCell<rustls::Connection>),
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

    /// Reads once, and gives what came, decrypted, to `sink`.
    ///
    /// # Errors
    /// The socket broke, the TLS is wrong, or the sink failed.
    pub fn read(&self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Progress> {
        buffer::with(|space| {
            let got = match buffer::read(self.io(), space) {
                Ok(0) => return Ok(Progress::Ended),
                Ok(n) => space.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Progress::Blocked);
                }
                Err(error) => return Err(error),
            };
            match self {
                Self::Plain(_) => sink(got).map(|()| Progress::More),
                Self::Tls(_, tls) => decrypt(&mut tls.borrow_mut(), got, sink),
            }
        })
    }

    /// Gives what arrived together with the end of the handshake to `sink`.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn read_early(&self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(_, tls) => drain(&mut tls.borrow_mut(), sink).map(|_| ()),
        }
    }

    /// Writes some of `data`: how much was taken. Taken bytes may still wait for [`Self::flush`].
    ///
    /// # Errors
    /// `WouldBlock`, or the socket is gone.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(io) => io.try_write(data),
            Self::Tls(io, tls) => {
                let mut tls = tls.borrow_mut();
                if !send(io, &mut tls)? {
                    return Err(ErrorKind::WouldBlock.into());
                }
                let taken = tls.writer().write(data)?;
                send(io, &mut tls)?;
                Ok(taken)
            }
        }
    }

    /// Sends what was taken and not yet sent. True: nothing is left.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn flush(&self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Tls(io, tls) => send(io, &mut tls.borrow_mut()),
        }
    }

    /// Says goodbye: close_notify where there is TLS, then FIN.
    pub fn shut_down(&self) {
        if let Self::Tls(io, tls) = self {
            let mut tls = tls.borrow_mut();
            tls.send_close_notify();
            // The peer may be gone already.
            let _ = send(io, &mut tls);
        }
        let _ = socket2::SockRef::from(self.io()).shutdown(std::net::Shutdown::Write);
    }
}

fn decrypt(
    tls: &mut rustls::Connection,
    mut raw: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Progress> {
    while !raw.is_empty() {
        tls.read_tls(&mut raw)?;
        let state = tls
            .process_new_packets()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let closed = state.peer_has_closed();
        drain(tls, sink)?;
        if closed {
            return Ok(Progress::Ended);
        }
    }
    Ok(Progress::More)
}

/// Everything that is decrypted goes to the sink, record by record.
fn drain(
    tls: &mut rustls::Connection,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    loop {
        let mut reader = tls.reader();
        let taken = match reader.fill_buf() {
            Ok([]) => return Ok(true),
            Ok(plain) => {
                sink(plain)?;
                plain.len()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        reader.consume(taken);
    }
}

/// Sends encrypted bytes until none are left (true) or the socket is full (false).
fn send(io: &TcpStream, tls: &mut rustls::Connection) -> io::Result<bool> {
    let mut socket = Socket(io);
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A non-blocking socket as rustls wants it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(space)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
