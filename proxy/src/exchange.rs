//! How does one HTTP request become an answer?
//!
//! The sides decide (`inbound`, `outbound`); this file acts: it sends the request by the plan that
//! the side made, feeds the body while it waits, tries again where the plan allows it, and relays
//! the answer.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy_core::authorize::{
    ConnFacts, Denied, Permit, PolicySet, RequestFacts, authorize,
};
use isthmus_proxy_core::canonical::CanonicalPath;
use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::http1::{Limits, ResponseContext};
use isthmus_proxy_core::http2::ErrorCode;
use isthmus_proxy_core::message::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect::Upstream;
use crate::relay::{Meter, Side, pump, unless, until_idle};
use crate::stream::{Broken, Rx, Tx};
use crate::worker::Worker;

mod feed;
pub mod mirror;
pub mod reply;
pub mod upgrade;

use feed::{Kept, feed};
use reply::Refusal;
use upgrade::Switch;

/// A request, read and made canonical.
#[derive(Debug)]
pub struct Request {
    /// The head as it goes on: canonical authority and path, no mesh fields of strangers.
    pub head: RequestHead,
    /// The host, canonical, without port. Empty: none was given.
    pub host: String,
    /// The path, canonical.
    pub path: CanonicalPath,
}

impl Request {
    /// What policies look at.
    #[must_use]
    pub fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            method: self.head.asked_method(),
            host: &self.host,
            path: self.path.as_str(),
            fields: &self.head.fields,
        }
    }

    /// Judges it by both readings of its path: as it stands, and as a server that decodes
    /// everything and drops `;parameters` would read it.
    ///
    /// # Errors
    /// One of the readings is not allowed.
    pub fn judge(&self, policies: &PolicySet, conn: &ConnFacts<'_>) -> Result<Permit, Denied> {
        let facts = self.facts();
        let permit = authorize(policies, conn, Some(&facts))?;
        let lax = self.path.lax();
        if *lax != *facts.path {
            authorize(
                policies,
                conn,
                Some(&RequestFacts {
                    path: &lax,
                    ..facts
                }),
            )?;
        }
        Ok(permit)
    }
}

/// Who asks: one message of an HTTP/1 connection, or one stream.
#[derive(Debug)]
pub struct Downstream {
    /// The request's body.
    pub rx: Rx,
    /// Where the answer goes.
    pub answer: Answer,
}

/// The answer's side of who asks.
#[derive(Debug)]
pub struct Answer {
    /// Where the answer goes.
    pub tx: Tx,
    /// What the answer's framing depends on.
    pub context: ResponseContext,
    /// May the connection carry another request?
    pub keep_alive: bool,
    /// The answer's head is sent: from here on, failures can only break off.
    pub started: bool,
    /// What the client was told. 0: nothing yet.
    pub status: u16,
    /// How the upstream broke off, to be passed on.
    pub code: Option<ErrorCode>,
}

impl Answer {
    /// An answer to a request whose head was read. Who asks for another protocol or a tunnel may send
    /// its bytes along: if it is refused, they must not be taken for requests.
    #[must_use]
    pub fn new(tx: Tx, head: &RequestHead, keep_alive: bool) -> Self {
        let context = ResponseContext::of(head);
        Self {
            tx,
            context,
            keep_alive: keep_alive && head.protocol.is_empty() && head.method != Method::Connect,
            started: false,
            status: 0,
            code: None,
        }
    }

    /// Sends a head, once there is room for it. `end`: no body follows.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub async fn respond(&mut self, head: &mut ResponseHead, end: bool) -> Result<(), Broken> {
        let informational = (100..200).contains(&head.status) && head.status != 101;
        self.started |= !informational;
        self.status = head.status;
        match &mut self.tx {
            Tx::H1(tx) => {
                if head.body == BodyLength::UntilClose {
                    head.body = BodyLength::Marked;
                }
                if head.body == BodyLength::Marked && self.context.version == Version::Http10 {
                    self.keep_alive = false;
                }
                head.keep_alive = self.keep_alive;
                tx.response(head, &self.context);
                if informational || end {
                    tx.flush();
                }
                Ok(())
            }
            // A stream that is gone is told nothing.
            Tx::H2(tx) => (tx.respond(head, end).await).inspect_err(|_| self.status = 0),
            Tx::Tcp(_) => Err(Broken::Reset(None)),
        }
    }
}

