//! What does a cluster need to run the mesh?

mod beside;
pub(crate) mod config;
pub(crate) mod installed;
pub(crate) mod objects;
pub(crate) mod permissions;
mod replaced;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use isthmus_control_plane::CONTROLLER_NAME;
use isthmus_control_plane::config::MESH_DOMAIN;
use isthmus_control_plane::kubernetes::Api;
use isthmus_control_plane::manifest::yaml;
use isthmus_proto::ids::{ClusterId, NetworkId};
use isthmus_proto::spiffe::TrustDomain;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::args::{Format, InstallOptions};
use crate::cluster::CLUSTERS;
use crate::cluster::properties::Stated;
use crate::{kubernetes, output};
use config::Given;
use installed::{Choice, Installed, said};
use objects::{Plan, SavedWorld};

/// Names that a cluster can't have: `control` is the control plane's own trust domain, `mesh` begins
/// the names of policies for the whole mesh.
const RESERVED: [&str; 2] = ["control", "mesh"];
/// The image of this version.
const IMAGE: &str = concat!("isthmus:", env!("CARGO_PKG_VERSION"));
/// Longest time until an API server serves a kind whose definition was just written.
const KIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked.
const KIND_POLL: Duration = Duration::from_millis(250);

/// Prints, or applies.
///
/// # Errors
/// A name is none, or the API server refuses something.
pub(crate) fn run(options: &InstallOptions, format: Format) -> anyhow::Result<()> {
    if !options.apply {
        let nothing = Installed::default();
        let cluster = options.cluster.as_deref().unwrap_or_default();
        let plan = plan((cluster, options), &nothing, None, &mut Choice::default())?;
        return print(&plan, format);
    }
    let reach = &options.reach;
    let api = kubernetes::connect(reach.kubeconfig.as_deref(), reach.context.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build()
        .context("starting the runtime")?;
    let mut done = Done::new(format);
    runtime.block_on(async {
        let installed = Installed::read(&api).await?;
        let given = options.cluster.as_deref().or(installed.cluster.as_deref());
        let stated = Stated::of(&api).await?;
        let cluster = stated.name(given)?;
        let _: ClusterId = cluster.parse()?;
        let is_known = installed.cluster.is_some();
        let contradiction = stated.agreed("install", &cluster, &stated, is_known)?;
        let member = format!("{CLUSTERS}/{cluster}");
        let member = kubernetes::find(&api, &member).await?.unwrap_or_default();
        let network = said(&member, "/spec/network");
        let mut choice = Choice::default();
        let plan = plan(
            (&cluster, options),
            &installed,
            network.as_deref(),
            &mut choice,
        )?;
        choice.tell(&mut done);
        if let Some(why) = contradiction {
            done.step("warning", &why);
        }
        prepare(&api, true, options.force, &mut done).await?;
        for mut object in objects::control_plane(&plan) {
            let config = installed.config.as_ref();
            if let Some(there) = config.filter(|_| object["kind"] == "ConfigMap") {
                // What others wrote into it is part of what is applied: nothing of theirs is lost, unless
                // they wrote just now.
                object["metadata"]["resourceVersion"] = there.version.as_str().into();
                apply(&api, &object, true, &mut done).await?;
                continue;
            }
            apply(&api, &object, options.force, &mut done).await?;
        }
        replaced::open(&api, &plan, &mut done).await?;
        Box::pin(replaced::retire(&api, &plan, &mut done)).await?;
        anyhow::Ok(())
    })?;
    done.end();
    Ok(())
}

/// How the control plane is to be run: by the flags, and by what is installed where they say nothing.
///
/// # Errors
/// A name is none, or is not the one that the cluster has.
fn plan(
    (cluster, options): (&str, &InstallOptions),
    installed: &Installed,
    network: Option<&str>,
    choice: &mut Choice,
) -> anyhow::Result<Plan> {
    if let Some(other) = installed
        .cluster
        .as_ref()
        .filter(|installed| *installed != cluster)
    {
        bail!(
            "the control plane in this cluster calls it {other}, and identities carry that name: \
             --cluster {other}"
        );
    }
    let network = choice.of(
        "--network",
        options.network.as_deref(),
        network,
        Some(cluster),
    );
    let mesh_domain = choice.of(
        "--mesh-domain",
        options.mesh_domain.as_deref(),
        installed.mesh_domain.as_deref(),
        Some(MESH_DOMAIN),
    );
    let image = choice.of(
        "--image",
        options.image.as_deref(),
        installed.image.as_deref(),
        Some(IMAGE),
    );
    let discovery_address = choice.of(
        "--discovery-address",
        options.discovery_address.as_deref(),
        installed.discovery_address.as_deref(),
        None,
    );
    let load_balancer = load_balancer(options, installed, choice);
    let saved_world = saved_world(options, installed, choice)?;
    let mesh_domain = mesh_domain.context("--mesh-domain is empty")?;
    let mut plan = Plan {
        saved_world,
        cluster: named(cluster, &mesh_domain)?.to_string(),
        network: network
            .unwrap_or_default()
            .parse::<NetworkId>()?
            .to_string(),
        mesh_domain,
        image: image.context("--image is empty")?,
        discovery_address,
        load_balancer,
        network_policy: network_policy(options, installed, choice),
        given: Given::default(),
    };
    match (&options.config, &installed.config) {
        (Some(file), _) => plan.given = Given::file(Path::new(file), &plan)?,
        (None, Some(there)) => {
            plan.given = Given::installed(&there.value, &there.text);
            choice.keep(config::added(&plan));
        }
        (None, None) => {}
    }
    plan.check()?;
    Ok(plan)
}

/// Is the Service one of type LoadBalancer? `None`: who never asked for one type may have set another by
/// other means.
fn load_balancer(
    options: &InstallOptions,
    installed: &Installed,
    choice: &mut Choice,
) -> Option<bool> {
    let given = options.load_balancer;
    let wanted = choice.switch("--load-balancer", given, installed.load_balancer);
    given.or(wanted.then_some(true))
}

/// Is a NetworkPolicy wanted? Unless somebody has said that it is not.
fn network_policy(options: &InstallOptions, installed: &Installed, choice: &mut Choice) -> bool {
    let unwanted = options.network_policy.map(|wanted| !wanted);
    !choice.switch(
        "--network-policy=false",
        unwanted,
        installed.no_network_policy,
    )
}

/// Where what is known is to be kept: as the flag says, else as it is installed.
///
/// # Errors
/// What is installed claims volumes of another class.
fn saved_world(
    options: &InstallOptions,
    installed: &Installed,
    choice: &mut Choice,
) -> anyhow::Result<SavedWorld> {
    let there = &installed.saved_world;
    let given = options.saved_world_claim.as_deref();
    let chosen = choice.of("--saved-world-claim", given, there.flag(), None);
    let chosen = SavedWorld::of_flag(chosen.as_deref());
    let both = (there, &chosen);
    if let (SavedWorld::Claimed(_), SavedWorld::Claimed(_)) = both
        && *there != chosen
    {
        bail!(
            "the volumes that are claimed can't be of another StorageClass: go back with \
             --saved-world-claim=false first"
        );
    }
    Ok(chosen)
}

/// A cluster's name that the mesh can have.
///
/// # Errors
/// It can't.
pub(crate) fn named(name: &str, mesh_domain: &str) -> anyhow::Result<ClusterId> {
    let cluster: ClusterId = name.parse()?;
    if RESERVED.contains(&cluster.as_str()) {
        bail!("{cluster} is reserved for the mesh itself: choose another name");
    }
    TrustDomain::of_cluster(&cluster, mesh_domain)?;
    Ok(cluster)
}

fn print(plan: &Plan, format: Format) -> anyhow::Result<()> {
    let all = [
        objects::access(true),
        objects::definitions()?,
        objects::foreign_definitions()?,
        objects::control_plane(plan),
    ]
    .concat();
    match format {
        Format::Json => {
            output::json(&json!({ "apiVersion": "v1", "kind": "List", "items": all }));
        }
        Format::Text => {
            let texts: Vec<String> = all.iter().map(yaml::text).collect();
            output::line(texts.join("---\n").trim_end());
        }
    }
    Ok(())
}

/// What was done, told as it happens, or as one value at the end.
pub(crate) struct Done {
    format: Format,
    steps: Vec<Value>,
}

impl Done {
    /// Nothing yet.
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            steps: Vec::new(),
        }
    }

    /// One more step.
    pub(crate) fn step(&mut self, what: &str, object: &str) {
        if self.format == Format::Text {
            output::line(&format!("{what:<10} {object}"));
        }
        self.steps.push(json!({ "what": what, "object": object }));
    }

    /// That was all.
    pub(crate) fn end(self) {
        if self.format == Format::Json {
            output::json(&json!({ "steps": self.steps }));
        }
    }
}

