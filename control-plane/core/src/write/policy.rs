//! What is to be said of classes of gateways, clusters and policies?

use std::collections::BTreeMap;

use crate::import::{self, shortened};

use crate::model::{
    AccessPolicy, Kind, NOT_TAKEN, ObjectRef, Observed, PolicyTarget, Reach, Said, ServiceRef,
    TrafficPolicy, TrustPolicy, Truth,
};
use crate::translate::{authorization, service};
use crate::world::cluster::Cluster;
use crate::world::{Standing, World};
use crate::write::{CONTROLLER_NAME, Plan, Settings, Subject, gateway, reference, refusal};

/// Does a cluster's name agree with its ClusterProperty objects (KEP-2149)?
const PROPERTIES_MATCH: &str = "PropertiesMatch";
/// Are the ranges of a cluster's pods its own, and what it has in them?
pub(crate) const RANGES_VALID: &str = "PodRangesValid";

pub(super) fn look(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    gateway::look((world, cluster), settings, subject, plan);
    classes(cluster, settings, subject, plan);
    members((world, cluster), settings, subject, plan);
    trust(world, cluster, settings, subject, plan);
    refusal::look((world, cluster), settings, subject, plan);
}

/// One AccessPolicy, or one policy of either kind that is not taken as it is.
pub(super) fn one(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    (kind, namespace, name): (Kind, &str, &str),
    subject: &Subject,
    plan: &mut Plan,
) {
    let at = reference(cluster, kind, namespace, name);
    if let Some(refused) = cluster.refused.get(&at) {
        refusal::one(at, &refused.why, settings, subject, plan);
    } else if kind == Kind::AccessPolicy
        && let Some(entry) = cluster.policies.get(namespace, name)
    {
        access(
            (world, cluster),
            settings,
            (at, namespace),
            &entry.value,
            subject,
            plan,
        );
    }
}

/// The AccessPolicies of a namespace that are for services.
pub(super) fn of_services(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    namespace: &str,
    plan: &mut Plan,
) {
    for (name, entry) in cluster.policies.within(namespace) {
        if matches!(entry.value.target, PolicyTarget::Services(_)) {
            let (cluster_id, space) = (cluster.id.clone(), namespace.to_owned());
            let subject = Subject::Policy(cluster_id, Kind::AccessPolicy, space, name.to_owned());
            let at = (Kind::AccessPolicy, namespace, name);
            one((world, cluster), settings, at, &subject, plan);
        }
    }
}

fn trust(
    world: &World,
    cluster: &Cluster,
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    for (_, name, entry) in cluster.trust.iter() {
        let at = reference(cluster, Kind::TrustPolicy, "", name);
        if cluster.refused.contains_key(&at) {
            continue;
        }
        let observed = &entry.value.observed;
        let accepted = if world.is_mesh_author(&cluster.id) {
            (Truth::True, "Accepted", "")
        } else {
            (Truth::False, "NotPermitted", NOT_AN_AUTHOR)
        };
        // Not a member yet, or not any more: whoever takes the name is cut off.
        let strangers = strangers(world, &entry.value);
        let resolved = match &strangers {
            None => (Truth::True, "ResolvedRefs", ""),
            Some(why) => (Truth::False, "NoSuchCluster", why.as_str()),
        };
        let wanted = vec![
            said(observed, "Accepted", accepted),
            said(observed, "ResolvedRefs", resolved),
        ];
        plan.conditions(at, (wanted, &observed.conditions), settings, subject);
    }
}

/// Why a TrustPolicy is not heard.
pub(crate) const NOT_AN_AUTHOR: &str = "this cluster does not speak for the mesh";

/// The clusters that a TrustPolicy names and nobody knows, in words. `None`: there are none.
pub(crate) fn strangers(world: &World, policy: &TrustPolicy) -> Option<String> {
    let named = policy.distrusted.iter().map(|named| named.as_str());
    let strange = named.filter(|named| world.trust_domain(named).is_none());
    let strange: Vec<&str> = strange.collect();
    (!strange.is_empty()).then(|| format!("not in the mesh: {}", strange.join(", ")))
}

