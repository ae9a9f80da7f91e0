//! Does a world come back as it was, and never as it was not?

use super::*;
use crate::manifest;
use crate::source::KindReport;
use isthmus_control_plane_core::model::{Change, Kind, KindFreshness, Object, ObjectRef};
use isthmus_control_plane_core::world::World;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

const MESH: &str = "mesh.internal";

fn east() -> ClusterId {
    "east".parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

/// One object of every kind, with `n` in what it says.
#[expect(clippy::too_many_lines, reason = "one object of each kind")]
fn manifests(n: u16, flag: bool, text: &str) -> String {
    let (ip, port) = (format!("10.0.{}.{}", n >> 8, n & 255), u32::from(n) + 1);
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{note: "{text}"}}}}
---
{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: cart, namespace: shop}}}}
---
{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: cart, namespace: shop}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: cart-{n}, namespace: shop, creationTimestamp: "1971-11-22T17:03:09Z", labels: {{app: cart, note: "{text}"}}}}
spec: {{serviceAccountName: cart, nodeName: n{n}, containers: [{{name: a, image: a, ports: [{{name: http, containerPort: {port}}}]}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: "{ready}"}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: shop, creationTimestamp: "2026-11-22T17:03:09Z"}}
spec: {{clusterIP: {ip}, selector: {{app: cart}}, sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: PreferClose, ipFamilies: [IPv4], ports: [{{name: http, port: {port}, targetPort: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart-x, namespace: shop, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: ["{ip}"], conditions: {{ready: {flag}}}, zone: a, targetRef: {{kind: Pod, name: cart-{n}, namespace: shop}}}}, {{addresses: ["{ip}"], nodeName: n{n}}}]
---
{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{name: cart, namespace: shop}}}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceImport
metadata: {{name: cart, namespace: shop}}
spec: {{type: ClusterSetIP, ips: ["{ip}"], ports: [{{port: {port}}}], ipFamilies: [IPv4], trafficDistribution: PreferClose}}
status: {{clusters: [{{cluster: east}}], conditions: [{{type: Ready, status: "True", reason: Ready, message: "{text}"}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: cart, port: {port}}}]
  rules: [{{matches: [{{path: {{type: PathPrefix, value: /a{n}}}}}], backendRefs: [{{name: cart, port: {port}}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: cart}}]
  rules: [{{backendRefs: [{{name: cart, port: {port}}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: cart, namespace: shop}}
spec: {{parentRefs: [{{group: "", kind: Service, name: cart}}], rules: [{{backendRefs: [{{name: cart, port: {port}}}]}}]}}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {{name: cart, namespace: shop}}
spec: {{parentRefs: [{{group: "", kind: Service, name: cart}}], rules: [{{backendRefs: [{{name: cart, port: {port}}}]}}]}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: g, namespace: shop}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}}], to: [{{group: "", kind: Service}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: east-west, namespace: isthmus-system}}
spec: {{gatewayClassName: isthmus-east-west, listeners: [{{name: mesh, port: 15443, protocol: TLS}}], addresses: [{{value: {ip}}}]}}
---
{{apiVersion: isthmus.dev/v1alpha1, kind: MeshCluster, metadata: {{name: east}}, spec: {{network: n{n}, priority: 1, price: {tries}, region: eu, trustDomain: east.mesh.internal, gateways: [{{name: a}}, {{address: {ip}, port: {port}}}, {{address: gw.example.com}}], credential: {{secretRef: {{name: east}}}}}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: c}}, spec: {{controllerName: isthmus.dev/c{n}}}}}
---
{{apiVersion: about.k8s.io/v1alpha1, kind: ClusterProperty, metadata: {{name: cluster.clusterset.k8s.io}}, spec: {{value: c{n}}}}}
---
{{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ClusterProfile, metadata: {{name: p, namespace: isthmus-system}}, status: {{properties: [{{name: isthmus.dev/network, value: n{n}}}, {{name: topology.kubernetes.io/zone, value: z}}]}}}}
---
{{apiVersion: isthmus.dev/v1alpha1, kind: TrustPolicy, metadata: {{name: cut}}, spec: {{distrustedClusters: [c{n}]}}}}
---
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: web, namespace: shop}}
spec:
  action: Allow
  rules: [{{from: [{{clusters: [east], namespaces: [shop]}}], to: [{{ports: [{port}], paths: [{{prefix: /a{n}}}]}}]}}]
---
{{apiVersion: isthmus.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: bad, namespace: shop}}, spec: {{action: Perhaps}}}}
---
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: cart, namespace: shop}}
spec: {{targetRef: {{group: "", kind: Service, name: cart}}, retries: {{attempts: {tries}}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: isthmus-roots, namespace: shop, uid: r-{n}, labels: {{app.kubernetes.io/managed-by: isthmus}}}}
data: {{roots.pem: x{n}, trust-domain: east.mesh.internal}}
"#,
        ready = if flag { "True" } else { "False" },
        tries = n % 10,
    )
}