/// Makes a cluster ready for the control plane: definitions, namespace, account, permissions.
///
/// # Errors
/// The API server refuses something.
pub(crate) async fn prepare(
    api: &Api,
    home: bool,
    force: bool,
    done: &mut Done,
) -> anyhow::Result<()> {
    for object in objects::access(home) {
        apply(api, &object, force, done).await?;
    }
    let ours = objects::definitions()?;
    for object in &ours {
        // The group is ours: an old definition gives way, whoever applied it.
        apply(api, object, true, done).await?;
    }
    let mut wanted = ours;
    for object in objects::foreign_definitions()? {
        let (path, _) = objects::place(&object).context("a definition without a place")?;
        if kubernetes::find(api, &path).await?.is_some() {
            done.step("kept", &title(&object));
            continue;
        }
        apply(api, &object, force, done).await?;
        wanted.push(object);
    }
    for definition in &wanted {
        served(api, definition).await?;
    }
    gateway_class(api, done).await
}

/// Makes the class of our gateways, unless somebody has one of that name. The Gateway API is not ours:
/// a cluster without it has no Gateways.
async fn gateway_class(api: &Api, done: &mut Done) -> anyhow::Result<()> {
    let class = beside::gateway_class();
    let (path, _) = objects::place(&class).context("an object without a place")?;
    if let Some(there) = kubernetes::find(api, &path).await? {
        let controller = kubernetes::text(&there, "/spec/controllerName");
        if controller != CONTROLLER_NAME {
            let why = format!(
                "{} is {controller}'s: its Gateways are none of this mesh",
                title(&class)
            );
            done.step("warning", &why);
        } else {
            done.step("kept", &title(&class));
        }
        return Ok(());
    }
    match api.apply(&path, &class, false).await {
        Ok(_) => done.step("applied", &title(&class)),
        Err(error) if error.is_not_found() => done.step("absent", "the Gateway API"),
        Err(error) => {
            return Err(error).with_context(|| format!("applying {}", title(&class)));
        }
    }
    Ok(())
}

