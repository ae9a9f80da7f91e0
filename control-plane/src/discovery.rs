//! How is a proxy told what the mesh is?
//!
//! One task for each stream. It asks the session for the next response only when the stream has
//! room for one, so a slow client costs a bounded queue, and gets the newest state when it reads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_control_plane_core::session::{Client, ProtocolError, ResourceType, Session};
use isthmus_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use isthmus_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clients::{Clients, Place};
use crate::hub::{Heard, Hub, Listener, News};
use crate::listener::{Connection, Cut};
use crate::metrics::{Metric, Metrics};
use crate::trust::Peer;

/// Responses that wait for the client: each has at most 1 MiB.
const QUEUE: usize = 1;
/// A client that takes nothing for this long is cut (SECURITY F39).
pub const UNREAD_MAX: Duration = Duration::from_secs(60);
/// A client says who it is within this time.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has newer from elsewhere is looked at so often.
const HELD_BACK_EVERY: Duration = Duration::from_secs(1);
/// Requests of a stream: so many at once ...
const REQUESTS_BURST: u32 = 1_000;
/// ... and one more after each.
const REQUEST_EVERY: Duration = Duration::from_millis(2);

type Outcome = Result<DeltaDiscoveryResponse, Status>;

/// The service.
#[derive(Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
    streams: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
    unread_max: Duration,
}

