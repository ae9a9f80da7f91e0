//! What became of an export?

use std::collections::BTreeSet;

use crate::import::{Contradiction, Merged};
use crate::model::{Managed, Said, Service, ServiceType, Truth};
use crate::translate::endpoint::{Backend, backends};
use crate::world::World;
use crate::world::cluster::Cluster;

/// Longest message of a condition, in characters.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// May this service be offered to other clusters?
pub(super) fn can_be_exported(service: &Service) -> bool {
    service.kind != ServiceType::ExternalName && service.managed.is_none()
}

/// The three conditions of a cluster's ServiceExport (`v1beta1`). `merged`: what all exports of the
/// name make together. `taken`: where it is not imported, because the name is somebody else's.
pub(crate) fn verdict(
    world: &World,
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    merged: Option<&Merged>,
    taken: &[String],
) -> Vec<Said> {
    let service = cluster.services.get(namespace, name);
    let refused = match service.map(|entry| &entry.value) {
        None => Some(("NoService", "there is no service of this name", "Pending")),
        Some(service) if service.kind == ServiceType::ExternalName => Some((
            "InvalidServiceType",
            "an ExternalName service cannot be exported",
            "Failed",
        )),
        Some(Service {
            managed: Some(Managed { .. }),
            ..
        }) => Some((
            "InvalidServiceType",
            "a service that was made for an import cannot be exported",
            "Failed",
        )),
        Some(_) => None,
    };
    let observed = cluster
        .exports
        .get(namespace, name)
        .map(|e| &e.value.observed);
    let generation = observed.map_or(0, |o| o.generation);
    let said = |kind: &str, status: Truth, reason: &str, message: &str| Said {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: shortened(message),
        generation,
        since: None,
    };
    if let Some((reason, message, ready)) = refused {
        return vec![
            said("Valid", Truth::False, reason, message),
            said("Ready", Truth::False, ready, message),
            said("Conflict", Truth::False, "NoConflicts", ""),
        ];
    }
    let conflicts = merged.map(|m| m.conflicts.as_slice()).unwrap_or_default();
    let reasons: BTreeSet<Contradiction> = conflicts.iter().map(|c| c.reason).collect();
    let reasons: Vec<_> = reasons.into_iter().map(Contradiction::as_str).collect();
    let messages: Vec<_> = conflicts.iter().map(|c| c.message.as_str()).collect();
    let conflict = if reasons.is_empty() {
        // As long as an exporter is unknown, nobody knows that a conflict is gone.
        let before = observed.and_then(|o| o.conditions.iter().find(|c| c.kind == "Conflict"));
        before
            .filter(|c| c.status == Truth::True)
            .filter(|_| world.awaited_exporter(namespace, name).is_some())
            .cloned()
            .unwrap_or_else(|| said("Conflict", Truth::False, "NoConflicts", ""))
    } else {
        said(
            "Conflict",
            Truth::True,
            &reasons.join(","),
            &messages.join("; "),
        )
    };
    let ready = complaints(cluster, (namespace, name), taken);
    vec![
        said("Valid", Truth::True, "Valid", ""),
        said("Ready", Truth::True, "Ready", &ready),
        conflict,
    ]
}

/// What is to be said of an export that is as it should be.
fn complaints(cluster: &Cluster, at: (&str, &str), taken: &[String]) -> String {
    let unreached = out_of_reach(cluster, at).into_iter();
    let all: Vec<String> = unreached.chain(taken.iter().cloned()).collect();
    all.join("; ")
}

/// Why nobody in another cluster can call what is exported: none of its endpoints has a sidecar.
pub(crate) fn out_of_reach(cluster: &Cluster, (namespace, name): (&str, &str)) -> Option<String> {
    let endpoints = backends(cluster, namespace, name);
    let reached = endpoints.iter().any(Backend::is_meshed);
    (!endpoints.is_empty() && !reached).then(|| {
        let count = endpoints.len();
        format!("none of {count} endpoints has a sidecar: other clusters can't call it")
    })
}

/// A message that fits into a condition.
pub(crate) fn shortened(message: &str) -> String {
    if message.chars().count() <= MESSAGE_CHARS_MAX {
        return message.to_owned();
    }
    let kept: String = message
        .chars()
        .take(MESSAGE_CHARS_MAX.saturating_sub(4))
        .collect();
    format!("{kept} ...")
}
