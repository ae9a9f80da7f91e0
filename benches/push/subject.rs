//! The control plane that is measured: a process of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::Outcome;
use crate::objects::cluster_name;
use crate::servers::Fleet;

/// Longest wait for any state.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The core that the control plane has for itself, and that of everybody else.
const CORE: &str = "1";
const OTHERS: &str = "0";
/// Of `/proc/PID/stat`, a second (`getconf CLK_TCK`, 100 on every Linux that is met).
const TICKS: u64 = 100;

/// A running control plane.
#[derive(Debug)]
pub(crate) struct Subject {
    child: Child,
    pub(crate) began: Instant,
    pub(crate) discovery: SocketAddr,
    admin: SocketAddr,
    pub(crate) roots: String,
    token: String,
}

/// Are there two cores, as far as was known before we kept to one?
fn two_cores() -> bool {
    static TWO: OnceLock<bool> = OnceLock::new();
    *TWO.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1))
}

/// Leaves the control plane its core, where there are two.
pub(crate) fn stay_beside() -> Outcome {
    if !two_cores() {
        return Ok(());
    }
    let own = std::process::id().to_string();
    let mut taskset = std::process::Command::new("taskset");
    let taskset = taskset.args(["-a", "-c", "-p", OTHERS, &own]);
    let done = taskset.stdout(Stdio::null()).status()?;
    if done.success() {
        Ok(())
    } else {
        Err(format!("taskset: {done}").into())
    }
}

/// Is the control plane, until it is killed.
pub(crate) fn serve(config: &str) -> Outcome {
    let config = isthmus_control_plane::Config::read(Path::new(config))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    Ok(runtime.block_on(isthmus_control_plane::run(config, std::future::pending()))?)
}

