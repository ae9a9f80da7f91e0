//! Does a whole mesh keep its promises, on real sockets?
//!
//! One binary; each test has a mesh of its own. `ISTHMUS_LOG=debug` shows what happens,
//! `ISTHMUS_FULL=1` moves as much as the promises say where a debug build is too slow for that.

#[cfg(test)]
mod mtls;
