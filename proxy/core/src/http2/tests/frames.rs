//! Is every frame judged as RFC 9113 says, in every state of its stream?

use super::*;

/// What comes of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// The stream is reset by us.
    Stream(u32, ErrorCode),
    Connection(ErrorCode),
}

fn verdict(end: &mut End, bytes: &[u8]) -> Verdict {
    match end.feed(bytes) {
        Err(error) => {
            let away = end
                .written()
                .into_iter()
                .find(|f| f.0 == Kind::GoAway)
                .expect("GOAWAY");
            assert_eq!(away.3[4..8], error.code.get().to_be_bytes());
            assert_eq!(
                end.feed(&raw(6, 0, 0, &[0; 8])),
                Err(error),
                "it stays broken"
            );
            Verdict::Connection(error.code)
        }
        Ok(_) => match end.resets().as_slice() {
            [] => Verdict::Fine,
            [(id, code), ..] => Verdict::Stream(*id, *code),
        },
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn frames_to_a_server_are_judged_by_kind_and_state() {
    use ErrorCode::{FlowControlError, FrameSizeError, ProtocolError, RefusedStream, StreamClosed};
    use Verdict::{Connection, Fine, Stream};
    let open = headers(1, POST, false);
    let whole = headers(1, GET, true);
    let gone = [open.clone(), raw(3, 0, 1, &8_u32.to_be_bytes())].concat();
    let long = vec![0; 16_385];
    let setting = |id: u8, value: u32| raw(4, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat());
    let depends = |on: u32| [&on.to_be_bytes()[..], &[9]].concat();
    for (what, bytes, expected) in [
        ("an unknown frame", raw(77, 255, 5, b"x"), Fine),
        (
            "PRIORITY on an idle stream",
            raw(2, 0, 5, &depends(3)),
            Fine,
        ),
        (
            "PRIORITY on stream 0",
            raw(2, 0, 0, &depends(3)),
            Connection(ProtocolError),
        ),
        (
            "PRIORITY, short",
            [open.clone(), raw(2, 0, 1, b"abcd")].concat(),
            Stream(1, FrameSizeError),
        ),
        (
            "PRIORITY, short, idle",
            raw(2, 0, 5, b"abcd"),
            Connection(FrameSizeError),
        ),
        (
            "PRIORITY on itself",
            [open.clone(), raw(2, 0, 1, &depends(1))].concat(),
            Stream(1, ProtocolError),
        ),
        (
            "a frame too long",
            raw(0, 0, 1, &long),
            Connection(FrameSizeError),
        ),
        (
            "DATA on stream 0",
            data(0, b"x", false),
            Connection(ProtocolError),
        ),
        (
            "DATA on an idle stream",
            data(1, b"x", false),
            Connection(ProtocolError),
        ),
        (
            "DATA on an even stream",
            data(2, b"x", false),
            Connection(ProtocolError),
        ),
        ("DATA", [open.clone(), data(1, b"x", true)].concat(), Fine),
        (
            "DATA, padded",
            [open.clone(), raw(0, 9, 1, b"\x02xyPP")].concat(),
            Fine,
        ),
        (
            "DATA, padding alone",
            [open.clone(), raw(0, 9, 1, b"\x02PP")].concat(),
            Fine,
        ),
        (
            "DATA, too much padding",
            [open.clone(), raw(0, 8, 1, b"\x02P")].concat(),
            Connection(ProtocolError),
        ),
        (
            "DATA, padded, empty",
            [open.clone(), raw(0, 8, 1, b"")].concat(),
            Connection(FrameSizeError),
        ),
        (
            "DATA after the end",
            [whole.clone(), data(1, b"x", true)].concat(),
            Stream(1, StreamClosed),
        ),
        (
            "DATA after a reset",
            [gone.clone(), data(1, b"x", true)].concat(),
            Stream(1, StreamClosed),
        ),
        (
            "HEADERS on stream 0",
            headers(0, GET, true),
            Connection(ProtocolError),
        ),
        (
            "HEADERS on an even stream",
            headers(2, GET, true),
            Connection(ProtocolError),
        ),
        (
            "HEADERS below the last",
            [headers(5, GET, true), headers(3, GET, true)].concat(),
            Connection(ProtocolError),
        ),
        (
            "HEADERS, priority",
            raw(1, 0x25, 1, &[depends(3), block(GET)].concat()),
            Fine,
        ),
        (
            "HEADERS on itself",
            raw(1, 0x25, 1, &[depends(1), block(GET)].concat()),
            Stream(1, ProtocolError),
        ),
        (
            "HEADERS, priority cut",
            raw(1, 0x25, 1, b"abc"),
            Connection(FrameSizeError),
        ),
        (
            "HEADERS, padded",
            raw(1, 0xd, 1, &[&[1][..], &block(GET), &[0]].concat()),
            Fine,
        ),
        (
            "HEADERS, too much padding",
            raw(1, 0xd, 1, b"\x09abc"),
            Connection(ProtocolError),
        ),
        (
            "HEADERS after the end",
            [whole.clone(), whole.clone()].concat(),
            Stream(1, StreamClosed),
        ),
        (
            "HEADERS after a reset",
            [gone.clone(), whole.clone()].concat(),
            Stream(1, StreamClosed),
        ),
        (
            "trailers without end",
            [open.clone(), headers(1, &[("a", "b")], false)].concat(),
            Stream(1, ProtocolError),
        ),
        (
            "trailers",
            [open.clone(), headers(1, &[("a", "b")], true)].concat(),
            Fine,
        ),
        (
            "pseudo trailers",
            [open.clone(), headers(1, &[(":path", "/")], true)].concat(),
            Stream(1, ProtocolError),
        ),
        (
            "CONTINUATION alone",
            raw(9, 4, 1, b""),
            Connection(ProtocolError),
        ),
        (
            "HEADERS, then DATA",
            [raw(1, 1, 1, &block(GET)), data(1, b"", true)].concat(),
            Connection(ProtocolError),
        ),
        (
            "HEADERS, then another's",
            [raw(1, 1, 1, &block(GET)), raw(9, 4, 3, b"")].concat(),
            Connection(ProtocolError),
        ),
        (
            "HEADERS, then unknown",
            [raw(1, 1, 1, &block(GET)), raw(77, 4, 1, b"")].concat(),
            Connection(ProtocolError),
        ),
        (
            "RST_STREAM on an idle stream",
            raw(3, 0, 1, &[0; 4]),
            Connection(ProtocolError),
        ),
        (
            "RST_STREAM on stream 0",
            raw(3, 0, 0, &[0; 4]),
            Connection(ProtocolError),
        ),
        (
            "RST_STREAM, short",
            [open.clone(), raw(3, 0, 1, &[0; 3])].concat(),
            Connection(FrameSizeError),
        ),
        (
            "RST_STREAM twice",
            [gone.clone(), raw(3, 0, 1, &[0; 4])].concat(),
            Fine,
        ),
        (
            "SETTINGS on a stream",
            raw(4, 0, 1, &[]),
            Connection(ProtocolError),
        ),
        (
            "SETTINGS, odd",
            raw(4, 0, 0, &[0; 5]),
            Connection(FrameSizeError),
        ),
        (
            "SETTINGS ack with payload",
            raw(4, 1, 0, &[0; 6]),
            Connection(FrameSizeError),
        ),
        ("SETTINGS, unknown", setting(99, 7), Fine),
        ("ENABLE_PUSH", setting(2, 1), Fine),
        ("ENABLE_PUSH of 2", setting(2, 2), Connection(ProtocolError)),
        (
            "a window too large",
            setting(4, 1 << 31),
            Connection(FlowControlError),
        ),
        (
            "frames too small",
            setting(5, 16_383),
            Connection(ProtocolError),
        ),
        (
            "frames too large",
            setting(5, 1 << 24),
            Connection(ProtocolError),
        ),
        (
            "ENABLE_CONNECT_PROTOCOL of 2",
            setting(8, 2),
            Connection(ProtocolError),
        ),
        (
            "PUSH_PROMISE",
            [open.clone(), raw(5, 4, 1, &[0, 0, 0, 2])].concat(),
            Connection(ProtocolError),
        ),
        (
            "PING on a stream",
            raw(6, 0, 1, &[0; 8]),
            Connection(ProtocolError),
        ),
        (
            "PING, short",
            raw(6, 0, 0, &[0; 7]),
            Connection(FrameSizeError),
        ),
        ("an answer to no PING", raw(6, 1, 0, &[0; 8]), Fine),
        (
            "GOAWAY on a stream",
            raw(7, 0, 1, &[0; 8]),
            Connection(ProtocolError),
        ),
        (
            "GOAWAY, short",
            raw(7, 0, 0, &[0; 7]),
            Connection(FrameSizeError),
        ),
        ("GOAWAY", raw(7, 0, 0, &[0; 8]), Fine),
        (
            "GOAWAY that grows",
            [raw(7, 0, 0, &[0; 8]), raw(7, 0, 0, &[1; 8])].concat(),
            Connection(ProtocolError),
        ),
        (
            "WINDOW_UPDATE, short",
            raw(8, 0, 0, &[0; 3]),
            Connection(FrameSizeError),
        ),
        (
            "WINDOW_UPDATE of zero",
            raw(8, 0, 0, &[0; 4]),
            Connection(ProtocolError),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            raw(8, 0, 1, &[0, 0, 0, 1]),
            Connection(ProtocolError),
        ),
        (
            "WINDOW_UPDATE of zero on a stream",
            [open.clone(), raw(8, 0, 1, &[0; 4])].concat(),
            Stream(1, ProtocolError),
        ),
        (
            "WINDOW_UPDATE after a reset",
            [gone.clone(), raw(8, 0, 1, &[0, 0, 0, 1])].concat(),
            Fine,
        ),
        (
            "the connection's window overflows",
            raw(8, 0, 0, &[0x7f, 255, 255, 255]),
            Connection(FlowControlError),
        ),
        (
            "a stream's window overflows",
            [open.clone(), raw(8, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            Stream(1, FlowControlError),
        ),
        (
            "a block that is no HPACK",
            raw(1, 5, 1, &[0x80]),
            Connection(ErrorCode::CompressionError),
        ),
        (
            "a hundred and first stream",
            (0..101)
                .flat_map(|k| headers(2 * k + 1, GET, true))
                .collect(),
            Stream(201, RefusedStream),
        ),
    ] {
        assert_eq!(verdict(&mut End::server(), &bytes), expected, "{what}");
    }
}

#[test]
fn after_both_ends_the_stream_is_closed_for_good() {
    let whole = headers(1, GET, true);
    for late in [data(1, b"x", true), whole.clone()] {
        let mut end = End::server();
        end.feed(&whole).unwrap();
        end.http2
            .respond(StreamId(1), &ok(), true, &mut end.out)
            .unwrap();
        assert_eq!(end.http2.open_streams(), 0);
        assert_eq!(
            verdict(&mut end, &late),
            Verdict::Connection(ErrorCode::StreamClosed)
        );
    }
}

#[test]
fn frames_under_way_to_a_stream_that_we_reset_are_ignored() {
    let mut end = End::server();
    end.feed(&headers(1, POST, false)).unwrap();
    end.http2
        .reset(StreamId(1), ErrorCode::Cancel, &mut end.out);
    assert_eq!(end.resets(), [(1, ErrorCode::Cancel)]);
    let late = [data(1, &[7; 9_000], false), headers(1, &[("a", "b")], true)].concat();
    assert_eq!(end.feed(&late), Ok(vec![]));
    assert_eq!(verdict(&mut end, &headers(3, GET, true)), Verdict::Fine);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn frames_to_a_client_are_judged_by_kind_and_state() {
    use ErrorCode::{ProtocolError, StreamClosed};
    use Verdict::{Connection, Fine, Stream};
    for (what, bytes, expected) in [
        ("a response", headers(1, OK, true), Fine),
        (
            "100, 103, then a response",
            [
                headers(1, &[(":status", "100")], false),
                headers(1, &[(":status", "103")], false),
                headers(1, OK, true),
            ]
            .concat(),
            Fine,
        ),
        (
            "DATA before the head",
            data(1, b"x", true),
            Stream(1, ProtocolError),
        ),
        (
            "DATA after 100",
            [
                headers(1, &[(":status", "100")], false),
                data(1, b"x", true),
            ]
            .concat(),
            Stream(1, ProtocolError),
        ),
        (
            "100 that ends",
            headers(1, &[(":status", "100")], true),
            Stream(1, ProtocolError),
        ),
        (
            "101",
            headers(1, &[(":status", "101")], false),
            Stream(1, ProtocolError),
        ),
        (
            "two responses",
            [headers(1, OK, false), headers(1, OK, false)].concat(),
            Stream(1, ProtocolError),
        ),
        (
            "no status",
            headers(1, &[("a", "b")], true),
            Stream(1, ProtocolError),
        ),
        (
            "a status of letters",
            headers(1, &[(":status", "2OO")], true),
            Stream(1, ProtocolError),
        ),
        ("a request", headers(1, GET, true), Stream(1, ProtocolError)),
        (
            "a response to nothing",
            headers(3, OK, true),
            Connection(ProtocolError),
        ),
        (
            "a pushed response",
            headers(2, OK, true),
            Connection(ProtocolError),
        ),
        (
            "a response after the end",
            [headers(1, OK, true), headers(1, OK, true)].concat(),
            Stream(1, StreamClosed),
        ),
        (
            "PUSH_PROMISE",
            raw(5, 4, 1, &[0, 0, 0, 2, 0x82]),
            Connection(ProtocolError),
        ),
        (
            "ENABLE_PUSH",
            raw(4, 0, 0, &[0, 2, 0, 0, 0, 1]),
            Connection(ProtocolError),
        ),
        (
            "extended CONNECT taken back",
            raw(4, 0, 0, &[0, 8, 0, 0, 0, 0]),
            Connection(ProtocolError),
        ),
        (
            "length short",
            [
                headers(1, &[(":status", "200"), ("content-length", "2")], false),
                data(1, b"x", true),
            ]
            .concat(),
            Stream(1, ProtocolError),
        ),
        (
            "length long",
            [
                headers(1, &[(":status", "200"), ("content-length", "2")], false),
                data(1, b"xyz", true),
            ]
            .concat(),
            Stream(1, ProtocolError),
        ),
        (
            "length short, trailers",
            [
                headers(1, &[(":status", "200"), ("content-length", "2")], false),
                headers(1, &[("a", "b")], true),
            ]
            .concat(),
            Stream(1, ProtocolError),
        ),
        (
            "204 with content",
            [
                headers(1, &[(":status", "204")], false),
                data(1, b"x", true),
            ]
            .concat(),
            Stream(1, ProtocolError),
        ),
    ] {
        let mut end = End::client();
        // Our side stays open, so that the stream does.
        end.http2.open(&get("/"), false, &mut end.out).unwrap();
        end.out.clear();
        assert_eq!(verdict(&mut end, &bytes), expected, "{what}");
    }
}

#[test]
fn who_does_not_speak_http2_is_told_at_the_first_wrong_byte() {
    let mut end = End::new(Role::Server, Settings::default());
    assert_eq!(end.feed(b"PRI * HT"), Ok(vec![]));
    assert_eq!(end.feed(b"TQ").unwrap_err().code, ErrorCode::ProtocolError);
    let mut end = End::new(Role::Server, Settings::default());
    assert!(end.feed(b"GET / HTTP/1.1\r\n").is_err());
    let mut end = End::new(Role::Server, Settings::default());
    end.feed(frame::PREFACE).unwrap();
    assert!(
        end.feed(&raw(6, 0, 0, &[0; 8])).is_err(),
        "SETTINGS come first"
    );
    let mut end = End::new(Role::Client, Settings::default());
    assert!(end.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err());
}

#[test]
fn settings_and_pings_are_answered() {
    let mut end = End::server();
    assert_eq!(end.feed(&raw(4, 0, 0, &[])), Ok(vec![Seen::Settings]));
    assert_eq!(end.feed(&raw(6, 0, 0, b"12345678")), Ok(vec![]));
    assert_eq!(end.http2.pending_control(), 2);
    assert_eq!(
        end.written(),
        [
            (Kind::Settings, 1, 0, vec![]),
            (Kind::Ping, 1, 0, b"12345678".to_vec())
        ]
    );
    assert_eq!(end.http2.pending_control(), 0);
    end.http2.ping(*b"abcdefgh", &mut end.out);
    assert_eq!(
        end.feed(&raw(6, 1, 0, b"abcdefgh")),
        Ok(vec![Seen::Pong(*b"abcdefgh")])
    );
}

#[test]
fn the_peers_windows_hold_and_may_shrink_below_zero() {
    let mut end = End::server();
    let window = |bytes: u32| raw(4, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    end.feed(&[window(10), headers(1, GET, true)].concat())
        .unwrap();
    let id = StreamId(1);
    end.http2.respond(id, &ok(), false, &mut end.out).unwrap();
    assert_eq!(end.http2.data(id, &[7; 25], true, &mut end.out), Ok(10));
    assert_eq!(end.http2.capacity(id), 0);
    end.feed(&window(4)).unwrap();
    assert_eq!(
        end.feed(&raw(8, 0, 1, &[0, 0, 0, 6])),
        Ok(vec![Seen::Writable(Some(1))])
    );
    assert_eq!(end.http2.capacity(id), 0, "4 - 10 + 6");
    end.feed(&window(19)).unwrap();
    end.out.clear();
    assert_eq!(end.http2.data(id, &[7; 15], true, &mut end.out), Ok(15));
    assert_eq!(end.written(), [(Kind::Data, 1, 1, vec![7; 15])]);
    assert_eq!(end.http2.data(id, b"", true, &mut end.out), Err(StreamGone));
}

#[test]
fn every_frame_fits_a_tls_record() {
    let mut end = End::client();
    let mut head = get("/");
    head.fields.push(b"x-long", &[b'a'; 40_000]);
    let id = end.http2.open(&head, false, &mut end.out).unwrap();
    assert_eq!(
        end.http2.data(id, &[7; 50_000], true, &mut end.out),
        Ok(50_000)
    );
    let frames = end.written();
    assert!(frames.iter().all(|f| f.3.len() + HEAD_BYTES <= 16_384));
    let kinds: Vec<Kind> = frames.iter().map(|f| f.0).collect();
    use Kind::{Continuation, Data, Headers};
    assert_eq!(
        kinds,
        [Headers, Continuation, Continuation, Data, Data, Data, Data]
    );
    assert_eq!(
        frames.iter().map(|f| f.1).collect::<Vec<_>>(),
        [0, 0, 4, 0, 0, 0, 1]
    );
    let mut server = End::server();
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|(_, flags, id, p)| raw(if p[0] == 7 { 0 } else { 9 }, *flags, *id, p))
        .collect();
    let mut bytes = bytes;
    bytes[3] = 1;
    let seen = server.feed(&bytes).unwrap();
    assert!(matches!(&seen[0], Seen::Request(1, got, false) if got.fields == head.fields));
}

#[test]
fn our_windows_are_enforced_and_padding_is_given_back() {
    let settings = Settings {
        initial_window: 70_000,
        ..Settings::default()
    };
    let mut end = End::server_with(settings);
    let mut seen = Vec::new();
    end.feed_to(&headers(1, POST, false), &mut seen).unwrap();
    for _ in 0..5 {
        // 101 bytes of each frame are padding.
        let frame = raw(0, 8, 1, &[&[100][..], &[7; 13_999]].concat());
        end.feed_to(&frame, &mut seen).unwrap();
    }
    let content: usize = seen
        .iter()
        .map(|s| {
            if let Seen::Data(_, d, _) = s {
                d.len()
            } else {
                0
            }
        })
        .sum();
    assert_eq!(content, 5 * 13_899);
    assert_eq!(
        verdict(&mut end, &data(1, &[7; 600], false)),
        Verdict::Stream(1, ErrorCode::FlowControlError)
    );
    let mut end = End::server_with(Settings {
        initial_window: 70_000,
        ..Settings::default()
    });
    end.feed_to(&headers(1, POST, false), &mut seen).unwrap();
    end.feed_to(
        &[data(1, &[7; 14_000], false), data(1, &[7; 14_000], false)].concat(),
        &mut seen,
    )
    .unwrap();
    end.http2.consumed(StreamId(1), 28_000, &mut end.out);
    assert!(end.out.is_empty(), "less than nearly half");
    end.feed_to(&data(1, &[7; 3_000], false), &mut seen)
        .unwrap();
    end.http2.consumed(StreamId(1), 3_000, &mut end.out);
    assert_eq!(
        end.written(),
        [(Kind::WindowUpdate, 0, 1, 31_000_u32.to_be_bytes().to_vec())]
    );
}

#[test]
fn a_small_window_holds_once_the_peer_has_confirmed_it() {
    let mut end = End::new(
        Role::Server,
        Settings {
            initial_window: 100,
            ..Settings::default()
        },
    );
    let hello = [
        frame::PREFACE.as_slice(),
        &raw(4, 0, 0, &[]),
        &headers(1, POST, false),
    ]
    .concat();
    end.feed(&hello).unwrap();
    // The client has not read our settings yet, and sends what the default allows.
    end.feed(&data(1, &[7; 1_000], false)).unwrap();
    end.out.clear();
    end.feed(&raw(4, 1, 0, &[])).unwrap();
    assert_eq!(
        end.written(),
        [(Kind::WindowUpdate, 0, 1, 1_000_u32.to_be_bytes().to_vec())]
    );
    end.feed(&data(1, &[7; 100], false)).unwrap();
    let mut end = End::server_with(Settings {
        initial_window: 100,
        ..Settings::default()
    });
    end.feed(&headers(1, POST, false)).unwrap();
    assert_eq!(
        verdict(&mut end, &data(1, &[7; 101], false)),
        Verdict::Stream(1, ErrorCode::FlowControlError)
    );
}

#[test]
fn a_reset_in_the_middle_of_a_frame_gives_the_rest_back() {
    let settings = Settings {
        connection_window: 65_535,
        ..Settings::default()
    };
    let mut end = End::server_with(settings);
    end.feed(&headers(1, POST, false)).unwrap();
    for _ in 0..20 {
        let frame = data(1, &[7; 16_384], false);
        end.feed(&frame[..5_000]).unwrap();
        end.feed(&frame[5_000..]).unwrap();
    }
    let frame = data(1, &[7; 16_384], false);
    let seen = end.feed(&frame[..5_000]).unwrap();
    assert_eq!(seen, [Seen::Data(1, vec![7; 4_991], false)]);
    end.http2
        .reset(StreamId(1), ErrorCode::Cancel, &mut end.out);
    assert_eq!(end.feed(&frame[5_000..]), Ok(vec![]));
    // Were anything lost, four windows more would not fit.
    end.feed(&headers(3, POST, false)).unwrap();
    for _ in 0..16 {
        end.feed(&data(3, &[7; 16_384], false)).unwrap();
    }
}

#[test]
fn a_tunnel_has_no_trailers() {
    let connect = [(":method", "CONNECT"), (":authority", "cart:80")];
    let trailers = headers(1, &[("a", "b")], true);
    let mut end = End::server();
    end.feed(&headers(1, &connect, false)).unwrap();
    end.feed(&data(1, b"hello", false)).unwrap();
    assert_eq!(
        verdict(&mut end, &trailers),
        Verdict::Stream(1, ErrorCode::ProtocolError)
    );
    for (status, expected) in [
        ("200", Verdict::Stream(1, ErrorCode::ProtocolError)),
        ("503", Verdict::Fine),
    ] {
        let mut end = End::client();
        let mut head = get("");
        head.method = Method::Connect;
        end.http2.open(&head, false, &mut end.out).unwrap();
        end.out.clear();
        end.feed(&headers(1, &[(":status", status)], false))
            .unwrap();
        assert_eq!(verdict(&mut end, &trailers), expected, "{status}");
    }
}

#[test]
fn many_resets_at_once_do_not_cost_the_connection() {
    let settings = Settings {
        max_concurrent_streams: 2_000,
        ..Settings::default()
    };
    let mut end = End::server_with(settings);
    for k in 0..2_000 {
        end.feed(&headers(2 * k + 1, POST, false)).unwrap();
    }
    for k in 0..2_000 {
        end.http2
            .reset(StreamId(2 * k + 1), ErrorCode::Cancel, &mut end.out);
    }
    end.written();
    for k in 0..2_000 {
        let late = [
            data(2 * k + 1, &[7; 1_000], false),
            headers(2 * k + 1, &[("a", "b")], true),
        ];
        assert_eq!(end.feed(&late.concat()), Ok(vec![]));
    }
}

#[test]
fn a_server_says_goodbye_in_two_steps() {
    let mut end = End::server();
    end.feed(&headers(1, GET, true)).unwrap();
    end.http2.shutdown(&mut end.out);
    let first = end.written();
    assert_eq!(first[0].3, [0x7f, 255, 255, 255, 0, 0, 0, 0]);
    assert!(end.http2.is_going_away() && !end.http2.is_drained());
    // A request that was under way still counts.
    assert!(matches!(
        end.feed(&headers(3, GET, true)).unwrap()[..],
        [Seen::Request(3, ..)]
    ));
    end.feed(&raw(6, 1, 0, &first[1].3)).unwrap();
    assert_eq!(end.written()[0].3, [0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(
        end.feed(&headers(5, GET, true)),
        Ok(vec![Seen::Refused(5, Failure::Draining)])
    );
    assert_eq!(end.resets(), [(5, ErrorCode::RefusedStream)]);
    for id in [1, 3] {
        assert!(!end.http2.is_drained());
        end.http2
            .respond(StreamId(id), &ok(), true, &mut end.out)
            .unwrap();
    }
    assert!(end.http2.is_drained());
}

#[test]
fn streams_that_a_goodbye_leaves_out_are_refused() {
    let mut end = End::client();
    for _ in 0..3 {
        end.http2.open(&get("/"), true, &mut end.out).unwrap();
    }
    let away = raw(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let refused = |id| Seen::Reset(id, ErrorCode::RefusedStream, true);
    assert_eq!(
        end.feed(&away),
        Ok(vec![
            Seen::GoAway(1, ErrorCode::NoError),
            refused(3),
            refused(5)
        ])
    );
    assert_eq!(
        end.http2.open(&get("/"), true, &mut end.out),
        Err(OpenError::GoingAway)
    );
    assert!(!end.http2.is_drained());
    end.feed(&headers(1, OK, true)).unwrap();
    assert!(end.http2.is_drained());
}

#[test]
fn a_client_opens_no_more_than_it_may() {
    let mut end = End::new(Role::Client, Settings::default());
    for _ in 0..100 {
        end.http2.open(&get("/"), true, &mut end.out).unwrap();
    }
    assert_eq!(
        end.http2.open(&get("/"), true, &mut end.out),
        Err(OpenError::TooManyStreams)
    );
    end.feed(&raw(4, 0, 0, &[0, 3, 0, 0, 0, 101])).unwrap();
    assert!(end.http2.can_open());
    let mut upgrade = get("/chat");
    upgrade.protocol = b"websocket".to_vec();
    assert_eq!(
        end.http2.open(&upgrade, false, &mut end.out),
        Err(OpenError::NoConnectProtocol)
    );
    end.http2.open(&get("/"), true, &mut end.out).unwrap();
    assert!(!end.http2.can_open());
    end.feed(&headers(1, OK, true)).unwrap();
    assert!(end.http2.can_open());
}

#[test]
fn a_peer_that_shrinks_its_table_is_told_that_we_know() {
    let mut end = End::client();
    end.feed(&raw(4, 0, 0, &[0, 1, 0, 0, 0, 0])).unwrap();
    end.out.clear();
    end.http2.open(&get("/"), true, &mut end.out).unwrap();
    end.http2.open(&get("/"), true, &mut end.out).unwrap();
    let frames = end.written();
    assert_eq!(frames[0].3[0], 0x20);
    assert_ne!(frames[1].3[0], 0x20);
}
