//! What does the mesh see in clusters that the user has? Only a control plane runs, and it watches.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use isthmus_proto::admin::TOKEN_FILE;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::folder::Folder;
use super::mesh::{self, TAIL_LINES};
use super::plan::{MESH_DOMAIN, Plan};
use super::process::Process;
use super::screen::Screen;
use super::wait;
use crate::args::DemoOptions;
use crate::client::Door;
use crate::kubernetes::{self, plugin_of, text};
use crate::{client, roles, shutdown};

/// Longest time until every cluster was listed.
const LIST_TIMEOUT: Duration = Duration::from_secs(90);
/// Time between two looks for a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the user's own kubeconfig may say, on the user's own machine. Of the commands in it those
/// of the contexts may run that the user has named.
const ALLOW: [&str; 2] = ["loopback", "files"];
/// Longest name of a cluster, as a label of DNS.
const NAME_CHARS_MAX: usize = 63;

/// A cluster that is looked at.
#[derive(Debug)]
struct Joined {
    name: String,
    context: String,
    /// What its context may say.
    allow: Vec<Value>,
    /// By which it gets its credentials.
    command: Option<String>,
}

/// Joins the contexts' clusters and says what is seen of each; then watches until Ctrl-C, or ends
/// with `--check`.
///
/// # Errors
/// The control plane does not start.
pub(super) async fn run(
    options: &DemoOptions,
    file: &Path,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    let plan = Plan::claim()?;
    let folder = Folder::make(options.keep)?;
    let (file, text) = given(file, folder.root())?;
    let clusters = clusters(names(&options.contexts)?, &text);
    for cluster in &clusters {
        roles::check_kubeconfig(&file, &cluster.context, &cluster.allow)?;
    }
    let config = config(&plan, &folder.control_state(), &file, &clusters);
    std::fs::write(folder.control_config(), format!("{config:#}\n"))
        .context("writing the control plane's configuration")?;
    screen.say(
        "Joining your clusters to watch them. Nothing is written into them, and no proxy runs: the \
         scenes need pods, which `isthmus demo --kubernetes` alone has.",
    );
    for cluster in &clusters {
        if let Some(command) = &cluster.command {
            screen.say(&format!(
                "  {}: asks {command} for credentials, as kubectl does",
                cluster.name
            ));
        }
    }
    let mut control_plane = Process::start(mesh::control_plane_program(&folder)?)?;
    // Cancel-safe: the process ends with its owner.
    let watched = tokio::select! {
        watched = watch(options, (&plan, &folder), clusters.len(), &mut control_plane, screen) => Some(watched),
        () = shutdown::requested(false) => None,
    };
    control_plane.stop().await;
    match watched {
        Some(Ok(true)) | None => Ok(ExitCode::SUCCESS),
        Some(Ok(false)) => Ok(ExitCode::FAILURE),
        Some(Err(error)) => Err(error),
    }
}

/// The user's kubeconfig, and its text: the file itself, so that it is read again when it changes; of several,
/// as `KUBECONFIG` may name them, one of them all in the demo's folder, which is nobody else's.
fn given(file: &Path, folder: &Path) -> anyhow::Result<(PathBuf, String)> {
    let several = std::env::split_paths(file).nth(1).is_some();
    if file.exists() || !several {
        let file = std::path::absolute(file).context("the kubeconfig's path")?;
        let text = std::fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading {}", file.display()))?;
        return Ok((file, text));
    }
    let text = kubernetes::read(Some(file))?;
    let file = std::path::absolute(folder.join("kubeconfig")).context("the folder's path")?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok((file, text))
}

/// A name for each context: what of it can be a name of a cluster.
fn names(contexts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let mut taken = BTreeSet::new();
    let mut names = Vec::new();
    for context in contexts {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let name: String = context.chars().map(plain).collect();
        let name: String = name
            .trim_matches('-')
            .chars()
            .take(NAME_CHARS_MAX)
            .collect();
        let name = name.trim_end_matches('-').to_owned();
        if name.is_empty() || !taken.insert(name.clone()) {
            bail!(
                "no cluster can be called after the context {context:?}: {name:?} is taken or empty"
            );
        }
        names.push((name, context.clone()));
    }
    Ok(names)
}

/// What each context may do: run its own plugin, and none that others in the file have.
fn clusters(names: Vec<(String, String)>, kubeconfig: &str) -> Vec<Joined> {
    let one = |(name, context): (String, String)| {
        let plugin = plugin_of(kubeconfig, &context);
        let command = plugin.as_ref().map(|run| text(run, "/command").to_owned());
        let words = ALLOW.map(Value::from).into_iter();
        let allow = words.chain(plugin.map(|run| json!({ "exec": run })));
        Joined {
            allow: allow.collect(),
            name,
            context,
            command,
        }
    };
    names.into_iter().map(one).collect()
}

/// A control plane that watches, and writes nothing with the user's credentials.
fn config(plan: &Plan, state: &Path, kubeconfig: &Path, clusters: &[Joined]) -> Value {
    let clusters = clusters.iter().map(|cluster| {
        let (context, allow) = (&cluster.context, &cluster.allow);
        json!({
            "name": cluster.name,
            "kubernetes": { "kubeconfig": kubeconfig, "context": context, "allow": allow },
        })
    });
    json!({
        "mesh_domain": MESH_DOMAIN,
        "state_dir": state,
        "listen": { "discovery": plan.discovery(), "admin": plan.control_admin() },
        "clusters": clusters.collect::<Vec<_>>(),
        "write": false,
    })
}

