//! Is the generated code in `proto/src/gen` what the .proto files give today?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Cargo makes this folder for us, below the target folder.
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gen");
    // Left over from a run before, or not there at all.
    let _ = fs::remove_dir_all(&fresh);
    isthmus_proto_gen::write(&root, &fresh).unwrap();
    let (now, kept) = (files(&fresh), files(&root.join("src/gen")));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&now),
        names(&kept),
        "proto/src/gen has other files: run `cargo gen`"
    );
    for (name, bytes) in &now {
        assert!(
            kept.get(name) == Some(bytes),
            "proto/src/gen/{name} is stale: run `cargo gen`"
        );
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder of generated code");
    entries
        .map(|entry| {
            let path = entry.expect("an entry of the folder").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("a generated file"))
        })
        .collect()
}
