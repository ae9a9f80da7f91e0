//! What do several kubeconfigs say together?
//!
//! As `kubectl` reads `KUBECONFIG`: of two entries with one name the first counts, files that are not
//! there are passed over, and a path means what it means beside its file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// The lists of a kubeconfig, and the part of an entry that has paths.
const LISTS: [(&str, &str); 3] = [
    ("clusters", "/cluster"),
    ("users", "/user"),
    ("contexts", "/context"),
];
/// Keys whose values are paths.
const PATHS: [&str; 4] = [
    "certificate-authority",
    "client-certificate",
    "client-key",
    "tokenFile",
];

/// The text of one file, or of a list of files as one.
///
/// # Errors
/// None of them is there, or one can't be read.
pub(super) fn read(given: &Path) -> anyhow::Result<String> {
    // A name with a colon in it is a name, if there is such a file.
    if given.exists() {
        return one(given);
    }
    let files: Vec<PathBuf> = std::env::split_paths(given)
        .filter(|file| !file.as_os_str().is_empty())
        .collect();
    if let [single] = &files[..] {
        return one(single);
    }
    let there: Vec<&PathBuf> = files.iter().filter(|file| file.exists()).collect();
    if there.is_empty() {
        bail!("none of the kubeconfigs {} is there", given.display());
    }
    let mut merged = json!({ "apiVersion": "v1", "kind": "Config" });
    for file in there {
        let text = text(file)?;
        let config: Value = serde_saphyr::from_str(&text)
            .with_context(|| format!("the kubeconfig {}", file.display()))?;
        add(&mut merged, resolved(config, file));
    }
    Ok(merged.to_string())
}

fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read the kubeconfig {}", file.display()))
}

/// What is no YAML is told by whoever understands it.
fn one(file: &Path) -> anyhow::Result<String> {
    let text = text(file)?;
    let config = serde_saphyr::from_str::<Value>(&text).ok();
    let config = config.filter(Value::is_object);
    Ok(config.map_or(text, |config| resolved(config, file).to_string()))
}

/// With paths that mean the same from everywhere.
fn resolved(mut config: Value, file: &Path) -> Value {
    let folder = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let Some(folder) = folder.parent() else {
        return config;
    };
    for (list, part) in LISTS {
        let entries = config.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            for key in PATHS {
                from(folder, entry.pointer_mut(&format!("{part}/{key}")));
            }
            let command = entry.pointer_mut(&format!("{part}/exec/command"));
            // One word is looked for in PATH.
            from(
                folder,
                command.filter(|c| c.as_str().is_some_and(|c| c.contains('/'))),
            );
        }
    }
    config
}

fn from(folder: &Path, path: Option<&mut Value>) {
    let Some(path) = path else { return };
    if let Some(text) = path.as_str().filter(|text| !text.is_empty()) {
        *path = folder.join(text).display().to_string().into();
    }
}

/// What is there already counts.
fn add(merged: &mut Value, config: Value) {
    let Value::Object(config) = config else {
        return;
    };
    for (key, value) in config {
        match (LISTS.iter().any(|(list, _)| *list == key), value) {
            (true, Value::Array(entries)) => {
                for entry in entries {
                    let known = merged[key.as_str()].as_array();
                    let mut known = known.into_iter().flatten();
                    if known.any(|one| one["name"] == entry["name"]) {
                        continue;
                    }
                    match merged[key.as_str()].as_array_mut() {
                        Some(list) => list.push(entry),
                        None => merged[key.as_str()] = json!([entry]),
                    }
                }
            }
            (_, value) => {
                let there = merged.get(&key).is_some_and(|one| !is_nothing(one));
                if !there && !is_nothing(&value) {
                    merged[key.as_str()] = value;
                }
            }
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_kubeconfigs_are_one_and_the_first_word_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
            file
        };
        let one = write(
            "one/config",
            "{apiVersion: v1, kind: Config, current-context: '', clusters: [{name: a, cluster: \
             {server: 'https://a', certificate-authority: ca.pem}}], users: [{name: u, user: \
             {exec: {command: bin/login}}}]}",
        );
        let two = write(
            "two/config",
            "{current-context: b, clusters: [{name: a, cluster: {server: 'https://other'}}, {name: \
             b, cluster: {server: 'https://b'}}], contexts: [{name: b, context: {cluster: b, user: \
             u}}], users: [{name: v, user: {exec: {command: aws}, client-key: /k}}]}",
        );
        let missing = folder.path().join("missing");
        let list = std::env::join_paths([&missing, &one, &two]).unwrap();
        let read: Value = serde_json::from_str(&read(Path::new(&list)).unwrap()).unwrap();
        assert_eq!(read["current-context"], "b");
        assert_eq!(read["clusters"].as_array().unwrap().len(), 2);
        let first = &read["clusters"][0]["cluster"];
        assert_eq!(first["server"], "https://a");
        let beside = folder.path().join("one/ca.pem").display().to_string();
        assert_eq!(first["certificate-authority"], beside);
        let login = folder.path().join("one/bin/login").display().to_string();
        assert_eq!(read["users"][0]["user"]["exec"]["command"], login);
        assert_eq!(read["users"][1]["user"]["exec"]["command"], "aws");
        assert_eq!(read["users"][1]["user"]["client-key"], "/k");
    }

    #[test]
    fn a_list_of_which_no_file_is_there_is_an_error_that_names_it() {
        let why = read(Path::new("/no/a.yaml:/no/b.yaml"))
            .unwrap_err()
            .to_string();
        assert!(why.contains("/no/a.yaml:/no/b.yaml"), "{why}");
        let why = read(Path::new("/no/a.yaml")).unwrap_err().to_string();
        assert!(why.contains("/no/a.yaml"), "{why}");
    }
}
