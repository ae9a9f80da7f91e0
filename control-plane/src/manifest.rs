//! What do these manifests declare?
//!
//! YAML in, the model out; from an API server JSON, one object at a time. Each document is read
//! twice: for its kind, then as that kind, so that an error has the line and the column of the field
//! that it is about. Fields of Kubernetes that are not used are let through; in our own kinds a
//! field that is not known is an error.

mod problem;
mod documents;
mod kinds;
mod decode;
mod meta;
mod place;
mod status;
mod word;
mod workload;
mod slice;
mod mesh;
mod gateway;
mod roots;
mod cluster;
mod profile;
mod route;
mod access;
mod traffic;
mod trust;
pub mod yaml;
#[cfg(feature = "schema")]
pub mod schema;

use isthmus_control_plane_core::model::{Kind, Object, Observed, ROOTS_NAME, Spec};
use isthmus_proto::ids::{ClusterId, Namespace};
use isthmus_proto::locality::Locality;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use meta::Metadata;
pub use problem::Problem;

/// Most documents in one file.
const DOCUMENTS_MAX: usize = 10_000;
/// Most items of a List that are told to be bad.
const BAD_ITEMS_MAX: usize = 100;
/// Longest message about a problem, in characters.
const MESSAGE_CHARS_MAX: usize = 400;
/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The objects. Without a creation time where the manifest has none.
    pub objects: Vec<Object>,
    /// Of each of them, in the same order, the line on which its document begins, from 1; 0: not known.
    pub lines: Vec<u64>,
    /// Why the file can't be used. If there are any, its objects are not complete.
    pub errors: Vec<Problem>,
    /// Objects that were understood in part: they are among `objects`, marked as invalid.
    pub invalid: Vec<Problem>,
    /// Kinds that the mesh does not look at.
    pub ignored: Vec<String>,
}

/// Reads all documents of a file.
#[must_use]
pub fn parse(text: &str, cluster: &ClusterId) -> Parsed {
    let mut parsed = Parsed::default();
    for (count, document) in documents::of(text).into_iter().enumerate() {
        if count >= DOCUMENTS_MAX {
            let message = format!("more than {DOCUMENTS_MAX} documents");
            let problem = Problem {
                line: document.line,
                column: 1,
                object: String::new(),
                message,
            };
            parsed.errors.push(problem);
            break;
        }
        if let Err(problem) = document.read(cluster, &mut parsed) {
            parsed.errors.push(problem);
        }
    }
    parsed
}

/// Reads one object of an API server. Items of its lists don't name their kind: the collection does.
#[must_use]
pub fn object(json: &[u8], version: &str, kind: &str, cluster: &ClusterId) -> Parsed {
    let document = Document {
        body: Body::Json(json),
        line: 0,
    };
    let mut parsed = Parsed::default();
    let head: Result<Head, Problem> = document
        .decode()
        .map_err(|failure| failure.about(kind.to_owned()));
    let read =
        head.and_then(|head| document.understood(&head, version, kind, cluster, &mut parsed));
    parsed.errors.extend(read.err());
    parsed
}

/// What stands in the status of an object of an API server, even if nothing else of it is understood.
#[must_use]
pub fn observed(json: &[u8], kind: Kind) -> Observed {
    let document = Document {
        body: Body::Json(json),
        line: 0,
    };
    let head: Option<Head> = document.decode().ok();
    let metadata = head.map(|head| head.metadata).unwrap_or_default();
    if kind == Kind::MeshCluster {
        status::of_cluster(&document, &metadata)
    } else {
        status::of_policy(&document, &metadata)
    }
}

/// Where a node of an API server is; empty where it does not say.
///
/// # Errors
/// What is wrong with it, for people.
pub fn place_of_node(json: &[u8]) -> Result<Locality, String> {
    let head: Head = decode::json(json)?;
    Ok(workload::place(&head.metadata))
}

/// One document, or one item of a List.
struct Document<'a> {
    body: Body<'a>,
    /// The line of the file on which it begins.
    line: u64,
}

enum Body<'a> {
    Text(&'a str),
    /// Of a List, with its index: positions inside are not known.
    Item(serde_json::Value, usize),
    /// Of an API server. Only what is used is taken out of it.
    Json(&'a [u8]),
}

/// Why a document could not be read as what it says to be.
struct Failure {
    line: u64,
    column: u64,
    message: String,
}

/// What every object begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<serde_json::Value>,
}

/// An object whose kind is understood: what it says, and what is wrong with it in part.
struct Understood {
    spec: Spec,
    namespace: Scope,
    invalid: Option<Failure>,
}

