//! Which kinds of a cluster does its source see, and which has it ever seen?

use std::collections::BTreeSet;

use crate::model::Kind;
use crate::world::State;
use crate::world::cluster::Cluster;

impl Cluster {
    /// A list is complete, but for these kinds. True: a kind is known that was not.
    pub(crate) fn complete(&mut self, kept: &BTreeSet<Kind>) -> bool {
        let before = self.unknown.len();
        let listed = self.listed();
        self.unknown = if self.listed() {
            self.unknown.intersection(kept).copied().collect()
        } else {
            kept.clone()
        };
        self.unseen.clone_from(kept);
        !listed || self.unknown.len() < before
    }

    /// A kind is seen after all. True: it was never before.
    pub(crate) fn complete_late(&mut self, kind: Kind) -> bool {
        self.unseen.remove(&kind);
        self.unknown.remove(&kind)
    }

    /// The kinds that were never seen: of them absence means nothing.
    pub(crate) fn unknown(&self) -> &BTreeSet<Kind> {
        &self.unknown
    }

    /// The kinds that the source cannot see now.
    pub(crate) fn unseen(&self) -> &BTreeSet<Kind> {
        &self.unseen
    }

    /// Does the source see this kind now?
    pub(crate) fn sees(&self, kind: Kind) -> bool {
        self.state == State::Synced && !self.unseen.contains(&kind)
    }

    /// Was this kind ever listed? Only then does the absence of such an object mean anything.
    pub(crate) fn knows(&self, kind: Kind) -> bool {
        self.listed() && !self.unknown.contains(&kind)
    }

    /// Is it known which services it exports?
    pub(crate) fn offers_known(&self) -> bool {
        self.knows(Kind::ServiceExport) && self.knows(Kind::Service)
    }

    /// Is it known how its clients' calls are routed?
    pub(crate) fn routes_known(&self) -> bool {
        // Without its grants a route leads to nowhere.
        let kinds = [
            Kind::HttpRoute,
            Kind::GrpcRoute,
            Kind::TcpRoute,
            Kind::TlsRoute,
            Kind::ReferenceGrant,
        ];
        kinds.into_iter().all(|kind| self.knows(kind))
    }
}