/// Applies one object.
///
/// # Errors
/// The API server refuses it.
pub(crate) async fn apply(
    api: &Api,
    object: &Value,
    force: bool,
    done: &mut Done,
) -> anyhow::Result<()> {
    let (path, _) = objects::place(object).context("an object without a place")?;
    let applied = api.apply(&path, object, force).await;
    let hint = match &applied {
        Err(error) if error.is_conflict() && !force => {
            "; somebody else owns fields of it: look who, or take them with --force"
        }
        Err(error) if error.is_conflict() => "; it was changed meanwhile: do it again",
        _ => "",
    };
    applied.with_context(|| format!("applying {}{hint}", title(object)))?;
    done.step("applied", &title(object));
    Ok(())
}

/// Waits until the kind of a definition is served.
async fn served(api: &Api, definition: &Value) -> anyhow::Result<()> {
    let (path, _) = objects::place(definition).context("a definition without a place")?;
    let until = Instant::now() + KIND_TIMEOUT;
    loop {
        let found = kubernetes::find(api, &path).await?.unwrap_or_default();
        let conditions = found
            .pointer("/status/conditions")
            .and_then(Value::as_array);
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        if conditions.into_iter().flatten().any(established) {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "{} is not served after {} s",
                title(definition),
                KIND_TIMEOUT.as_secs()
            );
        }
        sleep(KIND_POLL).await;
    }
}

/// `Deployment isthmus-system/isthmus-control-plane`
pub(crate) fn title(object: &Value) -> String {
    let text = |pointer| kubernetes::text(object, pointer);
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match text("/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}
