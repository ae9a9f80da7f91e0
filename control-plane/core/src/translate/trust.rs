//! Whom may the client believe?

use crate::translate::{Answer, encode_plain};
use crate::world::World;

/// Every trust domain's roots, each on its own: bundles are never merged.
pub(crate) fn bundles(world: &World) -> Answer {
    Answer::complete(
        world
            .trust
            .iter()
            .map(|(domain, bundle)| encode_plain(domain.as_str(), bundle)),
    )
}
