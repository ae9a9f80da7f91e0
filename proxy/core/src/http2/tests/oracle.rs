//! Does the codec agree with the `h2` crate, as its server, as its client and about what is wrong?

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// Bytes that a pipe between the two holds: few, so that everything comes in pieces.
const PIPE_BYTES: usize = 10_000;

/// Our end with its socket.
struct Ours {
    end: End,
    socket: DuplexStream,
    seen: VecDeque<Seen>,
    /// What is to be said on each stream, and whether that is all.
    bodies: BTreeMap<u32, (Vec<u8>, Finish)>,
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finish {
    Plain,
    Trailers,
}

impl Ours {
    fn new(role: Role, settings: Settings, socket: DuplexStream) -> Self {
        Self {
            end: End::new(role, settings),
            socket,
            seen: VecDeque::new(),
            bodies: BTreeMap::new(),
        }
    }

    /// The next event. `None`: the peer closed.
    async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Some(event);
            }
            self.send();
            let (mut reader, mut writer) = tokio::io::split(&mut self.socket);
            let mut piece = Vec::with_capacity(4_096);
            tokio::select! {
                read = reader.read_buf(&mut piece) => {
                    read.ok().filter(|n| *n > 0)?;
                    self.seen.extend(self.end.feed(&piece).expect("h2 breaks no rule"));
                }
                written = writer.write(&self.end.out), if !self.end.out.is_empty() => {
                    self.end.out.drain(..written.ok()?);
                    if self.end.out.is_empty() {
                        self.end.http2.flushed();
                    }
                }
            }
        }
    }

    /// Says as much as the windows allow.
    fn send(&mut self) {
        let End { http2, out, .. } = &mut self.end;
        self.bodies.retain(|id, (body, finish)| {
            let id = StreamId(*id);
            let Ok(sent) = http2.data(id, body, *finish == Finish::Plain, out) else {
                return false;
            };
            body.drain(..sent);
            if body.is_empty() && *finish == Finish::Trailers {
                let mut fields = Fields::default();
                fields.push(b"grpc-status", b"0");
                http2.trailers(id, &fields, out).unwrap();
                return false;
            }
            http2.is_sending(id)
        });
    }
}

/// A body whose order shows.
fn body(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|k| u8::try_from((k * 7 + seed) % 251).unwrap())
        .collect()
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(20), future)
                .await
                .expect("it hangs");
        });
}

/// Our server: every request gets its body back; with trailers, if it had a body at all.
async fn echo(mut server: Ours) {
    let mut received: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some(event) = server.next().await {
        let (id, end) = match event {
            Seen::Request(id, head, end) => {
                assert_eq!(head.fields.get(b"x-id"), Some(id.to_string().as_bytes()));
                received.insert(id, Vec::new());
                (id, end)
            }
            Seen::Data(id, data, end) => {
                received.get_mut(&id).unwrap().extend(data);
                (id, end)
            }
            Seen::Trailers(id, _) => (id, true),
            Seen::Reset(..) | Seen::Refused(..) => panic!("{event:?}"),
            _ => continue,
        };
        if end {
            let body = received.remove(&id).unwrap();
            let End { http2, out, .. } = &mut server.end;
            http2.respond(StreamId(id), &ok(), false, out).unwrap();
            let finish = if body.is_empty() {
                Finish::Plain
            } else {
                Finish::Trailers
            };
            server.bodies.insert(id, (body, finish));
        }
    }
}

/// Reads a body of `h2`'s, giving back what was read.
async fn read(stream: &mut h2::RecvStream) -> Result<(Vec<u8>, bool), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        all.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok((all, stream.trailers().await?.is_some()))
}

