//! How do bytes get from one side to the other?

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::message::Fields;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until, timeout};

use crate::stream::{Broken, Pull, Rx, Tx};
use crate::tcp::Unfinished;

/// Which half broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was read.
    Source(Broken),
    /// The one that was written.
    Sink(Broken),
}

/// Counts one direction, and remembers when something last moved.
#[derive(Debug)]
pub struct Meter {
    bytes: Cell<u64>,
    /// A counter that is kept up to date while the bytes flow.
    live: std::cell::OnceCell<Counter>,
    last: Cell<Instant>,
}

impl Default for Meter {
    fn default() -> Self {
        Self::begin(Instant::now())
    }
}

impl Meter {
    /// Nothing has moved since then.
    #[must_use]
    pub fn begin(begun: Instant) -> Self {
        Self {
            bytes: Cell::new(0),
            live: std::cell::OnceCell::new(),
            last: Cell::new(begun),
        }
    }

    /// Bytes of content so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// From now on the bytes are counted here too, as they come. Once.
    pub fn count_in(&self, counter: Counter) {
        counter.inc_by(self.bytes.get());
        // A second one would count twice.
        let _ = self.live.set(counter);
    }

    /// Are the bytes counted as they come?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.get().is_some()
    }

    pub(crate) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        if let Some(counter) = self.live.get() {
            counter.inc_by(bytes);
        }
    }

    pub(crate) fn touch(&self) {
        self.last.set(Instant::now());
    }
}

/// Relays one direction until its end, and marks the end at the sink.
///
/// # Errors
/// One of the halves broke; the other is left as it is.
pub async fn pump(rx: &mut Rx, tx: &mut Tx, meter: &Meter) -> Result<Fields, Side> {
    loop {
        let room = tx.ready().await.map_err(Side::Sink)?;
        let pulled = rx.try_pull(room, &mut |data| {
            meter.add(data.len());
            tx.push(data);
        });
        match pulled.map_err(Side::Source)? {
            Pull::Data => meter.touch(),
            Pull::Empty if tx.flush() => rx.wait().await.map_err(Side::Source)?,
            // In a box: only a sink that is full needs both, and idle connections are many.
            Pull::Empty => Box::pin(either(rx, tx)).await?,
            Pull::End(trailers) => {
                tx.finish(&trailers);
                tx.drained().await.map_err(Side::Sink)?;
                return Ok(trailers);
            }
        }
    }
}

/// Waits for more to read while the rest of the last write still goes out.
async fn either(rx: &mut Rx, tx: &mut Tx) -> Result<(), Side> {
    let mut more = pin!(rx.wait());
    let mut drained = pin!(tx.drained());
    poll_fn(|cx| {
        if let Poll::Ready(result) = more.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(Side::Source));
        }
        drained.as_mut().poll(cx).map_err(Side::Sink)
    })
    .await
}

/// One connection on each side, as its halves.
#[derive(Debug)]
pub struct Duplex {
    /// What the peer sends.
    pub rx: Rx,
    /// What the peer gets.
    pub tx: Tx,
}

/// How long a two-way relay may last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    /// Without a byte either way.
    pub idle: Duration,
    /// Altogether. None: as long as something moves.
    pub whole: Option<Duration>,
}

impl Lifetime {
    /// As long as something moves.
    #[must_use]
    pub fn idle(idle: Duration) -> Self {
        Self { idle, whole: None }
    }
}

/// How a two-way relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both directions came to their end.
    Clean,
    /// The first connection broke.
    Left(Broken),
    /// The second connection broke.
    Right(Broken),
    /// Nothing moved for as long as is allowed.
    Idle,
    /// It lived as long as it may.
    Expired,
}

/// Relays both ways: a half-close travels, and the other direction goes on. Bytes from `left` are
/// counted in `sent`, those from `right` in `received`. Whatever else ends it than both their ends, also that it is
/// dropped, is a reset on both sides: half of what was sent must not look whole.
pub async fn duplex(
    left: &mut Duplex,
    right: &mut Duplex,
    (sent, received): (&Meter, &Meter),
    lifetime: Lifetime,
) -> Ended {
    let unfinished = [left.tx.unfinished(), right.tx.unfinished()];
    // What it took to get here was no idleness.
    sent.touch();
    let ended = {
        let mut there = pin!(pump(&mut left.rx, &mut right.tx, sent));
        let mut back = pin!(pump(&mut right.rx, &mut left.tx, received));
        let (mut there_done, mut back_done) = (false, false);
        let mut over = pin!(until_over([sent, received], lifetime));
        poll_fn(|cx| {
            if !there_done {
                match there.as_mut().poll(cx) {
                    Poll::Ready(Ok(_)) => there_done = true,
                    Poll::Ready(Err(side)) => return Poll::Ready(ended(side, true)),
                    Poll::Pending => {}
                }
            }
            if !back_done {
                match back.as_mut().poll(cx) {
                    Poll::Ready(Ok(_)) => back_done = true,
                    Poll::Ready(Err(side)) => return Poll::Ready(ended(side, false)),
                    Poll::Pending => {}
                }
            }
            if there_done && back_done {
                return Poll::Ready(Ended::Clean);
            }
            over.as_mut().poll(cx)
        })
        .await
    };
    let code = match ended {
        Ended::Clean => {
            let released = unfinished.into_iter().flatten();
            released.for_each(Unfinished::release);
            return ended;
        }
        Ended::Left(broken) | Ended::Right(broken) => broken.code(),
        Ended::Idle | Ended::Expired => ErrorCode::Cancel,
    };
    left.tx.reset(code);
    right.tx.reset(code);
    ended
}

fn ended(side: Side, from_left: bool) -> Ended {
    match (side, from_left) {
        (Side::Source(broken), true) | (Side::Sink(broken), false) => Ended::Left(broken),
        (Side::Sink(broken), true) | (Side::Source(broken), false) => Ended::Right(broken),
    }
}

async fn until_over(meters: [&Meter; 2], lifetime: Lifetime) -> Ended {
    let idled = until_idle(meters, lifetime.idle);
    match lifetime.whole {
        None => idled.await,
        // Seldom: an idle connection must not have room for it.
        Some(whole) => {
            let within = Box::pin(timeout(whole, idled));
            if within.await.is_err() {
                return Ended::Expired;
            }
        }
    }
    Ended::Idle
}

/// Ends when none of the meters has moved for `idle`.
pub async fn until_idle(meters: [&Meter; 2], idle: Duration) {
    let [one, other] = meters;
    let deadline = || one.last.get().max(other.last.get()) + idle;
    let mut next = deadline();
    loop {
        sleep_until(next).await;
        let last = std::mem::replace(&mut next, deadline());
        if next <= last {
            return;
        }
    }
}

/// Runs `work`, but no longer than `watch` stays pending: `Err` if `watch` was first.
///
/// Both are pinned by the caller: an async function keeps a future that it is given twice, as its
/// argument and as its own, and these stand in each other.
pub fn unless<W: Future, T: Future>(
    mut work: Pin<&mut W>,
    mut watch: Pin<&mut T>,
) -> impl Future<Output = Result<W::Output, T::Output>> {
    poll_fn(move |cx| {
        // The watch first: in an exchange it is what feeds the request, and is to be as far as it
        // can be when the answer is looked at.
        if let Poll::Ready(seen) = watch.as_mut().poll(cx) {
            return Poll::Ready(Err(seen));
        }
        work.as_mut().poll(cx).map(Ok)
    })
}
