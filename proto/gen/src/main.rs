//! Writes the generated code of `isthmus-proto`: `cargo gen`.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    isthmus_proto_gen::write(&root, &root.join("src/gen"))
}
