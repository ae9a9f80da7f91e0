//! How do we reach the clusters of the user's kubeconfig?

mod merged;

use std::convert::identity;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use isthmus_control_plane::kubernetes::{Access, Allow, Api, ApiError, Program, kubeconfig};
use serde_json::Value;
use tokio::time::sleep;

/// Objects that are asked for at a time.
const PAGE: usize = 500;
/// How often a list is begun again of which the server does not keep the rest any more, and how often a
/// page is asked for again of a server that wants to be asked later.
const AGAIN_MAX: usize = 5;

/// The text of the user's kubeconfig: of several, as `KUBECONFIG` may name them, as one.
///
/// # Errors
/// There is none.
pub(crate) fn read(given: Option<&Path>) -> anyhow::Result<String> {
    match given {
        Some(path) => merged::read(path),
        None => {
            let home = std::env::var_os("HOME").context("there is no --kubeconfig and no HOME")?;
            merged::read(&PathBuf::from(home).join(".kube/config"))
        }
    }
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

/// Every plugin in the text, as it is run there.
fn plugins(text: &str) -> Vec<Program> {
    let config: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let users = config.get("users").and_then(Value::as_array);
    let program = |user: &Value| Program::of_exec(user.pointer("/user/exec")?).ok();
    users.into_iter().flatten().filter_map(program).collect()
}

/// What is run for a context's credential: `command`, `args`, `env`; `None`: nothing.
pub(crate) fn plugin_of(text: &str, context: &str) -> Option<Value> {
    let config: Value = serde_saphyr::from_str(text).unwrap_or_default();
    let named = |list: &str, name: &str| {
        let mut all = config.get(list)?.as_array()?.iter();
        all.find(|one| one.get("name").and_then(Value::as_str) == Some(name))
            .cloned()
    };
    let context = named("contexts", context)?;
    let user = named("users", context.pointer("/context/user")?.as_str()?)?;
    let exec = user.pointer("/user/exec")?.as_object()?.iter();
    let run = exec.filter(|(key, _)| ["command", "args", "env"].contains(&key.as_str()));
    Some(
        run.map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
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

/// Every object of a collection; `None`: there is no such kind.
///
/// # Errors
/// There is no answer, or it is another refusal.
pub(crate) async fn list(api: &Api, path: &str) -> Result<Option<Vec<Value>>, ApiError> {
    let list = list_some(api, path, &[], usize::MAX, identity).await?;
    Ok(list.map(|list| list.picked))
}

/// Something of each object of a collection.
#[derive(Debug, Default)]
pub(crate) struct Listed<T> {
    /// Of each object one.
    pub(crate) picked: Vec<T>,
    /// There are more than were asked for.
    pub(crate) more: bool,
}

/// Something of each object of a collection, page by page, of at least `most` objects if there are so
/// many; `None`: there is no such kind.
///
/// # Errors
/// There is no answer, or it is another refusal.
pub(crate) async fn list_some<T>(
    api: &Api,
    path: &str,
    query: &[(&str, &str)],
    most: usize,
    pick: impl Fn(Value) -> T,
) -> Result<Option<Listed<T>>, ApiError> {
    let (mut limit, mut rest, mut again, mut later) = (PAGE, String::new(), 0, 0);
    let mut picked = Vec::new();
    loop {
        let size = limit.to_string();
        let mut asked = vec![("limit", size.as_str())];
        if !rest.is_empty() {
            asked.push(("continue", rest.as_str()));
        }
        asked.extend_from_slice(query);
        let body = match api.list(path, &asked).await {
            Ok(body) => body,
            Err(error) if error.is_not_found() => return Ok(None),
            // Large objects: fewer at a time.
            Err(ApiError::TooLarge { .. }) if limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(error) if error.is_gone() && again < AGAIN_MAX => {
                again += 1;
                rest.clear();
                picked.clear();
                continue;
            }
            // As it is for a moment after the definition of a kind was written.
            Err(error) if later < AGAIN_MAX && error.retry_after().is_some() => {
                later += 1;
                sleep(error.retry_after().unwrap_or_default()).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut page: Value = serde_json::from_slice(&body)
            .map_err(|_| ApiError::Malformed("not JSON".to_owned()))?;
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            picked.extend(items.into_iter().map(&pick));
        }
        text(&page, "/metadata/continue").clone_into(&mut rest);
        if rest.is_empty() || picked.len() >= most {
            let more = !rest.is_empty();
            return Ok(Some(Listed { picked, more }));
        }
    }
}

/// Text at a pointer of an object; empty if there is none.
pub(crate) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// Texts in a list of an object, or at a place in each of its items.
pub(crate) fn strings(object: &Value, list: &str, at: &str) -> Vec<String> {
    let items = object.pointer(list).and_then(Value::as_array);
    let texts = items.into_iter().flatten();
    texts
        .filter_map(|item| item.pointer(at)?.as_str().map(ToOwned::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_the_users_own_kubeconfig_may_run() {
        let text = "users:\n- name: a\n  user: {exec: {command: aws, args: [x]}}\n- name: b\n  user: {token: t}\n";
        let found = plugins(text);
        assert_eq!((found[0].command.as_str(), found.len()), ("aws", 1));
        assert_eq!(found[0].args, ["x"]);
        assert!(plugins("not: [a kubeconfig").is_empty());
        let contexts =
            "contexts:\n- {name: one, context: {user: a}}\n- {name: two, context: {user: b}}\n";
        let of = |context| plugin_of(&format!("{text}{contexts}"), context);
        let run = serde_json::json!({ "command": "aws", "args": ["x"] });
        assert_eq!(of("one"), Some(run));
        assert_eq!(of("two"), None);
        assert_eq!(of("three"), None);
    }
}