/// True: every cluster was listed.
async fn watch(
    options: &DemoOptions,
    (plan, folder): (&Plan, &Folder),
    clusters: usize,
    control_plane: &mut Process,
    screen: &Screen,
) -> anyhow::Result<bool> {
    let mut seen = Vec::new();
    let listed = wait::until(LIST_TIMEOUT, async || {
        if let Some(status) = control_plane.ended() {
            bail!(
                "the control plane ended ({status}):\n{}",
                control_plane.tail(TAIL_LINES)
            );
        }
        // It may not listen yet.
        if let Ok(Value::Array(clusters)) = client::json(&door(plan, folder), "/clusters").await {
            seen = clusters;
        }
        let synced = seen.iter().filter(|c| c["state"] == "synced").count();
        Ok((synced == clusters).then_some(()))
    });
    let all = listed.await?.is_some();
    for cluster in &seen {
        screen.say(&line(cluster));
        screen.record(
            &json!({ "cluster": cluster["cluster"], "held": cluster["state"] == "synced",
            "objects": cluster["objects"], "reason": cluster["reason"] })
            .to_string(),
        );
    }
    if options.check {
        return Ok(all);
    }
    screen.say(&format!(
        "\nWatching until Ctrl-C. Try: isthmus status --control-plane {} --admin-token {}",
        plan.control_admin(),
        folder.control_state().join(TOKEN_FILE).display()
    ));
    follow(&door(plan, folder), &seen, screen).await
}

fn door(plan: &Plan, folder: &Folder) -> Door {
    Door::of(plan.control_admin(), &folder.control_state())
}

/// Says of each cluster when its state changes, for as long as there is a control plane.
async fn follow(door: &Door, seen: &[Value], screen: &Screen) -> anyhow::Result<bool> {
    let mut told: Vec<Value> = seen.iter().map(state).collect();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let clusters = client::json(door, "/clusters").await?;
        for cluster in clusters.as_array().into_iter().flatten() {
            let now = state(cluster);
            if !told.contains(&now) {
                screen.say(&line(cluster));
                told.retain(|old| old[0] != now[0]);
                told.push(now);
            }
        }
    }
}

/// Name and state: what is told when it changes.
fn state(cluster: &Value) -> Value {
    json!([cluster["cluster"], cluster["state"]])
}

fn line(cluster: &Value) -> String {
    let text = |key: &str| cluster[key].as_str().unwrap_or("?");
    let objects = cluster["objects"].as_object().into_iter().flatten();
    let objects: Vec<String> = objects
        .filter(|(_, count)| **count != 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let reason = match text("reason") {
        "" | "?" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!(
        "  {}: {}{reason}: {}",
        text("cluster"),
        text("state"),
        if objects.is_empty() {
            "nothing is known".to_owned()
        } else {
            objects.join(", ")
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_give_names_of_clusters() {
        let contexts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let found = names(&contexts(&["kind-a", "arn:aws:eks:1/B_"])).unwrap();
        assert_eq!(found[0].0, "kind-a");
        assert_eq!(found[1].0, "arn-aws-eks-1-b");
        assert!(names(&contexts(&["a_b", "a-b"])).is_err());
        assert!(names(&contexts(&["_"])).is_err());
    }

    #[test]
    fn several_kubeconfigs_are_given_on_as_one() {
        use std::os::unix::fs::PermissionsExt as _;
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = files.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let one = write(
            "one",
            "contexts: [{name: a, context: {user: a, cluster: a}}]\n",
        );
        let two = write(
            "two",
            "contexts: [{name: b, context: {user: b, cluster: b}}]\n\
             users: [{name: b, user: {tokenFile: token}}]\n",
        );
        let folder = tempfile::tempdir().unwrap();
        let (file, text) = given(&one, folder.path()).unwrap();
        assert_eq!(
            (file, text),
            (one.clone(), std::fs::read_to_string(&one).unwrap())
        );
        let both = std::env::join_paths([&one, &two]).unwrap();
        let (file, text) = given(Path::new(&both), folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let both: Value = serde_json::from_str(&text).unwrap();
        let names = kubernetes::strings(&both, "/contexts", "/name");
        assert_eq!(names, ["a", "b"]);
        // A path means what it means beside its own file.
        let token = files.path().join("token").display().to_string();
        assert_eq!(both["users"][0]["user"]["tokenFile"], token);
        assert!(given(Path::new("/not/there"), folder.path()).is_err());
    }

    #[test]
    fn the_demo_watches_and_writes_nothing() {
        let text = "contexts:\n- {name: eks, context: {user: a}}\n- {name: b, context: {user: b}}\n\
            users:\n- {name: a, user: {exec: {command: aws}}}\n- {name: c, user: {exec: {command: rm}}}\n";
        let contexts = ["eks".to_owned(), "b".to_owned()];
        let clusters = clusters(names(&contexts).unwrap(), text);
        let aws = json!({ "exec": { "command": "aws" } });
        assert_eq!(clusters[0].allow, [json!("loopback"), json!("files"), aws]);
        assert_eq!(clusters[1].allow, ["loopback", "files"]);
        let plan = Plan::claim().unwrap();
        let config = config(&plan, Path::new("state"), Path::new("file"), &clusters);
        let parsed = isthmus_control_plane::config::Config::parse(&config.to_string()).unwrap();
        assert!(!parsed.write);
    }

    #[test]
    fn what_is_not_known_is_not_called_empty() {
        let unknown = json!({ "cluster": "a", "state": "unknown", "reason": "refused" });
        assert_eq!(line(&unknown), "  a: unknown (refused): nothing is known");
        let synced = json!({ "cluster": "a", "state": "synced", "reason": "",
            "objects": { "Pod": 3, "Service": 0 } });
        assert_eq!(line(&synced), "  a: synced: 3 Pod");
    }
}
