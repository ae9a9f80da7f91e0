//! Do two ends that do anything at all keep every byte, in order, within the windows?

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One thing that one end does. Numbers pick a stream, or say how much.
#[derive(Debug, Clone)]
enum Act {
    Open {
        end: bool,
    },
    Respond {
        stream: usize,
        end: bool,
    },
    Data {
        from_client: bool,
        stream: usize,
        bytes: usize,
        end: bool,
    },
    Trailers {
        from_client: bool,
        stream: usize,
    },
    Reset {
        from_client: bool,
        stream: usize,
    },
    Consume {
        by_client: bool,
    },
    Deliver {
        to_client: bool,
        bytes: usize,
    },
    Ping {
        from_client: bool,
    },
}

fn any_act() -> impl Strategy<Value = Act> {
    let side = any::<bool>();
    prop_oneof![
        3 => any::<bool>().prop_map(|end| Act::Open { end }),
        3 => (0..8_usize, any::<bool>()).prop_map(|(stream, end)| Act::Respond { stream, end }),
        8 => (side, 0..8_usize, 0..60_000_usize, prop::bool::weighted(0.2))
            .prop_map(|(from_client, stream, bytes, end)| Act::Data { from_client, stream, bytes, end }),
        1 => (side, 0..8_usize).prop_map(|(from_client, stream)| Act::Trailers { from_client, stream }),
        1 => (side, 0..8_usize).prop_map(|(from_client, stream)| Act::Reset { from_client, stream }),
        4 => side.prop_map(|by_client| Act::Consume { by_client }),
        9 => (side, 0..40_000_usize).prop_map(|(to_client, bytes)| Act::Deliver { to_client, bytes }),
        1 => side.prop_map(|from_client| Act::Ping { from_client }),
    ]
}

/// What one end knows of one stream.
#[derive(Debug, Default)]
struct Log {
    sent: usize,
    sent_end: bool,
    received: usize,
    received_end: bool,
    reset: bool,
    owed: usize,
}

struct Player {
    end: End,
    logs: BTreeMap<u32, Log>,
    /// Bytes that left the peer and have not arrived.
    wire: Vec<u8>,
    /// All that it ever wrote.
    said: Vec<u8>,
}

impl Player {
    fn new(role: Role, window: u32) -> Self {
        let settings = Settings {
            initial_window: window,
            connection_window: 100_000,
            ..Settings::default()
        };
        Self {
            end: End::new(role, settings),
            logs: BTreeMap::new(),
            wire: Vec::new(),
            said: Vec::new(),
        }
    }

    fn id(&self, stream: usize) -> Option<StreamId> {
        self.logs
            .keys()
            .nth(stream % self.logs.len().max(1))
            .map(|id| StreamId(*id))
    }

    /// Byte k of every body says k, so that order shows.
    fn send(&mut self, stream: usize, bytes: usize, end: bool) {
        let Some(id) = self.id(stream) else { return };
        let log = self.logs.get_mut(&id.get()).unwrap();
        let content: Vec<u8> = (log.sent..log.sent + bytes)
            .map(|k| u8::try_from(k % 251).unwrap())
            .collect();
        let room = self.end.http2.capacity(id);
        if let Ok(taken) = self.end.http2.data(id, &content, end, &mut self.end.out) {
            assert_eq!(taken, room.min(bytes));
            log.sent += taken;
            log.sent_end |= end && taken == bytes;
        }
    }

