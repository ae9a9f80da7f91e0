//! Is what a compiler can't check still as we agreed? Plain Rust, no dependencies.
//!
//! Each rule stands in docs/STYLE.md. What was there before a rule is listed here by name with its
//! excess (a ratchet): the list may only get shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "tidy/pages.rs"]
mod pages;

/// Lines of a file, without its tests at the bottom.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, with its signature and both braces.
const FUNCTION_LINES_MAX: usize = 72;

/// Files that are longer, and how long they may be.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions that are longer, and how long they may be.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// What a core may depend on. Another crate needs a line in ADR-0007 first.
const CORE_DEPENDENCIES: &[(&str, &[&str])] = &[
    (
        "proxy/core",
        &[
            "bytes",
            "httparse",
            "ipnet",
            "isthmus-proto",
            "prost",
            "prost-types",
            "regex",
            "smallvec",
            "thiserror",
        ],
    ),
    (
        "control-plane/core",
        &[
            "bytes",
            "ipnet",
            "isthmus-proto",
            "prost",
            "prost-types",
            "regex",
            "serde",
            "sha2",
            "smallvec",
            "thiserror",
        ],
    ),
];

/// What decisions must not do: that is IO, a clock, chance or a log.
const NOT_IN_CORES: &[&str] = &[
    "Instant::now(",
    "SystemTime::now(",
    "std::fs",
    "std::env",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "tokio::",
    "tracing::",
    "rand::",
    "println!(",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the crate is in a folder of the workspace")
        .to_owned()
}

/// Every file that is or would be committed, with `/` between folders.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let mut files = match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split('\0')
                .filter(|f| !f.is_empty())
                .map(ToOwned::to_owned)
                .collect()
        }
        // An unpacked archive.
        Ok(_) | Err(_) => walk(&root(), ""),
    };
    files.retain(|file| root().join(file).is_file());
    files.sort();
    assert!(
        files.len() > 50,
        "this is not the whole repository: {} files",
        files.len()
    );
    files
}

fn walk(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("a folder of the workspace")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && name != "target" && name != ".git" => {
                found.extend(walk(&entry.path(), &format!("{path}/")));
            }
            Ok(kind) if kind.is_file() => found.push(path),
            Ok(_) | Err(_) => {}
        }
    }
    found
}

/// The text of a file; binary files have none.
fn text(file: &str) -> String {
    let bytes = std::fs::read(root().join(file)).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Every file of Rust that a person writes.
fn sources() -> Vec<(String, String)> {
    let written = |file: &String| file.ends_with(".rs") && !file.contains("/src/gen/");
    files()
        .into_iter()
        .filter(written)
        .map(|file| (text(&file), file))
        .map(|(t, f)| (f, t))
        .collect()
}

/// Without the tests at the bottom.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

fn is_test(file: &str) -> bool {
    let places = ["tests/it/", "tests/sim/"];
    file.ends_with("/tests.rs")
        || file.contains("/tests/")
        || file.contains("/examples/")
        || places.iter().any(|place| file.starts_with(place))
}

fn complain(what: &str, bad: &[String]) {
    assert!(
        bad.is_empty(),
        "{what} ({} places)\n  {}",
        bad.len(),
        bad.join("\n  ")
    );
}

/// Complains of what is longer than `most`, but for the old ones; and of old ones that no longer are.
fn ratchet(found: &BTreeMap<String, usize>, most: usize, old: &[(&str, usize)], what: &str) {
    let old: BTreeMap<&str, usize> = old.iter().copied().collect();
    let mut bad = Vec::new();
    for (name, lines) in found {
        let allowed = old.get(name.as_str()).copied().unwrap_or(most);
        if *lines > allowed {
            bad.push(format!("{name}: {lines} lines, {allowed} is the most"));
        }
    }
    for name in old
        .keys()
        .filter(|name| found.get(**name).is_none_or(|lines| *lines <= most))
    {
        bad.push(format!(
            "{name}: is mended; take it off the list in tests/tidy.rs"
        ));
    }
    complain(what, &bad);
}

#[test]
fn files_are_short() {
    let lines = |text: &str| without_tests(text).matches('\n').count();
    let found = sources()
        .into_iter()
        .filter(|(file, _)| !is_test(file))
        .map(|(file, text)| (file, lines(&text)))
        .collect();
    ratchet(
        &found,
        FILE_LINES_MAX,
        LONG_FILES,
        "too long: which two questions does the file answer?",
    );
}

#[test]
fn functions_are_short() {
    let mut found = BTreeMap::new();
    // A test may be a table of two hundred cases.
    for (file, text) in sources().into_iter().filter(|(file, _)| !is_test(file)) {
        for (name, lines) in functions(without_tests(&text)) {
            let longest = found.entry(format!("{file}: {name}")).or_insert(0);
            *longest = lines.max(*longest);
        }
    }
    ratchet(
        &found,
        FUNCTION_LINES_MAX,
        LONG_FUNCTIONS,
        "too long: which two steps does it take?",
    );
}

/// Name and lines of each function, by the indentation that rustfmt gives.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        if let Some(name) = function_name(code) {
            open = Some((at, indent.to_owned(), name));
        }
        if open
            .as_ref()
            .is_some_and(|(_, indent, _)| line.strip_prefix(indent.as_str()) == Some("}"))
            && let Some((start, _, name)) = open.take()
        {
            found.push((name, at - start + 1));
        }
    }
    found
}

