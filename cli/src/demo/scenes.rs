//! What does the demo show, one scene after another?
//!
//! A scene says in words what it is about to do, does it to the running mesh, and reports what it
//! saw in the traffic: exact figures, and whether what it promised was so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::timeout;

use super::mesh::Mesh;
use super::plan::{CART_EAST, Callee, GATEWAY_EAST, GATEWAY_WEST, Pod, REVIEWS, WEB};
use super::report::Report;
use super::screen::Screen;
use super::view::Board;
use super::{manifests, wait};
use crate::args::SceneName;
use crate::load::{Load, Target, Window};

mod remote_call;
mod spread;
mod ejection;
mod failover;
mod policy;
mod control_plane;
mod api_server;
mod protocols;

/// Longest time for a scene: a broken mesh ends with a clear message.
const SCENE_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time until the background traffic flows without failures.
const FLOW_TIMEOUT: Duration = Duration::from_secs(20);
/// Keep-alive connections of each load.
const CONNECTIONS: u32 = 4;
/// A stretch of traffic that shows a state: at the lowest rate it has five requests for each load.
const STRETCH: Duration = Duration::from_millis(500);

/// The mesh, its traffic, and where to tell about it.
#[derive(Debug)]
pub(crate) struct Stage {
    traffic: Option<Arc<Traffic>>,
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// The terminal.
    pub(crate) screen: Arc<Screen>,
    /// What the live view reads.
    pub(crate) board: Arc<Board>,
    /// Requests per second, of both loads together.
    pub(crate) rps: u32,
    /// Chooses pods.
    pub(crate) seed: u64,
}

/// What web sends all the time.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// To `reviews`, in west only.
    pub(crate) reviews: Load,
    /// To `cart`, in both clusters.
    pub(crate) cart: Load,
}

impl Traffic {
    /// What came back from both since then.
    fn since(&self, from: Instant) -> Window {
        let mut samples = self.reviews.ledger().samples(from);
        samples.extend(self.cart.ledger().samples(from));
        Window::of(&samples)
    }
}

impl Stage {
    /// Nothing moves yet.
    pub(crate) fn new(mesh: Mesh, screen: Arc<Screen>, rps: u32, seed: u64) -> Self {
        let board = Arc::new(Board::default());
        Self {
            traffic: None,
            mesh,
            screen,
            board,
            rps,
            seed,
        }
    }

    /// The background traffic; started when it is first asked for, and flowing.
    ///
    /// # Errors
    /// It doesn't flow in time.
    pub(crate) async fn traffic(&mut self) -> anyhow::Result<Arc<Traffic>> {
        let traffic = match &self.traffic {
            Some(traffic) => traffic.clone(),
            None => self.start_traffic(),
        };
        let (reviews, cart) = (traffic.reviews.ledger(), traffic.cart.ledger());
        let flows = wait::until(FLOW_TIMEOUT, async || {
            let clean = |window: &Window| window.served >= 4 && window.served == window.requests();
            let from = before(STRETCH);
            Ok((clean(&reviews.since(from)) && clean(&cart.since(from))).then_some(()))
        });
        let failure = |window: Window| {
            window
                .first_failure
                .unwrap_or_else(|| "no request ended".into())
        };
        flows.await?.with_context(|| {
            let from = before(Duration::from_secs(2));
            format!(
                "the traffic does not flow: reviews: {}; cart: {}",
                failure(reviews.since(from)),
                failure(cart.since(from))
            )
        })?;
        Ok(traffic)
    }

    fn start_traffic(&mut self) -> Arc<Traffic> {
        let load = |callee: &Callee| {
            let target = Target::new(self.mesh.plan.local(callee), &callee.host(), "/");
            Load::start(&target, self.rps / 2, CONNECTIONS)
        };
        let traffic = Traffic {
            reviews: load(&Callee::REVIEWS),
            cart: load(&Callee::CART),
        };
        self.board
            .watch("reviews", traffic.reviews.ledger().clone());
        self.board.watch("cart", traffic.cart.ledger().clone());
        let traffic = Arc::new(traffic);
        self.traffic = Some(traffic.clone());
        traffic
    }

    /// One of the pods of `reviews`, by the seed.
    fn chosen(&self, salt: u64) -> Pod {
        let number = u64::try_from(REVIEWS.len()).unwrap_or(1);
        let index = usize::try_from(self.seed.wrapping_add(salt) % number).unwrap_or(0);
        *REVIEWS.get(index).unwrap_or(&REVIEWS[0])
    }

