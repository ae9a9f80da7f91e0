//! Where do we and `hyper` read the same bytes differently?
//!
//! What we accept, hyper must accept with the same meaning, for every request of a pipeline. What
//! hyper accepts and we refuse must break a rule of [`STRICTER`], each of which is on purpose.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use super::{bodies, requests, responses};
use crate::failure::Failure;
use crate::message::{Fields, Method, RequestHead, Version};

/// Rules that hyper does not keep, and why we do. A refusal by another rule must be hyper's too.
#[rustfmt::skip]
const STRICTER: &[(&str, &str)] = &[
    ("both content-length and transfer-encoding, RFC 9112 §6.3", "hyper lets the coding win; an upstream may not"),
    ("two content-length fields, RFC 9112 §6.3", "hyper merges equal ones"),
    ("content-length is not one number, RFC 9110 §8.6", "hyper takes zeros in front, which some read as octal, and looks away beside a coding"),
    ("two transfer-encoding fields, RFC 9112 §6.1", "hyper looks at the last coding only"),
    ("transfer codings are malformed, or chunked is not once and last, RFC 9112 §6.1", "hyper looks at the last coding only"),
    ("a transfer coding other than chunked, RFC 9112 §6.1", "hyper looks at the last coding only"),
    ("CONNECT or TRACE with content, RFC 9110 §9.3.6, §9.3.8", "content without meaning is where requests hide"),
    ("no host, RFC 9112 §3.2", "hyper leaves it to its user"),
    ("two host fields, RFC 9112 §3.2", "hyper leaves it to its user"),
    ("list in the authority, RFC 9112 §3.2", "hyper leaves it to its user"),
    ("host is empty, RFC 9110 §4.2.1", "hyper leaves it to its user"),
    ("character in the host, RFC 3986 §3.2.2", "hyper leaves it to its user"),
    ("user information in the authority, RFC 9110 §4.2.4", "hyper leaves it to its user"),
    ("port is no number from 1 to 65535, RFC 3986 §3.2.3", "hyper leaves it to its user"),
    ("host is no IPv6 address in brackets, RFC 3986 §3.2.2", "hyper leaves it to its user"),
    ("host is no IPv4 address in four decimal parts", "hyper leaves it to its user"),
    ("host is not the target's, RFC 9112 §3.2.2", "hyper leaves it to its user"),
    ("CONNECT without a port, RFC 9112 §3.2.3", "hyper leaves it to its user"),
    ("target is no path and no http URI, RFC 9112 §3.2", "hyper takes the authority form and other schemes with any method"),
    ("* with another method than OPTIONS, RFC 9112 §3.2.4", "hyper takes it with any method"),
    ("fragment in the target, RFC 9112 §3.2", "hyper cuts it off"),
    ("character in the target, RFC 3986 §2", "hyper takes quotes in the path"),
    ("character in the target is not ASCII, RFC 3986 §2", "hyper takes UTF-8"),
    ("empty lines before the request, RFC 9112 §2.2", "hyper skips any number"),
    ("line end without CR, RFC 9112 §2.2", "hyper takes a bare LF"),
    ("a connection option is not a token, RFC 9110 §7.6.1", "hyper does not forward, so it need not look"),
    ("connection names a field that is not the hop's, RFC 9110 §7.6.1", "hyper does not forward, so it need not look"),
    ("too many connection options, RFC 9110 §7.6.1", "hyper does not forward, so it need not look"),
    ("chunk size is too large, RFC 9112 §7.1", "hyper takes any number of zeros in front"),
    ("chunk size is not a number, RFC 9112 §7.1", "hyper takes white space after it"),
    ("bare CR or LF as the end of chunks, RFC 9112 §7.1", "hyper takes a bare LF, and swallows what follows up to an empty line"),
    ("bare LF in the trailers, RFC 9112 §7.1.2", "hyper takes a bare LF, and swallows what follows up to an empty line"),
    ("control character in a chunk extension, RFC 9112 §7.1.1", "hyper skips extensions unread"),
];

/// A request as a server sees it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    method: String,
    target: String,
    old: bool,
    /// Sorted by name; the values of one name in their order.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

