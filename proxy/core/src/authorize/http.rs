//! Does a request do what a rule names: port, host, method, path, headers?
//!
//! A header may be repeated, and readers disagree about which value counts, or whether they are one
//! list. So each action takes the reading that is safe for it. ALLOW: every value must match, and
//! no other spelling of the name (`x_role` for `x-role`, which CGI-like servers take for the same)
//! may be there. DENY and AUDIT: it suffices if one value matches, of any spelling, or one item of
//! a comma-separated list, or the whole list.

use smallvec::SmallVec;
use std::fmt;

use isthmus_proto::bounds::access::{HEADER_NAME_BYTES_MAX, METHOD_BYTES_MAX};
use isthmus_proto::literal::UNSEEN_HEADERS;
use isthmus_proto::resource;

use super::index::Key;
use super::pattern::{
    Names, Pattern, Patterns, RegexBudget, Subject, VALUES_MAX, each, place, shown, write_list,
};
use super::rule::{ALTERNATIVES_MAX, Miss, Term, Wanted};
use super::{Facts, Unseen};
use crate::message::{Fields, Method, is_token};

/// What is done. All that is set must match.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    /// Sorted.
    ports: Box<[u16]>,
    hosts: Patterns,
    methods: Box<[Method]>,
    paths: Patterns,
}

impl Operation {
    fn compile(raw: &resource::Operation, budget: &mut RegexBudget) -> Result<Self, String> {
        let mut ports = each(&raw.ports, port).map_err(|why| format!(".ports{why}"))?;
        ports.sort_unstable();
        ports.dedup();
        let methods = each(&raw.methods, method).map_err(|why| format!(".methods{why}"))?;
        let operation = Self {
            ports: ports.into_boxed_slice(),
            hosts: Patterns::compile(&raw.hosts, Subject::Host, budget)
                .map_err(|why| format!(".hosts{why}"))?,
            methods: methods.into_boxed_slice(),
            paths: Patterns::compile(&raw.paths, Subject::Path, budget)
                .map_err(|why| format!(".paths{why}"))?,
        };
        if operation.ports.is_empty() && !operation.needs_request() {
            return Err(": names nothing; leave it out to mean everything".into());
        }
        Ok(operation)
    }

    fn needs_request(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }

    /// Does it match? If not, what missed first?
    pub(super) fn check(&self, facts: &Facts<'_>, unseen: Unseen) -> Result<(), Miss<'_>> {
        if !self.ports.is_empty() && self.ports.binary_search(&facts.port).is_err() {
            return Err(Miss {
                term: Term::Ports,
                wanted: Wanted::Ports(&self.ports),
            });
        }
        let Some(request) = facts.request else {
            return match unseen {
                Unseen::Misses if self.needs_request() => Err(Miss {
                    term: Term::Request,
                    wanted: Wanted::Request,
                }),
                Unseen::Misses | Unseen::Matches => Ok(()),
            };
        };
        if !text_matches(&self.hosts, request.host, unseen) {
            return Err(Miss {
                term: Term::Hosts,
                wanted: Wanted::Patterns(&self.hosts),
            });
        }
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Err(Miss {
                term: Term::Methods,
                wanted: Wanted::Methods(&self.methods),
            });
        }
        if !text_matches(&self.paths, request.path, unseen) {
            return Err(Miss {
                term: Term::Paths,
                wanted: Wanted::Patterns(&self.paths),
            });
        }
        Ok(())
    }

    /// A key for each port. `None`: any port.
    pub(super) fn port_keys(&self) -> Option<Vec<Key<'_>>> {
        (!self.ports.is_empty()).then(|| self.ports.iter().copied().map(Key::Port).collect())
    }

    /// A key for each path, if all are literals.
    pub(super) fn path_keys(&self) -> Option<Vec<Key<'_>>> {
        self.paths
            .only_exact()
            .map(Names::iter)
            .map(|paths| paths.map(Key::Path).collect())
    }
}

/// An empty text is one that is not there, so it can't be seen either.
fn text_matches(patterns: &Patterns, text: &str, unseen: Unseen) -> bool {
    if patterns.is_empty() {
        return true;
    }
    if text.is_empty() {
        return unseen == Unseen::Matches;
    }
    patterns.matches(text)
}

/// Reads a list of operations.
pub(super) fn operations(
    raw: &[resource::Operation],
    budget: &mut RegexBudget,
) -> Result<Box<[Operation]>, String> {
    if raw.len() > ALTERNATIVES_MAX {
        return Err(format!(
            ": {} operations; at most {ALTERNATIVES_MAX} are allowed",
            raw.len()
        ));
    }
    let numbered = |(at, one)| Operation::compile(one, budget).map_err(|why| place(at, &why));
    raw.iter().enumerate().map(numbered).collect()
}

fn port(raw: &u32) -> Result<u16, String> {
    u16::try_from(*raw)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{raw} is not 1 to 65,535"))
}

fn method(raw: &String) -> Result<Method, String> {
    Method::parse(raw.as_bytes())
        .filter(|_| raw.len() <= METHOD_BYTES_MAX)
        .ok_or_else(|| format!("{} is no method", shown(raw.as_bytes())))
}

/// A header that must match.
#[derive(Debug, Clone)]
pub(super) struct HeaderTerm {
    name: Box<str>,
    value: Pattern,
}

