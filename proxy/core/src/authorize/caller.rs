//! Is the caller one of those whom a rule names?

use std::fmt;

use isthmus_proto::ids::{ClusterId, InvalidName, Namespace, is_label, is_object_name};
use isthmus_proto::resource;
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};

use super::index::Key;
use super::pattern::{Names, each, place, write_list};
use super::rule::{ALTERNATIVES_MAX, EXCEPT_DEPTH_MAX, Miss, Term, Wanted};
use super::{PeerNames, Unseen};

/// Whom a rule names. All that is set must match.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    identities: Names,
    trust_domains: Names,
    clusters: Names,
    namespaces: Names,
    accounts: Accounts,
    authenticated: bool,
    except: Box<[Self]>,
}

/// Service accounts: of one namespace, or of any.
#[derive(Debug, Clone, Default)]
pub(super) struct Accounts {
    /// `<namespace>/sa/<account>`.
    qualified: Names,
    /// `<account>`.
    plain: Names,
}

impl Caller {
    /// Reads a caller; `depth` is how many `except` it stands in.
    pub(super) fn compile(raw: &resource::Caller, depth: usize) -> Result<Self, String> {
        if depth > EXCEPT_DEPTH_MAX {
            return Err(format!(
                ": more than {EXCEPT_DEPTH_MAX} except in one another"
            ));
        }
        let caller = Self {
            identities: names::<SpiffeId>("identities", &raw.identities)?,
            trust_domains: names::<TrustDomain>("trust_domains", &raw.trust_domains)?,
            clusters: names::<ClusterId>("clusters", &raw.clusters)?,
            namespaces: names::<Namespace>("namespaces", &raw.namespaces)?,
            accounts: Accounts::compile(&raw.service_accounts)?,
            authenticated: raw.authenticated,
            except: callers(&raw.except, depth.saturating_add(1))
                .map_err(|why| format!(".except{why}"))?,
        };
        if !caller.authenticated && !caller.names_somebody() && caller.except.is_empty() {
            return Err(": names nobody; leave it out to mean every caller".into());
        }
        Ok(caller)
    }

    /// Does it match? If not, what missed first?
    pub(super) fn check(
        &self,
        peer: Option<&PeerNames<'_>>,
        unseen: Unseen,
    ) -> Result<(), Miss<'_>> {
        let Some(peer) = peer else {
            return self.check_nobody(unseen);
        };
        let one_of = |names: &Names, seen: &str| names.is_empty() || names.contains(seen);
        let miss = |term, names| {
            Err(Miss {
                term,
                wanted: Wanted::Names(names),
            })
        };
        if !one_of(&self.identities, peer.identity) {
            return miss(Term::Identities, &self.identities);
        }
        if !one_of(&self.trust_domains, peer.trust_domain) {
            return miss(Term::TrustDomains, &self.trust_domains);
        }
        if !one_of(&self.clusters, peer.cluster) {
            return miss(Term::Clusters, &self.clusters);
        }
        if !one_of(&self.namespaces, peer.namespace) {
            return miss(Term::Namespaces, &self.namespaces);
        }
        if !self.accounts.match_peer(peer) {
            return Err(Miss {
                term: Term::Accounts,
                wanted: Wanted::Accounts(&self.accounts),
            });
        }
        if self
            .except
            .iter()
            .any(|except| except.check(Some(peer), unseen).is_ok())
        {
            return Err(Miss {
                term: Term::Except,
                wanted: Wanted::NotExcepted,
            });
        }
        Ok(())
    }

    /// Nobody has proven to be anybody, so no name matches, whatever the action. But an exception
    /// is the other way round: who is not proven to be outside of it can't be allowed, and who is
    /// not proven to be inside of it is denied.
    fn check_nobody(&self, unseen: Unseen) -> Result<(), Miss<'_>> {
        if self.authenticated || self.names_somebody() {
            return Err(Miss {
                term: Term::Authenticated,
                wanted: Wanted::Authenticated,
            });
        }
        let excepted = self.except.iter().any(|except| match unseen {
            Unseen::Misses => {
                except.names_anywhere() || except.check(None, Unseen::Matches).is_ok()
            }
            Unseen::Matches => except.check(None, Unseen::Misses).is_ok(),
        });
        if excepted {
            return Err(Miss {
                term: Term::Except,
                wanted: Wanted::NotExcepted,
            });
        }
        Ok(())
    }

    fn names_somebody(&self) -> bool {
        let Self {
            identities,
            trust_domains,
            clusters,
            namespaces,
            accounts,
            ..
        } = self;
        let lists = [identities, trust_domains, clusters, namespaces];
        lists.iter().any(|names| !names.is_empty()) || !accounts.is_empty()
    }

    fn names_anywhere(&self) -> bool {
        self.names_somebody() || self.except.iter().any(Self::names_anywhere)
    }

    /// Keys of which a matching caller has one: of the terms, the one that fewest callers share.
    /// `None`: nobody is named.
    pub(super) fn keys<'a>(&'a self) -> Option<Vec<Key<'a>>> {
        let of = |names: &'a Names, key: fn(&'a str) -> Key<'a>| names.iter().map(key).collect();
        let mut accounts: Vec<Key<'a>> = of(&self.accounts.qualified, Key::Account);
        accounts.extend(self.accounts.plain.iter().map(Key::AccountName));
        [
            of(&self.identities, Key::Identity),
            accounts,
            of(&self.namespaces, Key::Namespace),
            of(&self.clusters, Key::Cluster),
            of(&self.trust_domains, Key::TrustDomain),
        ]
        .into_iter()
        .find(|keys| !keys.is_empty())
    }
}