fn sorted<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Vec<(String, Vec<u8>)> {
    let mut sorted: Vec<_> = fields
        .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), v.to_vec()))
        .collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted
}

/// How our reading ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Refused(Failure),
    Incomplete,
    /// All bytes are read, or what follows is not HTTP/1 or not to be read.
    Finished,
}

fn ours(mut input: &[u8]) -> (Vec<Seen>, Ended) {
    let mut seen = Vec::new();
    loop {
        if input.is_empty() || input == b"\r\n" {
            return (seen, Ended::Finished);
        }
        let (head, used) = match parse_request(input, &Limits::default()) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return (seen, Ended::Incomplete),
            Err(failure) => return (seen, Ended::Refused(failure)),
        };
        input = &input[used..];
        let mut reader = BodyReader::new(head.body);
        let mut body = Vec::new();
        let trailers = loop {
            match reader.next(input) {
                Ok(Piece::NeedMore) => return (seen, Ended::Incomplete),
                Ok(Piece::Data { skip, data }) => {
                    body.extend_from_slice(&input[skip..skip + data]);
                    input = &input[skip + data..];
                }
                Ok(Piece::End { consumed, trailers }) => {
                    input = &input[consumed..];
                    break trailers;
                }
                Err(failure) => return (seen, Ended::Refused(failure)),
            }
        };
        seen.push(our_view(&head, body, &trailers));
        if !head.keep_alive || !head.protocol.is_empty() || head.method == Method::Connect {
            return (seen, Ended::Finished);
        }
    }
}

fn our_view(head: &RequestHead, body: Vec<u8>, trailers: &Fields) -> Seen {
    let target = if head.method == Method::Connect {
        &head.authority
    } else {
        &head.path
    };
    Seen {
        method: head.method.as_str().to_owned(),
        target: String::from_utf8(target.clone()).unwrap(),
        old: head.version == Version::Http10,
        fields: sorted(head.fields.iter()),
        body,
        trailers: sorted(trailers.iter()),
    }
}

/// hyper's view of a request, less what belongs to the hop, by a second, simple reading.
async fn their_view(request: Request<Incoming>) -> Option<Seen> {
    let (parts, body) = request.into_parts();
    let old = parts.version == hyper::Version::HTTP_10;
    let options: Vec<String> = parts
        .headers
        .get_all("connection")
        .iter()
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_ascii_lowercase()
                .split(',')
                .map(|option| option.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let dropped = |name: &str| {
        [
            "host",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ]
        .contains(&name)
            || name == "http2-settings"
            || (old && name == "expect")
            || (name != "te" && options.iter().any(|option| option == name))
    };
    let fields = parts
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_bytes()));
    // Of `te`, only the lines that speak of trailers are left, and only that of them.
    let fields: Vec<_> = fields
        .filter(|(name, _)| !dropped(name))
        .filter(|(name, value)| *name != "te" || value.ends_with(b"trailers"))
        .map(|(name, value)| {
            (
                name.as_bytes(),
                if name == "te" { b"trailers" } else { value },
            )
        })
        .collect();
    let collected = body.collect().await.ok()?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let trailers = trailers
        .iter()
        .map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes()));
    let target = match parts.uri.path_and_query() {
        Some(target) if !target.as_str().starts_with(['/', '*']) => format!("/{}", target.as_str()),
        Some(target) if parts.method != "CONNECT" => target.to_string(),
        _ => parts.uri.to_string(),
    };
    Some(Seen {
        method: parts.method.to_string(),
        target,
        old,
        fields: sorted(fields.into_iter()),
        trailers: sorted(trailers.filter(|(name, _)| !is_forbidden_trailer(name))),
        body: collected.to_bytes().to_vec(),
    })
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(work)
}