/// Gateway API: whose class it is, says that it takes it.
fn classes(cluster: &Cluster, settings: Settings<'_>, subject: &Subject, plan: &mut Plan) {
    for (_, name, entry) in cluster.classes.iter() {
        let class = &entry.value;
        if class.controller != CONTROLLER_NAME {
            continue;
        }
        let accepted = (Truth::True, "Accepted", "");
        let wanted = vec![said(&class.observed, "Accepted", accepted)];
        let at = reference(cluster, Kind::GatewayClass, "", name);
        plan.conditions(at, (wanted, &class.observed.conditions), settings, subject);
    }
}

/// What became of the clusters that this one names, if it is the home cluster.
fn members(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    let Some((_, standings)) = world.standings().filter(|(home, _)| **home == cluster.id) else {
        return;
    };
    for (_, name, entry) in cluster.mesh.iter() {
        let of_object = (Kind::MeshCluster, name.to_owned());
        let Some(standings) = standings.get(&of_object) else {
            continue;
        };
        let at = reference(cluster, Kind::MeshCluster, "", name);
        let refused = cluster.refused.get(&at).map(|refused| &refused.why);
        let observed = refused.map_or(&entry.value.observed, |why| &why.observed);
        let one = |standing: &Standing| {
            if let Some(why) = refused.filter(|_| standing.kind == "Accepted") {
                return refusal::not_accepted(why);
            }
            let status = standing.holds.map_or(Truth::Unknown, Truth::from);
            said(
                observed,
                standing.kind,
                (status, standing.reason, &standing.message),
            )
        };
        let mut wanted: Vec<Said> = standings.iter().map(one).collect();
        wanted.extend(properties(world, name, observed));
        wanted.extend(ranges(world, name, observed));
        plan.conditions(at, (wanted, &observed.conditions), settings, subject);
    }
}

/// Is the cluster what it says that it is? Nothing is said of one that states nothing, but what was
/// said before is taken back.
fn properties(world: &World, name: &str, observed: &Observed) -> Option<Said> {
    let cluster = world.clusters.get(name).filter(|cluster| cluster.listed());
    let stated = cluster.filter(|cluster| cluster.properties.len() > 0);
    let told = match stated {
        None => taken_back(observed, PROPERTIES_MATCH, "NothingStated")?,
        Some(cluster) => match world.contradicts_its_properties(cluster) {
            None => (Truth::True, "Match", String::new()),
            Some((reason, message)) => (Truth::False, reason, message),
        },
    };
    Some(said(observed, PROPERTIES_MATCH, (told.0, told.1, &told.2)))
}

/// What is said of something of which nothing is to be said; `None`: nothing was.
fn taken_back(
    observed: &Observed,
    kind: &str,
    reason: &'static str,
) -> Option<(Truth, &'static str, String)> {
    let before = observed.conditions.iter().any(|said| said.kind == kind);
    before.then(|| (Truth::Unknown, reason, String::new()))
}

/// Nothing is said of ranges where nobody declares any, but what was said before is taken back.
fn ranges(world: &World, name: &str, observed: &Observed) -> Option<Said> {
    let cluster = world
        .clusters
        .get(name)
        .filter(|cluster| cluster.listed())?;
    let told = match world.wrong_ranges(cluster) {
        Some((reason, message)) => (Truth::False, reason, message),
        None if !cluster.pod_ranges().is_empty() => (Truth::True, "Valid", String::new()),
        None => taken_back(observed, RANGES_VALID, "NotDeclared")?,
    };
    Some(said(observed, RANGES_VALID, (told.0, told.1, &told.2)))
}

fn access(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    (at, namespace): (ObjectRef, &str),
    policy: &AccessPolicy,
    subject: &Subject,
    plan: &mut Plan,
) {
    // There is no such object.
    if at.name == NOT_TAKEN {
        return;
    }
    let message = authorization::verdict(world, namespace, policy).unwrap_or_default();
    let accepted = if message.is_empty() {
        (Truth::True, "Accepted", "")
    } else {
        (Truth::False, "Invalid", message.as_str())
    };
    let nowhere = nowhere(cluster, namespace, policy);
    let resolved = match &nowhere {
        None => (Truth::True, "ResolvedRefs", ""),
        Some(which) => (Truth::False, "TargetNotFound", which.as_str()),
    };
    let observed = &policy.observed;
    let wanted = vec![
        said(observed, "Accepted", accepted),
        said(observed, "ResolvedRefs", resolved),
    ];
    plan.conditions(at, (wanted, &observed.conditions), settings, subject);
}