fn function_name(code: &str) -> Option<String> {
    let (before, after) = code.split_once("fn ")?;
    let modifier =
        |word: &str| word.starts_with("pub") || matches!(word, "const" | "async" | "unsafe");
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (before.split_whitespace().all(modifier) && !name.is_empty()).then_some(name)
}

#[test]
fn every_file_says_which_question_it_answers() {
    let told = |text: &str| text.is_empty() || text.starts_with("//! ") || text.starts_with("#!");
    let bad: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !told(text))
        .map(|(file, _)| file)
        .collect();
    complain("the first line is not `//! <question>`", &bad);
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not find itself.
    let stub = ["Not written", "yet"].join(" ");
    let banned = [
        format!("{}!(", "todo"),
        format!("{}!(", "unimplemented"),
        stub,
    ];
    let mut bad = Vec::new();
    for (file, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            if banned.iter().any(|word| line.contains(word.as_str())) {
                bad.push(format!("{file}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    complain("unfinished", &bad);
}

#[test]
fn cores_only_decide() {
    let mut bad = Vec::new();
    for (file, text) in sources() {
        let core = CORE_DEPENDENCIES
            .iter()
            .any(|(core, _)| file.starts_with(&format!("{core}/")));
        if !core || is_test(&file) {
            continue;
        }
        for (at, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in NOT_IN_CORES.iter().filter(|word| code.contains(**word)) {
                bad.push(format!("{file}:{}: {word}", at + 1));
            }
        }
    }
    complain(
        "a core reads no clock, draws no chance, does no IO and logs nothing",
        &bad,
    );
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = text(manifest);
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some((name, _)) = line.split_once([' ', '.', '=']) {
            found.insert(name.to_owned());
        }
    }
    found.remove("");
    found.remove("#");
    assert!(
        !found.is_empty(),
        "{manifest} has no dependencies: is this test reading it rightly?"
    );
    found
}

#[test]
fn cores_depend_on_little() {
    let mut bad = Vec::new();
    for (core, allowed) in CORE_DEPENDENCIES {
        for name in dependencies(&format!("{core}/Cargo.toml")) {
            if !allowed.contains(&name.as_str()) {
                bad.push(format!("{core} depends on {name}"));
            }
        }
    }
    for (one, other) in [("proxy", "control-plane"), ("control-plane", "proxy")] {
        let other = format!("isthmus-{other}");
        for name in dependencies(&format!("{one}/Cargo.toml")) {
            if name.starts_with(&other) {
                bad.push(format!(
                    "{one} depends on {name}: they share the contract alone"
                ));
            }
        }
    }
    complain("dependencies against docs/adr/0007", &bad);
}

#[test]
fn no_path_of_a_machine_is_told() {
    let mut needles = vec![["/ro", "ot/"].concat(), ["/ho", "me/"].concat()];
    // Where this checkout lies is nobody's business. Names that every machine has say nothing.
    let common = [
        "/", "/app", "/build", "/builds", "/github", "/opt", "/src", "/tmp", "/usr", "/var",
    ];
    let checkout = root();
    for folder in [Some(checkout.as_path()), checkout.parent()]
        .into_iter()
        .flatten()
    {
        let folder = folder.display().to_string();
        if !common.contains(&folder.as_str()) {
            needles.push(format!("{folder}/"));
        }
    }
    let mut bad = Vec::new();
    for file in files() {
        for (at, line) in text(&file).lines().enumerate() {
            let told = |needle: &String| {
                line.match_indices(needle.as_str())
                    .any(|(at, _)| begins(line, at))
            };
            if needles.iter().any(told) {
                bad.push(format!("{file}:{}", at + 1));
            }
        }
    }
    complain("a path of a machine", &bad);
}

/// Does an absolute path begin here? `proxy/src/x` and `https://host/src/x` don't.
fn begins(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '_' | '/' | '}' | '*'))
}