impl Accounts {
    fn compile(raw: &[String]) -> Result<Self, String> {
        let bad = |text: &str| {
            let why = "not namespace/name or name";
            Err(InvalidName::new("service account", text, why).to_string())
        };
        let (mut qualified, mut plain) = (Vec::new(), Vec::new());
        each(raw, |text| {
            match text.split_once('/') {
                Some((namespace, name)) if is_label(namespace) && is_object_name(name) => {
                    qualified.push(format!("{namespace}/sa/{name}").into_boxed_str());
                }
                None if is_object_name(text) => plain.push(text.as_str().into()),
                Some(_) | None => return bad(text),
            }
            Ok(())
        })
        .map_err(|why| format!(".service_accounts{why}"))?;
        Ok(Self {
            qualified: Names::new(qualified),
            plain: Names::new(plain),
        })
    }

    fn is_empty(&self) -> bool {
        self.qualified.is_empty() && self.plain.is_empty()
    }

    fn match_peer(&self, peer: &PeerNames<'_>) -> bool {
        self.is_empty()
            || self.qualified.contains(peer.qualified)
            || self.plain.contains(peer.account)
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let qualified = self
            .qualified
            .iter()
            .map(|name| name.replacen("/sa/", "/", 1));
        write_list(f, qualified.chain(self.plain.iter().map(str::to_owned)))
    }
}

/// Reads a list of callers; `depth` is how many `except` it stands in.
pub(super) fn callers(raw: &[resource::Caller], depth: usize) -> Result<Box<[Caller]>, String> {
    if raw.len() > ALTERNATIVES_MAX {
        return Err(format!(
            ": {} callers; at most {ALTERNATIVES_MAX} are allowed",
            raw.len()
        ));
    }
    let numbered = |(at, one)| Caller::compile(one, depth).map_err(|why| place(at, &why));
    raw.iter().enumerate().map(numbered).collect()
}

/// Reads a list of names of one kind.
fn names<T>(field: &str, raw: &[String]) -> Result<Names, String>
where
    T: std::str::FromStr<Err = InvalidName>,
{
    let read = |text: &String| match text.parse::<T>() {
        Ok(_) => Ok(text.as_str().into()),
        Err(why) => Err(why.to_string()),
    };
    each(raw, read)
        .map(Names::new)
        .map_err(|why| format!(".{field}{why}"))
}
