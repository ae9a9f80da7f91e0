//! What happens to a message on the way, because a route says so?
//!
//! A route can neither touch what frames a message nor what the mesh says in its own name: such
//! a filter refuses the route when it is compiled.

use smallvec::SmallVec;

pub use isthmus_proto::bounds::route::{HEADERS_MAX, MIRRORS_MAX, VALUE_BYTES_MAX};
use isthmus_proto::ids::is_dns_name;
use isthmus_proto::resource::{self, path_modifier, route_filter};

use super::compile::backend_ref;
use super::{BackendRef, Chosen};
use crate::canonical::CanonicalPath;
use crate::message::{Fields, RequestHead, ResponseHead, is_token};

/// A mirror's share when none is written: all.
const MILLIONTHS: u32 = 1_000_000;

/// Fields that frame a message or belong to one connection (RFC 9110 §7.6.1, §8.6, §10.1.1), or
/// that only the mesh may write.
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

/// One filter of a rule or of a backend.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Changes the request's fields.
    RequestHeaders(HeaderEdit),
    /// Changes the response's fields.
    ResponseHeaders(HeaderEdit),
    /// Answers instead of forwarding.
    Redirect(Redirect),
    /// Changes host and path before forwarding.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere; its answer is thrown away.
    Mirror(Mirror),
}

/// Fields to set, then to add, then to remove. Names in lower case.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdit {
    set: Box<[(Box<str>, Box<str>)]>,
    add: Box<[(Box<str>, Box<str>)]>,
    remove: Box<[Box<str>]>,
}

/// Where a client is sent to instead. What is absent stays as it was.
#[derive(Debug, Clone)]
pub struct Redirect {
    scheme: Option<&'static str>,
    hostname: Option<Box<str>>,
    path: Option<PathEdit>,
    port: Option<u16>,
    status: u16,
}

/// What a request is changed to before it is forwarded.
#[derive(Debug, Clone)]
pub struct Rewrite {
    hostname: Option<Box<str>>,
    path: Option<PathEdit>,
}

/// A change of the path; the query stays.
#[derive(Debug, Clone)]
enum PathEdit {
    Full(Box<str>),
    /// Without a trailing slash.
    Prefix(Box<str>),
}

/// Where a share of the requests is copied to.
#[derive(Debug, Clone)]
pub struct Mirror {
    backend: Option<BackendRef>,
    millionths: u32,
}

/// What comes of a request after its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It goes to the chosen backend, and a copy to each of these.
    Forward(SmallVec<[&'a BackendRef; 1]>),
    /// The client is answered.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The value of `location`.
        location: String,
    },
}

/// Applies the filters of the chosen rule and backend to a request.
///
/// `path` is the request's canonical path, by which the route was chosen; `port` is the service's
/// port, which a redirect without a port of its own keeps; `random` decides about mirrors.
pub fn apply_request<'a>(
    chosen: &Chosen<'a>,
    head: &mut RequestHead,
    path: &CanonicalPath,
    port: u16,
    random: u64,
) -> Outcome<'a> {
    let mut mirrors = SmallVec::new();
    for filter in chosen.filters.iter().chain(chosen.backend_filters) {
        match filter {
            Filter::Redirect(redirect) => {
                let location = redirect.location(head, path, chosen.prefix, port);
                return Outcome::Redirect {
                    status: redirect.status,
                    location,
                };
            }
            Filter::RequestHeaders(edit) => edit.apply(&mut head.fields),
            Filter::Rewrite(rewrite) => rewrite.apply(head, path, chosen.prefix),
            Filter::Mirror(mirror) => {
                // A different share of the number for each mirror, so that they are independent.
                let turned = random.rotate_left(u32::try_from(mirrors.len()).unwrap_or(0) * 16 + 7);
                mirrors.extend(mirror.backend.as_ref().filter(|_| mirror.wants(turned)));
            }
            Filter::ResponseHeaders(_) => {}
        }
    }
    Outcome::Forward(mirrors)
}

/// Applies the filters of the chosen rule and backend to a response.
pub fn apply_response(chosen: &Chosen<'_>, head: &mut ResponseHead) {
    for filter in chosen.backend_filters.iter().chain(chosen.filters) {
        match filter {
            Filter::ResponseHeaders(edit) => edit.apply(&mut head.fields),
            Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Mirror(_) => {}
        }
    }
}

