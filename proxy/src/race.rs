//! Who speaks first, the client or the server?
//!
//! Without a delay: while the client's first bytes are awaited, a connection to the server is
//! opened; whoever speaks first decides. A port that spoke HTTP before gives the client a moment.

use std::pin::pin;
use std::time::Duration;

use isthmus_proxy_core::detect::Detected;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::detect::detect;
use crate::hints::Hint;
use crate::stream::Rx;

/// How long a port that spoke HTTP before waits for the client alone.
const HTTP_PATIENCE: Duration = Duration::from_secs(1);

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
    /// The server has said something; it is there to be pulled.
    Server(T),
    /// The server ended without a word: that says nothing of what is spoken here.
    Ended(T),
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
            () = sleep(HTTP_PATIENCE) => {}
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
        Err(failed) => return client_first(client.await, Some(Err(failed))),
    };
    tokio::select! {
        biased;
        first = client.as_mut() => client_first(first, Some(Ok(opened))),
        spoke = far(&mut opened).spoke() => match spoke {
            Ok(true) => First::Server(opened),
            Ok(false) | Err(_) => First::Ended(opened),
        },
    }
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
