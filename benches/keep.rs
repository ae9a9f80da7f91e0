//! What is kept of a Pod?
//!
//! `cargo bench -p isthmus-benches --bench keep`: pods as an API server says them (5.4 KB of JSON each, all
//! different) are read and taken into a world as the control plane does it; what the process has resident
//! afterwards and had not before is what is kept of them, with indexes and what the allocator adds. The target
//! is at most 2.3 KB.

use std::time::{Duration, SystemTime};

use isthmus_control_plane::manifest;
use isthmus_control_plane_core::model::Change;
use isthmus_control_plane_core::quota::{Cost, Ledger, Quota};
use isthmus_control_plane_core::world::World;
use isthmus_proto::ids::ClusterId;
use serde_json::{Value, json};

/// Stands for any.
const DIGEST: &str = "3f5f0b2f9d0f3a3c8f6d7f1f0f9d1d1f3f5f0b2f9d0f3a3c8f6d7f1f0f9d1d1f";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PODS: usize = 20_000;
/// Before the first look at the memory: code, caches, the allocator's own.
const WARM: usize = 200;
const NAMESPACES: usize = 40;
/// What a Pod is for an API server, as it was measured on clusters of several makers.
const JSON_BYTES: std::ops::Range<usize> = 5_300..5_500;

/// What of a pod others are named after.
struct Names {
    app: String,
    hash: String,
    image: String,
}

/// A pod of a Deployment, with what kubelets, controllers and webhooks write into it.
fn pod(number: usize) -> Value {
    let app = format!("service-{}", number / 20);
    let names = Names {
        hash: format!("{:08x}", number.wrapping_mul(2_654_435_761) & 0xffff_ffff),
        image: format!("registry.example.com/shop/{app}:v1.27.{}", number % 90),
        app,
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(number, &names), "spec": spec(number, &names), "status": status(number, &names),
    })
}

fn metadata(number: usize, Names { app, hash, .. }: &Names) -> Value {
    json!({
        "name": format!("{app}-{hash}-{number:05}"), "generateName": format!("{app}-{hash}-"),
        "namespace": format!("team-{}", number / 20 % NAMESPACES),
        "uid": format!("{number:08x}-5f1c-4b5e-9c3a-0123456789ab"),
        "resourceVersion": (1_000_000 + number).to_string(),
        "creationTimestamp": "2026-11-22T17:03:09Z",
        "labels": {
            "app.kubernetes.io/name": app, "app.kubernetes.io/instance": app,
            "app.kubernetes.io/version": "1.27", "pod-template-hash": hash, "tier": "backend",
        },
        "annotations": {
            "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
            "checksum/config": DIGEST, "kubectl.kubernetes.io/restartedAt": "2026-11-22T17:03:01Z",
        },
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
            "name": format!("{app}-{hash}"), "uid": "0f9d1d1f-5f1c-4b5e-9c3a-0123456789ab",
            "blockOwnerDeletion": true }],
    })
}

fn spec(number: usize, names: &Names) -> Value {
    let app = &names.app;
    let tolerates = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 });
    json!({
        "nodeName": format!("ip-10-0-{}-{}.eu-central-1.compute.internal", number % 250, number % 199),
        "serviceAccountName": app, "serviceAccount": app, "schedulerName": "default-scheduler",
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
        "terminationGracePeriodSeconds": 30, "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532 },
        "tolerations": [tolerates("node.kubernetes.io/not-ready"), tolerates("node.kubernetes.io/unreachable")],
        "volumes": [
            { "name": "config", "configMap": { "name": format!("{app}-config"), "defaultMode": 420 } },
            { "name": "kube-api-access-x7k2p", "projected": { "defaultMode": 420, "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ] } },
        ],
        "containers": [container(names)],
    })
}

fn container(names: &Names) -> Value {
    let probe = |path: &str| {
        json!({ "httpGet": { "path": path, "port": "http", "scheme": "HTTP" }, "initialDelaySeconds": 5,
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 })
    };
    let variable = |at: usize| json!({ "name": format!("SETTING_{at}"), "value": "a value of some length, as they have" });
    let env: Vec<Value> = (0..19).map(variable).collect();
    json!({
        "name": names.app, "image": names.image, "imagePullPolicy": "IfNotPresent", "env": env,
        "ports": [
            { "name": "http", "containerPort": 8080, "protocol": "TCP" },
            { "name": "metrics", "containerPort": 9090, "protocol": "TCP" },
        ],
        "resources": { "limits": { "cpu": "1", "memory": "512Mi" },
            "requests": { "cpu": "100m", "memory": "256Mi" } },
        "volumeMounts": [
            { "name": "config", "mountPath": "/etc/app", "readOnly": true },
            { "name": "kube-api-access-x7k2p", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" },
        ],
        "livenessProbe": probe("/healthz"), "readinessProbe": probe("/ready"),
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] } },
    })
}

