//! Which connections come in, and where did they want to go?

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_proxy_core::failure::Failure;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::finish::refused;
use crate::telemetry::Direction;
use crate::worker::{Accepted, Worker};

/// Waiting in the kernel for an accept.
const BACKLOG: i32 = 4096;
/// After an accept that failed (out of descriptors): existing connections go on meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// So long connections are still taken while the proxy drains: not everybody has heard of it yet. Who has
/// nothing open any more ends sooner.
const LATE: Duration = Duration::from_secs(5);
/// A gateway's drain ends one relayed tunnel after another, so far apart: a caller has several through it, and tries
/// a request that one of them lost again on the next.
const APART: Duration = Duration::from_millis(15);
/// So many are ended apart from each other, the next with them.
const APART_MAX: u32 = 64;
/// How long that takes.
pub const ENDING: Duration = APART.saturating_mul(APART_MAX);

/// One to bind there: what ended a moment ago is no hindrance.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Nobody listens there, not even somebody who would share it: another proxy of the same user.
///
/// # Errors
/// Somebody does, or the address is not ours.
pub fn unshared(address: SocketAddr) -> io::Result<()> {
    socket(address)?.bind(&address.into())
}

/// Binds a listener that several workers may share (`SO_REUSEPORT`).
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the proxy has drained for five seconds, and gives each connection to a task of its own.
pub async fn accept_loop<F: Future<Output = ()> + 'static>(
    worker: Rc<Worker>,
    (listener, direction): (std::net::TcpListener, Direction),
    allowed: impl Fn(IpAddr) -> bool,
    serve: impl Fn(Rc<Worker>, Accepted) -> F,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "register a listener"),
    };
    let mut draining = worker.shared.draining.clone();
    let mut closing = pin!(async move {
        // Err: the control thread is gone, and so is everything.
        let _ = draining.wait_for(|draining| *draining).await;
        tokio::time::sleep(LATE).await;
    });
    let open = Rc::new(());
    let mut place = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => return,
            accepted = listener.accept() => accepted,
        };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let since = Instant::now();
        let refusal = if !allowed(peer.ip()) {
            Some((Failure::Denied, "its network may not use this listener"))
        } else if Rc::strong_count(&open) > worker.shared.config.connections_per_listener {
            Some((Failure::Overflow, "as many connections as may be are open"))
        } else {
            None
        };
        if let Some((failure, why)) = refusal {
            reset(&io);
            refused(
                &worker,
                direction,
                (failure, format!("from {peer}: {why}")),
                since,
            );
            continue;
        }
        // A socket that is gone already will say so at the first read.
        let _ = io.set_nodelay(true);
        let late = match direction {
            Direction::Gateway => APART * place,
            Direction::Inbound | Direction::Outbound => Duration::ZERO,
        };
        place = (place + 1) % APART_MAX;
        // In a box: what an async block is given and then waits for has room in it twice.
        let served = Box::pin(serve(Rc::clone(&worker), Accepted { io, peer, since }));
        let panics = Panics(Rc::clone(&worker));
        tokio::task::spawn_local(carry(served, panics, late, Rc::clone(&open)));
    }
}

/// One connection to its end, or until the time to drain is over, and so much longer. `held`: it is open.
async fn carry(
    served: Pin<Box<impl Future<Output = ()>>>,
    panics: Panics,
    late: Duration,
    held: Rc<()>,
) {
    let mut cut = panics.0.shared.cut.clone();
    tokio::select! {
        biased;
        () = served => {}
        () = async {
            let _ = cut.wait_for(|cut| *cut).await;
            // In a box: each connection has room for this, and seldom needs it.
            Box::pin(tokio::time::sleep(late)).await;
        } => {}
    }
    drop((panics, held));
}

/// Counts a panic of a connection: only that connection dies of it.
struct Panics(Rc<Worker>);

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared.telemetry.metrics.panics.inc();
        }
    }
}

/// Where a captured connection wanted to go (`SO_ORIGINAL_DST`). `None`: it was not captured.
#[must_use]
pub fn original_destination(io: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(io);
    let original = socket
        .original_dst_v4()
        .or_else(|_| socket.original_dst_v6())
        .ok()?;
    original.as_socket()
}

