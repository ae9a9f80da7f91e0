//! Is every known flood cut, and no honest peer with it (SECURITY O1 to O8, S19)?

use super::*;

/// Feeds the same bytes again and again, to a peer that reads our answers; after how many times
/// was it cut?
fn cut_after(end: &mut End, most: u32, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    for k in 0..most {
        if let Err(error) = end.feed(&bytes(k)) {
            assert_eq!(error.code, ErrorCode::EnhanceYourCalm, "{error}");
            return Some(k);
        }
        end.written();
    }
    None
}

fn reset(id: u32) -> Vec<u8> {
    raw(3, 0, id, &8_u32.to_be_bytes())
}

#[test]
fn o1_rapid_reset_is_cut_after_150_requests() {
    let mut end = End::server();
    let flood = |k| [headers(2 * k + 1, GET, true), reset(2 * k + 1)].concat();
    assert_eq!(cut_after(&mut end, 200_000, flood), Some(150));
    assert_eq!(end.http2.counters().resets, 151);
}

#[test]
fn o1_a_client_that_gives_up_now_and_then_is_not_cut() {
    let mut end = End::server();
    for k in 0..5_000 {
        let id = 2 * k + 1;
        end.feed(&headers(id, GET, true)).unwrap();
        if k % 2 == 0 {
            end.http2
                .respond(StreamId(id), &ok(), true, &mut end.out)
                .unwrap();
        } else {
            end.feed(&reset(id)).unwrap();
        }
    }
    // And one that gives all up, but slowly.
    let mut end = End::server();
    for k in 0..1_000 {
        end.feed(&[headers(2 * k + 1, GET, true), reset(2 * k + 1)].concat())
            .unwrap();
        if k % 30 == 0 {
            end.wait(Duration::from_secs(1));
        }
    }
    assert!(
        cut_after(&mut end, 500, |k| {
            [headers(2 * k + 2_001, GET, true), reset(2 * k + 2_001)].concat()
        })
        .is_some()
    );
}

#[test]
fn o2_streams_that_we_are_made_to_reset_count_the_same() {
    let mut end = End::server();
    let flood = |k| [headers(2 * k + 1, GET, true), raw(8, 0, 2 * k + 1, &[0; 4])].concat();
    assert_eq!(cut_after(&mut end, 500, flood), Some(150));
    let mut end = End::server();
    assert_eq!(
        cut_after(&mut end, 500, |k| headers(2 * k + 1, &[], true)),
        Some(150)
    );
    let mut end = End::server();
    let flood = |k| [headers(2 * k + 1, GET, true), data(2 * k + 1, b"x", false)].concat();
    assert_eq!(cut_after(&mut end, 500, flood), Some(150));
}

#[test]
fn o3_blocks_without_end_are_cut() {
    for piece in [vec![], vec![0x82; 1_000], vec![0x82; 16_000]] {
        let mut end = End::server();
        let start = raw(1, 0, 1, &block(GET));
        end.feed(&start).unwrap();
        let cut = cut_after(&mut end, 1_000, |_| raw(9, 0, 1, &piece)).unwrap();
        assert!(cut <= 512 && usize::try_from(cut).unwrap() * piece.len() <= 64 * 1024);
    }
}

#[test]
fn o4_o5_floods_of_frames_without_work_are_cut() {
    let priority = |k: u32| raw(2, 0, 2 * k + 1, &[0, 0, 0, 0, 9]);
    for (what, kind) in [
        ("PING", 6),
        ("SETTINGS", 4),
        ("PING ack", 66),
        ("SETTINGS ack", 44),
        ("unknown", 99),
    ] {
        let frame = match kind {
            6 => raw(6, 0, 0, &[0; 8]),
            66 => raw(6, 1, 0, &[0; 8]),
            44 => raw(4, 1, 0, &[]),
            kind => raw(kind, 0, 0, &[]),
        };
        let cut = cut_after(&mut End::server(), 2_000, |_| frame.clone());
        assert!(
            cut.is_some_and(|k| (990..=1_000).contains(&k)),
            "{what}: {cut:?}"
        );
    }
    assert!(cut_after(&mut End::server(), 2_000, priority).is_some());
    let mut end = End::server();
    end.feed(&headers(1, POST, false)).unwrap();
    assert!(cut_after(&mut end, 20_000, |_| raw(8, 0, 1, &[0, 0, 0, 1])).is_some());
    assert!(cut_after(&mut End::server(), 20_000, |_| raw(8, 0, 0, &[0, 0, 0, 1])).is_some());
}

