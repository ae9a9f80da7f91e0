//! Who takes the requests of streams?
//!
//! The task of a request is thousands of bytes to make, to move and to take apart, and lasts for a
//! moment. So tasks are kept: one that has ended its request waits for another.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::RequestHead;

use crate::exchange::Downstream;
use crate::http::Side;
use crate::notify::Flag;

/// So many wait at once, at most.
const IDLE_MAX: usize = 256;

/// One worker's tasks for the requests of one side.
pub struct Hands<S> {
    idle: RefCell<Vec<Rc<Seat<S>>>>,
    /// As few were idle at some moment since the last sweep.
    fewest: Cell<usize>,
}

/// Where an idle task waits.
struct Seat<S> {
    called: Flag,
    job: RefCell<Option<Job<S>>>,
}

struct Job<S> {
    side: Rc<S>,
    head: RequestHead,
    down: Downstream,
}

impl<S> Default for Hands<S> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            fewest: Cell::new(0),
        }
    }
}

impl<S> fmt::Debug for Hands<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hands({} idle)", self.idle.borrow().len())
    }
}

impl<S: Side + 'static> Hands<S> {
    /// Takes one request to its end, in a task of its own.
    pub fn take(self: &Rc<Self>, side: Rc<S>, head: RequestHead, down: Downstream) {
        let job = Job { side, head, down };
        let seat = self.idle.borrow_mut().pop();
        self.fewest
            .set(self.fewest.get().min(self.idle.borrow().len()));
        match seat {
            Some(seat) => {
                *seat.job.borrow_mut() = Some(job);
                seat.called.set();
            }
            // In a box at once: the runtime moves what it is given several times.
            None => drop(tokio::task::spawn_local(Box::pin(
                Rc::clone(self).work(job),
            ))),
        }
    }

    async fn work(self: Rc<Self>, job: Job<S>) {
        let seat = Rc::new(Seat {
            called: Flag::default(),
            job: RefCell::new(Some(job)),
        });
        while let Some(Job { side, head, down }) = seat.job.take() {
            {
                let taking = pin!(Rc::clone(&side).take(head, down));
                caught(&*side, taking).await;
            }
            drop(side);
            {
                let mut idle = self.idle.borrow_mut();
                if idle.len() >= IDLE_MAX {
                    return;
                }
                idle.push(Rc::clone(&seat));
            }
            seat.called.wait().await;
        }
    }

    /// Sends those away that were not needed since the last sweep.
    pub fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        // Who waits longest stands first.
        let unused = self.fewest.get().min(idle.len());
        for seat in idle.drain(..unused) {
            // Without a job.
            seat.called.set();
        }
        self.fewest.set(idle.len());
    }
}

/// A request to its end. A panic in it is counted and recorded, and ends no other: what it held
/// resets the stream on its way out.
pub async fn caught<F: Future + ?Sized>(side: &impl Side, mut taking: Pin<&mut F>) {
    let caught = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| taking.as_mut().poll(cx))) {
            Ok(polled) => polled.map(|_| false),
            Err(_) => Poll::Ready(true),
        },
    );
    if caught.await {
        side.worker().shared.telemetry.metrics.panics.inc();
        side.unreadable(Failure::Internal, "http/2", 0);
    }
}