/// Closing will send RST.
pub fn reset(io: &TcpStream) {
    // Without it the close is an orderly one, which is the next best.
    let _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{LocalSet, spawn_local, yield_now};
    use tokio::time::timeout;

    use super::*;
    use crate::worker::tests::{bench, bench_with};

    /// O13: one more is refused at once, the others notice nothing, and there is room again when one ends.
    #[tokio::test]
    async fn one_connection_too_many_is_refused_until_another_ends() {
        let test = async {
            let bench = bench_with(&json!({ "connections_per_listener": 20 }));
            let most = bench.worker.shared.config.connections_per_listener;
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = listener.local_addr().unwrap();
            let serve = |_, mut conn: Accepted| async move {
                let (mut rx, mut tx) = conn.io.split();
                let _ = tokio::io::copy(&mut rx, &mut tx).await;
            };
            let at = (listener, Direction::Inbound);
            spawn_local(accept_loop(Rc::clone(&bench.worker), at, |_| true, serve));
            let echo = async |client: &mut TcpStream| {
                client.write_all(b"x").await?;
                client.read_exact(&mut [0]).await
            };
            let mut clients = Vec::new();
            for _ in 0..most {
                let mut client = TcpStream::connect(address).await.unwrap();
                echo(&mut client).await.unwrap();
                clients.push(client);
            }
            for _ in 0..3 {
                let mut more = TcpStream::connect(address).await.unwrap();
                let refused = echo(&mut more).await.unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset);
            }
            for client in &mut clients {
                echo(client).await.unwrap();
            }
            clients.pop();
            // Its end is still on the way.
            loop {
                let mut client = TcpStream::connect(address).await.unwrap();
                if echo(&mut client).await.is_ok() {
                    break;
                }
            }
        };
        LocalSet::new().run_until(test).await;
    }

    /// F20: wherever in it the bug is.
    #[tokio::test]
    async fn a_panic_ends_its_connection_and_no_other() {
        const PANICS: u64 = 1_000;
        let test = async {
            let bench = bench();
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = listener.local_addr().unwrap();
            let serve = |_, mut conn: Accepted| async move {
                let mut word = [0];
                while let Ok(1) = conn.io.read(&mut word).await {
                    if word == *b"!" {
                        // A panic of which nothing is printed.
                        std::panic::resume_unwind(Box::new("a bug"));
                    }
                    let _ = conn.io.write_all(&word).await;
                }
            };
            let at = (listener, Direction::Inbound);
            spawn_local(accept_loop(Rc::clone(&bench.worker), at, |_| true, serve));
            let mut neighbour = TcpStream::connect(address).await.unwrap();
            let mut word = [0];
            for _ in 0..PANICS {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(b"x!").await.unwrap();
                client.read_exact(&mut word).await.unwrap();
                assert!(
                    !matches!(client.read(&mut word).await, Ok(1..)),
                    "it is gone"
                );
                neighbour.write_all(b"x").await.unwrap();
                neighbour.read_exact(&mut word).await.unwrap();
            }
            let counted = bench.worker.shared.telemetry.metrics.panics.get();
            assert_eq!(counted, PANICS);
        };
        LocalSet::new().run_until(test).await;
    }

    #[test]
    fn a_listener_is_shared_by_nobody_else() {
        let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap();
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = address(&listener);
        assert_eq!(address(&bind(at).unwrap()), at, "by our workers it is");
        assert_eq!(unshared(at).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        unshared(at).unwrap();
    }

    /// A caller whose tunnel is cut tries again on the next one: that must not be gone, too.
    #[tokio::test]
    async fn what_a_gateway_relays_is_cut_one_after_another() {
        let test = async {
            let bench = bench();
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = listener.local_addr().unwrap();
            let taken = Rc::new(Cell::new(0));
            let counted = Rc::clone(&taken);
            let serve = move |_, conn: Accepted| {
                counted.set(counted.get() + 1);
                async move {
                    let _open = conn;
                    pending().await
                }
            };
            let at = (listener, Direction::Gateway);
            spawn_local(accept_loop(Rc::clone(&bench.worker), at, |_| true, serve));
            let mut clients = Vec::new();
            for place in 1..=APART_MAX {
                clients.push(TcpStream::connect(address).await.unwrap());
                while taken.get() < place {
                    yield_now().await;
                }
            }
            bench.cut.send_replace(true);
            let (first, others) = clients.split_first_mut().unwrap();
            assert_eq!(first.read(&mut [0]).await.unwrap(), 0, "it is cut");
            let last = others.last_mut().unwrap();
            let soon = timeout(ENDING / 8, last.read(&mut [0])).await;
            assert!(soon.is_err(), "the first one's caller has nowhere to go");
            assert_eq!(last.read(&mut [0]).await.unwrap(), 0, "and so is this");
        };
        LocalSet::new().run_until(test).await;
    }
}
