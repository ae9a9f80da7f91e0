//! Would every proxy apply this policy as it stands?
//!
//! What proxies refuse must be refused here, where a condition tells: a proxy goes on with the last
//! version that it understood, and says so only in its own log. So each bound and each rule is that
//! of the proxy's own compiler, and a property compares the two.

use std::str::FromStr;

use isthmus_proto::bounds::access::{
    ALTERNATIVES_MAX, EXCEPT_DEPTH_MAX, HEADER_NAME_BYTES_MAX, METHOD_BYTES_MAX, RULES_MAX,
    VALUES_MAX,
};
use isthmus_proto::ids::{ClusterId, Namespace, is_label, is_object_name, is_token};
use isthmus_proto::literal::UNSEEN_HEADERS;
use isthmus_proto::resource;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};
use prost::Message;

use super::text::{Regexes, Subject, check_match};

/// Largest policy, encoded.
const POLICY_BYTES_MAX: usize = 256 << 10;
/// Can a proxy apply it as it stands?
///
/// # Errors
/// Names the place (`spec.rules[0].from[1].namespaces[0]`) and what is wrong there.
pub fn check(policy: &resource::AccessPolicy) -> Result<(), String> {
    if policy.encoded_len() > POLICY_BYTES_MAX {
        return Err(format!("larger than {POLICY_BYTES_MAX} bytes"));
    }
    match resource::Action::try_from(policy.action) {
        Ok(resource::Action::Allow | resource::Action::Deny | resource::Action::Audit) => {}
        Ok(resource::Action::Unspecified) | Err(_) => {
            return Err("spec: no action".to_owned());
        }
    }
    at_most(policy.rules.len(), RULES_MAX, "spec.rules")?;
    let mut regexes = Regexes::default();
    for (at, rule) in policy.rules.iter().enumerate() {
        check_rule(rule, &mut regexes).map_err(|why| format!("spec.rules[{at}].{why}"))?;
    }
    Ok(())
}

fn check_rule(rule: &resource::AccessRule, regexes: &mut Regexes) -> Result<(), String> {
    check_callers(&rule.from, 0).map_err(|why| format!("from{why}"))?;
    at_most(rule.to.len(), ALTERNATIVES_MAX, "to: operations")?;
    for (at, operation) in rule.to.iter().enumerate() {
        check_operation(operation, regexes).map_err(|why| format!("to[{at}]{why}"))?;
    }
    at_most(rule.headers.len(), VALUES_MAX, "headers")?;
    for (at, header) in rule.headers.iter().enumerate() {
        check_header(header, regexes).map_err(|why| format!("headers[{at}].{why}"))?;
    }
    Ok(())
}

/// `depth`: how many `except` they stand in.
fn check_callers(callers: &[resource::Caller], depth: usize) -> Result<(), String> {
    at_most(callers.len(), ALTERNATIVES_MAX, ": callers")?;
    for (at, caller) in callers.iter().enumerate() {
        check_caller(caller, depth).map_err(|why| format!("[{at}]{why}"))?;
    }
    Ok(())
}

fn check_caller(caller: &resource::Caller, depth: usize) -> Result<(), String> {
    if depth > EXCEPT_DEPTH_MAX {
        return Err(": except within except, too deep".to_owned());
    }
    let resource::Caller {
        identities,
        trust_domains,
        clusters,
        namespaces,
        service_accounts,
        authenticated,
        except,
    } = caller;
    let account = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => is_label(namespace) && is_object_name(name),
        None => is_object_name(text),
    };
    each("identities", identities, "SPIFFE ID", parses::<SpiffeId>)?;
    each(
        "trustDomains",
        trust_domains,
        "trust domain",
        parses::<TrustDomain>,
    )?;
    each("clusters", clusters, "cluster", parses::<ClusterId>)?;
    each("namespaces", namespaces, "namespace", parses::<Namespace>)?;
    each(
        "serviceAccounts",
        service_accounts,
        "service account",
        account,
    )?;
    check_callers(except, depth.saturating_add(1)).map_err(|why| format!(".except{why}"))?;
    let lists = [
        identities,
        trust_domains,
        clusters,
        namespaces,
        service_accounts,
    ];
    if !authenticated && except.is_empty() && lists.iter().all(|list| list.is_empty()) {
        return Err(": names nobody; leave it out to mean every caller".to_owned());
    }
    Ok(())
}

fn check_operation(operation: &resource::Operation, regexes: &mut Regexes) -> Result<(), String> {
    let resource::Operation {
        ports,
        hosts,
        methods,
        paths,
    } = operation;
    at_most(ports.len(), VALUES_MAX, ".ports: values")?;
    for port in ports {
        let fits = u16::try_from(*port).is_ok_and(|port| port > 0);
        named(fits, "port", &port.to_string()).map_err(|why| format!(".ports: {why}"))?;
    }
    let method = |text: &str| text.len() <= METHOD_BYTES_MAX && is_token(text.as_bytes());
    each("methods", methods, "method", method)?;
    let lists = [
        ("hosts", hosts, Subject::Host),
        ("paths", paths, Subject::Path),
    ];
    for (key, list, subject) in lists {
        at_most(list.len(), VALUES_MAX, &format!(".{key}: values"))?;
        for (at, text) in list.iter().enumerate() {
            check_match(Some(text), subject, regexes)
                .map_err(|why| format!(".{key}[{at}]: {why}"))?;
        }
    }
    if ports.is_empty() && hosts.is_empty() && methods.is_empty() && paths.is_empty() {
        return Err(": names nothing; leave it out to mean everything".to_owned());
    }
    Ok(())
}

fn check_header(header: &resource::HeaderMatch, regexes: &mut Regexes) -> Result<(), String> {
    let name = header.name.as_str();
    let lower = !name.bytes().any(|b| b.is_ascii_uppercase());
    let fits = name.len() <= HEADER_NAME_BYTES_MAX && lower && is_token(name.as_bytes());
    named(fits, "header name", name).map_err(|why| format!("name: {why}"))?;
    if UNSEEN_HEADERS.contains(&name) {
        let why = "policy never sees this header; for the host there is to.hosts";
        return Err(format!("name: {name:?}: {why}"));
    }
    check_match(header.value.as_ref(), Subject::Header, regexes)
        .map_err(|why| format!("value: {why}"))
}

fn each(
    key: &str,
    values: &[String],
    kind: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<(), String> {
    at_most(values.len(), VALUES_MAX, &format!(".{key}: values"))?;
    for (at, value) in values.iter().enumerate() {
        named(fits(value), kind, value).map_err(|why| format!(".{key}[{at}]: {why}"))?;
    }
    Ok(())
}

fn at_most(count: usize, max: usize, what: &str) -> Result<(), String> {
    if count > max {
        return Err(format!("{what}: {count}; at most {max} are allowed"));
    }
    Ok(())
}

fn parses<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

fn named(fits: bool, kind: &str, value: &str) -> Result<(), String> {
    if fits {
        return Ok(());
    }
    let value: String = value.chars().take(80).collect();
    Err(format!("{value:?} is no {kind}"))
}

#[cfg(test)]
mod tests;
