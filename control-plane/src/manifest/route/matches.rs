//! Which requests does a rule of a route mean?

use isthmus_control_plane_core::pattern;
use isthmus_proto::literal::canonical_escapes;
use isthmus_proto::resource::{
    HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch, path_match,
};
use serde::Deserialize;

use super::super::Bad;
use super::{TEXT_BYTES_MAX, exact, header_name, regex};

/// One path segment, in gRPC's regular expressions.
const SEGMENT: &str = "[^/]+";
/// HTTPRoute's methods.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// A match of an HTTPRoute or a GRPCRoute.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawMatch {
    #[serde(default)]
    path: Option<RawPath>,
    #[serde(default)]
    headers: Option<Vec<RawValue>>,
    #[serde(default)]
    query_params: Option<Vec<RawValue>>,
    #[serde(default)]
    method: Option<RawMethod>,
}

#[derive(Deserialize)]
struct RawPath {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    value: Option<String>,
}

#[derive(Deserialize)]
struct RawValue {
    #[serde(default)]
    r#type: Option<String>,
    name: String,
    value: String,
}

/// HTTPRoute: a name. GRPCRoute: a service and a method of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawMethod {
    Http(String),
    Grpc {
        #[serde(default)]
        r#type: Option<String>,
        #[serde(default)]
        service: Option<String>,
        #[serde(default)]
        method: Option<String>,
    },
}

pub(super) fn http(raw: &RawMatch) -> Result<RouteMatch, Bad> {
    let method = match &raw.method {
        None => String::new(),
        Some(RawMethod::Http(name)) if METHODS.contains(&name.as_str()) => name.clone(),
        Some(RawMethod::Http(name)) => return Err(Bad(format!("method: {name:?} is unknown"))),
        Some(RawMethod::Grpc { .. }) => return Err(Bad("method: not a name".to_owned())),
    };
    let path = raw.path.as_ref().map(path).transpose()?;
    let mut query = Vec::new();
    for param in raw.query_params.iter().flatten() {
        if param.name.is_empty() {
            return Err(Bad("queryParams: a parameter without a name".to_owned()));
        }
        bounded(&param.name)?;
        // Gateway API: of several with one name, the first counts.
        if query.iter().all(|q: &QueryMatch| q.name != param.name) {
            query.push(QueryMatch {
                name: param.name.clone(),
                value: Some(value(param)?),
            });
        }
    }
    Ok(RouteMatch {
        path,
        headers: headers(raw)?,
        query,
        method,
        ..RouteMatch::default()
    })
}

pub(super) fn grpc(raw: &RawMatch) -> Result<RouteMatch, Bad> {
    if raw.path.is_some() || raw.query_params.is_some() {
        return Err(Bad(
            "matches: a GRPCRoute matches methods and headers".to_owned()
        ));
    }
    let mut lengths = (0, 0);
    let path = match &raw.method {
        None => None,
        Some(RawMethod::Grpc {
            r#type,
            service,
            method,
        }) => {
            let kind = r#type.as_deref().unwrap_or("Exact");
            if kind == "Exact" {
                lengths = (
                    characters(service.as_deref()),
                    characters(method.as_deref()),
                );
            }
            grpc_path(kind, service.as_deref(), method.as_deref())?
        }
        Some(RawMethod::Http(_)) => return Err(Bad("method: needs service or method".to_owned())),
    };
    match &path {
        Some(path_match::Kind::Exact(text) | path_match::Kind::Prefix(text)) => rooted(text)?,
        // A name with much to escape in it.
        Some(path_match::Kind::Regex(text)) => {
            checked(text.clone(), "method")?;
        }
        None => {}
    }
    let path = path.map(|kind| PathMatch { kind: Some(kind) });
    // gRPC is always POST; the path says the rest.
    Ok(RouteMatch {
        path,
        headers: headers(raw)?,
        service_characters: lengths.0,
        method_characters: lengths.1,
        ..RouteMatch::default()
    })
}

