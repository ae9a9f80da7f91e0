//! Which fields of a route does this version read?

use crate::wire::{HEADER, Kind, Known, STRING};

// route.proto and common.proto. `origin` is for people; durations are read whole.
pub(super) static ROUTE: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Leaf),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
    (6, Kind::Message("rules", &RULE)),
    (7, Kind::Leaf),
    (8, Kind::Leaf),
]);
static RULE: Known = Known(&[
    (1, Kind::Message("matches", &MATCH)),
    (2, Kind::Message("filters", &FILTER)),
    (3, Kind::Message("backends", &BACKEND)),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
    (6, Kind::Message("retries", &RETRIES)),
]);
static RETRIES: Known = Known(&[(1, Kind::Leaf), (2, Kind::Leaf), (3, Kind::Leaf)]);
static MATCH: Known = Known(&[
    (1, Kind::Message("path", &PATH)),
    (2, Kind::Message("headers", &HEADER)),
    (3, Kind::Message("query", &QUERY)),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
    (6, Kind::Leaf),
]);
static PATH: Known = Known(&[(1, Kind::Leaf), (2, Kind::Leaf), (3, Kind::Leaf)]);
static QUERY: Known = Known(&[(1, Kind::Leaf), (2, Kind::Message("value", &STRING))]);
static FILTER: Known = Known(&[
    (1, Kind::Message("request_headers", &MODIFIER)),
    (2, Kind::Message("response_headers", &MODIFIER)),
    (3, Kind::Message("redirect", &REDIRECT)),
    (4, Kind::Message("rewrite", &REWRITE)),
    (5, Kind::Message("mirror", &MIRROR)),
]);
static MODIFIER: Known = Known(&[
    (1, Kind::Message("set", &FIELD)),
    (2, Kind::Message("add", &FIELD)),
    (3, Kind::Leaf),
]);
static FIELD: Known = Known(&[(1, Kind::Leaf), (2, Kind::Leaf)]);
static REDIRECT: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Message("path", &NEW_PATH)),
    (4, Kind::Leaf),
    (5, Kind::Leaf),
]);
static REWRITE: Known = Known(&[(1, Kind::Leaf), (2, Kind::Message("path", &NEW_PATH))]);
static NEW_PATH: Known = Known(&[(1, Kind::Leaf), (2, Kind::Leaf)]);
static MIRROR: Known = Known(&[(1, Kind::Message("backend", &BACKEND)), (2, Kind::Leaf)]);
static BACKEND: Known = Known(&[
    (1, Kind::Leaf),
    (2, Kind::Leaf),
    (3, Kind::Leaf),
    (4, Kind::Message("filters", &FILTER)),
]);
