//! How do the parts make one control plane?
//!
//! The only file where they meet.

mod opening;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use isthmus_control_plane_core::model::{Advertised, SYSTEM_NAMESPACE};
use isthmus_control_plane_core::world::World;
use isthmus_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use isthmus_proto::identity::identity_service_server::IdentityServiceServer;
use isthmus_proto::ids::Namespace;
use isthmus_proto::spiffe::TrustDomain;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admin::{Admin, Begin, Front, Guard};
use crate::authority::Authority;
use crate::authority::registry::Authorities;
use crate::authority::serving::{self, Serving};
use crate::clients::Clients;
use crate::config::{Advertise, Config, Home, Origin};
use crate::connect::{self, Connector};
use crate::copies::Copies;
use crate::discovery::{Discovery, UNREAD_MAX};
use crate::fleet::{Apis, Fleet, Running};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::kubernetes::{Leadership, Reviewer};
use crate::listener;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::not_grpc::OnlyGrpc;
use crate::rotation::{Rosters, Rotating, Told};
use crate::source::files::FilesSource;
use crate::state::{self, StateDir};
use crate::store::KeyStore;
use crate::token::KeyReviewer;
use crate::trust::Verifier;
use crate::writer::{Limits, Problems, start};
use opening::Opening;

/// Connections on which nobody speaks are noticed after the two together (SECURITY F24).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of one connection.
const STREAMS_MAX: u32 = 16;
/// Decoded headers of a request, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client may reset before they are taken.
const RESETS_MAX: usize = 32;
/// Largest request for a certificate: CSR and token have 16 KiB each at most.
const ISSUE_BYTES_MAX: usize = 64 * 1024;
/// Largest request of discovery: what a proxy still holds, after a reconnect.
const DISCOVERY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often it is looked whether a certificate has to be renewed.
const TEND_EVERY: Duration = Duration::from_secs(600);
/// How long streams may take to end when the control plane stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs a control plane until `shutdown`.
///
/// # Errors
/// It can't start, or a part of it that it needs has ended.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    state::keep_out_of_dumps();
    let state = StateDir::open(&config.state_dir)?;
    let copies = copies(&config)?;
    let admin = bind(config.admin).await.context("listen.admin")?;
    let admin_address = admin.local_addr()?.to_string();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let apis = Apis::default();
    let guard = Guard::open(&state, config.home.as_ref(), apis.subscribe())?;
    let front = answer(admin, guard, &mut tasks);
    let election = start::elect(&config, apis.subscribe(), stopped.clone());
    tokio::pin!(shutdown);
    let opening = Opening {
        config: &config,
        state: &state,
        apis: &apis,
        copies: &copies,
        leadership: election.as_ref().map(|(leadership, _)| leadership),
        front: &front,
    };
    let opened = tokio::select! {
        // Whatever is under way may be dropped: what was made is found at the next start.
        opened = Box::pin(opening.run()) => Some(opened?),
        () = &mut shutdown => None,
    };
    let Some(parts) = opened else {
        tracing::info!("control plane stopped before it had its keys");
        stop.send_replace(true);
        given_back(election).await;
        return Ok(());
    };
    let discovery = bind(config.discovery).await.context("listen.discovery")?;
    let addresses = serde_json::json!({
        "discovery": discovery.local_addr()?.to_string(),
        "admin": admin_address,
    });
    parts.learn(&config, &mut tasks);
    if let Some((leadership, _)) = &election {
        parts.write(leadership.clone(), stopped.clone(), &mut tasks);
    }
    let mut server = parts.listen(discovery, stopped, &mut tasks)?;
    front.show(parts.view());
    let tending = Arc::clone(&parts);
    tasks.spawn(async move {
        tending.tend().await;
        "renewal"
    });
    state.publish("roots.pem", parts.own_authority()?.roots_pem().as_bytes())?;
    // The last thing: whoever waits for this file finds everything else in place.
    state.publish("listeners.json", format!("{addresses:#}\n").as_bytes())?;
    tracing::info!(%addresses, clusters = config.clusters.len(), "control plane started");

    let result = tokio::select! {
        () = &mut shutdown => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(part) => Err(anyhow::anyhow!("{part} has ended")),
            Err(error) => Err(anyhow::Error::from(error).context("a part has ended")),
        },
        ended = &mut server => Err(anyhow::anyhow!("the discovery server has ended: {ended:?}")),
    };
    stop.send_replace(true);
    if !server.is_finished() && timeout(DRAIN_MAX, &mut server).await.is_err() {
        tracing::warn!("streams did not end in time");
        server.abort();
    }
    given_back(election).await;
    parts.save().await;
    tracing::info!("control plane stopped");
    result
}

/// Secrets of the home cluster as they were, where they may be kept.
fn copies(config: &Config) -> anyhow::Result<Arc<Copies>> {
    let folder = config.secret_copies.as_deref().map(StateDir::open);
    Ok(Arc::new(Copies::new(folder.transpose()?)))
}

