//! Do the pages still say what the code does?

use std::collections::{BTreeMap, BTreeSet};

use super::{complain, dependencies, files, is_test, root, sources, text, without_tests};

const README_LINES_MAX: usize = 150;
const ADR_LINES_MAX: usize = 80;

#[test]
fn every_dependency_has_its_reason() {
    let reasons = text("docs/adr/0007-dependencies.md");
    let mut bad = BTreeSet::new();
    for manifest in files()
        .iter()
        .filter(|file| file.ends_with("Cargo.toml") && *file != "Cargo.toml")
    {
        for name in dependencies(manifest) {
            if !name.starts_with("isthmus-") && !reasons.contains(&format!("`{name}`")) {
                bad.insert(format!("{name} ({manifest})"));
            }
        }
    }
    complain(
        "no reason in docs/adr/0007",
        &bad.into_iter().collect::<Vec<_>>(),
    );
}

#[test]
fn links_lead_somewhere() {
    let mut bad = Vec::new();
    for file in files().into_iter().filter(|file| file.ends_with(".md")) {
        let folder = root()
            .join(&file)
            .parent()
            .expect("a file is in a folder")
            .to_owned();
        for (line, target) in links(&text(&file)) {
            let path = target.split(['#', ' ']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !path.is_empty() && !folder.join(path).exists() {
                bad.push(format!("{file}:{line}: {target}"));
            }
        }
    }
    complain("the link leads nowhere", &bad);
}

/// Line and target of every link outside of code blocks.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut code = false;
    for (at, line) in text.lines().enumerate() {
        code ^= line.trim_start().starts_with("```");
        for part in line.split("](").skip(1).filter(|_| !code) {
            let target = part.split(')').next().unwrap_or_default();
            found.push((at + 1, target.to_owned()));
        }
    }
    found
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A counter's `_total` is added when it is printed, and a histogram has three endings.
fn metric(name: &str) -> String {
    let endings = ["_total", "_bucket", "_sum", "_count"];
    let base = endings
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name);
    base.to_owned()
}

#[test]
fn metrics_are_documented() {
    let mut kept = BTreeSet::new();
    for (file, text) in sources().into_iter().filter(|(file, _)| !is_test(file)) {
        let text = without_tests(&text);
        if file.starts_with("proxy/src/") {
            for part in text.split(".register(").skip(1) {
                let name = part
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|p| p.split('"').next());
                kept.extend(name.map(|name| metric(&format!("isthmus_{name}"))));
            }
        }
        if file.starts_with("control-plane/src/") || file.starts_with("cli/src/") {
            let literals = text.split('"').filter(|literal| {
                let word = |c: char| c.is_ascii_lowercase() || c == '_';
                literal.starts_with("isthmus_") && literal.chars().all(word)
            });
            kept.extend(literals.map(metric));
        }
    }
    // Names of crates, as log filters have them.
    kept.retain(|name| !matches!(name.as_str(), "isthmus_proxy" | "isthmus_control_plane"));
    assert!(
        kept.len() > 10,
        "metrics are kept in other places now: {kept:?}"
    );
    let page = text("docs/METRICS.md");
    let rows = page.lines().filter(|line| line.starts_with("| `isthmus_"));
    let told: BTreeSet<String> = rows
        .filter_map(|row| quoted(row).first().map(|n| metric(n)))
        .collect();
    let missing = kept
        .difference(&told)
        .map(|name| format!("{name}: not in docs/METRICS.md"));
    let gone = told
        .difference(&kept)
        .map(|name| format!("{name}: in docs/METRICS.md, and not kept"));
    complain("metrics", &missing.chain(gone).collect::<Vec<_>>());
}

/// The keys of every struct that is read from JSON or YAML.
fn keys(file: &str) -> Vec<String> {
    let text = text(file);
    let text = without_tests(&text);
    let (mut found, mut reads, mut inside, mut camel) = (Vec::new(), false, false, false);
    let mut renamed = None;
    for line in text.lines() {
        let code = line.trim();
        if code.starts_with("#[derive(") {
            (reads, camel) = (code.contains("Deserialize"), false);
        }
        camel |= code.contains("rename_all = \"camelCase\"");
        if code.contains("struct ") && code.ends_with('{') {
            inside = reads;
        } else if line == "}" {
            inside = false;
        } else if let Some(name) = code.strip_prefix("#[serde(rename = \"") {
            renamed = name.split('"').next().map(ToOwned::to_owned);
        } else if inside
            && !code.starts_with(['#', '/'])
            && let Some((name, _)) = code.split_once(": ")
        {
            let name = name.trim_start_matches("pub ").trim_start_matches("r#");
            let name = if camel {
                camel_case(name)
            } else {
                name.to_owned()
            };
            found.push(renamed.take().unwrap_or(name));
        }
    }
    assert!(
        !found.is_empty(),
        "{file} reads no keys: where are they now?"
    );
    found
}

