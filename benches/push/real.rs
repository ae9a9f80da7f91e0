//! What do real API servers make of the same objects?
//!
//! kube-apiserver and etcd on loopback, as many as there are clusters; pods are written as kubelets would
//! write them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use isthmus_control_plane::kubernetes::{Allow, Api, kubeconfig};
use isthmus_test_clusters::{Cluster, Programs, Settings, skipped};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::objects::{self, NAMESPACE, Size, cluster_name};

/// Objects that are written at once into each of them.
const AT_ONCE: usize = 8;
/// For whom the pods' tokens are.
const AUDIENCE: &str = "isthmus";
const MANAGER: &str = "isthmus-benches";

/// All of them.
#[derive(Debug)]
pub(crate) struct Real {
    clusters: Mutex<Vec<Cluster>>,
    apis: Vec<Api>,
}

impl Real {
    /// Starts and fills them. `None`, and said: the programs are not here.
    pub(crate) async fn start(size: Size) -> Outcome<Option<Self>> {
        let programs = match Programs::find() {
            Ok(programs) => programs,
            Err(error) => {
                skipped(&error);
                return Ok(None);
            }
        };
        let (mut clusters, mut apis) = (Vec::new(), Vec::new());
        for number in 0..size.clusters {
            let settings = Settings {
                service_range: format!("10.{}.0.0/16", 100 + number),
                ..Settings::default()
            };
            let name = cluster_name(number);
            let cluster = Box::pin(Cluster::start(&programs, &name, &settings)).await?;
            Box::pin(cluster.define_kinds()).await?;
            let allow = Allow {
                loopback: true,
                ..Allow::default()
            };
            let text = cluster.admin_kubeconfig()?;
            apis.push(Api::new(kubeconfig(&text, None, &allow)?)?);
            clusters.push(cluster);
        }
        let real = Self {
            clusters: Mutex::new(clusters),
            apis,
        };
        real.fill(size).await?;
        Ok(Some(real))
    }

    async fn fill(&self, size: Size) -> Outcome {
        let began = Instant::now();
        let mut written = 0;
        for (cluster, api) in self.apis.iter().enumerate() {
            for (path, count) in objects::collections(size) {
                let object = move |number| objects::object(size, path, cluster, number);
                written += write_all(api, (path, count), object).await?;
                if path == "/api/v1/namespaces" {
                    let account = move |number| account(&objects::service_name(cluster, number));
                    let accounts = ("/api/v1/serviceaccounts", size.services_each());
                    written += write_all(api, accounts, account).await?;
                }
            }
        }
        println!(
            "real API servers: {written} objects written in {:.0} s",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// One kubeconfig each.
    pub(crate) async fn kubeconfigs(&self) -> Outcome<Vec<String>> {
        let clusters = self.clusters.lock().await;
        let mut texts = Vec::new();
        for cluster in clusters.iter() {
            texts.push(cluster.admin_kubeconfig()?);
        }
        Ok(texts)
    }

    /// Writes an object of a collection.
    pub(crate) async fn write(&self, cluster: usize, path: &str, object: Value) -> Outcome {
        let api = self.apis.get(cluster).ok_or("no such cluster")?;
        write(api, path, object).await
    }

    /// A pod's token, bound to it.
    pub(crate) async fn token(
        &self,
        cluster: usize,
        (account, pod): (&str, &str),
    ) -> Outcome<String> {
        let clusters = self.clusters.lock().await;
        let cluster = clusters.get(cluster).ok_or("no such cluster")?;
        let token = cluster.token(NAMESPACE, account, Some(AUDIENCE), Some(pod));
        Ok(token.await?)
    }

    /// Stops them with SIGSTOP: connections stay open, and nobody answers.
    pub(crate) async fn stop(&self) -> Outcome {
        for cluster in self.clusters.lock().await.iter_mut() {
            cluster.api().stop().await?;
        }
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Outcome {
        for cluster in self.clusters.lock().await.iter_mut() {
            cluster.revive().await?;
        }
        Ok(())
    }

    pub(crate) async fn end(&self) -> Outcome {
        for cluster in self.clusters.lock().await.drain(..) {
            cluster.end().await?;
        }
        Ok(())
    }
}

/// Writes the objects of a collection by number, some at once.
async fn write_all(
    api: &Api,
    (path, count): (&'static str, usize),
    object: impl Fn(usize) -> Value + Copy + Send + Sync + 'static,
) -> Outcome<usize> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..AT_ONCE.min(count) {
        let (api, next) = (api.clone(), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= count {
                    return Outcome::Ok(());
                }
                write(&api, path, object(number)).await?;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(count)
}

/// By server-side apply, and its status where it has one.
async fn write(api: &Api, path: &str, object: Value) -> Outcome {
    let mut object = written_as(path, object);
    let status = object.as_object_mut().and_then(|all| all.remove("status"));
    let path = path_of(path, &object);
    api.apply_as(MANAGER, &path, &object, true).await?;
    if let Some(status) = status {
        let mut of = object;
        if let Some(all) = of.as_object_mut() {
            all.remove("spec");
            all.insert("status".to_owned(), status);
        }
        api.apply_as(MANAGER, &format!("{path}/status"), &of, true)
            .await?;
    }
    Ok(())
}

/// Where an object of a collection is.
fn path_of(collection: &str, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str();
    let (group, plural) = collection.rsplit_once('/').unwrap_or_default();
    let name = text("name").unwrap_or_default();
    match text("namespace") {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{collection}/{name}"),
    }
}

fn account(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": NAMESPACE } })
}

/// An object as one writes it: with its kind, and without what the API server gives.
fn written_as(path: &str, mut object: Value) -> Value {
    let (group, plural) = path.rsplit_once('/').unwrap_or_default();
    let version = group
        .trim_start_matches("/apis/")
        .trim_start_matches("/api/");
    let kind = match plural {
        "namespaces" => "Namespace",
        "nodes" => "Node",
        "services" => "Service",
        "serviceaccounts" => "ServiceAccount",
        "pods" => "Pod",
        "endpointslices" => "EndpointSlice",
        "serviceexports" => "ServiceExport",
        _ => "MeshCluster",
    };
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    if let Some(meta) = object["metadata"].as_object_mut() {
        for given in ["uid", "resourceVersion", "creationTimestamp"] {
            meta.remove(given);
        }
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("clusterIP");
    }
    object
}
