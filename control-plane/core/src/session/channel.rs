//! What of one type does the client want, hold and refuse, and what is on its way?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_proto::discovery::{DeltaDiscoveryRequest, Status};

use crate::session::draft::{Draft, Part};
use crate::session::question::{Asker, Subject, answer, may_remove, subject_of};
use crate::session::refusal::{Refusal, Said, healed};
use crate::translate::{Encoded, ResourceType, Version};
use crate::world::World;

/// What the client was told about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    /// Resources that carry it as an alias, or that it held before.
    Present,
    /// Known absent, or known empty.
    Absent,
}

#[derive(Debug)]
pub(crate) struct Key {
    /// `None`: it means nothing, or that is not known yet.
    pub(crate) subject: Option<Subject>,
    told: Told,
    /// Not from the first request of the stream: it is answered even if all of it is held.
    pub(crate) anew: bool,
}

/// What the client has of a subject.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    pub(crate) keys: BTreeSet<String>,
    /// `None`: a version that we can't read.
    pub(crate) held: BTreeMap<Arc<str>, Option<Version>>,
    refused: BTreeMap<Arc<str>, Refusal>,
    /// Asked for again on the same stream: all of it is sent.
    resend: bool,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    generation: u64,
    set: Vec<(Subject, Arc<str>, Version)>,
    gone: Vec<(Subject, Arc<str>)>,
}

/// One type's side of the stream.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: ResourceType,
    pub(crate) keys: BTreeMap<String, Key>,
    pub(crate) holdings: BTreeMap<Subject, Holding>,
    /// Keys to be resolved.
    pub(crate) due_keys: BTreeSet<String>,
    /// Keys that could not be resolved yet.
    pub(crate) unresolved: BTreeSet<String>,
    /// Keys that mean nothing, to be told.
    absent: BTreeSet<String>,
    /// Subjects to be compared with the world.
    pub(crate) due: BTreeSet<Subject>,
    /// Subjects that are new since somebody looked.
    pub(crate) begun: Vec<Subject>,
    in_flight: Option<InFlight>,
    pub(crate) acked: u64,
    pub(crate) nacked: u64,
    pub(crate) acked_generation: u64,
}

impl Channel {
    /// A type's side, as the client's first request of that type describes it.
    pub(crate) fn new(kind: ResourceType, request: &DeltaDiscoveryRequest) -> Self {
        let mut channel = Self {
            kind,
            keys: BTreeMap::new(),
            holdings: BTreeMap::new(),
            due_keys: BTreeSet::new(),
            unresolved: BTreeSet::new(),
            absent: BTreeSet::new(),
            due: BTreeSet::new(),
            begun: Vec::new(),
            in_flight: None,
            acked: 0,
            nacked: 0,
            acked_generation: 0,
        };
        for (name, version) in &request.initial_resource_versions {
            // A name that is none of ours was never sent by us: nothing can be said about it.
            let Some(subject) = subject_of(kind, name) else {
                continue;
            };
            let holding = channel.holding(&subject);
            holding
                .held
                .insert(name.as_str().into(), Version::parse(version));
            channel.due.insert(subject);
        }
        channel
    }

    /// What the client has of a subject; new, if it had nothing.
    fn holding(&mut self, subject: &Subject) -> &mut Holding {
        if !self.holdings.contains_key(subject) {
            self.begun.push(subject.clone());
        }
        self.holdings.entry(subject.clone()).or_default()
    }

