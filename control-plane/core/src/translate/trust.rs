//! Whom may the client believe?

use crate::translate::{Answer, encode_plain};
use crate::world::World;

/// Every trust domain's roots, each on its own: bundles are never merged, and those of clusters that
/// are cut off are left out. Without any the shell has not told them yet; nobody is told to believe
/// nobody by mistake, nor to believe somebody before it is known who is cut off.
pub(crate) fn bundles(world: &World) -> Answer {
    if world.trust.is_empty() {
        return Answer::unknown();
    }
    if !world.mesh_authors_listed() {
        // Only what is taken away is told.
        return Answer::partial([]);
    }
    let bundles = world
        .trust_bundles()
        .map(|bundle| encode_plain(&bundle.trust_domain, bundle));
    if world.is_gathering() {
        // Whoever is not named may be a member all the same.
        return Answer::partial(bundles);
    }
    Answer::complete(bundles)
}