fn objects(n: u16, flag: bool, text: &str) -> Vec<Object> {
    let parsed = manifest::parse(&manifests(n, flag, text), &east());
    assert_eq!(parsed.errors, vec![]);
    parsed.objects
}

fn hub() -> Hub {
    let mut world = World::new(MESH).unwrap();
    world.add_cluster(&east()).unwrap();
    Hub::new(world)
}

fn tell(hub: &Hub, change: Change, seconds: u64) {
    hub.change(|world| world.apply(change, at(seconds)));
}

/// The cluster lists these objects, and is confirmed then.
fn list(hub: &Hub, objects: &[Object], seconds: u64) {
    tell(hub, Change::Init { cluster: east() }, seconds);
    for object in objects {
        tell(hub, Change::Apply(object.clone()), seconds);
    }
    let kept = BTreeSet::new();
    tell(
        hub,
        Change::InitDone {
            cluster: east(),
            kept,
        },
        seconds,
    );
}

fn all(hub: &Hub) -> Vec<Object> {
    hub.read(|world| world.page(&east(), None, usize::MAX))
        .unwrap()
}

fn seen(hub: &Hub) -> (State, Option<SystemTime>) {
    hub.read(|world| {
        let status = world.clusters().next().unwrap();
        (status.state, status.confirmed_at)
    })
}

struct Disk {
    _folder: tempfile::TempDir,
    state: StateDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        Self {
            _folder: folder,
            state,
        }
    }

    /// The control plane as it starts.
    fn start(&self, mesh_domain: &str) -> (Hub, Saved) {
        let (hub, saved) = (hub(), Saved::open(&self.state, mesh_domain).unwrap());
        saved.restore(&hub, &east());
        (hub, saved)
    }

    fn path(&self) -> std::path::PathBuf {
        self.state.path("worlds/east.world")
    }
}

#[test]
fn a_control_plane_that_starts_knows_what_it_knew_and_how_old_it_is() {
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    assert_eq!(seen(&hub), (State::Unknown, None));
    saved.write(&hub, Duration::ZERO);
    assert!(!disk.path().exists(), "what was never listed is not kept");
    list(&hub, &objects(7, true, "x"), 100);
    saved.write(&hub, CONFIRM_EVERY);
    let kinds: BTreeSet<Kind> = all(&hub).iter().map(|o| o.spec.kind()).collect();
    assert!(kinds.len() >= 21, "{kinds:?}");

    let (again, saved) = disk.start(MESH);
    assert_eq!(seen(&again), (State::Stale, Some(at(100))));
    assert_eq!(all(&again), all(&hub));
    let note = saved.note(&east()).unwrap();
    assert_eq!((note.restored, note.refused), (Some(all(&hub).len()), None));
    // What can't be reached stays as old as it is.
    let reason = "refused".to_owned();
    tell(
        &again,
        Change::Lost {
            cluster: east(),
            reason,
        },
        200,
    );
    tell(
        &again,
        Change::Confirmed {
            cluster: east(),
            at: at(200),
        },
        200,
    );
    assert_eq!(seen(&again), (State::Stale, Some(at(100))));
    assert_eq!(all(&again), all(&hub));
}

#[test]
fn what_was_deleted_meanwhile_does_not_come_back_once_the_cluster_is_listed() {
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    let before = objects(7, true, "x");
    list(&hub, &before, 100);
    saved.write(&hub, CONFIRM_EVERY);
    let (again, saved) = disk.start(MESH);
    let now: Vec<Object> = before
        .into_iter()
        .filter(|o| o.spec.kind() != Kind::Pod)
        .collect();
    tell(&again, Change::Init { cluster: east() }, 200);
    // A list that was cut takes nothing away.
    saved.write(&again, CONFIRM_EVERY);
    assert_eq!(all(&again), all(&hub));
    list(&again, &now, 201);
    let left: BTreeSet<ObjectRef> = all(&again).iter().map(Object::reference).collect();
    assert_eq!(left, now.iter().map(Object::reference).collect());
    saved.write(&again, CONFIRM_EVERY);
    let (third, _saved) = disk.start(MESH);
    assert_eq!(
        (all(&third), seen(&third)),
        (all(&again), (State::Stale, Some(at(201))))
    );
}