impl HeaderEdit {
    fn apply(&self, fields: &mut Fields) {
        for (name, value) in &self.set {
            fields.set(name.as_bytes(), value.as_bytes());
        }
        for (name, value) in &self.add {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        for name in &self.remove {
            fields.remove(name.as_bytes());
        }
    }
}

impl Redirect {
    fn location(
        &self,
        head: &RequestHead,
        path: &CanonicalPath,
        prefix: Option<&str>,
        port: u16,
    ) -> String {
        let scheme = self
            .scheme
            .unwrap_or(if head.https { "https" } else { "http" });
        let authority = String::from_utf8_lossy(&head.authority);
        let host = self
            .hostname
            .as_deref()
            .unwrap_or_else(|| without_port(&authority));
        let target = match &self.path {
            Some(edit) => edit.apply(path, prefix),
            // Its URI has no path (RFC 9110 §7.1).
            None if path.is_server() => String::new(),
            None => path.full().to_owned(),
        };
        if host.is_empty() {
            return target;
        }
        // Gateway API: the scheme's own port where a scheme is written, else the listener's.
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = self
            .port
            .unwrap_or(if self.scheme.is_some() { usual } else { port });
        if port == usual {
            format!("{scheme}://{host}{target}")
        } else {
            format!("{scheme}://{host}:{port}{target}")
        }
    }
}

/// The host of an authority; an IPv6 literal keeps its brackets.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => host,
        Some(_) | None => authority,
    }
}

impl Rewrite {
    fn apply(&self, head: &mut RequestHead, path: &CanonicalPath, prefix: Option<&str>) {
        if let Some(hostname) = &self.hostname {
            head.authority = hostname.as_bytes().to_vec();
        }
        if let Some(edit) = &self.path {
            head.path = edit.apply(path, prefix).into_bytes();
        }
    }
}

impl PathEdit {
    /// The new path with the old query.
    fn apply(&self, path: &CanonicalPath, prefix: Option<&str>) -> String {
        let mut new = match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(replacement) if path.is_server() => replacement.to_string(),
            Self::Prefix(replacement) => {
                let rest = path
                    .as_str()
                    .strip_prefix(prefix.unwrap_or(""))
                    .unwrap_or("");
                format!("{replacement}{rest}")
            }
        };
        if new.is_empty() {
            new.push('/');
        }
        if let Some(query) = path.query() {
            new.push('?');
            new.push_str(query);
        }
        new
    }
}

impl Mirror {
    fn wants(&self, random: u64) -> bool {
        random % u64::from(MILLIONTHS) < u64::from(self.millionths)
    }

    /// Where the copies go. `None`: the reference is invalid, so nowhere.
    #[must_use]
    pub fn backend(&self) -> Option<&BackendRef> {
        self.backend.as_ref()
    }
}

/// Compiles the filters of a rule. `prefixes_only`: every match of the rule is a prefix match,
/// so that a prefix can be replaced.
///
/// # Errors
/// A filter is empty, contradicts another, or touches what no route may touch.
pub(super) fn compile_rule(
    filters: &[resource::RouteFilter],
    prefixes_only: bool,
) -> Result<Box<[Filter]>, String> {
    let compiled = filters.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
    let count = |is: fn(&Filter) -> bool| compiled.iter().filter(|f| is(f)).count();
    let redirects = count(|f| matches!(f, Filter::Redirect(_)));
    let rewrites = count(|f| matches!(f, Filter::Rewrite(_)));
    if redirects + rewrites > 1 {
        return Err("more than one redirect or rewrite in a rule".to_owned());
    }
    if count(|f| matches!(f, Filter::Mirror(_))) > MIRRORS_MAX {
        return Err(format!("more than {MIRRORS_MAX} mirrors in a rule"));
    }
    let by_prefix = |filter: &Filter| {
        let path = match filter {
            Filter::Redirect(redirect) => &redirect.path,
            Filter::Rewrite(rewrite) => &rewrite.path,
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::Mirror(_) => &None,
        };
        matches!(path, Some(PathEdit::Prefix(_)))
    };
    if !prefixes_only && compiled.iter().any(by_prefix) {
        return Err("a prefix is replaced, but a match of the rule is no prefix match".to_owned());
    }
    Ok(compiled.into())
}

/// Compiles the filters of a backend: header modifiers alone have a meaning there.
///
/// # Errors
/// A filter is of another kind, or touches what no route may touch.
pub(super) fn compile_backend(filters: &[resource::RouteFilter]) -> Result<Box<[Filter]>, String> {
    let compile_one = |filter| match compile(filter)? {
        edit @ (Filter::RequestHeaders(_) | Filter::ResponseHeaders(_)) => Ok(edit),
        Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Mirror(_) => {
            Err("a backend has a filter that only a rule may have".to_owned())
        }
    };
    filters.iter().map(compile_one).collect()
}

fn compile(filter: &resource::RouteFilter) -> Result<Filter, String> {
    Ok(match filter.kind.as_ref().ok_or("a filter is empty")? {
        route_filter::Kind::RequestHeaders(edit) => Filter::RequestHeaders(compile_edit(edit)?),
        route_filter::Kind::ResponseHeaders(edit) => Filter::ResponseHeaders(compile_edit(edit)?),
        route_filter::Kind::Redirect(redirect) => Filter::Redirect(compile_redirect(redirect)?),
        route_filter::Kind::Rewrite(rewrite) => Filter::Rewrite(Rewrite {
            hostname: compile_hostname(&rewrite.hostname)?,
            path: compile_path(rewrite.path.as_ref())?,
        }),
        route_filter::Kind::Mirror(mirror) => Filter::Mirror(compile_mirror(mirror)?),
    })
}

