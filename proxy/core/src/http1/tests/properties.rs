//! What holds for all heads, bodies and bytes?

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use crate::message::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};

fn name() -> impl Strategy<Value = String> {
    // Not one of the fields that have a meaning for the connection.
    "[a-z!#$%&'*+.^_`|~0-9-]{1,12}".prop_map(|name| format!("x{name}"))
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    "([!-~\u{80}-\u{ff}]([ -~\t\u{80}-\u{ff}]{0,30}[!-~])?)?".prop_map(String::into_bytes)
}

fn fields() -> impl Strategy<Value = Fields> {
    vec((name(), value()), 0..24).prop_map(|lines| {
        let mut fields = Fields::default();
        for (name, value) in &lines {
            fields.push(name.as_bytes(), value);
        }
        fields
    })
}

fn body() -> impl Strategy<Value = BodyLength> {
    prop_oneof![
        Just(BodyLength::Empty),
        (0..i64::MAX as u64).prop_map(BodyLength::Exact),
        Just(BodyLength::Marked),
    ]
}

fn with_length(mut fields: Fields, body: BodyLength) -> Fields {
    if let BodyLength::Exact(length) = body {
        fields.push(b"content-length", length.to_string().as_bytes());
    }
    fields
}

fn request() -> impl Strategy<Value = RequestHead> {
    let method = prop_oneof![Just("GET"), Just("HEAD"), Just("DELETE"), Just("PURGE")];
    let path = "/[a-zA-Z0-9/._~%!$&'()*+,;=:@-]{0,40}(\\?[a-z=&/?{}|^`-]{0,20})?";
    let authority = "[a-z][a-z0-9]{0,9}(\\.[a-z]{1,5}){0,3}(:[1-9][0-9]{0,3})?";
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (method, path, authority, fields(), body(), flags).prop_map(
        |(method, path, authority, mut fields, body, (keep_alive, upgrade, te))| {
            let upgrade = upgrade && body == BodyLength::Empty;
            if te {
                fields.push(b"te", b"trailers");
            }
            RequestHead {
                method: Method::parse(method.as_bytes()).unwrap(),
                version: Version::Http11,
                https: false,
                authority: authority.into_bytes(),
                path: path.into_bytes(),
                protocol: if upgrade && method == "GET" {
                    b"websocket".to_vec()
                } else {
                    Vec::new()
                },
                fields: with_length(fields, body),
                body,
                keep_alive,
                expects_continue: false,
            }
        },
    )
}

fn response() -> impl Strategy<Value = ResponseHead> {
    let status = prop_oneof![200_u16..204, 205_u16..304, 305_u16..600];
    (status, fields(), body(), any::<bool>()).prop_map(|(status, fields, body, keep_alive)| {
        // The least that a response says about no content is `content-length: 0`.
        let body = if body == BodyLength::Empty {
            BodyLength::Exact(0)
        } else {
            body
        };
        let fields = with_length(fields, body);
        ResponseHead {
            fields,
            keep_alive,
            ..ResponseHead::new(status, body)
        }
    })
}

/// Cuts `input` at these places, and reads a body as it grows, keeping only what is unread.
fn read_in_pieces(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Fields, usize) {
    let mut reader = BodyReader::new(BodyLength::Marked);
    let (mut at, mut content) = (0, Vec::new());
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(input.len());
    for end in ends {
        loop {
            match reader.next(&input[at.min(end)..end]).unwrap() {
                Piece::NeedMore => break,
                Piece::Data { skip, data } => {
                    content.extend_from_slice(&input[at + skip..at + skip + data]);
                    at += skip + data;
                }
                Piece::End { consumed, trailers } => return (content, trailers, at + consumed),
            }
        }
    }
    panic!("no end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_written_request_reads_as_the_same_head(head in request(), rest in vec(any::<u8>(), 0..8)) {
        let mut bytes = Vec::new();
        write_request(&head, &mut bytes);
        let written = bytes.len();
        prop_assert_eq!(head_end(&bytes, 0), Some(written));
        bytes.extend(rest);
        let (read, used) = parse_request(&bytes, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(used, written);
        prop_assert_eq!(read, head);
    }

    #[test]
    fn a_written_response_reads_as_the_same_head(head in response()) {
        let mut bytes = Vec::new();
        let to = ResponseContext { version: Version::Http11, method: Method::Get };
        write_response(&head, &to, &mut bytes);
        let (read, used) = parse_response(&bytes, &Method::Get, &Limits::default())
            .unwrap().unwrap();
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(read, head);
    }

    #[test]
    fn chunks_survive_any_cuts(
        chunks in vec(vec(any::<u8>(), 0..40), 0..8),
        trailers in fields(),
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            write_chunk(chunk, &mut bytes);
        }
        write_last_chunk(&trailers, &mut bytes);
        let whole = bytes.len();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let (content, read, used) = read_in_pieces(&bytes, &cuts);
        prop_assert_eq!(content, chunks.concat());
        prop_assert_eq!(read, trailers);
        prop_assert_eq!(used, whole);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..120), from in 0_usize..130) {
        let limits = Limits::default();
        let _ = parse_request(&bytes, &limits);
        let _ = parse_response(&bytes, &Method::Get, &limits);
        let _ = head_end(&bytes, from);
        for length in [BodyLength::Marked, BodyLength::Exact(9), BodyLength::UntilClose] {
            let _ = BodyReader::new(length).next(&bytes);
        }
    }

    #[test]
    fn no_nearly_valid_bytes_panic(
        text in "(GET|POST|OPTIONS|CONNECT|\r\n| ){0,2} (/|\\*|http://a|a:1)[ -~]{0,9} \
                 HTTP/1.[01]\r?\n((host|te|upgrade|connection|content-length|transfer-encoding): \
                 ?[a-z0-9, ]{0,9}\r?\n){0,5}\r?\n",
        damage in vec((any::<usize>(), any::<u8>()), 0..3),
        limit in 0_usize..200,
    ) {
        let mut bytes = text.into_bytes();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let limits = Limits { head_bytes_max: limit, fields_max: limit };
        for limits in [limits, Limits::default()] {
            if let Ok(Some((head, used))) = parse_request(&bytes, &limits) {
                prop_assert!(used <= bytes.len());
                let mut out = Vec::new();
                write_request(&head, &mut out);
                prop_assert!(head.authority.is_empty()
                    || parse_request(&out, &Limits::default()).unwrap().is_some());
            }
        }
    }

    #[test]
    fn chunk_framing_never_panics_nor_passes_its_input(
        text in "([0-9a-f]{1,2}( ?;[a-z=]{0,4})?\r?\n[a-z]{0,20}\r?\n){0,3}0?\r?\n(x: y\r\n)?\r?\n",
        cut in any::<usize>(),
    ) {
        let bytes = text.as_bytes();
        let mut rest = &bytes[..cut % (bytes.len() + 1)];
        let mut reader = BodyReader::new(BodyLength::Marked);
        while let Ok(piece) = reader.next(rest) {
            match piece {
                Piece::Data { skip, data } => rest = &rest[skip + data..],
                Piece::End { consumed, .. } => {
                    prop_assert!(consumed <= rest.len());
                    break;
                }
                Piece::NeedMore => break,
            }
        }
    }
}