/// The services that an AccessPolicy is for and that are not there, in words: nobody is meant by them.
pub(crate) fn nowhere(cluster: &Cluster, namespace: &str, policy: &AccessPolicy) -> Option<String> {
    let PolicyTarget::Services(services) = &policy.target else {
        return None;
    };
    let gone = |service: &&String| cluster.services.get(namespace, service).is_none();
    let tell = |service| format!("there is no Service {namespace}/{service}: nobody is meant");
    let told: Vec<String> = services.iter().filter(gone).map(tell).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The TrafficPolicies for one service: of several, one is used.
pub(super) fn traffic(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    (namespace, service): (&str, &str),
    subject: &Subject,
    plan: &mut Plan,
) {
    let mut found: BTreeMap<Reach, Found<'_>> = BTreeMap::new();
    for (name, entry) in cluster.traffic.within(namespace) {
        let policy = &entry.value;
        let at = reference(cluster, Kind::TrafficPolicy, namespace, name);
        if policy.service != service || cluster.refused.contains_key(&at) {
            continue;
        }
        let reach = policy.reach;
        let found = found
            .entry(reach)
            .or_insert_with(|| find(world, cluster, (namespace, service), reach));
        let (reason, message) = match &policy.invalid {
            Some(why) => ("Invalid", why.clone()),
            None => found.said(namespace, policy),
        };
        let accepted = (Truth::from(reason == "Accepted"), reason, message.as_str());
        let wanted = vec![said(&policy.observed, "Accepted", accepted)];
        let observed = &policy.observed.conditions;
        plan.conditions(at, (wanted, observed), settings, subject);
    }
}

/// What there is at a target of TrafficPolicies.
struct Found<'a> {
    /// The policy that is used.
    used: Option<&'a TrafficPolicy>,
    is_there: bool,
    /// Something can be there.
    in_namespace: bool,
}

fn find<'a>(
    world: &'a World,
    cluster: &'a Cluster,
    (namespace, service): (&str, &str),
    reach: Reach,
) -> Found<'a> {
    let Ok(space) = namespace.parse() else {
        return Found {
            used: None,
            is_there: false,
            in_namespace: false,
        };
    };
    let at = ServiceRef {
        reach,
        namespace: space,
        name: service.to_owned(),
    };
    let is_there = match reach {
        Reach::Cluster => cluster.services.get(namespace, service).is_some(),
        Reach::Clusterset => {
            import::merged(world, namespace, service).is_some()
                || world.awaited_exporter(namespace, service).is_some()
        }
    };
    Found {
        used: service::traffic(cluster, &at),
        is_there,
        in_namespace: true,
    }
}

impl Found<'_> {
    /// What becomes of a policy there (reasons as GEP-713 has them).
    fn said(&self, namespace: &str, policy: &TrafficPolicy) -> (&'static str, String) {
        if !self.in_namespace {
            return ("Invalid", "it is in no namespace".to_owned());
        }
        if self.used.is_some_and(|used| !std::ptr::eq(used, policy)) {
            let why = "an older TrafficPolicy has the same target".to_owned();
            return ("Conflicted", why);
        }
        if self.is_there {
            return ("Accepted", String::new());
        }
        let why = format!("there is no {namespace}/{}", policy.service);
        ("TargetNotFound", why)
    }
}

/// What becomes of a policy because of its target.
pub(crate) fn target(
    world: &World,
    cluster: &Cluster,
    namespace: &str,
    policy: &TrafficPolicy,
) -> (&'static str, String) {
    let at = (namespace, policy.service.as_str());
    find(world, cluster, at, policy.reach).said(namespace, policy)
}

pub(super) fn said(
    observed: &Observed,
    kind: &str,
    (status, reason, message): (Truth, &str, &str),
) -> Said {
    Said {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: shortened(message),
        generation: observed.generation,
        since: None,
    }
}