fn characters(text: Option<&str>) -> u32 {
    let count = text.unwrap_or_default().chars().count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn path(raw: &RawPath) -> Result<PathMatch, Bad> {
    let text = raw.value.clone().unwrap_or_else(|| "/".to_owned());
    let kind = match raw.r#type.as_deref().unwrap_or("PathPrefix") {
        "RegularExpression" => path_match::Kind::Regex(checked(text, "path")?),
        kind => {
            rooted(&text)?;
            let text = canonical_escapes(&text)
                .ok_or_else(|| Bad(format!("path: {text:?} has an escape that no path has")))?;
            match kind {
                "Exact" => path_match::Kind::Exact(text),
                "PathPrefix" => path_match::Kind::Prefix(text),
                other => return Err(Bad(format!("path: the type {other:?} is unknown"))),
            }
        }
    };
    Ok(PathMatch { kind: Some(kind) })
}

/// A path never holds what begins a query or a fragment.
fn rooted(text: &str) -> Result<(), Bad> {
    bounded(text)?;
    if !text.starts_with('/') {
        return Err(Bad(format!("path: {text:?} does not begin with a slash")));
    }
    if text.contains(['?', '#']) {
        return Err(Bad(format!("path: {text:?} holds ? or #")));
    }
    Ok(())
}

fn bounded(text: &str) -> Result<(), Bad> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Bad(format!("a text is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// gRPC's path is `/service/method`.
fn grpc_path(
    kind: &str,
    service: Option<&str>,
    method: Option<&str>,
) -> Result<Option<path_match::Kind>, Bad> {
    let (service, method) = (
        service.filter(|s| !s.is_empty()),
        method.filter(|m| !m.is_empty()),
    );
    match (kind, service, method) {
        (_, None, None) => Err(Bad("method: needs service or method".to_owned())),
        ("Exact", Some(service), Some(method)) => Ok(Some(path_match::Kind::Exact(format!(
            "/{service}/{method}"
        )))),
        ("Exact", Some(service), None) => Ok(Some(path_match::Kind::Prefix(format!("/{service}")))),
        ("Exact", None, Some(method)) => Ok(Some(path_match::Kind::Regex(format!(
            "/{SEGMENT}/{}",
            literal(method)
        )))),
        ("RegularExpression", service, method) => {
            let group = |text: Option<&str>| format!("(?:{})", text.unwrap_or(SEGMENT));
            // Each alone, so that none reaches over the slash.
            for text in [service, method].into_iter().flatten() {
                checked(text.to_owned(), "method")?;
            }
            let path = format!("/{}/{}", group(service), group(method));
            Ok(Some(path_match::Kind::Regex(checked(path, "method")?)))
        }
        (other, _, _) => Err(Bad(format!("method: the type {other:?} is unknown"))),
    }
}

/// A regular expression that the proxies understand.
fn checked(text: String, about: &str) -> Result<String, Bad> {
    match pattern::check(&text) {
        Ok(()) => Ok(text),
        Err(why) => Err(Bad(format!("{about}: regular expression: {why}"))),
    }
}

/// A text in which nothing is a pattern.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c != '_' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn headers(raw: &RawMatch) -> Result<Vec<HeaderMatch>, Bad> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for header in raw.headers.iter().flatten() {
        let name = header_name(&header.name)?;
        // Gateway API: of several with one name, the first counts.
        if headers.iter().all(|h| h.name != name) {
            headers.push(HeaderMatch {
                name,
                value: Some(value(header)?),
            });
        }
    }
    Ok(headers)
}

fn value(raw: &RawValue) -> Result<StringMatch, Bad> {
    match raw.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => bounded(&raw.value).map(|()| exact(&raw.value)),
        "RegularExpression" => Ok(regex(&checked(raw.value.clone(), &raw.name)?)),
        other => Err(Bad(format!("{}: the type {other:?} is unknown", raw.name))),
    }
}
