//! What happens to a request on its way through a route?

use isthmus_proto::bounds::route::{HEADERS_MAX, MIRRORS_MAX, VALUE_BYTES_MAX};
use isthmus_proto::ids::{Namespace, is_dns_name};
use isthmus_proto::resource::{
    Header, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite, RouteFilter, RouteMatch,
    path_match, path_modifier, route_filter,
};
use serde::Deserialize;

use super::super::Bad;
use super::{FILTERS_MAX, RawBackend, at_most, backend_of, header_name};

/// Millionths of everything.
const ALL: u64 = 1_000_000;
/// Fields that no route may change: they frame a message or belong to one connection (RFC 9110
/// §7.6.1, §8.6, §10.1.1), or only the mesh may write them. The proxies refuse them too.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawFilter {
    r#type: String,
    #[serde(default)]
    request_header_modifier: Option<RawModifier>,
    #[serde(default)]
    response_header_modifier: Option<RawModifier>,
    #[serde(default)]
    request_redirect: Option<RawRedirect>,
    #[serde(default)]
    url_rewrite: Option<RawRewrite>,
    #[serde(default)]
    request_mirror: Option<Box<RawMirror>>,
}

#[derive(Deserialize)]
struct RawModifier {
    #[serde(default)]
    set: Option<Vec<RawHeader>>,
    #[serde(default)]
    add: Option<Vec<RawHeader>>,
    #[serde(default)]
    remove: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRedirect {
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    path: Option<RawPathModifier>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    status_code: Option<u32>,
}

#[derive(Deserialize)]
struct RawRewrite {
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    path: Option<RawPathModifier>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPathModifier {
    r#type: String,
    #[serde(default)]
    replace_full_path: Option<String>,
    #[serde(default)]
    replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMirror {
    backend_ref: RawBackend,
    #[serde(default)]
    percent: Option<u32>,
    #[serde(default)]
    fraction: Option<Fraction>,
}

#[derive(Deserialize)]
struct Fraction {
    numerator: u32,
    #[serde(default)]
    denominator: Option<u32>,
}

/// All filters of a rule, in their order.
pub(super) fn of_rule(
    raw: Option<&[RawFilter]>,
    matches: &[RouteMatch],
    home: &Namespace,
) -> Result<Vec<RouteFilter>, Bad> {
    let filters = all(raw, home)?;
    let count = |is: fn(&route_filter::Kind) -> bool| {
        let kinds = filters.iter().filter_map(|filter| filter.kind.as_ref());
        kinds.filter(|kind| is(kind)).count()
    };
    if count(|kind| matches!(kind, route_filter::Kind::Mirror(_))) > MIRRORS_MAX {
        return Err(Bad(format!("filters: more than {MIRRORS_MAX} mirrors")));
    }
    let moves = |kind: &route_filter::Kind| {
        matches!(
            kind,
            route_filter::Kind::Redirect(_) | route_filter::Kind::Rewrite(_)
        )
    };
    if count(moves) > 1 {
        return Err(Bad("filters: more than one redirect or rewrite".to_owned()));
    }
    let mut kinds = filters.iter().filter_map(|filter| filter.kind.as_ref());
    if kinds.any(replaces_prefix) && !matches.iter().all(is_prefix) {
        let why = "filters: ReplacePrefixMatch, but a match of the rule is no PathPrefix";
        return Err(Bad(why.to_owned()));
    }
    Ok(filters)
}

fn replaces_prefix(kind: &route_filter::Kind) -> bool {
    let path = match kind {
        route_filter::Kind::Redirect(redirect) => redirect.path.as_ref(),
        route_filter::Kind::Rewrite(rewrite) => rewrite.path.as_ref(),
        route_filter::Kind::RequestHeaders(_)
        | route_filter::Kind::ResponseHeaders(_)
        | route_filter::Kind::Mirror(_) => None,
    };
    let kind = path.and_then(|path| path.kind.as_ref());
    matches!(kind, Some(path_modifier::Kind::ReplacePrefix(_)))
}

/// A match without a path is for the prefix `/`.
fn is_prefix(one: &RouteMatch) -> bool {
    let kind = one.path.as_ref().and_then(|path| path.kind.as_ref());
    matches!(kind, None | Some(path_match::Kind::Prefix(_)))
}

/// Do some of a rule's filters exclude each other (Gateway API: `IncompatibleFilters`)?
pub(super) fn are_incompatible(raw: Option<&[RawFilter]>) -> bool {
    let has = |kind: &str| {
        raw.iter()
            .flat_map(|raw| raw.iter())
            .any(|f| f.r#type == kind)
    };
    has("RequestRedirect") && has("URLRewrite")
}

/// All filters of a backend: it can change headers, for its share of the requests.
pub(super) fn of_backend(
    raw: Option<&[RawFilter]>,
    home: &Namespace,
) -> Result<Vec<RouteFilter>, Bad> {
    for filter in raw.unwrap_or_default() {
        if !matches!(
            filter.r#type.as_str(),
            "RequestHeaderModifier" | "ResponseHeaderModifier"
        ) {
            let why = format!("backendRefs.filters: {:?} is not supported", filter.r#type);
            return Err(Bad(why));
        }
    }
    all(raw, home)
}

fn all(raw: Option<&[RawFilter]>, home: &Namespace) -> Result<Vec<RouteFilter>, Bad> {
    let one = |raw| {
        Ok(RouteFilter {
            kind: Some(filter(raw, home)?),
        })
    };
    at_most("filters", raw, FILTERS_MAX)?;
    raw.unwrap_or_default().iter().map(one).collect()
}

fn filter(raw: &RawFilter, home: &Namespace) -> Result<route_filter::Kind, Bad> {
    let lacks = || Bad(format!("filters: {} without what it should do", raw.r#type));
    match raw.r#type.as_str() {
        "RequestHeaderModifier" => {
            let raw = raw.request_header_modifier.as_ref().ok_or_else(lacks)?;
            Ok(route_filter::Kind::RequestHeaders(modifier(raw)?))
        }
        "ResponseHeaderModifier" => {
            let raw = raw.response_header_modifier.as_ref().ok_or_else(lacks)?;
            Ok(route_filter::Kind::ResponseHeaders(modifier(raw)?))
        }
        "RequestRedirect" => {
            let raw = raw.request_redirect.as_ref().ok_or_else(lacks)?;
            Ok(route_filter::Kind::Redirect(redirect(raw)?))
        }
        "URLRewrite" => {
            let raw = raw.url_rewrite.as_ref().ok_or_else(lacks)?;
            let hostname = hostname(raw.hostname.as_deref())?;
            let path = raw.path.as_ref().map(path).transpose()?;
            Ok(route_filter::Kind::Rewrite(Rewrite { hostname, path }))
        }
        "RequestMirror" => {
            let raw = raw.request_mirror.as_ref().ok_or_else(lacks)?;
            let backend = Some(backend_of(&raw.backend_ref, home)?);
            Ok(route_filter::Kind::Mirror(Mirror {
                backend,
                millionths: millionths(raw)?,
            }))
        }
        // CORS, ExternalAuth, ExtensionRef: to leave one out could let a request through.
        other => Err(Bad(format!("filters: {other:?} is not supported"))),
    }
}

fn modifier(raw: &RawModifier) -> Result<HeaderModifier, Bad> {
    at_most("filters.set", raw.set.as_deref(), HEADERS_MAX)?;
    at_most("filters.add", raw.add.as_deref(), HEADERS_MAX)?;
    at_most("filters.remove", raw.remove.as_deref(), HEADERS_MAX)?;
    let list = |raw: &Option<Vec<RawHeader>>| {
        let one = |h: &RawHeader| {
            Ok(Header {
                name: free(&h.name)?,
                value: value(&h.value)?,
            })
        };
        raw.iter().flatten().map(one).collect::<Result<_, Bad>>()
    };
    let remove = raw
        .remove
        .iter()
        .flatten()
        .map(|name| free(name))
        .collect::<Result<_, _>>();
    Ok(HeaderModifier {
        set: list(&raw.set)?,
        add: list(&raw.add)?,
        remove: remove?,
    })
}

/// The name of a header that a route may change.
fn free(name: &str) -> Result<String, Bad> {
    let name = header_name(name)?;
    if RESERVED.contains(&name.as_str()) || name.starts_with("x-mesh-") {
        return Err(Bad(format!("the header {name} may not be changed")));
    }
    Ok(name)
}

/// RFC 9110 §5.5: no control characters, above all no line breaks.
fn value(text: &str) -> Result<String, Bad> {
    if text.trim_matches([' ', '\t']).len() > VALUE_BYTES_MAX {
        return Err(Bad(format!(
            "a value is longer than {VALUE_BYTES_MAX} bytes"
        )));
    }
    if text.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
        Ok(text.to_owned())
    } else {
        Err(Bad(format!("{text:?} is no value of a header")))
    }
}

fn hostname(text: Option<&str>) -> Result<String, Bad> {
    let lower = text.unwrap_or_default().to_ascii_lowercase();
    if lower.is_empty() || is_dns_name(&lower) {
        Ok(lower)
    } else {
        Err(Bad(format!("hostname: {lower:?}")))
    }
}

fn redirect(raw: &RawRedirect) -> Result<Redirect, Bad> {
    let scheme = raw.scheme.clone().unwrap_or_default();
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        return Err(Bad(format!("requestRedirect: the scheme {scheme:?}")));
    }
    let status = raw.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(Bad(format!("requestRedirect: the status {status}")));
    }
    Ok(Redirect {
        scheme,
        hostname: hostname(raw.hostname.as_deref())?,
        path: raw.path.as_ref().map(path).transpose()?,
        port: raw.port.map_or(0, u32::from),
        status,
    })
}

fn path(raw: &RawPathModifier) -> Result<PathModifier, Bad> {
    let kind = match (
        raw.r#type.as_str(),
        &raw.replace_full_path,
        &raw.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(text), None) => path_modifier::Kind::ReplaceFull(text.clone()),
        ("ReplacePrefixMatch", None, Some(text)) => {
            path_modifier::Kind::ReplacePrefix(text.clone())
        }
        (other, _, _) => return Err(Bad(format!("path: {other:?} without its replacement"))),
    };
    match &kind {
        path_modifier::Kind::ReplacePrefix(text) if text.is_empty() => {}
        path_modifier::Kind::ReplaceFull(text) | path_modifier::Kind::ReplacePrefix(text) => {
            if !is_canonical(text) {
                return Err(Bad(format!("path: {text:?} is no path in normal form")));
            }
        }
    }
    Ok(PathModifier { kind: Some(kind) })
}

/// RFC 3986 §3.3: absolute, and nothing in it that a path does not hold or that is resolved away.
fn is_canonical(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&b);
    let dots = |segment: &str| segment == "." || segment == "..";
    text.starts_with('/')
        && text.bytes().all(plain)
        && !text.contains("//")
        && !text.split('/').any(dots)
}

fn millionths(raw: &RawMirror) -> Result<Option<u32>, Bad> {
    let (part, whole) = match (raw.percent, &raw.fraction) {
        (None, None) => return Ok(None),
        (Some(percent), None) => (percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (Some(_), Some(_)) => return Err(Bad("requestMirror: percent and fraction".to_owned())),
    };
    if whole == 0 || part > whole {
        return Err(Bad(format!("requestMirror: {part} of {whole}")));
    }
    Ok(u32::try_from(u64::from(part) * ALL / u64::from(whole)).ok())
}
