//! How does an operator want calls to a service to be treated?

use std::time::Duration;

use isthmus_control_plane_core::model::{Reach, Spec, TrafficPolicy};
use isthmus_proto::bounds::traffic::{ATTEMPTS_MAX, PENALTY_MS_MAX, STATUSES_MAX};
use isthmus_proto::ids::is_dns_name;
use isthmus_proto::resource::{self, Balancing, Limits, OutlierDetection, Retries, Timeouts};
use serde::Deserialize;

use super::meta::Span;
use super::{Document, Failure, Metadata, status};

/// What leaving a zone or cluster may be charged.
const PENALTY_MAX: Duration = Duration::from_millis(PENALTY_MS_MAX as u64);

#[derive(Deserialize)]
struct Policy {
    spec: PolicySpec,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicySpec {
    /// The service, of the policy's namespace.
    target_ref: TargetRef,
    /// How long it may take.
    #[serde(default)]
    timeouts: Option<RawTimeouts>,
    /// What is tried again.
    #[serde(default)]
    retries: Option<RawRetries>,
    /// When an endpoint that fails is left alone for a while.
    #[serde(default)]
    outlier_detection: Option<RawOutlier>,
    /// What one proxy keeps open for this service at most.
    #[serde(default)]
    limits: Option<RawLimits>,
    /// How endpoints are chosen.
    #[serde(default)]
    balancing: Option<RawBalancing>,
    /// Kind Service: the cluster-local name covers the endpoints that other clusters export, too.
    #[serde(default)]
    cover_imported: Option<bool>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct TargetRef {
    /// Empty or `core` for a Service, `multicluster.x-k8s.io` for a ServiceImport.
    #[serde(default)]
    group: Option<String>,
    /// `Service`: calls to the cluster-local name. `ServiceImport`: calls to the clusterset name.
    kind: String,
    /// The name of the service.
    name: String,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawTimeouts {
    /// For each try to connect. Default: 1s.
    #[serde(default)]
    connect: Option<Span>,
    /// An HTTP request with all its tries. Default: none.
    #[serde(default)]
    request: Option<Span>,
    /// One try. Default: none.
    #[serde(default)]
    r#try: Option<Span>,
    /// Nothing moves. Default: 5m for HTTP, 1h for TCP.
    #[serde(default)]
    idle: Option<Span>,
    /// A TCP connection, a WebSocket or a request, however much still moves. Default: none.
    #[serde(default)]
    stream: Option<Span>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRetries {
    /// Tries after the first, at most 10; 0: none. Default: 2.
    #[serde(default)]
    attempts: Option<u32>,
    /// Of first tries; ten a second are always allowed. Default: 20.
    #[serde(default)]
    budget_percent: Option<u32>,
    /// Answers to idempotent requests that are tried again. Default: 502, 503, 504.
    #[serde(default)]
    statuses: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawOutlier {
    /// In a row; two fifths of it (two at least) if the row lasts half a second; 0: never ejected. Default: 5.
    #[serde(default)]
    consecutive_failures: Option<u32>,
    /// The nth ejection is n times as long. Default: 10s.
    #[serde(default)]
    base_ejection: Option<Span>,
    /// The longest ejection. Default: 300s.
    #[serde(default)]
    max_ejection: Option<Span>,
    /// Of the service's endpoints. Default: 50.
    #[serde(default)]
    max_ejected_percent: Option<u32>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawLimits {
    /// Requests and connections at a time. Default: 1024.
    #[serde(default)]
    max_in_flight: Option<u32>,
    /// Requests that wait. Default: 1024.
    #[serde(default)]
    max_pending: Option<u32>,
    /// Retries at a time. Default: 64.
    #[serde(default)]
    max_retries: Option<u32>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBalancing {
    /// What leaving the zone is charged. Default: 2ms.
    #[serde(default)]
    zone_penalty: Option<Span>,
    /// What leaving the cluster is charged. Default: 20ms.
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
    let timeouts = spec.timeouts.as_ref().map(timeouts);
    let retries = spec.retries.as_ref().map(retries);
    let outlier = spec.outlier_detection.as_ref().map(outlier);
    let balancing = spec.balancing.as_ref().map(balancing);
    Ok(resource::TrafficPolicy {
        timeouts: timeouts.transpose()?,
        retries: retries.transpose()?,
        outlier: outlier.transpose()?,
        limits: spec.limits.as_ref().map(|l| Limits {
            max_in_flight: l.max_in_flight,
            max_pending: l.max_pending,
            max_retries: l.max_retries,
        }),
        balancing: balancing.transpose()?,
    })
}

fn timeouts(raw: &RawTimeouts) -> Result<Timeouts, String> {
    let (one, request, stream) = (raw.r#try, raw.request, raw.stream);
    within("spec.timeouts.try", one, ("request", request))?;
    within("spec.timeouts.try", one, ("stream", stream))?;
    within("spec.timeouts.request", request, ("stream", stream))?;
    Ok(Timeouts {
        connect: duration("spec.timeouts.connect", raw.connect)?,
        request: duration("spec.timeouts.request", raw.request)?,
        r#try: duration("spec.timeouts.try", raw.r#try)?,
        idle: duration("spec.timeouts.idle", raw.idle)?,
        stream: duration("spec.timeouts.stream", raw.stream)?,
    })
}

fn retries(raw: &RawRetries) -> Result<Retries, String> {
    if raw.statuses.as_ref().is_some_and(Vec::is_empty) {
        return Err("spec.retries.statuses: is empty; attempts: 0 turns retries off".to_owned());
    }
    let statuses = raw.statuses.clone().unwrap_or_default();
    if let Some(bad) = statuses.iter().find(|code| !(400..=599).contains(*code)) {
        return Err(format!("spec.retries.statuses: {bad} is not 400 to 599"));
    }
    if statuses.len() > STATUSES_MAX {
        return Err(format!("spec.retries.statuses: more than {STATUSES_MAX}"));
    }
    let budget_percent = at_most("spec.retries.budgetPercent", raw.budget_percent, 100)?;
    Ok(Retries {
        attempts: at_most("spec.retries.attempts", raw.attempts, ATTEMPTS_MAX)?,
        budget_percent,
        statuses,
    })
}

fn outlier(raw: &RawOutlier) -> Result<OutlierDetection, String> {
    let base = duration("spec.outlierDetection.baseEjection", raw.base_ejection)?;
    let max = duration("spec.outlierDetection.maxEjection", raw.max_ejection)?;
    let longest = ("maxEjection", raw.max_ejection);
    within(
        "spec.outlierDetection.baseEjection",
        raw.base_ejection,
        longest,
    )?;
    let percent = "spec.outlierDetection.maxEjectedPercent";
    Ok(OutlierDetection {
        consecutive_failures: raw.consecutive_failures,
        base_ejection: base,
        max_ejection: max,
        max_ejected_percent: at_most(percent, raw.max_ejected_percent, 100)?,
    })
}

fn balancing(raw: &RawBalancing) -> Result<Balancing, String> {
    let millis = |key: &str, span: Option<Span>| match span {
        Some(Span(span)) if span > PENALTY_MAX => {
            Err(format!("spec.balancing.{key}: more than {PENALTY_MAX:?}"))
        }
        span => Ok(span.and_then(|span| u32::try_from(span.0.as_millis()).ok())),
    };
    Ok(Balancing {
        zone_penalty_ms: millis("zonePenalty", raw.zone_penalty)?,
        cluster_penalty_ms: millis("clusterPenalty", raw.cluster_penalty)?,
        // That is the service's own to say.
        client_affinity_seconds: None,
    })
}

/// A time that is longer than the one that ends it all could never apply. 0 is the default, which gives way
/// to the other.
fn within(
    key: &str,
    inner: Option<Span>,
    (name, outer): (&str, Option<Span>),
) -> Result<(), String> {
    let written = |span: Option<Span>| span.map(|span| span.0).filter(|span| !span.is_zero());
    match (written(inner), written(outer)) {
        (Some(inner), Some(outer)) if inner > outer => {
            Err(format!("{key}: {inner:?} is more than {name}, {outer:?}"))
        }
        _ => Ok(()),
    }
}

fn at_most(key: &str, value: Option<u32>, max: u32) -> Result<Option<u32>, String> {
    match value {
        Some(value) if value > max => Err(format!("{key}: {value} is more than {max}")),
        value => Ok(value),
    }
}

fn duration(key: &str, span: Option<Span>) -> Result<Option<prost_types::Duration>, String> {
    span.map(|span| span.bounded(key)).transpose()
}
