//! How does a bad network behave?
//!
//! A relay of bytes in front of a listener, whose faults are switched while it runs. What it does by
//! chance follows from a seed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// One read.
const CHUNK_BYTES: usize = 16 * 1024;

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// New connections are refused by RST, and open ones are broken off by one.
    Reset,
    /// Nothing passes any more, and nobody is told.
    Stall,
    /// Each piece waits: milliseconds from 0 to this, by chance.
    Delay(u64),
    /// A connection is broken off after this many bytes.
    CutAfter(u64),
}

/// A relay in front of one address.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    accepts: AtomicUsize,
    bytes: AtomicU64,
    hello: Mutex<Vec<u8>>,
}

impl Link {
    /// A relay from one address to another; its chance follows from `seed`.
    ///
    /// # Panics
    /// The address is taken.
    pub async fn start(from: SocketAddr, to: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind(from)
            .await
            .expect("the link's address is free");
        let address = listener.local_addr().expect("a bound address");
        let (fault, faults) = watch::channel(Fault::None);
        let counts = Arc::new(Counts::default());
        let serving = tokio::spawn(serve(listener, to, faults, Arc::clone(&counts), seed));
        Self {
            address,
            fault,
            counts,
            serving,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is wrong with it, also for what is open.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections so far.
    #[must_use]
    pub fn accepts(&self) -> usize {
        self.counts.accepts.load(Ordering::SeqCst)
    }

    /// What the newest caller said first, as somebody on the path sees it.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        self.counts
            .hello
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bytes so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    to: SocketAddr,
    faults: watch::Receiver<Fault>,
    counts: Arc<Counts>,
    seed: u64,
) {
    let mut connections = JoinSet::new();
    let mut chance = Chance(seed);
    loop {
        let Ok((io, _)) = listener.accept().await else {
            continue;
        };
        counts.accepts.fetch_add(1, Ordering::SeqCst);
        let wire = Wire {
            faults: faults.clone(),
            counts: Arc::clone(&counts),
            chance: chance.split(),
        };
        connections.spawn(relay(io, to, wire));
        while connections.try_join_next().is_some() {}
    }
}

#[derive(Clone)]
struct Wire {
    faults: watch::Receiver<Fault>,
    counts: Arc<Counts>,
    chance: Chance,
}

async fn relay(near: TcpStream, to: SocketAddr, mut wire: Wire) {
    if *wire.faults.borrow() == Fault::Reset {
        return reset(&near);
    }
    let Ok(far) = TcpStream::connect(to).await else {
        return reset(&near);
    };
    // Sockets that are gone already will say so at the first read.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let passed = Arc::new(AtomicU64::new(0));
    let (near_rx, near_tx) = near.into_split();
    let (far_rx, far_tx) = far.into_split();
    let back = Wire {
        chance: wire.chance.split(),
        ..wire.clone()
    };
    listen_in(&near_rx, &wire.counts).await;
    let there = pass(near_rx, far_tx, wire, Arc::clone(&passed));
    let back = pass(far_rx, near_tx, back, passed);
    tokio::join!(there, back);
}

/// Notes the caller's first bytes, and leaves them where they are.
async fn listen_in(from: &OwnedReadHalf, counts: &Counts) {
    let mut space = vec![0; CHUNK_BYTES];
    if let Ok(n) = from.as_ref().peek(&mut space).await {
        space.truncate(n);
        *counts.hello.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }
}

/// One direction, until its end.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: Wire,
    passed: Arc<AtomicU64>,
) {
    let mut space = vec![0; CHUNK_BYTES];
    let mut resets = wire.faults.clone();
    loop {
        // A read is cancel-safe, and after a reset nothing counts any more.
        let read = tokio::select! {
            biased;
            () = is_reset(&mut resets) => return cut(&from, &to),
            read = from.read(&mut space) => read,
        };
        let Ok(n) = read else { return cut(&from, &to) };
        if n == 0 {
            // Half-closed, as a network passes it on.
            let _ = to.shutdown().await;
            return;
        }
        // Nothing passes while the link is stalled.
        if wire
            .faults
            .wait_for(|fault| *fault != Fault::Stall)
            .await
            .is_err()
        {
            return;
        }
        let fault = *wire.faults.borrow();
        if let Fault::Delay(most) = fault {
            tokio::time::sleep(Duration::from_millis(
                wire.chance.below(most.saturating_add(1)),
            ))
            .await;
        }
        let bytes = u64::try_from(n).unwrap_or(0);
        wire.counts.bytes.fetch_add(bytes, Ordering::SeqCst);
        let total = passed.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if matches!(fault, Fault::CutAfter(limit) if total > limit) {
            return cut(&from, &to);
        }
        let Some(data) = space.get(..n) else { return };
        let written = tokio::select! {
            biased;
            () = is_reset(&mut resets) => return cut(&from, &to),
            written = to.write_all(data) => written,
        };
        if written.is_err() {
            return cut(&from, &to);
        }
    }
}

async fn is_reset(faults: &mut watch::Receiver<Fault>) {
    if faults
        .wait_for(|fault| *fault == Fault::Reset)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

fn cut(from: &OwnedReadHalf, to: &OwnedWriteHalf) {
    reset(from.as_ref());
    reset(to.as_ref());
}

/// Closing will send RST.
fn reset(io: &TcpStream) {
    // Without it the close is an orderly one, which is the next best.
    let _ = socket2::SockRef::from(io).set_linger(Some(Duration::ZERO));
}

/// A small generator (SplitMix64): the same seed, the same network.
#[derive(Debug, Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    fn split(&mut self) -> Self {
        Self(self.next())
    }
}