    fn receive(&mut self, bytes: usize) {
        let arrived: Vec<u8> = self.wire.drain(..bytes.min(self.wire.len())).collect();
        let mut seen = Vec::new();
        self.end
            .feed_to(&arrived, &mut seen)
            .expect("honest peers are never cut");
        for event in seen {
            match event {
                Seen::Request(id, _, end) => {
                    self.logs.insert(
                        id,
                        Log {
                            received_end: end,
                            ..Log::default()
                        },
                    );
                }
                Seen::Response(id, _, end) => self.logs.get_mut(&id).unwrap().received_end |= end,
                Seen::Data(id, content, end) => {
                    let log = self.logs.get_mut(&id).unwrap();
                    assert!(!log.received_end && !log.reset);
                    for byte in &content {
                        assert_eq!(*byte, u8::try_from(log.received % 251).unwrap());
                        log.received += 1;
                    }
                    log.owed += content.len();
                    log.received_end = end;
                }
                Seen::Trailers(id, _) => self.logs.get_mut(&id).unwrap().received_end = true,
                Seen::Reset(id, _, by_peer) => {
                    assert!(by_peer, "honest peers break no rule");
                    self.logs.get_mut(&id).unwrap().reset = true;
                }
                Seen::Writable(_) | Seen::Settings | Seen::Pong(_) => {}
                Seen::Refused(..) | Seen::GoAway(..) => panic!("{event:?}"),
            }
        }
    }

    fn consume(&mut self) {
        for (id, log) in &mut self.logs {
            let owed = std::mem::take(&mut log.owed);
            self.end
                .http2
                .consumed(StreamId(*id), owed, &mut self.end.out);
        }
    }
}

struct Table {
    client: Player,
    server: Player,
}

impl Table {
    fn new(window: u32) -> Self {
        Self {
            client: Player::new(Role::Client, window),
            server: Player::new(Role::Server, window),
        }
    }

    fn side(&mut self, client: bool) -> &mut Player {
        if client {
            &mut self.client
        } else {
            &mut self.server
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Open { end } => {
                let player = &mut self.client;
                if let Ok(id) = player.end.http2.open(&get("/"), end, &mut player.end.out) {
                    player.logs.insert(
                        id.get(),
                        Log {
                            sent_end: end,
                            ..Log::default()
                        },
                    );
                }
            }
            Act::Respond { stream, end } => {
                let player = &mut self.server;
                let Some(id) = player.id(stream) else { return };
                if player
                    .end
                    .http2
                    .respond(id, &ok(), end, &mut player.end.out)
                    .is_ok()
                {
                    player.logs.get_mut(&id.get()).unwrap().sent_end |= end;
                }
            }
            Act::Data {
                from_client,
                stream,
                bytes,
                end,
            } => {
                self.side(from_client).send(stream, bytes, end);
            }
            Act::Trailers {
                from_client,
                stream,
            } => {
                let player = self.side(from_client);
                let Some(id) = player.id(stream) else { return };
                let mut fields = Fields::default();
                fields.push(b"grpc-status", b"0");
                if player
                    .end
                    .http2
                    .trailers(id, &fields, &mut player.end.out)
                    .is_ok()
                {
                    player.logs.get_mut(&id.get()).unwrap().sent_end = true;
                }
            }
            Act::Reset {
                from_client,
                stream,
            } => {
                let player = self.side(from_client);
                let Some(id) = player.id(stream) else { return };
                player
                    .end
                    .http2
                    .reset(id, ErrorCode::Cancel, &mut player.end.out);
                player.logs.get_mut(&id.get()).unwrap().reset = true;
            }
            Act::Consume { by_client } => self.side(by_client).consume(),
            Act::Deliver { to_client, bytes } => self.deliver(to_client, bytes),
            Act::Ping { from_client } => {
                let player = self.side(from_client);
                player.end.http2.ping([1; 8], &mut player.end.out);
            }
        }
    }

    fn deliver(&mut self, to_client: bool, bytes: usize) {
        let from = self.side(!to_client);
        let out = std::mem::take(&mut from.end.out);
        from.end.http2.flushed();
        from.said.extend_from_slice(&out);
        let to = self.side(to_client);
        to.wire.extend_from_slice(&out);
        to.receive(bytes);
    }

