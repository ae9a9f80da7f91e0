//! What does a subscription ask, and what may be taken away from its asker?

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::ids::{ClusterId, WorkloadName};

use crate::model::{Reach, ServiceRef};
use crate::session::epoch::Epochs;
use crate::translate::{
    Answer, Client, ResourceType, authorization, direct, endpoint, gateway, route, service, trust,
    workload,
};
use crate::world::World;

/// What resources of one type belong to together: they are answered, and compared, at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Everything in the client's scope.
    All,
    /// One service.
    Service(ServiceRef),
    /// One pod that is called by its own address.
    Pod(WorkloadName),
}

/// How a type is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// By "*" only.
    Wildcard,
    /// By the client's own name only.
    Own,
    /// By service names and aliases only: a client hears of what it calls.
    ByService,
}

/// How this type is subscribed to.
pub(crate) fn asking(kind: ResourceType) -> Asking {
    match kind {
        ResourceType::TrustBundle
        | ResourceType::AccessPolicy
        | ResourceType::HandleKeys
        | ResourceType::ExportedEndpoint
        | ResourceType::ClusterFreshness
        | ResourceType::Gateway => Asking::Wildcard,
        ResourceType::Workload => Asking::Own,
        ResourceType::Service | ResourceType::Endpoint | ResourceType::Route => Asking::ByService,
    }
}

/// Who asks, and which clusters concern it.
pub(crate) struct Asker<'a> {
    pub(crate) client: &'a Client,
    /// Its own cluster, and those whose endpoints it holds.
    pub(crate) clusters: &'a BTreeSet<ClusterId>,
    /// Is it known yet whose endpoints it holds?
    pub(crate) settled: bool,
    /// What it has from another replica, and is newer.
    pub(crate) epochs: &'a Epochs,
    /// What was found already, in the same look at the world.
    pub(crate) endpoints: &'a Endpoints,
}

/// Endpoints by whom they belong to.
pub(crate) type Endpoints = BTreeMap<Subject, Answer>;

/// All that is known about a subject.
pub(crate) fn answer(
    world: &World,
    asker: &Asker<'_>,
    kind: ResourceType,
    subject: &Subject,
) -> Answer {
    let client = asker.client;
    if kind == ResourceType::Endpoint
        && let Some(found) = asker.endpoints.get(subject)
    {
        return found.clone();
    }
    match (kind, subject) {
        (ResourceType::TrustBundle, Subject::All) => trust::bundles(world),
        (ResourceType::AccessPolicy, Subject::All) => authorization::policies(world, client),
        (ResourceType::Workload, Subject::All) => workload::own(world, client),
        (ResourceType::HandleKeys, Subject::All) => gateway::keys(world, client),
        (ResourceType::ExportedEndpoint, Subject::All) => gateway::exported(world, client),
        (ResourceType::ClusterFreshness, Subject::All) => gateway::freshness(world, asker.clusters),
        (ResourceType::Gateway, Subject::All) => gateway::gateways(world, client, asker.clusters),
        (ResourceType::Service, Subject::Service(of)) => service::definition(world, client, of),
        (ResourceType::Endpoint, Subject::Service(of)) => endpoint::endpoints(world, client, of).0,
        (ResourceType::Route, Subject::Service(of)) => route::routes(world, client, of),
        (ResourceType::Service, Subject::Pod(of)) => direct::definition(world, client, of),
        (ResourceType::Endpoint, Subject::Pod(of)) => direct::endpoints(world, client, of).0,
        // Nothing can name a pod as its parent.
        (ResourceType::Route, Subject::Pod(_)) => Answer::nothing(),
        // No client can ask so.
        (ResourceType::Service | ResourceType::Endpoint | ResourceType::Route, Subject::All)
        | (
            ResourceType::TrustBundle
            | ResourceType::AccessPolicy
            | ResourceType::Workload
            | ResourceType::HandleKeys
            | ResourceType::ExportedEndpoint
            | ResourceType::ClusterFreshness
            | ResourceType::Gateway,
            Subject::Service(_) | Subject::Pod(_),
        ) => Answer::default(),
    }
}

