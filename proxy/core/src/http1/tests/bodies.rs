//! Which chunks and trailers are refused, and what is read from the others?

use super::super::*;
use crate::failure::Failure;
use crate::message::{BodyLength, Fields};

/// Reads a whole body, offered all at once. `None`: it wants more.
pub(super) fn read(
    length: BodyLength,
    mut input: &[u8],
) -> Result<Option<(Vec<u8>, Fields, usize)>, Failure> {
    let mut reader = BodyReader::new(length);
    let (mut body, whole) = (Vec::new(), input.len());
    loop {
        match reader.next(input)? {
            Piece::NeedMore => return Ok(None),
            Piece::Data { skip, data } => {
                assert!(data > 0 && !reader.is_done() || matches!(length, BodyLength::Exact(_)));
                body.extend_from_slice(&input[skip..skip + data]);
                input = &input[skip + data..];
            }
            Piece::End { consumed, trailers } => {
                assert!(reader.is_done());
                return Ok(Some((body, trailers, whole - input.len() + consumed)));
            }
        }
    }
}

#[rustfmt::skip]
pub(super) const REFUSED: &[(&str, &[u8], &str)] = &[
    ("no size", b"\r\nabc\r\n0\r\n\r\n", "chunk without a size"),
    ("size is no number", b"x\r\n", "chunk without a size"),
    ("size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("size with plus", b"+3\r\nabc\r\n0\r\n\r\n", "chunk without a size"),
    ("size with minus", b"-3\r\nabc\r\n0\r\n\r\n", "chunk without a size"),
    ("space before the size", b" 3\r\nabc\r\n0\r\n\r\n", "chunk without a size"),
    ("space after the size", b"3 \r\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("tab after the size", b"3\t\r\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("two sizes", b"3 3\r\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("size with underscore", b"1_0\r\nabc", "chunk size is not"),
    ("size of 17 digits", b"00000000000000003\r\nabc\r\n0\r\n\r\n", "chunk size is too large"),
    ("size overflows", b"10000000000000000\r\nabc", "chunk size is too large"),
    ("endless size", b"3333333333333333333333", "chunk size is too large"),
    ("bare LF after the size", b"3\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("bare CR after the size", b"3\rabc\r\n0\r\n\r\n", "chunk size is not"),
    ("bare LF after an extension", b"3;a\nabc\r\n0\r\n\r\n", "bare LF after a chunk size"),
    ("bare CR in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n", "control character in a chunk"),
    ("NUL in an extension", b"3;a\0\r\nabc\r\n0\r\n\r\n", "control character in a chunk"),
    ("extension without ;", b"3 a=b\r\nabc\r\n0\r\n\r\n", "chunk size is not"),
    ("bare LF after the data", b"3\r\nabc\n0\r\n\r\n", "a chunk does not end"),
    ("data too long", b"3\r\nabcd\r\n0\r\n\r\n", "a chunk does not end"),
    ("data too short", b"4\r\nabc\r\n0\r\n\r\n", "a chunk does not end"),
    ("data without end", b"3\r\nabc0\r\n\r\n", "a chunk does not end"),
    ("bare LF after the last chunk", b"0\n\r\n", "chunk size is not"),
    ("bare LF as the end", b"0\r\n\n", "bare CR or LF as the end"),
    ("bare CR as the end", b"0\r\n\rx", "bare CR or LF as the end"),
    ("bare LF as the end, and a request", b"0\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bare CR or LF as the end"),
    ("bare LF after a trailer", b"0\r\nx: y\n\r\n", "bare LF in the trailers"),
    ("bare LFs after a trailer", b"0\r\nx: y\n\n", "bare LF in the trailers"),
    ("bare LFs after a trailer, and a request", b"0\r\nx: y\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bare LF in the trailers"),
    ("bare LF between trailers", b"0\r\nx: y\nz: a\r\n\r\n", "bare LF in the trailers"),
    ("fold in the trailers", b"0\r\nx: y\r\n z\r\n\r\n", "trailers"),
    ("space before the colon", b"0\r\nx : y\r\n\r\n", "trailers"),
    ("NUL in a trailer", b"0\r\nx: \0\r\n\r\n", "trailers"),
    ("trailers are a request", b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "trailers"),
];

#[test]
fn ambiguous_chunks_are_refused_by_their_rule() {
    for (name, bytes, rule) in REFUSED {
        match read(BodyLength::Marked, bytes) {
            Err(Failure::BadRequest(why)) => assert!(why.starts_with(rule), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
        let mut reader = BodyReader::of_response(BodyLength::Marked);
        let mut rest = *bytes;
        let failure = loop {
            match reader.next(rest) {
                Ok(Piece::Data { skip, data }) => rest = &rest[skip + data..],
                Ok(other) => panic!("{name}: {other:?}"),
                Err(failure) => break failure,
            }
        };
        assert!(
            matches!(failure, Failure::UpstreamProtocol(why) if why.starts_with(rule)),
            "{name}: {failure}"
        );
    }
}

#[rustfmt::skip]
const READ: &[(&str, &[u8], &str, &str)] = &[
    ("nothing", b"0\r\n\r\n", "", ""),
    ("two chunks", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde", ""),
    ("capital and small digits", b"A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", "0123456789abcdefghij", ""),
    ("zeros in front", b"0000000000000003\r\nabc\r\n000\r\n\r\n", "abc", ""),
    ("extensions", b"3;a\r\nabc\r\n1;b=\"c d\";e\r\nx\r\n0;f\r\n\r\n", "abcx", ""),
    ("white space before an extension", b"3 \t; a = b\r\nabc\r\n0\r\n\r\n", "abc", ""),
    ("line breaks are data", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", ""),
    ("trailers", b"0\r\nX-Sum: 1\r\ny:2 \r\n\r\n", "", "x-sum=1,y=2"),
    ("forbidden trailers", b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\nx: y\r\nAuthorization: z\r\nX-Mesh-Port: 1\r\nX-Forwarded-For: me\r\nIf-Match: *\r\n\r\n", "", "x=y"),
];

#[test]
fn chunks_and_trailers_are_read() {
    for (name, bytes, content, trailers) in READ {
        let mut input = bytes.to_vec();
        input.extend_from_slice(b"GET / HTTP/1.1");
        let (body, fields, used) = read(BodyLength::Marked, &input).unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&body), *content, "{name}");
        let fields: Vec<_> = fields
            .iter()
            .map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii()))
            .collect();
        assert_eq!(fields.join(","), *trailers, "{name}");
        assert_eq!(used, bytes.len(), "{name}");
        for length in 0..bytes.len() {
            assert_eq!(
                read(BodyLength::Marked, &bytes[..length]),
                Ok(None),
                "{name} {length}"
            );
        }
    }
}

#[test]
fn chunk_extensions_are_bounded_over_the_whole_body() {
    let line = [b"1;".as_slice(), &[b'e'; 1023], b"\r\nx\r\n"].concat();
    let mut body = line.repeat(4);
    assert_eq!(read(BodyLength::Marked, &body), Ok(None));
    body.extend_from_slice(b"1;\r\nx");
    assert!(matches!(
        read(BodyLength::Marked, &body),
        Err(Failure::BadRequest(_))
    ));
    let endless = [b"1;".as_slice(), &[b'e'; CHUNK_EXTENSION_BYTES_MAX]].concat();
    assert!(matches!(
        read(BodyLength::Marked, &endless),
        Err(Failure::BadRequest(_))
    ));
}

#[test]
fn trailers_are_bounded_in_bytes_and_fields() {
    let endless = [b"0\r\nx: ".as_slice(), &[b'y'; TRAILER_BYTES_MAX]].concat();
    assert!(matches!(
        read(BodyLength::Marked, &endless),
        Err(Failure::BadRequest(_))
    ));
    let trailers = |fields| [&b"0\r\n"[..], &b"x: y\r\n".repeat(fields), b"\r\n"].concat();
    let (_, fields, _) = read(BodyLength::Marked, &trailers(TRAILER_FIELDS_MAX))
        .unwrap()
        .unwrap();
    assert_eq!(fields.len(), TRAILER_FIELDS_MAX);
    let many = read(BodyLength::Marked, &trailers(TRAILER_FIELDS_MAX + 1));
    assert_eq!(many, Err(Failure::BadRequest("too many trailers")));
}

#[test]
fn exact_bodies_end_at_their_length() {
    let mut reader = BodyReader::new(BodyLength::Exact(5));
    assert_eq!(reader.next(b""), Ok(Piece::NeedMore));
    assert_eq!(reader.next(b"abc"), Ok(Piece::Data { skip: 0, data: 3 }));
    assert!(!reader.is_done());
    assert_eq!(
        reader.next(b"deGET /"),
        Ok(Piece::Data { skip: 0, data: 2 })
    );
    assert!(reader.is_done());
    let end = Piece::End {
        consumed: 0,
        trailers: Fields::default(),
    };
    assert_eq!(reader.next(b"GET /"), Ok(end.clone()));
    assert_eq!(reader.next(b"GET /"), Ok(end.clone()));
    assert_eq!(
        BodyReader::new(BodyLength::Empty).next(b"GET /"),
        Ok(end.clone())
    );
    assert_eq!(
        BodyReader::new(BodyLength::Exact(0)).next(b"GET /"),
        Ok(end)
    );
}

#[test]
fn only_a_body_without_length_ends_with_the_connection() {
    let mut reader = BodyReader::of_response(BodyLength::UntilClose);
    assert_eq!(reader.next(b"abc"), Ok(Piece::Data { skip: 0, data: 3 }));
    assert_eq!(reader.next(b""), Ok(Piece::NeedMore));
    assert_eq!((reader.end_of_input(), reader.is_done()), (Ok(()), true));
    for length in [BodyLength::Exact(1), BodyLength::Marked] {
        let reset = BodyReader::of_response(length).end_of_input();
        assert_eq!(reset, Err(Failure::UpstreamReset));
        assert_eq!(
            BodyReader::new(length).end_of_input(),
            Err(Failure::DownstreamReset)
        );
    }
    assert_eq!(BodyReader::new(BodyLength::Empty).end_of_input(), Ok(()));
}