/// Where an object lives that names no namespace.
#[derive(PartialEq)]
enum Scope {
    /// In `default`.
    Namespaced,
    /// Nowhere; what it names does not count.
    Cluster,
    /// Nowhere, but in the namespace that it names if it does.
    Either,
}

/// The manifest's texts do not make an object, for this reason.
struct Bad(String);

impl<E: std::error::Error> From<E> for Bad {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Document<'_> {
    fn read(&self, cluster: &ClusterId, parsed: &mut Parsed) -> Result<(), Problem> {
        let nameless = |failure: Failure| failure.about(String::new());
        // A document of comments is null.
        let Some(head) = self.decode::<Option<Head>>().map_err(nameless)? else {
            return Ok(());
        };
        let (Some(version), Some(kind)) = (&head.api_version, &head.kind) else {
            return Err(nameless(
                self.failure("apiVersion and kind are required".to_owned()),
            ));
        };
        if (version.as_str(), kind.as_str()) == ("v1", "List") {
            return self.items(cluster, parsed);
        }
        self.understood(&head, version, kind, cluster, parsed)
    }

    fn understood(
        &self,
        head: &Head,
        version: &str,
        kind: &str,
        cluster: &ClusterId,
        parsed: &mut Parsed,
    ) -> Result<(), Problem> {
        let object = head.title(kind);
        let about = |failure: Failure| failure.about(object.clone());
        let understood = match understand(self, version, kind, &head.metadata) {
            Some(understood) => understood.map_err(about)?,
            None => {
                kinds::check(version, kind).map_err(|why| about(self.failure(why)))?;
                parsed.ignored.push(format!("{version} {kind}"));
                return Ok(());
            }
        };
        let name = head.metadata.name.clone();
        let name = name.filter(|name| understood.spec.kind().has_name(name));
        let name = name.ok_or_else(|| {
            about(self.failure("metadata.name is not a name in lower case".to_owned()))
        })?;
        let namespace = head
            .namespace(&understood.namespace)
            .map_err(|bad| about(self.failure(format!("metadata.namespace: {}", bad.0))))?;
        let created = head
            .metadata
            .created()
            .map_err(|bad| about(self.failure(bad.0)))?;
        parsed.invalid.extend(understood.invalid.map(about));
        parsed.lines.push(self.line);
        parsed.objects.push(Object {
            cluster: cluster.clone(),
            namespace,
            name,
            created,
            spec: understood.spec,
        });
        Ok(())
    }

    fn items(&self, cluster: &ClusterId, parsed: &mut Parsed) -> Result<(), Problem> {
        if !matches!(self.body, Body::Text(_)) {
            return Err(self
                .failure("a List in a List".to_owned())
                .about(String::new()));
        }
        let list: List = self
            .decode()
            .map_err(|failure| failure.about("List".to_owned()))?;
        let mut bad: usize = 0;
        for (at, item) in list.items.into_iter().enumerate() {
            let item = Document {
                body: Body::Item(item, at),
                line: self.line,
            };
            let Err(problem) = item.read(cluster, parsed) else {
                continue;
            };
            parsed.errors.push(problem);
            bad += 1;
            if bad == BAD_ITEMS_MAX {
                return Err(self
                    .failure(format!(
                        "{BAD_ITEMS_MAX} items are bad; the rest was not read"
                    ))
                    .about("List".to_owned()));
            }
        }
        Ok(())
    }

    /// Is it of an API server, where pods are as they run, and not a file that somebody wrote?
    fn is_of_server(&self) -> bool {
        matches!(self.body, Body::Json(_))
    }

    /// The document as `T`.
    fn decode<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        match &self.body {
            Body::Text(text) => decode::yaml(text).map_err(|failure| Failure {
                line: failure.line.saturating_add(self.line).saturating_sub(1),
                ..failure
            }),
            Body::Item(value, _) => decode::item(value).map_err(|why| self.failure(why)),
            Body::Json(bytes) => decode::json(bytes).map_err(|why| self.failure(why)),
        }
    }

    /// Something that is wrong with the document: where its message says, or as a whole.
    fn failure(&self, message: String) -> Failure {
        if let Body::Text(text) = &self.body
            && let Some((line, column)) = place::of(text, &message)
        {
            let line = line.saturating_add(self.line).saturating_sub(1);
            return Failure {
                line,
                column,
                message,
            };
        }
        let message = match &self.body {
            Body::Text(_) | Body::Json(_) => message,
            Body::Item(_, at) => format!("items[{at}]: {message}"),
        };
        Failure {
            line: self.line,
            column: u64::from(self.line > 0),
            message,
        }
    }
}

