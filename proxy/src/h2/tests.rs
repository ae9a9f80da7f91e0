//! Does one stream hold up another, and is what waits for the socket bounded?

use std::cell::Cell;

use isthmus_proxy_core::message::{BodyLength, Fields, ResponseHead};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};

use super::*;
use crate::stream::Pull;
use crate::worker::tests::{pair, post};

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn asking(cookie: usize) -> RequestHead {
    let mut fields = Fields::default();
    fields.push(b"cookie", &vec![b'c'; cookie]);
    post(fields)
}

/// A connection on which little waits in the kernel.
async fn tight_pair() -> (TcpStream, TcpStream) {
    let (near, far) = pair().await;
    for io in [&near, &far] {
        let socket = SockRef::from(io);
        socket.set_send_buffer_size(32 * 1024).unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
    }
    (near, far)
}

async fn sessions(server: Settings) -> (Rc<Session>, Rc<Session>) {
    let (near, far) = pair().await;
    let client = Session::start(Transport::Plain(near), Role::Client, Settings::default());
    let server = Session::start(Transport::Plain(far), Role::Server, server);
    (client, server)
}

#[tokio::test]
async fn who_gives_up_waiting_takes_nobodys_turn() {
    let test = async {
        let one = Settings {
            max_concurrent_streams: 1,
            ..Settings::default()
        };
        let (client, server) = sessions(one).await;
        let first = client.open(&asking(1), false, SOON).await.unwrap();
        let taken = server.accept().await.unwrap();
        while !client.is_full() {
            yield_now().await;
        }
        // Its task lives on, as one does that takes the next request.
        let (other, gone) = (Rc::clone(&client), Rc::new(Cell::new(false)));
        let told = Rc::clone(&gone);
        spawn_local(async move {
            let opened = other
                .open(&asking(1), false, Duration::from_millis(10))
                .await;
            told.set(matches!(opened, Err(Broken::Timeout)));
            std::future::pending::<()>().await;
        });
        let third = Rc::clone(&client);
        let waits =
            spawn_local(async move { third.open(&asking(1), true, SOON * 2).await.is_ok() });
        while !gone.get() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop((first, taken));
        assert!(timeout(SOON, waits).await.expect("its turn").unwrap());
    };
    LocalSet::new().run_until(test).await;
}

/// Pushes until nothing more is taken, or so many bytes have gone; counts them.
async fn push(tx: &mut StreamTx, bytes: usize, sent: &Cell<usize>) {
    let mut left = bytes;
    while left > 0 {
        let Ok(room) = tx.ready().await else { return };
        let now = room.min(left);
        tx.push(&vec![7; now]);
        left -= now;
        sent.set(sent.get() + now);
    }
}

/// Reads so many bytes, or until it ends.
async fn read(rx: &mut StreamRx, bytes: usize) -> usize {
    let mut got = 0;
    while got < bytes {
        match rx.try_pull(usize::MAX, &mut |data| got += data.len()) {
            Ok(Pull::Empty) => rx.wait().await.unwrap(),
            Ok(Pull::Data) => {}
            Ok(Pull::End(_)) | Err(_) => break,
        }
    }
    got
}

/// Until the number stops growing for many turns of everybody.
async fn settled(number: impl Fn() -> usize) -> usize {
    let (mut last, mut turns) = (number(), 0);
    while turns < 500 {
        yield_now().await;
        turns += 1;
        if number() != last {
            (last, turns) = (number(), 0);
        }
    }
    last
}

/// Sockets of both ends have to be polled for that, too.
async fn settled_over_sockets(number: impl Fn() -> usize) -> usize {
    let mut last = settled(&number).await;
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = settled(&number).await;
        if now == last {
            return last;
        }
        last = now;
    }
}

#[tokio::test]
async fn streams_whose_own_window_is_used_up_take_no_wake_ups_from_others() {
    const STUCK: usize = 3 * 8;
    const BODY: usize = 8 * 1024 * 1024;
    let test = async {
        // Windows far larger than what waits for the socket.
        let (client, server) = sessions(Settings {
            initial_window: 512 * 1024,
            ..Settings::default()
        })
        .await;
        let sent = Rc::new(Cell::new(0));
        let mut held = Vec::new();
        for _ in 0..STUCK {
            let (rx, mut tx) = client.open(&asking(1), false, SOON).await.unwrap();
            held.push((rx, server.accept().await.unwrap()));
            let sent = Rc::clone(&sent);
            spawn_local(async move { push(&mut tx, BODY, &sent).await });
        }
        settled_over_sockets(|| sent.get()).await;
        let (_rx, mut tx) = client.open(&asking(1), false, SOON).await.unwrap();
        let (_, mut reader, _answer) = server.accept().await.unwrap();
        let reading = spawn_local(async move { read(&mut reader, BODY).await });
        push(&mut tx, BODY, &Cell::new(0)).await;
        assert_eq!(reading.await.unwrap(), BODY);
    };
    timeout(SOON, LocalSet::new().run_until(test))
        .await
        .expect("the neighbour is not held up");
}

/// Who waits in line and leaves must not take the turn of those behind.
#[tokio::test]
async fn a_wake_up_for_one_who_has_left_is_not_lost() {
    let test = async {
        let (near, far) = tight_pair().await;
        let session = Session::start(Transport::Plain(near), Role::Client, Settings::default());
        let mut tasks = JoinSet::new();
        let opened = Rc::new(Cell::new(0));
        for _ in 0..60 {
            let (session, opened) = (Rc::clone(&session), Rc::clone(&opened));
            tasks.spawn_local(async move {
                let stream = session.open(&asking(50_000), true, SOON).await.unwrap();
                opened.set(opened.get() + 1);
                std::future::pending::<()>().await;
                drop(stream);
            });
        }
        let before = settled_over_sockets(|| opened.get()).await;
        assert!(before < 60 - 16, "they wait for room: {before}");
        // The first in line leave.
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        let head = asking(1);
        let opening = session.open(&head, true, SOON);
        let reading = spawn_local(rest(far));
        let opened = opening.await;
        assert!(opened.is_ok(), "{:?}", opened.err());
        session.close();
        reading.await.unwrap();
    };
    timeout(SOON, LocalSet::new().run_until(test))
        .await
        .expect("its turn comes");
}