impl Discovery {
    /// The service over these; its streams end when `stop` becomes true, and when their client
    /// takes nothing for `unread_max`.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        clients: Arc<Clients>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
        unread_max: Duration,
    ) -> Self {
        let shared = Arc::new(Shared {
            hub,
            clients,
            metrics,
            stop,
            unread_max,
        });
        Self {
            shared,
            streams: Mutex::new(JoinSet::new()),
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Outcome>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| Status::internal("no connection"))?;
        // A token makes a certificate, and a certificate makes a client (SECURITY S10).
        let Some(peer) = connection.peer.clone() else {
            self.shared
                .metrics
                .count(Metric::SessionsEnded, "no_certificate");
            return Err(Status::unauthenticated(
                "discovery needs a client certificate",
            ));
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let stream = Stream {
            shared: Arc::clone(&self.shared),
            requests: request.into_inner(),
            responses: send,
            peer,
            connection,
        };
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// One client.
struct Stream {
    shared: Arc<Shared>,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Outcome>,
    peer: Peer,
    connection: Connection,
}

/// Why a stream ends.
enum End {
    /// The client went away.
    Gone,
    /// The client is told why.
    Told(Status, &'static str),
    /// The client does not listen.
    Cut,
}

impl Stream {
    async fn run(mut self) {
        let cut = Arc::clone(&self.connection.cut);
        let (metrics, responses) = (Arc::clone(&self.shared.metrics), self.responses.clone());
        let unread_max = self.shared.unread_max;
        let (identity, remote) = (self.peer.id.clone(), self.connection.remote);
        let end = match self.open().await {
            Ok((session, place)) => {
                metrics.count(Metric::SessionsOpened, "");
                tracing::debug!(%identity, %remote, "discovery stream opened");
                self.serve(session, place).await
            }
            Err(end) => end,
        };
        match end {
            End::Gone => tracing::debug!(%identity, %remote, "discovery stream closed"),
            End::Told(status, reason) => {
                metrics.count(Metric::SessionsEnded, reason);
                tracing::info!(%identity, %remote, reason, why = status.message(), "stream ended");
                // Cut-safe: who takes nothing is not waited for any longer than others.
                if timeout(unread_max, responses.send(Err(status)))
                    .await
                    .is_err()
                {
                    cut.cut();
                }
            }
            End::Cut => {
                metrics.count(Metric::SessionsEnded, "unread");
                tracing::warn!(%identity, %remote, "the client reads nothing; connection cut");
                Cut::cut(&cut);
            }
        }
    }

    /// The first request says who it claims to be.
    async fn open(&mut self) -> Result<(Session, Place), End> {
        let first = match timeout(FIRST_TIMEOUT, self.requests.message()).await {
            Err(_) => {
                let status = Status::deadline_exceeded("no request");
                return Err(End::Told(status, "no_request"));
            }
            Ok(Err(_) | Ok(None)) => return Err(End::Gone),
            Ok(Ok(Some(first))) => first,
        };
        let Some(node) = &first.node else {
            let status = Status::invalid_argument("the first request has no node");
            return Err(End::Told(status, "protocol"));
        };
        let identity = self.peer.id.clone();
        let client = self
            .shared
            .hub
            .read(|world| Client::of_node(world, identity, node))?;
        let mut session = Session::of_node(client, node);
        session.handle(&first)?;
        let place = self
            .shared
            .clients
            .enter(&session, &node.id, &self.connection)
            .map_err(|many| End::Told(Status::resource_exhausted(many.to_string()), "too_many"))?;
        Ok((session, place))
    }

    async fn serve(mut self, session: Session, place: Place) -> End {
        // First the ear, then the look: nothing falls in between.
        let mut telling = Telling {
            listener: self.shared.hub.listen(session.client()),
            session,
            place,
            due: true,
            heard: Heard::new(),
        };
        if let Err(end) = self.still_trusted(&telling.session) {
            return end;
        }
        let mut stop = self.shared.stop.clone();
        let expiry = sleep_until(expiry(self.peer.not_after));
        tokio::pin!(expiry);
        let responses = self.responses.clone();
        let mut pace = Pace::new();
        // Is there room for a response, and since when is there none?
        let (mut room, mut blocked) = (None, Instant::now());
        loop {
            telling.follow();
            if telling.due
                && let Some(permit) = room.take()
            {
                match telling.next(&self.shared) {
                    Some(response) => {
                        mpsc::Permit::send(permit, Ok(response));
                        blocked = Instant::now();
                    }
                    None => room = Some(permit),
                }
            }
            let wait = room.is_none();
            let unread = blocked + self.shared.unread_max;
            tokio::select! {
                // All are cancel-safe: messages, permits and what is dirty stay where they are.
                request = self.requests.message(), if pace.allows() => match request {
                    Ok(Some(request)) => {
                        pace.take();
                        if let Err(end) = self.take(&mut telling.session, &request) {
                            return end;
                        }
                        telling.place.update(&telling.session);
                        telling.due = true;
                    }
                    Ok(None) | Err(_) => return End::Gone,
                },
                () = sleep_until(pace.next), if !pace.allows() => {}
                news = telling.listener.next() => {
                    if let Err(end) = self.still_trusted(&telling.session) {
                        return end;
                    }
                    telling.hear(&news);
                }
                permit = responses.reserve(), if wait => match permit {
                    Ok(permit) => room = Some(permit),
                    Err(_) => return End::Gone,
                },
                () = sleep_until(unread), if wait => return End::Cut,
                () = sleep(HELD_BACK_EVERY), if telling.is_held_back() => telling.due = true,
                () = self.responses.closed() => return End::Gone,
                () = &mut expiry => {
                    let status = Status::unauthenticated("the client certificate has ended");
                    return End::Told(status, "expired");
                }
                _ = stop.wait_for(|stop| *stop) => {
                    let status = Status::unavailable("the control plane is stopping");
                    return End::Told(status, "stopping");
                }
            }
        }
    }

    fn still_trusted(&self, session: &Session) -> Result<(), End> {
        let cluster = session.client().workload().cluster();
        if self.shared.hub.read(|world| world.is_distrusted(cluster)) {
            let status = Status::permission_denied("the cluster is cut off");
            return Err(End::Told(status, "cut_off"));
        }
        Ok(())
    }

    fn take(&self, session: &mut Session, request: &DeltaDiscoveryRequest) -> Result<(), End> {
        if let Some(detail) = &request.error_detail {
            self.shared.metrics.count(Metric::Nacks, "");
            let why: String = detail.message.chars().take(500).collect();
            let (identity, kind) = (&self.peer.id, &request.type_url);
            tracing::warn!(%identity, kind = %kind.escape_debug(), why = %why.escape_debug(), "refused by the proxy");
        }
        Ok(session.handle(request)?)
    }
}

/// What one client is told.
struct Telling {
    session: Session,
    place: Place,
    listener: Listener,
    /// Is there perhaps something to say?
    due: bool,
    /// Whose changes were not told yet, and since when.
    heard: Heard,
}

impl Telling {
    /// What the session wants since the last time is heard of from now on.
    fn follow(&mut self) {
        if let Some(moved) = self.session.moved() {
            self.listener.follow(moved);
            self.due = true;
        }
    }

    /// Is something held back from the client, and nothing else to say?
    fn is_held_back(&self) -> bool {
        self.session.holds_back() && !self.due
    }

    fn hear(&mut self, news: &[Arc<News>]) {
        for one in news {
            self.session.dirty(&one.dirty);
            one.add_heard(&mut self.heard);
        }
        self.due = true;
    }

    /// The next response; `None`: there is nothing to say.
    fn next(&mut self, shared: &Shared) -> Option<DeltaDiscoveryResponse> {
        let Some(response) = shared.hub.read(|world| self.session.poll(world)) else {
            self.due = false;
            // They do not concern this client.
            self.heard.clear();
            return None;
        };
        let kind = ResourceType::of_url(&response.type_url);
        let kind = kind.map_or_else(String::new, |kind| format!("{kind:?}"));
        shared.metrics.count(Metric::Pushes, &kind);
        shared.metrics.lags(std::mem::take(&mut self.heard));
        self.place.update(&self.session);
        Some(response)
    }
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        let text = error.to_string();
        match error {
            ProtocolError::Denied(_) => Self::Told(Status::permission_denied(text), "denied"),
            ProtocolError::Invalid(_) => Self::Told(Status::invalid_argument(text), "protocol"),
            ProtocolError::TooMuch(_) => Self::Told(Status::resource_exhausted(text), "too_much"),
        }
    }
}

/// When a certificate ends, on the clock that does not jump.
fn expiry(not_after: SystemTime) -> Instant {
    let left = not_after
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    Instant::now() + left
}

/// How fast a client's requests are read: whoever sends more waits in its own stream.
struct Pace {
    tokens: u32,
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            tokens: REQUESTS_BURST,
            next: Instant::now(),
        }
    }

    /// Is a request read now?
    fn allows(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.next {
            let since = now.saturating_duration_since(self.next).as_micros();
            let earned = since / REQUEST_EVERY.as_micros().max(1);
            let earned = u32::try_from(earned)
                .unwrap_or(REQUESTS_BURST)
                .saturating_add(1);
            self.tokens = self.tokens.saturating_add(earned).min(REQUESTS_BURST);
            self.next = now + REQUEST_EVERY;
        }
        self.tokens > 0
    }

    fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
