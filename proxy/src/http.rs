//! How are the requests of one connection taken, one after another or many at once?

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::canonical::{self, CanonicalPath};
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http1::Limits;
use isthmus_proxy_core::http2::{ConnectionError, Role, Settings};
use isthmus_proxy_core::message::{
    BodyLength, Method, RequestHead, ResponseHead, Version, is_mesh_field,
};
use tokio::net::TcpStream;

use crate::exchange::{Answer, Downstream, Request, reply};
use crate::finish::Failed;
use crate::h1;
use crate::h2::Session;
use crate::hands::{Hands, caught};
use crate::keepalive::Keep;
use crate::stream::{Broken, Rx, Tx};
use crate::telemetry::Event;
use crate::worker::Worker;

/// Between two requests of a connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3600);

/// ... and when the proxy goes away: who asks once more in this time is told to leave.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Of an ambiguous path: who wrote it knows it, and it is told once more.
const PATH_SHOWN_BYTES_MAX: usize = 256;

/// What the runtime is given to run.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A side of the proxy that takes requests.
pub trait Side {
    /// Takes one request to its end. The downstream comes back if its connection can carry another.
    async fn take(self: Rc<Self>, head: RequestHead, down: Downstream) -> Option<Downstream>;
    /// Does the stream of this head become bytes? It may be idle long then, and gets a task of its own
    /// size; a request is for one of the tasks that take those.
    fn is_bytes(&self, _: &RequestHead) -> bool {
        false
    }
    /// The task of a stream that becomes bytes.
    fn carry(self: Rc<Self>, head: RequestHead, down: Downstream) -> Task
    where
        Self: 'static,
    {
        Box::pin(async move { drop(self.take(head, down).await) })
    }
    /// The tasks that take requests of streams.
    fn hands(&self) -> &Rc<Hands<Self>>
    where
        Self: Sized;
    /// The worker it runs on.
    fn worker(&self) -> &Rc<Worker>;
    /// A request that can't be read, or was lost, has ended with this; `status`: what its client was
    /// told, 0: nothing. The id of the reason.
    fn unreadable(&self, failure: Failure, version: &'static str, status: u16) -> String;
}

/// Serves an HTTP/1 connection whose first bytes are read already.
pub async fn serve_h1(side: Rc<impl Side>, io: TcpStream, first: Vec<u8>) {
    let (mut rx, mut tx) = h1::split(io, first);
    let limits = Limits::default();
    let mut draining = side.worker().shared.draining.clone();
    // One wait for all requests: each would take its place in the list of those who wait.
    let mut drained = pin!(draining.wait_for(|draining| *draining));
    let mut leaving = false;
    loop {
        let idle = if leaving {
            LAST_REQUEST_TIMEOUT
        } else {
            KEEP_ALIVE_TIMEOUT
        };
        let reading = rx.request(&limits, idle);
        let head = tokio::select! {
            biased;
            head = reading => head,
            // Nothing that was read is lost. A client that is about to ask can't see us leave.
            _ = &mut drained, if !leaving => {
                leaving = true;
                continue;
            }
        };
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) | Err(Broken::Reset(_) | Broken::Refused) => return,
            Err(broken @ (Broken::Malformed(_) | Broken::Timeout)) => {
                refuse(&*side, tx, broken.downstream()).await;
                return linger(rx).await;
            }
        };
        let keep_alive = head.keep_alive && !side.worker().is_draining();
        let answer = Answer::new(Tx::H1(tx), &head, keep_alive);
        let down = Downstream {
            rx: Rx::H1(rx),
            answer,
        };
        let Some(down) = Rc::clone(&side).take(head, down).await else {
            return;
        };
        let Downstream {
            rx: Rx::H1(back),
            answer:
                Answer {
                    tx: Tx::H1(mut sink),
                    keep_alive,
                    ..
                },
        } = down
        else {
            return;
        };
        if !keep_alive || !back.is_at_end() {
            sink.close();
            return linger(back).await;
        }
        (rx, tx) = (back, sink);
    }
}

/// Tells a client that its request can't be read, and ends the connection.
async fn refuse(side: &impl Side, tx: h1::H1Tx, failure: Failure) {
    let reason = side.unreadable(failure, "http/1.1", failure.status());
    let head = RequestHead {
        method: Method::Get,
        version: Version::Http11,
        https: false,
        authority: Vec::new(),
        path: Vec::new(),
        protocol: Vec::new(),
        fields: isthmus_proxy_core::message::Fields::default(),
        body: BodyLength::Empty,
        keep_alive: false,
        expects_continue: false,
    };
    let mut answer = Answer::new(Tx::H1(tx), &head, false);
    reply::failure(
        &mut answer,
        failure,
        &reason,
        "the request was not read",
        reply::Listener::default(),
    )
    .await;
    if let Tx::H1(mut tx) = answer.tx {
        tx.close();
    }
}