fn camel_case(name: &str) -> String {
    let mut upper = false;
    let mut out = String::new();
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

#[test]
fn configuration_keys_are_documented() {
    let page = text("docs/CONFIG.md");
    let words: BTreeSet<&str> = page
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let mut bad = Vec::new();
    for file in [
        "proxy/src/config.rs",
        "control-plane/src/config.rs",
        "control-plane/src/config/writes.rs",
        "control-plane/src/manifest/access.rs",
        "control-plane/src/manifest/traffic.rs",
        "control-plane/src/manifest/cluster.rs",
        "control-plane/src/manifest/trust.rs",
    ] {
        let untold = keys(file)
            .into_iter()
            .filter(|key| !words.contains(key.as_str()));
        bad.extend(untold.map(|key| format!("{key} ({file})")));
    }
    complain("not in docs/CONFIG.md", &bad);
}

#[test]
fn what_is_said_to_be_covered_has_its_test() {
    let code: String = sources().into_iter().map(|(_, text)| text).collect();
    let page = text("docs/COVERAGE.md");
    let (mut bad, mut counts) = (Vec::new(), BTreeMap::new());
    for (series, last) in [('S', 33), ('F', 39), ('O', 17)] {
        for id in (1..=last).map(|n| format!("{series}{n}")) {
            let Some(row) = page
                .lines()
                .find(|line| line.starts_with(&format!("| {id} |")))
            else {
                bad.push(format!("{id} has no row"));
                continue;
            };
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let (state, tests) = (
                cells.get(3).copied().unwrap_or_default(),
                cells.get(4).copied(),
            );
            let named = quoted(tests.unwrap_or_default());
            *counts.entry(state.to_owned()).or_insert(0) += 1;
            let fits = match state {
                "whole" | "part" => !named.is_empty(),
                "no" => named.is_empty(),
                _ => false,
            };
            if !fits {
                bad.push(format!("{id}: {state:?} with {} tests", named.len()));
            }
            for name in named
                .iter()
                .filter(|name| !code.contains(&format!("fn {name}(")))
            {
                bad.push(format!("{id}: there is no test {name}"));
            }
        }
    }
    let count = |state: &str| counts.get(state).copied().unwrap_or(0);
    let summary = format!(
        "Of 89 ids, {} are tested whole, {} in part, {} not yet.",
        count("whole"),
        count("part"),
        count("no")
    );
    if !page.contains(&summary) {
        bad.push(format!("the summary should say: {summary}"));
    }
    complain("docs/COVERAGE.md", &bad);
}

#[test]
fn pages_are_short() {
    let mut bad = Vec::new();
    let readme = text("README.md").lines().count();
    if readme == 0 || readme > README_LINES_MAX {
        bad.push(format!("README.md: {readme} lines"));
    }
    let adrs: Vec<String> = files()
        .into_iter()
        .filter(|file| file.starts_with("docs/adr/"))
        .collect();
    for (at, file) in adrs.iter().enumerate() {
        let text = text(file);
        let lines = text.lines().count();
        if lines > ADR_LINES_MAX || !file.starts_with(&format!("docs/adr/{:04}-", at + 1)) {
            bad.push(format!("{file}: {lines} lines, number {}", at + 1));
        }
        for heading in [
            "## Context",
            "## Decision",
            "## Consequences",
            "## Rejected",
        ] {
            if !text.contains(heading) {
                bad.push(format!("{file}: no {heading}"));
            }
        }
    }
    complain("pages", &bad);
}

#[test]
fn commands_of_the_pages_exist() {
    let manifests: String = files()
        .iter()
        .filter(|f| f.ends_with("Cargo.toml"))
        .map(|f| text(f))
        .collect();
    let aliases = text(".cargo/config.toml");
    let known = [
        "run", "test", "build", "bench", "fmt", "clippy", "doc", "check",
    ];
    let mut bad = Vec::new();
    for file in files().into_iter().filter(|file| file.ends_with(".md")) {
        for line in text(&file)
            .lines()
            .filter(|line| line.trim_start().starts_with("cargo "))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            let command = words.get(1).copied().unwrap_or_default();
            if !known.contains(&command) && !aliases.contains(&format!("\n{command} = ")) {
                bad.push(format!("{file}: cargo has no {command}"));
            }
            for pair in words.windows(2).filter(|pair| pair[0] == "-p") {
                if !manifests.contains(&format!("name = \"{}\"", pair[1])) {
                    bad.push(format!("{file}: there is no crate {}", pair[1]));
                }
            }
        }
    }
    complain("commands", &bad);
}