impl Subject {
    /// Starts it over a folder, which may have another one's state.
    pub(crate) async fn start(folder: &Path, fleet: &Arc<Fleet>) -> Outcome<Self> {
        let state = folder.join("state");
        let listeners = state.join("listeners.json");
        // Not there at the first start.
        let _ = fs::remove_file(&listeners);
        let config = folder.join("control-plane.json");
        fs::write(&config, configuration(folder, fleet)?.to_string())?;
        let program = std::env::current_exe()?;
        let mut command = if two_cores() {
            let mut command = Command::new("taskset");
            command.args(["-c", CORE]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let began = Instant::now();
        let mut child = command
            .arg("control-plane")
            .arg(&config)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let text = loop {
            if let Ok(text) = fs::read_to_string(&listeners) {
                break text;
            }
            if let Some(ended) = child.try_wait()? {
                return Err(format!("the control plane has ended: {ended}").into());
            }
            sleep(LOOK_EVERY).await;
        };
        let listeners: Value = serde_json::from_str(&text)?;
        let address = |key: &str| -> Outcome<SocketAddr> {
            Ok(listeners[key].as_str().unwrap_or_default().parse()?)
        };
        let discovery = address("discovery")?;
        fleet.control.send_replace(discovery);
        Ok(Self {
            discovery,
            admin: address("admin")?,
            roots: fs::read_to_string(state.join("roots.pem"))?,
            token: fs::read_to_string(state.join("admin-token"))?,
            child,
            began,
        })
    }

    /// Waits until it is ready and knows every cluster in this state; how long after its start.
    pub(crate) async fn ready(&self, fleet: &Arc<Fleet>, state: &str) -> Outcome<Duration> {
        loop {
            let ready = self.get("/ready").await?;
            let clusters: Value = serde_json::from_str(&self.get("/clusters").await?)?;
            let clusters = clusters.as_array().map_or(&[][..], Vec::as_slice);
            let so = clusters.iter().filter(|cluster| cluster["state"] == state);
            if ready.contains("\"ready\": true") && so.count() == fleet.size.clusters {
                return Ok(self.began.elapsed());
            }
            if self.began.elapsed() > PATIENCE {
                return Err(format!("not {state}: {clusters:?}").into());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until it says that it is ready; how long after its start.
    pub(crate) async fn says_ready(&self) -> Outcome<Duration> {
        while !self.get("/ready").await?.contains("\"ready\": true") {
            sleep(LOOK_EVERY).await;
        }
        Ok(self.began.elapsed())
    }

    /// What it says of the proxies that are connected.
    pub(crate) async fn proxies(&self) -> Outcome<Vec<Value>> {
        let all: Value = serde_json::from_str(&self.get("/proxies").await?)?;
        Ok(all.as_array().cloned().unwrap_or_default())
    }

    /// Waits until every cluster is on disk, as it is.
    pub(crate) async fn saved(&self, folder: &Path, fleet: &Arc<Fleet>) -> Outcome {
        let worlds = folder.join("state/worlds");
        let began = Instant::now();
        let mut last = Vec::new();
        while began.elapsed() < PATIENCE {
            let mut sizes = Vec::new();
            for entry in fs::read_dir(&worlds)? {
                let path = entry?.path();
                if path.extension().is_none_or(|end| end != "new") {
                    sizes.push((path.clone(), fs::metadata(&path)?.len()));
                }
            }
            sizes.sort();
            if sizes.len() >= fleet.size.clusters && sizes == last {
                return Ok(());
            }
            last = sizes;
            sleep(Duration::from_secs(5)).await;
        }
        Err("the clusters are not on disk".into())
    }

    /// How many responses told a change within how many seconds since it was heard: its own histogram.
    pub(crate) async fn lags(&self) -> Outcome<Vec<(f64, u64)>> {
        let mut lags: Vec<(f64, u64)> = Vec::new();
        for line in self.get("/metrics").await?.lines() {
            let Some(labels) = line.strip_prefix("isthmus_push_lag_seconds_bucket") else {
                continue;
            };
            let end = labels
                .split("le=\"")
                .nth(1)
                .and_then(|of| of.split('"').next());
            let end = match end.unwrap_or_default() {
                "+Inf" => f64::INFINITY,
                text => text.parse()?,
            };
            let count: u64 = labels.rsplit(' ').next().unwrap_or_default().parse()?;
            match lags
                .iter_mut()
                .find(|(known, _)| known.total_cmp(&end).is_eq())
            {
                Some((_, sum)) => *sum += count,
                None => lags.push((end, count)),
            }
        }
        Ok(lags)
    }

    pub(crate) async fn kill(mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }

    /// What is resident, in MiB.
    pub(crate) fn resident(&self) -> Outcome<u64> {
        resident(&self.pid()?)
    }

    /// User and system time so far.
    pub(crate) fn processor_time(&self) -> Outcome<Duration> {
        processor_time(&self.pid()?)
    }

    fn pid(&self) -> Outcome<String> {
        let pid = self.child.id().ok_or("the control plane has ended")?;
        Ok(pid.to_string())
    }

    async fn get(&self, path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            self.token.trim_end()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(body.to_owned())
    }
}

/// One kubeconfig a cluster, and what names them.
fn configuration(folder: &Path, fleet: &Arc<Fleet>) -> Outcome<Value> {
    let mut clusters = Vec::new();
    for (number, server) in fleet.servers.iter().enumerate() {
        let name = cluster_name(number);
        let file = folder.join(format!("{name}.kubeconfig"));
        fs::write(&file, &server.kubeconfig)?;
        clusters.push(json!({ "name": name, "kubernetes": {
            "kubeconfig": file, "allow": ["loopback", "insecure"],
        } }));
    }
    Ok(json!({
        "mesh_domain": "mesh.internal", "state_dir": folder.join("state"),
        "listen": { "discovery": "127.0.0.1:0", "admin": "127.0.0.1:0" },
        "clusters": clusters,
    }))
}

/// What a process has resident, in MiB; `self` is a process, too.
fn resident(process: &str) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.unwrap_or_default().parse::<u64>()? / 1024)
}

/// User and system time of a process so far.
pub(crate) fn processor_time(process: &str) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = stat.rsplit(") ").next().unwrap_or_default();
    // proc(5): utime and stime are fields 14 and 15; what is behind the name begins with field 3.
    let fields = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// What all processes together have taken of all cores so far, waiting for disks not counted.
pub(crate) fn machine_time() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    // proc(5): user, nice, system, idle, iowait, irq, softirq.
    let fields = line.split_whitespace().skip(1).take(7).enumerate();
    let busy = fields.filter(|(at, _)| *at != 3 && *at != 4);
    let ticks: u64 = busy
        .filter_map(|(_, field)| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}
