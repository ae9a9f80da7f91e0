//! Which request or response begins here?

use std::mem::MaybeUninit;

use super::section::{self, Facts, Side, Why};
use super::{FIELDS_MAX, Limits};
use crate::canonical;
use crate::failure::Failure;
use crate::message::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};

const ANOTHER_CODING: Why = "a transfer coding other than chunked, RFC 9112 §6.1";

/// Reads the request head at the front of `input`; one empty line before it is skipped
/// (RFC 9112 §2.2). Returns it with the bytes that it took, or `None` if more are needed.
///
/// # Errors
/// `BadRequest` with the broken rule; `NotImplemented` for a transfer coding that is not `chunked`;
/// `HeadTooLarge` over the limits.
pub fn parse_request(
    input: &[u8],
    limits: &Limits,
) -> Result<Option<(RequestHead, usize)>, Failure> {
    let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
    let input = input.get(skipped..).unwrap_or_default();
    if input.is_empty() || (skipped == 0 && input == b"\r") {
        return Ok(None);
    }
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        return Err(Failure::BadRequest(
            "empty lines before the request, RFC 9112 §2.2",
        ));
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let window = window(input, limits);
    let head = match request.parse_with_uninit_headers(window, cap(&mut lines, limits)) {
        Ok(httparse::Status::Complete(length)) => complete(window, length, limits),
        Ok(httparse::Status::Partial) if window.len() > limits.head_bytes_max => None,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => None,
        Err(error) => return Err(Failure::BadRequest(request_rule(error))),
    };
    let head = head.ok_or(Failure::HeadTooLarge)?;
    let request = read_request(head, &request).map_err(Failure::BadRequest)?;
    let request = request.ok_or(Failure::NotImplemented(ANOTHER_CODING))?;
    Ok(Some((request, skipped + head.len())))
}

/// Reads the response head at the front of `input`, an answer to a request of this method.
/// Returns it with the bytes that it took, or `None` if more are needed.
///
/// # Errors
/// `UpstreamProtocol` for a head that is malformed, ambiguous or over the limits.
pub fn parse_response(
    input: &[u8],
    request_method: &Method,
    limits: &Limits,
) -> Result<Option<(ResponseHead, usize)>, Failure> {
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        let why = "empty line before the response, RFC 9112 §4";
        return Err(Failure::UpstreamProtocol(why));
    }
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let window = window(input, limits);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        window,
        cap(&mut lines, limits),
    );
    let head = match parsed {
        Ok(httparse::Status::Complete(length)) => complete(window, length, limits),
        Ok(httparse::Status::Partial) if window.len() > limits.head_bytes_max => None,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => None,
        Err(error) => return Err(Failure::UpstreamProtocol(response_rule(error))),
    };
    let head = head.ok_or(Failure::UpstreamProtocol("head too large"))?;
    match read_response(head, &response, request_method) {
        Ok(response) => Ok(Some((response, head.len()))),
        Err(why) => Err(Failure::UpstreamProtocol(why)),
    }
}

type Lines<'b> = [MaybeUninit<httparse::Header<'b>>];

/// A head over the limit need not be read further than one byte over it.
fn window<'b>(input: &'b [u8], limits: &Limits) -> &'b [u8] {
    input
        .get(..limits.head_bytes_max.saturating_add(1))
        .unwrap_or(input)
}

fn cap<'l, 'b>(lines: &'l mut Lines<'b>, limits: &Limits) -> &'l mut Lines<'b> {
    let cap = limits.fields_max.min(FIELDS_MAX);
    lines.get_mut(..cap).unwrap_or_default()
}

fn complete<'b>(window: &'b [u8], length: usize, limits: &Limits) -> Option<&'b [u8]> {
    window
        .get(..length)
        .filter(|head| head.len() <= limits.head_bytes_max)
}

