//! How is a control plane started, killed and asked?

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use isthmus_control_plane::config::Config;
use isthmus_control_plane::keys::TokenKey;
use isthmus_control_plane::state::StateDir;
use isthmus_control_plane::token::{Claims, mint};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{admin, until};

/// How long a token is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// A control plane on a thread of its own, or as a process.
#[derive(Debug)]
pub struct ControlPlane {
    config: Value,
    /// Where the program is, and the name of the pod that it takes itself for.
    program: Option<(PathBuf, String)>,
    state_dir: PathBuf,
    discovery: SocketAddr,
    admin: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
enum Running {
    Thread(oneshot::Sender<()>, JoinHandle<()>),
    Process(Child),
}

impl ControlPlane {
    /// Not started yet. `clusters`: as in its configuration.
    #[must_use]
    pub fn new(
        address: std::net::IpAddr,
        state_dir: &Path,
        clusters: &[Value],
        certificate_seconds: Option<u64>,
    ) -> Self {
        let (discovery, admin) = (
            SocketAddr::new(address, 15_012),
            SocketAddr::new(address, 15_014),
        );
        let config = json!({
            "state_dir": state_dir,
            "certificate_seconds": certificate_seconds,
            "listen": { "discovery": discovery, "admin": admin },
            "clusters": clusters,
        });
        Self {
            config,
            program: None,
            state_dir: state_dir.to_owned(),
            discovery,
            admin,
            running: None,
        }
    }

    /// The cluster that speaks for the mesh, as in its configuration.
    pub fn set_home(&mut self, home: Value) {
        self.config["home"] = home;
    }

    /// What pods are told of it, as in its configuration.
    pub fn set_advertise(&mut self, advertise: Value) {
        self.config["advertise"] = advertise;
    }

    /// Its keys lie in the home cluster, where other replicas find them.
    pub fn share_keys(&mut self) {
        self.config["keys"] = json!("secrets");
    }

    /// Any other key of its configuration.
    pub fn configure(&mut self, key: &str, value: Value) {
        self.config[key] = value;
    }

    /// It is a process of this program, `isthmus`, and believes to be the pod of that name.
    pub fn set_program(&mut self, program: &Path, pod: &str) {
        self.program = Some((program.to_owned(), pod.to_owned()));
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// It is not ready in time, or its configuration is refused.
    pub async fn start(&mut self) {
        self.begin();
        let address = self.admin;
        until("the control plane is ready", async || {
            match admin::get(address, "/ready").await {
                Ok((200, _)) => Ok(()),
                Ok((status, text)) => Err(format!("{status} {text}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Starts it, and waits until it can be asked; it may not be ready yet.
    ///
    /// # Panics
    /// It can't be asked in time, or its configuration is refused.
    pub async fn start_unready(&mut self) {
        self.begin();
        let (address, state) = (self.admin, self.state_dir.clone());
        until("the control plane answers", async || {
            // Before its keys are there it says nothing but why it waits.
            let token = admin::token(&state);
            match admin::ask(address, "GET", "/clusters", token.as_ref()).await {
                Ok((200, _)) => Ok(()),
                Ok((status, text)) => Err(format!("{status} {text}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Panics
    /// It runs already, or its configuration is refused.
    pub fn begin(&mut self) {
        assert!(self.running.is_none(), "the control plane runs already");
        let text = self.config.to_string();
        self.running = Some(match &self.program {
            Some((program, pod)) => self.process(program, pod, &text),
            None => {
                let config = Config::parse(&text).expect("the harness's configuration");
                let (kill, killed) = oneshot::channel();
                let thread = std::thread::Builder::new()
                    .name("control-plane".to_owned())
                    .spawn(move || serve(config, killed))
                    .expect("a thread for the control plane");
                Running::Thread(kill, thread)
            }
        });
    }

    /// It ends with us, however we end: its standard input does.
    fn process(&self, program: &Path, pod: &str, config: &str) -> Running {
        let file = self.state_dir.with_extension("json");
        std::fs::write(&file, config).expect("a configuration on disk");
        let log = self.state_dir.with_extension("log");
        let log = File::options().create(true).append(true).open(log);
        let child = Command::new(program)
            .args(["control-plane", "--exit-with-stdin", "--config"])
            .arg(file)
            .env("HOSTNAME", pod)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.expect("a log on disk"))
            .spawn();
        Running::Process(child.expect("a program that starts"))
    }

    /// Ends it without a word, as a crash would: every connection breaks.
    pub fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Thread(kill, thread)) => {
                // It may have ended by itself; either way it is gone now.
                let _ = kill.send(());
                let _ = thread.join();
            }
            Some(Running::Process(mut child)) => {
                // SIGKILL. As above.
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {}
        }
    }

    /// Where proxies come to.
    #[must_use]
    pub fn discovery(&self) -> SocketAddr {
        self.discovery
    }

    /// Where it can be asked.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its state folder, with every key of the mesh.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The file with the roots of its own trust domain.
    #[must_use]
    pub fn roots_file(&self) -> PathBuf {
        self.state_dir.join("roots.pem")
    }

    /// What it says of a cluster in `/clusters`; null if it doesn't know it.
    ///
    /// # Panics
    /// It does not answer, or not with JSON.
    pub async fn cluster(&self, name: &str) -> Value {
        let clusters = self.json("/clusters").await;
        let mut clusters = clusters.as_array().into_iter().flatten();
        clusters
            .find(|cluster| cluster["cluster"] == name)
            .cloned()
            .unwrap_or_default()
    }

    /// A document of its admin, as JSON.
    ///
    /// # Panics
    /// It does not answer, or not with JSON.
    pub async fn json(&self, path: &str) -> Value {
        admin::json(self.admin, path, &self.state_dir).await
    }

    /// A token for a pod. The keys are in the state folder: no control plane is needed.
    ///
    /// # Panics
    /// The names can't be, or the state folder can't be used.
    #[must_use]
    pub fn token(&self, cluster: &str, namespace: &str, pod: &str, account: &str) -> String {
        let workload = format!("{cluster}/{namespace}/{pod}")
            .parse()
            .expect("a workload's name");
        let claims = Claims::new(&workload, account, SystemTime::now() + TOKEN_LIFETIME)
            .expect("claims of a pod");
        // The control plane may not have started yet: it takes the key that is there.
        let state = StateDir::open(&self.state_dir).expect("the state folder");
        TokenKey::open(&state, &claims.cluster).expect("the token key of the cluster");
        mint(&self.state_dir, &claims).expect("a token")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(config: Config, killed: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the control plane");
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = isthmus_control_plane::run(config, std::future::pending()) => Some(ended),
            _ = killed => None,
        }
    });
    if let Some(Err(error)) = ended {
        tracing::error!(error = format!("{error:#}"), "the control plane ended");
    }
    // Tasks end here, wherever they are.
    runtime.shutdown_background();
}
