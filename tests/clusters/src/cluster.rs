//! What is one cluster? An etcd, an API server that is all that etcd's clients see of it, and keys.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::crds;
use crate::guard::{Guarded, Plan};
use crate::kubeconfig::{self, Credential};
use crate::pki::{Certificate, Files, Pki};
use crate::programs::Programs;
use crate::token::{self, Subject};
use crate::{ports, wait};

/// Longest time from a start until it is ready: two seconds on an idle machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a start is tried: somebody may take a port that was free a moment ago.
const TRIES: usize = 3;
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 8;
/// Who signs tokens, as real clusters call themselves.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long an administrator's certificate is good.
const ADMIN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a pod's token is good: nobody renews it here, as a kubelet would.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The addresses of its services.
    pub service_range: String,
    /// After this long etcd forgets old versions, and whoever watches from one gets 410 Gone.
    /// `None`: five minutes.
    pub compaction: Option<Duration>,
    /// Where the logs go. `None`: into the cluster's own folder, which goes with it.
    pub logs: Option<PathBuf>,
    /// Flags of kube-apiserver beside our own.
    pub flags: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_range: "10.96.0.0/16".to_owned(),
            compaction: None,
            logs: None,
            flags: Vec::new(),
        }
    }
}

/// A cluster that runs. Dropped: gone, with its folder.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    // Before the folder: fields are dropped in order.
    api: Guarded,
    etcd: Guarded,
    pki: Pki,
    server: SocketAddr,
    admin: Admin,
    folder: TempDir,
}

impl Cluster {
    /// Starts etcd and an API server, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the text has the ends of the logs.
    pub async fn start(
        programs: &Programs,
        name: &str,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let mut last = None;
        for _ in 0..TRIES {
            let cluster = Box::pin(Self::prepare(programs, name, settings)).await?;
            match Box::pin(cluster.ready_at_first()).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        let last = last.unwrap_or_else(|| anyhow::anyhow!("it was not tried"));
        Err(last.context(format!("starting the API server of {name}")))
    }

    async fn prepare(programs: &Programs, name: &str, settings: &Settings) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("isthmus-cluster-{name}-"))
            .tempdir()
            .context("making a folder for a cluster")?;
        let logs = settings.logs.as_deref().unwrap_or(folder.path());
        fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
        let pki = Pki::new(name)?;
        let files = pki.write(&folder.path().join("pki"))?;
        let [port, etcd_port, peer_port] = ports::free()?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let plan = |program: &str, file: &Path, arguments: Vec<OsString>| Plan {
            name: format!("{program} of {name}"),
            file: file.to_owned(),
            arguments,
            log: logs.join(format!("{name}-{program}.log")),
            folder: folder.path().to_owned(),
        };
        let data = folder.path().join("etcd");
        let etcd = etcd_arguments(&data, etcd_port, peer_port);
        let api = api_arguments(&files, folder.path(), port, etcd_port, settings);
        let etcd = Guarded::start(plan("etcd", &programs.etcd, etcd)).await?;
        let api = Guarded::start(plan("kube-apiserver", &programs.kube_apiserver, api)).await?;
        let user = pki.client("admin", Some("system:masters"), ADMIN_LIFETIME)?;
        let user = Credential::Certificate(user);
        let url = format!("https://{server}");
        let admin = Admin::new(&kubeconfig::text(name, &url, pki.authority(), &user))?;
        Ok(Self {
            name: name.to_owned(),
            api,
            etcd,
            pki,
            server,
            admin,
            folder,
        })
    }

    async fn ready_at_first(self) -> anyhow::Result<Self> {
        match self.ready().await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.end().await?;
                Err(error)
            }
        }
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    /// It isn't in time, or a process ended; the text has the ends of the logs.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut last = String::from("no answer");
        let ready = wait::until(READY_TIMEOUT, async || {
            if let Some(ended) = [&self.etcd, &self.api].iter().find(|p| p.has_ended()) {
                bail!("{} has ended:\n{}", ended.name(), ended.tail(TAIL_LINES));
            }
            match self.admin.is_ready().await {
                Ok(()) => return Ok(Some(())),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        if ready.await?.is_none() {
            let tail = self.api.tail(TAIL_LINES);
            bail!("{} is not ready ({last}):\n{tail}", self.api.name());
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The administrator.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Defines every kind that the mesh looks at and that is not defined yet, and waits until all are
    /// served.
    ///
    /// # Errors
    /// The API server refuses one, or does not answer.
    pub async fn define_kinds(&self) -> anyhow::Result<()> {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let defined = self.admin.get(path).await?;
        let known = defined["items"].as_array().into_iter().flatten();
        let known = known
            .filter_map(|item| Some(item.pointer("/metadata/name")?.as_str()?.to_owned()))
            .collect();
        let missing = crds::missing(&known)?;
        for definition in &missing {
            self.admin.apply(definition).await?;
        }
        for definition in &missing {
            self.admin.served(definition).await?;
        }
        Ok(())
    }

    /// Its keys.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The API server's process, to be killed, stopped, resumed and started again.
    pub fn api(&mut self) -> &mut Guarded {
        &mut self.api
    }

    /// The same of etcd.
    pub fn etcd(&mut self) -> &mut Guarded {
        &mut self.etcd
    }

    /// Starts again what was killed, resumes what was stopped, and waits until it is ready.
    ///
    /// # Errors
    /// It isn't in time.
    pub async fn revive(&mut self) -> anyhow::Result<()> {
        for process in [&mut self.etcd, &mut self.api] {
            if process.has_ended() {
                process.restart().await?;
            } else {
                process.resume().await?;
            }
        }
        self.ready().await
    }

    /// A kubeconfig for whoever has that credential.
    #[must_use]
    pub fn kubeconfig(&self, credential: &Credential) -> String {
        self.kubeconfig_at(self.server, credential)
    }

    /// The same, by way of something that stands before the API server.
    #[must_use]
    pub fn kubeconfig_at(&self, server: SocketAddr, credential: &Credential) -> String {
        let url = format!("https://{server}");
        kubeconfig::text(&self.name, &url, self.pki.authority(), credential)
    }

    /// An administrator's kubeconfig.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn admin_kubeconfig(&self) -> anyhow::Result<String> {
        let user = self.admin_certificate()?;
        Ok(self.kubeconfig(&Credential::Certificate(user)))
    }

    /// An administrator's certificate.
    ///
    /// # Errors
    /// It can't be made.
    pub fn admin_certificate(&self) -> anyhow::Result<Certificate> {
        self.pki
            .client("admin", Some("system:masters"), ADMIN_LIFETIME)
    }

    /// A service account's token by TokenRequest, bound to a pod where one is named. The API server
    /// gives none for less than ten minutes.
    ///
    /// # Errors
    /// There is no such account or pod.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
        pod: Option<&str>,
    ) -> anyhow::Result<String> {
        let mut spec = json!({ "expirationSeconds": TOKEN_LIFETIME.as_secs() });
        if let Some(audience) = audience {
            spec["audiences"] = json!([audience]);
        }
        if let Some(pod) = pod {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
            let uid = self.admin.get(&path).await?["metadata"]["uid"].clone();
            spec["boundObjectRef"] =
                json!({ "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid });
        }
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.admin.create(&path, &request).await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        Ok(token.context("a TokenRequest without a token")?.to_owned())
    }

    /// A service account's token that ends after seconds.
    ///
    /// # Errors
    /// There is no such account.
    pub async fn short_token(
        &self,
        namespace: &str,
        account: &str,
        lifetime: Duration,
    ) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}");
        let object = self.admin.get(&path).await?;
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        let subject = Subject {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            uid: uid.context("an account without uid")?.to_owned(),
        };
        token::mint(self.pki.accounts(), ISSUER, &subject, lifetime)
    }

    /// Ends both processes and removes the folder; when this returns, nothing is left.
    ///
    /// # Errors
    /// A guard is gone.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.api.end().await?;
        self.etcd.end().await?;
        self.folder.close().context("removing a cluster's folder")
    }
}

