//! Who takes a trust domain from one root to the next, and when is the next step due?
//!
//! Every replica, each second: it reads what is kept, believes and signs as that says, reports of the
//! proxies that it knows, and takes the next step if nobody is missing. What is written replaces only
//! what was read, so it does not matter which replica takes a step.
//!
//! ```text
//! kept ─► authority, bundle ─► proxies ─ acknowledge, renew ─► report ─► kept
//! ```

mod rosters;

pub use rosters::Rosters;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use isthmus_control_plane_core::rotation::{Phase, Refused, Report, Rotation, Seen};
use isthmus_control_plane_core::world::State;
use isthmus_proto::ids::{ClusterId, WorkloadName};
use isthmus_proto::spiffe::TrustDomain;
use tokio::time::{Instant, interval};

use crate::authority::Authority;
use crate::authority::registry::Authorities;
use crate::clients::Clients;
use crate::fleet::Fleet;
use crate::hub::Hub;
use crate::store::{Item, KeyStore};

/// How often a step is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether another replica has begun something.
const QUIET_EVERY: Duration = Duration::from_secs(10);
/// Tries to write a replica's name before somebody else does something.
const REGISTER_TRIES: usize = 20;
/// Names of proxies that are told to people.
const NAMED_MAX: usize = 1_000;

/// What a replica needs for it.
#[derive(Debug)]
pub struct Rotating {
    /// Where it is kept.
    pub store: KeyStore,
    /// The world.
    pub hub: Arc<Hub>,
    /// Who is believed.
    pub fleet: Arc<Fleet>,
    /// Who signs.
    pub authorities: Arc<Authorities>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// Who is known.
    pub rosters: Arc<Rosters>,
    /// Where the replicas are pods: the home cluster and the namespace.
    pub home: Option<(ClusterId, String)>,
    /// What people are told.
    pub told: Arc<Told>,
}

/// How far each cluster's trust domain is, for people.
#[derive(Debug, Default)]
pub struct Told(Mutex<BTreeMap<ClusterId, Standing>>);

/// How far one cluster's trust domain is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Standing {
    phase: Phase,
    sequence: u64,
    old_root: u32,
    new_root: u32,
    /// Proxies that are waited for.
    missing: Vec<WorkloadName>,
    missing_count: usize,
    /// Why it does not go on.
    waits: String,
}

impl Told {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ClusterId, Standing> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    fn tell(&self, cluster: &ClusterId, rotation: &Rotation, waits: String) {
        let missing = rotation.missing();
        let standing = Standing {
            phase: rotation.phase,
            sequence: rotation.sequence,
            old_root: rotation.old,
            new_root: rotation.new,
            missing_count: missing.len(),
            missing: missing.into_iter().take(NAMED_MAX).collect(),
            waits,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(cluster.clone(), standing);
    }

    fn keep(&self, clusters: &[ClusterId]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|cluster, _| clusters.contains(cluster));
    }
}

/// How far it is, with this replica among those that are waited for: from then on nothing goes on
/// without it. To be called before it serves anybody of the trust domain.
///
/// # Errors
/// It can't be read or written, or is awaited from another replica.
pub async fn register(
    store: &KeyStore,
    trust_domain: &TrustDomain,
    me: &str,
) -> anyhow::Result<Rotation> {
    let item = Item::Rotation(trust_domain.clone());
    for _ in 0..REGISTER_TRIES {
        let first = || Ok::<_, anyhow::Error>(serde_json::to_vec(&Rotation::default())?);
        store.read_or_create(&item, first).await?;
        let Some(kept) = store.look(&item).await? else {
            continue;
        };
        let mut rotation = read(&kept.bytes).with_context(|| store.place(&item))?;
        if rotation.replicas.contains_key(me) {
            return Ok(rotation);
        }
        rotation.replicas.insert(me.to_owned(), Report::default());
        let bytes = serde_json::to_vec(&rotation)?;
        if store.replace(&item, &bytes, &kept.version).await? {
            return Ok(rotation);
        }
    }
    anyhow::bail!("{}: others write without a pause", store.place(&item))
}