fn status(number: usize, names: &Names) -> Value {
    let [high, low] = [number / 250, number % 250 + 1];
    let ip = format!("10.{}.{}.{low}", 8 + high / 250, high % 250);
    let holds = |kind: &str| {
        json!({ "type": kind, "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "2026-11-22T17:03:09Z" })
    };
    json!({
        "phase": "Running", "qosClass": "Burstable", "startTime": "2026-11-22T17:03:09Z",
        "hostIP": "10.0.1.7", "hostIPs": [{ "ip": "10.0.1.7" }], "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": [holds("PodReadyToStartContainers"), holds("Initialized"), holds("Ready"),
            holds("ContainersReady"), holds("PodScheduled")],
        "containerStatuses": [{
            "name": names.app, "ready": true, "started": true, "restartCount": 0, "lastState": {},
            "state": { "running": { "startedAt": "2026-11-22T17:03:12Z" } }, "image": names.image,
            "imageID": format!("registry.example.com/shop@sha256:{DIGEST}"),
            "containerID": format!("containerd://{DIGEST}"),
        }],
    })
}

/// What is resident, in bytes.
fn resident() -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kibibytes.trim().parse::<usize>()?.saturating_mul(1024))
}

/// What a control plane holds of one cluster.
struct Held {
    cluster: ClusterId,
    world: World,
    ledger: Ledger<(String, String)>,
    json: usize,
    estimated: usize,
}

impl Held {
    fn take(&mut self, number: usize) -> Outcome<()> {
        let text = pod(number).to_string();
        self.json = self.json.saturating_add(text.len());
        let parsed = manifest::object(text.as_bytes(), "v1", "Pod", &self.cluster);
        for object in parsed.objects {
            let cost = Cost::of(&object);
            self.estimated = self.estimated.saturating_add(cost.bytes);
            let namespace = object.namespace.as_ref().map(ToString::to_string);
            let key = (namespace.unwrap_or_default(), object.name.clone());
            self.ledger.admit(key, cost)?;
            self.world.apply(Change::Apply(object), at());
        }
        Ok(())
    }
}

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() -> Outcome<()> {
    let cluster: ClusterId = "east".parse()?;
    let mut world = World::new("mesh.internal")?;
    world.add_cluster(&cluster)?;
    world.apply(
        Change::Init {
            cluster: cluster.clone(),
        },
        at(),
    );
    let quota = Quota {
        endpoints: usize::MAX,
        bytes: usize::MAX,
    };
    let mut held = Held {
        cluster,
        world,
        ledger: Ledger::new(quota),
        json: 0,
        estimated: 0,
    };
    for number in 0..WARM {
        held.take(number)?;
    }
    (held.json, held.estimated) = (0, 0);
    let before = resident()?;
    for number in WARM..WARM + PODS {
        held.take(number)?;
    }
    let after = resident()?;
    let each = |bytes: usize| bytes.checked_div(PODS).unwrap_or(0);
    let json = each(held.json);
    if !JSON_BYTES.contains(&json) {
        return Err(format!("a Pod of {json} bytes is not what is asked about").into());
    }
    println!("Pod JSON                      {json:8} bytes");
    println!(
        "kept of it                    {:8} bytes",
        each(after.saturating_sub(before))
    );
    println!(
        "estimated for the quota       {:8} bytes",
        each(held.estimated)
    );
    Ok(())
}
