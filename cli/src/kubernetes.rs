//! How do we reach the clusters of the user's kubeconfig?

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use isthmus_control_plane::kubernetes::{Access, Allow, Api, ApiError, kubeconfig};
use serde_json::Value;

/// The text of the user's kubeconfig.
///
/// # Errors
/// There is none.
pub(crate) fn read(given: Option<&Path>) -> anyhow::Result<String> {
    let path = match given {
        // KUBECONFIG may be a list; only one file can be meant here.
        Some(path) if path.to_string_lossy().contains(':') => {
            bail!(
                "{} is a list of files: name one with --kubeconfig",
                path.display()
            )
        }
        Some(path) => path.to_path_buf(),
        None => {
            let home = std::env::var_os("HOME").context("there is no --kubeconfig and no HOME")?;
            PathBuf::from(home).join(".kube/config")
        }
    };
    std::fs::read_to_string(&path)
        .with_context(|| format!("read the kubeconfig {}", path.display()))
}

/// The way that a context of the user's own kubeconfig names. It may do what `kubectl` would do for it.
///
/// # Errors
/// The context is not there, or is not understood.
pub(crate) fn access(text: &str, context: Option<&str>) -> anyhow::Result<Access> {
    let allow = Allow {
        files: true,
        insecure: true,
        loopback: true,
        exec: plugins(text),
    };
    Ok(kubeconfig(text, context, &allow)?)
}

/// The client of a context.
///
/// # Errors
/// As [`read`] and [`access`].
pub(crate) fn connect(given: Option<&Path>, context: Option<&str>) -> anyhow::Result<Api> {
    Ok(Api::new(access(&read(given)?, context)?)?)
}

/// The commands of every plugin in the text.
fn plugins(text: &str) -> Vec<String> {
    let config: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let users = config.get("users").and_then(Value::as_array);
    let command = |user: &Value| Some(user.pointer("/user/exec/command")?.as_str()?.to_owned());
    users.into_iter().flatten().filter_map(command).collect()
}

/// The command of a context's plugin; `None`: it has none.
pub(crate) fn plugin_of(text: &str, context: &str) -> Option<String> {
    let config: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let named = |list: &str, name: &str| {
        let mut all = config.get(list)?.as_array()?.iter();
        all.find(|one| one.get("name").and_then(Value::as_str) == Some(name))
            .cloned()
    };
    let context = named("contexts", context)?;
    let user = named("users", context.pointer("/context/user")?.as_str()?)?;
    Some(user.pointer("/user/exec/command")?.as_str()?.to_owned())
}

/// An object; `None`: there is none, or no such kind.
///
/// # Errors
/// There is no answer, or it is another refusal.
pub(crate) async fn find(api: &Api, path: &str) -> anyhow::Result<Option<Value>> {
    match api.get(path).await {
        Ok(body) => Ok(Some(serde_json::from_slice(&body)?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// Every object of a collection that fits into a page; `None`: there is no such kind.
///
/// # Errors
/// There is no answer, or it is another refusal.
pub(crate) async fn list(api: &Api, path: &str) -> Result<Option<Vec<Value>>, ApiError> {
    let body = match api.list(path, &[("limit", "5000")]).await {
        Ok(body) => body,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut list: Value =
        serde_json::from_slice(&body).map_err(|_| ApiError::Malformed("not JSON".to_owned()))?;
    Ok(match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Some(items),
        _ => Some(Vec::new()),
    })
}

/// Text at a pointer of an object; empty if there is none.
pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_the_users_own_kubeconfig_may_run() {
        let text = "users:\n- name: a\n  user: {exec: {command: aws, args: [x]}}\n- name: b\n  user: {token: t}\n";
        assert_eq!(plugins(text), ["aws"]);
        assert!(plugins("not: [a kubeconfig").is_empty());
        let contexts =
            "contexts:\n- {name: one, context: {user: a}}\n- {name: two, context: {user: b}}\n";
        let of = |context| plugin_of(&format!("{text}{contexts}"), context);
        assert_eq!(of("one").as_deref(), Some("aws"));
        assert_eq!(of("two"), None);
        assert_eq!(of("three"), None);
    }

    #[test]
    fn a_list_of_kubeconfigs_is_not_guessed_at() {
        let error = read(Some(Path::new("a.yaml:b.yaml"))).unwrap_err();
        assert!(error.to_string().contains("--kubeconfig"), "{error}");
    }
}
