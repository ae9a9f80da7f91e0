//! What do the Gateway API's routes say?
//!
//! Only parents that are a Service or a ServiceImport count (GAMMA). What the mesh can't do is said,
//! never left out: the requests that it is about get an error, so that none of them passes by what
//! the author asked for.

mod filter;
mod matches;

use isthmus_control_plane_core::model::{ParentRef, Reach, Route, RouteKind, ServiceRef, Spec};
use isthmus_proto::bounds::route::{
    ATTEMPTS_MAX, BACKENDS_MAX, FILTERS_MAX, HOSTS_MAX, MATCHES_MAX, RULES_MAX, TEXT_BYTES_MAX,
    WEIGHT_MAX,
};
use isthmus_proto::ids::{Namespace, is_dns_name, is_token};
use isthmus_proto::resource::{self, RouteMatch, RouteRule, WeightedBackend, route_rule};
use serde::Deserialize;

use super::meta::Span;
use super::{Bad, DEFAULT_NAMESPACE, Document, Failure, Metadata, Scope, Understood, status};
use filter::RawFilter;
use matches::RawMatch;

/// The group of ServiceImport.
const MULTICLUSTER: &str = "multicluster.x-k8s.io";
#[derive(Deserialize)]
struct RouteObject {
    spec: RouteSpec,
    #[serde(default)]
    status: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteSpec {
    #[serde(default)]
    parent_refs: Vec<RawParent>,
    #[serde(default)]
    hostnames: Option<Vec<String>>,
    #[serde(default)]
    rules: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawParent {
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    name: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    section_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    #[serde(default)]
    matches: Option<Vec<RawMatch>>,
    #[serde(default)]
    filters: Option<Vec<RawFilter>>,
    #[serde(default)]
    backend_refs: Option<Vec<RawBackend>>,
    #[serde(default)]
    timeouts: Option<RawTimeouts>,
    #[serde(default)]
    retry: Option<RawRetry>,
    #[serde(default)]
    session_persistence: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTimeouts {
    #[serde(default)]
    request: Option<Span>,
    #[serde(default)]
    backend_request: Option<Span>,
}

#[derive(Deserialize)]
struct RawRetry {
    #[serde(default)]
    codes: Option<Vec<u32>>,
    #[serde(default)]
    attempts: Option<u32>,
    #[serde(default)]
    backoff: Option<Span>,
}

#[derive(Deserialize)]
pub(super) struct RawBackend {
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    name: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    filters: Option<Vec<RawFilter>>,
}

pub(super) fn route(
    document: &Document<'_>,
    kind: &str,
    metadata: &Metadata,
) -> Result<Understood, Failure> {
    let raw: RouteObject = document.decode()?;
    let bad = |bad: Bad| document.failure(bad.0);
    let home = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let home: Namespace = home
        .parse()
        .map_err(|e| bad(Bad(format!("metadata.namespace: {e}"))))?;
    let kind = match kind {
        "GRPCRoute" => RouteKind::Grpc,
        "TCPRoute" => RouteKind::Tcp,
        "TLSRoute" => RouteKind::Tls,
        _ => RouteKind::Http,
    };
    let mut parents = Vec::new();
    let mut said = Vec::new();
    for parent in &raw.spec.parent_refs {
        match parent_of(parent, &home) {
            Ok(parent) => parents.extend(parent),
            Err(Bad(why)) => said.push(format!("spec.parentRefs: {why}")),
        }
    }
    // A route that is for nothing of ours can't be wrong for us.
    let ours = raw.spec.parent_refs.iter().any(RawParent::is_service);
    let mut found = rules(&raw.spec, kind, &home);
    let hostnames = hostnames(&raw.spec, kind, &mut found);
    let Rules {
        rules,
        failing,
        dropped,
        limited,
        invalid,
        incompatible,
    } = if ours { found } else { Rules::default() };
    said.extend(invalid.iter().chain(&failing).chain(&dropped).cloned());
    if kind != RouteKind::Tls {
        // They are not used, and malformed all the same.
        let hosts = raw.spec.hostnames.iter().flatten();
        said.extend(
            hosts
                .filter_map(|host| hostname(host).err())
                .map(|bad| bad.0),
        );
    }
    let problem = (ours && !said.is_empty()).then(|| document.failure(said.join("; ")));
    let route = Route {
        kind,
        parents,
        hostnames,
        rules,
        invalid,
        incompatible,
        failing,
        dropped,
        limited,
        generation: metadata.generation(),
        statuses: status::parents(raw.status.as_ref()),
    };
    Ok(Understood {
        spec: Spec::Route(route),
        namespace: Scope::Namespaced,
        invalid: problem,
    })
}

/// The rules of a route, as far as they are understood.
#[derive(Default)]
struct Rules {
    rules: Vec<RouteRule>,
    failing: Vec<String>,
    dropped: Vec<String>,
    /// What is used with another value than the one that is written.
    limited: Vec<String>,
    /// Why none is used as it is written.
    invalid: Option<String>,
    incompatible: bool,
}

/// A rule that asks for what the mesh can't do does not vanish: its requests are answered with an
/// error, so that none of them passes by what the rule would have done. Only if it is not known
/// which requests it means is it left out; if that is so of all, every request is one of them.
fn rules(spec: &RouteSpec, kind: RouteKind, home: &Namespace) -> Rules {
    let mut found = Rules::default();
    if let Err(Bad(why)) = at_most("spec.rules", spec.rules.as_deref(), RULES_MAX) {
        found.rules.push(RouteRule::default());
        found.invalid = Some(why);
        return found;
    }
    let mut used = 0;
    for (at, raw) in spec.rules.iter().flatten().enumerate() {
        let bad = match rule_of(raw, kind, home) {
            Ok(rule) => {
                found.rules.push(rule);
                used += 1;
                let asked = raw.retry.as_ref().and_then(|retry| retry.attempts);
                if let Some(asked) = asked.filter(|asked| *asked > ATTEMPTS_MAX) {
                    found.limited.push(format!(
                        "spec.rules[{at}].retry.attempts: {asked} counts as {ATTEMPTS_MAX}, which is the most"
                    ));
                }
                continue;
            }
            Err(bad) => bad,
        };
        found.incompatible |= filter::are_incompatible(raw.filters.as_deref());
        let place = format!("spec.rules[{at}]: {}", bad.0);
        match matches_of(raw, kind) {
            Ok(matches) => {
                found.rules.push(RouteRule {
                    matches,
                    ..RouteRule::default()
                });
                found.failing.push(place);
            }
            Err(_) => found.dropped.push(place),
        }
    }
    if used == 0 && !(found.failing.is_empty() && found.dropped.is_empty()) {
        let all = std::mem::take(&mut found.failing).into_iter();
        let all: Vec<_> = all.chain(std::mem::take(&mut found.dropped)).collect();
        found.invalid = Some(all.join("; "));
        if found.rules.is_empty() {
            found.rules.push(RouteRule::default());
        }
    } else {
        found.incompatible = false;
    }
    found
}

/// The server names of a TLSRoute. GEP-1294: a mesh infers nothing from those of other kinds, which
/// may be a gateway's; it is the Service that is called. A TLSRoute has nothing else to go by.
fn hostnames(spec: &RouteSpec, kind: RouteKind, found: &mut Rules) -> Vec<String> {
    if kind != RouteKind::Tls {
        return Vec::new();
    }
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    unread.extend(
        at_most("spec.hostnames", spec.hostnames.as_deref(), HOSTS_MAX)
            .err()
            .map(|bad| bad.0),
    );
    for host in spec.hostnames.iter().flatten().take(HOSTS_MAX) {
        match hostname(host) {
            Ok(host) => read.push(host),
            Err(Bad(why)) => unread.push(why),
        }
    }
    if read.is_empty() && !unread.is_empty() {
        // Without a name it is for all.
        *found = Rules {
            rules: vec![RouteRule::default()],
            invalid: Some(unread.join("; ")),
            ..Rules::default()
        };
    } else {
        // Connections for these match no route, and are refused.
        found.failing.extend(unread);
    }
    read
}

impl RawParent {
    fn is_service(&self) -> bool {
        reach(
            self.group.as_deref(),
            self.kind.as_deref().unwrap_or("Gateway"),
        )
        .is_some()
    }
}

/// How far a reference reaches; `None`: not to a service.
fn reach(group: Option<&str>, kind: &str) -> Option<Reach> {
    match (group, kind) {
        (None | Some("" | "core"), "Service") => Some(Reach::Cluster),
        (Some(MULTICLUSTER), "ServiceImport") => Some(Reach::Clusterset),
        _ => None,
    }
}

fn service(
    reach: Reach,
    namespace: Option<&str>,
    name: &str,
    home: &Namespace,
) -> Result<ServiceRef, Bad> {
    if !is_dns_name(name) {
        return Err(Bad(format!("{name:?} is no name of a service")));
    }
    let namespace = match namespace {
        Some(text) => text.parse()?,
        None => home.clone(),
    };
    Ok(ServiceRef {
        reach,
        namespace,
        name: name.to_owned(),
    })
}

fn parent_of(raw: &RawParent, home: &Namespace) -> Result<Option<ParentRef>, Bad> {
    // Without a kind it is a Gateway: not ours.
    let kind = raw.kind.as_deref().unwrap_or("Gateway");
    let Some(reach) = reach(raw.group.as_deref(), kind) else {
        return Ok(None);
    };
    let service = service(reach, raw.namespace.as_deref(), &raw.name, home)?;
    Ok(Some(ParentRef {
        service,
        port: raw.port,
        section: raw.section_name.clone().filter(|name| !name.is_empty()),
        explicit: raw.namespace.is_some(),
    }))
}

/// A leading "*." stands for any number of labels.
fn hostname(text: &str) -> Result<String, Bad> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_prefix("*.").unwrap_or(&lower);
    if is_dns_name(plain) {
        Ok(lower)
    } else {
        Err(Bad(format!("spec.hostnames: {text:?}")))
    }
}

fn rule_of(raw: &RawRule, kind: RouteKind, home: &Namespace) -> Result<RouteRule, Bad> {
    if raw.session_persistence.is_some() {
        return Err(Bad("sessionPersistence is not supported".to_owned()));
    }
    let timeouts = raw.timeouts.as_ref();
    let layer_4 = matches!(kind, RouteKind::Tcp | RouteKind::Tls);
    if layer_4 && raw.filters.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(Bad("filters: there are none at layer 4".to_owned()));
    }
    at_most("backendRefs", raw.backend_refs.as_deref(), BACKENDS_MAX)?;
    let matches = matches_of(raw, kind)?;
    let mut rule = RouteRule {
        filters: filter::of_rule(raw.filters.as_deref(), &matches, home)?,
        matches,
        backends: Vec::new(),
        request_timeout: limit("timeouts.request", timeouts.and_then(|t| t.request))?,
        backend_timeout: limit(
            "timeouts.backendRequest",
            timeouts.and_then(|t| t.backend_request),
        )?,
        retries: raw.retry.as_ref().map(retries).transpose()?,
    };
    // As the API server has it.
    if let (Some(whole), Some(each)) = (&rule.request_timeout, &rule.backend_timeout)
        && (whole.seconds, whole.nanos) < (each.seconds, each.nanos)
        && (whole.seconds, whole.nanos) > (0, 0)
    {
        let why = "timeouts.backendRequest: is longer than timeouts.request";
        return Err(Bad(why.to_owned()));
    }
    for backend in raw.backend_refs.iter().flatten() {
        rule.backends.push(backend_of(backend, home)?);
    }
    Ok(rule)
}

fn limit(key: &str, span: Option<Span>) -> Result<Option<prost_types::Duration>, Bad> {
    span.map(|span| span.bounded(key).map_err(Bad)).transpose()
}

fn matches_of(raw: &RawRule, kind: RouteKind) -> Result<Vec<RouteMatch>, Bad> {
    let one = |one| match kind {
        RouteKind::Http => matches::http(one),
        RouteKind::Grpc => matches::grpc(one),
        RouteKind::Tcp | RouteKind::Tls => Err(Bad(
            "matches: there is nothing to match at layer 4".to_owned(),
        )),
    };
    at_most("matches", raw.matches.as_deref(), MATCHES_MAX)?;
    raw.matches.iter().flatten().map(one).collect()
}

fn at_most<T>(key: &str, list: Option<&[T]>, max: usize) -> Result<(), Bad> {
    match list {
        Some(list) if list.len() > max => Err(Bad(format!("{key}: more than {max}"))),
        Some(_) | None => Ok(()),
    }
}

fn retries(raw: &RawRetry) -> Result<route_rule::Retries, Bad> {
    let statuses = raw.codes.clone().unwrap_or_default();
    if let Some(code) = statuses.iter().find(|code| !(400..=599).contains(*code)) {
        return Err(Bad(format!("retry.codes: {code} is not 400 to 599")));
    }
    // GEP-1731: without attempts the implementation chooses; ours is 2 (`Retries.attempts`).
    // It names no limit either: what is more than ours is tried as often as we do (`Rules.limited`).
    let attempts = raw.attempts.unwrap_or(2).min(ATTEMPTS_MAX);
    Ok(route_rule::Retries {
        attempts,
        statuses,
        backoff: limit("retry.backoff", raw.backoff)?,
    })
}

/// A backend that is no service has an empty name: its share of the requests gets 500, as the
/// Gateway API says.
fn backend_of(raw: &RawBackend, home: &Namespace) -> Result<WeightedBackend, Bad> {
    let kind = raw.kind.as_deref().unwrap_or("Service");
    let named = match reach(raw.group.as_deref(), kind) {
        Some(reach) => service(reach, raw.namespace.as_deref(), &raw.name, home)?.service_name(),
        None => String::new(),
    };
    let port = match raw.port {
        Some(port) if port > 0 => u32::from(port),
        _ if named.is_empty() => 0,
        _ => return Err(Bad(format!("backendRefs: {:?} needs a port", raw.name))),
    };
    let filters = filter::of_backend(raw.filters.as_deref(), home)?;
    if let Some(weight) = raw.weight.filter(|weight| *weight > WEIGHT_MAX) {
        let why = format!("backendRefs.weight: {weight} is more than {WEIGHT_MAX}");
        return Err(Bad(why));
    }
    Ok(WeightedBackend {
        service: named,
        port,
        weight: raw.weight,
        filters,
    })
}

/// A header, as matchers and modifiers name it.
fn header_name(name: &str) -> Result<String, Bad> {
    if name.len() > 256 || !is_token(name.as_bytes()) {
        return Err(Bad(format!("{name:?} is no header name")));
    }
    Ok(name.to_ascii_lowercase())
}

fn exact(text: &str) -> resource::StringMatch {
    resource::StringMatch {
        kind: Some(resource::string_match::Kind::Exact(text.to_owned())),
    }
}

fn regex(text: &str) -> resource::StringMatch {
    resource::StringMatch {
        kind: Some(resource::string_match::Kind::Regex(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
