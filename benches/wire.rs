//! What does it cost to read and to write messages?
//!
//! The same request and answer as the harness in `peers` sends, in each form that they have on
//! their way through two sidecars.

use std::hint::black_box;

use isthmus_benches::{Outcome, ns_each};
use isthmus_proxy_core::http1::{
    Limits, ResponseContext, parse_request, parse_response, write_request, write_response,
};
use isthmus_proxy_core::http2::{Connection, Event, Role, Settings, StreamId};
use isthmus_proxy_core::message::{Method, RequestHead, ResponseHead};

const COUNT: u32 = 200_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 10.77.0.2:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /v1/items/7?page=2 HTTP/1.1\r\nHost: cart.shop.svc.cluster.local\r\n\
user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\naccept: application/json\r\n\
accept-encoding: gzip, deflate, br\r\naccept-language: en-US,en;q=0.9\r\ncookie: session=0123456789abcdef\r\n\
x-request-id: 7f0c2f3a-9a3e-4d38-8c1f-0f6f3a1c2b4d\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
cache-control: no-cache\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 18:00:00 GMT\r\n\
Content-Type: text/plain\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

/// HTTP/1.1 heads read and written, and a whole exchange on both ends of a tunnel.
pub(crate) fn report(row: &mut dyn FnMut(&str, f64)) -> Outcome {
    let limits = Limits::default();
    for (name, bytes) in [("1 field", REQUEST), ("9 fields", BROWSER)] {
        let cost = ns_each(COUNT, || {
            black_box(parse_request(black_box(bytes), &limits)?);
            Ok(())
        });
        row(&format!("HTTP/1.1: read a request of {name}"), cost?);
        let (head, _) = parse_request(bytes, &limits)?.ok_or("not whole")?;
        let mut out = Vec::new();
        let cost = ns_each(COUNT, || {
            out.clear();
            write_request(black_box(&head), &mut out);
            Ok(())
        });
        row(&format!("HTTP/1.1: write a request of {name}"), cost?);
        let cost = ns_each(COUNT, || {
            black_box(black_box(&head).clone());
            Ok(())
        });
        row(&format!("clone a request's head of {name}"), cost?);
    }
    let cost = ns_each(COUNT, || {
        black_box(parse_response(black_box(RESPONSE), &Method::Get, &limits)?);
        Ok(())
    });
    row("HTTP/1.1: read a response", cost?);
    let (request, _) = parse_request(REQUEST, &limits)?.ok_or("not whole")?;
    let (response, _) = parse_response(RESPONSE, &Method::Get, &limits)?.ok_or("not whole")?;
    let (mut out, context) = (Vec::new(), ResponseContext::of(&request));
    let cost = ns_each(COUNT, || {
        out.clear();
        write_response(black_box(&response), &context, &mut out);
        Ok(())
    });
    row("HTTP/1.1: write a response", cost?);
    let mut pair = Pair::new();
    let cost = ns_each(COUNT, || pair.exchange(&request, &response));
    row("HTTP/2: request and response of 1 KiB, both ends", cost?);
    Ok(())
}

/// Both ends of one HTTP/2 connection, without sockets.
struct Pair {
    client: Connection,
    server: Connection,
    /// What the client has written, and what the server has.
    there: Vec<u8>,
    back: Vec<u8>,
    body: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let client = Connection::new(Role::Client, Settings::default(), &mut there);
        let server = Connection::new(Role::Server, Settings::default(), &mut back);
        Self {
            client,
            server,
            there,
            back,
            body: vec![b'x'; 1024],
        }
    }

    fn exchange(&mut self, request: &RequestHead, response: &ResponseHead) -> Outcome {
        self.client
            .open(request, true, &mut self.there)
            .map_err(|e| format!("{e:?}"))?;
        let asked = self.serve()?.ok_or("no request came")?;
        let gone = |_| "the stream is gone";
        self.server
            .respond(asked, response, false, &mut self.back)
            .map_err(gone)?;
        self.server
            .data(asked, &self.body, true, &mut self.back)
            .map_err(gone)?;
        self.take()
    }

    /// The server reads; the stream of the request that came.
    fn serve(&mut self) -> Result<Option<StreamId>, Box<dyn std::error::Error>> {
        let mut asked = None;
        let mut input = self.there.as_slice();
        while let Some(event) = self.server.decode(&mut input, &mut self.back)? {
            if let Event::Request { id, head, .. } = event {
                black_box(head);
                asked = Some(id);
            }
        }
        self.there.clear();
        self.client.flushed();
        Ok(asked)
    }

    /// The client reads the answer, and gives the credit back.
    fn take(&mut self) -> Outcome {
        let mut input = self.back.as_slice();
        while let Some(event) = self.client.decode(&mut input, &mut self.there)? {
            if let Event::Data { id, data, .. } = event {
                self.client.consumed(id, data.len(), &mut self.there);
            }
        }
        self.back.clear();
        self.server.flushed();
        Ok(())
    }
}
