//! Who speaks first, the client or the server?
//!
//! Without a delay: while the client's first bytes are awaited, a connection to the server is
//! opened; whoever speaks first decides. A port that spoke HTTP before gives the client a moment.

use std::pin::pin;
use std::time::Duration;

use isthmus_proxy_core::detect::Detected;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Hint, Opened, Outbound, bytes};
use crate::detect::detect;
use crate::finish::Failed;

/// How long a port that spoke HTTP before waits for the client alone.
const HTTP_PATIENCE: Duration = Duration::from_secs(1);

/// Who was first.
pub(super) enum First {
    /// The client; perhaps the connection to the server was opened meanwhile.
    Client {
        bytes: Vec<u8>,
        kind: Detected,
        opened: Option<Result<Opened, Failed>>,
    },
    /// The server.
    Server(Opened),
    /// The client left.
    Nobody,
}

pub(super) async fn first(side: &Outbound, io: &TcpStream, hint: Option<Hint>) -> First {
    let mut client = pin!(detect(io));
    if hint == Some(Hint::Http) {
        tokio::select! {
            biased;
            first = client.as_mut() => return client_first(first, None),
            () = sleep(HTTP_PATIENCE) => {}
        }
    }
    let mut server = pin!(bytes::open(side));
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
        // Bytes, or its end: both are the server's word.
        _ = opened.right.rx.wait() => First::Server(opened),
    }
}

fn client_first(
    first: Option<(Vec<u8>, Detected)>,
    opened: Option<Result<Opened, Failed>>,
) -> First {
    match first {
        Some((bytes, kind)) => First::Client {
            bytes,
            kind,
            opened,
        },
        None => First::Nobody,
    }
}
