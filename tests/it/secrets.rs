//! Does a key get out of a process? (SECURITY S8)

use std::path::{Path, PathBuf};

use isthmus_tests::Mesh;
use isthmus_tests::programs::{find, run, said, say};
use isthmus_tests::tls::ca_file;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

const DIES: &str = "secrets::a_mesh_that_dies";

/// In all that a whole mesh says, with every word that it has, and in what the kernel keeps of it
/// when it dies.
#[tokio::test]
async fn no_key_is_in_a_log_or_in_a_core_dump() {
    let Some(sh) = find("sh") else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {} && ulimit -c unlimited || exit 77
         ISTHMUS_LOG=trace exec {} --exact {DIES} --ignored --nocapture",
        folder.path().display(),
        std::env::current_exe().unwrap().display(),
    );
    let out = run(&sh, &["-c", &script]).await;
    let text = said(&out);
    if out.status.code() == Some(77) {
        return say(&format!("skipped: {DIES}: no core dumps: {text}"));
    }
    let keys = files(folder.path(), ".pem");
    assert_eq!(keys.len(), 3, "{text}");
    assert!(text.contains("TRACE"), "it says all that it can");
    let needles: Vec<Vec<u8>> = keys.iter().flat_map(|file| forms(file)).collect();
    let holds = |hay: &[u8]| {
        let found = |needle: &&Vec<u8>| hay.windows(needle.len()).any(|at| at == needle.as_slice());
        needles.iter().any(|needle| found(&needle))
    };
    assert!(!holds(text.as_bytes()), "a key is in the log");
    assert!(
        holds(&std::fs::read(&keys[0]).unwrap()),
        "it would be found"
    );
    let cores = files(folder.path(), "");
    let held = |core: &PathBuf| holds(&std::fs::read(core).unwrap());
    assert!(cores.is_empty(), "with a key: {}", cores.iter().any(held));
    // Also for a program that is handed dumps whatever the limit is.
    assert!(text.contains("memory that is dumped: 00000000"), "{text}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        say(&format!(
            "skipped in part: {DIES}: dumps go elsewhere: {pattern}"
        ));
    }
}

/// Files of the folder: keys, or whatever else the kernel left there.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_key = |file: &PathBuf| file.extension().is_some_and(|end| end == "pem");
    all.filter(|file| is_key(file) != end.is_empty()).collect()
}

/// A key as memory and texts may hold it: its number, and the lines of its file.
fn forms(file: &Path) -> Vec<Vec<u8>> {
    let key = PrivateKeyDer::from_pem_file(file).unwrap();
    let der = key.secret_der();
    // RFC 5915 §3: version 1, then an OCTET STRING of 32 bytes.
    let start = der
        .windows(5)
        .position(|at| at == [2, 1, 1, 4, 32])
        .unwrap()
        + 5;
    let text = std::fs::read_to_string(file).unwrap();
    let (_, block) = text.split_once("PRIVATE KEY-----\n").unwrap();
    let lines = block.lines().take_while(|line| !line.starts_with('-'));
    let lines = lines.filter(|line| line.len() == 64);
    std::iter::once(der[start..start + 32].to_vec())
        .chain(lines.map(|line| line.as_bytes().to_vec()))
        .collect()
}

#[tokio::test]
#[ignore = "dies, in a process of its own, by no_key_is_in_a_log_or_in_a_core_dump"]
async fn a_mesh_that_dies() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await;
    assert_eq!(
        mesh.client("east/web").http("cart").get("/").await.status,
        200
    );
    let of = |pod: &str| mesh.proxy(pod).state_dir().join("identity.pem");
    for (name, key) in [
        ("web", of("east/web-1")),
        ("cart", of("east/cart-1")),
        (
            "issuer",
            ca_file(mesh.control().state_dir(), "east", "issuer-1"),
        ),
    ] {
        std::fs::copy(key, format!("{name}.pem")).unwrap();
    }
    let dumped = std::fs::read_to_string("/proc/self/coredump_filter").unwrap();
    say(&format!("memory that is dumped: {dumped}"));
    std::process::abort();
}
