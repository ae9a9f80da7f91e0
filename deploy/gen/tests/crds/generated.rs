//! Are the definitions in `deploy/crds/` those of the decoders, and do both agree on examples?

use std::path::{Path, PathBuf};

use isthmus_control_plane::manifest;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The files of a folder of `deploy/`, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(deploy().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} is empty");
    found
}

fn parse(text: &str) -> manifest::Parsed {
    manifest::parse(text, &"east".parse().unwrap())
}

#[test]
fn the_definitions_are_those_that_the_types_give() {
    let generated = isthmus_crds::files().unwrap();
    let names: Vec<&str> = generated.iter().map(|(name, _)| name.as_str()).collect();
    for (name, wanted) in &generated {
        let there = std::fs::read_to_string(deploy().join("crds").join(name)).unwrap_or_default();
        assert!(there == *wanted, "{name} is stale: run `cargo gen-crds`");
    }
    for path in files("crds") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            names.contains(&name.as_str()),
            "{name} is no file of `cargo gen-crds`"
        );
    }
}

#[test]
fn writing_gives_every_file() {
    let folder = tempfile::tempdir().unwrap();
    isthmus_crds::write(folder.path()).unwrap();
    for (name, wanted) in isthmus_crds::files().unwrap() {
        assert_eq!(text(&folder.path().join(name)), wanted);
    }
}

/// Every definition, as YAML reads it.
fn definitions() -> Vec<serde_json::Value> {
    files("crds")
        .into_iter()
        .chain(files("crds/mcs"))
        .map(|path| serde_saphyr::from_str(&text(&path)).unwrap())
        .collect()
}

/// Calls `see` with every schema below, and where it is.
fn walk(schema: &serde_json::Value, at: &str, see: &mut impl FnMut(&str, &serde_json::Value)) {
    see(at, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{at}.{name}"), see);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema.get(key).is_some() {
            walk(&schema[key], &format!("{at}{mark}"), see);
        }
    }
}

#[test]
fn every_schema_is_structural() {
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        for version in definition["spec"]["versions"].as_array().unwrap() {
            assert!(version["subresources"]["status"].is_object(), "{name}");
            walk(
                &version["schema"]["openAPIV3Schema"],
                name,
                &mut |at, schema| {
                    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
                    assert!(open || schema["type"].is_string(), "{at} has no type");
                    for word in ["$ref", "oneOf", "$defs", "nullable"] {
                        assert!(schema.get(word).is_none(), "{at} has {word}");
                    }
                    if open {
                        let closed = schema["maxProperties"] == 1 && schema["maximum"] == 0;
                        assert!(closed, "{at} takes anything");
                    }
                },
            );
        }
    }
}

#[test]
fn our_fields_are_described() {
    let mut untold = Vec::new();
    for definition in definitions()
        .iter()
        .filter(|d| d["spec"]["group"] == isthmus_crds::GROUP)
    {
        let spec =
            &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        walk(
            spec,
            definition["spec"]["names"]["kind"].as_str().unwrap(),
            &mut |at, schema| {
                let field = !at.ends_with("[]") && !at.ends_with("{}") && at.contains('.');
                // The matcher of a text is told at its list.
                let matcher = ["exact", "prefix", "suffix", "regex", "present"]
                    .iter()
                    .any(|m| at.ends_with(&format!("[].{m}")));
                if field
                    && !matcher
                    && schema["description"]
                        .as_str()
                        .unwrap_or_default()
                        .is_empty()
                {
                    untold.push(at.to_owned());
                }
            },
        );
    }
    assert_eq!(untold, Vec::<String>::new());
}

#[test]
fn the_examples_are_understood_whole() {
    let mut kinds = std::collections::BTreeSet::new();
    for path in files("examples") {
        let parsed = parse(&text(&path));
        let wrong = (&parsed.errors, &parsed.invalid, &parsed.ignored);
        assert_eq!(wrong, (&vec![], &vec![], &vec![]), "{}", path.display());
        kinds.extend(
            parsed
                .objects
                .iter()
                .map(|object| object.spec.kind().as_str()),
        );
    }
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            kind == "ServiceImport" || kinds.contains(kind.as_str()),
            "{kind} has no example"
        );
    }
}

#[test]
fn what_an_api_server_refuses_the_decoder_refuses() {
    let cases = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused.yaml"));
    let documents: Vec<&str> = cases.split("\n---\n").collect();
    assert!(documents.len() > 40);
    for document in documents {
        let parsed = parse(document);
        assert_eq!(
            parsed.errors.len() + parsed.invalid.len(),
            1,
            "is taken:\n{document}"
        );
    }
}