/// Reads on for a moment after the last answer: closing with unread input would reset the
/// connection, and the client might lose the answer (RFC 9112 §9.6).
async fn linger(mut rx: h1::H1Rx) {
    const LINGER: Duration = Duration::from_secs(1);
    const LINGER_BYTES_MAX: usize = 1024 * 1024;
    let mut rx = {
        rx.forget();
        rx.into_tcp()
    };
    let drain = async {
        let mut seen = 0usize;
        while seen < LINGER_BYTES_MAX {
            match rx.try_pull(LINGER_BYTES_MAX, &mut |data| seen += data.len()) {
                Ok(crate::stream::Pull::Data) => {}
                Ok(crate::stream::Pull::Empty) => {
                    if rx.wait().await.is_err() {
                        return;
                    }
                }
                Ok(crate::stream::Pull::End(_)) | Err(_) => return,
            }
        }
    };
    // Enough is enough.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Serves the streams of an HTTP/2 connection, each by a task of its own. The rule that its peer broke,
/// if that is how it ended.
pub async fn serve_h2(
    side: Rc<impl Side + 'static>,
    session: Rc<Session>,
) -> Option<ConnectionError> {
    session.count_in(&side.worker().shared.telemetry);
    let refusing = Rc::clone(&side);
    session.tell_refused(move |failure, status| refusing.unreadable(failure, "http/2", status));
    let mut draining = side.worker().shared.draining.clone();
    let going = {
        let session = Rc::downgrade(&session);
        async move {
            if draining.wait_for(|draining| *draining).await.is_ok()
                && let Some(session) = session.upgrade()
            {
                session.go_away();
            }
        }
    };
    let going = tokio::task::spawn_local(going);
    while let Some((head, rx, tx)) = session.accept().await {
        let side = Rc::clone(&side);
        let answer = Answer::new(Tx::H2(tx), &head, true);
        let down = Downstream {
            rx: Rx::H2(rx),
            answer,
        };
        if side.is_bytes(&head) {
            let mut carrying = Rc::clone(&side).carry(head, down);
            tokio::task::spawn_local(async move { caught(&*side, carrying.as_mut()).await });
        } else {
            Rc::clone(side.hands()).take(side, head, down);
        }
    }
    going.abort();
    session.failed()
}

/// Serves a plain connection as HTTP/2.
pub async fn serve_h2_plain(
    side: Rc<impl Side + 'static>,
    io: TcpStream,
    first: Vec<u8>,
) -> Option<ConnectionError> {
    let transport = crate::transport::Transport::Plain(io);
    let session = Session::start_with(transport, Role::Server, Settings::default(), first);
    side.worker().keepalive.watch(&session, Keep::Client);
    serve_h2(side, session).await
}

/// A request that can be read in more than one way.
#[derive(Debug)]
pub struct Ambiguous {
    failure: Failure,
    head: RequestHead,
}

impl Ambiguous {
    /// The failure. The event is told what was asked for, as far as that is certain.
    pub fn told(self, event: &mut Event) -> Failed {
        let head = &self.head;
        // Its path has no form that could be told as one.
        event.request = Some((head.asked_method().clone(), CanonicalPath::default()));
        let path = head.path.split(|byte| *byte == b'?').next();
        let path = path.unwrap_or_default();
        let shown = path.get(..PATH_SHOWN_BYTES_MAX).unwrap_or(path);
        Failed::new(self.failure, format!("asked for {}", shown.escape_ascii()))
    }
}

/// Makes a request canonical: what is routed and judged is what is forwarded. Fields of the mesh
/// are taken off: only proxies say them.
///
/// # Errors
/// It can be read in more than one way.
pub fn canonical(mut head: RequestHead) -> Result<Request, Box<Ambiguous>> {
    match in_its_form(&mut head) {
        Ok((host, path)) => Ok(Request { head, host, path }),
        Err(failure) => Err(Box::new(Ambiguous { failure, head })),
    }
}

/// Host and path.
fn in_its_form(head: &mut RequestHead) -> Result<(String, CanonicalPath), Failure> {
    let host = if head.authority.is_empty() {
        String::new()
    } else {
        let authority = canonical::authority(&head.authority)?;
        if !authority.is(&head.authority) {
            head.authority = authority.to_string().into_bytes();
        }
        authority.host
    };
    let path = canonical::path(&head.path)?;
    if path.full().as_bytes() != head.path {
        head.path = path.full().as_bytes().to_vec();
    }
    head.fields.retain(|name, _| !is_mesh_field(name));
    Ok((host, path))
}

/// For the access log.
#[must_use]
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::Http10 => "http/1.0",
        Version::Http11 => "http/1.1",
        Version::Http2 => "http/2",
    }
}

