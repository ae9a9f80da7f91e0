//! How does the demo's mesh start, and how are its parts stopped and started again?

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Method, StatusCode};
use tokio::net::TcpStream;

use super::configs;
use super::folder::Folder;
use super::manifests;
use super::manifests::Manifest;
use super::plan::{AppKind, Plan, Pod};
use super::process::{Process, Program};
use super::store::Store;
use super::wait;
use crate::client;
use crate::client::Door;

/// Longest time for the control plane to be ready.
const CONTROL_PLANE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for a pod to be ready: all of them start at once.
const POD_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of a log that a failure shows.
pub(crate) const TAIL_LINES: usize = 12;

/// Every process of the demo. Dropped: none is left.
#[derive(Debug)]
pub(crate) struct Mesh {
    // Processes first: fields are dropped in order, and they write into the folder.
    control_plane: Process,
    pods: BTreeMap<&'static str, PodProcesses>,
    /// Where the clusters' objects are.
    pub(crate) store: Store,
    /// Addresses.
    pub(crate) plan: Plan,
    /// Manifests, states, logs.
    pub(crate) folder: Folder,
}

#[derive(Debug)]
struct PodProcesses {
    pod: Pod,
    proxy: Process,
    apps: Vec<Process>,
}

impl Mesh {
    /// Starts all of it and waits until it is ready.
    ///
    /// # Errors
    /// A part is not ready in time; the text has the end of its log.
    pub(crate) async fn start(plan: Plan, folder: Folder, store: Store) -> anyhow::Result<Self> {
        manifests::put_all(&store, &folder, &plan).await?;
        store.admit_control_plane(&folder).await?;
        fs::write(
            folder.control_config(),
            configs::control_plane(&plan, &folder, &store),
        )
        .context("writing the control plane's configuration")?;
        let control_plane = Process::start(control_plane_program(&folder)?)?;
        let mut mesh = Self {
            control_plane,
            pods: BTreeMap::new(),
            store,
            plan,
            folder,
        };
        mesh.control_plane_ready().await?;
        for pod in mesh.plan.pods() {
            let processes = mesh.start_pod(&pod).await?;
            mesh.pods.insert(pod.name, processes);
        }
        for pod in mesh.plan.pods() {
            mesh.ready(&pod).await?;
        }
        Ok(mesh)
    }

    async fn start_pod(&self, pod: &Pod) -> anyhow::Result<PodProcesses> {
        let place = self.folder.pod(pod);
        fs::create_dir_all(place.join("state"))
            .with_context(|| format!("making {}", place.display()))?;
        let token = self.store.token(&self.folder, pod).await?;
        let config = configs::proxy(&self.plan, &self.folder, pod);
        fs::write(place.join("token"), token)
            .and_then(|()| fs::write(place.join("config.json"), config))
            .with_context(|| format!("writing into {}", place.display()))?;
        let apps = pod
            .apps
            .iter()
            .map(|app| Process::start(self.app_program(pod, *app)?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let proxy = Process::start(proxy_program(&self.folder, pod)?)?;
        Ok(PodProcesses {
            pod: *pod,
            proxy,
            apps,
        })
    }

    fn app_program(&self, pod: &Pod, app: AppKind) -> anyhow::Result<Program> {
        let listen = self.plan.app(pod, app);
        let name = format!("{} {}", pod.id(), app.name());
        let log = self.folder.log(&format!("{}-{}", pod.name, app.name()));
        let mut arguments: Vec<OsString> = vec!["app".into()];
        if app == AppKind::Redis {
            let redis = self
                .plan
                .redis
                .clone()
                .context("redis-server is not installed")?;
            arguments.extend(["guard".into(), "--".into(), redis.into()]);
            arguments.extend(redis_arguments(listen, self.folder.pod(pod)));
            return Ok(Program {
                name,
                file: own_file()?,
                arguments,
                log,
                is_guard: true,
            });
        }
        let kind = match app {
            AppKind::Http => "http",
            AppKind::Grpc => "grpc",
            AppKind::Tcp | AppKind::Greeter | AppKind::Redis => "tcp",
        };
        arguments.extend([kind, "--listen", &listen.to_string()].map(OsString::from));
        arguments.extend(["--name", pod.name, "--cluster", pod.cluster.name()].map(OsString::from));
        // Its own network, and whoever sits at this machine: from elsewhere only the gateway is open.
        let network = self.plan.network(pod.cluster);
        for from in [network.as_str(), "127.0.0.1/32"] {
            arguments.extend(["--accept-from", from].map(OsString::from));
        }
        arguments.push("--exit-with-stdin".into());
        if app == AppKind::Greeter {
            arguments.push("--greet".into());
        }
        Ok(Program {
            name,
            file: own_file()?,
            arguments,
            log,
            is_guard: false,
        })
    }

    /// Waits until the control plane is ready.
    ///
    /// # Errors
    /// It isn't in time, or it ended.
    pub(crate) async fn control_plane_ready(&mut self) -> anyhow::Result<()> {
        let admin = self.plan.control_admin();
        let process = &mut self.control_plane;
        until_ready(process, admin, CONTROL_PLANE_TIMEOUT).await
    }

    /// Waits until a pod's proxy is ready and its applications accept.
    ///
    /// # Errors
    /// They aren't in time, or one ended.
    pub(crate) async fn ready(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let admin = self.plan.ready(pod);
        let listens: Vec<SocketAddr> = pod
            .apps
            .iter()
            .map(|app| self.plan.app(pod, *app))
            .collect();
        let processes = self.processes(pod)?;
        until_ready(&mut processes.proxy, admin, POD_TIMEOUT).await?;
        for (process, listen) in processes.apps.iter_mut().zip(listens) {
            until_accepting(process, listen).await?;
        }
        Ok(())
    }

    fn processes(&mut self, pod: &Pod) -> anyhow::Result<&mut PodProcesses> {
        self.pods
            .get_mut(pod.name)
            .with_context(|| format!("{} does not run here", pod.name))
    }

    /// Writes a manifest into its cluster.
    ///
    /// # Errors
    /// It can't be written to.
    pub(crate) async fn put(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let text = manifest.readdressed(&self.plan);
        self.store.put(&self.folder, manifest.place(), &text).await
    }

    /// The same with its first pods unready.
    ///
    /// # Errors
    /// It can't be written to.
    pub(crate) async fn put_unready(&self, manifest: &Manifest, pods: usize) -> anyhow::Result<()> {
        let text = manifest.unready(pods, &self.plan);
        self.store.put(&self.folder, manifest.place(), &text).await
    }

    /// Removes a manifest's objects from their cluster.
    ///
    /// # Errors
    /// They are not there, or it can't be written to.
    pub(crate) async fn remove(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let text = manifest.readdressed(&self.plan);
        let place = manifest.place();
        self.store.remove(&self.folder, place, &text).await
    }

    /// Kills a pod's proxy, without warning.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill_proxy(&mut self, pod: &Pod) -> anyhow::Result<()> {
        self.processes(pod)?.proxy.kill().await
    }

    /// Starts a pod's proxy again.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn restart_proxy(&mut self, pod: &Pod) -> anyhow::Result<()> {
        self.processes(pod)?.proxy.restart()
    }