    /// Shows a scene, whatever happens.
    pub(crate) async fn show(&mut self, scene: SceneName, number: usize) -> Report {
        self.board.showing(scene.name());
        self.screen.say(&format!("\n{number}. {}", heading(scene)));
        let mut report = Report::new(scene);
        let limit = match scene {
            SceneName::ApiServer => api_server::SCENE_TIMEOUT,
            _ => SCENE_TIMEOUT,
        };
        // What was seen before it broke off stays in the report.
        match timeout(limit, self.play(scene, &mut report)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => report.demand(false, format!("{error:#}")),
            Err(_) => {
                let seconds = limit.as_secs();
                report.demand(false, format!("the scene took more than {seconds} s"));
            }
        }
        // Every scene starts again what it has ended: what is not there now nobody has asked to go.
        for (name, status) in self.mesh.ended() {
            report.demand(false, format!("{name} has ended by itself ({status})"));
        }
        self.screen.say(&report.text());
        self.screen
            .record(&serde_json::to_string(&report).unwrap_or_default());
        if !report.held() {
            let suspects = [WEB, GATEWAY_WEST, GATEWAY_EAST];
            self.screen.say(&self.mesh.post_mortem(&suspects));
            self.restore().await;
        }
        report
    }

    async fn play(&mut self, scene: SceneName, report: &mut Report) -> anyhow::Result<()> {
        // Boxed: the scenes are large futures, and one at a time is played.
        match scene {
            SceneName::RemoteCall => Box::pin(remote_call::play(self, report)).await,
            SceneName::Spread => Box::pin(spread::play(self, report)).await,
            SceneName::Ejection => Box::pin(ejection::play(self, report)).await,
            SceneName::Failover => Box::pin(failover::play(self, report)).await,
            SceneName::Policy => Box::pin(policy::play(self, report)).await,
            SceneName::ControlPlane => Box::pin(control_plane::play(self, report)).await,
            SceneName::ApiServer => Box::pin(api_server::play(self, report)).await,
            SceneName::Protocols => Box::pin(protocols::play(self, report)).await,
        }
    }

    /// Undoes what a broken scene may have left, so that the next one is judged by itself.
    async fn restore(&mut self) {
        // First what the objects live in. Each may be undone already: then there is nothing to do.
        let _runs = self.mesh.store.revive().await;
        let _absent = self.mesh.remove(&manifests::FORBID_WEB).await;
        for manifest in [manifests::CART_EAST, manifests::REVIEWS] {
            let _full = self.mesh.put(&manifest).await;
        }
        for pod in REVIEWS {
            let _gone = ejection::turn(&self.mesh.plan, &pod, "off").await;
        }
        if let Err(error) = self.mesh.revive().await {
            self.screen.say(&format!("  restoring the mesh: {error:#}"));
        }
        if let Some(traffic) = &self.traffic {
            traffic.reviews.resume();
            traffic.cart.resume();
        }
    }

    /// Tells what is about to happen.
    fn tell(&self, text: &str) {
        self.screen.say(&format!("  {text}"));
    }
}

fn heading(scene: SceneName) -> &'static str {
    match scene {
        SceneName::RemoteCall => "A call from east, answered in west through its gateway",
        SceneName::Spread => "One connection, spread over the single remote pods",
        SceneName::Ejection => "A remote pod turns bad and is ejected through the gateway",
        SceneName::Failover => "The local pods stop: traffic fails over, then back",
        SceneName::Policy => "A policy is written into west and forbids the call",
        SceneName::ControlPlane => "The control plane is killed, and a sidecar restarted meanwhile",
        SceneName::ApiServer => "West's API server is killed, then frozen, under traffic",
        SceneName::Protocols => "gRPC, TCP, a server that speaks first, a real database",
    }
}

/// The time so long ago.
fn before(stretch: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(stretch).unwrap_or(now)
}

/// Waits until the answers of the last stretch, none of them older than `from`, are as wanted.
///
/// # Errors
/// They aren't within `within`; the text says what they were.
async fn until_traffic(
    load: &Load,
    from: Instant,
    within: Duration,
    wanted: impl Fn(&Window) -> bool,
) -> anyhow::Result<Window> {
    let found = wait::until(within, async || {
        if from.elapsed() < STRETCH {
            return Ok(None);
        }
        let window = load.ledger().since(before(STRETCH));
        Ok((window.requests() > 0 && wanted(&window)).then_some(window))
    });
    found.await?.with_context(|| {
        let window = load.ledger().since(before(STRETCH));
        let failure = window.first_failure.as_deref().unwrap_or("none");
        format!(
            "not within {} s; in the last {} ms: {} served by {:?}, {} denied, {} failed (first failure: {failure})",
            within.as_secs(),
            STRETCH.as_millis(),
            window.served,
            window.by_pod,
            window.denied,
            window.failed
        )
    })
}

/// Names of the pods of `cart` in east, for words.
fn local_pods() -> String {
    CART_EAST
        .iter()
        .map(|pod| pod.name)
        .collect::<Vec<_>>()
        .join(" and ")
}
