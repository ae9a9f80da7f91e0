//! Which objects does a cluster need?

use anyhow::Context as _;
use serde_json::{Value, json};

use super::beside;
use super::config::{self, Given};
use super::permissions::{ACCOUNT, PERMISSIONS, Permission, Place};

/// The namespace of everything that is the mesh's own.
pub(crate) const SYSTEM: &str = "isthmus-system";
/// What every object has that the mesh makes for its users.
pub(crate) const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(crate) const MANAGED_BY: &str = "isthmus";
/// A new control plane counts when it was ready for so long.
const MIN_READY_SECONDS: u32 = 10;
/// Where the control plane serves proxies, and where it is ready.
pub(super) const DISCOVERY_PORT: u16 = 15012;
pub(super) const ADMIN_PORT: u16 = 15014;
/// The Service where proxies find the control plane.
pub(crate) const DISCOVERY_SERVICE: &str = "control-plane";
/// The label of its pods.
pub(crate) const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "control-plane");
/// The container that is the control plane.
pub(crate) const CONTAINER: &str = "control-plane";
/// Where its ConfigMap has its configuration.
pub(crate) const CONFIG_KEY: &str = "control-plane.json";
/// With `false` on what runs it: no NetworkPolicy is wanted.
pub(crate) const NETWORK_POLICY_ANNOTATION: &str = "isthmus.dev/network-policy";
/// Which configuration a pod of it was started with.
const CONFIG_ANNOTATION: &str = "isthmus.dev/config";
/// Nobody, in images without users.
const USER: u32 = 65_532;
/// Longer than streams may take to end when the control plane stops.
const GRACE_SECONDS: u32 = 30;
/// All serve, and one of them writes.
const REPLICAS: u32 = 2;
/// What a replica keeps of each cluster as it was last seen, in MiB: for its own restart.
const STATE_MEBIBYTES: u32 = 1024;
/// The volume with what the home cluster's Secrets said ...
const SECRETS: &str = "secrets";
/// ... and its size, in MiB: they are small, and few.
const SECRETS_MEBIBYTES: u32 = 16;

/// Our own kinds, and those of the Multi-Cluster Services API.
const DEFINITIONS: [&str; 4] = [
    include_str!("../../../deploy/crds/isthmus.dev_meshclusters.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_accesspolicies.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_trafficpolicies.yaml"),
    include_str!("../../../deploy/crds/isthmus.dev_trustpolicies.yaml"),
];
const FOREIGN_DEFINITIONS: [&str; 2] = [
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceexports.yaml"),
    include_str!("../../../deploy/crds/mcs/multicluster.x-k8s.io_serviceimports.yaml"),
];

/// How the control plane is run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The name of the cluster in the mesh.
    pub(crate) cluster: String,
    /// Its network.
    pub(crate) network: String,
    /// The domain of the mesh.
    pub(crate) mesh_domain: String,
    /// The image that has the control plane.
    pub(crate) image: String,
    /// HOST:PORT by which proxies of other clusters reach it.
    pub(crate) discovery_address: Option<String>,
    /// Its Service is one of type LoadBalancer, or one of type ClusterIP; `None`: nothing is said.
    pub(crate) load_balancer: Option<bool>,
    /// Where what is known of the clusters is kept.
    pub(crate) saved_world: SavedWorld,
    /// A NetworkPolicy opens the ports that its pods serve, and no others.
    pub(crate) network_policy: bool,
    /// What no flag decides.
    pub(crate) given: Given,
}

/// Where what a control plane knows of the clusters is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SavedWorld {
    /// On the pod's node, as long as the pod is there.
    #[default]
    OfThePod,
    /// In a volume for each replica, which outlives its pods. Of this StorageClass; `None`: the
    /// cluster's default.
    Claimed(Option<String>),
}

