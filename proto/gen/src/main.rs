//! Writes the generated code of `isthmus-proto`: `cargo gen`. With `--accept`, the contract's new
//! field numbers are also accepted for ever (`proto/tests/contract.golden`).

use std::path::Path;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let accept = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--accept"] => true,
        _ => bail!("usage: cargo gen [-- --accept]"),
    };
    isthmus_proto_gen::write(&root, &root.join("src/gen"))?;
    if accept {
        isthmus_proto_gen::accept(&root)?;
    }
    Ok(())
}
