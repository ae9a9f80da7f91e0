//! When is a stream worth a larger window?
//!
//! A window that is too small for its path is used up before credit for it is back: the peer sends
//! one window in each round trip, and waits. A window that is larger than that fills queues, in
//! which all others on the connection wait. So the window of a stream doubles while nearly
//! half of one goes through in each round trip, and no further. (Credit returns at half a window: it
//! takes two times of what the path holds to keep it full.)

use std::time::Duration;

/// Ours: round trips that are looked at together ...
const ROUND_TRIPS: u64 = 4;
/// ... but no less than this, µs: in a shorter time there are bursts.
const PERIOD_MIN: u64 = 4_000;
/// Ours: a shorter round trip counts as this one, µs. Both ends take turns of about that length, and
/// few large turns cost less: with one stream in half of it, a KiB cost a third more.
const ROUND_TRIP_MIN: u64 = 100;
/// Ours: on a path that is shorter than that, all streams that are busy share so much, bytes: what is
/// under way there is a queue at one of its ends ...
const SHARED: u32 = 128 * 1024;
/// ... but none has less, bytes: credit returns with each full frame.
const SHARED_MIN: u32 = 32 * 1024;
/// Ours: of what can go through in a period, in 256ths, so much tells a window that is too small. A
/// peer that waits for credit sends 128 to 256.
const SHARE_MIN: u8 = 116;

/// What time it is, and how long the peer takes to answer.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Since the connection began, µs; as far as the driver told.
    now: u64,
    /// When the PING went out whose answer is awaited. At the beginning, our SETTINGS.
    asked: Option<u64>,
    round_trip: Option<u64>,
}

impl Clock {
    /// Begins with our SETTINGS.
    pub(super) fn new() -> Self {
        Self {
            asked: Some(0),
            ..Self::default()
        }
    }

    /// The driver tells the time. How many whole seconds passed.
    pub(super) fn at(&mut self, since_begin: Duration) -> u32 {
        const SECOND: u64 = 1_000_000;
        let before = self.now;
        let now = u64::try_from(since_begin.as_micros()).unwrap_or(u64::MAX);
        self.now = now.max(before);
        u32::try_from(self.now / SECOND - before / SECOND).unwrap_or(u32::MAX)
    }

    /// Something goes out that the peer answers at once.
    pub(super) fn ask(&mut self) {
        self.asked.get_or_insert(self.now);
    }

    /// The answer is here. `quiet`: nothing else was under way, so that it counts whatever was
    /// measured before.
    pub(super) fn answered(&mut self, quiet: bool) {
        if let Some(asked) = self.asked.take() {
            let before = self.round_trip.filter(|_| !quiet).unwrap_or(u64::MAX);
            self.round_trip = Some(before.min(self.now - asked));
        }
    }

    /// Which period of a few round trips it is. `None`: how long they are is not known yet.
    pub(super) fn period(&self) -> Option<Period> {
        let is_short = self.round_trip? < ROUND_TRIP_MIN;
        let round_trip = self.round_trip?.max(ROUND_TRIP_MIN);
        let length = round_trip.saturating_mul(ROUND_TRIPS).max(PERIOD_MIN);
        let [number, ..] = (self.now / length).to_le_bytes();
        Some(Period {
            number,
            round_trip,
            length,
            is_short,
        })
    }
}

/// A few round trips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    /// Only to be compared.
    number: u8,
    round_trip: u64,
    length: u64,
    is_short: bool,
}

/// How many streams are busy at once.
#[derive(Debug, Default)]
pub(super) struct Busy {
    period: u8,
    now: u32,
    before: u32,
}

impl Busy {
    /// Credit returns to a stream of this pace.
    pub(super) fn note(&mut self, pace: Pace, period: Period) {
        if self.period != period.number {
            self.period = period.number;
            self.before = std::mem::take(&mut self.now);
        }
        if pace.period != period.number {
            self.now += 1;
        }
    }

    /// How large the window of one may be.
    pub(super) fn most(&self, period: Period) -> u32 {
        if period.is_short {
            (SHARED / self.before.max(1)).max(SHARED_MIN)
        } else {
            u32::MAX
        }
    }
}

/// How fast a stream uses up its window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    period: u8,
    /// What went through in it, of one window in each round trip, in 256ths.
    share: u8,
}

impl Pace {
    /// So many bytes of a window went through. True: it is too small for the path.
    pub(super) fn went(&mut self, bytes: u32, window: u32, period: Period) -> bool {
        if self.period != period.number {
            self.period = period.number;
            self.share = 0;
        }
        let most = u64::from(window.max(1)).saturating_mul(period.length);
        let share = u64::from(bytes).saturating_mul(period.round_trip.saturating_mul(256)) / most;
        self.share = self
            .share
            .saturating_add(u8::try_from(share).unwrap_or(u8::MAX));
        let small = self.share >= SHARE_MIN;
        if small {
            // It counts anew, for the larger one.
            self.share = 0;
        }
        small
    }
}