/// How a side wants its request sent.
pub trait Plan {
    /// What is asked.
    fn head(&self) -> &RequestHead;
    /// Chooses where to, and sends the head there. `end`: there is no body.
    async fn open(&mut self, end: bool) -> Result<Upstream, Failure>;
    /// An answer came: is it worth another try instead? `whole`: the request can be sent again;
    /// `refusal`: the answer is not the application's, but of the proxy before it.
    fn answered(&mut self, head: &ResponseHead, whole: bool, refusal: Option<Box<Refusal>>)
    -> bool;
    /// The answer was relayed to its end.
    fn completed(&mut self, _trailers: &Fields) {}
    /// The try failed: is another one allowed? The body can be sent again.
    fn failed(&mut self, failure: Failure, reused: bool) -> bool;
    /// How long to wait before a try that was allowed.
    fn backoff(&self) -> Duration {
        Duration::ZERO
    }
    /// Copies that are to be sent elsewhere when the body has ended; few requests have any.
    fn copies(&mut self) -> Option<Box<mirror::Copies>> {
        None
    }
    /// Changes the answer's head before it is passed on.
    fn respond(&mut self, head: &mut ResponseHead);
    /// Is it a proxy of the mesh who asks, and understands what proxies tell each other?
    fn asked_by_peer(&self) -> bool {
        false
    }
    /// One try, until the answer's head. None: no limit of its own.
    fn try_timeout(&self) -> Option<Duration>;
    /// All tries together. None: no limit.
    fn request_timeout(&self) -> Option<Duration>;
    /// Without a byte either way.
    fn idle_timeout(&self) -> Duration;
}

/// What moved.
#[derive(Debug)]
pub struct Meters {
    /// From who asks.
    pub sent: Meter,
    /// To who asks.
    pub received: Meter,
}

impl Meters {
    /// Of what began then.
    #[must_use]
    pub fn begin(begun: std::time::Instant) -> Self {
        Self {
            sent: Meter::begin(begun.into()),
            received: Meter::begin(begun.into()),
        }
    }
}

/// How an exchange ended well.
#[derive(Debug)]
pub enum Done {
    /// The answer was relayed to its end.
    Answered,
    /// The protocol was switched: bytes follow, both ways.
    Upgraded(Upstream),
}

/// Sends the request by the plan and relays the answer.
///
/// # Errors
/// Why it failed; `down.answer.started` tells whether the client can still be told.
pub async fn forward(
    worker: &Rc<Worker>,
    down: &mut Downstream,
    plan: &mut impl Plan,
    meters: &Meters,
) -> Result<Done, Failure> {
    let deadline = plan.request_timeout().map(|limit| Instant::now() + limit);
    let kept = RefCell::new(Kept::new(plan.copies()));
    let end = plan.head().body == BodyLength::Empty && plan.head().protocol.is_empty();
    loop {
        let opened = {
            let opening = pin!(plan.open(end));
            within(deadline, opening).await
        };
        let mut upstream = match opened {
            Some(Ok(upstream)) => upstream,
            Some(Err(failure)) => {
                if kept.borrow().is_whole() && plan.failed(failure, false) {
                    pause(plan.backoff(), deadline).await?;
                    continue;
                }
                return Err(failure);
            }
            None => return Err(Failure::RequestDeadline),
        };
        let asked = Asked {
            worker,
            kept: &kept,
            deadline,
        };
        // What it took to get there, and the wait before it, was no idleness of this try.
        meters.sent.touch();
        let tried = {
            let idle = pin!(until_idle(
                [&meters.sent, &meters.received],
                plan.idle_timeout()
            ));
            let trying = pin!(attempt(down, &mut upstream, plan, &asked, meters));
            unless(trying, idle).await
        };
        match tried.unwrap_or(Err(Failure::IdleTimeout)) {
            Ok(Attempt::Answered { keep }) => {
                settle(worker, upstream, keep);
                return Ok(Done::Answered);
            }
            Ok(Attempt::Upgraded) => return Ok(Done::Upgraded(upstream)),
            Ok(Attempt::Again) => {}
            Err(failure) => {
                let reused = upstream.reused;
                drop(upstream);
                let again = !down.answer.started && kept.borrow().is_whole();
                if !again || !plan.failed(failure, reused) {
                    return Err(failure);
                }
            }
        }
        pause(plan.backoff(), deadline).await?;
        kept.borrow_mut().rewind();
    }
}