impl SavedWorld {
    /// The kind of the object that runs the control plane: only a StatefulSet gives a pod that is
    /// replaced its volume again.
    pub(crate) fn workload(&self) -> &'static str {
        match self {
            Self::OfThePod => "Deployment",
            Self::Claimed(_) => "StatefulSet",
        }
    }

    /// As the flag says it; `None`: nothing is claimed.
    pub(crate) fn flag(&self) -> Option<&str> {
        match self {
            Self::OfThePod => None,
            Self::Claimed(class) => Some(class.as_deref().unwrap_or(CLAIMED)),
        }
    }

    /// What the flag says: `false`, `true` for the default class, or the name of a class.
    pub(crate) fn of_flag(said: Option<&str>) -> Self {
        match said {
            None | Some(UNCLAIMED) => Self::OfThePod,
            Some(CLAIMED) => Self::Claimed(None),
            Some(class) => Self::Claimed(Some(class.to_owned())),
        }
    }
}

/// A volume of the default class is claimed.
const CLAIMED: &str = "true";
/// None is.
const UNCLAIMED: &str = "false";
/// The name of the volume, and of its claim.
pub(crate) const STATE: &str = "state";

impl Plan {
    /// Would the control plane take its configuration?
    ///
    /// # Errors
    /// It would not.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let taken = isthmus_control_plane::Config::parse(&config::text(self));
        taken.context("the configuration of the control plane")?;
        Ok(())
    }
}

/// What every object of ours says of itself.
pub(super) fn labels(component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "isthmus",
        "app.kubernetes.io/part-of": "isthmus",
        "app.kubernetes.io/component": component,
    })
}

pub(super) fn metadata(name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({ "name": name, "labels": labels("control-plane") });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// The definitions of our own kinds.
///
/// # Errors
/// A file that this binary was built with is no YAML.
pub(crate) fn definitions() -> anyhow::Result<Vec<Value>> {
    read(&DEFINITIONS)
}

/// The definitions that are installed only where there are none.
///
/// # Errors
/// A file that this binary was built with is no YAML.
pub(crate) fn foreign_definitions() -> anyhow::Result<Vec<Value>> {
    read(&FOREIGN_DEFINITIONS)
}

fn read(texts: &[&str]) -> anyhow::Result<Vec<Value>> {
    let read = |text: &&str| Ok(serde_saphyr::from_str(text)?);
    texts.iter().map(read).collect()
}

/// What lets the control plane into a cluster: namespace, account, permissions.
pub(crate) fn access(home: bool) -> Vec<Value> {
    let rules = |places: &[Place]| -> Vec<Value> {
        let granted = PERMISSIONS.iter().filter(|p| places.contains(&p.place));
        granted.map(Permission::rule).collect()
    };
    let within: &[Place] = if home {
        &[Place::System, Place::Home]
    } else {
        &[Place::System]
    };
    let subject = json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM }]);
    let role = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": ACCOUNT });
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut all = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": SYSTEM,
            "labels": {
                "app.kubernetes.io/part-of": "isthmus",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
            "automountServiceAccountToken": false }),
        json!({ "apiVersion": rbac, "kind": "ClusterRole", "metadata": metadata(ACCOUNT, None),
            "rules": rules(&[Place::Everywhere]) }),
        json!({ "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": metadata(ACCOUNT, None),
            "roleRef": role("ClusterRole"), "subjects": subject }),
        json!({ "apiVersion": rbac, "kind": "Role", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
            "rules": rules(within) }),
        json!({ "apiVersion": rbac, "kind": "RoleBinding", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
            "roleRef": role("Role"), "subjects": subject }),
    ];
    all.extend(roles());
    all.extend(fence());
    all.extend(beside::flow());
    all
}