fn request_rule(error: httparse::Error) -> Why {
    match error {
        httparse::Error::Token => "method, target or their spaces, RFC 9112 §3",
        httparse::Error::Version => "version, RFC 9112 §2.3",
        httparse::Error::NewLine => "line end, RFC 9112 §2.2",
        httparse::Error::HeaderName => "field name, space before its colon, or fold, RFC 9112 §5",
        httparse::Error::HeaderValue => "control character in a field, RFC 9110 §5.5",
        httparse::Error::Status | httparse::Error::TooManyHeaders => "head, RFC 9112 §2.1",
    }
}

fn response_rule(error: httparse::Error) -> Why {
    match error {
        httparse::Error::Status => "status, RFC 9112 §4",
        other => request_rule(other),
    }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) {
        Version::Http10
    } else {
        Version::Http11
    }
}

/// `None`: nothing is wrong with it, but it has a transfer coding that is not `chunked`.
fn read_request(head: &[u8], line: &httparse::Request<'_, '_>) -> Result<Option<RequestHead>, Why> {
    if !section::lines_end_in_crlf(head, line.headers) {
        return Err("line end without CR, RFC 9112 §2.2");
    }
    let version = version(line.version);
    let token = line.method.unwrap_or_default().as_bytes();
    let method = Method::parse(token).ok_or("method, RFC 9110 §9.1")?;
    let target = target(&method, line.path.unwrap_or_default().as_bytes())?;
    let (fields, facts) = section::read(head, line.headers, Side::Request, version)?;
    let authority = authority(&target, &facts, version)?.to_vec();
    let body = facts.declared().unwrap_or(BodyLength::Empty);
    let has_content = !matches!(body, BodyLength::Empty | BodyLength::Exact(0));
    let protocol = match method {
        Method::Connect | Method::Trace if has_content => {
            return Err("CONNECT or TRACE with content, RFC 9110 §9.3.6, §9.3.8");
        }
        // RFC 9110 §7.8 lets us ignore an upgrade; behind content its first byte is contested, and only a
        // GET stays what it is over HTTP/2 (RFC 8441).
        Method::Get if !has_content => facts.protocol(version),
        _ => None,
    };
    if facts.needs_another_coding() {
        return Ok(None);
    }
    Ok(Some(RequestHead {
        method,
        version,
        https: target.https,
        authority,
        path: target.path,
        protocol: protocol.unwrap_or_default(),
        fields,
        body,
        keep_alive: facts.keeps_alive(version),
        expects_continue: facts.expects_continue,
    }))
}

struct Target<'b> {
    https: bool,
    authority: Option<&'b [u8]>,
    path: Vec<u8>,
}

/// The four forms of a request target (RFC 9112 §3.2).
fn target<'b>(method: &Method, raw: &'b [u8]) -> Result<Target<'b>, Why> {
    if *method == Method::Connect {
        // Whether it is an authority with a port is looked at with `Host`.
        return Ok(Target {
            https: false,
            authority: Some(raw),
            path: Vec::new(),
        });
    }
    match raw {
        [b'/', ..] => Ok(Target {
            https: false,
            authority: None,
            path: characters(raw)?.to_vec(),
        }),
        b"*" if *method == Method::Options => Ok(Target {
            https: false,
            authority: None,
            path: raw.to_vec(),
        }),
        b"*" => Err("* with another method than OPTIONS, RFC 9112 §3.2.4"),
        _ => absolute(method, raw),
    }
}

fn absolute<'b>(method: &Method, raw: &'b [u8]) -> Result<Target<'b>, Why> {
    let strip = |prefix: &[u8]| {
        let (scheme, rest) = raw.split_at_checked(prefix.len())?;
        scheme.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    let (https, rest) = match (strip(b"http://"), strip(b"https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err("target is no path and no http URI, RFC 9112 §3.2"),
    };
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, b""));
    let path = match characters(tail)? {
        // RFC 9112 §3.2.4: an empty path of OPTIONS stands for the server as a whole.
        b"" if *method == Method::Options => b"*".to_vec(),
        b"" => b"/".to_vec(),
        [b'?', ..] => [b"/", tail].concat(),
        _ => tail.to_vec(),
    };
    Ok(Target {
        https,
        authority: Some(authority),
        path,
    })
}