impl Head {
    fn title(&self, kind: &str) -> String {
        let name = self.metadata.name.as_deref().unwrap_or("(no name)");
        match &self.metadata.namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    }

    fn namespace(&self, scope: &Scope) -> Result<Option<Namespace>, Bad> {
        let named = self
            .metadata
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty());
        let text = match (scope, named) {
            (Scope::Cluster, _) | (Scope::Either, None) => return Ok(None),
            (Scope::Namespaced | Scope::Either, Some(named)) => named,
            (Scope::Namespaced, None) => DEFAULT_NAMESPACE,
        };
        Ok(Some(text.parse()?))
    }
}

impl Failure {
    fn about(self, object: String) -> Problem {
        let message = self.message.chars().take(MESSAGE_CHARS_MAX).collect();
        Problem {
            line: self.line,
            column: self.column,
            object,
            message,
        }
    }
}

impl Understood {
    fn namespaced(spec: Spec) -> Self {
        Self {
            spec,
            namespace: Scope::Namespaced,
            invalid: None,
        }
    }

    fn cluster_wide(spec: Spec) -> Self {
        Self {
            namespace: Scope::Cluster,
            ..Self::namespaced(spec)
        }
    }
}

/// `None`: a kind that the mesh does not look at.
fn understand(
    document: &Document<'_>,
    version: &str,
    kind: &str,
    metadata: &Metadata,
) -> Option<Result<Understood, Failure>> {
    if kinds::is_access_policy_of_no_known_version(version, kind) {
        let why = kinds::check(version, kind).err().unwrap_or_default();
        let denied = access::denied(document, metadata, document.failure(why));
        return Some(Ok(denied));
    }
    // A kind that is read in one version says something else in one that is not known.
    if kinds::is_of_no_known_version(version, kind) {
        return None;
    }
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let plain = |spec: Result<Spec, Failure>| Some(spec.map(Understood::namespaced));
    let wide = |spec: Result<Spec, Failure>| Some(spec.map(Understood::cluster_wide));
    match (group, version, kind) {
        ("", "v1", "Namespace") => wide(Ok(Spec::Namespace(metadata.labels()))),
        ("", "v1", "ServiceAccount") => plain(Ok(Spec::ServiceAccount)),
        ("", "v1", "Pod") => plain(workload::pod(document, metadata)),
        // Of all others nothing is of interest.
        ("", "v1", "ConfigMap") if metadata.name.as_deref() == Some(ROOTS_NAME) => {
            plain(roots::config_map(document, metadata))
        }
        ("", "v1", "Service") => plain(workload::service(document, metadata)),
        ("apps", "v1", "Deployment") => plain(Ok(Spec::Deployment)),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            plain(slice::endpoint_slice(document, metadata)?)
        }
        // What is being deleted is offered no more, whatever holds the object.
        ("multicluster.x-k8s.io", "v1beta1" | "v1alpha1", "ServiceExport") => {
            let here = !metadata.deleted();
            here.then(|| mesh::service_export(document, metadata))
                .and_then(plain)
        }
        ("multicluster.x-k8s.io", "v1beta1" | "v1alpha1", "ServiceImport") => {
            plain(mesh::service_import(document, metadata, version))
        }
        ("multicluster.x-k8s.io", "v1alpha1", "ClusterProfile") => {
            plain(profile::cluster_profile(document, metadata))
        }
        ("gateway.networking.k8s.io", _, "Gateway") => plain(gateway::gateway(document, metadata)),
        ("gateway.networking.k8s.io", _, "GatewayClass") => {
            wide(mesh::gateway_class(document, metadata))
        }
        ("about.k8s.io", _, "ClusterProperty") => wide(mesh::cluster_property(document, metadata)?),
        ("gateway.networking.k8s.io", _, "ReferenceGrant") => {
            plain(mesh::reference_grant(document))
        }
        ("gateway.networking.k8s.io", _, "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute") => {
            Some(route::route(document, kind, metadata))
        }
        ("isthmus.dev", "v1alpha1", "MeshCluster") => {
            wide(cluster::mesh_cluster(document, metadata))
        }
        ("isthmus.dev", "v1alpha1", "AccessPolicy") => Some(Ok(access::policy(document, metadata))),
        ("isthmus.dev", "v1alpha1", "TrafficPolicy") => plain(traffic::policy(document, metadata)),
        ("isthmus.dev", "v1alpha1", "TrustPolicy") => wide(trust::policy(document, metadata)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