/// What lets people at our kinds who have `view`, `edit` or `admin` of Kubernetes. Who may decide who
/// calls whom, and what other clusters see, is `admin`; TrustPolicies and MeshClusters nobody gets so.
fn roles() -> [Value; 3] {
    const READ: [&str; 3] = ["get", "list", "watch"];
    const WRITE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
    let role = |level: &str, rules: Value| {
        let name = format!("isthmus-{level}");
        let mut role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": metadata(&name, None), "rules": rules });
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{level}")] =
            "true".into();
        role
    };
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let (ours, multicluster) = ("isthmus.dev", "multicluster.x-k8s.io");
    [
        role(
            "view",
            json!([
                rule(
                    ours,
                    &[
                        "accesspolicies",
                        "trafficpolicies",
                        "trustpolicies",
                        "meshclusters"
                    ],
                    &READ,
                ),
                rule(multicluster, &["serviceexports", "serviceimports"], &READ),
            ]),
        ),
        role("edit", json!([rule(ours, &["trafficpolicies"], &WRITE)])),
        role(
            "admin",
            json!([
                rule(ours, &["accesspolicies"], &WRITE),
                rule(multicluster, &["serviceexports"], &WRITE),
            ]),
        ),
    ]
}

/// What RBAC cannot say: it knows no labels. Of Services and EndpointSlices the control plane may write
/// those only that it derives, and those Services lead to no pods of anybody.
fn fence() -> [Value; 2] {
    let ours = |object: &str| {
        format!(
            "has({object}.metadata.labels) && '{MANAGED_LABEL}' in {object}.metadata.labels \
             && {object}.metadata.labels['{MANAGED_LABEL}'] == '{MANAGED_BY}'"
        )
    };
    let user = format!("request.userInfo.username == 'system:serviceaccount:{SYSTEM}:{ACCOUNT}'");
    let was = format!("request.operation == 'CREATE' || ({})", ours("oldObject"));
    let is = format!(
        "request.operation == 'DELETE' || ({} && (!has(object.spec) || !has(object.spec.selector)))",
        ours("object")
    );
    let rule = |group: &str, resource: &str| {
        let operations = ["CREATE", "UPDATE", "DELETE"];
        json!({ "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": operations })
    };
    let group = "admissionregistration.k8s.io/v1";
    [
        json!({ "apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": metadata(ACCOUNT, None),
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [
                    rule("", "services"), rule("discovery.k8s.io", "endpointslices"),
                ] },
                "matchConditions": [{ "name": "by-the-control-plane", "expression": user }],
                "validations": [
                    { "expression": was, "message": "the mesh did not make this object" },
                    { "expression": is, "message": "the mesh makes objects with its label, and Services without a selector" },
                ],
            } }),
        json!({ "apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata(ACCOUNT, None),
            "spec": { "policyName": ACCOUNT, "validationActions": ["Deny"] } }),
    ]
}

/// The control plane itself.
pub(crate) fn control_plane(plan: &Plan) -> Vec<Value> {
    let selector = json!({ "app.kubernetes.io/name": "isthmus", "app.kubernetes.io/component": "control-plane" });
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": name });
    let service = |name: &str, ports: Value| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(name, Some(SYSTEM)),
            "spec": { "selector": selector, "ports": ports } })
    };
    let mut discovery = service(
        DISCOVERY_SERVICE,
        json!([port("discovery", DISCOVERY_PORT)]),
    );
    if let Some(outside) = plan.load_balancer {
        let kind = if outside { "LoadBalancer" } else { "ClusterIP" };
        discovery["spec"]["type"] = kind.into();
    }
    let mut all = vec![
        json!({ "apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster", "metadata": metadata(&plan.cluster, None),
            "spec": {
                "network": plan.network,
                "trustDomain": format!("{}.{}", plan.cluster, plan.mesh_domain),
            } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
            "data": { CONFIG_KEY: config::text(plan) } }),
        discovery,
        service("control-plane-metrics", json!([port("admin", ADMIN_PORT)])),
        workload(plan, &selector),
        json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(ACCOUNT, Some(SYSTEM)),
            "spec": { "minAvailable": 1, "selector": { "matchLabels": selector } } }),
    ];
    all.extend(beside::admins());
    if plan.network_policy {
        all.push(beside::network_policy(&selector));
    }
    all
}