fn etcd_arguments(data: &Path, port: u16, peer_port: u16) -> Vec<OsString> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut data_dir = OsString::from("--data-dir=");
    data_dir.push(data);
    let mut arguments = vec![data_dir];
    arguments.extend(
        [
            "--name=default".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // It lives as long as a test does.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]
        .map(OsString::from),
    );
    arguments
}

fn api_arguments(
    files: &Files,
    folder: &Path,
    port: u16,
    etcd_port: u16,
    settings: &Settings,
) -> Vec<OsString> {
    let file = |flag: &str, path: &Path| {
        let mut argument = OsString::from(format!("--{flag}="));
        argument.push(path);
        argument
    };
    let mut arguments = vec![
        file("client-ca-file", &files.authority),
        file("tls-cert-file", &files.serving),
        file("tls-private-key-file", &files.serving_key),
        file("service-account-key-file", &files.accounts),
        file("service-account-signing-key-file", &files.accounts_key),
        file("cert-dir", folder),
    ];
    let mut plain = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--service-cluster-ip-range={}", settings.service_range),
        format!("--service-account-issuer={ISSUER}"),
        "--authorization-mode=RBAC".to_owned(),
        // Nobody needs the Service `kubernetes` to lead somewhere.
        "--endpoint-reconciler-type=none".to_owned(),
        // No controller manager makes the accounts `default`.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    if let Some(compaction) = settings.compaction {
        plain.push(format!(
            "--etcd-compaction-interval={}s",
            compaction.as_secs()
        ));
    }
    plain.extend(settings.flags.iter().cloned());
    arguments.extend(plain.into_iter().map(OsString::from));
    arguments
}
