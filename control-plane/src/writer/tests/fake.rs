//! An API server that keeps what is applied, gives uids and addresses, and refuses what it is told
//! to refuse.

use std::collections::BTreeSet;
use std::sync::MutexGuard;

use isthmus_control_plane_core::model::ObjectRef;

use super::*;

#[derive(Debug, Clone, Default)]
pub(super) struct Fake {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    /// Paths whose fields belong to somebody else.
    foreign: BTreeSet<String>,
    touched: BTreeSet<String>,
    absent: BTreeSet<String>,
    /// Parts of paths that an admission webhook answers for, which hangs.
    kept_out: Option<String>,
    hangs: bool,
    count: u64,
}

fn plural(kind: &str) -> (&'static str, Kind) {
    match kind {
        "Service" => ("/api/v1", Kind::Service),
        "ConfigMap" => ("/api/v1", Kind::ConfigMap),
        "Pod" => ("/api/v1", Kind::Pod),
        "ServiceExport" => ("/apis/multicluster.x-k8s.io/v1beta1", Kind::ServiceExport),
        "ServiceImport" => ("/apis/multicluster.x-k8s.io/v1beta1", Kind::ServiceImport),
        "HTTPRoute" => ("/apis/gateway.networking.k8s.io/v1", Kind::HttpRoute),
        other => panic!("{other}"),
    }
}

fn path_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap();
    let meta = &object["metadata"];
    let (namespace, name) = (
        meta["namespace"].as_str().unwrap(),
        meta["name"].as_str().unwrap(),
    );
    let api = plural(kind).0;
    format!(
        "{api}/namespaces/{namespace}/{}s/{name}",
        kind.to_lowercase()
    )
}

pub(super) fn reference(cluster: &ClusterId, path: &str) -> ObjectRef {
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap().to_owned();
    let kind = match parts.next().unwrap() {
        "services" => Kind::Service,
        "configmaps" => Kind::ConfigMap,
        "pods" => Kind::Pod,
        "serviceexports" => Kind::ServiceExport,
        "serviceimports" => Kind::ServiceImport,
        other => panic!("{other}"),
    };
    ObjectRef {
        cluster: cluster.clone(),
        kind,
        namespace: Some(parts.next().unwrap().parse().unwrap()),
        name,
    }
}

fn refusal(code: u16, message: &str) -> ApiError {
    ApiError::Status {
        code,
        reason: "Refused".into(),
        message: message.into(),
        retry_after: None,
    }
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(super) fn objects(&self) -> Vec<Value> {
        self.lock().objects.values().cloned().collect()
    }

    pub(super) fn at(&self, path: &str) -> Value {
        self.lock().objects.get(path).cloned().unwrap_or_default()
    }

    pub(super) fn put(&self, object: Value) {
        let path = path_of(&object);
        let mut inner = self.lock();
        inner.touched.insert(path.clone());
        inner.foreign.insert(path.clone());
        inner.objects.insert(path, object);
    }

    pub(super) fn remove(&self, path: &str) {
        let mut inner = self.lock();
        inner.objects.remove(path);
        inner.touched.insert(path.to_owned());
    }

    pub(super) fn absent(&self, plural: &str, absent: bool) {
        let mut inner = self.lock();
        if absent {
            inner.absent.insert(plural.to_owned());
        } else {
            inner.absent.remove(plural);
        }
    }

    pub(super) fn keeps_out(&self, path: Option<&str>) {
        self.lock().kept_out = path.map(str::to_owned);
    }

    pub(super) fn hangs(&self, hangs: bool) {
        self.lock().hangs = hangs;
    }

    pub(super) fn changes(&self) -> Vec<(String, Option<Value>)> {
        let mut inner = self.lock();
        let touched = std::mem::take(&mut inner.touched);
        let of = |path: String| {
            let object = inner.objects.get(&path).cloned();
            (path, object)
        };
        touched.into_iter().map(of).collect()
    }

    async fn answers(&self, path: &str) -> Result<(), ApiError> {
        let hangs = self.lock().hangs;
        if hangs {
            sleep(Duration::from_secs(10)).await;
            return Err(ApiError::Silent);
        }
        if self
            .lock()
            .absent
            .iter()
            .any(|plural| path.contains(plural.as_str()))
        {
            return Err(refusal(
                404,
                "the server could not find the requested resource",
            ));
        }
        Ok(())
    }
}

impl Inner {
    fn create(&mut self, path: &str, mut object: Value) -> Value {
        self.count += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.count));
        object["metadata"]["creationTimestamp"] = json!("2026-11-22T17:03:00Z");
        if object["kind"] == "Service" && object["spec"]["clusterIP"].is_null() {
            object["spec"]["clusterIP"] = json!(format!("10.2.0.{}", self.count));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

impl Server for Fake {
    async fn get(&self, path: &str) -> Result<bytes::Bytes, ApiError> {
        self.answers(path).await?;
        match self.lock().objects.get(path) {
            Some(object) => Ok(object.to_string().into()),
            None => Err(refusal(404, "not found")),
        }
    }

    async fn apply(&self, path: &str, object: &Value, force: bool) -> Result<Value, ApiError> {
        self.answers(path).await?;
        let kept_out = self.lock().kept_out.clone();
        if kept_out.is_some_and(|part| path.contains(&part)) {
            // `timeoutSeconds` of a webhook, if it does not say.
            sleep(Duration::from_secs(10)).await;
            return Err(refusal(500, "failed calling webhook \"validate.example\""));
        }
        let mut inner = self.lock();
        let (path, status) = match path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let Some(mut found) = inner.objects.get(path).cloned() else {
            let wanted = &object["metadata"]["uid"];
            if status || wanted.is_string() {
                return Err(refusal(if status { 404 } else { 409 }, "not found"));
            }
            inner.touched.insert(path.to_owned());
            return Ok(inner.create(path, object.clone()));
        };
        let read = &object["metadata"]["resourceVersion"];
        if read.is_string() && *read != found["metadata"]["resourceVersion"] {
            return Err(refusal(409, "the object has been modified"));
        }
        inner.count += 1;
        found["metadata"]["resourceVersion"] = json!(inner.count.to_string());
        if status {
            for (key, value) in object["status"].as_object().unwrap() {
                found["status"][key] = value.clone();
            }
        } else {
            let uid = &object["metadata"]["uid"];
            if uid.is_string() && *uid != found["metadata"]["uid"] {
                return Err(refusal(422, "uid"));
            }
            if inner.foreign.contains(path) && !force {
                return Err(refusal(409, "conflict with \"kubectl\""));
            }
            let address = found["spec"]["clusterIP"].clone();
            found["spec"] = object["spec"].clone();
            found["data"] = object["data"].clone();
            if found["spec"]["clusterIP"].is_null() && !address.is_null() {
                found["spec"]["clusterIP"] = address;
            }
            for key in ["labels", "annotations", "ownerReferences"] {
                found["metadata"][key] = object["metadata"][key].clone();
            }
        }
        inner.touched.insert(path.to_owned());
        inner.objects.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    async fn delete(&self, path: &str, preconditions: Option<&Value>) -> Result<(), ApiError> {
        self.answers(path).await?;
        let mut inner = self.lock();
        let Some(found) = inner.objects.get(path) else {
            return Err(refusal(404, "not found"));
        };
        assert_eq!(preconditions.unwrap()["uid"], found["metadata"]["uid"]);
        inner.objects.remove(path);
        inner.touched.insert(path.to_owned());
        Ok(())
    }
}