/// What a hyper server sees in a connection of these bytes.
async fn hypers(input: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let record = seen.clone();
    let service = hyper::service::service_fn(move |request| {
        let record = record.clone();
        async move {
            if let Some(view) = their_view(request).await {
                record.borrow_mut().push(view);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let serve = async {
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service)
            .await;
    };
    let speak = async {
        let _ = client.write_all(input).await;
        let _ = client.shutdown().await;
        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
    };
    tokio::join!(serve, speak);
    Rc::try_unwrap(seen).unwrap().into_inner()
}

fn is_stricter(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::BadRequest(why) | Failure::NotImplemented(why)
            if STRICTER.iter().any(|(rule, _)| *rule == why)
    )
}

/// Compares, and says by which rule we refused what hyper took.
fn compare(input: &[u8], theirs: &[Seen]) -> Option<&'static str> {
    let show = || input.escape_ascii().to_string();
    let (ours, ended) = ours(input);
    for (at, seen) in ours.iter().enumerate() {
        // For the server as a whole, hyper has a `/` after an absolute form.
        let same = theirs.get(at).is_some_and(|their| {
            *seen == *their
                || (seen.target == "*"
                    && *their
                        == Seen {
                            target: "/".into(),
                            ..seen.clone()
                        })
        });
        assert!(
            same,
            "{}: ours {seen:?}, hyper's {:?}",
            show(),
            theirs.get(at)
        );
    }
    let more = theirs.len() > ours.len();
    match ended {
        Ended::Refused(failure) if more => {
            assert!(
                is_stricter(failure),
                "{}: {failure}, hyper: {theirs:?}",
                show()
            );
            let (Failure::BadRequest(why) | Failure::NotImplemented(why)) = failure else {
                return None;
            };
            Some(why)
        }
        Ended::Incomplete => {
            assert!(!more, "{}: incomplete, hyper: {theirs:?}", show());
            None
        }
        // After an upgrade that it knows nothing of, hyper reads on.
        Ended::Refused(_) | Ended::Finished => None,
    }
}

#[test]
fn each_refused_request_is_refused_by_hyper_or_by_a_rule_of_the_table() {
    on_runtime(async {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let heads = requests::REFUSED.iter().chain(requests::NOT_IMPLEMENTED);
        let heads = heads.map(|refused| refused.1.to_vec());
        let bodies = bodies::REFUSED
            .iter()
            .map(|(_, body, _)| [head, *body].concat());
        let mut used = Vec::new();
        for input in heads.chain(bodies) {
            used.extend(compare(&input, &hypers(&input).await));
        }
        for (rule, reason) in STRICTER {
            assert!(
                used.contains(rule),
                "nothing shows that we need: {rule} ({reason})"
            );
        }
    });
}

fn line() -> impl Strategy<Value = String> {
    let of = |lines: &'static [&'static str]| proptest::sample::select(lines);
    prop_oneof![
        9 => of(&["host: a", "Host: a:80", "HOST:a."]),
        1 => of(&["host: b", "host: a, b", "host: u@a", "host:", "host: [::1]"]),
        7 => of(&["content-length: 3", "Content-Length: 0", "content-length:5 "]),
        1 => of(&["content-length: 03", "content-length: +3", "content-length: 3, 3"]),
        7 => of(&["transfer-encoding: chunked", "Transfer-Encoding: CHUNKED"]),
        1 => of(&["transfer-encoding: gzip, chunked", "transfer-encoding: identity",
                  "transfer-encoding: ,chunked", "transfer-encoding: chunked, chunked"]),
        2 => of(&["connection: close", "connection: keep-alive", "connection: x-a, te",
                  "connection: upgrade", "connection: x-a", "connection: a b"]),
        1 => of(&["connection: host", "connection: x-mesh-port", "connection: content-length"]),
        1 => of(&["upgrade: websocket", "upgrade: h2c", "te: trailers", "te: gzip", "te:",
                  "expect: 100-continue", "trailer: x-a", "keep-alive: 5", "proxy-connection: x"]),
        16 => of(&["x-a: 1", "X-B:  2 ", "x-a:", "x-c: \u{e4}", "x-d: a\tb", "cookie: a=b; c"]),
        1 => of(&["x y: 1", "x : 1", " x: 1", ": 1", "x", "x: a\rb", "x: \u{0}", "x(: 1"]),
    ]
    .prop_map(str::to_owned)
}

