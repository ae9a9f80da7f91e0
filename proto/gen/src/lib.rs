//! Which Rust code do the .proto files give?
//!
//! A crate of its own, because a generator must not need the code that it generates. Pure Rust:
//! protox reads the files, so nobody has to install `protoc`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use prost::Message;
use prost_types::FileDescriptorSet;

pub mod contract;

/// Where the accepted numbers are, below the crate `isthmus-proto`.
pub const GOLDEN: &str = "tests/contract.golden";

/// How that file begins.
const GOLDEN_HEAD: &str = "# Every number that the contract has given away. `cargo gen -- --accept` appends; nothing is ever\n\
                           # removed. `present` is `optional` in the .proto file: absence is told from zero.\n";

/// Every file of the contract, relative to the crate `isthmus-proto`.
pub const FILES: &[&str] = &[
    "envoy/service/discovery/v3/ads.proto",
    "isthmus/resource/v1/common.proto",
    "isthmus/resource/v1/workload.proto",
    "isthmus/resource/v1/service.proto",
    "isthmus/resource/v1/endpoint.proto",
    "isthmus/resource/v1/route.proto",
    "isthmus/resource/v1/authorization.proto",
    "isthmus/resource/v1/trust.proto",
    "isthmus/resource/v1/gateway.proto",
    "isthmus/resource/v1/freshness.proto",
    "isthmus/identity/v1/identity.proto",
];

/// Parses the contract below `root`.
///
/// # Errors
/// A file is missing or does not parse; the message names it and the line.
pub fn descriptors(root: &Path) -> Result<FileDescriptorSet> {
    protox::compile(FILES, [root]).context("read the .proto files")
}

/// Generates the code for the contract below `root` into the folder `out`, which it makes.
///
/// # Errors
/// The contract does not parse, or the folder can't be written.
pub fn write(root: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let set = descriptors(root)?;
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    config.enable_type_names();
    config.type_name_domain(["."], "type.googleapis.com");
    config.out_dir(out);
    tonic_prost_build::configure()
        .out_dir(out)
        .client_mod_attribute(".", "#[cfg(feature = \"rpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"rpc\")]")
        .compile_fds_with_config(set.clone(), config)
        .context("generate code")?;
    let golden = out.join("contract.binpb");
    fs::write(&golden, set.encode_to_vec()).with_context(|| format!("write {}", golden.display()))
}

/// Accepts what is new in the contract below `root`: its numbers are given away from now on. How
/// many there were.
///
/// # Errors
/// The contract breaks something that was accepted before, or a file can't be read or written.
pub fn accept(root: &Path) -> Result<usize> {
    let golden = root.join(GOLDEN);
    let text = fs::read_to_string(&golden).unwrap_or_default();
    let mut accepted = contract::read(&text);
    let now = contract::lines(&descriptors(root)?);
    let broken = contract::broken(&accepted, &now);
    ensure!(broken.is_empty(), "not compatible:\n{}", broken.join("\n"));
    let fresh = contract::unaccepted(&accepted, &now);
    let count = fresh.len();
    accepted.extend(fresh);
    let mut text = GOLDEN_HEAD.to_owned();
    for line in accepted {
        text.push_str(&line);
        text.push('\n');
    }
    fs::write(&golden, text).with_context(|| format!("write {}", golden.display()))?;
    Ok(count)
}