/// Only what may stand in a path and query (RFC 3986 §3.3), and the few others that clients send
/// and readers agree on.
fn characters(path: &[u8]) -> Result<&[u8], Why> {
    let mut in_query = false;
    for byte in path {
        match byte {
            b'?' => in_query = true,
            b'#' => return Err("fragment in the target, RFC 9112 §3.2"),
            b'"' | b'<' | b'>' => return Err("character in the target, RFC 3986 §2"),
            b'`' if !in_query => return Err("character in the target, RFC 3986 §2"),
            0x21..=0x7e => {}
            _ => return Err("character in the target is not ASCII, RFC 3986 §2"),
        }
    }
    Ok(path)
}

/// The one authority that the target and `Host` agree on (RFC 9112 §3.2, §3.3).
fn authority<'b>(
    target: &Target<'b>,
    facts: &Facts<'b>,
    version: Version,
) -> Result<&'b [u8], Why> {
    if let Some(host) = facts.host {
        canonical::check_authority(host)?;
    } else if version == Version::Http11 {
        return Err("no host, RFC 9112 §3.2");
    }
    let Some(authority) = target.authority else {
        return Ok(facts.host.unwrap_or_default());
    };
    let is_connect = target.path.is_empty();
    if is_connect && canonical::check_authority(authority)?.is_none() {
        return Err("CONNECT without a port, RFC 9112 §3.2.3");
    }
    let host = facts.host.unwrap_or(authority);
    if !canonical::same_authority(authority, host, target.https)? {
        return Err("host is not the target's, RFC 9112 §3.2.2");
    }
    Ok(authority)
}

fn read_response(
    head: &[u8],
    line: &httparse::Response<'_, '_>,
    request_method: &Method,
) -> Result<ResponseHead, Why> {
    if !section::lines_end_in_crlf(head, line.headers) {
        return Err("line end without CR, RFC 9112 §2.2");
    }
    let version = version(line.version);
    let status = line.code.filter(|code| (100..=599).contains(code));
    let status = status.ok_or("status, RFC 9110 §15")?;
    let (mut fields, facts) = section::read(head, line.headers, Side::Response, version)?;
    if facts.needs_another_coding() {
        return Err(ANOTHER_CODING);
    }
    let body = response_body(status, request_method, &facts, &mut fields)?;
    let protocol = match status {
        101 => facts
            .protocol(version)
            .ok_or("101 without one protocol, RFC 9110 §15.2.2")?,
        _ => Vec::new(),
    };
    Ok(ResponseHead {
        status,
        version,
        protocol,
        fields,
        body,
        keep_alive: facts.keeps_alive(version) && body != BodyLength::UntilClose,
    })
}

/// RFC 9112 §6.3. A length where there can be no content is a server that frames otherwise than
/// we do: what follows on this connection is not to be trusted.
fn response_body(
    status: u16,
    request_method: &Method,
    facts: &Facts<'_>,
    fields: &mut Fields,
) -> Result<BodyLength, Why> {
    match status {
        100..=199 | 204 => {
            fields.remove(b"content-length");
            match facts.declared() {
                None | Some(BodyLength::Exact(0)) => Ok(BodyLength::Empty),
                Some(_) => Err("1xx or 204 with content, RFC 9110 §8.6, RFC 9112 §6.1"),
            }
        }
        200..=299 if *request_method == Method::Connect => {
            fields.remove(b"content-length");
            Ok(BodyLength::Empty)
        }
        304 => Ok(BodyLength::Empty),
        _ if *request_method == Method::Head => Ok(BodyLength::Empty),
        _ => Ok(facts.declared().unwrap_or(BodyLength::UntilClose)),
    }
}
