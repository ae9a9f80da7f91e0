//! How many bytes may still be sent, by us and by the peer (RFC 9113 §5.2 and §6.9)?

use super::frame::{size, wire};

/// Fixed by the protocol: no window is larger, bytes.
pub(super) const WINDOW_MAX: u32 = 0x7fff_ffff;
/// Fixed by the protocol: every window before anything is said, bytes.
pub(super) const WINDOW_DEFAULT: u32 = 65_535;

/// The peer counted wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

/// What we may still send. Below zero after the peer shrank its initial window.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendWindow(i32);

impl SendWindow {
    pub(super) fn new(bytes: u32) -> Self {
        Self(i32::try_from(bytes).unwrap_or(i32::MAX))
    }

    pub(super) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Counts bytes that were sent; the caller took no more than were available.
    pub(super) fn take(&mut self, bytes: usize) {
        self.0 = self
            .0
            .saturating_sub(i32::try_from(bytes).unwrap_or(i32::MAX));
    }

    /// WINDOW_UPDATE arrived.
    pub(super) fn grow(&mut self, bytes: u32) -> Result<(), Overflow> {
        self.shift(i64::from(bytes))
    }

    /// The peer's initial window changed by so much (RFC 9113 §6.9.2).
    pub(super) fn shift(&mut self, bytes: i64) -> Result<(), Overflow> {
        // Two 32-bit numbers never overflow 64.
        self.0 = i32::try_from(i64::from(self.0) + bytes).map_err(|_| Overflow)?;
        Ok(())
    }
}

/// What the peer may still send, and what it will be granted again.
///
/// Invariant: `left + credit` + what the driver has not consumed = the full window.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiveWindow {
    left: i32,
    credit: u32,
}

impl ReceiveWindow {
    pub(super) fn new(bytes: u32) -> Self {
        Self {
            left: i32::try_from(bytes).unwrap_or(i32::MAX),
            credit: 0,
        }
    }

    /// A frame of so many bytes arrived.
    pub(super) fn accept(&mut self, bytes: u32) -> Result<(), Overflow> {
        let bytes = i32::try_from(bytes).map_err(|_| Overflow)?;
        // Frames without content are free, even when the window is below zero (RFC 9113 §6.9.1).
        if bytes > self.left.max(0) {
            return Err(Overflow);
        }
        self.left -= bytes;
        Ok(())
    }

    /// The driver is done with so many bytes. Returns what to grant, once it is nearly half of
    /// `full`: two frames of a window of four, whose heads are not counted.
    pub(super) fn release(&mut self, bytes: usize, full: u32) -> Option<u32> {
        self.take_back(bytes, full);
        (self.credit >= full / 2 - full / 16)
            .then(|| self.grant())
            .flatten()
    }

    /// The same for a window that many streams share. What some of them hold unread must not keep
    /// the credit of the others back: it returns once it is half of what is not held.
    pub(super) fn release_shared(&mut self, bytes: usize, full: u32) -> Option<u32> {
        self.take_back(bytes, full);
        let half = self.credit >= full / 2 || i64::from(self.credit) >= i64::from(self.left);
        half.then(|| self.grant()).flatten()
    }

    /// Has the driver taken all that came, and the peer been granted it again?
    pub(super) fn is_whole(self, full: u32) -> bool {
        i64::from(self.left) == i64::from(full)
    }

    fn take_back(&mut self, bytes: usize, full: u32) {
        // A driver that gives back more than it got must not inflate the window.
        let most = i64::from(full) - i64::from(self.left);
        let most = u32::try_from(most.max(0)).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_add(wire(bytes)).min(most);
    }

    fn grant(&mut self) -> Option<u32> {
        let grant = std::mem::take(&mut self.credit);
        self.left = self
            .left
            .saturating_add(i32::try_from(grant).unwrap_or(i32::MAX));
        Some(grant).filter(|grant| *grant > 0)
    }

    /// Our own initial window changed by so much.
    pub(super) fn shift(&mut self, bytes: i32) {
        self.left = self.left.saturating_add(bytes);
    }
}

/// How many bytes both windows allow.
pub(super) fn both(stream: SendWindow, connection: SendWindow) -> usize {
    stream
        .available()
        .min(connection.available())
        .min(size(WINDOW_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_below_zero_and_come_back() {
        let mut window = SendWindow::new(10);
        window.take(8);
        window.shift(-5).unwrap();
        assert_eq!(window.available(), 0);
        window.grow(4).unwrap();
        assert_eq!(window.available(), 1);
        assert_eq!(window.grow(WINDOW_MAX), Err(Overflow));
    }

    /// More than half is held by streams that nobody reads: what is left still moves.
    #[test]
    fn what_some_hold_does_not_keep_back_the_credit_of_others() {
        for held in [0, 40, 60, 99] {
            let mut window = ReceiveWindow::new(100);
            window.accept(held).unwrap();
            let mut moved = 0;
            for _ in 0..1_000 {
                let piece = 1.min(100 - held);
                window.accept(piece).unwrap();
                moved += piece;
                window.release_shared(1, 100);
            }
            assert_eq!(moved, 1_000, "{held} held");
        }
    }

    #[test]
    fn credit_returns_at_half_and_never_more_than_was_taken() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.accept(101), Err(Overflow));
        window.accept(100).unwrap();
        assert_eq!(window.accept(1), Err(Overflow));
        window.accept(0).unwrap();
        assert_eq!(window.release(43, 100), None);
        assert_eq!(window.release(1, 100), Some(44));
        assert_eq!(window.release(usize::MAX, 100), Some(56));
        assert_eq!(window.release(usize::MAX, 100), None);
        window.accept(100).unwrap();
        window.shift(-5);
        window.accept(0).unwrap();
    }
}