async fn rest(mut io: TcpStream) {
    crate::worker::tests::rest(&mut io).await;
}

/// What waits for the socket: what leaves in two pieces, and one head beyond.
fn waiting_max(session: &Session) -> usize {
    session.burst * BURSTS_MAX + 80 * 1024
}

fn waiting(session: &Session) -> usize {
    let state = session.state.borrow();
    state.out.len() + state.writing
}

#[tokio::test]
async fn heads_of_answers_wait_for_a_peer_that_does_not_read() {
    const STREAMS: usize = 300;
    let test = async {
        let (mut near, far) = tight_pair().await;
        let settings = || Settings {
            max_concurrent_streams: 4096,
            ..Settings::default()
        };
        let server = Session::start(Transport::Plain(far), Role::Server, settings());
        let mut out = Vec::new();
        let mut peer = Connection::new(Role::Client, Settings::default(), &mut out);
        // It has heard how many it may open, and then reads no more.
        let mut said = Vec::new();
        let _speaker = Connection::new(Role::Server, settings(), &mut said);
        assert!(peer.decode(&mut said.as_slice(), &mut out).is_ok());
        for _ in 0..STREAMS {
            peer.open(&asking(1), true, &mut out).unwrap();
        }
        near.write_all(&out).await.unwrap();
        let answered = Rc::new(Cell::new(0));
        for _ in 0..STREAMS {
            let (_, rx, mut tx) = server.accept().await.unwrap();
            let answered = Rc::clone(&answered);
            spawn_local(async move {
                let mut head = ResponseHead::new(200, BodyLength::Empty);
                head.fields.push(b"set-cookie", &vec![b'c'; 50_000]);
                if tx.respond(&head, true).await.is_ok() {
                    answered.set(answered.get() + 1);
                }
                drop(rx);
            });
        }
        settled_over_sockets(|| answered.get()).await;
        let (waits, most) = (waiting(&server), waiting_max(&server));
        assert!(waits <= most, "{waits} bytes wait, of {most}");
        assert!(answered.get() < STREAMS, "the others wait");
        // It reads on: all get their answers.
        let reading = spawn_local(rest(near));
        while answered.get() < STREAMS {
            yield_now().await;
        }
        server.close();
        reading.await.unwrap();
    };
    timeout(SOON, LocalSet::new().run_until(test))
        .await
        .expect("all are answered");
}

#[tokio::test]
async fn heads_of_requests_wait_for_a_peer_that_does_not_read() {
    const STREAMS: usize = 100;
    let test = async {
        let (near, _far) = tight_pair().await;
        let client = Session::start(Transport::Plain(near), Role::Client, Settings::default());
        let mut opening = JoinSet::new();
        for _ in 0..STREAMS {
            let client = Rc::clone(&client);
            opening.spawn_local(async move {
                let limit = Duration::from_secs(1);
                client.open(&asking(50_000), true, limit).await
            });
        }
        let (mut opened, mut late) = (Vec::new(), 0);
        while let Some(result) = opening.join_next().await {
            let (waits, most) = (waiting(&client), waiting_max(&client));
            assert!(waits <= most, "{waits} bytes wait, of {most}");
            match result.unwrap() {
                Ok(stream) => opened.push(stream),
                Err(Broken::Timeout) => late += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(late > 0 && !opened.is_empty(), "{late} of {STREAMS} waited");
    };
    timeout(SOON, LocalSet::new().run_until(test))
        .await
        .expect("none waits longer than it may");
}

/// SECURITY 4: what nobody reads costs its own room, and no one else's.
#[tokio::test]
async fn unread_streams_hold_up_none_of_their_neighbours() {
    const BODY: usize = 4 * 1024 * 1024;
    let test = async {
        for (settings, unread) in [
            (Settings::default(), 99),
            (crate::tunnel::settings(4096), 1_000),
        ] {
            let base = usize::try_from(settings.initial_window).unwrap();
            let growth = usize::try_from(settings.growth_max).unwrap();
            let (client, server) = sessions(settings).await;
            let sent = Rc::new(Cell::new(0));
            let mut held = Vec::new();
            for _ in 0..unread {
                let (rx, mut tx) = client.open(&asking(1), false, SOON).await.unwrap();
                held.push((rx, server.accept().await.unwrap()));
                let sent = Rc::clone(&sent);
                spawn_local(async move { push(&mut tx, BODY, &sent).await });
            }
            let taken = settled_over_sockets(|| sent.get()).await;
            assert!(taken <= unread * base + growth, "{taken} bytes are held");
            assert!(taken >= unread * base, "{taken}: each has its own room");
            let (_rx, mut tx) = client.open(&asking(1), false, SOON).await.unwrap();
            let (_, mut reader, _answer) = server.accept().await.unwrap();
            let reading = spawn_local(async move { read(&mut reader, BODY).await });
            push(&mut tx, BODY, &Cell::new(0)).await;
            assert_eq!(reading.await.unwrap(), BODY);
            client.close();
        }
    };
    timeout(2 * SOON, LocalSet::new().run_until(test))
        .await
        .expect("the neighbour is not held up");
}
