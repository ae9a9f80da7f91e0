//! Does each answer belong to its request, whatever the application does? (SECURITY S19)
//!
//! Ten thousand requests, many at once, to an application that breaks off, contradicts itself or
//! answers twice every other time. What a client is given as a whole answer names its own request.
//!
//! An answer too many is sent together with the one before it. One that comes while another request is
//! under way on its connection could not be told from an answer by anybody.

use hyper::Request;
use isthmus_tests::client::full;
use isthmus_tests::{App, Client, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::faults::where_every_answer_counts;

const REQUESTS: usize = 10_000;
/// Clients, half of them with HTTP/1.1, half of them with HTTP/2.
const CALLERS: usize = 24;
/// Requests that a client with HTTP/2 makes at once.
const AT_ONCE: usize = 4;

/// What is said to a request. `None` behind it: the connection is closed.
fn answer(id: &str, way: usize) -> (String, Option<()>) {
    let head = format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\n");
    let length = id.len();
    let good = format!("{head}content-length: {length}\r\n\r\n{id}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let (size, half) = (format!("{length:x}"), &id[..length / 2]);
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let said = match way {
        0 => format!("{good}{evil}"),
        1 => format!("{good}{good}"),
        2 => return (String::new(), None),
        3 => {
            return (
                format!("{head}content-length: {length}\r\n\r\n{half}"),
                None,
            );
        }
        4 => return (format!("{chunked}{size}\r\n{half}"), None),
        5 => format!("{head}content-length: {length}\r\ncontent-length: 4\r\n\r\n{id}{evil}"),
        6 => format!(
            "{head}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{size}\r\n{id}\r\n0\r\n\r\n"
        ),
        7 => format!("{chunked}{size}\r\n{id}\r\n0\r\ncontent-length: 4\r\nx-end: {id}\r\n\r\n"),
        8 => format!("{chunked}{size}\r\n{id}\r\n0\r\n\r\n{evil}"),
        9 => format!("{chunked}{size}\r\n{id}evil\r\n0\r\n\r\n"),
        10 => format!("HTTP/1.1 103 Early Hints\r\nx-id: {id}\r\n\r\n{good}"),
        11 => format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\n\r\n{evil}"),
        12 => format!("HTTP/1.1 204 No Content\r\nx-id: {id}\r\n\r\n{evil}"),
        13 => format!("{evil}\r\n{good}").replace("200", "2000"),
        14 => return (format!("{head}\r\n{id}"), None),
        15 => format!("HTTP/1.1 304 Not Modified\r\nx-id: {id}\r\ncontent-length: 4\r\n\r\n{evil}"),
        _ => good,
    };
    (said, Some(()))
}

/// Every second answer is a good one: connections are kept, and given to the next.
const WAYS: usize = 32;

async fn serve(mut io: TcpStream) {
    let mut read = String::new();
    loop {
        let end = loop {
            if let Some(end) = whole(&read) {
                break end;
            }
            let mut space = [0; 4096];
            let Ok(n @ 1..) = io.read(&mut space).await else {
                return;
            };
            read += &String::from_utf8_lossy(&space[..n]);
        };
        let id = asked(&read[..end]);
        read.drain(..end);
        let way = id.trim_start_matches(|c: char| !c.is_ascii_digit());
        let (said, kept) = answer(&id, way.parse::<usize>().unwrap_or(WAYS) % WAYS);
        if io.write_all(said.as_bytes()).await.is_err() || kept.is_none() {
            return;
        }
    }
}

/// Where the first request ends.
fn whole(read: &str) -> Option<usize> {
    let head = read.find("\r\n\r\n")? + 4;
    let length = field(read.get(..head)?, "content-length").map_or(0, |n| n.parse().unwrap());
    (read.len() >= head + length).then_some(head + length)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    lines
        .filter(|(said, _)| *said == name)
        .map(|(_, value)| value)
        .next()
}

/// What a request is known by: its target, and its content where it has one.
fn asked(request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let path = head.split(' ').nth(1).unwrap();
    format!("{}{body}", path.trim_start_matches('/'))
}

/// What came of all requests of one caller.
#[derive(Debug, Default)]
struct Tally {
    whole: usize,
    failed: usize,
    crossed: Vec<String>,
}

impl Tally {
    fn add(&mut self, id: &str, got: anyhow::Result<Reply>) {
        let Ok(reply) = got else {
            // Broken off: half an answer is no answer.
            self.failed += 1;
            return;
        };
        let ends = reply.trailers.get("x-end").is_none_or(|end| end == id);
        let (said, named) = (reply.text(), reply.field("x-id").to_owned());
        let right = match reply.status {
            200 => said == id && named == id && ends,
            204 | 304 => said.is_empty() && named == id,
            // What the mesh says itself.
            502..=504 => named.is_empty() && !reply.reason().is_empty(),
            _ => false,
        };
        if !right {
            let (status, trailers) = (reply.status, reply.trailers);
            let what = format!("{id}: {status} {named:?} {said:?} {trailers:?}");
            self.crossed.push(what);
        } else if reply.status < 400 {
            self.whole += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// The request of this number: with content or without.
fn request(client: &Client, number: usize) -> (String, Request<isthmus_tests::client::Content>) {
    let (method, path, body) = match number % 3 {
        0 => ("POST", "post-".to_owned(), number.to_string()),
        _ => ("GET", format!("get-{number}"), String::new()),
    };
    let uri = format!("http://{}/{path}", client.host());
    let builder = Request::builder().method(method).uri(uri);
    let builder = builder.header("host", client.host());
    let id = format!("{path}{body}");
    (id, builder.body(full(body)).unwrap())
}

async fn call(client: Client, numbers: Vec<usize>, http2: bool) -> Tally {
    let mut tally = Tally::default();
    if !http2 {
        for number in numbers {
            let (id, request) = request(&client, number);
            tally.add(&id, client.send(request).await);
        }
        return tally;
    }
    let sender = client.http2().await.unwrap();
    for some in numbers.chunks(AT_ONCE) {
        let mut calls = tokio::task::JoinSet::new();
        for number in some {
            let (id, request) = request(&client, *number);
            let mut sender = sender.clone();
            calls.spawn(async move {
                let got = async { Reply::read(sender.send_request(request).await?).await };
                (id, got.await)
            });
        }
        while let Some(called) = calls.join_next().await {
            let (id, got) = called.unwrap();
            tally.add(&id, got);
        }
    }
    tally
}

#[tokio::test]
async fn ten_thousand_answers_are_each_given_to_who_asked() {
    let evil = App::custom(|io, _| serve(io));
    let mesh = where_every_answer_counts(&evil).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let client = mesh.client("east/web").http("cart");
        let numbers = (0..REQUESTS).filter(|n| n % CALLERS == caller).collect();
        callers.spawn(call(client, numbers, caller % 2 == 0));
    }
    let mut all = Tally::default();
    while let Some(tally) = callers.join_next().await {
        let tally = tally.unwrap();
        all.whole += tally.whole;
        all.failed += tally.failed;
        all.crossed.extend(tally.crossed);
    }
    assert!(all.crossed.is_empty(), "{:?}", all.crossed);
    assert_eq!(all.whole + all.failed, REQUESTS);
    let kept = mesh.app("west/cart-1").record.accepts();
    assert!(
        all.whole > REQUESTS / 2 && all.failed > REQUESTS / 8 && kept < REQUESTS / 2,
        "{} whole, {} failed, {kept} connections",
        all.whole,
        all.failed
    );
}
