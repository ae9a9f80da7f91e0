//! How much can streams hold that nobody reads, and who gets more room?

use std::collections::VecDeque;

use super::super::connection::MEASURING_PING;
use super::*;

const BASE: u32 = 64 * 1024;
const MOST: u32 = 256 * 1024;
const GROWTH: u32 = 400 * 1024;
const SECOND: Duration = Duration::from_secs(1);
/// Of a path on which both ends do not just take turns.
const ROUND_TRIP: Duration = Duration::from_micros(500);

fn end() -> End {
    End::server_with(Settings {
        initial_window: BASE,
        stream_window_max: MOST,
        growth_max: GROWTH,
        max_concurrent_streams: 1_000,
        ..Settings::default()
    })
}

/// The peer is so far away.
fn far(end: &mut End, round_trip: Duration) {
    end.http2.ping([7; 8], &mut end.out);
    end.wait(round_trip);
    end.feed(&raw(6, 1, 0, &[7; 8])).unwrap();
    end.out.clear();
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

/// Sends two windows a few times; they are read at once, `time` after the last.
fn stream(end: &mut End, id: u32, time: Duration) {
    end.feed(&headers(id, POST, false)).unwrap();
    for _ in 0..64 {
        for _ in 0..8 {
            // The harness takes what comes at once.
            end.feed(&data(id, &[7; 16 * 1024], false)).unwrap();
        }
        end.out.clear();
        end.wait(time);
    }
}

fn window(end: &End, id: u32) -> u32 {
    let grown = end.http2.streams.get(id).unwrap().grown;
    end.http2.stream_window().saturating_add_signed(grown)
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
    far(&mut end, ROUND_TRIP);
    stream(&mut end, 1, Duration::ZERO);
    assert_eq!(window(&end, 1), MOST);
    // Less than half of it may still be owed.
    assert!(fill(&mut end, 1) > MOST / 2);
}

#[test]
fn a_stream_that_trickles_gets_no_room() {
    let mut end = end();
    end.feed(&headers(1, POST, false)).unwrap();
    for _ in 0..100 {
        end.feed(&data(1, &[7; 16 * 1024], false)).unwrap();
        end.wait(SECOND);
    }
    assert!(fill(&mut end, 1) <= BASE);
}

/// On a short path what is under way waits at one of its ends, and whoever comes next behind it.
#[test]
fn streams_that_are_busy_at_once_share_a_short_path() {
    let mut end = End::server();
    let four = [1, 3, 5, 7];
    for id in four {
        end.feed(&headers(id, POST, false)).unwrap();
    }
    let busy = |end: &mut End, ids: &[u32]| {
        for _ in 0..1_000 {
            for id in ids {
                end.feed(&data(*id, &[7; 16 * 1024], false)).unwrap();
            }
            end.wait(Duration::from_micros(100));
            end.out.clear();
        }
    };
    busy(&mut end, &four);
    for id in four {
        assert_eq!(window(&end, id), 32 * 1024);
    }
    for id in &four[1..] {
        // And then it is gone: the peer has sent more than it may.
        assert!(fill(&mut end, *id) <= 32 * 1024);
    }
    busy(&mut end, &[1; 4]);
    assert_eq!(window(&end, 1), 128 * 1024);
}

#[test]
fn what_all_may_grow_by_is_bounded_and_returns_with_each_stream() {
    let mut end = end();
    far(&mut end, ROUND_TRIP);
    for id in [1, 3, 5, 7] {
        stream(&mut end, id, Duration::ZERO);
    }
    assert_eq!(end.http2.streams.grown(), GROWTH);
    for id in [1, 3, 5, 7] {
        end.http2
            .reset(StreamId(id), ErrorCode::Cancel, &mut end.out);
    }
    assert_eq!(end.http2.streams.grown(), 0);
}

/// One direction of a path: what is sent leaves at a rate, and arrives later.
#[derive(Default)]
struct Way {
    /// Until then it has something to send.
    busy: u64,
    under_way: VecDeque<(u64, Vec<u8>)>,
}

impl Way {
    /// All times in µs, the rate in bytes for each.
    fn send(&mut self, now: u64, out: &mut Vec<u8>, (rate, delay): (u64, u64)) {
        // In pieces, as packets: what is behind them need not wait for all.
        for packet in std::mem::take(out).chunks(16 * 1024) {
            self.busy = self.busy.max(now) + (packet.len() as u64).div_ceil(rate);
            self.under_way
                .push_back((self.busy + delay, packet.to_vec()));
        }
    }

    fn next(&self) -> u64 {
        self.under_way.front().map_or(u64::MAX, |(at, _)| *at)
    }

    fn arrived(&mut self, now: u64) -> Option<Vec<u8>> {
        let (_, bytes) = self.under_way.pop_front_if(|(at, _)| *at <= now)?;
        Some(bytes)
    }
}

/// A server that hears of the client's settings `late`, and is asked as much later, answers with a body
/// without end over such a path. Which window the client gives it in the end, and how much came in the last quarter.
fn download(rate: u64, round_trip: u64, late: u64, time: u64) -> (u32, u64) {
    let settings = Settings::default();
    let mut client = End::new(Role::Client, settings.clone());
    let mut server = End::new(Role::Server, settings);
    let (mut up, mut down) = (Way::default(), Way::default());
    let path = (rate, round_trip / 2);
    let (mut now, mut got) = (0, 0);
    let mut asked = None;
    let content = vec![7; 64 * 1024];
    while now < time {
        client.http2.at(Duration::from_micros(now));
        server.http2.at(Duration::from_micros(now));
        while let Some(bytes) = down.arrived(now) {
            for event in client.feed(&bytes).unwrap() {
                if let Seen::Data(_, data, _) = event
                    && now > time / 4 * 3
                {
                    got += data.len() as u64;
                }
            }
        }
        if client.http2.is_ready() && asked.is_none() && now >= 2 * late {
            asked = Some(client.http2.open(&get("/"), true, &mut client.out).unwrap());
        }
        while let Some(bytes) = up.arrived(now) {
            for event in server.feed(&bytes).unwrap() {
                if let Seen::Request(id, ..) = event {
                    let id = StreamId(id);
                    server
                        .http2
                        .respond(id, &ok(), false, &mut server.out)
                        .unwrap();
                }
            }
        }
        if let Some(id) = asked {
            // What is ready to be sent waits here, as in a socket.
            let _ = server.http2.data(id, &content, false, &mut server.out);
        }
        let first = if now == 0 { late } else { 0 };
        up.send(now + first, &mut client.out, path);
        down.send(now, &mut server.out, path);
        let asks = if asked.is_none() { 2 * late } else { u64::MAX };
        let next = [up.next(), down.next(), asks.max(now + 1)];
        now = next.into_iter().min().unwrap_or(time);
    }
    (window(&client, asked.unwrap().get()), got)
}

/// Windows that are too small leave a path empty; larger ones are queues.
#[test]
fn a_window_becomes_as_large_as_its_path_and_no_larger() {
    // Bytes for each µs (MB/s), and µs.
    for (rate, round_trip, time) in [
        (400, 60, 200_000),
        (100, 500, 400_000),
        (20, 20_000, 4_000_000),
        (25, 50_000, 8_000_000),
        (60, 10_000, 2_000_000),
    ] {
        let (window, got) = download(rate, round_trip, 0, time);
        let holds = rate * round_trip;
        let told = format!("{rate} MB/s, {round_trip} us: {window} for {holds}, {got} came");
        let most = 5 * rate * round_trip.max(100);
        assert!(u64::from(window) <= most.max(64 * 1024), "{told}");
        assert!(got >= rate * time / 4 * 8 / 10, "{told}");
    }
}

/// The first answer to a client comes after its certificate was looked at: that is no round trip.
#[test]
fn a_slow_handshake_makes_no_window_large() {
    let (window, _) = download(400, 60, 5_000, 200_000);
    let (usual, _) = download(400, 60, 0, 200_000);
    assert_eq!(window, usual);
}

/// h2spec takes any PING for the answer to its own.
#[test]
fn a_server_asks_only_who_asks() {
    let pings = |end: &mut End| {
        let written = end.written().into_iter();
        written.filter(|f| f.0 == Kind::Ping).map(|f| f.1).collect()
    };
    let mut end = end();
    end.feed(&raw(6, 0, 0, &[0; 8])).unwrap();
    let seen: Vec<u8> = pings(&mut end);
    assert_eq!(seen, [1]);
    end.feed(&raw(6, 0, 0, &MEASURING_PING)).unwrap();
    assert_eq!(pings(&mut end), [1, 0]);
    end.feed(&raw(6, 0, 0, &MEASURING_PING)).unwrap();
    assert_eq!(pings(&mut end), [1], "as often as it was told to");
    end.feed(&raw(6, 1, 0, &MEASURING_PING)).unwrap();
    assert!(end.out.is_empty());
}