/// A redirect's answer.
#[must_use]
pub fn redirect(status: u16, location: &str) -> ResponseHead {
    let mut head = ResponseHead::new(status, BodyLength::Exact(0));
    head.fields.push(b"location", location.as_bytes());
    head.fields.push(b"content-length", b"0");
    head
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::inbound::Inbound;
    use crate::outbound::Outbound;
    use crate::worker::tests::{bench, pair};

    const TASK_BYTES_MAX: usize = 5 * 1024;

    /// A side with a bug.
    struct Buggy {
        worker: Rc<Worker>,
        hands: Rc<Hands<Self>>,
        unreadable: RefCell<Vec<Failure>>,
    }

    impl Side for Buggy {
        async fn take(self: Rc<Self>, head: RequestHead, down: Downstream) -> Option<Downstream> {
            let Downstream { rx, mut answer } = down;
            // As a bug would: after it has waited.
            tokio::task::yield_now().await;
            assert_ne!(head.path, b"/bug", "a bug");
            reply::simple(&mut answer, ResponseHead::new(204, BodyLength::Empty), b"").await;
            drop(rx);
            None
        }

        fn hands(&self) -> &Rc<Hands<Self>> {
            &self.hands
        }

        fn worker(&self) -> &Rc<Worker> {
            &self.worker
        }

        fn unreadable(&self, failure: Failure, _: &'static str, _: u16) -> String {
            self.unreadable.borrow_mut().push(failure);
            String::new()
        }
    }

    fn buggy() -> Rc<Buggy> {
        Rc::new(Buggy {
            worker: bench().worker,
            hands: Rc::default(),
            unreadable: RefCell::default(),
        })
    }

    fn asking(path: &str) -> RequestHead {
        RequestHead {
            method: Method::Get,
            version: Version::Http2,
            https: false,
            authority: b"cart".to_vec(),
            path: path.as_bytes().to_vec(),
            protocol: Vec::new(),
            fields: isthmus_proxy_core::message::Fields::default(),
            body: BodyLength::Empty,
            keep_alive: true,
            expects_continue: false,
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_stream_and_no_other() {
        let (near, far) = pair().await;
        let side = buggy();
        let local = tokio::task::LocalSet::new();
        let serving = Rc::clone(&side);
        local.spawn_local(async move {
            serve_h2_plain(serving, far, Vec::new()).await;
        });
        let calling = async {
            let transport = crate::transport::Transport::Plain(near);
            let session = Session::start(transport, Role::Client, Settings::default());
            for path in ["/", "/bug", "/", "/bug", "/"] {
                let (mut rx, _tx) = session
                    .open(&asking(path), true, Duration::from_secs(9))
                    .await
                    .unwrap();
                match rx.head().await {
                    Ok(head) => assert_eq!((path, head.status), ("/", 204)),
                    Err(broken) => assert!(path == "/bug", "{path}: {broken:?}"),
                }
            }
        };
        local.run_until(calling).await;
        assert_eq!(side.worker.shared.telemetry.metrics.panics.get(), 2);
        assert_eq!(*side.unreadable.borrow(), [Failure::Internal; 2]);
        // One task took them all, and goes when it was not needed for a whole while.
        let hands = Rc::clone(&side.hands);
        local
            .run_until(until(|| format!("{hands:?}") == "Hands(1 idle)"))
            .await;
        hands.sweep();
        assert_eq!(format!("{hands:?}"), "Hands(1 idle)");
        hands.sweep();
        // The side's, this one, and no task's.
        local
            .run_until(until(|| Rc::strong_count(&hands) == 2))
            .await;
    }

    async fn until(seen: impl Fn() -> bool) {
        while !seen() {
            tokio::task::yield_now().await;
        }
    }

    /// Who is cut off while it says the rest may lose the answer (RFC 9112 §9.6).
    #[tokio::test]
    async fn who_is_refused_is_heard_to_its_end() {
        let (mut client, far) = pair().await;
        let side = buggy();
        let mut serving = pin!(serve_h1(Rc::clone(&side), far, Vec::new()));
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut said = String::new();
        tokio::select! {
            biased;
            () = &mut serving => panic!("it was closed before the client had said all"),
            read = client.read_to_string(&mut said) => assert!(read.is_ok(), "{read:?}"),
        }
        assert!(said.starts_with("HTTP/1.1 501 "), "{said}");
        assert!(said.contains("connection: close\r\n"), "{said}");
        drop(client);
        serving.await;
        assert!(matches!(
            side.unreadable.borrow()[..],
            [Failure::NotImplemented(_)]
        ));
    }

    /// Of what a call returns, without making the call.
    fn size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_request_is_small() {
        let inbound = size(|side: Rc<Inbound>, head, down| side.take(head, down));
        let outbound = size(|side: Rc<Outbound>, head, down| side.take(head, down));
        // As many are kept as there are requests at once; what is seldom stands in boxes.
        assert!(
            inbound <= TASK_BYTES_MAX && outbound <= TASK_BYTES_MAX,
            "{inbound}, {outbound}"
        );
    }
}
