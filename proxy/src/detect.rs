//! What does the client speak? Its first bytes, read and kept.

use std::io::ErrorKind;
use std::time::Duration;

use isthmus_proxy_core::client_hello::{self, ClientHello};
use isthmus_proxy_core::detect::{self, Detected};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::buffer;

/// A client that begins to speak HTTP or TLS must get to the point within this.
pub(crate) const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has said a word, and nothing that HTTP begins with, is not waited for longer than it
/// takes for what was sent at once to come: it may be waiting for an answer.
const WORD_TIMEOUT: Duration = Duration::from_millis(100);
/// A client that says nothing where it must speak first: a port that declares HTTP, or routes by the
/// name that a TLS client asks for. Clients that connect ahead of their first request get this time.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(300);
/// A first line that is not known to be HTTP is read no further: as long as a head may be.
const LINE_BYTES_MAX: usize = 60 * 1024;
/// First bytes kept at most: a whole request usually comes at once.
pub(crate) const FIRST_BYTES_MAX: usize = 16 * 1024;

/// Reads until it is clear what is spoken. `None`: the client left, or said nothing for `silence`.
/// What was read is lost if it is dropped.
pub async fn detect(io: &TcpStream, silence: Duration) -> Option<(Vec<u8>, Detected)> {
    let mut first = Vec::new();
    timeout(silence, more(io, &mut first)).await.ok()??;
    let until = Instant::now() + DETECT_TIMEOUT;
    loop {
        if let Some(detected) = detect::detect(&first) {
            return Some((first, detected));
        }
        let until = limit(&first, until);
        // What came before the end is all there will be. A few bytes and then silence: whatever it is, it
        // is not HTTP.
        if !matches!(timeout_at(until, more(io, &mut first)).await, Ok(Some(()))) {
            return Some((first, Detected::Opaque));
        }
    }
}

/// Until when more is waited for than these first bytes, which fit more than one answer.
pub(crate) fn limit(first: &[u8], until: Instant) -> Instant {
    if detect::is_promising(first) {
        until
    } else {
        until.min(Instant::now() + WORD_TIMEOUT)
    }
}

/// The same on a port that declares HTTP: what is meant as HTTP/1 and malformed is `Http1`, for the
/// codec to answer; what is left is no HTTP at all.
pub async fn detect_http(io: &TcpStream, silence: Duration) -> Option<(Vec<u8>, Detected)> {
    let mut first = Vec::new();
    timeout(silence, more(io, &mut first)).await.ok()??;
    let until = Instant::now() + DETECT_TIMEOUT;
    loop {
        match detect::detect(&first) {
            Some(Detected::Opaque) => break,
            Some(kind) => return Some((first, kind)),
            None if detect::may_be_http2_or_tls(&first) => {
                let more = timeout_at(until, more(io, &mut first)).await;
                if !matches!(more, Ok(Some(()))) {
                    return Some((first, Detected::Opaque));
                }
            }
            // A request's beginning. Who is slow is told so by the codec, which gives it its time.
            None => return Some((first, Detected::Http1)),
        }
    }
    let line = async {
        while first.len() <= LINE_BYTES_MAX {
            if let Some(meant) = detect::is_meant_as_http1(&first, false) {
                return meant;
            }
            if more(io, &mut first).await.is_none() {
                break;
            }
        }
        detect::is_meant_as_http1(&first, true) == Some(true)
    };
    let meant = timeout(DETECT_TIMEOUT, line).await.unwrap_or(false);
    let kind = if meant {
        Detected::Http1
    } else {
        Detected::Opaque
    };
    Some((first, kind))
}

/// Reads on to the end of a ClientHello; `first` is what was read of it, and is added to.
///
/// # Errors
/// It is none that we accept, or the connection ended before it was whole.
pub async fn hello(io: &TcpStream, first: &mut Vec<u8>) -> Result<ClientHello, String> {
    loop {
        if let Some(hello) = client_hello::read(first).map_err(|e| e.to_string())? {
            return Ok(hello);
        }
        more(io, first)
            .await
            .ok_or("the connection ended before a ClientHello")?;
    }
}

/// Waits for more bytes. `None`: it has ended.
async fn more(io: &TcpStream, first: &mut Vec<u8>) -> Option<()> {
    loop {
        io.readable().await.ok()?;
        if read_some(io, first).ok()? {
            return Some(());
        }
    }
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::worker::tests::pair;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
        let (mut client, io) = pair().await;
        assert_eq!(detect(&io, Duration::from_millis(1)).await, None);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let (first, kind) = detect(&io, LONG).await.unwrap();
        assert_eq!(kind, Detected::Http1);
        assert_eq!(first, b"GET / HTTP/1.1\r\n");
        drop(client);
        assert_eq!(detect(&io, LONG).await, None, "it left");
    }

    /// It may be waiting for an answer.
    #[tokio::test]
    async fn a_word_is_not_waited_behind() {
        let (mut client, io) = pair().await;
        for word in ["hello", "QUIT"] {
            client.write_all(word.as_bytes()).await.unwrap();
            let found = detect(&io, LONG).await;
            assert_eq!(found, Some((word.into(), Detected::Opaque)));
        }
        let (until, soon) = (Instant::now() + DETECT_TIMEOUT, Instant::now() + LONG);
        assert!(limit(b"hello", until) < until);
        for beginning in [&b"GET /"[..], b"PRI * HTTP", b"\x16\x03"] {
            assert_eq!(limit(beginning, until), until);
            assert_eq!(limit(beginning, soon), soon);
        }
    }

    #[tokio::test]
    async fn where_http_is_declared_the_first_line_says_what_is_meant() {
        let ended = async |words: &[u8]| {
            let (mut client, io) = pair().await;
            client.write_all(words).await.unwrap();
            client.shutdown().await.unwrap();
            let (first, kind) = detect_http(&io, LONG).await.unwrap();
            assert_eq!(first, words, "nothing is lost");
            kind
        };
        for (words, kind) in [
            (&b"PING\r\n"[..], Detected::Opaque),
            (b"GET  / HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"GET / HTTP/1.1\r\n\r\n", Detected::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
            (b"\x16\x03\x01\x02\0\x01", Detected::Tls),
            // No more will come of the line.
            (b"INVALID CONNECTION PREFACE", Detected::Opaque),
            (b"GET  / HTTP/1.1", Detected::Http1),
            // What still may become a request is the codec's to judge.
            (b"GE", Detected::Http1),
        ] {
            assert_eq!(ended(words).await, kind, "{}", words.escape_ascii());
        }
        // A line without an end is not waited for.
        let (mut client, io) = pair().await;
        let line = vec![b'x'; LINE_BYTES_MAX + 1];
        let (written, found) = tokio::join!(client.write_all(&line), detect_http(&io, LONG));
        written.unwrap();
        assert_eq!(found.unwrap().1, Detected::Opaque);
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_all_there_will_be() {
        let (mut client, io) = pair().await;
        client.write_all(b"GE").await.unwrap();
        client.shutdown().await.unwrap();
        let found = detect(&io, LONG).await;
        assert_eq!(found, Some((b"GE".to_vec(), Detected::Opaque)));
    }
}
