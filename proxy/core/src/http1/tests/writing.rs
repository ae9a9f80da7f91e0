//! Which bytes does a head become?

use super::super::*;
use super::requests::request;
use crate::message::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};

fn written(head: &RequestHead) -> String {
    let mut out = Vec::new();
    write_request(head, &mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

fn rewritten(lines: &str) -> String {
    written(&request(
        format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes(),
    ))
}

#[test]
fn requests_are_written_host_first_and_framed() {
    assert_eq!(
        rewritten("GET /x?y HTTP/1.1\nB: 1\nHost: a\nC: 2"),
        "GET /x?y HTTP/1.1\nhost: a\nb: 1\nc: 2\n\n"
    );
    assert_eq!(
        rewritten("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nC: 2"),
        "POST / HTTP/1.1\nhost: a\ncontent-length: 3\nc: 2\n\n"
    );
    assert_eq!(
        rewritten("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nC: 2"),
        "POST / HTTP/1.1\nhost: a\nc: 2\ntransfer-encoding: chunked\n\n"
    );
    assert_eq!(
        rewritten("POST / HTTP/1.1\nHost: a"),
        "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n"
    );
    assert_eq!(
        rewritten("OPTIONS * HTTP/1.1\nHost: a"),
        "OPTIONS * HTTP/1.1\nhost: a\n\n"
    );
    assert_eq!(
        rewritten("CONNECT a:1 HTTP/1.1\nHost: a:1"),
        "CONNECT a:1 HTTP/1.1\nhost: a:1\n\n"
    );
    assert_eq!(
        rewritten("GET http://a/x HTTP/1.1\nHost: A"),
        "GET /x HTTP/1.1\nhost: a\n\n",
        "the absolute form is the origin form and its host"
    );
}

#[test]
fn connection_says_what_is_the_hops() {
    assert_eq!(
        rewritten("GET / HTTP/1.1\nHost: a\nConnection: close"),
        "GET / HTTP/1.1\nhost: a\nconnection: close\n\n"
    );
    assert_eq!(
        rewritten("GET / HTTP/1.1\nHost: a\nTE: trailers\nConnection: te, close"),
        "GET / HTTP/1.1\nhost: a\nte: trailers\nconnection: close, te\n\n"
    );
    assert_eq!(
        rewritten("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket"),
        "GET / HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket\n\n"
    );
}

#[test]
fn an_extended_connect_becomes_an_upgrade() {
    let mut head = request(b"GET /chat HTTP/1.1\r\nHost: a\r\n\r\n");
    head.method = Method::Connect;
    head.version = Version::Http2;
    head.protocol = b"websocket".to_vec();
    head.body = BodyLength::Marked;
    assert_eq!(
        written(&head),
        "GET /chat HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket\n\n"
    );
    assert_eq!(request_framing(&head), Framing::None);
}

#[test]
fn fields_cannot_contradict_the_framing() {
    let mut head = request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    head.fields.push(b"content-length", b"9");
    head.fields.push(b"transfer-encoding", b"chunked");
    head.fields.push(b"connection", b"x");
    head.fields.push(b"host", b"b");
    assert_eq!(
        written(&head),
        "POST / HTTP/1.1\nhost: a\ncontent-length: 3\n\n"
    );
    head.body = BodyLength::Marked;
    assert_eq!(
        written(&head),
        "POST / HTTP/1.1\nhost: a\ntransfer-encoding: chunked\n\n"
    );
    head.body = BodyLength::Empty;
    assert_eq!(
        written(&head),
        "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n"
    );
}

#[test]
fn nothing_can_forge_a_line() {
    let mut head = request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    head.path = b"/x y\r\nevil: 1\xff".to_vec();
    head.fields.push(b"a", b"1\r\nevil: 1");
    head.fields.push(b"b\nevil", b"1");
    head.fields.push(b"c", b"1");
    assert_eq!(
        written(&head),
        "GET /x%20y%0D%0Aevil:%201%FF HTTP/1.1\nhost: a\nc: 1\n\n"
    );
}

fn answered(head: &ResponseHead, version: Version, method: Method) -> String {
    let mut out = Vec::new();
    write_response(head, &ResponseContext { version, method }, &mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

fn response(status: u16, body: BodyLength) -> ResponseHead {
    let mut head = ResponseHead::new(status, body);
    head.fields.push(b"x", b"y");
    head
}

#[test]
fn responses_are_framed_for_their_request() {
    let marked = response(200, BodyLength::Marked);
    assert_eq!(
        answered(&marked, Version::Http11, Method::Get),
        "HTTP/1.1 200 OK\nx: y\ntransfer-encoding: chunked\n\n"
    );
    assert_eq!(
        answered(&marked, Version::Http10, Method::Get),
        "HTTP/1.1 200 OK\nx: y\nconnection: close\n\n"
    );
    assert_eq!(
        answered(&marked, Version::Http11, Method::Head),
        "HTTP/1.1 200 OK\nx: y\n\n"
    );
    let until_close = response(200, BodyLength::UntilClose);
    assert_eq!(
        answered(&until_close, Version::Http11, Method::Get),
        "HTTP/1.1 200 OK\nx: y\ntransfer-encoding: chunked\n\n"
    );
    let exact = response(201, BodyLength::Exact(7));
    assert_eq!(
        answered(&exact, Version::Http10, Method::Get),
        "HTTP/1.1 201 Created\nx: y\ncontent-length: 7\nconnection: keep-alive\n\n"
    );
    let empty = response(499, BodyLength::Empty);
    assert_eq!(
        answered(&empty, Version::Http11, Method::Get),
        "HTTP/1.1 499 \nx: y\ncontent-length: 0\n\n"
    );
    assert_eq!(
        answered(
            &response(200, BodyLength::Marked),
            Version::Http11,
            Method::Connect
        ),
        "HTTP/1.1 200 OK\nx: y\n\n"
    );
}

#[test]
fn statuses_without_content_get_no_framing() {
    for status in [100, 103, 204, 304] {
        let text = answered(
            &response(status, BodyLength::Exact(3)),
            Version::Http11,
            Method::Get,
        );
        assert!(
            !text.contains("content-length") && !text.contains("transfer"),
            "{text}"
        );
    }
    let mut head = response(304, BodyLength::Empty);
    head.fields.push(b"content-length", b"42");
    assert!(answered(&head, Version::Http11, Method::Get).contains("content-length: 42\n"));
    head.status = 200;
    assert!(answered(&head, Version::Http11, Method::Head).contains("content-length: 42\n"));
    assert!(answered(&head, Version::Http11, Method::Get).contains("content-length: 0\n"));
}

#[test]
fn a_connection_that_will_close_says_so_in_the_final_response() {
    let mut head = response(200, BodyLength::Empty);
    head.keep_alive = false;
    assert!(answered(&head, Version::Http11, Method::Get).contains("connection: close\n"));
    head.status = 100;
    assert!(!answered(&head, Version::Http11, Method::Get).contains("connection"));
    head.status = 101;
    head.protocol = b"websocket".to_vec();
    assert!(
        answered(&head, Version::Http11, Method::Get)
            .ends_with("connection: upgrade\nupgrade: websocket\n\n")
    );
}

#[test]
fn chunks_are_written() {
    let mut out = Vec::new();
    write_chunk(b"", &mut out);
    assert!(out.is_empty());
    write_chunk(b"abc", &mut out);
    write_chunk(&[b'x'; 0x1a0], &mut out);
    assert!(out.starts_with(b"3\r\nabc\r\n1a0\r\nxxx"));
    out.clear();
    let mut trailers = Fields::default();
    trailers.push(b"x-sum", b"1");
    trailers.push(b"content-length", b"1");
    write_last_chunk(&trailers, &mut out);
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
}