#[test]
fn our_server_serves_the_h2_crate() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let settings = Settings {
            max_concurrent_streams: 20,
            initial_window: 30_000,
            ..Settings::default()
        };
        let server = tokio::spawn(echo(Ours::new(Role::Server, settings, ours)));
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(20_000)
            .handshake::<_, Bytes>(theirs)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut tasks = tokio::task::JoinSet::new();
        for k in 0..150_usize {
            let mut sender = sender.clone().ready().await.unwrap();
            let bytes = [0, 1, 100, 16_384, 70_000][k % 5];
            let id = 2 * k + 1;
            let request = http::Request::post("http://cart:80/a?b").header("x-id", id);
            let request = request
                .header("x-huffman", "coded and kept in the table")
                .body(())
                .unwrap();
            let (answer, mut stream) = sender.send_request(request, bytes == 0).unwrap();
            tasks.spawn(async move {
                if bytes > 0 {
                    stream.send_data(body(k, bytes).into(), k % 2 == 0).unwrap();
                    if k % 2 == 1 {
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
                        stream.send_trailers(trailers).unwrap();
                    }
                }
                let mut answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200);
                let (got, trailers) = read(answer.body_mut()).await.unwrap();
                assert_eq!((got, trailers), (body(k, bytes), bytes > 0));
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        drop(sender);
        connection.await.unwrap().unwrap();
        server.await.unwrap();
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation")]
fn our_client_uses_the_h2_crate() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let server = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder
                .max_concurrent_streams(20)
                .initial_window_size(25_000);
            let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            while let Some(request) = connection.accept().await {
                let (request, mut answer) = request.unwrap();
                tokio::spawn(async move {
                    let (got, trailers) = read(&mut request.into_body()).await.unwrap();
                    let response =
                        http::Response::builder().header("x-trailers", trailers.to_string());
                    let mut stream = answer
                        .send_response(response.body(()).unwrap(), false)
                        .unwrap();
                    stream.send_data(got.into(), true).unwrap();
                });
            }
        });
        let settings = Settings {
            initial_window: 40_000,
            ..Settings::default()
        };
        let mut client = Ours::new(Role::Client, settings, ours);
        while !client.end.http2.is_ready() {
            client.next().await.unwrap();
        }
        let (mut opened, mut done) = (0_usize, 0);
        let mut received: BTreeMap<u32, (usize, Vec<u8>)> = BTreeMap::new();
        while done < 150 {
            while opened < 150 && client.end.http2.can_open() {
                let End { http2, out, .. } = &mut client.end;
                let bytes = [0, 1, 100, 16_384, 70_000][opened % 5];
                let id = http2.open(&get("/a?b"), bytes == 0, out).unwrap().get();
                let finish = if opened % 2 == 0 {
                    Finish::Plain
                } else {
                    Finish::Trailers
                };
                if bytes > 0 {
                    client.bodies.insert(id, (body(opened, bytes), finish));
                }
                received.insert(id, (opened, Vec::new()));
                opened += 1;
            }
            assert!(client.end.http2.open_streams() <= 20);
            let (id, end) = match client.next().await.unwrap() {
                Seen::Response(id, head, end) => {
                    assert_eq!(head.status, 200);
                    let (k, _) = received[&id];
                    let trailers: &[u8] = if k % 2 == 1 && k % 5 > 0 {
                        b"true"
                    } else {
                        b"false"
                    };
                    assert_eq!(head.fields.get(b"x-trailers"), Some(trailers));
                    (id, end)
                }
                Seen::Data(id, data, end) => {
                    received.get_mut(&id).unwrap().1.extend(data);
                    (id, end)
                }
                Seen::Writable(_) | Seen::Settings => continue,
                other => panic!("{other:?}"),
            };
            if end {
                let (k, got) = received.remove(&id).unwrap();
                assert_eq!(got, body(k, [0, 1, 100, 16_384, 70_000][k % 5]));
                done += 1;
            }
        }
        drop(client);
        server.await.unwrap();
    });
}

#[test]
fn resets_pass_both_ways() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let mut server = Ours::new(Role::Server, Settings::default(), ours);
        let client = tokio::spawn(async move {
            let (sender, connection) = h2::client::handshake(theirs).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = || http::Request::post("http://cart/").body(()).unwrap();
            let mut sender = sender.ready().await.unwrap();
            let (answer, mut stream) = sender.send_request(request(), false).unwrap();
            let answer = answer.await.unwrap();
            stream.send_data(Bytes::from_static(b"x"), false).unwrap();
            // The server says that it got it.
            assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "y");
            stream.send_reset(h2::Reason::CANCEL);
            let mut sender = sender.ready().await.unwrap();
            let (answer, held) = sender.send_request(request(), false).unwrap();
            let error = answer.await.unwrap_err();
            assert_eq!(
                (error.reason(), error.is_remote()),
                (Some(h2::Reason::REFUSED_STREAM), true)
            );
            // Whoever holds a stream holds the connection.
            drop((sender, stream, held));
            connection.await.unwrap().unwrap();
        });
        let mut resets = 0;
        while let Some(event) = server.next().await {
            match event {
                Seen::Reset(1, code, true) => {
                    assert_eq!(code, ErrorCode::Cancel);
                    resets += 1;
                }
                Seen::Request(3, ..) => {
                    let End { http2, out, .. } = &mut server.end;
                    http2.reset(StreamId(3), ErrorCode::RefusedStream, out);
                }
                Seen::Request(1, ..) => {
                    let End { http2, out, .. } = &mut server.end;
                    http2.respond(StreamId(1), &ok(), false, out).unwrap();
                }
                Seen::Data(1, ..) => {
                    let End { http2, out, .. } = &mut server.end;
                    http2.data(StreamId(1), b"y", false, out).unwrap();
                }
                Seen::Settings | Seen::Writable(_) => {}
                Seen::GoAway(_, code) => assert_eq!(code, ErrorCode::NoError),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(resets, 1);
        client.await.unwrap();
    });
}