/// Waits between two tries, but not longer than the request may take.
async fn pause(backoff: Duration, deadline: Option<Instant>) -> Result<(), Failure> {
    if backoff.is_zero() {
        return Ok(());
    }
    // Seldom: the task of each request must not have room for it.
    let waiting = Box::pin(async move {
        let waited = pin!(sleep(backoff));
        within(deadline, waited).await
    });
    waiting.await.ok_or(Failure::RequestDeadline)
}

struct Asked<'a> {
    worker: &'a Worker,
    kept: &'a RefCell<Kept>,
    deadline: Option<Instant>,
}

enum Attempt {
    Answered { keep: bool },
    Upgraded,
    Again,
}

/// One try: feeds the body while waiting for the answer, then relays the answer.
async fn attempt(
    down: &mut Downstream,
    upstream: &mut Upstream,
    plan: &mut impl Plan,
    asked: &Asked<'_>,
    meters: &Meters,
) -> Result<Attempt, Failure> {
    let Downstream { rx, answer } = down;
    let fed = Cell::new(false);
    let head = plan.head();
    let nothing = !head.protocol.is_empty() || head.body == BodyLength::Empty;
    // The request's half of the exchange; it ends only when the client breaks.
    let mut feeding = pin!(async {
        let broken = match feed(rx, &mut upstream.tx, (asked.kept, nothing), &meters.sent).await {
            Ok(()) => {
                fed.set(true);
                gone(rx).await
            }
            Err(broken) => broken,
        };
        // The upstream hears why.
        upstream.tx.reset(broken.code());
        broken.downstream()
    });
    let mut head = {
        let tried = plan.try_timeout().map(|limit| Instant::now() + limit);
        let first = [asked.deadline, tried].into_iter().flatten().min();
        let method = plan.head().asked_method();
        let heads = final_head((&mut upstream.rx, upstream.peer), method, answer);
        let heads = pin!(heads);
        match within(first, pin!(unless(heads, feeding.as_mut()))).await {
            Some(Ok(head)) => head?,
            Some(Err(failure)) => return Err(failure),
            None if asked.deadline.is_some_and(|d| Instant::now() >= d) => {
                return Err(Failure::RequestDeadline);
            }
            None => return Err(Failure::TryTimeout),
        }
    };
    let switch = upgrade::read(plan.head(), &mut head, upstream.peer)?;
    if switch == Switch::Accepted {
        // It is no longer a request: there is nothing to try again.
        plan.answered(&head, false, None);
        plan.respond(&mut head);
        upgrade::translate(&mut head, &answer.context, &plan.head().protocol);
        answer
            .respond(&mut head, false)
            .await
            .map_err(Broken::downstream)?;
        answer.tx.flush();
        return Ok(Attempt::Upgraded);
    }
    let whole = asked.kept.borrow().is_whole();
    let refusal = reply::take_refusal(&mut head, upstream.peer);
    if plan.answered(&head, whole, refusal) {
        return Ok(Attempt::Again);
    }
    plan.respond(&mut head);
    if switch == Switch::Refused {
        upgrade::refuse(&mut head, &answer.context, plan.asked_by_peer());
    }
    // An answer before the request's end leaves the rest of the request in the way; and who is
    // going away says so.
    answer.keep_alive &= fed.get() && !asked.worker.is_draining();
    let (keep, limits) = (head.keep_alive, (asked.deadline, &meters.received));
    let relayed = relay_answer(head, &mut upstream.rx, answer, feeding.as_mut(), limits);
    plan.completed(&relayed.await?);
    answer.keep_alive &= fed.get();
    Ok(Attempt::Answered {
        keep: keep && fed.get(),
    })
}

