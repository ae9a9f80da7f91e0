//! Which streams are there, and what became of those that are not (RFC 9113 §5.1)?

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::Role;
use super::flow::{ReceiveWindow, SendWindow};
use super::growth::Pace;

/// Ours: streams that ended or were reset by the peer, of which we remember how.
const REMEMBERED: usize = 64;
/// Ours: streams that we reset, of which frames may still be under way; at least so many.
const REMEMBERED_RESETS_MIN: usize = 1_024;
/// Ours: room for streams that an idle connection keeps.
const ROOM_KEPT: usize = 64;
/// No content length is known.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// One live stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Bytes of the peer's body that are still to come, or `UNKNOWN`.
    pub(super) content: u64,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// Bytes by which our window for it has grown; below zero: has shrunk.
    pub(super) grown: i32,
    /// How fast it uses up our window.
    pub(super) pace: Pace,
    /// The peer sends nothing more.
    pub(super) remote_ended: bool,
    /// We send nothing more.
    pub(super) local_ended: bool,
    /// The peer's final head came. Always true for a server.
    pub(super) head_seen: bool,
    /// Our final head went. Always true for a client.
    pub(super) head_sent: bool,
    /// What was asked for, as far as the shape of the answer depends on it.
    pub(super) asked: Asked,
    /// Informational responses so far.
    pub(super) informational: u8,
}

impl Stream {
    /// Is there less content than was announced?
    pub(super) fn is_short(&self) -> bool {
        self.content != UNKNOWN && self.content > 0
    }
}

/// What was asked for, as far as the shape of the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Head,
    /// CONNECT: after the heads there is nothing but DATA (RFC 9113 §8.5).
    Tunnel,
    /// Extended CONNECT (RFC 8441).
    Protocol,
    Other,
}

impl Asked {
    /// Does a response of this status open a tunnel, which has no content to measure?
    pub(super) fn is_opened_by(self, status: u16) -> bool {
        matches!(self, Self::Tunnel | Self::Protocol) && (200..300).contains(&status)
    }
}

fn above_zero(bytes: i32) -> u32 {
    u32::try_from(bytes).unwrap_or(0)
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// We reset it: its last frames may still be under way.
    ByUs,
    /// The peer reset it.
    ByPeer,
    /// Both sides ended.
    Ended,
    /// Too long ago to know, or skipped.
    Forgotten,
}

/// All streams of a connection. Only clients open them: push is refused.
#[derive(Debug)]
pub(super) struct Streams {
    live: HashMap<u32, Stream, BuildHasherDefault<Spread>>,
    /// The highest id that was opened, or that the peer tried to.
    highest: u32,
    by_us: Recent,
    by_peer: Recent,
    ended: Recent,
    /// Bytes by which the windows of all live ones have grown.
    grown: u32,
}

impl Streams {
    /// `most`: how many may be live.
    pub(super) fn new(role: Role, most: u32) -> Self {
        let resets = match role {
            Role::Server => REMEMBERED_RESETS_MIN.max(super::frame::size(most).saturating_mul(2)),
            Role::Client => REMEMBERED_RESETS_MIN,
        };
        Self {
            live: HashMap::default(),
            highest: 0,
            by_us: Recent::new(resets),
            by_peer: Recent::new(REMEMBERED),
            ended: Recent::new(REMEMBERED),
            grown: 0,
        }
    }

    /// Bytes by which the windows of all live ones have grown.
    pub(super) fn grown(&self) -> u32 {
        self.grown
    }

    /// The window of stream `id` becomes so much larger, or smaller.
    pub(super) fn grow(&mut self, id: u32, more: u32, less: u32) {
        if let Some(stream) = self.live.get_mut(&id) {
            let change = i32::try_from(i64::from(more) - i64::from(less)).unwrap_or(i32::MAX);
            let before = above_zero(stream.grown);
            stream.grown = stream.grown.saturating_add(change);
            stream.receive.shift(change);
            self.grown = (self.grown - before).saturating_add(above_zero(stream.grown));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    /// The id is used now, whatever becomes of it.
    pub(super) fn use_id(&mut self, id: u32) {
        self.highest = self.highest.max(id);
    }

    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        self.use_id(id);
        self.live.insert(id, stream);
    }

    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.live.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.live.get_mut(&id)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        self.live.iter_mut().map(|(id, stream)| (*id, stream))
    }

    /// Takes all streams above `last` away, and returns their ids in order.
    pub(super) fn above(&mut self, last: u32) -> Vec<u32> {
        let mut ids: Vec<u32> = self.live.keys().copied().filter(|id| *id > last).collect();
        ids.sort_unstable();
        for id in &ids {
            self.remove(*id, Closed::ByPeer);
        }
        ids
    }

    /// What became of stream `id`, which is not live? `None`: it is idle.
    pub(super) fn missing(&self, id: u32) -> Option<Closed> {
        // Even numbers are a server's, who would need push for them: always idle.
        if id.is_multiple_of(2) || id > self.highest {
            return None;
        }
        Some(if self.ended.has(id) {
            Closed::Ended
        } else if self.by_peer.has(id) {
            Closed::ByPeer
        } else if self.by_us.has(id) {
            Closed::ByUs
        } else {
            Closed::Forgotten
        })
    }

    /// The stream is over. False: it was not live.
    pub(super) fn remove(&mut self, id: u32, how: Closed) -> bool {
        let was = self.live.remove(&id);
        if let Some(stream) = &was {
            self.grown = self.grown.saturating_sub(above_zero(stream.grown));
        }
        match how {
            Closed::ByUs => self.by_us.push(id),
            Closed::ByPeer => self.by_peer.push(id),
            Closed::Ended => self.ended.push(id),
            Closed::Forgotten => {}
        }
        if self.live.is_empty() && self.live.capacity() > ROOM_KEPT {
            self.live.shrink_to(ROOM_KEPT / 4);
        }
        was.is_some()
    }
}

/// The last few ids of a kind.
#[derive(Debug)]
struct Recent {
    ids: Vec<u32>,
    next: usize,
    most: usize,
}

impl Recent {
    fn new(most: usize) -> Self {
        Self {
            ids: Vec::new(),
            next: 0,
            most,
        }
    }

    fn push(&mut self, id: u32) {
        if self.ids.len() < self.most {
            self.ids.push(id);
        } else if let Some(oldest) = self.ids.get_mut(self.next) {
            *oldest = id;
            self.next = (self.next + 1) % self.most.max(1);
        }
    }

    fn has(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }
}

/// Spreads stream ids over a table: one multiplication. Whoever picks ids that collide slows
/// down at most its own connection, by as many steps as it may have streams.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let mixed = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Stream>() <= 32);
    }

    #[test]
    fn only_so_many_ids_are_remembered() {
        let mut recent = Recent::new(3);
        for id in 1..=5 {
            recent.push(id);
        }
        assert_eq!(
            (1..=5).map(|id| recent.has(id)).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
    }
}
