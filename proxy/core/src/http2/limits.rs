//! Does this peer cost more than it is worth?
//!
//! Every flood known against HTTP/2 is legal frame by frame, so what counts is the ratio: frames
//! that do no work cost units, frames that do work earn them back, and so does time, as far as the
//! driver tells it. Who runs out is cut with ENHANCE_YOUR_CALM. Streams that break early have a
//! budget of their own (rapid reset, CVE-2023-44487; MadeYouReset, CVE-2025-8671).

use super::{ConnectionError, ErrorCode};

/// Ours: CONTINUATION frames of one block.
pub(super) const CONTINUATIONS_MAX: u32 = 512;
/// Ours: bytes of one block as it was sent.
pub(super) const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Ours: answers (acks, resets) that wait in the output because the peer does not read.
pub(super) const CONTROL_WAITING_MAX: u32 = 1_000;
/// Ours: informational responses (1xx) on one stream.
pub(super) const INFORMATIONAL_MAX: u8 = 100;
/// Ours: units that frames without work may cost before work or time pays for them; at least.
const UNITS_MIN: u32 = 10_000;
/// Ours: the same for each stream that may be open. When we reset all of them at once, each may
/// still have a few frames under way.
const UNITS_PER_STREAM: u32 = 10;
/// Ours: units that a second earns.
const UNITS_PER_SECOND: u32 = 330;
/// Ours: broken streams that a second forgives.
const BROKEN_PER_SECOND: u32 = 33;

/// Ours: PING, SETTINGS, PRIORITY, unknown and empty frames, frames for closed streams, refused
/// streams.
pub(super) const COST_FRAME: u32 = 10;
/// Ours: WINDOW_UPDATE, DATA of a few bytes.
pub(super) const COST_SMALL: u32 = 1;
/// Ours: DATA up to so many bytes is small; a gRPC message has five before its content.
pub(super) const SMALL_BYTES: u32 = 4;
/// Ours: DATA of so many bytes pays for itself, even if nobody wants it any more.
pub(super) const LARGE_BYTES: u32 = 256;
/// Ours: what a message that begins earns.
const EARNED_MESSAGE: u32 = 20;
/// Ours: what a DATA frame earns that we send; it invites two WINDOW_UPDATE, at times many.
const EARNED_SENT: u32 = 10;
/// Ours: bytes of DATA either way that earn one unit.
const BYTES_PER_UNIT: usize = 512;

/// What a peer has done, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that did no work.
    pub idle_frames: u64,
    /// Streams that the peer reset.
    pub resets: u64,
    /// Streams that we reset because the peer broke a rule on them.
    pub stream_errors: u64,
    /// Streams that were refused before the driver saw them.
    pub refused: u64,
    /// Connections that ended because the peer broke a rule: none or one.
    pub connection_errors: u64,
}

/// The budgets of one connection.
#[derive(Debug)]
pub(super) struct Limits {
    waiting: u32,
    units: u32,
    broken: u32,
    units_max: u32,
    broken_max: u32,
    pub(super) counters: Counters,
}

impl Limits {
    pub(super) fn new(streams_max: u32, broken_max: u32) -> Self {
        Self {
            waiting: 0,
            units: 0,
            broken: 0,
            units_max: UNITS_MIN.max(streams_max.saturating_mul(UNITS_PER_STREAM)),
            broken_max,
            counters: Counters::default(),
        }
    }

    /// An answer joins the output.
    pub(super) fn answer(&mut self) -> Result<(), ConnectionError> {
        self.waiting += 1;
        if self.waiting > CONTROL_WAITING_MAX {
            return Err(calm("the peer does not read our answers"));
        }
        Ok(())
    }

    pub(super) fn flushed(&mut self) {
        self.waiting = 0;
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// A frame did no work.
    pub(super) fn idle(&mut self, cost: u32) -> Result<(), ConnectionError> {
        self.counters.idle_frames = self.counters.idle_frames.saturating_add(1);
        self.units = self.units.saturating_add(cost);
        if self.units > self.units_max {
            return Err(calm("too many frames that do no work"));
        }
        Ok(())
    }

    /// A message began.
    pub(super) fn message(&mut self) {
        self.earn(EARNED_MESSAGE);
    }

    /// DATA came.
    pub(super) fn received(&mut self, bytes: u32) -> Result<(), ConnectionError> {
        if bytes <= SMALL_BYTES {
            return self.idle(COST_SMALL);
        }
        self.earn(1 + super::frame::wire(super::frame::size(bytes) / BYTES_PER_UNIT));
        Ok(())
    }

    /// DATA went.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn(EARNED_SENT + super::frame::wire(bytes / BYTES_PER_UNIT));
    }

    fn earn(&mut self, units: u32) {
        self.units = self.units.saturating_sub(units);
    }

    /// A stream broke before it had its answer, through the peer.
    pub(super) fn broke(&mut self) -> Result<(), ConnectionError> {
        self.broken += 1;
        if self.broken > self.broken_max {
            return Err(calm("too many streams broken off"));
        }
        Ok(())
    }

    /// A stream ended well.
    pub(super) fn completed(&mut self) {
        self.broken = self.broken.saturating_sub(1);
    }

    /// Time passed.
    pub(super) fn elapsed(&mut self, seconds: u32) {
        self.earn(seconds.saturating_mul(UNITS_PER_SECOND));
        self.broken = self
            .broken
            .saturating_sub(seconds.saturating_mul(BROKEN_PER_SECOND));
    }
}

/// The error of all breaches.
pub(super) fn calm(why: &'static str) -> ConnectionError {
    ConnectionError {
        code: ErrorCode::EnhanceYourCalm,
        why,
    }
}
