//! Is every malformed head refused, and every good one read right (RFC 9113 §8, S15, S17)?

use super::*;

fn request(fields: &[(&str, &str)], end: bool) -> Seen {
    let mut connection = End::server();
    let mut seen = connection.feed(&headers(1, fields, end)).unwrap();
    if let Seen::Refused(_, Failure::BadRequest(_)) = seen[0] {
        assert_eq!(connection.resets(), [(1, ErrorCode::ProtocolError)]);
    }
    seen.remove(0)
}

fn read(fields: &[(&str, &str)], end: bool) -> RequestHead {
    match request(fields, end) {
        Seen::Request(1, head, _) => head,
        other => panic!("{fields:?}: {other:?}"),
    }
}

const PSEUDO: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/a"),
    (":authority", "cart"),
];

fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    PSEUDO.iter().chain(extra).copied().collect()
}

fn replaced(name: &str, value: Option<&'static str>) -> Vec<(&'static str, &'static str)> {
    let fields = PSEUDO.iter().filter_map(|(n, v)| match value {
        None if *n == name => None,
        Some(value) if *n == name => Some((*n, value)),
        _ => Some((*n, *v)),
    });
    fields.collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn malformed_requests_are_refused() {
    let mut cases: Vec<Vec<(&str, &str)>> = vec![
        with(&[("X-Upper", "1")]),
        with(&[("", "1")]),
        with(&[("sp ace", "1")]),
        with(&[("col:on", "1")]),
        with(&[("nul", "a\0b")]),
        with(&[("cr", "a\rb")]),
        with(&[("lf", "a\nb")]),
        with(&[("del", "a\x7fb")]),
        with(&[("white", " a")]),
        with(&[("white", "a\t")]),
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("te", "trailers, gzip")]),
        with(&[("host", "other")]),
        with(&[("host", "cart"), ("host", "cart")]),
        with(&[("content-length", "1"), ("content-length", "1")]),
        with(&[("content-length", "1, 1")]),
        with(&[("content-length", "+1")]),
        with(&[("content-length", "")]),
        with(&[("content-length", "18446744073709551615")]),
        with(&[("content-length", "99999999999999999999")]),
        with(&[(":status", "200")]),
        with(&[(":path", "/b")]),
        with(&[(":new", "1")]),
        with(&[(":protocol", "websocket")]),
        with(&[("a", "b"), (":path", "/b")]),
        vec![
            ("a", "b"),
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ],
        vec![(":method", "CONNECT"), (":authority", "cart")],
        vec![(":method", "CONNECT"), (":authority", "cart:0")],
        vec![(":method", "CONNECT"), (":authority", "cart:65536")],
        vec![(":method", "CONNECT"), (":authority", "cart:")],
        vec![
            (":method", "CONNECT"),
            (":authority", "cart:80"),
            (":path", "/"),
        ],
        vec![
            (":method", "CONNECT"),
            (":authority", "cart:80"),
            (":scheme", "http"),
        ],
        vec![
            (":method", "CONNECT"),
            (":authority", "cart:80"),
            ("content-length", "3"),
        ],
        vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":authority", "cart:80"),
        ],
    ];
    for name in [":method", ":scheme", ":path", ":authority"] {
        cases.push(replaced(name, None));
        cases.push(replaced(name, Some("")));
        cases.push(replaced(name, Some("a b")));
    }
    for path in ["a", "*", "/a#b", "http://cart/", "/a\x7f"] {
        cases.push(replaced(":path", Some(path)));
    }
    for authority in [
        "me@cart",
        "cart/x",
        "cart?x",
        "cart#x",
        "a,b",
        "c\u{e4}rt",
        "a\\b",
    ] {
        cases.push(replaced(":authority", Some(authority)));
    }
    // Behind the last ones more requests would travel, unseen: as HTTP/1's `Upgrade` they are ignored.
    for protocol in [
        "", "/", "foo/", "/1", "a/b/c", "a b", "a, b", "h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.2",
    ] {
        let mut extended = replaced(":method", Some("CONNECT"));
        extended.push((":protocol", protocol));
        cases.push(extended);
    }
    cases.push(replaced(":scheme", Some("ftp")));
    for fields in cases {
        let seen = request(&fields, false);
        assert!(
            matches!(seen, Seen::Refused(1, Failure::BadRequest(_))),
            "{fields:?}: {seen:?}"
        );
    }
    let seen = request(&with(&[("content-length", "1")]), true);
    assert!(
        matches!(seen, Seen::Refused(1, Failure::BadRequest(_))),
        "length without content"
    );
}