/// Sends the answer's head and relays its body, while the request is still being fed. What it ends with.
async fn relay_answer(
    mut head: ResponseHead,
    rx: &mut Rx,
    answer: &mut Answer,
    feeding: Pin<&mut impl Future<Output = Failure>>,
    (deadline, received): (Option<Instant>, &Meter),
) -> Result<Fields, Failure> {
    let empty = head.body == BodyLength::Empty;
    answer
        .respond(&mut head, empty)
        .await
        .map_err(Broken::downstream)?;
    if empty {
        answer.tx.drained().await.map_err(Broken::downstream)?;
        return Ok(Fields::default());
    }
    let relayed = {
        let relaying = pin!(pump(rx, &mut answer.tx, received));
        within(deadline, pin!(unless(relaying, feeding))).await
    };
    match relayed {
        Some(Ok(Ok(trailers))) => Ok(trailers),
        Some(Ok(Err(Side::Source(broken)))) => {
            answer.code = Some(broken.code());
            Err(broken.upstream())
        }
        Some(Ok(Err(Side::Sink(broken)))) => Err(broken.downstream()),
        Some(Err(failure)) => Err(failure),
        None => Err(Failure::RequestDeadline),
    }
}

/// Informational answers before the answer, at most: beyond, they are an attack. The codec of
/// HTTP/2 allows some more, so that it is the sidecar beside the application who says so.
const INFORMATIONAL_MAX: usize = 64;

/// The next head that is not informational; those are passed on.
async fn final_head(
    (rx, peer): (&mut Rx, bool),
    method: &Method,
    answer: &mut Answer,
) -> Result<ResponseHead, Failure> {
    let limits = Limits::default();
    for _ in 0..=INFORMATIONAL_MAX {
        let head = match rx {
            Rx::H1(rx) => rx
                .response(method, &limits)
                .await
                .and_then(|h| h.ok_or(Broken::Reset(None))),
            Rx::H2(rx) => rx.head().await,
            Rx::Tcp(_) | Rx::Worded(_) => Err(Broken::Reset(None)),
        };
        let mut head = head.map_err(|broken| unanswered(broken, peer))?;
        if !(100..200).contains(&head.status) || head.status == 101 {
            return Ok(head);
        }
        // HTTP/1.0 knows no informational answers (RFC 9110 §15.2).
        if answer.context.version != Version::Http10 {
            answer
                .respond(&mut head, false)
                .await
                .map_err(Broken::downstream)?;
            if let Tx::H1(tx) = &mut answer.tx {
                // What the client does not read is not read from the server.
                tx.ready().await.map_err(Broken::downstream)?;
            }
        }
    }
    Err(Failure::UpstreamProtocol("too many informational answers"))
}

/// Why no head came. A proxy of the mesh breaks off with `PROTOCOL_ERROR` before its answer only what it
/// can't read, and that is the client's doing: what its application does wrong, it answers.
fn unanswered(broken: Broken, peer: bool) -> Failure {
    match broken {
        Broken::Reset(Some(ErrorCode::ProtocolError)) if peer => {
            Failure::BadRequest("the next proxy can't read it, RFC 9113 §8.1.1")
        }
        broken => broken.upstream(),
    }
}

/// Waits until the client leaves.
async fn gone(rx: &mut Rx) -> Broken {
    match rx {
        Rx::H1(rx) => rx.gone().await,
        Rx::H2(rx) => rx.broken().await,
        Rx::Tcp(_) | Rx::Worded(_) => pending().await,
    }
}

/// Keeps an upstream connection that can carry another request.
fn settle(worker: &Worker, upstream: Upstream, keep: bool) {
    if let Upstream {
        rx: Rx::H1(rx),
        tx: Tx::H1(tx),
        home: Some(home),
        ..
    } = upstream
        && keep
        && rx.is_at_end()
    {
        worker.apps.put(home, rx, tx);
    }
}

async fn within<F: Future>(deadline: Option<Instant>, work: Pin<&mut F>) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_proxy_core::balance::Outcome;
    use isthmus_proxy_core::failure::Retry;

    use super::*;

    /// One client must not be able to have the pods of a service ejected.
    #[test]
    fn what_a_peer_cannot_read_is_not_held_against_it() {
        let malformed = Broken::Reset(Some(ErrorCode::ProtocolError));
        let by_peer = unanswered(malformed, true);
        assert_eq!((by_peer.status(), by_peer.retry()), (400, Retry::Never));
        assert_eq!(Outcome::of_failure(by_peer), Outcome::Void);
        // An application without a proxy may say that of anything.
        let others = [
            unanswered(malformed, false),
            unanswered(Broken::Reset(Some(ErrorCode::Cancel)), true),
            unanswered(Broken::Reset(None), true),
        ];
        for failure in others {
            assert_eq!(Outcome::of_failure(failure), Outcome::NoAnswer);
        }
    }
}
