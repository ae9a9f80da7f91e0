//! Who speaks first, the client or the server?
//!
//! Without a delay: while the client's first bytes are awaited, a connection to the server is
//! opened; whoever speaks first decides. A port that spoke HTTP before gives the client a moment.

use std::pin::pin;
use std::time::Duration;

use isthmus_proxy_core::detect::{Detected, Greeting};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::detect::{FIRST_BYTE_TIMEOUT, detect};
use crate::hints::Hint;
use crate::stream::Rx;

/// How long a port that spoke HTTP before waits for the client alone, and how long a client may be silent
/// that has no server.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who was first. `T`: an open connection to the server; `E`: why there is none.
pub enum First<T, E> {
    /// The client; perhaps the connection to the server was opened meanwhile.
    Client {
        /// What it said.
        bytes: Vec<u8>,
        /// What that is.
        kind: Detected,
        /// The server's side.
        opened: Option<Result<T, E>>,
    },
    /// The server has said something, which is there to be pulled, or has ended.
    Server {
        /// Its side.
        opened: T,
        /// It speaks first here, and will again. Not so where it ended without a word, or with an
        /// HTTP answer to nothing: that says nothing of what is spoken here.
        always: bool,
    },
    /// There is no server, and no client that wants to be told so as an answer.
    Unreachable(E),
    /// The client left, or nobody said anything for too long.
    Nobody,
}

/// Lets the client and the server race, `silence` at most. `open` connects to the server, and
/// `far` is what it says then.
pub async fn first<T, E>(
    io: &TcpStream,
    (hint, silence): (Option<Hint>, Duration),
    open: impl Future<Output = Result<T, E>>,
    far: impl for<'a> Fn(&'a mut T) -> &'a mut Rx,
) -> First<T, E> {
    let mut client = pin!(detect(io, silence));
    // Both detect and read-ahead keep what they have read: all of these may be dropped.
    if hint == Some(Hint::Http) {
        tokio::select! {
            biased;
            first = client.as_mut() => return client_first(first, None),
            () = sleep(PATIENCE) => {}
        }
    }
    let mut server = pin!(open);
    let opened = tokio::select! {
        biased;
        first = client.as_mut() => return client_first(first, None),
        opened = server.as_mut() => opened,
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(failed) => {
            // Where HTTP is spoken it is the client who is silent; elsewhere it waits for a server.
            let patience = match hint {
                Some(Hint::Http) => FIRST_BYTE_TIMEOUT,
                Some(Hint::Bytes) | None => PATIENCE,
            };
            return match timeout(patience, client).await {
                Ok(first) => client_first(first, Some(Err(failed))),
                Err(_) => First::Unreachable(failed),
            };
        }
    };
    tokio::select! {
        biased;
        first = client.as_mut() => return client_first(first, Some(Ok(opened))),
        spoke = far(&mut opened).spoke() => {
            let always = match spoke {
                // Its client has more to say, and decides.
                Ok(Some(Greeting::Http2)) => None,
                Ok(Some(Greeting::Bytes)) => Some(true),
                Ok(Some(Greeting::Http1) | None) | Err(_) => Some(false),
            };
            if let Some(always) = always {
                return First::Server { opened, always };
            }
        }
    }
    client_first(client.await, Some(Ok(opened)))
}

fn client_first<T, E>(
    first: Option<(Vec<u8>, Detected)>,
    opened: Option<Result<T, E>>,
) -> First<T, E> {
    match first {
        Some((bytes, kind)) => First::Client {
            bytes,
            kind,
            opened,
        },
        None => First::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::worker::tests::pair;

    const LONG: Duration = Duration::from_secs(60);
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    /// The race of a client with a server that has said this already.
    async fn against(said: &[u8], client: &[u8]) -> First<Rx, ()> {
        let (mut caller, io) = pair().await;
        let (mut server, near) = pair().await;
        server.write_all(said).await.unwrap();
        near.readable().await.unwrap();
        let (rx, _tx) = crate::tcp::split(near);
        let open = std::future::ready(Ok(Rx::Tcp(rx)));
        let mut race = pin!(first(&io, (None, LONG), open, |rx| rx));
        // The server is heard first.
        let heard = poll_fn(|cx| Poll::Ready(race.as_mut().poll(cx))).await;
        if let Poll::Ready(first) = heard {
            return first;
        }
        caller.write_all(client).await.unwrap();
        race.await
    }

    #[tokio::test]
    async fn a_server_that_greets_is_remembered_and_one_that_gives_up_is_not() {
        for (said, remembered) in [
            (&b"220 hello\r\n"[..], true),
            (b"HTTP/1.1 408 Request Timeout\r\n\r\n", false),
        ] {
            let First::Server { mut opened, always } = against(said, b"").await else {
                panic!("the server was first: {said:?}");
            };
            assert_eq!(always, remembered, "{said:?}");
            let mut pulled = Vec::new();
            let taken = opened.try_pull(1024, &mut |data| pulled.extend_from_slice(data));
            assert!(taken.is_ok() && pulled == said, "nothing of it is lost");
        }
    }

    /// Servers of gRPC send their settings as soon as they accept; that makes no byte stream of HTTP/2.
    #[tokio::test]
    async fn settings_of_a_server_leave_the_decision_to_its_client() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for (said, spoken) in [
            (&preface[..], Detected::Http2),
            (b"\x16\x03\x01\0\x05\x01", Detected::Tls),
        ] {
            let First::Client {
                bytes,
                kind,
                opened: Some(Ok(_)),
            } = against(SETTINGS, said).await
            else {
                panic!("it is for the client to say");
            };
            assert_eq!((bytes.as_slice(), kind), (said, spoken));
        }
    }

    #[tokio::test]
    async fn a_silent_client_without_a_server_is_given_up() {
        let (mut caller, io) = pair().await;
        let open = || std::future::ready(Err::<Rx, _>("refused"));
        let nobody = first(&io, (None, LONG), open(), |rx| rx).await;
        assert!(matches!(nobody, First::Unreachable("refused")));
        caller.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let asked = first(&io, (None, LONG), open(), |rx| rx).await;
        let First::Client { kind, opened, .. } = asked else {
            panic!("it gets an answer");
        };
        assert_eq!(
            (kind, opened.map(|o| o.is_err())),
            (Detected::Http1, Some(true))
        );
        drop(io);
        assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    }
}
