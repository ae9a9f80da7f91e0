//! Which access policies apply to the client's pod?
//!
//! Nothing is dropped: a policy that was not understood in full is sent as one that denies
//! everything in its scope. Who may speak for a cluster or for the mesh is not the policy's choice.

use isthmus_proto::resource;

mod check;
mod text;

pub use self::check::check;
use crate::model::{AccessPolicy, PolicyTarget};
use crate::translate::{Answer, Client, Encoded, List, encode, workload};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::index::selects;
use crate::world::table::Entry;

/// A policy that selects the client.
pub(crate) struct Applying<'a> {
    pub(crate) cluster: &'a Cluster,
    namespace: &'a str,
    name: &'a str,
    pub(crate) entry: &'a Entry<AccessPolicy>,
    /// As far as its author may reach.
    pub(crate) target: PolicyTarget,
    overreach: bool,
}

/// The client's policies. Unknown while its pod is: who is not known is not told what it may accept,
/// and denies.
pub(crate) fn policies(world: &World, client: &Client) -> Answer {
    let own = world.listed(client.cluster.as_str());
    if own
        .and_then(|cluster| workload::pod(cluster, client))
        .is_none()
    {
        return Answer::unknown();
    }
    if !world.mesh_authors_listed() {
        return Answer::unknown();
    }
    let applying = applying(world, client);
    let says = applying.iter().filter(|policy| {
        let written = &policy.entry.value;
        if only_notes(written) {
            return policy.invalidity().is_none();
        }
        written.body.is_some() || written.invalid.is_some() || policy.overreach
    });
    let list: List = says
        .map(|policy| {
            let cluster = policy.cluster.id.clone();
            let at = (cluster, policy.namespace.to_owned(), policy.name.to_owned());
            world.cache.policy(at, || policy.encode())
        })
        .collect();
    Answer {
        lists: vec![list],
        known: true,
        complete: true,
    }
}

/// All that select the client: its own cluster's, and those for the mesh.
pub(crate) fn applying<'a>(world: &'a World, client: &Client) -> Vec<Applying<'a>> {
    let listed = world.clusters.values().filter(|cluster| cluster.listed());
    let mut found = Vec::new();
    for cluster in listed {
        for (namespace, name, entry) in cluster.policies.iter() {
            let (target, overreach) = reach(world, namespace, &entry.value.target);
            let policy = Applying {
                cluster,
                namespace,
                name,
                entry,
                target,
                overreach,
            };
            if policy.selects(world, client) {
                found.push(policy);
            }
        }
    }
    found
}

/// The target that counts: only system namespaces speak for more than themselves.
fn reach(world: &World, namespace: &str, target: &PolicyTarget) -> (PolicyTarget, bool) {
    match target {
        PolicyTarget::Mesh | PolicyTarget::Cluster if !world.is_system(namespace) => {
            (PolicyTarget::Namespace, true)
        }
        PolicyTarget::Mesh
        | PolicyTarget::Cluster
        | PolicyTarget::Namespace
        | PolicyTarget::Services(_)
        | PolicyTarget::Workloads(_) => (target.clone(), false),
    }
}

impl Applying<'_> {
    fn selects(&self, world: &World, client: &Client) -> bool {
        if self.cluster.id != client.cluster {
            return self.target == PolicyTarget::Mesh && world.is_mesh_author(&self.cluster.id);
        }
        let here = self.namespace == client.namespace();
        match &self.target {
            PolicyTarget::Mesh | PolicyTarget::Cluster => true,
            PolicyTarget::Namespace => here,
            PolicyTarget::Workloads(labels) => {
                let pod = self
                    .cluster
                    .pods
                    .get(client.namespace(), client.workload.pod());
                // An unknown pod may have the labels: rather too strict than too lax.
                here && pod.is_none_or(|pod| selects(labels, &pod.value.labels))
            }
            PolicyTarget::Services(services) => {
                here && services.iter().any(|service| self.backs(service, client))
            }
        }
    }

    fn backs(&self, service: &str, client: &Client) -> bool {
        let Some(entry) = self.cluster.services.get(self.namespace, service) else {
            return false;
        };
        if entry.value.selector.is_empty() {
            return self
                .cluster
                .slicing(self.namespace, client.workload.pod())
                .contains(service);
        }
        let pod = self.cluster.pods.get(self.namespace, client.workload.pod());
        pod.is_none_or(|pod| selects(&entry.value.selector, &pod.value.labels))
    }

    fn invalidity(&self) -> Option<String> {
        unfit(&self.entry.value, self.overreach)
    }

    fn encode(&self) -> Encoded {
        let written = &self.entry.value;
        let invalid = self.invalidity();
        let body = written.body.clone().unwrap_or_default();
        let name = self.full_name();
        let (action, rules, invalid) = match invalid {
            None => (body.action, body.rules, String::new()),
            Some(why) => (resource::Action::Deny.into(), Vec::new(), why),
        };
        let scope = self.scope();
        let message = resource::AccessPolicy {
            name: name.clone(),
            action,
            rules,
            scope,
            origin: None,
            invalid,
        };
        encode(&name, message, &self.cluster.id, Some(self.entry.stamp))
    }

    /// `east/shop/viewers`; `mesh/east/isthmus-system/default-deny` for the whole mesh.
    fn full_name(&self) -> String {
        let mesh = if self.target == PolicyTarget::Mesh {
            "mesh/"
        } else {
            ""
        };
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        format!(
            "{mesh}{}/{}{slash}{}",
            self.cluster.id, self.namespace, self.name
        )
    }

    fn scope(&self) -> String {
        match &self.target {
            PolicyTarget::Mesh => "mesh".to_owned(),
            PolicyTarget::Cluster => format!("cluster {}", self.cluster.id),
            PolicyTarget::Namespace => format!("namespace {}/{}", self.cluster.id, self.namespace),
            PolicyTarget::Services(services) => {
                let of = |service| format!("{}/{}/{service}", self.cluster.id, self.namespace);
                let services: Vec<String> = services.iter().map(of).collect();
                format!("service {}", services.join(", "))
            }
            PolicyTarget::Workloads(labels) => {
                let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let labels = labels.join(",");
                format!(
                    "workloads {}/{} with {labels}",
                    self.cluster.id, self.namespace
                )
            }
        }
    }
}

const OVERREACH: &str = "only a system namespace can speak for the cluster or the mesh";

/// Why a policy as written cannot be applied; `None`: it can.
pub(crate) fn invalidity(world: &World, namespace: &str, policy: &AccessPolicy) -> Option<String> {
    let (_, overreach) = reach(world, namespace, &policy.target);
    unfit(policy, overreach)
}

/// The same, with what comes of it.
pub(crate) fn verdict(world: &World, namespace: &str, policy: &AccessPolicy) -> Option<String> {
    let why = invalidity(world, namespace, policy)?;
    Some(match only_notes(policy) {
        true => format!("notes nothing, and changes no verdict: {why}"),
        false => format!("denies everything in its scope: {why}"),
    })
}

fn unfit(policy: &AccessPolicy, overreach: bool) -> Option<String> {
    let why = policy.invalid.clone();
    let why = why.or_else(|| overreach.then(|| OVERREACH.to_owned()));
    why.or_else(|| policy.body.as_ref().and_then(|body| check(body).err()))
}

/// An Audit changes no verdict, and so does not deny where it is not understood, either.
fn only_notes(policy: &AccessPolicy) -> bool {
    let body = policy.body.as_ref();
    body.is_some_and(|body| body.action == i32::from(resource::Action::Audit))
}