#[test]
fn a_file_is_written_when_something_has_changed_and_not_else() {
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    list(&hub, &objects(7, true, "x"), 100);
    saved.write(&hub, CONFIRM_EVERY);
    let inode = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(disk.path()).unwrap().ino()
    };
    // Held open: its number is not given to another file.
    let _held = std::fs::File::open(disk.path()).unwrap();
    let first = inode();
    saved.write(&hub, CONFIRM_EVERY);
    tell(
        &hub,
        Change::Confirmed {
            cluster: east(),
            at: at(130),
        },
        130,
    );
    saved.write(&hub, CONFIRM_EVERY);
    assert_eq!(inode(), first, "a confirmation alone can wait");
    saved.write(&hub, Duration::ZERO);
    assert_ne!(inode(), first, "but not for ever");
    assert_eq!(seen(&disk.start(MESH).0), (State::Stale, Some(at(130))));
    let second = inode();
    let _held = std::fs::File::open(disk.path()).unwrap();
    tell(&hub, Change::Delete(all(&hub)[0].reference()), 131);
    saved.write(&hub, CONFIRM_EVERY);
    assert_ne!(inode(), second);
}

#[test]
fn a_cluster_that_left_leaves_nothing_behind() {
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    list(&hub, &objects(7, true, "x"), 100);
    saved.write(&hub, CONFIRM_EVERY);
    hub.change(|world| world.remove_cluster(&east()));
    saved.forget(&east());
    saved.write(&hub, Duration::ZERO);
    assert!(!disk.path().exists());
    assert_eq!(seen(&disk.start(MESH).0), (State::Unknown, None));
}

#[test]
fn a_file_that_says_nothing_is_left_aside_and_told() {
    type Spoil = fn(String) -> String;
    let cases: [(&str, &str, Spoil); 7] = [
        ("is of cluster \"east\"", "other.internal", |text| text),
        ("is of cluster \"west\"", MESH, |text| {
            text.replacen("east", "west", 1)
        }),
        ("of version 3", MESH, |text| {
            text.replacen("\"version\":2", "\"version\":3", 1)
        }),
        ("is no saved world", MESH, |_| "hello\n".to_owned()),
        ("is cut", MESH, |text| text[..text.len() / 2].to_owned()),
        ("was altered", MESH, |text| {
            text.replacen("cart-7", "cart-8", 1)
        }),
        ("is not known here", MESH, |text| {
            text.replacen(
                "{\"cluster\":\"east\",\"name",
                "{\"colour\":1,\"cluster\":\"east\",\"name",
                2,
            )
        }),
    ];
    for (says, mesh, spoil) in cases {
        let disk = Disk::new();
        let (hub, saved) = disk.start(MESH);
        list(&hub, &objects(7, true, "x"), 100);
        saved.write(&hub, CONFIRM_EVERY);
        let text = std::fs::read_to_string(disk.path()).unwrap();
        std::fs::write(disk.path(), spoil(text)).unwrap();
        let (again, saved) = disk.start(mesh);
        assert_eq!(seen(&again), (State::Unknown, None), "{says}");
        let why = saved.note(&east()).unwrap().refused.unwrap();
        assert!(why.contains(says), "{why} lacks {says}");
        assert!(!disk.path().exists());
        assert!(disk.state.path("worlds/east.world.refused").exists());
    }
}

#[test]
fn what_a_crash_left_half_written_is_cleared_away() {
    let disk = Disk::new();
    drop(disk.start(MESH));
    let half = disk.state.path("worlds/east.0123.new");
    std::fs::write(&half, "{").unwrap();
    drop(disk.start(MESH));
    assert!(!half.exists());
}

fn written(objects: &[Object]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = Some(objects.to_vec());
    let about = About::new(MESH, &east(), at(5));
    format::write(&mut bytes, &about, |_| Ok(left.take().unwrap_or_default())).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_object_comes_out_as_it_went_in(n: u16, flag: bool, text in "[a-z é]{0,8}") {
        let objects = objects(n, flag, &text);
        prop_assert!(objects.len() >= 21);
        let (about, back) = format::read(written(&objects).as_slice(), MESH, &east()).unwrap();
        prop_assert_eq!(back, objects);
        prop_assert_eq!(about.seen, at(5));
    }

    #[test]
    fn pages_of_any_size_make_the_whole(n: u16, most in 1usize..9) {
        let hub = hub();
        list(&hub, &objects(n, true, "x"), 1);
        let (mut place, mut found) = (None, Vec::new());
        loop {
            let page = hub.read(|w| w.page(&east(), place.as_ref(), most)).unwrap();
            prop_assert!(page.len() <= most);
            let Some(last) = page.last() else { break };
            place = Some(Place::of(last));
            found.extend(page);
        }
        prop_assert_eq!(found, all(&hub));
    }

    #[test]
    fn altered_bytes_say_nothing_and_never_panic(
        at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), how in 0..4
    ) {
        let whole = written(&objects(3, true, "x"));
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => bytes.truncate(cut.index(whole.len())),
            2 => bytes.insert(at, byte),
            _ => { bytes.remove(at); }
        }
        if bytes != whole {
            prop_assert!(format::read(bytes.as_slice(), MESH, &east()).is_err());
        }
    }
}

