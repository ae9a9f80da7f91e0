//! How near is one place to another?

use crate::resource;

/// A region and a zone; empty parts are not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Locality {
    /// e.g. `eu-central-1`.
    pub region: String,
    /// e.g. `eu-central-1a`.
    pub zone: String,
}

impl Locality {
    /// Are both in the same known zone?
    #[must_use]
    pub fn same_zone(&self, other: &Self) -> bool {
        !self.zone.is_empty() && self == other
    }

    /// Are both in the same known region?
    #[must_use]
    pub fn same_region(&self, other: &Self) -> bool {
        !self.region.is_empty() && self.region == other.region
    }
}

impl From<&resource::Locality> for Locality {
    fn from(locality: &resource::Locality) -> Self {
        Self {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_places_are_not_near() {
        let nowhere = Locality::default();
        assert!(!nowhere.same_zone(&nowhere) && !nowhere.same_region(&nowhere));
    }
}