/// What runs the control plane.
pub(super) fn workload(plan: &Plan, selector: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": plan.saved_world.workload(),
        "metadata": metadata(ACCOUNT, Some(SYSTEM)),
        "spec": {
            "replicas": REPLICAS,
            // Its proxies have moved before the next one is replaced.
            "minReadySeconds": MIN_READY_SECONDS,
            "selector": { "matchLabels": selector },
            "template": template(plan, selector),
        },
    });
    if !plan.network_policy {
        object["metadata"]["annotations"][NETWORK_POLICY_ANNOTATION] = "false".into();
    }
    let spec = &mut object["spec"];
    match &plan.saved_world {
        SavedWorld::OfThePod => {
            // Never fewer that are ready than before: proxies always have one to go to.
            spec["strategy"] = json!({ "type": "RollingUpdate",
                "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
        }
        SavedWorld::Claimed(class) => {
            spec["serviceName"] = DISCOVERY_SERVICE.into();
            // Replicas are equal: none waits for another. An update takes one at a time.
            spec["podManagementPolicy"] = "Parallel".into();
            spec["updateStrategy"] = json!({ "type": "RollingUpdate" });
            // It is a memory of what can be learned again, and goes with what it is for.
            spec["persistentVolumeClaimRetentionPolicy"] =
                json!({ "whenDeleted": "Delete", "whenScaled": "Delete" });
            let mut claim = json!({
                "metadata": { "name": STATE, "labels": labels("control-plane") },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": format!("{STATE_MEBIBYTES}Mi") } },
                },
            });
            if let Some(class) = class {
                claim["spec"]["storageClassName"] = class.as_str().into();
            }
            spec["volumeClaimTemplates"] = json!([claim]);
        }
    }
    object
}

/// Its pods.
fn template(plan: &Plan, selector: &Value) -> Value {
    let ready = json!({ "httpGet": { "path": "/ready", "port": "admin" }, "periodSeconds": 2 });
    // Not by `/ready`: a control plane that waits for a cluster is alive.
    let alive =
        json!({ "tcpSocket": { "port": "admin" }, "periodSeconds": 10, "failureThreshold": 6 });
    let mut volumes = vec![
        json!({ "name": "config", "configMap": { "name": ACCOUNT } }),
        // On no disk, as Secrets that are mounted.
        json!({ "name": SECRETS, "emptyDir": { "medium": "Memory", "sizeLimit": format!("{SECRETS_MEBIBYTES}Mi") } }),
    ];
    if plan.saved_world == SavedWorld::OfThePod {
        // The keys are in Secrets; what is here can be learned again.
        volumes.push(
            json!({ "name": STATE, "emptyDir": { "sizeLimit": format!("{STATE_MEBIBYTES}Mi") } }),
        );
    }
    json!({
        "metadata": {
            "labels": labels("control-plane"),
            // It reads its configuration once: another one needs other pods.
            "annotations": { CONFIG_ANNOTATION: config::digest(&config::text(plan)) },
        },
        "spec": {
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": true,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            // Rather on two nodes than on one; on one rather than not at all.
            "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {
                    "labelSelector": { "matchLabels": selector },
                    "topologyKey": "kubernetes.io/hostname",
                },
            }] } },
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": CONTAINER,
                "image": plan.image,
                "args": ["control-plane", "--config", "/etc/isthmus/control-plane.json"],
                "ports": [
                    { "name": "discovery", "containerPort": DISCOVERY_PORT },
                    { "name": "admin", "containerPort": ADMIN_PORT },
                ],
                "readinessProbe": ready,
                "livenessProbe": alive,
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "2Gi" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": [
                    { "name": "config", "mountPath": "/etc/isthmus", "readOnly": true },
                    { "name": STATE, "mountPath": "/var/lib/isthmus" },
                    { "name": SECRETS, "mountPath": "/run/isthmus" },
                ],
            }],
            "volumes": volumes,
        },
    })
}