fn mark() -> Mark {
    Mark {
        uid: Some("8c1e".to_owned()),
        versions: [("Pod".to_owned(), "42".to_owned())].into(),
    }
}

/// A source that has seen pods up to this version.
fn report(version: &str) -> Report {
    let pods = KindReport {
        state: crate::source::KindState::Watching,
        reason: String::new(),
        confirmed_at: None,
        lists: 1,
        restarts: 0,
        bytes: 0,
        resource_version: version.to_owned(),
        unauthorized: false,
    };
    Report {
        kinds: [("Pod", pods)].into(),
        ..Report::default()
    }
}

/// A restart does not forget which cluster it was, up to where it was seen, and what of it
/// was not.
#[test]
fn which_cluster_it_was_and_what_was_not_seen_of_it_outlives_a_restart() {
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    assert_eq!(saved.mark(&east()), Mark::default());
    tell(&hub, Change::Init { cluster: east() }, 100);
    let unknown = |hub: &Hub| hub.read(|world| world.clusters().next().unwrap().unknown.clone());
    let kept = BTreeSet::from([Kind::TrustPolicy]);
    let done = Change::InitDone {
        cluster: east(),
        kept: kept.clone(),
    };
    tell(&hub, done, 100);
    let older = |hub: &Hub| hub.read(|world| world.clusters().next().unwrap().older.clone());
    let forbidden = KindFreshness {
        confirmed_at: Some(at(40)),
        reason: "forbidden".to_owned(),
    };
    let kinds = BTreeMap::from([(Kind::HttpRoute, forbidden)]);
    let cluster = east();
    let change = Change::Older {
        cluster,
        kinds: kinds.clone(),
    };
    tell(&hub, change, 100);
    let (told, heard) = watch::channel(report("41"));
    saved.follow(&east(), heard);
    saved.write(&hub, CONFIRM_EVERY);
    told.send_replace(report("42"));
    saved.identify(&east(), "8c1e");
    assert_eq!(saved.mark(&east()), mark());
    saved.write(&hub, CONFIRM_EVERY);

    let (again, saved) = disk.start(MESH);
    assert_eq!(saved.mark(&east()), mark());
    assert_eq!(unknown(&again), kept);
    assert_eq!(older(&again), kinds);
    // A source that has seen nothing yet takes nothing of it away.
    saved.follow(&east(), watch::channel(Report::default()).1);
    assert_eq!(saved.mark(&east()), mark());
    list(&again, &[], 200);
    assert_eq!(unknown(&again), BTreeSet::new());
}

/// Whoever comes from an older version keeps what it had.
#[test]
fn a_file_of_the_version_before_is_read() {
    use sha2::{Digest as _, Sha256};
    let disk = Disk::new();
    let (hub, saved) = disk.start(MESH);
    list(&hub, &objects(7, true, "x"), 100);
    saved.write(&hub, CONFIRM_EVERY);
    let text = std::fs::read_to_string(disk.path()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let old = format!(
        "{{\"format\":\"isthmus-world\",\"version\":1,\"mesh_domain\":\"{MESH}\",\
         \"cluster\":\"east\",\"seen_seconds\":1700000100,\"seen_nanos\":0}}"
    );
    lines[0] = old;
    let end = lines.pop().unwrap();
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut end: serde_json::Value = serde_json::from_str(&end).unwrap();
    let digest = Sha256::digest(&body);
    let sum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    end["sha256"] = sum.into();
    std::fs::write(disk.path(), format!("{body}{end}\n")).unwrap();
    let (again, saved) = disk.start(MESH);
    assert_eq!(saved.note(&east()).unwrap().refused, None);
    assert_eq!(
        (all(&again), seen(&again)),
        (all(&hub), (State::Stale, Some(at(100))))
    );
}

#[test]
fn writing_takes_a_small_part_of_the_time() {
    assert_eq!(rest(Duration::ZERO), WRITE_EVERY);
    assert_eq!(rest(Duration::from_secs(1)), Duration::from_secs(20));
    assert_eq!(rest(Duration::from_secs(9)), WRITE_AT_LEAST);
}