fn one_request() -> impl Strategy<Value = Vec<u8>> {
    let of = |parts: &'static [&'static str]| proptest::sample::select(parts);
    let method = prop_oneof![
        12 => of(&["GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "get ", "X-Y ", "\r\nGET "]),
        2 => of(&["CONNECT ", "TRACE ", "GET  ", "GET\t", "\nGET ", "\r\n\r\nGET "]),
    ];
    let target = prop_oneof![
        20 => of(&["/", "/a?b=c", "/a//b/../c", "/%2f", "/a;b", "/{a}|^\\", "/?{}|^`\\"]),
        2 => of(&["http://a/x", "http://a", "HTTP://A:80?x", "https://a/", "http://b/", "http://u@a/"]),
        2 => of(&["*", "a:80", "a", "x/y", "/#", "/\u{e4}", "/?\u{e4}", "/\"", "/<", "/`", "/?\"", "ftp://a/", "/?<"]),
    ];
    let version = prop_oneof![
        30 => Just(" HTTP/1.1"), 3 => Just(" HTTP/1.0"),
        1 => of(&[" HTTP/1.2", " HTTP/2.0", " http/1.1", "  HTTP/1.1", " HTTP/1.1 ", ""]),
    ];
    let end =
        || prop_oneof![80 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n")];
    let body = prop_oneof![
        3 => Just(""),
        5 => of(&["abc", "abcde", "3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n", "0\r\nx-t: 1\r\n\r\n"]),
        2 => of(&["3;x=y\r\nabc\r\n0;z\r\n\r\n", "3 ;x\r\nabc\r\n0\r\n\r\n", "0\r\nhost: b\r\nX-T: 1\r\n\r\n",
                  "3\r\nabc\r\n0000\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n"]),
        2 => of(&["3 \r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "0\n\n", "0\r\n\n", "3\r\nabcd\r\n0\r\n\r\n",
                  "0x3\r\nabc\r\n0\r\n\r\n", "0\r\nx-t: 1\n\n", "0\r\nx t: 1\r\n\r\n", "3;\u{1}\r\nabc\r\n0\r\n\r\n",
                  "3;a\nabc\r\n0\r\n\r\n", "ffffffffffffffff\r\nabc", "10000000000000000\r\nabc"]),
    ];
    let lines = vec((line(), end()), 0..5);
    (
        method,
        target,
        version,
        end(),
        lines,
        (prop_oneof![20 => Just(true), 1 => Just(false)], end()),
        body,
    )
        .prop_map(
            |(method, target, version, first_end, lines, (host, last_end), body)| {
                let mut text = [method, target, version, first_end].concat();
                let has_host = lines
                    .iter()
                    .any(|(line, _)| line.to_ascii_lowercase().starts_with("host"));
                if host && !has_host {
                    text.push_str("host: a\r\n");
                }
                for (line, end) in lines {
                    text.push_str(&line);
                    text.push_str(end);
                }
                text.push_str(last_end);
                text.push_str(body);
                text.into_bytes()
            },
        )
}

/// A small generator of test cases, so that one runtime serves thousands of them.
fn samples<T>(strategy: impl Strategy<Value = T>, count: usize) -> impl Iterator<Item = T> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..count).map(move |_| {
        proptest::strategy::ValueTree::current(&strategy.new_tree(&mut runner).unwrap())
    })
}

#[test]
fn what_we_read_in_a_pipeline_hyper_reads_too() {
    on_runtime(async {
        let (mut read, mut refused) = (0, 0);
        for requests in samples(vec(one_request(), 1..4), 600) {
            let input = requests.concat();
            let theirs = hypers(&input).await;
            refused += usize::from(compare(&input, &theirs).is_some());
            read += ours(&input).0.len();
        }
        // The generator would prove nothing if nearly all were refused, or none.
        assert!(
            read > 200 && refused > 50,
            "{read} read, {refused} refused by the table"
        );
    });
}

/// Status, sorted fields and body.
type Answer = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

