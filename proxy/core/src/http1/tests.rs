//! Is every ambiguous message refused, and every honest one read?

mod bodies;
mod oracle;
mod properties;
mod requests;
mod responses;
mod writing;

use super::*;

/// A request that must be refused: its name, its bytes, and the start of the rule.
pub(super) struct Refused(
    pub(super) &'static str,
    pub(super) &'static [u8],
    pub(super) &'static str,
);

#[test]
fn the_end_of_a_head_is_found_wherever_the_scan_resumes() {
    let head =
        b"GET / HTTP/1.1\r\nhost: a\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\nrest";
    let end = head.len() - 4;
    for seen in 0..end {
        assert_eq!(head_end(&head[..seen], 0), None, "{seen}");
        assert_eq!(head_end(head, seen), Some(end), "{seen}");
    }
}

#[test]
fn a_head_with_bare_line_feeds_ends_too_so_that_it_is_refused_at_once() {
    assert_eq!(head_end(b"GET / HTTP/1.1\nhost: a\n\n", 0), Some(24));
    assert_eq!(head_end(b"GET / HTTP/1.1\nhost: a\n\r\n", 23), Some(25));
    assert_eq!(head_end(b"GET / HTTP/1.1\r\nhost: a\r\n\r", 9), None);
    assert_eq!(head_end(b"", 7), None);
}