/// Answers operators from now on, also while there is nothing to see.
fn answer(admin: TcpListener, guard: Guard, tasks: &mut JoinSet<&'static str>) -> Arc<Front> {
    let front = Arc::new(Front::new(guard));
    let answering = Arc::clone(&front);
    tasks.spawn(async move {
        answering.run(admin).await;
        "admin"
    });
    front
}

/// Waits until the Lease is given back, so that another replica goes on at once.
async fn given_back(election: Option<(Leadership, JoinHandle<()>)>) {
    if let Some((_, candidate)) = election
        && timeout(DRAIN_MAX, candidate).await.is_err()
    {
        tracing::warn!("the lease is not given back in time");
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("bind {address}"))
}

/// What pods are told by a ConfigMap.
fn advertised(config: &Config, roots_pem: String) -> Option<Advertised> {
    let Advertise { address, home } = config.advertise.clone()?;
    let named = config.home.as_ref().map(|home| home.cluster.clone());
    Some(Advertised {
        roots_pem,
        address,
        home: named.zip(home),
    })
}

/// What the services share.
struct Parts {
    hub: Arc<Hub>,
    fleet: Arc<Fleet>,
    authorities: Arc<Authorities>,
    own: TrustDomain,
    serving: Arc<Serving>,
    reviewer: Arc<Reviewer>,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    /// What could not be written into the clusters.
    problems: Arc<Problems>,
    /// How much is written into each.
    limits: Limits,
    /// Of workloads' certificates.
    lifetime: Duration,
    store: KeyStore,
    rosters: Arc<Rosters>,
    told: Arc<Told>,
}

impl Parts {
    /// Reads, and at the first start makes, every key.
    async fn open(
        config: &Config,
        (state, store): (&StateDir, &KeyStore),
        apis: &Apis,
        copies: &Arc<Copies>,
    ) -> anyhow::Result<Arc<Self>> {
        let now = SystemTime::now();
        let own = serving::trust_domain(&config.mesh_domain)?;
        let authorities = Arc::new(Authorities::open(store, [own.clone()], now).await?);
        let authority = authorities
            .of(&own)
            .context("the control plane's own authority")?;
        let serving = Serving::new(&authority, &config.mesh_domain, now)?;
        let hub = Arc::new(Hub::new(World::new(&config.mesh_domain)?));
        let fleet = Fleet::open(
            (state, store),
            &config.mesh_domain,
            &hub,
            &authorities,
            apis,
        )?;
        let fleet = fleet.with_copies(copies);
        if let Some(home) = &config.home {
            let authors = BTreeSet::from([home.cluster.clone()]);
            hub.change(|world| world.set_mesh_authors(Some(authors)));
        }
        let advertised = advertised(config, authority.roots_pem());
        hub.change(|world| world.advertise(advertised));
        for cluster in &config.clusters {
            fleet.admit(&cluster.name).await?;
        }
        let folders = config.clusters.iter().filter(|c| match c.origin {
            Origin::Files(_) => true,
            Origin::Kubernetes(_) => false,
        });
        let keys = KeyReviewer::open(state, folders.map(|cluster| &cluster.name))?;
        let reviewer = Reviewer::new(keys, fleet.apis(), Arc::clone(&hub));
        Ok(Arc::new(Self {
            hub,
            fleet: Arc::new(fleet),
            authorities,
            own,
            serving: Arc::new(serving),
            reviewer: Arc::new(reviewer),
            clients: Arc::default(),
            metrics: Arc::default(),
            problems: Arc::default(),
            limits: Limits {
                per_second: config.writes.per_second,
                burst: config.writes.burst,
                removals_after: config.writes.removals_after,
                ..Limits::default()
            },
            lifetime: config.certificate_lifetime,
            store: store.clone(),
            rosters: Arc::default(),
            told: Arc::default(),
        }))
    }

    /// The last thing that is written says how old everything is.
    async fn save(&self) {
        let (saved, hub) = (Arc::clone(self.fleet.saved()), Arc::clone(&self.hub));
        let writing = tokio::task::spawn_blocking(move || saved.write(&hub, Duration::ZERO));
        if writing.await.is_err() {
            tracing::error!("writing the saved worlds panicked");
        }
    }

    fn own_authority(&self) -> anyhow::Result<Arc<Authority>> {
        self.authorities
            .of(&self.own)
            .context("the control plane's own authority")
    }

