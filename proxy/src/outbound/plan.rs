//! How is a request sent to a service: to which endpoint, and when again?

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proxy_core::authorize::Permit;
use isthmus_proxy_core::balance::{
    Attempt, Call, Endpoint, EndpointId, Outcome, Rng, Ticks, Verdict, pick,
};
use isthmus_proxy_core::failure::{Failure, Retry};
use isthmus_proxy_core::guard::Ticket;
use isthmus_proxy_core::hop::{NextHop, next_hop, reachable};
use isthmus_proxy_core::message::{Fields, RequestHead, ResponseHead, Version};
use isthmus_proxy_core::route::Chosen;
use isthmus_proxy_core::route::filter::apply_response;
use isthmus_proxy_core::route::grpc::is_grpc;
use isthmus_proxy_core::snapshot::{Service, Snapshot};
use smallvec::SmallVec;

use crate::connect::{self, Hop, Upstream};
use crate::exchange::Plan;
use crate::exchange::mirror::Copies;
use crate::exchange::reply::Refusal;
use crate::finish::Failed;
use crate::telemetry::Event;
use crate::worker::Worker;

/// Before the first try after one whose connection broke, twice as long before the next: what broke it may
/// be breaking all of a gateway's tunnels, one after another.
const BROKEN_BACKOFF: Duration = Duration::from_millis(3);

/// A request on its way to a service.
pub(super) struct ToService<'a> {
    worker: &'a Rc<Worker>,
    snapshot: &'a Snapshot,
    service: &'a Service,
    chosen: &'a Chosen<'a>,
    head: RequestHead,
    was_http1: bool,
    grpc: bool,
    /// The answer has begun, and will say at its end how it went.
    begun: bool,
    permit: Permit,
    current: Option<Current>,
    tried: SmallVec<[EndpointId; 4]>,
    retries: u32,
    /// An endpoint has refused it unprocessed.
    refused: bool,
    /// The last answer was its proxy's.
    refusal: Option<Box<Refusal>>,
    /// The last try's connection broke.
    broke: bool,
    /// Held while a retry is in flight.
    retry: Option<Ticket>,
    copies: Option<Box<Copies>>,
}

struct Current {
    endpoint: Arc<Endpoint>,
    attempt: Attempt,
    begun: Ticks,
    hop: &'static str,
}

impl<'a> ToService<'a> {
    pub(super) fn new(
        worker: &'a Rc<Worker>,
        (snapshot, service): (&'a Snapshot, &'a Service),
        chosen: &'a Chosen<'a>,
        head: RequestHead,
        version: Version,
    ) -> Self {
        Self {
            worker,
            snapshot,
            service,
            chosen,
            was_http1: version != Version::Http2,
            grpc: is_grpc(&head),
            head,
            begun: false,
            permit: Permit::outbound(snapshot.generation),
            current: None,
            tried: SmallVec::new(),
            retries: 0,
            refused: false,
            refusal: None,
            broke: false,
            retry: None,
            copies: None,
        }
    }

    /// Copies of the request go elsewhere, too, when its body has ended.
    pub(super) fn mirrored(self, copies: Option<Box<Copies>>) -> Self {
        Self { copies, ..self }
    }

    fn choose(&self, now: Ticks) -> Result<Arc<Endpoint>, Failure> {
        let endpoints = self
            .service
            .endpoints
            .known()
            .ok_or(Failure::EndpointsUnknown)?;
        let can = |e: &Endpoint| reachable(e, &self.snapshot.me, &self.snapshot.gateways);
        let policy = &self.service.traffic.balance;
        let call = Call {
            port: self.chosen.backend.port,
            tried: &self.tried,
        };
        self.worker
            .rng(|rng| pick(endpoints, policy, &can, &call, rng, now))
    }

    /// The head as the hop needs it.
    fn prepare(&mut self, hop: &NextHop, target: u16) {
        let fields = &mut self.head.fields;
        fields.retain(|name, _| name != b"x-mesh-port" && name != b"x-mesh-version");
        if !matches!(hop, NextHop::Plain { .. }) {
            fields.push(b"x-mesh-port", target.to_string().as_bytes());
            if self.was_http1 {
                fields.push(b"x-mesh-version", b"1");
            }
        }
    }

