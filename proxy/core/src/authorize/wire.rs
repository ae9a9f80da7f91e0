//! Which fields of a policy does this version read?

use crate::wire::{HEADER, Kind, Known, STRING};

// authorization.proto and common.proto. `scope` and `origin` are for people.
pub(super) static POLICY: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Message("rules", &RULE)),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
    (6, Kind::Leaf),
]);
static RULE: Known = Known(&[
    (1, Kind::Message("from", &CALLER)),
    (2, Kind::Message("to", &OPERATION)),
    (3, Kind::Message("headers", &HEADER)),
]);
static CALLER: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Leaf),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
    (6, Kind::Leaf),
    (7, Kind::Message("except", &CALLER)),
]);
static OPERATION: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Message("hosts", &STRING)),
    (3, Kind::Leaf),
    (4, Kind::Message("paths", &STRING)),
]);
