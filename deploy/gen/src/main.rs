//! Writes `deploy/crds/`: `cargo gen-crds`.

use std::path::Path;

use anyhow::ensure;

fn main() -> anyhow::Result<()> {
    ensure!(std::env::args().len() == 1, "usage: cargo gen-crds");
    isthmus_crds::write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds"))
}