fn read(bytes: &[u8]) -> anyhow::Result<Rotation> {
    serde_json::from_slice(bytes).context("is not understood")
}

impl Rotating {
    /// Takes steps for ever.
    pub async fn run(self) {
        let mut ticks = interval(LOOK_EVERY);
        let mut quiet: BTreeMap<ClusterId, Instant> = BTreeMap::new();
        let mut said: BTreeMap<ClusterId, String> = BTreeMap::new();
        loop {
            ticks.tick().await;
            let clusters = self.clusters();
            self.told.keep(&clusters);
            self.rosters.sweep(|name| self.is_there(name));
            quiet.retain(|cluster, _| clusters.contains(cluster));
            for cluster in clusters {
                let now = Instant::now();
                if !self.is_due(&cluster) && quiet.get(&cluster).is_some_and(|at| *at > now) {
                    continue;
                }
                quiet.insert(cluster.clone(), now + QUIET_EVERY);
                let why = match Box::pin(self.step(&cluster)).await {
                    Ok(()) => String::new(),
                    Err(error) => format!("{error:#}"),
                };
                let before = said.insert(cluster.clone(), why.clone());
                if !why.is_empty() && before.as_ref() != Some(&why) {
                    tracing::warn!(%cluster, "the rotation of its root waits: {why}");
                }
            }
        }
    }

    fn clusters(&self) -> Vec<ClusterId> {
        let all = |world: &isthmus_control_plane_core::world::World| {
            world.clusters().map(|c| c.cluster.clone()).collect()
        };
        self.hub.read(all)
    }

    /// Is something on its way, or wished for?
    fn is_due(&self, cluster: &ClusterId) -> bool {
        let Some(authority) = self.authority(cluster) else {
            return false;
        };
        let stage = authority.stage();
        let wish = self.hub.read(|world| world.wished_root(cluster));
        !authority.is_handed()
            && (stage.phase != Phase::Stable || wish.is_some_and(|root| root != stage.new))
    }

    fn authority(&self, cluster: &ClusterId) -> Option<Arc<Authority>> {
        let domain = self
            .hub
            .read(|world| world.trust_domain(cluster.as_str()).cloned())?;
        self.authorities.of(&domain)
    }

    async fn step(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        let Some(authority) = self.authority(cluster) else {
            return Ok(());
        };
        if authority.is_handed() {
            // Whoever hands it in decides which roots are believed, and when.
            return Ok(());
        }
        let item = Item::Rotation(authority.trust_domain().clone());
        let kept = self.store.look(&item).await?;
        let kept = kept.with_context(|| format!("{} is gone", self.store.place(&item)))?;
        let rotation = read(&kept.bytes).with_context(|| self.store.place(&item))?;
        // First this, then the report: who asks for a certificate after it is answered by the new
        // signer, and whoever asked before is in the roster.
        let authority = if *authority.stage() == rotation.stage() {
            authority
        } else {
            self.fleet.turn(cluster, &rotation).await?
        };
        let mut next = rotation.clone();
        let report = self.report(cluster, &authority, &mut next);
        let wished = self.wish(cluster, &mut next).await;
        let waits = match next.advance() {
            Ok(advanced) => {
                next = advanced;
                String::new()
            }
            Err(Refused::Stable) => String::new(),
            Err(refused) => refused.to_string(),
        };
        if next != rotation {
            let bytes = serde_json::to_vec(&next)?;
            if !self.store.replace(&item, &bytes, &kept.version).await? {
                // Somebody was faster; the next look sees what came of it.
                return Ok(());
            }
        }
        if next.stage() != rotation.stage() {
            let (phase, old, new) = (next.phase, next.old, next.new);
            tracing::info!(%cluster, ?phase, old, new, "the rotation of the root goes on");
        }
        self.rosters.reported(authority.trust_domain(), report);
        let waits = wished
            .as_ref()
            .err()
            .map_or(waits, |error| format!("{error:#}"));
        self.told.tell(cluster, &next, waits);
        wished
    }