#[test]
fn good_requests_are_read() {
    let head = read(
        &with(&[
            ("te", "trailers"),
            ("x", "a b\u{e4}"),
            ("expect", "100-Continue"),
        ]),
        true,
    );
    assert_eq!((head.method, head.https), (Method::Get, true));
    assert_eq!(
        (head.authority.as_slice(), head.path.as_slice()),
        (&b"cart"[..], &b"/a"[..])
    );
    assert_eq!(
        (head.body, head.version),
        (BodyLength::Empty, Version::Http2)
    );
    assert!(head.expects_continue && head.keep_alive);
    assert_eq!(head.fields.get(b"x"), Some("a b\u{e4}".as_bytes()));
    assert_eq!(
        read(&with(&[("content-length", "7")]), false).body,
        BodyLength::Exact(7)
    );
    assert_eq!(read(&with(&[]), false).body, BodyLength::Marked);

    let mut only_host = replaced(":authority", None);
    only_host.push(("host", "cart:8080"));
    assert_eq!(read(&only_host, true).authority, b"cart:8080");
    let both = read(&with(&[("host", "CART")]), true);
    assert_eq!(
        (both.authority.as_slice(), both.fields.get(b"host")),
        (&b"cart"[..], None)
    );

    let mut options = replaced(":method", Some("OPTIONS"));
    options[2].1 = "*";
    assert_eq!(read(&options, true).path, b"*");
    assert_eq!(
        read(&replaced(":method", Some("get")), true).method,
        Method::Other("get".into())
    );

    let crumbs = read(
        &with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]),
        true,
    );
    assert_eq!(
        crumbs.fields.get_all(b"cookie").collect::<Vec<_>>(),
        [b"a=1; b=2"]
    );

    let tunnel = read(
        &[(":method", "CONNECT"), (":authority", "[::1]:443")],
        false,
    );
    assert_eq!(
        (tunnel.path.as_slice(), tunnel.body),
        (&b""[..], BodyLength::Marked)
    );
    // RFC 8441 §5: what stands in `Upgrade`, which may have a version (RFC 9110 §7.8).
    for protocol in ["websocket", "foo/1", "a.b/c.d"] {
        let mut extended = replaced(":method", Some("CONNECT"));
        extended.push((":protocol", protocol));
        let extended = read(&extended, false);
        assert_eq!(
            (extended.protocol.as_slice(), extended.path.as_slice()),
            (protocol.as_bytes(), &b"/a"[..])
        );
    }
}

#[test]
fn what_a_client_writes_a_server_reads() {
    let (mut client, mut server) = (End::client(), End::server());
    let mut head = get("/a?b");
    for (name, value) in [
        ("connection", "close"),
        ("upgrade", "x"),
        ("te", "gzip"),
        ("host", "evil"),
    ] {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in [
        ("te", "trailers"),
        ("authorization", "secret"),
        ("x-y", ""),
        ("via", "a"),
    ] {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    for method in [
        Method::Get,
        Method::Post,
        Method::Delete,
        Method::Other("PURGE".into()),
    ] {
        head.method = method;
        client.http2.open(&head, true, &mut client.out).unwrap();
        let seen = server.feed(&std::mem::take(&mut client.out)).unwrap();
        let [Seen::Request(_, got, true)] = &seen[..] else {
            panic!("{seen:?}")
        };
        let mut expected = head.clone();
        expected.version = Version::Http2;
        expected.fields.retain(|n, v| {
            !matches!(n, b"connection" | b"upgrade" | b"host") && (n != b"te" || v == b"trailers")
        });
        assert_eq!(*got, expected);
    }
    // An HTTP/1.1 upgrade becomes an extended CONNECT, and its 101 a 200.
    head.protocol = b"websocket".to_vec();
    let id = client.http2.open(&head, false, &mut client.out).unwrap();
    let seen = server.feed(&std::mem::take(&mut client.out)).unwrap();
    assert!(
        matches!(&seen[..], [Seen::Request(_, got, false)] if got.method == Method::Connect && got.protocol == b"websocket")
    );
    let switching = ResponseHead::new(101, BodyLength::Marked);
    server
        .http2
        .respond(id, &switching, false, &mut server.out)
        .unwrap();
    let seen = client.feed(&std::mem::take(&mut server.out)).unwrap();
    assert!(
        matches!(&seen[..], [Seen::Response(_, got, false)] if got.status == 200 && got.body == BodyLength::Marked)
    );
}

#[test]
fn every_status_arrives() {
    let mut server = End::server();
    let mut client = End::client();
    for status in (200..600).chain([100, 103]) {
        let id = client.http2.open(&get("/"), true, &mut client.out).unwrap();
        server.feed(&std::mem::take(&mut client.out)).unwrap();
        let head = ResponseHead::new(status, BodyLength::Empty);
        server
            .http2
            .respond(id, &head, true, &mut server.out)
            .unwrap();
        let seen = client.feed(&std::mem::take(&mut server.out)).unwrap();
        let [Seen::Response(_, got, end)] = &seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((got.status, *end), (status, status >= 200));
    }
}

#[test]
fn answers_to_head_may_name_a_length_that_does_not_come() {
    let mut client = End::client();
    let mut head = get("/");
    head.method = Method::Head;
    client.http2.open(&head, true, &mut client.out).unwrap();
    let answer = headers(1, &[(":status", "200"), ("content-length", "5")], false);
    let seen = client.feed(&[answer, data(1, b"", true)].concat()).unwrap();
    let [Seen::Response(_, got, false), Seen::Data(1, empty, true)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert!(empty.is_empty());
    assert_eq!(
        (got.body, got.fields.get(b"content-length")),
        (BodyLength::Empty, Some(&b"5"[..]))
    );
}

#[test]
fn trailers_lose_what_frames_or_routes() {
    let mut server = End::server();
    let trailers = headers(
        1,
        &[("grpc-status", "0"), ("content-length", "5"), ("host", "x")],
        true,
    );
    let seen = server
        .feed(&[headers(1, POST, false), trailers].concat())
        .unwrap();
    let Seen::Trailers(1, fields) = &seen[1] else {
        panic!("{seen:?}")
    };
    assert_eq!(
        fields.iter().collect::<Vec<_>>(),
        [(&b"grpc-status"[..], &b"0"[..])]
    );
}