    /// Is a response waiting for its acknowledgement?
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Is there anything to be told, or to be compared with the world?
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty() || !self.absent.is_empty()
    }

    /// Wants a key. On a stream that is under way, it is answered anew in any case.
    pub(crate) fn subscribe(&mut self, key: &str, under_way: bool) {
        if let Some(known) = self.keys.get_mut(key) {
            known.told = Told::Nothing;
        } else {
            let known = Key {
                subject: None,
                told: Told::Nothing,
                anew: under_way,
            };
            self.keys.insert(key.to_owned(), known);
        }
        if let Some(subject) = self.keys.get(key).and_then(|known| known.subject.clone())
            && let Some(holding) = self.holdings.get_mut(&subject)
        {
            holding.resend |= under_way;
            self.due.insert(subject);
        }
        self.due_keys.insert(key.to_owned());
    }

    /// Does not want a key any more. What only this key asked for is forgotten without a word.
    pub(crate) fn unsubscribe(&mut self, key: &str) {
        let subject = self.keys.remove(key).and_then(|known| known.subject);
        self.due_keys.remove(key);
        self.unresolved.remove(key);
        self.absent.remove(key);
        let Some(subject) = subject else { return };
        let Some(holding) = self.holdings.get_mut(&subject) else {
            return;
        };
        holding.keys.remove(key);
        if holding.keys.is_empty() {
            self.holdings.remove(&subject);
            self.due.remove(&subject);
        }
    }

    /// The key means this subject now; `None`: nothing.
    pub(crate) fn bind(&mut self, key: &str, subject: Option<Subject>) {
        let Some(known) = self.keys.get_mut(key) else {
            return;
        };
        self.unresolved.remove(key);
        if known.subject == subject {
            if subject.is_none() && known.told != Told::Absent {
                self.absent.insert(key.to_owned());
            }
            return;
        }
        let before = known.subject.take();
        known.subject.clone_from(&subject);
        let anew = known.anew || before.is_some();
        if let Some(before) = before {
            known.told = Told::Nothing;
            if let Some(holding) = self.holdings.get_mut(&before) {
                holding.keys.remove(key);
            }
            self.due.insert(before);
        }
        self.absent.remove(key);
        match subject {
            None => {
                self.absent.insert(key.to_owned());
            }
            Some(subject) => {
                let holding = self.holding(&subject);
                // A second name for what is held already: the client has to hear it with its names.
                holding.resend |= anew;
                holding.keys.insert(key.to_owned());
                self.due.insert(subject);
            }
        }
    }

    /// It can't be said yet what the key means.
    pub(crate) fn unresolved(&mut self, key: &str) {
        self.unresolved.insert(key.to_owned());
    }

    /// Everything is to be looked at again.
    pub(crate) fn all_due(&mut self) {
        self.due_keys.extend(self.keys.keys().cloned());
        self.due.extend(self.holdings.keys().cloned());
    }

    /// Looks at a subject again, if it is wanted.
    pub(crate) fn subject_due(&mut self, subject: &Subject) {
        if self.holdings.contains_key(subject) {
            self.due.insert(subject.clone());
        }
    }

    /// Is there anything to take away?
    pub(crate) fn has_removals(&self, world: &World, asker: &Asker<'_>) -> bool {
        let mut draft = Draft::default();
        self.due.iter().any(|subject| {
            let all = (subject, Part::Removals, usize::MAX);
            self.compare(world, asker, all, &mut draft);
            !draft.is_empty()
        })
    }

    /// What differs between the client and the world, as far as one response takes it.
    pub(crate) fn draft(
        &mut self,
        world: &World,
        asker: &Asker<'_>,
        (part, bytes_max): (Part, usize),
    ) -> Draft {
        let mut draft = Draft::default();
        for key in &self.absent {
            if !draft.takes(key.len(), bytes_max) {
                return draft;
            }
            draft.removed.insert(key.clone());
            draft.told.push((key.clone(), Told::Absent));
        }
        for subject in self.due.clone() {
            self.forget_versions(&subject);
            if !self.compare(world, asker, (&subject, part, bytes_max), &mut draft) {
                return draft;
            }
            if part == Part::All {
                draft.done.push(subject);
            }
        }
        draft
    }

    /// Asked for again: whatever is held is sent again. Only when nothing is on its way.
    fn forget_versions(&mut self, subject: &Subject) {
        let holding = self
            .holdings
            .get_mut(subject)
            .filter(|holding| holding.resend);
        let Some(holding) = holding else { return };
        holding.resend = false;
        for version in holding.held.values_mut() {
            *version = None;
        }
    }

    /// Puts what differs of one subject into the draft; false: there is no room for all of it.
    fn compare(
        &self,
        world: &World,
        asker: &Asker<'_>,
        (subject, part, bytes_max): (&Subject, Part, usize),
        draft: &mut Draft,
    ) -> bool {
        let Some(holding) = self.holdings.get(subject) else {
            return true;
        };
        let wanted = !holding.keys.is_empty();
        if !wanted && !self.unresolved.is_empty() {
            // A key that is not resolved yet may mean it.
            return true;
        }
        let answer = if wanted {
            answer(world, asker, self.kind, subject)
        } else {
            crate::translate::Answer::nothing()
        };
        if !answer.known {
            return true;
        }
        let desired: BTreeMap<&str, &Encoded> = answer
            .resources()
            .map(|one| (one.name.as_ref(), one))
            .collect();
        if answer.complete {
            let over = healed(&holding.refused, &holding.held, &desired);
            draft
                .healed
                .extend(over.map(|name| (subject.clone(), name)));
        }
        let is_gone = |name: &&Arc<str>| !desired.contains_key(name.as_ref());
        for name in holding.held.keys().filter(is_gone) {
            let gone = may_remove(world, asker, (self.kind, name.as_ref()), answer.complete);
            if !gone && wanted {
                continue;
            }
            if !draft.takes(name.len(), bytes_max) {
                return false;
            }
            draft.removed.insert(name.to_string());
            draft.gone.push((subject.clone(), name.clone()));
        }
        if asker.epochs.concerns(self.kind) && wanted {
            return part == Part::Removals
                || self.careful(asker, (subject, holding), desired, (draft, bytes_max));
        }
        if desired.is_empty() {
            return !answer.complete || self.tell_empty(holding, draft, bytes_max);
        }
        part == Part::Removals || self.upserts((subject, holding), &desired, draft, bytes_max)
    }

    /// Known empty: each key is told once.
    fn tell_empty(&self, holding: &Holding, draft: &mut Draft, bytes_max: usize) -> bool {
        for key in &holding.keys {
            if self.told(key) == Told::Absent {
                continue;
            }
            if !draft.takes(key.len(), bytes_max) {
                return false;
            }
            draft.removed.insert(key.clone());
            draft.told.push((key.clone(), Told::Absent));
        }
        true
    }

    pub(crate) fn upserts(
        &self,
        (subject, holding): (&Subject, &Holding),
        desired: &BTreeMap<&str, &Encoded>,
        draft: &mut Draft,
        bytes_max: usize,
    ) -> bool {
        let new_keys = holding
            .keys
            .iter()
            .filter(|key| self.told(key) != Told::Present);
        let new_keys: Vec<String> = new_keys.cloned().collect();
        for (name, one) in desired {
            let has = holding
                .held
                .get(*name)
                .is_some_and(|held| *held == Some(one.version));
            let refused = holding.refused.get(*name);
            if refused.is_some_and(|refusal| refusal.version == one.version) || has {
                continue;
            }
            // What belongs to a service carries a name only with the first answer to it.
            let aliases: Vec<String> = match self.kind {
                ResourceType::Service => holding.keys.iter().cloned().collect(),
                ResourceType::Endpoint | ResourceType::Route => new_keys.clone(),
                ResourceType::TrustBundle
                | ResourceType::AccessPolicy
                | ResourceType::Workload
                | ResourceType::HandleKeys
                | ResourceType::ExportedEndpoint
                | ResourceType::ClusterFreshness
                | ResourceType::Gateway => Vec::new(),
            };
            let aliases: Vec<String> = aliases.into_iter().filter(|key| key != name).collect();
            let names: usize = aliases.iter().map(String::len).sum();
            let bytes = one
                .body
                .len()
                .saturating_add(name.len())
                .saturating_add(names);
            if !draft.takes(bytes, bytes_max) {
                return false;
            }
            draft
                .set
                .push((subject.clone(), one.name.clone(), one.version));
            draft.resources.push(((*one).clone(), aliases));
        }
        draft
            .told
            .extend(new_keys.into_iter().map(|key| (key, Told::Present)));
        true
    }

    fn told(&self, key: &str) -> Told {
        self.keys.get(key).map_or(Told::Nothing, |known| known.told)
    }

    /// The draft is what the client will have been told; false: there is nothing to send.
    pub(crate) fn commit(&mut self, draft: &Draft, nonce: &str, generation: u64) -> bool {
        for (key, told) in &draft.told {
            if let Some(known) = self.keys.get_mut(key) {
                known.told = *told;
            }
            self.absent.remove(key);
        }
        for (subject, name) in &draft.healed {
            if let Some(holding) = self.holdings.get_mut(subject) {
                holding.refused.remove(name);
            }
        }
        for subject in &draft.done {
            self.due.remove(subject);
            // What no key asks for any more is forgotten once it has been taken away.
            let gone = |holding: &Holding| holding.keys.is_empty() && holding.held.is_empty();
            if self.holdings.get(subject).is_some_and(gone) {
                self.holdings.remove(subject);
            }
        }
        if draft.is_empty() {
            return false;
        }
        self.in_flight = Some(InFlight {
            nonce: nonce.to_owned(),
            generation,
            set: draft.set.clone(),
            gone: draft.gone.clone(),
        });
        true
    }

    /// The client has answered the response of this nonce. An older or unknown nonce says nothing.
    pub(crate) fn acknowledge(&mut self, nonce: &str, error: Option<&Status>) {
        let Some(sent) = self.in_flight.take_if(|sent| sent.nonce == nonce) else {
            return;
        };
        let names = sent.set.iter().map(|(_, name, _)| name.as_ref());
        let said = error.map(|status| Said::new(&status.message, names));
        if said.is_some() {
            self.nacked = self.nacked.saturating_add(1);
        } else {
            self.acked = self.acked.saturating_add(1);
            self.acked_generation = sent.generation;
        }
        for (subject, name, version) in &sent.set {
            let Some(holding) = self.holdings.get_mut(subject) else {
                continue;
            };
            if let Some(why) = said.as_ref().and_then(|said| said.why(name)) {
                let version = *version;
                let refusal = Refusal { version, why };
                holding.refused.insert(name.clone(), refusal);
            } else {
                holding.refused.remove(name);
                holding.held.insert(name.clone(), Some(*version));
            }
        }
        for (subject, name) in &sent.gone {
            if let Some(holding) = self.holdings.get_mut(subject) {
                holding.held.remove(name);
                holding.refused.remove(name);
            }
        }
    }

    /// What the client does not take as it is now, and why.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &str)> {
        let refused = self.holdings.values().flat_map(|holding| &holding.refused);
        refused.map(|(name, refusal)| (name.as_ref(), refusal.why.as_str()))
    }
}
