//! How does a request's body get to the upstream, and perhaps a second time?

use std::cell::RefCell;
use std::future::pending;

use isthmus_proxy_core::message::Fields;

use super::mirror::Copies;
use crate::relay::Meter;
use crate::stream::{Broken, Pull, Rx, Tx};

/// Bytes of a request's body kept for another try and for copies; longer ones are sent once, and not
/// copied.
const KEEP_BYTES_MAX: usize = 64 * 1024;

/// A body's beginning, kept for another try.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// The body was longer than is kept: it can't be sent again.
    overflowed: bool,
    /// Of `bytes`, what the try under way has sent.
    replayed: usize,
    ended: bool,
    /// Copies that wait for the body's end. Dropped, they are not made.
    copies: Option<Box<Copies>>,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn new(copies: Option<Box<Copies>>) -> Self {
        Self {
            copies,
            ..Self::default()
        }
    }

    /// Can the body be sent again?
    pub(super) fn is_whole(&self) -> bool {
        !self.overflowed
    }

    /// The next try begins at the beginning.
    pub(super) fn rewind(&mut self) {
        self.replayed = 0;
    }

    fn keep(&mut self, data: &[u8]) {
        if self.overflowed {
            return;
        }
        if self.bytes.len() + data.len() > KEEP_BYTES_MAX {
            self.overflowed = true;
            self.bytes = Vec::new();
            self.replayed = 0;
            self.copies = None;
        } else {
            self.bytes.extend_from_slice(data);
            self.replayed = self.bytes.len();
        }
    }

    /// The body is over. Trailers are not kept: such a body goes out once.
    fn end(&mut self, trailers: &Fields) {
        self.ended = true;
        self.overflowed |= !trailers.is_empty();
        if let Some(copies) = self.copies.take()
            && !self.overflowed
        {
            copies.send(&self.bytes);
        }
    }
}

/// Sends the request's body: first what is kept of it, then the rest as it comes. An upstream that
/// breaks does not end it: its answer, or its failure, is read on the other side.
pub(super) async fn feed(
    rx: &mut Rx,
    tx: &mut Tx,
    (kept, nothing): (&RefCell<Kept>, bool),
    meter: &Meter,
) -> Result<(), Broken> {
    if nothing {
        // No body; or an upgrade: not a byte before the other side has switched protocols, but its
        // head has to go out.
        return sent(tx).await;
    }
    while kept.borrow().replayed < kept.borrow().bytes.len() {
        let Ok(room) = tx.ready().await else {
            return pending().await;
        };
        let mut kept = kept.borrow_mut();
        let start = kept.replayed;
        let stop = kept.bytes.len().min(start + room);
        tx.push(kept.bytes.get(start..stop).unwrap_or_default());
        kept.replayed = stop;
    }
    if kept.borrow().ended {
        tx.finish(&Fields::default());
        return sent(tx).await;
    }
    loop {
        let Ok(room) = tx.ready().await else {
            return pending().await;
        };
        let pulled = rx.try_pull(room, &mut |data| {
            meter.add(data.len());
            kept.borrow_mut().keep(data);
            tx.push(data);
        });
        match pulled? {
            Pull::Data => meter.touch(),
            Pull::Empty => {
                tx.flush();
                rx.wait().await?;
            }
            Pull::End(trailers) => {
                kept.borrow_mut().end(&trailers);
                tx.finish(&trailers);
                return sent(tx).await;
            }
        }
    }
}

/// Sends a body that is there already, to its end.
pub(super) async fn send_whole(tx: &mut Tx, body: &[u8]) -> Result<(), Broken> {
    let mut left = body;
    while !left.is_empty() {
        let room = tx.ready().await?.min(left.len());
        let (now, later) = left.split_at_checked(room).unwrap_or((left, &[]));
        tx.push(now);
        left = later;
    }
    tx.finish(&Fields::default());
    tx.drained().await
}

/// Waits until all of the request is on its way. An upstream that breaks tells on the other side.
async fn sent(tx: &mut Tx) -> Result<(), Broken> {
    match tx.drained().await {
        Ok(()) => Ok(()),
        Err(_) => pending().await,
    }
}