/// A response to GET as a hyper client reads it.
async fn hypers_response(input: &[u8]) -> Option<Answer> {
    let (mut server, client) = tokio::io::duplex(1 << 16);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(client))
            .await
            .ok()?;
    let get = async {
        let response = sender.send_request(Request::new(Empty::new())).await.ok()?;
        let (parts, body) = response.into_parts();
        let fields = parts
            .headers
            .iter()
            .map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes()));
        let hop = |name: &[u8]| matches!(name, b"transfer-encoding" | b"connection");
        let fields = sorted(fields.filter(|(name, _)| !hop(name)));
        let body = body.collect().await.ok()?.to_bytes().to_vec();
        drop(sender);
        Some((parts.status.as_u16(), fields, body))
    };
    let speak = async {
        // A client takes no answer to what it has not asked.
        let mut asked = Vec::new();
        while head_end(&asked, 0).is_none() && server.read_buf(&mut asked).await.is_ok() {}
        let _ = server.write_all(input).await;
        let _ = server.shutdown().await;
        let _ = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
    };
    tokio::join!(
        async {
            let _ = connection.await;
        },
        speak,
        get
    )
    .2
}

fn our_response(mut input: &[u8]) -> Option<Answer> {
    let head = loop {
        let (head, used) = parse_response(input, &Method::Get, &Limits::default()).ok()??;
        input = &input[used..];
        if head.status == 101 || head.status >= 200 {
            break head;
        }
    };
    let (mut reader, mut body) = (BodyReader::of_response(head.body), Vec::new());
    loop {
        match reader.next(input).ok()? {
            Piece::Data { skip, data } => {
                body.extend_from_slice(&input[skip..skip + data]);
                input = &input[skip + data..];
            }
            Piece::NeedMore => {
                reader.end_of_input().ok()?;
                break;
            }
            Piece::End { .. } => break,
        }
    }
    Some((head.status, sorted(head.fields.iter()), body))
}

fn one_response() -> impl Strategy<Value = Vec<u8>> {
    let of = |parts: &'static [&'static str]| proptest::sample::select(parts);
    let early = prop_oneof![
        5 => Just(""), 1 => of(&["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 x\r\nlink: a\r\n\r\n"]),
    ];
    let first = prop_oneof![
        9 => of(&["HTTP/1.1 200 OK", "HTTP/1.1 404 ", "HTTP/1.1 500", "HTTP/1.0 200 OK"]),
        1 => of(&["HTTP/1.1 204 x", "HTTP/1.1 304 x", "HTTP/1.1 099 x", "HTTP/1.1  200 x", "HTTP/2 200"]),
    ];
    let line = prop_oneof![
        4 => of(&["content-length: 3\r\n", "Content-Length: 0\r\n", "transfer-encoding: chunked\r\n"]),
        4 => of(&["x: y\r\n", "X:\r\n", "connection: close\r\n", "set-cookie: a\r\n"]),
        1 => of(&["content-length: 3\n", "x : y\r\n", "x: y\r\n z\r\n", "content-length: +3\r\n",
                  "transfer-encoding: gzip\r\n", "content-length: 3, 3\r\n", "x: a\rb\r\n"]),
    ];
    let body = of(&[
        "",
        "abc",
        "abcd",
        "3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "0\r\n\n",
        "ab",
    ]);
    (early, first, vec(line, 0..4), body).prop_map(|(early, first, lines, body)| {
        [early, first, "\r\n", &lines.concat(), "\r\n", body]
            .concat()
            .into_bytes()
    })
}

#[test]
fn a_response_that_we_read_hyper_reads_too() {
    on_runtime(async {
        let refused = responses::REFUSED.iter().map(|(_, bytes)| bytes.to_vec());
        let mut read = 0;
        for input in samples(one_response(), 500).chain(refused) {
            if let Some(ours) = our_response(&input) {
                let theirs = hypers_response(&input).await;
                // hyper leaves the length of a 204 in; RFC 9110 §8.6 forbids to send it on.
                if ours.0 != 204 {
                    assert_eq!(Some(ours), theirs, "{}", input.escape_ascii());
                }
                read += 1;
            }
        }
        assert!(read > 150, "{read}");
    });
}
