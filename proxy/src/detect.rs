//! What does the client speak? Its first bytes, read and kept.

use std::io::ErrorKind;
use std::time::Duration;

use isthmus_proxy_core::detect::{self, Detected};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::buffer;

/// A client that begins to speak must get to the point within this.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// First bytes kept at most: a whole request usually comes at once.
const FIRST_BYTES_MAX: usize = 16 * 1024;

/// Reads until it is clear what is spoken. `None`: the client left, or took too long.
pub async fn detect(io: &TcpStream) -> Option<(Vec<u8>, Detected)> {
    io.readable().await.ok()?;
    let mut first = Vec::new();
    let reading = async {
        loop {
            match read_some(io, &mut first) {
                Ok(true) => {}
                Ok(false) => io.readable().await.ok()?,
                Err(()) if first.is_empty() => return None,
                // What came before the end is all there will be.
                Err(()) => return Some(Detected::Opaque),
            }
            if let Some(detected) = detect::detect(&first) {
                return Some(detected);
            }
        }
    };
    let detected = match timeout(DETECT_TIMEOUT, reading).await {
        Ok(detected) => detected?,
        // A few bytes and then silence: whatever it is, it is not HTTP.
        Err(_) => Detected::Opaque,
    };
    Some((first, detected))
}

/// True: bytes came. False: none now. `Err`: it has ended.
fn read_some(io: &TcpStream, first: &mut Vec<u8>) -> Result<bool, ()> {
    buffer::with(|space| {
        let space = space.get_mut(..FIRST_BYTES_MAX).unwrap_or_default();
        match io.try_read(space) {
            Ok(0) => Err(()),
            Ok(n) => {
                first.extend_from_slice(space.get(..n).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(()),
        }
    })
}