#[test]
fn a_goodbye_of_ours_lets_the_h2_crate_finish() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let mut server = Ours::new(Role::Server, Settings::default(), ours);
        let client = tokio::spawn(async move {
            let (sender, connection) = h2::client::handshake(theirs).await.unwrap();
            let connection = tokio::spawn(connection);
            let mut sender = sender.ready().await.unwrap();
            let request = http::Request::get("http://cart/").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
            connection.await.unwrap().unwrap();
        });
        loop {
            if let Some(Seen::Request(id, ..)) = server.next().await {
                let End { http2, out, .. } = &mut server.end;
                http2.shutdown(out);
                http2.respond(StreamId(id), &ok(), true, out).unwrap();
                break;
            }
        }
        // The second GOAWAY makes the client leave.
        while server.next().await.is_some() {}
        assert!(server.end.http2.is_drained());
        client.await.unwrap();
    });
}

/// Does the `h2` crate, as a server, take this block as a request?
fn h2_takes(block: &[u8]) -> bool {
    let mut taken = false;
    run(async {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        // When the PING is answered, the request was taken, or never will be.
        let hello = [frame::PREFACE.as_slice(), &raw(4, 0, 0, &[])].concat();
        let request = [raw(1, 5, 1, block), raw(6, 0, 0, &[7; 8])].concat();
        ours.write_all(&[hello, request].concat()).await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
        let mut answers = Vec::new();
        let answered = raw(6, 1, 0, &[7; 8]);
        while !answers
            .windows(answered.len())
            .any(|bytes| bytes == answered)
        {
            tokio::select! {
                biased;
                request = connection.accept() => {
                    taken = matches!(request, Some(Ok(_)));
                    return;
                }
                read = ours.read_buf(&mut answers) => assert!(read.unwrap() > 0),
            }
        }
    });
    taken
}

/// Requests that are right but for a thing or two.
fn any_request() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let names = [
        ":method",
        ":scheme",
        ":path",
        ":authority",
        ":protocol",
        ":status",
        ":x",
        "host",
        "te",
        "connection",
        "upgrade",
        "content-length",
        "cookie",
        "x",
        "X",
        "x y",
        "",
    ];
    let values = [
        "GET",
        "CONNECT",
        "OPTIONS",
        "http",
        "https",
        "/",
        "/a?b",
        "*",
        "a",
        "cart:80",
        "cart",
        "user@cart",
        "websocket",
        "trailers",
        "0",
        "5",
        "",
        " a",
        "a\tb",
        "a\0",
        "a\r\nb",
        "é",
        "/#",
    ];
    let extra = (
        proptest::sample::select(names.to_vec()),
        proptest::sample::select(values.to_vec()),
    );
    let change = (0..8_usize, extra, any::<bool>());
    proptest::collection::vec(change, 0..3).prop_map(|changes| {
        let mut fields = GET.to_vec();
        for (at, field, replace) in changes {
            if replace && at < fields.len() {
                fields[at] = field;
            } else {
                fields.insert(at.min(fields.len()), field);
            }
        }
        fields
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_the_h2_crate_refuses_we_refuse(fields in any_request()) {
        let block = block(&fields);
        let seen = End::server().feed(&raw(1, 5, 1, &block));
        if let Ok([Seen::Request(..)]) = seen.as_deref() {
            prop_assert!(h2_takes(&block), "we take what h2 refuses: {fields:?}");
        }
    }

    #[test]
    fn what_the_h2_crate_packs_we_unpack(
        fields in proptest::collection::vec(("[a-z]{1,12}", "[ -~]{0,60}"), 0..12),
        rounds in 1..4_usize,
    ) {
        let sent: Vec<_> = fields
            .iter()
            .map(|(n, v)| (format!("x-{n}"), v.trim_matches(' ').to_owned()))
            .collect();
        run(async {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let mut server = Ours::new(Role::Server, Settings::default(), ours);
            let list = sent.clone();
            let client = tokio::spawn(async move {
                let (sender, connection) = h2::client::handshake(theirs).await.unwrap();
                let connection = tokio::spawn(connection);
                let mut sender = sender.ready().await.unwrap();
                for _ in 0..rounds {
                    let mut request = http::Request::get("http://cart/p").body(()).unwrap();
                    for (name, value) in &list {
                        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                        request.headers_mut().append(name, value.parse().unwrap());
                    }
                    let (answer, _) = sender.send_request(request, true).unwrap();
                    answer.await.unwrap();
                }
                drop(sender);
                connection.await.unwrap().unwrap();
            });
            while let Some(event) = server.next().await {
                if let Seen::Request(id, head, true) = event {
                    // h2 puts fields of one name next to each other.
                    for (name, _) in &sent {
                        let name = name.as_bytes();
                        let expected = sent.iter().filter(|(n, _)| n.as_bytes() == name);
                        let expected: Vec<_> = expected.map(|(_, v)| v.as_bytes()).collect();
                        assert_eq!(head.fields.get_all(name).collect::<Vec<_>>(), expected);
                    }
                    assert_eq!(head.fields.len(), sent.len());
                    let End { http2, out, .. } = &mut server.end;
                    http2.respond(StreamId(id), &ok(), true, out).unwrap();
                }
            }
            client.await.unwrap();
        });
    }
}