#[test]
fn o4_a_peer_that_does_not_read_our_answers_is_cut() {
    let mut end = End::server();
    // Requests between them would pay for the frames, but not for the room in our output.
    for k in 0..1_001 {
        let fed = end.feed(&raw(6, 0, 0, &[0; 8]));
        if let Err(error) = fed {
            assert_eq!((k, error.code), (1_000, ErrorCode::EnhanceYourCalm));
            return;
        }
        end.wait(Duration::from_secs(1));
    }
    panic!("not cut");
}

#[test]
fn o4_keep_alive_goes_on_for_days() {
    let mut end = End::server();
    for _ in 0..20_000 {
        end.feed(&raw(6, 0, 0, &[0; 8])).unwrap();
        end.written();
        end.wait(Duration::from_secs(10));
    }
}

#[test]
fn o5_a_download_with_many_window_updates_is_not_cut() {
    let mut end = End::server();
    end.feed(&headers(1, GET, true)).unwrap();
    end.http2
        .respond(StreamId(1), &ok(), false, &mut end.out)
        .unwrap();
    for _ in 0..20_000 {
        let sent = end
            .http2
            .data(StreamId(1), &[0; 4_096], false, &mut end.out)
            .unwrap();
        assert_eq!(sent, 4_096);
        end.written();
        for _ in 0..4 {
            let kib = 1_024_u32.to_be_bytes();
            end.feed(&[raw(8, 0, 1, &kib), raw(8, 0, 0, &kib)].concat())
                .unwrap();
        }
    }
}

#[test]
fn o6_empty_and_tiny_data_is_cut() {
    for (content, most) in [(&b""[..], 1_100), (b"x", 11_000), (b"four", 11_000)] {
        let mut end = End::server();
        end.feed(&headers(1, POST, false)).unwrap();
        assert!(cut_after(&mut end, most, |_| data(1, content, false)).is_some());
        let mut end = End::server();
        end.feed(&headers(1, POST, false)).unwrap();
        let padded = [&[200][..], content, &[0; 200]].concat();
        assert!(cut_after(&mut end, most, |_| raw(0, 8, 1, &padded)).is_some());
    }
    // Small messages are honest; so is an interactive session, which is answered.
    let mut end = End::server();
    end.feed(&headers(1, POST, false)).unwrap();
    assert_eq!(
        cut_after(&mut end, 30_000, |_| data(1, b"grpc:", false)),
        None
    );
    end.http2
        .respond(StreamId(1), &ok(), false, &mut end.out)
        .unwrap();
    for _ in 0..30_000 {
        end.feed(&data(1, b"k", false)).unwrap();
        end.http2
            .data(StreamId(1), b"k", false, &mut end.out)
            .unwrap();
        end.feed(&[raw(8, 0, 1, &[0, 0, 0, 1]), raw(8, 0, 0, &[0, 0, 0, 1])].concat())
            .unwrap();
        end.written();
    }
}

#[test]
fn o7_heads_beyond_the_limits_are_answered_with_431() {
    let long = "a".repeat(61_440);
    let many: Vec<_> = (0..101).map(|_| ("x", "y")).collect();
    let crumbs: Vec<_> = (0..101).map(|_| ("cookie", "a=1")).collect();
    for extra in [vec![("x", long.as_str())], many, crumbs] {
        let mut end = End::server();
        for (id, last) in [(1, true), (3, false)] {
            let fields = block(&[GET, &extra].concat());
            let (first, rest) = fields.split_at(fields.len().min(16_000));
            let mut bytes = raw(1, u8::from(last), id, first);
            for piece in rest.chunks(16_000) {
                bytes.extend(raw(9, 0, id, piece));
            }
            bytes.extend(raw(9, 4, id, &[]));
            assert_eq!(
                end.feed(&bytes),
                Ok(vec![Seen::Refused(id, Failure::HeadTooLarge)])
            );
            let frames = end.written();
            assert_eq!(
                (frames[0].0, frames[0].1, frames[0].2),
                (Kind::Headers, 5, id)
            );
            assert_eq!(&frames[0].3[2..], b"431");
            assert_eq!(frames.len(), if last { 1 } else { 2 });
        }
        assert!(matches!(
            end.feed(&headers(5, GET, true)).unwrap()[..],
            [Seen::Request(..)]
        ));
        assert_eq!(end.http2.open_streams(), 1);
    }
}

