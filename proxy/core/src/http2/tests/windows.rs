//! How much can streams hold that nobody reads, and who gets more room?

use super::*;

const BASE: u32 = 64 * 1024;
const MOST: u32 = 256 * 1024;
const GROWTH: u32 = 400 * 1024;

fn end() -> End {
    End::server_with(Settings {
        initial_window: BASE,
        stream_window_max: MOST,
        growth_max: GROWTH,
        max_concurrent_streams: 1_000,
        ..Settings::default()
    })
}

/// Sends on a stream until the peer may send no more; how much that was.
fn fill(end: &mut End, id: u32) -> u32 {
    let mut sent = 0;
    loop {
        let mut seen = Vec::new();
        end.feed_to(&data(id, &[7; 1024], false), &mut seen)
            .unwrap();
        if !matches!(seen.as_slice(), [Seen::Data(..)]) {
            break;
        }
        sent += 1024;
    }
    sent
}

/// Sends half a window a few times; each is read at once, `seconds` after the last.
fn stream(end: &mut End, id: u32, seconds: u32) {
    end.feed(&headers(id, POST, false)).unwrap();
    for _ in 0..64 {
        for _ in 0..8 {
            // The harness takes what comes at once.
            end.feed(&data(id, &[7; 16 * 1024], false)).unwrap();
        }
        end.out.clear();
        end.http2.elapsed(seconds);
    }
}

#[test]
fn a_stream_that_nobody_reads_has_its_first_window_and_no_more() {
    let mut end = end();
    end.feed(&headers(1, POST, false)).unwrap();
    assert_eq!(fill(&mut end, 1), BASE);
}

#[test]
fn a_stream_that_is_read_fast_gets_room_up_to_its_bound() {
    let mut end = end();
    stream(&mut end, 1, 0);
    assert_eq!(fill(&mut end, 1), MOST);
}

#[test]
fn a_stream_that_trickles_gets_no_room() {
    let mut end = end();
    end.feed(&headers(1, POST, false)).unwrap();
    for _ in 0..100 {
        end.feed(&data(1, &[7; 16 * 1024], false)).unwrap();
        end.http2.elapsed(1);
    }
    assert!(fill(&mut end, 1) <= BASE);
}

#[test]
fn what_all_may_grow_by_is_bounded_and_returns_with_each_stream() {
    let mut end = end();
    for id in [1, 3, 5, 7] {
        stream(&mut end, id, 0);
    }
    assert_eq!(end.http2.streams.grown(), GROWTH);
    for id in [1, 3, 5, 7] {
        end.http2
            .reset(StreamId(id), ErrorCode::Cancel, &mut end.out);
    }
    assert_eq!(end.http2.streams.grown(), 0);
}
