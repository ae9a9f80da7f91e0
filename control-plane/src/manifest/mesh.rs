//! What do imports, classes of gateways, grants and properties of the cluster say?

use isthmus_control_plane_core::model::{
    AFFINITY_SECONDS, CLUSTER_ID_PROPERTY, CLUSTER_SET_PROPERTY, ClusterProperty, GatewayClass,
    Kind, Labels, Managed, OtherPort, ReferenceGrant, ServiceExport, ServiceImport, Spec,
};
use serde::Deserialize;
use serde_json::Value;

use super::word::client_affinity;
use super::workload::{RawAffinity, addresses, families, spread, transport};
use super::{Document, Failure, Metadata, status};

/// Longest name of a cluster or of its set, in bytes: a DNS name's.
const PROPERTY_BYTES_MAX: usize = 253;

#[derive(Deserialize)]
struct ExportObject {
    #[serde(default)]
    spec: Option<ExportSpec>,
    #[serde(default)]
    status: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExportSpec {
    #[serde(default)]
    exported_labels: Option<Labels>,
    #[serde(default)]
    exported_annotations: Option<Labels>,
}

pub(super) fn service_export(
    document: &Document<'_>,
    metadata: &Metadata,
) -> Result<Spec, Failure> {
    let raw: ExportObject = document.decode()?;
    let spec = raw.spec.unwrap_or_default();
    Ok(Spec::ServiceExport(ServiceExport {
        labels: spec.exported_labels.unwrap_or_default(),
        annotations: spec.exported_annotations.unwrap_or_default(),
        observed: status::observed(metadata, raw.status.as_ref(), status::EXPORT),
    }))
}

#[derive(Deserialize)]
struct ImportObject {
    #[serde(default)]
    spec: ImportSpec,
    #[serde(default)]
    status: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImportSpec {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    ips: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<ImportPort>>,
    #[serde(default)]
    session_affinity: Option<String>,
    #[serde(default)]
    session_affinity_config: Option<RawAffinity>,
    #[serde(default)]
    internal_traffic_policy: Option<String>,
    #[serde(default)]
    traffic_distribution: Option<String>,
    #[serde(default)]
    ip_families: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImportPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    app_protocol: Option<String>,
    port: u16,
}

pub(super) fn service_import(
    document: &Document<'_>,
    metadata: &Metadata,
    version: &str,
) -> Result<Spec, Failure> {
    let raw: ImportObject = document.decode()?;
    let spec = raw.spec;
    let ips = spec.ips.unwrap_or_default();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    let port = |(at, port): (usize, ImportPort)| {
        let key = format!("spec.ports[{at}].protocol");
        Ok(OtherPort {
            port: port.port,
            transport: transport(document, &key, port.protocol.as_deref())?,
            name: port.name.unwrap_or_default(),
            app_protocol: port.app_protocol,
        })
    };
    let ports = spec.ports.into_iter().flatten().enumerate().map(port);
    let listed = raw
        .status
        .as_ref()
        .and_then(|s| s.get("clusters")?.as_array());
    let clusters = listed.into_iter().flatten();
    let clusters = clusters.filter_map(|c| c.get("cluster")?.as_str().map(str::to_owned));
    let sticky = client_affinity(document, spec.session_affinity.as_deref())?;
    let seconds = spec.session_affinity_config.and_then(RawAffinity::seconds);
    Ok(Spec::ServiceImport(ServiceImport {
        ips: addresses(document, "spec.ips", &ips)?,
        headless: spec.r#type.as_deref() == Some("Headless"),
        ports: ports.collect::<Result<_, Failure>>()?,
        affinity: sticky.then(|| seconds.unwrap_or(AFFINITY_SECONDS)),
        clusters: clusters.collect(),
        spread: spread(
            document,
            spec.internal_traffic_policy.as_deref(),
            spec.traffic_distribution,
        )?,
        families: families(document, &spec.ip_families.unwrap_or_default())?,
        is_alpha: version == "v1alpha1",
        observed: status::observed(metadata, raw.status.as_ref(), status::IMPORT),
        managed: status::managed(metadata).map(Managed::folded),
    }))
}

#[derive(Deserialize)]
struct ClassObject {
    spec: ClassSpec,
    #[serde(default)]
    status: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassSpec {
    controller_name: String,
}

pub(super) fn gateway_class(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let raw: ClassObject = document.decode()?;
    Ok(Spec::GatewayClass(GatewayClass {
        controller: raw.spec.controller_name,
        observed: status::observed(metadata, raw.status.as_ref(), status::CLASS),
    }))
}

#[derive(Deserialize)]
struct PropertyObject {
    spec: PropertySpec,
}

#[derive(Deserialize)]
struct PropertySpec {
    value: String,
}

/// `None`: a property that the mesh does not look at.
pub(super) fn cluster_property(
    document: &Document<'_>,
    metadata: &Metadata,
) -> Option<Result<Spec, Failure>> {
    let name = metadata.name.as_deref()?;
    if name != CLUSTER_ID_PROPERTY && name != CLUSTER_SET_PROPERTY {
        return None;
    }
    let raw: Result<PropertyObject, Failure> = document.decode();
    Some(raw.and_then(|raw| {
        let value = raw.spec.value;
        if value.is_empty() || value.len() > PROPERTY_BYTES_MAX {
            let why = format!("spec.value: 1 to {PROPERTY_BYTES_MAX} bytes");
            return Err(document.failure(why));
        }
        Ok(Spec::ClusterProperty(ClusterProperty { value }))
    }))
}

#[derive(Deserialize)]
struct GrantObject {
    spec: GrantSpec,
}

#[derive(Deserialize)]
struct GrantSpec {
    #[serde(default)]
    from: Vec<GrantFrom>,
    #[serde(default)]
    to: Vec<GrantTo>,
}

#[derive(Deserialize)]
struct GrantFrom {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
struct GrantTo {
    group: String,
    kind: String,
    #[serde(default)]
    name: Option<String>,
}

/// Kinds that the mesh does not look at are left out: that grants less, never more.
pub(super) fn reference_grant(document: &Document<'_>) -> Result<Spec, Failure> {
    let raw: GrantObject = document.decode()?;
    let mut grant = ReferenceGrant::default();
    for from in raw.spec.from {
        let kind = match (from.group.as_str(), from.kind.as_str()) {
            ("gateway.networking.k8s.io", "HTTPRoute") => Kind::HttpRoute,
            ("gateway.networking.k8s.io", "GRPCRoute") => Kind::GrpcRoute,
            ("gateway.networking.k8s.io", "TCPRoute") => Kind::TcpRoute,
            ("gateway.networking.k8s.io", "TLSRoute") => Kind::TlsRoute,
            _ => continue,
        };
        let namespace = from
            .namespace
            .parse()
            .map_err(|bad| document.failure(format!("spec.from.namespace: {bad}")))?;
        grant.from.push((kind, namespace));
    }
    for to in raw.spec.to {
        let kind = match (to.group.as_str(), to.kind.as_str()) {
            // The core group.
            ("", "Service") => Kind::Service,
            ("multicluster.x-k8s.io", "ServiceImport") => Kind::ServiceImport,
            _ => continue,
        };
        grant
            .to
            .push((kind, to.name.filter(|name| !name.is_empty())));
    }
    Ok(Spec::ReferenceGrant(grant))
}
