//! What do the clusters, their sources and the authorities look like to Prometheus?

use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::world::State;

use super::{Admin, ClusterView, state};
use crate::metrics::Page;
use crate::source::{KindReport, KindState, Report};

impl Admin {
    pub(super) fn metrics(&self) -> String {
        let mut page = Page::default();
        self.metrics.write(&mut page);
        crate::kubernetes::metrics::write(&self.fleet.apis().borrow(), &mut page);
        let clusters = self.clusters();
        freshness(&clusters, &mut page);
        sources(&clusters, &mut page);
        kinds(&clusters, &mut page);
        saved(&clusters, &mut page);
        page.head(
            "isthmus_discovery_sessions",
            "Discovery streams that are open.",
            "gauge",
        );
        page.sample("isthmus_discovery_sessions", &[], self.clients.count());
        page.head(
            "isthmus_world_generation",
            "Grows with every change.",
            "gauge",
        );
        let generation = self.hub.read(|world| world.generation());
        page.sample("isthmus_world_generation", &[], generation);
        let end = "isthmus_issuer_expires_timestamp_seconds";
        page.head(end, "When the issuing certificate ends.", "gauge");
        for authority in self.authorities.all() {
            let at = authority
                .not_after()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let labels = [("trust_domain", authority.trust_domain().as_str())];
            page.sample(end, &labels, at.as_secs());
        }
        page.into_text()
    }
}

/// A family with one sample for each cluster that has one.
fn family<T: std::fmt::Display>(
    page: &mut Page,
    clusters: &[ClusterView],
    (name, help): (&str, &str),
    value: impl Fn(&ClusterView) -> Option<T>,
) {
    page.head(name, help, "gauge");
    for view in clusters {
        if let Some(value) = value(view) {
            page.sample(name, &[("cluster", &view.cluster)], value);
        }
    }
}

fn freshness(clusters: &[ClusterView], page: &mut Page) {
    let about = ("isthmus_cluster_up", "1: listed in full and watched.");
    family(page, clusters, about, |view| {
        Some(u8::from(view.state == state(State::Synced)))
    });
    let about = (
        "isthmus_cluster_age_seconds",
        "Since the view of the cluster was last known to be right.",
    );
    family(page, clusters, about, |view| view.age_seconds);
    let about = (
        "isthmus_credential_expires_timestamp_seconds",
        "When the token by which the cluster is seen ends.",
    );
    family(page, clusters, about, |view| view.credential_ends);
    let name = "isthmus_cluster_objects";
    page.head(name, "Objects by kind.", "gauge");
    for view in clusters {
        for (kind, count) in &view.objects {
            let labels = [("cluster", view.cluster.as_str()), ("kind", kind)];
            page.sample(name, &labels, count);
        }
    }
}

fn sources(clusters: &[ClusterView], page: &mut Page) {
    let about = (
        "isthmus_withheld_addresses",
        "Addresses of pods that others are not told, because of declared ranges.",
    );
    family(page, clusters, about, |view| Some(view.withheld_addresses));
    let about = (
        "isthmus_source_errors",
        "Files or objects that are not understood in full.",
    );
    family(page, clusters, about, |view| {
        let report = view.source.as_ref();
        Some(report.map_or(0, Report::not_understood))
    });
    let name = "isthmus_source_panics_total";
    page.head(name, "Looks at a cluster that panicked.", "counter");
    for view in clusters {
        let panics = view.source.as_ref().map_or(0, |report| report.panics);
        page.sample(name, &[("cluster", &view.cluster)], panics);
    }
}

/// A family with one sample for each cluster and kind that has one.
fn by_kind<T: std::fmt::Display>(
    page: &mut Page,
    clusters: &[ClusterView],
    (name, help, kind): (&str, &str, &str),
    value: impl Fn(&KindReport) -> Option<T>,
) {
    page.head(name, help, kind);
    for view in clusters {
        let kinds = view.source.iter().flat_map(|report| &report.kinds);
        for (kind, report) in kinds {
            if let Some(value) = value(report) {
                let labels = [("cluster", view.cluster.as_str()), ("kind", kind)];
                page.sample(name, &labels, value);
            }
        }
    }
}

fn kinds(clusters: &[ClusterView], page: &mut Page) {
    let now = SystemTime::now();
    let about = (
        "isthmus_kind_up",
        "1: listed and watched, or the cluster has no such kind.",
        "gauge",
    );
    by_kind(page, clusters, about, |report| {
        Some(match report.state {
            KindState::Watching | KindState::Absent => 1,
            KindState::Unknown
            | KindState::Listing
            | KindState::Lost
            | KindState::Forbidden
            | KindState::Unserved => 0,
        })
    });
    let about = (
        "isthmus_kind_age_seconds",
        "Since the view of the kind was last known to be right.",
        "gauge",
    );
    by_kind(page, clusters, about, |report| {
        let age = now.duration_since(report.confirmed_at?).unwrap_or_default();
        Some(age.as_secs_f64())
    });
    let about = (
        "isthmus_kind_lists_total",
        "Full lists that were asked for.",
        "counter",
    );
    by_kind(page, clusters, about, |report| Some(report.lists));
    let about = (
        "isthmus_kind_watch_restarts_total",
        "Watches that were begun again.",
        "counter",
    );
    by_kind(page, clusters, about, |report| Some(report.restarts));
    let about = (
        "isthmus_kind_bytes_total",
        "Bytes that lists and watches brought.",
        "counter",
    );
    by_kind(page, clusters, about, |report| Some(report.bytes));
}

fn saved(clusters: &[ClusterView], page: &mut Page) {
    let about = (
        "isthmus_saved_world_bytes",
        "Length of the cluster's file on disk.",
    );
    family(page, clusters, about, |view| {
        view.saved.as_ref().map(|note| note.bytes)
    });
    let about = (
        "isthmus_saved_world_failed",
        "1: the last write has failed, and the file is older than what is known.",
    );
    family(page, clusters, about, |view| {
        let note = view.saved.as_ref()?;
        Some(u8::from(note.failed.is_some()))
    });
}
