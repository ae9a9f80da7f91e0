//! Who may call, in the operator's words?
//!
//! A policy that is not understood in full is not left out: it denies everything where it was
//! written to apply (SECURITY S13).

use std::collections::BTreeMap;

use isthmus_control_plane_core::model::{AccessPolicy, PolicyTarget, Spec};
use isthmus_control_plane_core::translate::check_policy;
use isthmus_proto::ids::{is_dns_name, is_token};
use isthmus_proto::resource::{
    self, AccessRule, Action, Caller, HeaderMatch, InboundMode, Operation,
};
use serde::Deserialize;

mod text;

use super::{Bad, Document, Failure, Metadata, Scope, Understood, status};
use text::{RawMatch, RawString, matcher_of, string};

/// Most targets of one policy.
const TARGETS_MAX: usize = 16;

#[derive(Deserialize)]
struct Policy {
    spec: PolicySpec,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicySpec {
    /// `Mesh`, `Cluster`, `Namespace`, `Service` or `Workload`; follows from the target where it is not
    /// written. The mesh and the cluster only from the namespace `isthmus-system`.
    #[serde(default)]
    scope: Option<String>,
    /// Services of the policy's namespace, at most 16.
    #[serde(default)]
    target_refs: Option<Vec<TargetRef>>,
    /// Pods of the policy's namespace.
    #[serde(default)]
    selector: Option<Selector>,
    /// `Deny` comes first; then, if any `Allow` policy applies to the workload, one must allow; `Audit`
    /// never changes the verdict.
    #[serde(default)]
    action: Option<RawAction>,
    /// What the workload's sidecar accepts. May stand without an action.
    #[serde(default)]
    inbound: Option<RawInbound>,
    /// Any of them. None in an `Allow` policy: nothing is allowed.
    #[serde(default)]
    rules: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct TargetRef {
    /// Empty, or `core`.
    #[serde(default)]
    group: Option<String>,
    /// `Service`.
    kind: String,
    /// The name of the service.
    name: String,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    /// Labels that the pods have. Empty: all pods of the namespace.
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize, Clone, Copy)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum RawAction {
    /// Allows what a rule matches.
    Allow,
    /// Denies what a rule matches, whatever allows it.
    Deny,
    /// Tells what a rule matches, and changes no verdict.
    Audit,
}

#[derive(Deserialize, Clone, Copy)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum RawInbound {
    /// Mutual TLS only.
    Strict,
    /// Plaintext too, for a migration.
    Permissive,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawRule {
    /// Who calls: any of them. Not written: everybody.
    #[serde(default)]
    from: Option<Vec<RawCaller>>,
    /// What is called: any of them. Not written: everything.
    #[serde(default)]
    to: Option<Vec<RawOperation>>,
    /// Headers of the request: all of them.
    #[serde(default)]
    headers: Option<Vec<RawHeader>>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCaller {
    /// Trust domains of callers.
    #[serde(default)]
    trust_domains: Option<Vec<String>>,
    /// Clusters of callers.
    #[serde(default)]
    clusters: Option<Vec<String>>,
    /// Namespaces of callers.
    #[serde(default)]
    namespaces: Option<Vec<String>>,
    /// Service accounts of callers: `name`, or `namespace/name`.
    #[serde(default)]
    service_accounts: Option<Vec<String>>,
    /// Whole SPIFFE IDs of callers.
    #[serde(default)]
    identities: Option<Vec<String>>,
    /// `true`: any caller with an identity of the mesh.
    #[serde(default)]
    authenticated: Option<bool>,
    /// None of these.
    #[serde(default)]
    except: Option<Vec<Self>>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawOperation {
    /// Ports of the workload.
    #[serde(default)]
    ports: Option<Vec<u16>>,
    /// Hosts of the request.
    #[serde(default)]
    hosts: Option<Vec<RawString>>,
    /// Methods of the request, in capitals.
    #[serde(default)]
    methods: Option<Vec<String>>,
    /// Canonical paths of the request.
    #[serde(default)]
    paths: Option<Vec<RawString>>,
}

/// As a matcher, with the header's name beside it.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawHeader {
    /// The header's name; case does not count.
    name: String,
    /// The whole value.
    #[serde(default)]
    exact: Option<String>,
    /// Its beginning.
    #[serde(default)]
    prefix: Option<String>,
    /// Its end.
    #[serde(default)]
    suffix: Option<String>,
    /// A regular expression that matches all of it, at most 1,024 characters.
    #[serde(default)]
    regex: Option<String>,
    /// `true`: whatever the value is.
    #[serde(default)]
    present: Option<bool>,
}

/// The part that says where a policy applies, read even if the rest is not understood.
#[derive(Default, Deserialize)]
struct Loose {
    #[serde(default)]
    spec: LooseSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LooseSpec {
    scope: Option<serde_json::Value>,
    target_refs: Option<serde_json::Value>,
    selector: Option<serde_json::Value>,
    action: Option<serde_json::Value>,
    inbound: Option<serde_json::Value>,
}

/// Where a policy applies, what it says, and what inbound accepts.
type Read = (
    PolicyTarget,
    Option<resource::AccessPolicy>,
    Option<InboundMode>,
);

pub(super) fn policy(document: &Document<'_>, metadata: &Metadata) -> Understood {
    let whole: Result<Policy, Failure> = document.decode();
    let understood = whole.and_then(|raw| {
        let target = target(
            raw.spec.scope.as_deref(),
            raw.spec.target_refs.as_deref(),
            raw.spec.selector.as_ref(),
        );
        let policy = target.and_then(|target| Ok((target, body(&raw.spec)?)));
        let (target, body) = policy.map_err(|Bad(why)| document.failure(why))?;
        Ok((target, body, raw.spec.inbound.map(mode)))
    });
    match understood {
        Ok(read) => of(document, metadata, read, None),
        Err(failure) => denied(document, metadata, failure),
    }
}

/// A policy that is not understood denies where it seems to apply; an Audit, which would have changed no
/// verdict, does not, and what it says of inbound counts.
pub(super) fn denied(document: &Document<'_>, metadata: &Metadata, failure: Failure) -> Understood {
    let (body, inbound) = match loose_audit(document) {
        Some(inbound) => {
            let body = resource::AccessPolicy {
                action: Action::Audit.into(),
                ..Default::default()
            };
            (Some(body), inbound)
        }
        None => (None, None),
    };
    let read = (loose_target(document), body, inbound);
    of(document, metadata, read, Some(failure))
}

fn of(
    document: &Document<'_>,
    metadata: &Metadata,
    (target, body, inbound): Read,
    invalid: Option<Failure>,
) -> Understood {
    let namespace = match target {
        PolicyTarget::Mesh | PolicyTarget::Cluster => Scope::Either,
        PolicyTarget::Namespace | PolicyTarget::Services(_) | PolicyTarget::Workloads(_) => {
            Scope::Namespaced
        }
    };
    Understood {
        spec: Spec::AccessPolicy(AccessPolicy {
            target,
            body,
            inbound,
            invalid: invalid.as_ref().map(|failure| failure.message.clone()),
            observed: status::of_policy(document, metadata),
        }),
        namespace,
        invalid,
    }
}

fn target(
    scope: Option<&str>,
    refs: Option<&[TargetRef]>,
    selector: Option<&Selector>,
) -> Result<PolicyTarget, Bad> {
    let refs = refs.filter(|refs| !refs.is_empty());
    match (scope, refs, selector) {
        (None | Some("Service"), Some(refs), None) => refs_of(refs),
        (None | Some("Workload"), None, Some(selector)) => {
            Ok(PolicyTarget::Workloads(selector.match_labels.clone()))
        }
        (Some("Mesh"), None, None) => Ok(PolicyTarget::Mesh),
        (Some("Cluster"), None, None) => Ok(PolicyTarget::Cluster),
        (None | Some("Namespace"), None, None) => Ok(PolicyTarget::Namespace),
        (_, Some(_), Some(_)) => Err(Bad("spec: targetRefs and selector".to_owned())),
        (Some("Service"), None, _) => Err(Bad("spec.scope: Service needs targetRefs".to_owned())),
        (Some("Workload"), _, None) => Err(Bad("spec.scope: Workload needs selector".to_owned())),
        (Some("Mesh" | "Cluster" | "Namespace"), _, _) => Err(Bad(
            "spec.scope: says another thing than the target".to_owned(),
        )),
        (Some(other), _, _) => {
            let known = "Mesh, Cluster, Namespace, Service or Workload";
            Err(Bad(format!("spec.scope: {other:?} is not {known}")))
        }
    }
}

fn refs_of(refs: &[TargetRef]) -> Result<PolicyTarget, Bad> {
    if refs.len() > TARGETS_MAX {
        return Err(Bad(format!("spec.targetRefs: more than {TARGETS_MAX}")));
    }
    let target = |one: &TargetRef| match (one.group.as_deref(), one.kind.as_str()) {
        (None | Some("" | "core"), "Service") if is_dns_name(&one.name) => Ok(one.name.clone()),
        (_, kind) => Err(Bad(format!(
            "spec.targetRefs: {kind} {:?} is no Service",
            one.name
        ))),
    };
    let services: Result<_, Bad> = refs.iter().map(target).collect();
    services.map(PolicyTarget::Services)
}

/// Where a policy seems to apply of which not all is understood: in its namespace, if that is not
/// understood either. Each part is read by itself.
fn loose_target(document: &Document<'_>) -> PolicyTarget {
    let spec = document.decode().map(|loose: Loose| loose.spec);
    let spec = spec.unwrap_or_default();
    fn part<T: serde::de::DeserializeOwned>(
        value: Option<serde_json::Value>,
    ) -> Result<Option<T>, ()> {
        value
            .map(|value| serde_json::from_value(value).map_err(|_| ()))
            .transpose()
    }
    let read = || {
        let (refs, selector) = (
            part::<Vec<TargetRef>>(spec.target_refs)?,
            part::<Selector>(spec.selector)?,
        );
        let scope = part::<String>(spec.scope)?;
        target(scope.as_deref(), refs.as_deref(), selector.as_ref()).map_err(|_| ())
    };
    read().unwrap_or(PolicyTarget::Namespace)
}

/// Is it an Audit, and what does it say of inbound? `None`: it is none, or what it says of inbound can't be
/// read.
fn loose_audit(document: &Document<'_>) -> Option<Option<InboundMode>> {
    let loose: Loose = document.decode().ok()?;
    let action = serde_json::from_value(loose.spec.action?).ok()?;
    let inbound = loose.spec.inbound.map(serde_json::from_value).transpose();
    matches!(action, RawAction::Audit).then_some(inbound.ok()?.map(mode))
}

fn mode(raw: RawInbound) -> InboundMode {
    match raw {
        RawInbound::Strict => InboundMode::Strict,
        RawInbound::Permissive => InboundMode::Permissive,
    }
}

/// `None`: the policy only says what inbound accepts.
fn body(spec: &PolicySpec) -> Result<Option<resource::AccessPolicy>, Bad> {
    let action = match (spec.action, &spec.rules) {
        (Some(RawAction::Allow), _) => Action::Allow,
        (Some(RawAction::Deny), _) => Action::Deny,
        (Some(RawAction::Audit), _) => Action::Audit,
        (None, None) if spec.inbound.is_some() => return Ok(None),
        (None, _) => return Err(Bad("spec.action: is required".to_owned())),
    };
    let mut rules = Vec::new();
    for (at, raw) in spec.rules.iter().flatten().enumerate() {
        let place = |Bad(why): Bad| Bad(format!("spec.rules[{at}]: {why}"));
        rules.push(rule(raw).map_err(place)?);
    }
    let policy = resource::AccessPolicy {
        action: action.into(),
        rules,
        ..Default::default()
    };
    check_policy(&policy).map_err(Bad)?;
    Ok(Some(policy))
}

fn rule(raw: &RawRule) -> Result<AccessRule, Bad> {
    // An empty list could be read as "nobody" or as "everybody": neither is guessed.
    let empty = |list: bool, key: &str| {
        if list {
            Err(Bad(format!("{key}: is empty")))
        } else {
            Ok(())
        }
    };
    empty(raw.from.as_ref().is_some_and(Vec::is_empty), "from")?;
    empty(raw.to.as_ref().is_some_and(Vec::is_empty), "to")?;
    let from = raw
        .from
        .iter()
        .flatten()
        .map(caller)
        .collect::<Result<_, _>>()?;
    let to = raw
        .to
        .iter()
        .flatten()
        .map(operation)
        .collect::<Result<_, _>>()?;
    if raw.headers.as_ref().is_some_and(Vec::is_empty) {
        return Err(Bad("headers: is empty".to_owned()));
    }
    let headers = raw
        .headers
        .iter()
        .flatten()
        .map(header)
        .collect::<Result<_, _>>()?;
    Ok(AccessRule { from, to, headers })
}

fn caller(raw: &RawCaller) -> Result<Caller, Bad> {
    let list = |key: &str, list: &Option<Vec<String>>| match list {
        Some(list) if list.is_empty() => Err(Bad(format!("from.{key}: is empty"))),
        Some(list) => match list
            .iter()
            .find(|text| text.is_empty() || text.contains('*'))
        {
            Some(bad) => Err(Bad(format!(
                "from.{key}: {bad:?} is no name; there are no patterns"
            ))),
            None => Ok(list.clone()),
        },
        None => Ok(Vec::new()),
    };
    if raw.except.as_ref().is_some_and(Vec::is_empty) {
        return Err(Bad("from.except: is empty".to_owned()));
    }
    let except = raw
        .except
        .iter()
        .flatten()
        .map(caller)
        .collect::<Result<_, _>>()?;
    Ok(Caller {
        trust_domains: list("trustDomains", &raw.trust_domains)?,
        clusters: list("clusters", &raw.clusters)?,
        namespaces: list("namespaces", &raw.namespaces)?,
        service_accounts: list("serviceAccounts", &raw.service_accounts)?,
        identities: list("identities", &raw.identities)?,
        authenticated: raw.authenticated.unwrap_or(false),
        except,
    })
}

fn operation(raw: &RawOperation) -> Result<Operation, Bad> {
    let empty = raw.ports.as_ref().is_some_and(Vec::is_empty)
        || raw.methods.as_ref().is_some_and(Vec::is_empty)
        || raw.hosts.as_ref().is_some_and(Vec::is_empty)
        || raw.paths.as_ref().is_some_and(Vec::is_empty);
    if empty {
        return Err(Bad("to: a list is empty".to_owned()));
    }
    let ports: Vec<u32> = raw.ports.iter().flatten().map(|p| u32::from(*p)).collect();
    if ports.contains(&0) {
        return Err(Bad("to.ports: 0 is no port".to_owned()));
    }
    let methods = raw.methods.clone().unwrap_or_default();
    if let Some(bad) = methods
        .iter()
        .find(|m| !m.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'))
    {
        return Err(Bad(format!("to.methods: {bad:?} is no method")));
    }
    let strings = |key: &str, list: &Option<Vec<RawString>>| {
        let place = |Bad(why): Bad| Bad(format!("to.{key}: {why}"));
        list.iter()
            .flatten()
            .map(|s| string(s).map_err(place))
            .collect::<Result<_, _>>()
    };
    Ok(Operation {
        ports,
        hosts: strings("hosts", &raw.hosts)?,
        methods,
        paths: strings("paths", &raw.paths)?,
    })
}

fn header(raw: &RawHeader) -> Result<HeaderMatch, Bad> {
    let name = raw.name.to_ascii_lowercase();
    if !is_token(name.as_bytes()) {
        return Err(Bad(format!("headers: {name:?} is no header")));
    }
    let matcher = RawMatch {
        exact: raw.exact.clone(),
        prefix: raw.prefix.clone(),
        suffix: raw.suffix.clone(),
        regex: raw.regex.clone(),
        present: raw.present,
    };
    let place = |Bad(why): Bad| Bad(format!("headers.{name}: {why}"));
    let value = Some(matcher_of(&matcher).map_err(place)?);
    Ok(HeaderMatch { name, value })
}

#[cfg(test)]
mod tests;
