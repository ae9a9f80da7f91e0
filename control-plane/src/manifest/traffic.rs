//! How does an operator want calls to a service to be treated?

use isthmus_control_plane_core::model::{Reach, Spec, TrafficPolicy};
use isthmus_proto::ids::is_dns_name;
use isthmus_proto::resource::{self, Balancing, Limits, OutlierDetection, Retries, Timeouts};
use serde::Deserialize;

use super::meta::Span;
use super::{Document, Failure, Metadata, status};

#[derive(Deserialize)]
struct Policy {
    spec: PolicySpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicySpec {
    target_ref: TargetRef,
    #[serde(default)]
    timeouts: Option<RawTimeouts>,
    #[serde(default)]
    retries: Option<RawRetries>,
    #[serde(default)]
    outlier_detection: Option<RawOutlier>,
    #[serde(default)]
    limits: Option<RawLimits>,
    #[serde(default)]
    balancing: Option<RawBalancing>,
    #[serde(default)]
    cover_imported: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(default)]
    group: Option<String>,
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTimeouts {
    #[serde(default)]
    connect: Option<Span>,
    #[serde(default)]
    request: Option<Span>,
    #[serde(default)]
    r#try: Option<Span>,
    #[serde(default)]
    idle: Option<Span>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRetries {
    #[serde(default)]
    attempts: Option<u32>,
    #[serde(default)]
    budget_percent: Option<u32>,
    #[serde(default)]
    statuses: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawOutlier {
    #[serde(default)]
    consecutive_failures: Option<u32>,
    #[serde(default)]
    base_ejection: Option<Span>,
    #[serde(default)]
    max_ejection: Option<Span>,
    #[serde(default)]
    max_ejected_percent: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawLimits {
    #[serde(default)]
    max_in_flight: Option<u32>,
    #[serde(default)]
    max_pending: Option<u32>,
    #[serde(default)]
    max_retries: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBalancing {
    #[serde(default)]
    zone_penalty: Option<Span>,
    #[serde(default)]
    cluster_penalty: Option<Span>,
}

pub(super) fn policy(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: Policy = document.decode()?;
    let target = &raw.spec.target_ref;
    let reach = match (target.group.as_deref(), target.kind.as_str()) {
        (None | Some("" | "core"), "Service") => Reach::Cluster,
        (None | Some("multicluster.x-k8s.io"), "ServiceImport") => Reach::Clusterset,
        (_, kind) => {
            let why = format!("spec.targetRef: {kind:?} is neither Service nor ServiceImport");
            return Err(document.failure(why));
        }
    };
    if !is_dns_name(&target.name) {
        let why = format!("spec.targetRef: {:?} is no name of a service", target.name);
        return Err(document.failure(why));
    }
    let cover_imported = raw.spec.cover_imported.unwrap_or(false);
    if cover_imported && reach == Reach::Clusterset {
        let why = "spec.coverImported: an import covers them already; it is for kind Service";
        return Err(document.failure(why.to_owned()));
    }
    let service = target.name.clone();
    let body = body(&raw.spec).map_err(|why| document.failure(why))?;
    Ok(Spec::TrafficPolicy(TrafficPolicy {
        reach,
        service,
        body,
        cover_imported,
        invalid: None,
        observed: status::of_policy(document, metadata),
    }))
}

fn body(spec: &PolicySpec) -> Result<resource::TrafficPolicy, String> {
    let percent = |key: &str, value: Option<u32>| match value {
        Some(value) if value > 100 => Err(format!("{key}: {value} is more than 100")),
        value => Ok(value),
    };
    let retries = spec.retries.as_ref().map(|r| {
        let statuses = r.statuses.clone().unwrap_or_default();
        if let Some(bad) = statuses.iter().find(|code| !(400..=599).contains(*code)) {
            return Err(format!("spec.retries.statuses: {bad} is not 400 to 599"));
        }
        let budget_percent = percent("spec.retries.budgetPercent", r.budget_percent)?;
        Ok(Retries {
            attempts: r.attempts,
            budget_percent,
            statuses,
        })
    });
    let outlier = spec.outlier_detection.as_ref().map(|o| {
        Ok::<_, String>(OutlierDetection {
            consecutive_failures: o.consecutive_failures,
            base_ejection: o.base_ejection.map(Span::proto),
            max_ejection: o.max_ejection.map(Span::proto),
            max_ejected_percent: percent(
                "spec.outlierDetection.maxEjectedPercent",
                o.max_ejected_percent,
            )?,
        })
    });
    let millis =
        |span: Option<Span>| span.map(|s| u32::try_from(s.0.as_millis()).unwrap_or(u32::MAX));
    Ok(resource::TrafficPolicy {
        timeouts: spec.timeouts.as_ref().map(|t| Timeouts {
            connect: t.connect.map(Span::proto),
            request: t.request.map(Span::proto),
            r#try: t.r#try.map(Span::proto),
            idle: t.idle.map(Span::proto),
        }),
        retries: retries.transpose()?,
        outlier: outlier.transpose()?,
        limits: spec.limits.as_ref().map(|l| Limits {
            max_in_flight: l.max_in_flight,
            max_pending: l.max_pending,
            max_retries: l.max_retries,
        }),
        balancing: spec.balancing.as_ref().map(|b| Balancing {
            zone_penalty_ms: millis(b.zone_penalty),
            cluster_penalty_ms: millis(b.cluster_penalty),
            // That is the service's own to say.
            client_affinity_seconds: None,
        }),
    })
}
