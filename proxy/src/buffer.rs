//! Where do bytes from sockets land first?
//!
//! In one buffer per worker thread: a connection that waits holds no memory for bytes that may
//! come. Whoever reads processes in place, and keeps only the rest of an unfinished head or frame.

use std::cell::RefCell;
use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Large enough that bulk needs few system calls (64 KiB was measured 10% slower).
pub const READ_BYTES: usize = 256 * 1024;

/// Output buffers that a worker keeps for its next turns, at most.
const SPARES_MAX: usize = 4;
/// Larger ones are not kept.
const SPARE_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends the worker's buffer. Not to be nested: `f` must not read from another socket.
pub fn with<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            // Zeroed pages that are never touched cost nothing.
            *buffer = vec![0; READ_BYTES];
        }
        f(buffer)
    })
}

/// Reads once, without waiting.
///
/// A read that did not fill the space took all that was there: the socket then counts as empty
/// until the system reports something new, and nobody asks it again in vain. The peer's end is
/// not lost by that: tokio keeps it apart from what was to be read.
///
/// # Errors
/// `WouldBlock`, or the socket is gone.
pub fn read(io: &TcpStream, space: &mut [u8]) -> io::Result<usize> {
    let taken = io.try_read(space)?;
    if taken > 0 && taken < space.len() {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // An error by its making.
        let _ = io.try_io(Interest::READABLE, nothing);
    }
    Ok(taken)
}

/// An empty buffer for output, used before if there is one: it need not grow again.
#[must_use]
pub fn spare() -> Vec<u8> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a buffer whose content is written.
pub fn keep(mut bytes: Vec<u8>) {
    bytes.clear();
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARES_MAX && bytes.capacity() <= SPARE_BYTES_MAX {
            spares.push(bytes);
        }
    });
}

/// Forgets the first `used` bytes, and the memory with them when nothing is left: a connection that
/// waits holds none.
pub fn drop_front(bytes: &mut Vec<u8>, used: usize) {
    if used >= bytes.len() {
        *bytes = Vec::new();
    } else if used > 0 {
        bytes.drain(..used);
    }
}