#[test]
fn o7_a_bomb_of_references_is_not_unfolded() {
    let mut end = End::server();
    // One entry of 3,900 bytes, then named 16,000 times: 62 MB, were it unfolded.
    let value = [b'v'; 3_900];
    let mut bomb = block(GET);
    bomb.extend_from_slice(&[0x40, 1, b'n', 0x7f, 0xbd, 0x1d]);
    bomb.extend_from_slice(&value);
    let start = raw(1, 1, 1, &bomb);
    let tail = raw(9, 4, 1, &[0xbe; 16_000]);
    let seen = end.feed(&[start, tail].concat());
    assert_eq!(seen, Ok(vec![Seen::Refused(1, Failure::HeadTooLarge)]));
    // The state of the tables survived.
    let again = [block(GET), vec![0xbe]].concat();
    let seen = end.feed(&raw(1, 5, 3, &again)).unwrap();
    assert!(
        matches!(&seen[0], Seen::Request(3, head, true) if head.fields.get(b"n") == Some(&value))
    );
}

#[test]
fn o8_a_server_is_held_to_the_same() {
    let open = || {
        let mut end = End::client();
        end.http2.open(&get("/"), false, &mut end.out).unwrap();
        end.out.clear();
        end
    };
    let flood = |bytes: Vec<u8>| {
        let mut end = open();
        end.feed(&headers(1, OK, false)).unwrap();
        cut_after(&mut end, 20_000, |_| bytes.clone()).is_some()
    };
    assert!(flood(raw(6, 0, 0, &[0; 8])));
    assert!(flood(raw(4, 0, 0, &[])));
    assert!(flood(raw(8, 0, 1, &[0, 0, 0, 1])));
    assert!(flood(data(1, b"", false)));
    assert!(flood(raw(2, 0, 9, &[0, 0, 0, 0, 9])));
    assert!(flood(raw(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])));
    let mut end = open();
    end.feed(&raw(1, 0, 1, &block(OK))).unwrap();
    assert!(cut_after(&mut end, 600, |_| raw(9, 0, 1, &[])).is_some());

    // Too large a head, and informational ones without end, break the stream alone.
    let long = "a".repeat(15_000);
    let fields: Vec<_> = [(":status", "200")]
        .into_iter()
        .chain((0..5).map(|_| ("x", long.as_str())))
        .collect();
    let mut end = open();
    let bytes = block(&fields[..2]);
    end.feed(&raw(1, 0, 1, &bytes)).unwrap();
    for _ in 0..2 {
        end.feed(&raw(9, 0, 1, &block(&fields[1..2]))).unwrap();
    }
    end.feed(&raw(9, 0, 1, &block(&fields[1..2]))).unwrap();
    let seen = end
        .feed(&raw(9, 4, 1, &block(&[("x", &long[..5_000])])))
        .unwrap();
    assert_eq!(seen, [Seen::Reset(1, ErrorCode::EnhanceYourCalm, false)]);
    let mut end = open();
    let seen: Vec<Seen> = (0..101)
        .flat_map(|_| end.feed(&headers(1, &[(":status", "103")], false)).unwrap())
        .collect();
    assert_eq!(
        seen.last(),
        Some(&Seen::Reset(1, ErrorCode::EnhanceYourCalm, false))
    );
}

#[test]
fn closed_streams_leave_nothing_behind() {
    let mut end = End::server();
    for k in 0..100_000 {
        end.feed(&headers(2 * k + 1, GET, true)).unwrap();
        end.http2
            .respond(StreamId(2 * k + 1), &ok(), true, &mut end.out)
            .unwrap();
        end.out.clear();
    }
    assert_eq!(end.http2.open_streams(), 0);
    assert!(
        size_of::<Connection>() < 1_024,
        "{}",
        size_of::<Connection>()
    );
}
