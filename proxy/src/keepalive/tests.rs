//! Is a peer that is gone noticed, and an unused session closed, in both roles?

use std::future::pending;

use isthmus_proxy_core::http2::{Connection, ErrorCode, Role, Settings};
use isthmus_proxy_core::message::Fields;
use tokio::io::AsyncWriteExt;
use tokio::task::{LocalSet, yield_now};

use super::*;
use crate::transport::Transport;
use crate::worker::tests::{pair, post};

/// SECURITY: a peer that is gone is noticed within this.
const NOTICED_MAX: Duration = Duration::from_secs(10);

async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// A server's session, and a client's that has a stream open there.
async fn connected() -> (Rc<Session>, Rc<Session>) {
    let (near, far) = pair().await;
    let client = Session::start(Transport::Plain(near), Role::Client, Settings::default());
    let server = Session::start(Transport::Plain(far), Role::Server, Settings::default());
    let (rx, tx) = client
        .open(&post(Fields::default()), false, Duration::from_secs(9))
        .await
        .unwrap();
    let accepted = server.accept().await.unwrap();
    // Both halves stay open, as those of a stream that waits do.
    tokio::task::spawn_local(async move {
        let _held = (rx, tx, accepted);
        pending::<()>().await;
    });
    (client, server)
}

/// A server's session with a stream of a peer that does not end and does not answer: its host is
/// gone, as far as we can see.
async fn vanished() -> (Rc<Session>, TcpStream) {
    let (near, mut far) = pair().await;
    let session = Session::start(Transport::Plain(near), Role::Server, Settings::default());
    let mut said = Vec::new();
    let mut speaker = Connection::new(Role::Client, Settings::default(), &mut said);
    speaker
        .open(&post(Fields::default()), false, &mut said)
        .unwrap();
    far.write_all(&said).await.unwrap();
    (session, far)
}