    /// Kills a pod, proxy and applications, without warning.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill_pod(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let processes = self.processes(pod)?;
        processes.proxy.kill().await?;
        for app in &mut processes.apps {
            app.kill().await?;
        }
        Ok(())
    }

    /// Starts a killed pod again, and waits until it is ready.
    ///
    /// # Errors
    /// It can't be started, or is not ready in time.
    pub(crate) async fn restart_pod(&mut self, pod: &Pod) -> anyhow::Result<()> {
        let processes = self.processes(pod)?;
        for app in &mut processes.apps {
            app.restart()?;
        }
        processes.proxy.restart()?;
        self.ready(pod).await
    }

    /// Kills the control plane, without warning.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(crate) async fn kill_control_plane(&mut self) -> anyhow::Result<()> {
        self.control_plane.kill().await
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn restart_control_plane(&mut self) -> anyhow::Result<()> {
        self.control_plane.restart()
    }

    /// Starts what is not running, and waits until all is ready.
    ///
    /// # Errors
    /// Something does not start.
    pub(crate) async fn revive(&mut self) -> anyhow::Result<()> {
        self.store.revive().await?;
        if self.control_plane.ended().is_some() {
            self.control_plane.restart()?;
        }
        self.control_plane_ready().await?;
        for processes in self.pods.values_mut() {
            for process in processes.apps.iter_mut().chain([&mut processes.proxy]) {
                if process.ended().is_some() {
                    process.restart()?;
                }
            }
        }
        for pod in self.plan.pods() {
            self.ready(&pod).await?;
        }
        Ok(())
    }

    /// The admin pages of the control plane.
    pub(crate) fn control_door(&self) -> Door {
        Door::of(self.plan.control_admin(), &self.folder.control_state())
    }

    /// The admin pages of a pod's proxy.
    pub(crate) fn door(&self, pod: &Pod) -> Door {
        Door::of(self.plan.admin(pod), &self.folder.pod_state(pod))
    }

    /// Admin pages of the proxy that gave a reason id (`cluster/namespace/pod:number`).
    ///
    /// # Errors
    /// No proxy of the demo has that name.
    pub(crate) fn door_of(&self, reason: &str) -> anyhow::Result<Door> {
        let pods = self.plan.pods();
        let workload = reason
            .split_once(':')
            .map_or(reason, |(workload, _)| workload);
        let pod = pods.iter().find(|pod| pod.id() == workload);
        let pod = pod.with_context(|| format!("the reason {reason} is of no proxy here"))?;
        Ok(self.door(pod))
    }

    /// Ends everything in order, so that children of children end too.
    pub(crate) async fn stop(&mut self) {
        let all = self
            .pods
            .values_mut()
            .flat_map(|p| p.apps.iter_mut().chain([&mut p.proxy]));
        futures_util::future::join_all(all.map(Process::stop)).await;
        self.control_plane.stop().await;
        self.store.end().await;
    }

    /// How many processes there are, this one not counted.
    pub(crate) fn size(&self) -> usize {
        1 + self.store.size()
            + self
                .pods
                .values()
                .map(|pod| 1 + pod.apps.len())
                .sum::<usize>()
    }

    fn every_process(&mut self) -> impl Iterator<Item = &mut Process> {
        let pods = self.pods.values_mut();
        let all = pods.flat_map(|p| p.apps.iter_mut().chain([&mut p.proxy]));
        all.chain([&mut self.control_plane])
    }

    /// Processes that have ended, and how.
    pub(crate) fn ended(&mut self) -> Vec<(String, ExitStatus)> {
        let ended = |process: &mut Process| Some((process.name().to_owned(), process.ended()?));
        self.every_process().filter_map(ended).collect()
    }

    /// Which processes have ended, and the ends of their logs; if none has, the ends of the logs of
    /// `suspects`.
    pub(crate) fn post_mortem(&mut self, suspects: &[Pod]) -> String {
        let mut text = String::new();
        for process in self.every_process() {
            if let Some(status) = process.ended() {
                text.push_str(&format!("{} has ended ({status}):\n", process.name()));
                text.push_str(&indent(&process.tail(TAIL_LINES)));
            }
        }
        if text.is_empty() {
            let named = self
                .pods
                .values()
                .filter(|p| suspects.iter().any(|s| s.name == p.pod.name));
            for process in named.map(|pod| &pod.proxy) {
                text.push_str(&format!("the end of {}:\n", process.log().display()));
                text.push_str(&indent(&process.tail(TAIL_LINES)));
            }
        }
        text
    }
}

