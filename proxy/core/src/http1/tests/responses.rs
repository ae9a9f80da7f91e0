//! Which responses are refused, and what is read from the others?

use super::super::*;
use crate::failure::Failure;
use crate::message::{BodyLength, Method, ResponseHead, Version};

#[rustfmt::skip]
pub(super) const REFUSED: &[(&str, &[u8])] = &[
    ("length and coding", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("coding and length", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
    ("two equal lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"),
    ("two different lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"),
    ("list of lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n"),
    ("length is no number", b"HTTP/1.1 200 OK\r\nContent-Length: three\r\n\r\n"),
    ("length overflows", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("coding twice", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("chunked, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("another coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("coding in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("204 with length", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc"),
    ("204 with chunks", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("100 with length", b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\nabc"),
    ("101 without protocol", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ("101 without connection", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    ("101 with two protocols", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: a, b\r\n\r\n"),
    ("101 to h2c", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    ("101 in HTTP/1.0", b"HTTP/1.0 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ("fold", b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("space before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"),
    ("bare LF after the status line", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
    ("bare LF after a field", b"HTTP/1.1 200 OK\r\nContent-Length: 0\nx: y\r\n\r\n"),
    ("bare LF as the empty line", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
    ("bare CR in a value", b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n"),
    ("NUL in a value", b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"),
    ("NUL in the reason", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
    ("empty line in front", b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status 099", b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"),
    ("status 600", b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n"),
    ("status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    ("two spaces before the status", b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("ICY", b"ICY 200 OK\r\n\r\n"),
    ("HTTP/0.9", b"<html>hello</html>\r\n\r\n"),
    ("connection names content-length", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: content-length\r\n\r\n"),
    ("connection names x-mesh-reason", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-mesh-reason\r\n\r\n"),
];

#[test]
fn ambiguous_responses_are_refused() {
    for (name, bytes) in REFUSED {
        let parsed = parse_response(bytes, &Method::Get, &Limits::default());
        assert!(
            matches!(parsed, Err(Failure::UpstreamProtocol(why)) if why.contains(", RFC ")),
            "{name}: {parsed:?}"
        );
    }
}

fn answer(method: &Method, lines: &str) -> ResponseHead {
    let bytes = format!("{}\r\n\r\n", lines.replace('\n', "\r\n"));
    let parsed = parse_response(bytes.as_bytes(), method, &Limits::default());
    let (head, used) = parsed.unwrap().unwrap();
    assert_eq!(used, bytes.len());
    head
}

#[test]
fn a_plain_response_is_read() {
    let head = answer(
        &Method::Get,
        "HTTP/1.1 200 \nContent-Length: 3\nSET-Cookie: a\nSet-Cookie: b\nConnection: x-hop\nx-hop: 1\nKeep-Alive: 5",
    );
    assert_eq!((head.status, head.version), (200, Version::Http11));
    let fields: Vec<_> = head.fields.iter().collect();
    assert_eq!(
        fields,
        [
            (&b"content-length"[..], &b"3"[..]),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"b")
        ]
    );
    assert!(head.keep_alive && head.protocol.is_empty());
    assert_eq!(
        answer(&Method::Get, "HTTP/1.1 599\nContent-Length: 0").status,
        599
    );
    assert_eq!(
        answer(&Method::Get, "HTTP/1.1 200 \u{e4} ok\nContent-Length: 0").status,
        200
    );
}

#[test]
fn the_body_follows_from_status_method_and_fields() {
    let body = |method: &Method, lines: &str| answer(method, lines).body;
    let length = "Content-Length: 3";
    let chunked = "Transfer-Encoding: chunked";
    for status in [200, 404, 500] {
        assert_eq!(
            body(&Method::Get, &format!("HTTP/1.1 {status} x\n{length}")),
            BodyLength::Exact(3)
        );
        assert_eq!(
            body(&Method::Get, &format!("HTTP/1.1 {status} x\n{chunked}")),
            BodyLength::Marked
        );
        assert_eq!(
            body(&Method::Get, &format!("HTTP/1.1 {status} x\nx: y")),
            BodyLength::UntilClose
        );
        assert_eq!(
            body(&Method::Head, &format!("HTTP/1.1 {status} x\n{length}")),
            BodyLength::Empty
        );
        assert_eq!(
            body(&Method::Head, &format!("HTTP/1.1 {status} x\n{chunked}")),
            BodyLength::Empty
        );
        assert_eq!(
            body(&Method::Head, &format!("HTTP/1.1 {status} x\nx: y")),
            BodyLength::Empty
        );
    }
    assert_eq!(
        body(&Method::Get, "HTTP/1.1 204 x\nContent-Length: 0"),
        BodyLength::Empty
    );
    assert_eq!(
        body(&Method::Get, &format!("HTTP/1.1 304 x\n{length}")),
        BodyLength::Empty
    );
    assert_eq!(
        body(&Method::Get, &format!("HTTP/1.1 304 x\n{chunked}")),
        BodyLength::Empty
    );
    assert_eq!(
        body(&Method::Connect, &format!("HTTP/1.1 200 x\n{length}")),
        BodyLength::Empty
    );
    assert_eq!(
        body(&Method::Connect, &format!("HTTP/1.1 403 x\n{length}")),
        BodyLength::Exact(3)
    );
    assert_eq!(
        body(&Method::Get, "HTTP/1.1 100 Continue"),
        BodyLength::Empty
    );
    assert_eq!(
        body(&Method::Get, "HTTP/1.1 103 Early Hints\nlink: a"),
        BodyLength::Empty
    );
}

#[test]
fn the_length_of_an_unsent_body_is_kept() {
    let head = answer(&Method::Head, "HTTP/1.1 200 OK\nContent-Length: 3");
    assert_eq!(head.fields.get(b"content-length"), Some(&b"3"[..]));
    let head = answer(&Method::Get, "HTTP/1.1 204 x\nContent-Length: 0");
    assert!(head.fields.is_empty());
}

#[test]
fn connections_persist_by_version_option_and_body() {
    let keeps = |lines: &str| answer(&Method::Get, lines).keep_alive;
    assert!(keeps("HTTP/1.1 200 OK\nContent-Length: 0"));
    assert!(keeps("HTTP/1.1 304 x"));
    assert!(!keeps(
        "HTTP/1.1 200 OK\nContent-Length: 0\nConnection: close"
    ));
    assert!(!keeps("HTTP/1.1 200 OK"), "until close");
    assert!(!keeps("HTTP/1.0 200 OK\nContent-Length: 0"));
    assert!(keeps(
        "HTTP/1.0 200 OK\nContent-Length: 0\nConnection: keep-alive"
    ));
}

#[test]
fn a_switch_of_protocols_names_one() {
    let head = answer(
        &Method::Get,
        "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: WebSocket\nSec-WebSocket-Accept: x",
    );
    assert_eq!(head.protocol, b"websocket");
    assert_eq!(head.fields.len(), 1);
    let head = answer(
        &Method::Get,
        "HTTP/1.1 426 x\nContent-Length: 0\nUpgrade: websocket\nConnection: upgrade",
    );
    assert!(head.protocol.is_empty() && head.fields.len() == 1);
}

#[test]
fn a_response_over_the_limits_is_refused() {
    let mut large = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    large.resize(1024 * 1024, b'y');
    large.extend_from_slice(b"\r\n\r\n");
    let limits = Limits::default();
    assert_eq!(
        parse_response(&large, &Method::Get, &limits),
        Err(Failure::UpstreamProtocol("head too large"))
    );
    let mut many = b"HTTP/1.1 200 OK\r\n".to_vec();
    many.extend(b"x: y\r\n".repeat(101));
    many.extend_from_slice(b"\r\n");
    assert_eq!(
        parse_response(&many, &Method::Get, &limits),
        Err(Failure::UpstreamProtocol("head too large"))
    );
}

#[test]
fn a_response_is_read_only_when_it_is_whole() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    for length in 0..head.len() {
        let parsed = parse_response(&head[..length], &Method::Get, &Limits::default());
        assert_eq!(parsed, Ok(None), "{length}");
    }
}