#[tokio::test]
async fn a_vanished_peer_of_a_tunnel_is_noticed_by_the_one_who_was_called() {
    LocalSet::new()
        .run_until(async {
            let (session, _far) = vanished().await;
            let (head, rx, tx) = session.accept().await.unwrap();
            assert_eq!(head.path, b"/");
            let keepalive = Keepalive::default();
            keepalive.watch(&session, Keep::Peer);
            let mut looks = 0;
            while !session.is_closed() {
                looks += 1;
                assert!(LOOK * looks <= NOTICED_MAX, "after {looks} looks");
                keepalive.look();
                settle().await;
            }
            assert_eq!(tx.broken().await.code(), ErrorCode::Cancel);
            drop((rx, tx));
            assert!(session.accept().await.is_none(), "nothing is kept of it");
            assert!(keepalive.kept.borrow().is_empty());
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_answers_is_kept_however_long_it_is_silent() {
    LocalSet::new()
        .run_until(async {
            for keep in [Keep::Tunnel, Keep::Peer] {
                let (client, server) = connected().await;
                let watched = if keep == Keep::Peer { &server } else { &client };
                let keepalive = Keepalive::default();
                keepalive.watch(watched, keep);
                for look in 0..200 {
                    keepalive.look();
                    // The answer to a PING takes a few turns of both sides.
                    while !watched.is_closed() && watched.awaits_pong() {
                        yield_now().await;
                    }
                    assert!(!watched.is_closed(), "{keep:?} after {look} looks");
                }
                client.close();
                server.close();
            }
        })
        .await;
}

#[tokio::test]
async fn a_session_without_streams_ends_in_the_end() {
    LocalSet::new()
        .run_until(async {
            for (keep, limit) in [
                (Keep::Tunnel, Duration::from_secs(300)),
                (Keep::Upstream, Duration::from_secs(300)),
                (Keep::Peer, Duration::from_secs(3600)),
                (Keep::Client, Duration::from_secs(3600)),
            ] {
                let (near, far) = pair().await;
                let client =
                    Session::start(Transport::Plain(near), Role::Client, Settings::default());
                let server =
                    Session::start(Transport::Plain(far), Role::Server, Settings::default());
                let watched = match keep {
                    Keep::Tunnel | Keep::Upstream => &client,
                    Keep::Peer | Keep::Client => &server,
                };
                let keepalive = Keepalive::default();
                keepalive.watch(watched, keep);
                settle().await;
                let mut looks = 0;
                while !watched.is_closed() {
                    looks += 1;
                    keepalive.look();
                    while !watched.is_closed() && watched.awaits_pong() {
                        yield_now().await;
                    }
                    assert!(LOOK * looks <= limit + LOOK * LEAVING_LOOKS, "{keep:?}");
                    assert!(
                        watched.is_usable() || LOOK * looks >= limit,
                        "{keep:?} too early"
                    );
                }
                client.close();
                server.close();
            }
        })
        .await;
}

/// O9: what a slow client may begin.
#[tokio::test]
async fn what_is_begun_and_not_ended_ends_the_session() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    // The head of a HEADERS frame of seven bytes: without an end, of a whole block.
    const OPEN: &[u8] = b"\0\0\x07\x01\0\0\0\0\x01";
    const WHOLE: &[u8] = b"\0\0\x07\x01\x04\0\0\0\x01";
    // POST http / and an authority of two letters.
    const FIELDS: &[u8] = b"\x83\x86\x84\x41\x02ab";
    // Of ten bytes of content, three.
    const CONTENT: &[u8] = b"\0\0\x0a\0\0\0\0\0\x01abc";
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // The head of a CONTINUATION without an end, of nothing.
    const MORE: &[u8] = b"\0\0\0\x09\0\0\0\0\x01";
    LocalSet::new()
        .run_until(async {
            for (begun, drips, ends) in [
                (vec![], &b""[..], true),
                (vec![PREFACE], b"", true),
                (vec![PREFACE, SETTINGS], b"", false),
                (vec![PREFACE, SETTINGS, &SETTINGS[..5]], b"", true),
                (vec![PREFACE, SETTINGS, WHOLE, &FIELDS[..3]], b"", true),
                (vec![PREFACE, SETTINGS, OPEN, FIELDS], b"", true),
                (vec![PREFACE, SETTINGS, OPEN, FIELDS], MORE, true),
                (vec![PREFACE, SETTINGS, WHOLE, FIELDS, CONTENT], b"", false),
                // Who asks often is always about to ask.
                (
                    vec![PREFACE, SETTINGS, &SETTINGS[..5]],
                    b"\0\0\0\0\0\0\0\x04\0",
                    false,
                ),
            ] {
                let (near, mut far) = pair().await;
                let session =
                    Session::start(Transport::Plain(near), Role::Server, Settings::default());
                let keepalive = Keepalive::default();
                keepalive.watch(&session, Keep::Client);
                far.write_all(&begun.concat()).await.unwrap();
                settle().await;
                for _ in 0..=UNFINISHED_LOOKS + 1 {
                    // One that has ended is not written to.
                    let _ = far.write_all(drips).await;
                    settle().await;
                    keepalive.look();
                }
                assert_eq!(session.is_closed(), ends, "{begun:?} {drips:?}");
                session.close();
            }
        })
        .await;
}

/// gRPC servers cut clients that ask more than once in five minutes.
#[tokio::test]
async fn an_application_is_never_asked() {
    LocalSet::new()
        .run_until(async {
            let (client, server) = connected().await;
            let keepalive = Keepalive::default();
            keepalive.watch(&client, Keep::Upstream);
            for _ in 0..10 {
                keepalive.look();
                assert!(!client.awaits_pong());
            }
            assert!(!client.is_closed() && !server.is_closed());
        })
        .await;
}

#[tokio::test]
async fn a_host_without_a_proxy_is_asked_by_tcp() {
    let (near, _far) = pair().await;
    ask_by_tcp(&near);
    let socket = SockRef::from(&near);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), LOOK);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE_MAX));
}
