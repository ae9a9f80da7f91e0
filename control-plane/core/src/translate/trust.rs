//! Whom may the client believe?

use crate::translate::{Answer, encode_plain};
use crate::world::World;

/// Every trust domain's roots, each on its own: bundles are never merged. Without any the shell has
/// not told them yet; nobody is told to believe nobody by mistake.
pub(crate) fn bundles(world: &World) -> Answer {
    if world.trust.is_empty() {
        return Answer::unknown();
    }
    Answer::complete(
        world
            .trust
            .iter()
            .map(|(domain, bundle)| encode_plain(domain.as_str(), bundle)),
    )
}