/// Where the API server has an object: its path, and that of its collection.
pub(crate) fn place(object: &Value) -> Option<(String, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (version, kind) = (text("/apiVersion")?, text("/kind")?);
    let plural = match kind {
        _ if kind.ends_with("Policy") => {
            format!("{}ies", kind.trim_end_matches('y').to_lowercase())
        }
        _ if kind.ends_with('s') => format!("{}es", kind.to_lowercase()),
        _ => format!("{}s", kind.to_lowercase()),
    };
    let base = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let collection = match text("/metadata/namespace") {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
        None => format!("{base}/{plural}"),
    };
    Some((
        format!("{collection}/{}", text("/metadata/name")?),
        collection,
    ))
}

#[cfg(test)]
impl Plan {
    /// One for tests.
    pub(super) fn sample() -> Self {
        Self {
            cluster: "east".to_owned(),
            network: "east-net".to_owned(),
            mesh_domain: "mesh.internal".to_owned(),
            image: "isthmus:test".to_owned(),
            discovery_address: Some("cp.example.com:15012".to_owned()),
            load_balancer: Some(true),
            saved_world: SavedWorld::default(),
            network_policy: true,
            given: Given::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::sample()
    }

    #[test]
    fn another_configuration_means_other_pods() {
        let template = |plan: &Plan| workload(plan, &json!({}))["spec"]["template"].clone();
        let before = template(&plan());
        assert_eq!(before, template(&plan()));
        let elsewhere = Plan {
            discovery_address: Some("other.example.com:15012".to_owned()),
            ..plan()
        };
        assert_ne!(before, template(&elsewhere));
        // What the pods need not know replaces none of them.
        let inside = Plan {
            load_balancer: Some(false),
            ..plan()
        };
        assert_eq!(before, template(&inside));
    }

    #[test]
    fn every_object_has_a_place() {
        let all = [
            access(true),
            control_plane(&plan()),
            definitions().unwrap(),
            foreign_definitions().unwrap(),
            vec![beside::gateway_class()],
        ];
        for object in all.concat() {
            let (path, _) = place(&object).unwrap();
            assert!(path.starts_with("/api"), "{path}");
        }
        let policy = json!({ "apiVersion": "isthmus.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": { "name": "a", "namespace": "b" } });
        let (path, _) = place(&policy).unwrap();
        assert_eq!(
            path,
            "/apis/isthmus.dev/v1alpha1/namespaces/b/accesspolicies/a"
        );
    }

    #[test]
    fn who_may_call_whom_is_decided_by_admins_only() {
        let all = access(true);
        let writes = |level: &str| {
            let label = format!("rbac.authorization.k8s.io/aggregate-to-{level}");
            let role = all
                .iter()
                .find(|o| o["metadata"]["labels"][&label] == "true");
            let rules = role.unwrap()["rules"].as_array().unwrap().iter();
            let write = rules.filter(|rule| rule["verbs"].to_string().contains("create"));
            write
                .map(|rule| rule["resources"].to_string())
                .collect::<String>()
        };
        assert_eq!(writes("view"), "");
        assert_eq!(writes("edit"), r#"["trafficpolicies"]"#);
        assert_eq!(writes("admin"), r#"["accesspolicies"]["serviceexports"]"#);
    }

    #[test]
    fn a_member_reads_no_secrets_and_holds_no_lease() {
        let granted = |home| format!("{:?}", access(home));
        assert!(granted(true).contains("secrets") && granted(true).contains("leases"));
        assert!(!granted(false).contains("secrets") && !granted(false).contains("leases"));
        assert!(granted(false).contains("serviceaccounts/token"));
    }

    #[test]
    fn the_control_plane_understands_the_configuration_that_it_is_given() {
        let config = isthmus_control_plane::Config::parse(&config::text(&plan())).unwrap();
        assert_eq!(config.clusters.len(), 1);
        assert_eq!(config.clusters[0].name.as_str(), "east");
        let told = config.advertise.unwrap();
        assert_eq!(told.home.unwrap(), "control-plane.isthmus-system.svc:15012");
        assert_eq!(told.address.unwrap(), "cp.example.com:15012");
        let bad = Plan {
            discovery_address: Some("cp.example.com".to_owned()),
            ..plan()
        };
        let why = format!("{:#}", bad.check().unwrap_err());
        assert!(why.contains("advertise.address: not HOST:PORT"), "{why}");
    }

    #[test]
    fn the_control_plane_can_do_nothing_on_its_node() {
        let object = workload(&plan(), &json!({}));
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    }

    #[test]
    fn there_is_always_a_control_plane_that_is_ready() {
        let object = workload(&plan(), &json!({ "a": "b" }));
        let spec = &object["spec"];
        assert_eq!(spec["replicas"], 2);
        assert_eq!(spec["minReadySeconds"], MIN_READY_SECONDS);
        assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        let pod = &spec["template"]["spec"];
        let probe = &pod["containers"][0]["readinessProbe"]["httpGet"];
        assert_eq!(probe["path"], "/ready");
        assert!(pod["affinity"].to_string().contains("preferred"));
        let all = control_plane(&plan());
        let budget = all.iter().find(|o| o["kind"] == "PodDisruptionBudget");
        assert_eq!(budget.unwrap()["spec"]["minAvailable"], 1);
    }

    #[test]
    fn replicas_share_their_keys_and_need_no_volume() {
        let all = control_plane(&plan());
        assert!(all.iter().all(|o| o["kind"] != "PersistentVolumeClaim"));
        let object = workload(&plan(), &json!({}));
        let volumes = object["spec"]["template"]["spec"]["volumes"].to_string();
        assert!(volumes.contains("emptyDir") && !volumes.contains("persistentVolumeClaim"));
        let config = isthmus_control_plane::Config::parse(&config::text(&plan())).unwrap();
        assert_eq!(config.keys, isthmus_control_plane::config::KeysAt::Secrets);
        // What its Secrets said lies in memory, in a volume of its own.
        let pod = &object["spec"]["template"]["spec"];
        let volume = |name: &str| {
            let all = pod["volumes"].as_array().unwrap();
            all.iter().find(|volume| volume["name"] == name).unwrap()
        };
        assert_eq!(volume(SECRETS)["emptyDir"]["medium"], "Memory");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == SECRETS);
        let path = mount.unwrap()["mountPath"].as_str().unwrap();
        assert!(config.secret_copies.unwrap().starts_with(path));
    }

    #[test]
    fn a_claim_gives_each_replica_a_volume_that_outlives_its_pod() {
        let of = |class: Option<&str>| Plan {
            saved_world: SavedWorld::Claimed(class.map(str::to_owned)),
            ..plan()
        };
        let object = workload(&of(Some("fast")), &json!({ "a": "b" }));
        assert_eq!(object["kind"], "StatefulSet");
        let claim = &object["spec"]["volumeClaimTemplates"][0];
        assert_eq!(claim["metadata"]["name"], STATE);
        assert_eq!(claim["spec"]["storageClassName"], "fast");
        let pod = &object["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(
            volumes.iter().all(|volume| volume["name"] != STATE),
            "{pod}"
        );
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["name"] == STATE));
        // As the file system of the volume is group-owned, whoever runs may write.
        assert_eq!(pod["securityContext"]["fsGroup"], USER);
        let usual = workload(&of(None), &json!({}));
        let claim = &usual["spec"]["volumeClaimTemplates"][0]["spec"];
        assert_eq!(claim.get("storageClassName"), None);
        assert_eq!(
            place(&usual).unwrap().0,
            "/apis/apps/v1/namespaces/isthmus-system/statefulsets/isthmus-control-plane"
        );
        for said in [None, Some("true"), Some("fast")] {
            let read = SavedWorld::of_flag(said);
            assert_eq!(read.flag(), said);
        }
        assert_eq!(SavedWorld::of_flag(Some("false")), SavedWorld::OfThePod);
    }
}