fn compile_edit(edit: &resource::HeaderModifier) -> Result<HeaderEdit, String> {
    if edit.set.len().max(edit.add.len()).max(edit.remove.len()) > HEADERS_MAX {
        return Err(format!(
            "a header modifier has more than {HEADERS_MAX} names"
        ));
    }
    let pair = |h: &resource::Header| Ok((header_name(&h.name)?, header_value(h)?));
    Ok(HeaderEdit {
        set: edit.set.iter().map(pair).collect::<Result<_, String>>()?,
        add: edit.add.iter().map(pair).collect::<Result<_, String>>()?,
        remove: edit
            .remove
            .iter()
            .map(|name| header_name(name))
            .collect::<Result<_, _>>()?,
    })
}

fn header_name(name: &str) -> Result<Box<str>, String> {
    let lower = name.to_ascii_lowercase();
    if !is_token(lower.as_bytes()) {
        return Err(format!("header {name:?} is not a field name"));
    }
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("x-mesh-") {
        return Err(format!("header {lower} may not be changed by a route"));
    }
    Ok(lower.into())
}

/// RFC 9110 §5.5: visible characters, spaces and tabs; bytes above 127 are opaque.
fn header_value(header: &resource::Header) -> Result<Box<str>, String> {
    let value = header.value.trim_matches([' ', '\t']);
    let control = |b: u8| (b < 0x20 && b != b'\t') || b == 0x7f;
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!(
            "value of {} is longer than {VALUE_BYTES_MAX} bytes",
            header.name
        ));
    }
    if value.bytes().any(control) {
        return Err(format!(
            "value of {} holds a control character",
            header.name
        ));
    }
    Ok(value.into())
}

fn compile_redirect(redirect: &resource::Redirect) -> Result<Redirect, String> {
    Ok(Redirect {
        scheme: match redirect.scheme.as_str() {
            "" => None,
            "http" => Some("http"),
            "https" => Some("https"),
            other => {
                return Err(format!(
                    "redirect: scheme {other:?} is neither http nor https"
                ));
            }
        },
        hostname: compile_hostname(&redirect.hostname)?,
        path: compile_path(redirect.path.as_ref())?,
        port: match u16::try_from(redirect.port) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) => return Err(format!("redirect: port {} is above 65,535", redirect.port)),
        },
        status: match redirect.status {
            0 | 302 => 302,
            301 => 301,
            303 => 303,
            307 => 307,
            308 => 308,
            other => {
                return Err(format!(
                    "redirect: status {other} is not 301, 302, 303, 307, 308"
                ));
            }
        },
    })
}

fn compile_hostname(hostname: &str) -> Result<Option<Box<str>>, String> {
    match hostname {
        "" => Ok(None),
        name if is_dns_name(name) => Ok(Some(name.into())),
        other => Err(format!(
            "hostname {other:?} is not a DNS name in lower case"
        )),
    }
}

fn compile_path(path: Option<&resource::PathModifier>) -> Result<Option<PathEdit>, String> {
    let Some(path) = path else { return Ok(None) };
    // RFC 3986 §3.3: what a path may hold without being a query or a fragment.
    let clean = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&b))
            && text
                .split('/')
                .all(|segment| segment != "." && segment != "..")
            && !text.contains("//")
    };
    let checked = |text: &str, empty: bool| {
        if clean(text) && (text.starts_with('/') || (empty && text.is_empty())) {
            Ok(())
        } else {
            Err(format!(
                "path {text:?} is not an absolute path in normal form"
            ))
        }
    };
    match path.kind.as_ref().ok_or("the path modifier is empty")? {
        path_modifier::Kind::ReplaceFull(text) => {
            checked(text, false).map(|()| Some(PathEdit::Full(text.as_str().into())))
        }
        path_modifier::Kind::ReplacePrefix(text) => {
            checked(text, true).map(|()| Some(PathEdit::Prefix(text.trim_end_matches('/').into())))
        }
    }
}

fn compile_mirror(mirror: &resource::Mirror) -> Result<Mirror, String> {
    let millionths = mirror.millionths.unwrap_or(MILLIONTHS);
    if millionths > MILLIONTHS {
        return Err(format!(
            "mirror: share {millionths} is above a million millionths"
        ));
    }
    let backend = mirror.backend.as_ref().ok_or("mirror: no backend")?;
    Ok(Mirror {
        backend: backend_ref(backend)?,
        millionths,
    })
}

#[cfg(test)]
mod tests;