    /// What the endpoint is to be remembered for.
    fn record(&mut self, outcome: Outcome) {
        let Some(current) = &mut self.current else {
            return;
        };
        let now = self.worker.now();
        let latency = now.since(current.begun);
        let verdict = current
            .attempt
            .record(outcome, latency, now, &self.service.traffic.outlier);
        if let Verdict::Eject { until } = verdict {
            let seconds = until.since(now).as_secs_f32();
            tracing::info!(endpoint = %current.endpoint.name, service = %self.service.name, seconds, "ejected");
        }
    }

    /// May it be tried again? Takes from the budget if so.
    fn may_retry(&mut self) -> bool {
        let policy = &self.service.traffic.retries;
        let attempts = self.chosen.retries.map_or(policy.attempts, |r| r.attempts);
        if self.retries >= attempts {
            return false;
        }
        let (guard, now) = (&self.service.guard, self.worker.now());
        let Some(ticket) = guard.retry(&self.service.traffic, now) else {
            return false;
        };
        self.retry = Some(ticket);
        self.retries += 1;
        self.current = None;
        true
    }

    /// Codes that a route lists are its author's word, for every method (GEP-1731). Others are tried
    /// again only where that does no harm.
    fn retries_status(&self, status: u16) -> bool {
        match self.chosen.retries {
            Some(retries) if !retries.statuses.is_empty() => retries.statuses.contains(&status),
            Some(_) | None => {
                self.head.method.is_idempotent()
                    && self.service.traffic.retries.statuses.contains(&status)
            }
        }
    }

    /// The exchange ended badly after its answer had begun.
    pub(super) fn ended(&mut self, failure: Failure) {
        self.record(Outcome::of_failure(failure));
    }

    /// It became a stream of bytes: in flight until the attempt is dropped.
    pub(super) fn into_attempt(self) -> Option<Attempt> {
        self.current.map(|current| current.attempt)
    }

    /// Which of its limits was over: the request's or that of all streams?
    pub(super) fn named(&self, failure: Failure) -> Failure {
        let whole = self.service.traffic.timeouts.stream;
        let its_own = self.own_timeout();
        let stream = whole.is_some_and(|whole| its_own.is_none_or(|own| whole < own));
        if failure == Failure::RequestDeadline && stream {
            return Failure::StreamDeadline;
        }
        failure
    }

    /// What the route or the service allow a request.
    fn own_timeout(&self) -> Option<Duration> {
        limit(
            self.chosen.request_timeout,
            self.service.traffic.timeouts.request,
        )
    }

    pub(super) fn describe(&self, event: &mut Event) {
        event.retries = self.retries;
        if let Some(current) = &self.current {
            event.endpoint = Some(current.endpoint.name.shared());
            event.destination_cluster = Some(current.endpoint.cluster.shared());
            event.hop = current.hop;
        }
        if let Some(refusal) = &self.refusal {
            event.failure = refusal.failure;
            event.detail = format!("{}; refused there: {}", self.way(), refusal.reason);
            event.upstream_reason = Some(refusal.reason.clone());
        }
    }

    /// The failure, with what a person wants to know of it; if nobody could be found among the
    /// endpoints, also how they were.
    pub(super) fn told(&self, failure: Failure) -> Failed {
        let mut failed = Failed::new(failure, self.detail(failure));
        if failure == Failure::NoHealthyEndpoint {
            let of = (self.snapshot, self.service);
            let domain = &self.worker.shared.config.mesh_domain;
            let (port, now) = (self.chosen.backend.port, self.worker.now());
            failed.endpoints = self.worker.looks.look(of, port, domain, now);
        }
        failed
    }

    fn detail(&self, failure: Failure) -> String {
        match &self.current {
            Some(_) => self.way(),
            None => format!("{}: {failure}", self.service.name),
        }
    }

    /// The last try.
    fn way(&self) -> String {
        let name = &self.service.name;
        let Some(Current { endpoint, hop, .. }) = &self.current else {
            return name.to_string();
        };
        let tries = self.retries + 1;
        format!("{name} at {} by {hop}, {tries} tries", endpoint.name)
    }
}

