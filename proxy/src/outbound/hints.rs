//! What was spoken last on a port that declares nothing?

use std::cell::RefCell;
use std::collections::HashMap;

use isthmus_proto::ids::ServiceName;

/// Ports remembered, at most.
const HINTS_MAX: usize = 4096;

/// What a connection turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// The client spoke first, and it was HTTP.
    Http,
    /// The server spoke first.
    Bytes,
}

/// One worker's memory.
#[derive(Debug, Default)]
pub struct Hints(RefCell<HashMap<(ServiceName, u16), Hint>>);

impl Hints {
    pub(super) fn get(&self, service: &ServiceName, port: u16) -> Option<Hint> {
        self.0.borrow().get(&(service.clone(), port)).copied()
    }

    pub(super) fn set(&self, service: &ServiceName, port: u16, hint: Hint) {
        let mut hints = self.0.borrow_mut();
        if hints.len() < HINTS_MAX {
            hints.insert((service.clone(), port), hint);
        }
    }
}
