//! Which namespaces need to know where the control plane is, and do they?

use std::collections::BTreeSet;

use crate::model::{ConfigMap, Kind, Labels, MANAGED_BY, MANAGED_LABEL, ROOTS_NAME};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::{Body, Plan, Settings, Subject, reference};

/// The label of a namespace in which pods get sidecars.
const INJECT_LABEL: &str = "isthmus.dev/inject";
/// Its values that say so.
const INJECT: [&str; 2] = ["true", "enabled"];

/// Roots by which a proxy checks the control plane's certificate, PEM.
const ROOTS_KEY: &str = "roots.pem";
/// The trust domain of the pods that read it.
const DOMAIN_KEY: &str = "trust-domain";
/// HOST:PORT of discovery and certificates.
const ADDRESS_KEY: &str = "control-plane";

/// The ConfigMap of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsBody {
    /// The one that is to be changed; empty: there is none yet, and none is to be overwritten.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// What it holds.
    pub data: Labels,
}

/// The namespaces that have, or could need, a ConfigMap.
pub(super) fn namespaces(cluster: &Cluster) -> BTreeSet<&str> {
    let with_pods = cluster.pods.spaces();
    let with_one = cluster.roots.spaces();
    let labelled = cluster.namespaces();
    with_pods.chain(with_one).chain(labelled).collect()
}

pub(super) fn look(
    (world, cluster, namespace): (&World, &Cluster, &str),
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    let seen = [Kind::ConfigMap, Kind::Pod, Kind::Namespace];
    // What can't be seen can't be compared; and where nobody says, what stands there stays.
    let (Some(advertised), true) = (&world.advertised, seen.iter().all(|k| cluster.sees(*k)))
    else {
        return;
    };
    let at = reference(cluster, Kind::ConfigMap, namespace, ROOTS_NAME);
    let found = cluster.roots.get(namespace, ROOTS_NAME).map(|e| &e.value);
    let address = advertised.address_for(&cluster.id);
    let wanted = address.filter(|_| is_meshed(cluster, namespace));
    let managed = found.and_then(|found| found.managed.as_ref());
    let Some(address) = wanted else {
        if let Some(managed) = managed.filter(|_| settings.removals) {
            let uid = managed.uid.clone();
            plan.write(at, Body::Delete { uid }, subject);
        }
        return;
    };
    if found.is_some() && managed.is_none() {
        let why = "a ConfigMap of this name was not made by the mesh, and stays as it is: \
                   sidecars of this namespace are not told where the control plane is";
        plan.refuse(at, why, subject);
        return;
    }
    let body = RootsBody {
        uid: managed.map(|m| m.uid.clone()).unwrap_or_default(),
        labels: Labels::from([(MANAGED_LABEL.to_owned(), MANAGED_BY.to_owned())]),
        data: Labels::from([
            (ROOTS_KEY.to_owned(), advertised.roots_pem.clone()),
            (DOMAIN_KEY.to_owned(), cluster.trust_domain.to_string()),
            (ADDRESS_KEY.to_owned(), address.to_owned()),
        ]),
    };
    if found.is_some_and(|found| found.digest == ConfigMap::digest(&body.data)) {
        plan.unchanged("roots");
    } else {
        plan.write(at, Body::Roots(body), subject);
    }
}

/// Are there pods with a sidecar, or will there be some? A namespace that is not there has none.
fn is_meshed(cluster: &Cluster, namespace: &str) -> bool {
    let Some(labels) = cluster.namespace(namespace) else {
        return false;
    };
    let label = labels.get(INJECT_LABEL).map(String::as_str);
    let mut pods = cluster.pods.within(namespace);
    label.is_some_and(|value| INJECT.contains(&value)) || pods.any(|(_, pod)| pod.value.meshed)
}