async fn until_ready(
    process: &mut Process,
    at: SocketAddr,
    within: Duration,
) -> anyhow::Result<()> {
    let mut last = String::from("no answer");
    let ready = wait::until(within, async || {
        if let Some(status) = process.ended() {
            bail!(
                "{} ended: {status}\n{}",
                process.name(),
                indent(&process.tail(TAIL_LINES))
            );
        }
        match client::ask(Method::GET, at, "/ready").await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(Some(())),
            Ok(answer) => last = format!("{}: {}", answer.status, answer.text().trim()),
            Err(error) => last = format!("{error:#}"),
        }
        Ok(None)
    })
    .await?;
    if ready.is_none() {
        let (name, tail) = (process.name(), indent(&process.tail(TAIL_LINES)));
        bail!(
            "{name} is not ready within {} s ({last})\n{tail}",
            within.as_secs()
        );
    }
    Ok(())
}

async fn until_accepting(process: &mut Process, at: SocketAddr) -> anyhow::Result<()> {
    let accepting = wait::until(POD_TIMEOUT, async || {
        if let Some(status) = process.ended() {
            bail!(
                "{} ended: {status}\n{}",
                process.name(),
                indent(&process.tail(TAIL_LINES))
            );
        }
        Ok(TcpStream::connect(at).await.ok().map(drop))
    })
    .await?;
    accepting.with_context(|| format!("{} does not accept at {at}", process.name()))
}

/// The control plane, as its configuration in the folder says.
///
/// # Errors
/// This program's own file can't be found.
pub(crate) fn control_plane_program(folder: &Folder) -> anyhow::Result<Program> {
    let arguments = role_arguments("control-plane", folder.control_config());
    let log = folder.log("control-plane");
    Ok(Program {
        name: "control plane".into(),
        file: own_file()?,
        arguments,
        log,
        is_guard: false,
    })
}

fn proxy_program(folder: &Folder, pod: &Pod) -> anyhow::Result<Program> {
    let arguments = role_arguments("proxy", folder.pod(pod).join("config.json"));
    let name = format!("{} {}", pod.id(), pod.role.name());
    let log = folder.log(&format!("{}-{}", pod.name, pod.role.name()));
    Ok(Program {
        name,
        file: own_file()?,
        arguments,
        log,
        is_guard: false,
    })
}

fn role_arguments(role: &str, config: PathBuf) -> Vec<OsString> {
    vec![
        role.into(),
        "--config".into(),
        config.into(),
        "--exit-with-stdin".into(),
    ]
}

/// Nothing on disk, nobody but this machine.
fn redis_arguments(listen: SocketAddr, place: PathBuf) -> Vec<OsString> {
    let (address, port) = (listen.ip().to_string(), listen.port().to_string());
    let mut arguments: Vec<OsString> = ["--bind", &address, "--port", &port]
        .map(OsString::from)
        .into();
    // Bound to a loopback address of this machine; the sidecar decides who may call.
    arguments.extend(["--protected-mode", "no"].map(OsString::from));
    arguments.extend(["--save", "", "--appendonly", "no", "--dir"].map(OsString::from));
    arguments.push(place.into());
    arguments
}

/// This binary: every role is in it.
fn own_file() -> anyhow::Result<PathBuf> {
    env::current_exe().context("finding this program's own file")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