/// Which subject a resource belongs to, by its name; `None`: no name of this type.
pub(crate) fn subject_of(kind: ResourceType, name: &str) -> Option<Subject> {
    let service = match kind {
        ResourceType::Service => name,
        ResourceType::Endpoint => name.split_once('#')?.0,
        ResourceType::Route => name.split_once('@')?.1,
        ResourceType::TrustBundle
        | ResourceType::AccessPolicy
        | ResourceType::Workload
        | ResourceType::HandleKeys
        | ResourceType::ExportedEndpoint
        | ResourceType::ClusterFreshness
        | ResourceType::Gateway => return Some(Subject::All),
    };
    let of_service = ServiceRef::of_service_name(service).map(Subject::Service);
    of_service.or_else(|| direct::of_service_name(service).map(Subject::Pod))
}

/// The cluster that an endpoint, policy or gateway comes from, by its name.
pub(crate) fn cluster_of(kind: ResourceType, name: &str) -> Option<&str> {
    let place = match kind {
        ResourceType::Endpoint => name.split_once('#')?.1,
        ResourceType::AccessPolicy => name.strip_prefix("mesh/").unwrap_or(name),
        ResourceType::Gateway | ResourceType::ClusterFreshness => name,
        ResourceType::TrustBundle
        | ResourceType::Workload
        | ResourceType::HandleKeys
        | ResourceType::ExportedEndpoint
        | ResourceType::Service
        | ResourceType::Route => return None,
    };
    place.split('/').next()
}

/// May a resource that the answer does not have be taken from the client? Not if it may well exist:
/// its cluster has not been listed, or too little is known altogether.
pub(crate) fn may_remove(
    world: &World,
    asker: &Asker<'_>,
    (kind, name): (ResourceType, &str),
    complete: bool,
) -> bool {
    if asker.epochs.holds_back(asker.client, kind, name) {
        return false;
    }
    match (kind, cluster_of(kind, name)) {
        (ResourceType::Endpoint, Some(cluster)) => {
            !world.is_unknown(cluster) && is_endpoint_gone(world, asker.client, cluster, name)
        }
        (ResourceType::AccessPolicy, Some(cluster)) => !world.is_unknown(cluster),
        (ResourceType::Gateway, Some(cluster)) if asker.clusters.contains(cluster) => {
            gateway::gateways_known(world, cluster)
        }
        // Out of its scope, as soon as that is known.
        (ResourceType::Gateway | ResourceType::ClusterFreshness, _) => asker.settled,
        (ResourceType::TrustBundle, _) => complete || world.is_believed_no_more(name),
        (
            ResourceType::Endpoint
            | ResourceType::AccessPolicy
            | ResourceType::Workload
            | ResourceType::HandleKeys
            | ResourceType::ExportedEndpoint
            | ResourceType::Service
            | ResourceType::Route,
            _,
        ) => complete,
    }
}

/// Is an endpoint that the answer does not have gone? Its pod is, or it is known that its service is
/// exported no more.
fn is_endpoint_gone(world: &World, client: &Client, cluster: &str, name: &str) -> bool {
    let (service, workload) = name.split_once('#').unwrap_or((name, ""));
    let of_service = ServiceRef::of_service_name(service);
    let local = cluster == client.cluster.as_str()
        && of_service.is_some_and(|service| service.reach == Reach::Cluster);
    let gone = || {
        let workload = workload.parse::<WorkloadName>();
        workload.is_ok_and(|workload| world.pod(&workload).is_none())
    };
    // Where a pod is called by its address its own cluster has said all: what is missing is gone.
    let direct = || direct::of_service_name(service).is_some();
    local || direct() || world.exports_known(cluster) || gone()
}
