//! How is a proxy started, stopped and asked?

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread::JoinHandle;

use isthmus_proxy::config::RawConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::wait::check;
use crate::{admin, until};

/// The proxy's mesh port.
pub const MESH_PORT: u16 = 15_008;
/// The gateway's port.
pub const GATEWAY_PORT: u16 = 15_443;

/// Where a proxy really listens.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Listeners {
    /// Explicit outbound listeners, in the order of the configuration.
    #[serde(rename = "virtual", default)]
    pub virtuals: Vec<SocketAddr>,
    /// Admin.
    pub admin: Option<SocketAddr>,
}

/// A proxy on threads of its own.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    config: Value,
    state_dir: PathBuf,
    listeners: Listeners,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Proxy {
    /// Not started yet. `config`: as in the file, but `state_dir`.
    #[must_use]
    pub fn new(name: &str, mut config: Value, state_dir: PathBuf) -> Self {
        if let Some(fields) = config.as_object_mut() {
            fields.insert("state_dir".to_owned(), json!(state_dir));
        }
        let listeners = Listeners::default();
        Self {
            name: name.to_owned(),
            config,
            state_dir,
            listeners,
            running: None,
        }
    }

    /// Starts it, and waits until it listens. It may not be ready yet.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let raw: RawConfig =
            serde_json::from_value(self.config.clone()).expect("the harness's configuration");
        let config = raw.build().expect("the harness's configuration");
        let file = self.state_dir.join("listeners.json");
        // Of an earlier life.
        let _ = std::fs::remove_file(&file);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                isthmus_proxy::run(config, async {
                    // Dropped is as good as sent.
                    let _ = stopped.await;
                })
            })
            .expect("a thread for a proxy");
        let name = self.name.clone();
        let listeners: Listeners = until(&format!("{name} listens"), async || {
            check(!thread.is_finished(), "it has ended")?;
            let text = std::fs::read(&file).map_err(|e| e.to_string())?;
            serde_json::from_slice(&text).map_err(|e| e.to_string())
        })
        .await;
        self.fix(&listeners);
        self.listeners = listeners;
        self.running = Some(Running { stop, thread });
    }

    /// The next life listens where this one does: clients keep their addresses.
    fn fix(&mut self, listeners: &Listeners) {
        let Some(listen) = self.config.get_mut("listen") else {
            return;
        };
        let virtuals = listen.get_mut("virtual").and_then(Value::as_array_mut);
        for (entry, address) in virtuals.into_iter().flatten().zip(&listeners.virtuals) {
            if let Some(entry) = entry.as_object_mut() {
                entry.insert("listen".to_owned(), json!(address));
            }
        }
        if let Some((listen, address)) = listen.as_object_mut().zip(listeners.admin) {
            listen.insert("admin".to_owned(), json!(address));
        }
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        let name = &self.name;
        until(&format!("{name} is ready"), async || {
            match self.get("/ready").await {
                Ok((200, _)) => Ok(()),
                Ok((_, text)) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Tells it to stop; it drains first.
    pub fn ask_to_stop(&mut self) -> Option<Stopping> {
        let Running { stop, thread } = self.running.take()?;
        drop(stop);
        Some(Stopping {
            name: self.name.clone(),
            thread,
        })
    }

    /// Stops it, and waits until it has drained.
    pub async fn stop(&mut self) {
        if let Some(stopping) = self.ask_to_stop() {
            stopping.ended().await;
        }
    }

    /// Stops it and starts it again with the same state, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
        self.ready().await;
    }

    /// Changes a key of its configuration, for its next start.
    pub fn configure(&mut self, key: &str, value: Value) {
        if let Some(fields) = self.config.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    }

    /// From its next start on there is a listener that stands for this destination.
    pub fn listen_for(&mut self, destination: &str) {
        let virtuals = self.config.pointer_mut("/listen/virtual");
        if let Some(all) = virtuals.and_then(Value::as_array_mut) {
            all.push(json!({ "listen": "127.0.0.1:0", "destination": destination }));
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The pod's address.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let address = self.config.pointer("/addresses/0").and_then(Value::as_str);
        address
            .and_then(|text| text.parse().ok())
            .expect("a pod has an address")
    }

    /// Its mesh listener.
    #[must_use]
    pub fn mesh(&self) -> SocketAddr {
        SocketAddr::new(self.address(), MESH_PORT)
    }

    /// The folder with its key, certificate and snapshot.
    #[must_use]
    pub fn state_dir(&self) -> &PathBuf {
        &self.state_dir
    }

    /// Gets a path of admin.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let address = self
            .listeners
            .admin
            .ok_or_else(|| anyhow::anyhow!("no admin listener"))?;
        let token = admin::token(&self.state_dir);
        admin::ask(address, "GET", path, token.as_ref()).await
    }

    /// A document of admin.
    ///
    /// # Panics
    /// It is not there, or not JSON.
    pub async fn json(&self, path: &str) -> Value {
        let admin = self.listeners.admin.expect("an admin listener");
        admin::json(admin, path, &self.state_dir).await
    }

    /// The sum of a counter's samples whose labels contain these texts. The name is without prefix.
    ///
    /// # Panics
    /// Admin does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("admin answers");
        admin::sum(&text, &format!("isthmus_{name}"), labels)
    }

    /// The lines of its access log so far.
    ///
    /// # Panics
    /// A line is not JSON.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let path = self.config.get("access_log").and_then(Value::as_str);
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        let text = text.unwrap_or_default();
        // The last one may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// The first line of its access log that is like this, as soon as it is there.
    pub async fn logged(&self, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        until(
            &format!("{}: {what} is in the log", self.name),
            async || {
                let log = self.log();
                let found = log.iter().find(|line| like(line)).cloned();
                found.ok_or_else(|| format!("{} lines, the last: {:?}", log.len(), log.last()))
            },
        )
        .await
    }

    /// What `why` says about the reason id in an answer.
    ///
    /// # Panics
    /// The reason is not known.
    pub async fn why(&self, reason: &str) -> Value {
        self.json(&format!("/why?reason={reason}")).await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stopping) = self.ask_to_stop() {
            stopping.join();
        }
    }
}

/// A proxy on its way out.
#[derive(Debug)]
pub struct Stopping {
    name: String,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Stopping {
    /// Has it ended?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// It ended badly.
    pub async fn ended(self) {
        let name = self.name.clone();
        until(&format!("{name} has stopped"), async || {
            check(self.is_over(), "it runs")
        })
        .await;
        let ended = self
            .thread
            .join()
            .expect("no panic in a proxy's control thread");
        ended.expect("a proxy that ends well");
    }

    /// Blocks until it has ended, however.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}
