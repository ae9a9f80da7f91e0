//! Does a request that can be read in two ways reach an application? (SECURITY S17, section 5.2)
//!
//! Every row of the case tables, through the proxies: refused, or made readable in one way.

use isthmus_tests::{Client, tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::protocols::{AT_ONCE, all_protocols};

/// Rows that are refused.
const REFUSED: &[(&str, &[u8])] = &[
    ("CL and TE", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE and CL", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
    ("two equal CL", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
    ("two CL", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    ("a list of CL", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc"),
    ("TE twice", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked, chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (",chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    ("chunked, gzip", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("gzip", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("identity", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n"),
    ("CL and gzip, chunked", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("no host", b"GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    ("a list of hosts", b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n"),
    ("userinfo in host", b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
    ("a target's host and another", b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("authority-form with GET", b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("asterisk-form with GET", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("a path without /", b"GET a HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("a fragment", b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("a path beyond ASCII", b"GET /\xc3\xa4 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("a NUL in the path", b"GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("an escaped /", b"GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("a backslash", b"GET /a\\b HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("dots with a parameter", b"GET /..;/b HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("connection: host", b"GET / HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\n"),
    ("bare LF", b"GET / HTTP/1.1\nhost: a\n\n"),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n"),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n"),
    ("a folded line", b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n"),
    ("a tab in the request line", b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("two spaces in the request line", b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n"),
];

/// Rows that ask for a transfer coding that nobody here has (RFC 9112 §6.1).
const NOT_IMPLEMENTED: &[(&str, &[u8])] = &[
    ("gzip, chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("br, gzip, chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: br, gzip, chunked\r\n\r\n0\r\n\r\n"),
];

/// Reads until the other side says no more, or has said this.
async fn heard(io: &mut (impl AsyncRead + Unpin), until: &str) -> String {
    let mut said = Vec::new();
    let mut space = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(until) {
        match timeout(AT_ONCE, io.read(&mut space)).await.expect("a word") {
            Ok(0) | Err(_) => break,
            Ok(n) => said.extend_from_slice(&space[..n]),
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

async fn asked(client: &Client, words: &[u8], until: &str) -> String {
    let mut io = client.tcp().await.unwrap();
    // It may be refused before all is said.
    let _ = io.write_all(words).await;
    heard(&mut io, until).await
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_never_forwarded() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    for (what, words) in REFUSED {
        let said = asked(&client, words, "\r\n\r\n").await;
        assert_eq!(said.split(' ').nth(1), Some("400"), "{what}: {said:?}");
        assert!(said.contains("x-mesh-reason: "), "{what}: {said:?}");
    }
    for (what, words) in NOT_IMPLEMENTED {
        // To the end of the connection: what follows such a head is not to be read as a request.
        let said = asked(&client, words, "no such word").await;
        assert_eq!(said.split(' ').nth(1), Some("501"), "{what}: {said:?}");
        assert!(said.contains("x-mesh-reason: "), "{what}: {said:?}");
        assert!(said.contains("connection: close\r\n"), "{what}: {said:?}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{what}: {said:?}");
    }
    let not_implemented = |line: &serde_json::Value| line["failure"] == "not_implemented";
    let line = mesh
        .proxy("east/web-1")
        .logged("a 501", not_implemented)
        .await;
    assert_eq!(
        (&line["status"], &line["flag"]),
        (&501.into(), &"DPE".into()),
        "{line}"
    );
    let big = [
        b"GET / HTTP/1.1\r\nhost: a\r\nx: ".as_slice(),
        &vec![b'a'; 100_000],
        b"\r\n\r\n",
    ];
    let said = asked(&client, &big.concat(), "\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    assert_eq!(mesh.app("west/echo-1").record.accepts(), 0);
}

/// An answer of HTTP is for who speaks HTTP: to others its bytes are something else (to a client of
/// HTTP/2 a frame). Each is counted and can be explained all the same.
#[tokio::test]
async fn what_is_no_http_is_closed_without_an_answer() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let rows: [(&[u8], &str); 5] = [
        (
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            "bytes that are no HTTP",
        ),
        (b"*1\r\n$4\r\nPING\r\n", "bytes that are no HTTP"),
        (b"EHLO mail.example\r\n", "bytes that are no HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "bytes that are no HTTP"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "TLS"),
    ];
    let proxy = mesh.proxy("east/web-1");
    for (words, what) in rows {
        let shown = words.escape_ascii();
        assert_eq!(asked(&client, words, "no such word").await, "", "{shown}");
        let is_it = |line: &serde_json::Value| {
            line["detail"]
                .as_str()
                .is_some_and(|detail| detail.ends_with(what))
        };
        let line = proxy.logged(what, is_it).await;
        assert_eq!(
            (&line["failure"], &line["flag"], &line["status"]),
            (&"bad_request".into(), &"DPE".into(), &0.into()),
            "{line}"
        );
        let reason = line["reason"].as_str().unwrap();
        let why = proxy.why(reason).await;
        assert_eq!(why["event"]["detail"], line["detail"], "{why}");
    }
    // As a whole and in pieces: it is the line that says what is meant, and not how it came.
    let mut io = client.tcp().await.unwrap();
    for piece in [&b"GET "[..], b" / HT", b"TP/1.1\r\nhost: a\r\n\r\n"] {
        io.write_all(piece).await.unwrap();
        io.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let said = heard(&mut io, "no such word").await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said:?}");
    let labels = ["protocol=\"tcp\"", "flag=\"DPE\"", "status=\"-\""];
    let counted = proxy.metric("connections_total", &labels).await;
    assert_eq!(counted, 5.0, "each is counted");
    assert_eq!(mesh.app("west/echo-1").record.accepts(), 0);
}

/// The other rows: what can be made readable in one way goes on in that way.
#[tokio::test]
async fn what_can_be_read_in_one_way_is_rewritten_to_it() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let record = &mesh.app("west/echo-1").record;
    let words = b"GET http://a/heads HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let said = asked(&client, words, "no such word").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let head = record.heads().pop().unwrap();
    assert!(
        head.starts_with("GET /heads ") && head.contains("host: a\n"),
        "{head}"
    );
    // Framing is not taken from a trailer.
    let words = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close, te\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n0\r\ncontent-length: 77\r\nx-check: 9\r\n\r\n";
    let said = asked(&client, words, "no such word").await;
    assert!(
        said.starts_with("HTTP/1.1 200") && said.contains("abc"),
        "{said}"
    );
    assert!(!said.contains("77"), "{said}");
    // What follows a switch of protocols is bytes, not a request.
    let words = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n\
                  GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let said = asked(&client, words, "/smuggled HTTP/1.1").await;
    assert!(said.starts_with("HTTP/1.1 101"), "{said}");
    let heads = record.heads();
    assert!(
        heads.iter().all(|head| !head.contains("/smuggled")),
        "{heads:?}"
    );
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame of HTTP/2 (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&[a, b, c, kind, flags], stream.to_be_bytes().as_slice()].concat();
    [&head, payload].concat()
}

/// Each field as a literal without indexing and without Huffman (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// What a request on stream 1 comes to: a status, `reset` or `gone`.
pub(crate) async fn outcome(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    fields: &[(&str, &str)],
) -> String {
    let mut words = PREFACE.to_vec();
    words.extend(frame(SETTINGS, 0, 0, &[]));
    // END_STREAM and END_HEADERS.
    words.extend(frame(HEADERS, 5, 1, &block(fields)));
    io.write_all(&words).await.unwrap();
    loop {
        let mut head = [0; 9];
        let read = timeout(AT_ONCE, io.read_exact(&mut head))
            .await
            .expect("an outcome");
        if read.is_err() {
            return "gone".to_owned();
        }
        let [_, high, low, kind, _, _, _, _, stream] = head;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        io.read_exact(&mut payload).await.unwrap();
        match (kind, stream) {
            // Of the static table (RFC 7541 appendix A).
            (HEADERS, 1) => {
                return match payload.first() {
                    Some(0x88) => "200".to_owned(),
                    Some(0x8c) => "400".to_owned(),
                    // A literal: its name's index, its length, the digits.
                    _ => match payload.get(1..5) {
                        Some([3, digits @ ..]) => String::from_utf8_lossy(digits).into_owned(),
                        other => format!("{other:x?}"),
                    },
                };
            }
            (RST_STREAM, 1) => return "reset".to_owned(),
            (GOAWAY, _) => return "gone".to_owned(),
            _ => {}
        }
    }
}

/// On the listener of applications, and on the mesh port, as a peer that is believed.
#[tokio::test]
async fn each_ambiguous_http2_request_is_refused_and_reaches_no_application() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 81);
    let state = mesh.proxy("west/echo-1").state_dir().to_owned();
    let (from, to) = (
        mesh.proxy("west/echo-1").address(),
        mesh.proxy("west/echo-1").mesh(),
    );
    let get = (":method", "GET");
    let (http, root) = ((":scheme", "http"), (":path", "/"));
    let rows: &[(&str, &[(&str, &str)])] = &[
        (
            "a fragment",
            &[get, http, (":path", "/a#b"), (":authority", "echo")],
        ),
        ("userinfo", &[get, http, root, (":authority", "u@echo")]),
        (
            "another host",
            &[get, http, root, (":authority", "echo"), ("host", "other")],
        ),
        ("neither", &[get, http, root]),
        (
            "two hosts",
            &[get, http, root, ("host", "echo"), ("host", "echo")],
        ),
    ];
    let good: &[(&str, &str)] = &[get, http, root, (":authority", "echo")];
    let port = ("x-mesh-port", "8081");
    for (what, fields) in rows {
        let outcomes = [
            outcome(client.tcp().await.unwrap(), fields).await,
            outcome(
                dial(from, to, &state).await,
                &[fields, &[port][..]].concat(),
            )
            .await,
        ];
        for outcome in outcomes {
            assert!(
                matches!(outcome.as_str(), "400" | "reset" | "gone"),
                "{what}: {outcome}"
            );
        }
    }
    assert_eq!(mesh.app_on("west/echo-1", 81).record.requests(), 0);
    // The same words without what is wrong with them.
    assert_eq!(outcome(client.tcp().await.unwrap(), good).await, "200");
    let good = [good, &[port]].concat();
    assert_eq!(outcome(dial(from, to, &state).await, &good).await, "200");
}

/// The mesh port at `to`, as the workload whose state this is.
pub(crate) async fn dial(
    from: std::net::IpAddr,
    to: std::net::SocketAddr,
    state: &std::path::Path,
) -> impl AsyncRead + AsyncWrite + Unpin {
    let identity = tls::Identity::of_state_dir(state);
    let io = tls::dial(from, to).await.unwrap();
    tls::connect(io, "echo", Some(identity)).await.unwrap()
}