/// How a field's name stands to a rule's.
#[derive(PartialEq, Eq)]
enum Spelling {
    Same,
    /// With `_` for `-` or the other way round.
    Alike,
    Other,
}

impl HeaderTerm {
    fn compile(raw: &resource::HeaderMatch, budget: &mut RegexBudget) -> Result<Self, String> {
        let name = raw.name.as_str();
        let bad = |why: &str| Err(format!(".name: {}: {why}", shown(name.as_bytes())));
        if !is_token(name.as_bytes()) || name.len() > HEADER_NAME_BYTES_MAX {
            return bad("not a header's name");
        }
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return bad("names are compared in lower case");
        }
        if UNSEEN_HEADERS.contains(&name) {
            return bad("policy never sees this header; for the host there is to.hosts");
        }
        let value = Pattern::compile(raw.value.as_ref(), Subject::Header, budget)
            .map_err(|why| format!(".value: {why}"))?;
        Ok(Self {
            name: name.into(),
            value,
        })
    }

    /// Does it match? See the head of this file.
    pub(super) fn check(&self, facts: &Facts<'_>, unseen: Unseen) -> Result<(), Miss<'_>> {
        let matches = match (facts.request, unseen) {
            (None, Unseen::Matches) => true,
            (None, Unseen::Misses) => {
                return Err(Miss {
                    term: Term::Request,
                    wanted: Wanted::Request,
                });
            }
            (Some(request), Unseen::Misses) => self.all_match(request.fields),
            (Some(request), Unseen::Matches) => self.any_matches(request.fields),
        };
        if matches {
            Ok(())
        } else {
            Err(Miss {
                term: Term::Headers,
                wanted: Wanted::Header(self),
            })
        }
    }

    fn all_match(&self, fields: &Fields) -> bool {
        let mut values: SmallVec<[&[u8]; 4]> = SmallVec::new();
        for (name, value) in fields.iter() {
            match self.spelling(name) {
                Spelling::Same => values.push(value),
                Spelling::Alike => return false,
                Spelling::Other => {}
            }
        }
        match &values[..] {
            [] => false,
            [only] => self.value.matches(only),
            // RFC 9113 §8.2.3: crumbs are one cookie, however they are cut.
            crumbs if self.is_cookie() => self.value.matches(&crumbs.join(b"; ".as_slice())),
            several => several.iter().all(|value| self.value.matches(value)),
        }
    }

    fn any_matches(&self, fields: &Fields) -> bool {
        let values: SmallVec<[&[u8]; 4]> = fields
            .iter()
            .filter(|(name, _)| self.spelling(name) != Spelling::Other)
            .map(|(_, value)| value)
            .collect();
        if values.iter().any(|value| self.value.matches(value)) {
            return true;
        }
        let comma = if self.is_cookie() { b';' } else { b',' };
        if values.len() < 2 && !values.iter().any(|value| value.contains(&comma)) {
            return false;
        }
        let items: SmallVec<[&[u8]; 8]> = values
            .iter()
            .flat_map(|value| value.split(|b| *b == comma).map(<[u8]>::trim_ascii))
            .collect();
        items.iter().any(|item| self.value.matches(item))
            || [&[comma][..], &[comma, b' ']]
                .iter()
                .any(|glue| self.value.matches(&items.join(*glue)))
    }

    fn spelling(&self, name: &[u8]) -> Spelling {
        let want = self.name.as_bytes();
        if name == want {
            return Spelling::Same;
        }
        let dash = |b: &u8| if *b == b'_' { b'-' } else { *b };
        if name.len() == want.len() && name.iter().map(dash).eq(want.iter().map(dash)) {
            return Spelling::Alike;
        }
        Spelling::Other
    }

    fn is_cookie(&self) -> bool {
        &*self.name == "cookie"
    }

    /// The values that were looked at. Credentials are not repeated to anybody.
    pub(super) fn describe_seen(&self, fields: &Fields) -> String {
        let seen = || {
            fields
                .iter()
                .filter(|(name, _)| self.spelling(name) != Spelling::Other)
        };
        if seen().next().is_none() {
            return "none".into();
        }
        if matches!(
            &*self.name,
            "authorization" | "proxy-authorization" | "cookie"
        ) {
            return "another value".into();
        }
        Seen(seen().collect()).to_string()
    }
}

impl fmt::Display for HeaderTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

/// Fields for people.
struct Seen<'a>(SmallVec<[(&'a [u8], &'a [u8]); 4]>);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one =
            |(name, value): &(&[u8], &[u8])| format!("{}: {}", name.escape_ascii(), shown(value));
        write_list(f, self.0.iter().map(one))
    }
}

/// Reads a list of headers.
pub(super) fn header_terms(
    raw: &[resource::HeaderMatch],
    budget: &mut RegexBudget,
) -> Result<Box<[HeaderTerm]>, String> {
    if raw.len() > VALUES_MAX {
        return Err(format!(
            ": {} headers; at most {VALUES_MAX} are allowed",
            raw.len()
        ));
    }
    let numbered = |(at, one)| HeaderTerm::compile(one, budget).map_err(|why| place(at, &why));
    raw.iter().enumerate().map(numbered).collect()
}
