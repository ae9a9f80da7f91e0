//! How does one task of a worker wake another?

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Leaves the task's waker there. It mostly is there already.
pub fn put_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// A flag with one waiter: set before or after the wait, it is never lost.
#[derive(Debug, Default)]
pub struct Flag {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Flag {
    /// Sets the flag and wakes the waiter.
    pub fn set(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Waits for the flag and takes it down. Safe to drop.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll_wait(cx)).await;
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.set.take() {
            return Poll::Ready(());
        }
        put_waker(&mut self.waker.borrow_mut(), cx);
        Poll::Pending
    }
}

/// Waiters in the order of their arrival. A wake-up is a hint: who wakes looks again.
#[derive(Debug, Default)]
pub struct Queue {
    wakers: VecDeque<Waker>,
}

impl Queue {
    /// Adds a waiter.
    pub fn push(&mut self, cx: &Context<'_>) {
        // A task that is polled again for another reason stands in line once.
        if !self.wakers.iter().any(|w| w.will_wake(cx.waker())) {
            self.wakers.push_back(cx.waker().clone());
        }
    }

    /// Takes a waiter out. False: it was woken, or never stood there.
    pub fn leave(&mut self, waker: &Waker) -> bool {
        let before = self.wakers.len();
        self.wakers.retain(|w| !w.will_wake(waker));
        self.wakers.len() < before
    }

    /// Does nobody wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Wakes the first few.
    pub fn wake(&mut self, count: usize) {
        for waker in self.wakers.drain(..count.min(self.wakers.len())) {
            waker.wake();
        }
    }

    /// Wakes all: something ended.
    pub fn wake_all(&mut self) {
        self.wake(usize::MAX);
    }
}
