//! What can be tried on a mesh that is held?

use std::collections::BTreeMap;

use anyhow::Context as _;
use isthmus_proto::admin::TOKEN_FILE;
use serde::Serialize;

use super::manifests;
use super::plan::{AppKind, Callee, REVIEWS};
use super::scenes::Stage;
use super::state::State;

/// A line for a shell, and what it shows.
#[derive(Debug, Serialize)]
struct Command {
    command: String,
    shows: String,
}

/// The addresses of a mesh that is held, and what can be done there.
#[derive(Debug, Serialize)]
pub(super) struct Hints {
    /// The state file, flat: control plane, proxies, folder.
    #[serde(flatten)]
    state: State,
    /// Where the caller's sidecar takes calls of each service.
    services: BTreeMap<&'static str, String>,
    commands: Vec<Command>,
    /// Where its objects are, for people.
    #[serde(skip)]
    objects: String,
    /// What takes the policy back.
    #[serde(skip)]
    undo: String,
}

/// `{"mesh": …}`: the line of a scene begins with another key.
#[derive(Serialize)]
struct Line<'a> {
    mesh: &'a Hints,
}

impl Hints {
    /// Of the mesh on this stage.
    ///
    /// # Errors
    /// The example can't be written.
    pub(super) fn of(stage: &Stage) -> anyhow::Result<Self> {
        let mesh = &stage.mesh;
        let plan = &mesh.plan;
        let [reviews, ..] = REVIEWS;
        let at = |callee: &Callee| plan.local(callee).to_string();
        let services = [
            ("reviews", at(&Callee::REVIEWS)),
            ("cart", at(&Callee::CART)),
            ("echo", at(&Callee::TCP)),
        ];
        let tcp = at(&Callee::TCP).replace(':', "/");
        let (bad, admin) = (plan.app(&reviews, AppKind::Http), plan.admin(&reviews));
        let token = mesh.folder.pod_state(&reviews).join(TOKEN_FILE);
        let token = token.display();
        let isthmus = own_name();
        let told = [
            (
                format!("curl http://{}/", at(&Callee::REVIEWS)),
                "web calls reviews, which only west has".to_owned(),
            ),
            (
                format!("curl http://{}/", at(&Callee::CART)),
                "web calls cart, which both have".to_owned(),
            ),
            (
                format!("bash -c 'exec 3<>/dev/tcp/{tcp}; echo hello >&3; head -1 <&3'"),
                "TCP, echoed in west".to_owned(),
            ),
            (
                format!("curl -X POST 'http://{bad}/control/fail?mode=500'"),
                "a pod of reviews turns bad (mode=off heals it)".to_owned(),
            ),
            (
                format!("{isthmus} status"),
                "clusters, proxies, endpoints".to_owned(),
            ),
            (
                format!("{isthmus} why web reviews"),
                "why a call goes where it goes".to_owned(),
            ),
            (
                format!("curl -H \"authorization: Bearer $(cat {token})\" http://{admin}/config"),
                format!("what the sidecar of {} knows", reviews.name),
            ),
            (example_policy(stage)?, POLICY.to_owned()),
        ];
        let commands = told.map(|(command, shows)| Command { command, shows });
        Ok(Self {
            state: State::of(plan, &mesh.folder),
            services: services.into(),
            commands: commands.into(),
            objects: mesh.store.hint(&mesh.folder),
            undo: mesh.store.undo(&mesh.folder, &manifests::FORBID_WEB),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = "\nThe mesh keeps running. Try, in another terminal:\n".to_owned();
        let (policy, commands) = match self.commands.split_last() {
            Some((last, others)) => (last.command.as_str(), others),
            None => ("", &[][..]),
        };
        for Command { command, shows } in commands {
            text.push_str(&format!("  {command:<COMMAND_WIDTH$}  {shows}\n"));
        }
        text.push_str(&format!(
            "{}\nTry a policy: {policy}\n  The answers become 403 with an `x-mesh-reason`: `{} why ID` tells which policy it was. Take it back: {}",
            self.objects,
            own_name(),
            self.undo
        ));
        text
    }

    /// For programs, in a line.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(&Line { mesh: self }).unwrap_or_default()
    }
}

/// What the last command shows.
const POLICY: &str = "a policy forbids web to call reviews";

/// Where the second column begins, for all commands but the longest.
const COMMAND_WIDTH: usize = 40;

/// As this program can be called again from where it was called.
fn own_name() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "isthmus".to_owned())
}

/// What to type to try a policy, which is put beside the folders.
fn example_policy(stage: &Stage) -> anyhow::Result<String> {
    let path = stage.mesh.folder.root().join(manifests::FORBID_WEB.file);
    std::fs::write(&path, manifests::FORBID_WEB.text())
        .with_context(|| format!("writing {}", path.display()))?;
    let Stage { mesh, .. } = stage;
    let file = path.display().to_string();
    Ok(mesh
        .store
        .command(&mesh.folder, manifests::FORBID_WEB.cluster, &file))
}
