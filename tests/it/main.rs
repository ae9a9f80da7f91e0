//! Does a whole mesh keep its promises, on real sockets?
//!
//! One binary; each test has a mesh of its own. `ISTHMUS_LOG=debug` shows what happens,
//! `ISTHMUS_FULL=1` moves as much as the promises say where a debug build is too slow for that.

#[cfg(test)]
mod mtls;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod authorization;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod spread;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod undeclared;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod evidence;
#[cfg(test)]
mod ambiguous;
#[cfg(test)]
mod canonical;
#[cfg(test)]
mod host;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod log;
#[cfg(test)]
mod passthrough;
#[cfg(test)]
mod ranges;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod staleness;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod poison;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod why;
#[cfg(test)]
mod captured;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod kubernetes;

#[cfg(test)]
use isthmus_tests::load;

/// Runs a test that is ignored otherwise in a process of its own: what is measured is all that the process
/// holds.
#[cfg(test)]
async fn alone(test: &str) {
    use isthmus_tests::programs::{run, said};
    let file = std::env::current_exe().unwrap();
    let out = run(&file, &["--exact", test, "--ignored"]).await;
    let text = said(&out);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}
