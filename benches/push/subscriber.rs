//! How does a fake proxy stay informed? By the state machine of the real one: what it asks for, what it says that it
//! holds, what it acknowledges, and how long it waits before it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use isthmus_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use isthmus_proto::discovery::{DeltaDiscoveryResponse, Node};
use isthmus_proto::positions;
use isthmus_proto::resource::ClusterFreshness;
use isthmus_proxy::control::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use isthmus_proxy::discovery::{OUT_REQUESTS_MAX, jitter, transmit};
use isthmus_proxy_core::snapshot::{Kind, Update};
use isthmus_proxy_core::subscription::Subscription;
use prost::Message as _;
use prost_types::value::Kind as ValueKind;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::Outcome;
use crate::proxies::{Asks, Way};
use crate::servers::Fleet;

/// What a sidecar is always told.
const STANDING: [Kind; 4] = [
    Kind::AccessPolicy,
    Kind::TrustBundle,
    Kind::Gateway,
    Kind::ClusterFreshness,
];
/// Longest wait for all that a proxy asks for at first.
const PATIENCE: Duration = Duration::from_secs(60);

/// What others may see of a proxy.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connected: AtomicBool,
    /// Endpoints, services and workloads that were taken away from it.
    pub(crate) withdrawn: AtomicUsize,
    /// It has once held all that it asks for.
    whole: watch::Sender<bool>,
}

impl Seen {
    /// Waits until it has once held all that it asks for.
    pub(crate) async fn settled(&self) -> Outcome {
        let mut whole = self.whole.subscribe();
        timeout(PATIENCE, whole.wait_for(|whole| *whole)).await??;
        Ok(())
    }
}

/// A proxy, as far as discovery goes.
pub(crate) struct Subscriber {
    subscription: Subscription,
    workload: String,
    endpoints: usize,
    /// When each cluster was confirmed, in milliseconds since 1970.
    confirmed: BTreeMap<String, f64>,
    way: Way,
    seen: Arc<Seen>,
    fleet: Arc<Fleet>,
}

impl Subscriber {
    pub(crate) fn new(asks: &Asks, (way, seen, fleet): (Way, Arc<Seen>, Arc<Fleet>)) -> Self {
        let mut subscription = Subscription::new(Node::default(), None);
        for kind in STANDING {
            subscription.want(kind, "*");
        }
        subscription.want(Kind::Workload, &asks.workload);
        for key in &asks.called {
            subscription.want_service(key);
        }
        Self {
            subscription,
            workload: asks.workload.clone(),
            endpoints: asks.endpoints,
            confirmed: BTreeMap::new(),
            way,
            seen,
            fleet,
        }
    }

    /// Keeps a stream open, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            // Whatever ends it: the control plane is gone, or not there yet.
            let _ended = self.stream().await;
            self.seen.connected.store(false, Ordering::SeqCst);
            self.subscription.disconnected(Instant::now(), jitter());
            if let Some(until) = self.subscription.poll_timeout() {
                sleep_until(until.into()).await;
            }
        }
    }

    async fn stream(&mut self) -> Outcome {
        let channel = timeout(CONNECT_TIMEOUT, self.way.channel()).await??;
        let (out, requests) = mpsc::channel(OUT_REQUESTS_MAX);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        self.subscription.introduce(self.node());
        self.subscription.connected();
        transmit(&mut self.subscription, &out);
        let opening = client.delta_aggregated_resources(ReceiverStream::new(requests));
        let mut responses = timeout(ANSWER_TIMEOUT, opening).await??.into_inner();
        self.seen.connected.store(true, Ordering::SeqCst);
        loop {
            transmit(&mut self.subscription, &out);
            let response = responses.message().await?.ok_or("the stream has ended")?;
            self.take(response)?;
        }
    }

    /// Takes all of a response.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> Outcome {
        self.fleet.told();
        if response.type_url == Kind::Endpoint.type_url() {
            for resource in &response.resources {
                self.fleet.arrive(&resource.name);
            }
        }
        let nonce = response.nonce.clone();
        for update in self.subscription.handle(response, Instant::now())? {
            match update {
                Update::Remove {
                    kind: Kind::Endpoint | Kind::Service | Kind::Workload,
                    ..
                } => {
                    self.seen.withdrawn.fetch_add(1, Ordering::SeqCst);
                }
                Update::Upsert {
                    kind: Kind::ClusterFreshness,
                    body,
                    ..
                } => self.note_freshness(&ClusterFreshness::decode(body)?),
                _ => {}
            }
        }
        self.subscription.acked(&nonce, &[]);
        if !*self.seen.whole.borrow() && self.is_whole() {
            self.seen.whole.send_replace(true);
        }
        Ok(())
    }

    fn note_freshness(&mut self, freshness: &ClusterFreshness) {
        let at = freshness
            .confirmed_at
            .and_then(|at| SystemTime::try_from(at).ok());
        let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if let Some(since) = since {
            let milliseconds = since.as_secs_f64() * 1_000.0;
            self.confirmed
                .insert(freshness.cluster.clone(), milliseconds);
        }
    }

    fn is_whole(&self) -> bool {
        let held = |kind| {
            let mut all = self.subscription.status();
            all.find(|status| status.kind == kind)
                .map_or(0, |status| status.held)
        };
        held(Kind::Workload) > 0 && held(Kind::Endpoint) >= self.endpoints
    }

    /// Who it is, and how new what it has is.
    fn node(&self) -> Node {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let text = |text: String| value(ValueKind::StringValue(text));
        let seen = self.confirmed.iter();
        let seen = seen.map(|(cluster, at)| (cluster.clone(), value(ValueKind::NumberValue(*at))));
        let seen = prost_types::Struct {
            fields: seen.collect(),
        };
        let positions = self.subscription.positions().to_string();
        let fields = [
            ("seen".to_owned(), value(ValueKind::StructValue(seen))),
            (positions::METADATA.to_owned(), text(positions)),
            ("role".to_owned(), text("sidecar".to_owned())),
        ];
        Node {
            id: self.workload.clone(),
            cluster: String::new(),
            metadata: Some(prost_types::Struct {
                fields: fields.into(),
            }),
        }
    }
}