impl Plan for ToService<'_> {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    async fn open(&mut self, end: bool) -> Result<Upstream, Failure> {
        let now = self.worker.now();
        let endpoint = self.choose(now)?;
        self.tried.push(endpoint.id);
        let target = endpoint
            .target_port(self.chosen.backend.port)
            .ok_or(Failure::NoDestination)?;
        let domain = &self.worker.shared.config.mesh_domain;
        let hop = next_hop(
            &endpoint,
            target,
            &self.snapshot.me,
            &self.snapshot.gateways,
            domain,
        )?;
        self.prepare(&hop, target);
        let port = self.chosen.backend.port;
        let http2 = self.service.speaks_http2(port, self.was_http1);
        let hop = Hop::Next { hop, http2 };
        let attempt = endpoint.stats.begin(now);
        self.current = Some(Current {
            endpoint,
            attempt,
            begun: now,
            hop: hop.name(),
        });
        let limit = self.service.traffic.timeouts.connect;
        let _waiting = self.service.guard.wait(&self.service.traffic)?;
        let sent =
            connect::request(self.worker, &self.permit, &hop, (&self.head, end), limit).await?;
        if let Some(current) = &mut self.current {
            // A handshake says nothing of how fast the endpoint answers.
            current.begun = self.worker.now();
        }
        Ok(sent)
    }

    fn answered(
        &mut self,
        head: &ResponseHead,
        whole: bool,
        refusal: Option<Box<Refusal>>,
    ) -> bool {
        self.broke = false;
        let untouched = refusal.as_ref().is_some_and(|refusal| refusal.untouched);
        self.refusal = refusal;
        let mut outcome = Outcome::of_status(head.status);
        if self.grpc && outcome == Outcome::Success {
            outcome = Outcome::of_grpc(&head.fields).unwrap_or(Outcome::Begun);
        }
        self.begun = outcome == Outcome::Begun;
        self.record(outcome);
        let again = untouched || self.retries_status(head.status);
        whole && again && self.may_retry()
    }

    fn completed(&mut self, trailers: &Fields) {
        if self.begun {
            self.record(Outcome::of_grpc(trailers).unwrap_or(Outcome::Success));
        }
    }

    fn failed(&mut self, failure: Failure, _: bool) -> bool {
        self.refusal = None;
        self.record(Outcome::of_failure(failure));
        self.broke = matches!(failure, Failure::UpstreamReset | Failure::ConnectFailed);
        let allowed = match failure.retry() {
            Retry::Always => true,
            // GEP-1731: whoever writes a stanza wants connections that failed to be tried again.
            Retry::Idempotent => self.chosen.retries.is_some() || self.head.method.is_idempotent(),
            Retry::Never => false,
        };
        // Not processed, and by nobody's illness (RFC 9113 §8.7): many streams at once, before the peer
        // has said how many it takes, are no reason to run out of retries. Once, as in gRFC A6.
        if failure == Failure::UpstreamRefused && !std::mem::replace(&mut self.refused, true) {
            self.current = None;
            return true;
        }
        allowed && self.may_retry()
    }

    fn backoff(&self) -> Duration {
        let broke = || BROKEN_BACKOFF * self.retries;
        let ours = self.broke.then(broke);
        let shortest = self.chosen.retries.and_then(|r| r.backoff).or(ours);
        // Up to half as much again, so that those who failed together don't come back together.
        shortest.map_or(Duration::ZERO, |shortest| {
            shortest.mul_f32(1.0 + self.worker.rng(Rng::unit) / 2.0)
        })
    }

    fn copies(&mut self) -> Option<Box<Copies>> {
        self.copies.take()
    }

    fn respond(&mut self, head: &mut ResponseHead) {
        apply_response(self.chosen, head);
    }

    fn try_timeout(&self) -> Option<Duration> {
        limit(
            self.chosen.try_timeout,
            self.service.traffic.timeouts.per_try,
        )
    }

    fn request_timeout(&self) -> Option<Duration> {
        let whole = self.service.traffic.timeouts.stream;
        [self.own_timeout(), whole].into_iter().flatten().min()
    }

    fn idle_timeout(&self) -> Duration {
        self.service.traffic.timeouts.idle_http
    }
}

/// A route's limit wins over the service's; zero means none.
fn limit(route: Option<Duration>, service: Option<Duration>) -> Option<Duration> {
    route.or(service).filter(|limit| !limit.is_zero())
}