    /// Everything that was begun is finished, and everything arrives.
    fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "it never ends");
            for client in [true, false] {
                self.deliver(client, usize::MAX);
                self.side(client).consume();
                let streams = self.side(client).logs.len();
                for k in 0..streams {
                    self.act(&Act::Respond {
                        stream: k,
                        end: false,
                    });
                    self.side(client).send(k, 0, true);
                }
            }
            let quiet = |p: &Player| p.wire.is_empty() && p.end.out.is_empty();
            if quiet(&self.client) && quiet(&self.server) {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn two_ends_keep_every_byte(
        acts in proptest::collection::vec(any_act(), 1..120),
        window in prop_oneof![Just(1_u32), 100..70_000_u32, Just(262_144)],
    ) {
        let mut table = Table::new(window);
        for act in &acts {
            table.act(act);
        }
        table.finish();
        prop_assert_eq!(table.client.end.http2.open_streams(), 0);
        prop_assert_eq!(table.server.end.http2.open_streams(), 0);
        for (id, ours) in &table.client.logs {
            let Some(theirs) = table.server.logs.get(id) else { prop_assert!(ours.reset); continue };
            if !ours.reset && !theirs.reset {
                prop_assert_eq!((ours.sent, theirs.sent), (theirs.received, ours.received));
                prop_assert!(ours.received_end && theirs.received_end);
            }
        }
        prop_assert_eq!(table.client.end.http2.counters().stream_errors, 0);
        prop_assert_eq!(table.server.end.http2.counters().stream_errors, 0);
        // Nothing of the connection's window was lost: a stream can still fill all of it.
        let client = &mut table.client.end;
        let id = client.http2.open(&get("/"), false, &mut client.out).unwrap();
        prop_assert!(client.http2.capacity(id) >= usize::try_from(window.min(50_000)).unwrap());
    }

    #[test]
    fn pieces_of_bytes_make_the_same_events(
        acts in proptest::collection::vec(any_act(), 1..60),
        cuts in proptest::collection::vec(1..3_000_usize, 1..50),
    ) {
        // What a client writes, once whole and once in pieces, to two servers.
        let mut table = Table::new(262_144);
        for act in &acts {
            table.act(act);
        }
        table.deliver(false, 0);
        let bytes = table.client.said;
        let whole = merged(|server, seen| server.feed_to(&bytes, seen));
        let mut cuts = cuts.into_iter().cycle();
        let parts = merged(|server, seen| {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                server.feed_to(piece, seen)?;
                rest = after;
            }
            Ok(())
        });
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        frames in proptest::collection::vec(
            (0..11_u8, any::<u8>(), 0..6_u32, proptest::collection::vec(any::<u8>(), 0..60)), 0..40),
        noise in proptest::collection::vec(any::<u8>(), 0..100),
        server in any::<bool>(),
    ) {
        let mut end = if server { End::server() } else { End::client() };
        if !server {
            end.http2.open(&get("/"), false, &mut end.out).unwrap();
            end.http2.open(&get("/"), false, &mut end.out).unwrap();
        }
        for (kind, flags, stream, payload) in frames {
            // Heads that can be read lead deeper than noise.
            let payload = match kind {
                1 if server => block(GET),
                1 => block(OK),
                _ => payload,
            };
            if end.feed(&raw(kind, flags & !0x28, stream, &payload)).is_err() {
                break;
            }
            let first = end.http2.streams.values_mut().next().map(|(id, _)| id);
            if let Some(id) = first {
                let _ = end.http2.respond(StreamId(id), &ok(), flags & 64 != 0, &mut end.out);
                let _ = end.http2.data(StreamId(id), &[0; 100], flags & 128 != 0, &mut end.out);
            }
        }
        let _ = end.feed(&noise);
        frames_of(&end.out);
    }
}

type Outcome = (Vec<Seen>, Result<(), ConnectionError>, Vec<u8>);

/// The events, with neighbouring pieces of one stream's DATA as one.
fn merged(feed: impl FnOnce(&mut End, &mut Vec<Seen>) -> Result<(), ConnectionError>) -> Outcome {
    let mut server = End::new(Role::Server, Settings::default());
    let mut seen = Vec::new();
    let done = feed(&mut server, &mut seen);
    let mut events: Vec<Seen> = Vec::new();
    for event in seen {
        match (events.last_mut(), event) {
            (Some(Seen::Data(a, all, false)), Seen::Data(b, more, end)) if *a == b => {
                all.extend_from_slice(&more);
                if let Some(Seen::Data(_, _, last)) = events.last_mut() {
                    *last = end;
                }
            }
            (_, event) => events.push(event),
        }
    }
    (events, done, server.out)
}
