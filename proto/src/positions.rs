//! How new is what a control plane has told?
//!
//! By cluster and kind, the `resourceVersion` up to which everything was told. A response carries in
//! `system_version_info`, behind the world's generation, what has moved of the kinds that its resources
//! are made of; a proxy keeps the newest, and says them in its node's metadata (`positions`) when it
//! connects, so that a replica that has not come as far does not take it back in time.
//!
//! ```text
//! 1796012934 east/EndpointSlice=98766 east/Pod=98765
//! ```

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::ClusterId;

/// Where a node's metadata says them.
pub const METADATA: &str = "positions";
/// More are not read.
pub const POSITIONS_MAX: usize = 1_024;
/// Longest name of a kind.
const KIND_BYTES_MAX: usize = 63;

/// Positions by cluster and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<(ClusterId, String), u64>);

impl Positions {
    /// Reads what [`Display`](fmt::Display) writes. What can't be read says nothing: it is only for the
    /// reader's own good.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let one = |word: &str| {
            let (place, position) = word.split_once('=')?;
            let (cluster, kind) = place.split_once('/')?;
            let fits = !kind.is_empty() && kind.len() <= KIND_BYTES_MAX;
            let key = (cluster.parse().ok()?, kind.to_owned());
            fits.then_some((key, position.parse().ok()?))
        };
        let words = text.split_ascii_whitespace().take(POSITIONS_MAX);
        Self(words.filter_map(one).collect())
    }

    /// The generation of a response, and the positions behind it.
    #[must_use]
    pub fn of_version_info(text: &str) -> (&str, Self) {
        match text.split_once(' ') {
            Some((generation, positions)) => (generation, Self::read(positions)),
            None => (text, Self::default()),
        }
    }

    /// A response's `system_version_info`.
    #[must_use]
    pub fn version_info(&self, generation: u64) -> String {
        if self.0.is_empty() {
            return generation.to_string();
        }
        format!("{generation} {self}")
    }

    /// Notes a position; false: it is the one that was noted before.
    pub fn set(&mut self, cluster: &ClusterId, kind: &str, position: u64) -> bool {
        let key = (cluster.clone(), kind.to_owned());
        self.0.insert(key, position) != Some(position)
    }

    /// Takes over what is told now: a store that was made anew counts anew.
    pub fn extend(&mut self, newer: Self) {
        self.0.extend(newer.0);
        while self.0.len() > POSITIONS_MAX {
            self.0.pop_last();
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ClusterId, &str, u64)> {
        let all = self.0.iter();
        all.map(|((cluster, kind), position)| (cluster, kind.as_str(), *position))
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (cluster, kind, position)) in self.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{cluster}/{kind}={position}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_says_nothing() {
        let mut positions = Positions::default();
        let east: ClusterId = "east".parse().unwrap();
        assert_eq!(positions.version_info(7), "7");
        assert!(positions.set(&east, "Pod", 41));
        assert!(!positions.set(&east, "Pod", 41));
        assert!(positions.set(&east, "EndpointSlice", u64::MAX));
        let text = positions.version_info(7);
        assert_eq!(
            text,
            "7 east/EndpointSlice=18446744073709551615 east/Pod=41"
        );
        assert_eq!(Positions::of_version_info(&text), ("7", positions.clone()));
        assert_eq!(
            Positions::of_version_info("world 1").1,
            Positions::default()
        );
        let odd = "east/Pod=41 EAST/Pod=1 east=3 east/=4 east/Pod=-1 =  east/EndpointSlice=18446744073709551616";
        let mut expected = Positions::default();
        expected.set(&east, "Pod", 41);
        assert_eq!(Positions::read(odd), expected);
    }

    #[test]
    fn there_is_a_limit() {
        let text: String = (0..5_000).map(|n| format!("c{n}/Pod=1 ")).collect();
        let mut all = Positions::read(&text);
        all.extend(Positions::read("zz/Pod=1 a/Pod=2"));
        assert_eq!(all.iter().count(), POSITIONS_MAX);
    }
}