    /// Starts the sources and the world's writer.
    fn learn(&self, config: &Config, tasks: &mut JoinSet<&'static str>) {
        for cluster in &config.clusters {
            match &cluster.origin {
                Origin::Files(folder) => {
                    let source = FilesSource::new(&cluster.name, folder);
                    let running = Running::start(source, None);
                    self.fleet.learn(&cluster.name, running, Vec::new());
                }
                Origin::Kubernetes(kubernetes) => {
                    let connector = Connector::new(&self.fleet, &cluster.name, kubernetes.quota);
                    let reach = kubernetes.reach.clone();
                    tasks.spawn(async move {
                        connect::configured(connector, reach).await;
                        "the way to an API server"
                    });
                }
            }
        }
        let hub = Arc::clone(&self.hub);
        tasks.spawn(async move {
            hub.run().await;
            "the world's writer"
        });
        if let Some(life) = config.stale_life {
            let hub = Arc::clone(&self.hub);
            tasks.spawn(async move {
                hub.expire(life).await;
                "the end of what was not seen for long"
            });
        }
        if let Some(home) = &config.home {
            let configured = config.clusters.iter().map(|cluster| cluster.name.clone());
            let of = (home, configured.collect());
            let membership =
                Membership::new(&self.fleet, &self.hub, &self.metrics, of, config.write);
            tasks.spawn(async move {
                membership.run().await;
                "membership"
            });
        }
        let (saved, hub) = (Arc::clone(self.fleet.saved()), Arc::clone(&self.hub));
        tasks.spawn(async move {
            saved.keep(hub).await;
            "the saved worlds"
        });
        let rotating = self.rotating(config);
        tasks.spawn(async move {
            rotating.run().await;
            "the rotation of roots"
        });
    }

    fn rotating(&self, config: &Config) -> Rotating {
        let namespace = |home: &Home| {
            let named = home.namespace.as_ref().map(Namespace::as_str);
            named.unwrap_or(SYSTEM_NAMESPACE).to_owned()
        };
        let home = config.home.as_ref();
        Rotating {
            store: self.store.clone(),
            hub: Arc::clone(&self.hub),
            fleet: Arc::clone(&self.fleet),
            authorities: Arc::clone(&self.authorities),
            clients: Arc::clone(&self.clients),
            rosters: Arc::clone(&self.rosters),
            home: home.map(|home| (home.cluster.clone(), namespace(home))),
            told: Arc::clone(&self.told),
        }
    }

    /// Writes into the clusters while this replica leads.
    fn write(
        &self,
        leadership: Leadership,
        stopped: watch::Receiver<bool>,
        tasks: &mut JoinSet<&'static str>,
    ) {
        let parts = start::Parts {
            hub: Arc::clone(&self.hub),
            apis: self.fleet.apis(),
            metrics: Arc::clone(&self.metrics),
            problems: Arc::clone(&self.problems),
            limits: self.limits,
        };
        tasks.spawn(async move {
            start::run(parts, leadership, stopped).await;
            "the writer"
        });
    }

    /// Starts to accept and to serve proxies.
    fn listen(
        &self,
        listener: TcpListener,
        mut stopped: watch::Receiver<bool>,
        tasks: &mut JoinSet<&'static str>,
    ) -> anyhow::Result<JoinHandle<Result<(), tonic::transport::Error>>> {
        let verifier = Verifier::new(self.fleet.trust());
        let tls = listener::tls(verifier, Arc::clone(&self.serving) as _)?;
        let (streams, accepting) = listener::accept(listener, tls, Arc::clone(&self.metrics));
        tasks.spawn(async move {
            accepting.await;
            "the accept loop"
        });
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let clients = Arc::clone(&self.clients);
        let discovery = Discovery::new(hub, clients, metrics, stopped.clone(), UNREAD_MAX);
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let authorities = Arc::clone(&self.authorities);
        let identity = Identity::new(
            hub,
            (authorities, Arc::clone(&self.rosters)),
            Arc::clone(&self.reviewer),
            metrics,
            self.lifetime,
        );
        let identity =
            IdentityServiceServer::new(identity).max_decoding_message_size(ISSUE_BYTES_MAX);
        let discovery = AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(DISCOVERY_BYTES_MAX);
        let routes = Routes::new(identity).add_service(discovery);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .serve_with_incoming_shutdown(
                OnlyGrpc(routes.prepare()),
                ReceiverStream::new(streams),
                async move {
                    // Closed: the control plane is gone already.
                    let _ = stopped.wait_for(|stop| *stop).await;
                },
            );
        Ok(tokio::spawn(server))
    }

    fn view(&self) -> Admin {
        Admin {
            hub: Arc::clone(&self.hub),
            clients: Arc::clone(&self.clients),
            metrics: Arc::clone(&self.metrics),
            problems: Arc::clone(&self.problems),
            authorities: Arc::clone(&self.authorities),
            fleet: Arc::clone(&self.fleet),
            told: Arc::clone(&self.told),
            begin: Begin::new(Instant::now()),
        }
    }

    /// Renews what nears its end, as long as the control plane runs.
    async fn tend(&self) {
        let mut ticks = interval(TEND_EVERY);
        loop {
            ticks.tick().await;
            let now = SystemTime::now();
            self.authorities.tend(now).await;
            let Some(own) = self.authorities.of(&self.own) else {
                continue;
            };
            match self.serving.renew(&own, now) {
                Ok(true) => tracing::info!("the serving certificate is renewed"),
                Ok(false) => {}
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::error!("the serving certificate is not renewed: {error:#}");
                }
            }
        }
    }
}