    /// What this replica has to say, put in its place.
    fn report(&self, cluster: &ClusterId, authority: &Authority, next: &mut Rotation) -> Report {
        let me = self.fleet.replica();
        let mut before = next.replicas.get(me).cloned().unwrap_or_default();
        self.rosters.resume(authority.trust_domain(), &before);
        let gone: Vec<String> = next
            .replicas
            .keys()
            .filter(|r| self.is_gone(r))
            .cloned()
            .collect();
        for gone in gone.iter().filter_map(|gone| next.forget(gone)) {
            self.rosters.adopt(&gone);
            before.adopt(&gone);
        }
        // Where nothing is on its way nobody is waited for, and what is kept stays small.
        let report = if next.phase == Phase::Stable {
            Report {
                sequence: next.sequence,
                ..Report::default()
            }
        } else {
            let connected = self.connected(cluster, authority);
            self.rosters.report(&before, next, &connected)
        };
        next.replicas.insert(me.to_owned(), report.clone());
        report
    }

    /// The proxies that are connected to this replica.
    fn connected(
        &self,
        cluster: &ClusterId,
        authority: &Authority,
    ) -> BTreeMap<WorkloadName, Seen> {
        let domain = authority.trust_domain();
        let version = self.hub.read(|world| world.trust_bundle_version(domain));
        let clients = self.clients.proxies().into_iter();
        let seen = clients.map(|proxy| {
            let held = proxy.bundles.get(domain.as_str()).copied();
            let own = proxy.name.cluster() == cluster.as_str();
            // A signer that we do not know is none of the new root's.
            let shows = || {
                proxy
                    .issuer
                    .as_ref()
                    .and_then(|i| authority.root_of(i))
                    .unwrap_or(0)
            };
            let seen = Seen {
                holds_bundle: version.is_some() && held == version,
                shows: own.then(shows),
            };
            (proxy.name, seen)
        });
        seen.collect()
    }

    /// Does what is wished for, if that is possible now.
    async fn wish(&self, cluster: &ClusterId, next: &mut Rotation) -> anyhow::Result<()> {
        let wish = self.hub.read(|world| world.wished_root(cluster));
        // The new keys are made by the one that makes keys.
        let Some(root) = wish.filter(|_| self.store.makes()) else {
            return Ok(());
        };
        let Some(wished) = next.wish(root)? else {
            return Ok(());
        };
        if wished.phase == Phase::Adding {
            let domain = self
                .hub
                .read(|world| world.trust_domain(cluster.as_str()).cloned());
            let domain = domain.context("it has left")?;
            Authority::prepare(&self.store, &domain, wished.new, SystemTime::now()).await?;
        }
        *next = wished;
        Ok(())
    }

    /// Is the pod of a proxy there? `None`: its cluster can't be seen now.
    fn is_there(&self, name: &WorkloadName) -> Option<bool> {
        self.hub.read(|world| match world.state(name.cluster()) {
            Some(State::Synced) => Some(world.pod(name).is_some_and(|pod| !pod.finished)),
            Some(State::Unknown | State::Stale) => None,
            None => Some(false),
        })
    }

    /// Is this replica gone for good? Only where replicas are pods, and we are one of them, that is
    /// known.
    fn is_gone(&self, replica: &str) -> bool {
        let Some((cluster, namespace)) = &self.home else {
            return false;
        };
        let pod = |replica: &str| {
            let (pod, _) = replica.split_once('#')?;
            let name = format!("{cluster}/{namespace}/{pod}").parse().ok()?;
            self.is_there(&name)
        };
        pod(self.fleet.replica()) == Some(true) && pod(replica) == Some(false)
    }
}
