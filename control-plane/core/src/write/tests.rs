//! Is what should stand in the clusters written, once, and nothing else?

mod server;
mod convergence;
mod gateways;
mod policies;
mod refused;
mod roots;
mod slices;
mod unheard;

use std::collections::BTreeSet;

use isthmus_proto::ids::ClusterId;
use isthmus_proto::resource;

use super::*;
use crate::model::*;
use crate::sample::{at, export, id, labels, list, mesh, object, pod, port, service, world};
use server::Servers;

/// A world, the API servers of its clusters, and one planner.
struct Run {
    world: World,
    servers: Servers,
    planner: Planner,
    writable: BTreeSet<ClusterId>,
    removals: bool,
}

impl Run {
    /// These clusters with these objects; each has the namespace `shop`.
    fn of(clusters: &[&str], objects: &[Object]) -> Self {
        let mut run = Self {
            world: world(clusters),
            servers: Servers::default(),
            planner: Planner::default(),
            writable: clusters.iter().map(|c| id(c)).collect(),
            removals: true,
        };
        for cluster in clusters {
            let space = object(cluster, "", "shop", Spec::Namespace(Labels::new()));
            run.servers.put(space);
        }
        for object in objects {
            run.servers.put(object.clone());
        }
        for cluster in clusters {
            run.relist(cluster);
        }
        run
    }

    /// The source lists the cluster anew.
    fn relist(&mut self, cluster: &str) {
        let objects = self.servers.objects(&id(cluster));
        let dirty = list(&mut self.world, cluster, &objects);
        self.planner.note(&self.world, &dirty);
    }

    /// Somebody puts an object into a cluster.
    fn put(&mut self, object: Object) {
        self.servers.put(object);
        self.watch();
    }

    fn remove(&mut self, at: &ObjectRef) {
        self.servers.remove(at);
        self.watch();
    }

    /// What has changed in the clusters that are seen comes in.
    fn watch(&mut self) {
        for change in self
            .servers
            .changes(|cluster| self.world.state(cluster.as_str()) == Some(State::Synced))
        {
            let dirty = self.world.apply(change, at(50));
            self.planner.note(&self.world, &dirty);
        }
    }

    fn plan(&mut self) -> Plan {
        let settings = Settings {
            now: at(100),
            writable: &self.writable,
            removals: self.removals,
        };
        self.planner.plan(&self.world, settings, usize::MAX)
    }

    /// What another leader would write, who has just begun.
    fn another_leaders(&mut self) -> Vec<Write> {
        self.planner = Planner::default();
        self.planner.everything(&self.world);
        self.plan().writes
    }

    /// Writes until nothing is left to do; how many writes it took.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        for _ in 0..20 {
            let plan = self.plan();
            if plan.writes.is_empty() {
                return count;
            }
            for write in &plan.writes {
                assert_eq!(self.servers.write(write), Ok(()), "{write:?}");
                count += 1;
            }
            self.watch();
        }
        panic!("it does not settle: {:?}", self.plan().writes);
    }

    fn import(&self, cluster: &str, name: &str) -> Option<ServiceImport> {
        match self.servers.get(cluster, Kind::ServiceImport, name)? {
            Spec::ServiceImport(import) => Some(import),
            _ => None,
        }
    }

    fn derived(&self, cluster: &str, name: &str) -> Option<Service> {
        let name = derived_name("shop", name);
        match self.servers.get(cluster, Kind::Service, &name)? {
            Spec::Service(service) => Some(service),
            _ => None,
        }
    }

    fn said(&self, cluster: &str, kind: Kind, name: &str, condition: &str) -> (Truth, String) {
        let spec = self.servers.get(cluster, kind, name).unwrap();
        let conditions = match spec {
            Spec::ServiceExport(export) => export.observed.conditions,
            Spec::Gateway(gateway) => gateway.observed.conditions,
            Spec::TrafficPolicy(policy) => policy.observed.conditions,
            Spec::AccessPolicy(policy) => policy.observed.conditions,
            Spec::Route(route) => route.statuses[0].conditions.clone(),
            other => panic!("{other:?}"),
        };
        let found = conditions.into_iter().find(|c| c.kind == condition);
        found.map_or((Truth::Unknown, "-".to_owned()), |c| (c.status, c.reason))
    }
}

fn lost(run: &mut Run, cluster: &str) {
    let change = Change::Lost {
        cluster: id(cluster),
        reason: "cut".into(),
    };
    let dirty = run.world.apply(change, at(60));
    run.planner.note(&run.world, &dirty);
}

fn shop() -> Run {
    Run::of(
        &["east", "west"],
        &[service("east", "cart", 5), export("east", "cart")],
    )
}

#[test]
fn an_export_becomes_an_import_with_an_address_in_every_cluster() {
    let mut run = shop();
    run.settle();
    for cluster in ["east", "west"] {
        let import = run.import(cluster, "cart").unwrap();
        let derived = run.derived(cluster, "cart").unwrap();
        assert_eq!(import.ips, derived.cluster_ips);
        assert_eq!(import.ips.len(), 1);
        assert_eq!(import.ports[0].port, 80);
        assert_eq!(import.clusters, ["east"]);
        assert!(!import.headless);
        assert!(derived.selector.is_empty());
        let import = import.managed.unwrap();
        assert_eq!(derived.managed.unwrap().owner, import.uid);
        let named = import
            .annotations
            .get("multicluster.kubernetes.io/derived-service");
        assert_eq!(named, Some(&derived_name("shop", "cart")));
    }
    let said = run.said("east", Kind::ServiceExport, "cart", "Valid");
    assert_eq!(said, (Truth::True, "Valid".to_owned()));
    let said = run.said("east", Kind::ServiceExport, "cart", "Conflict");
    assert_eq!(said, (Truth::False, "NoConflicts".to_owned()));
    // The mesh takes the address from the import.
    let vip = run.import("west", "cart").unwrap().ips[0];
    let claim = run.world.clusters[&id("west")].vip(vip).unwrap();
    assert_eq!(
        (claim.name.as_str(), claim.reach),
        ("cart", Reach::Clusterset)
    );
}

#[test]
fn nothing_is_written_twice_and_a_new_leader_writes_nothing() {
    let mut run = shop();
    assert!(run.settle() > 0);
    for planner in [Planner::default(), Planner::default()] {
        run.planner = planner;
        run.planner.everything(&run.world);
        let plan = run.plan();
        assert_eq!(plan.writes, []);
        assert_eq!(plan.unchanged["import"], 2);
        assert_eq!(plan.unchanged["derived_service"], 2);
    }
}

#[test]
fn a_namespace_that_comes_later_gets_its_imports() {
    let mut run = shop();
    let space = object("west", "", "shop", Spec::Namespace(Labels::new()));
    run.remove(&space.reference());
    run.settle();
    assert_eq!(run.import("west", "cart"), None);
    assert!(run.import("east", "cart").is_some());
    run.put(space);
    run.settle();
    assert!(run.import("west", "cart").is_some());
}

#[test]
fn the_last_export_takes_both_objects_with_it() {
    let mut run = shop();
    run.put(service("west", "cart", 6));
    run.put(export("west", "cart"));
    run.settle();
    assert_eq!(
        run.import("east", "cart").unwrap().clusters,
        ["east", "west"]
    );
    run.remove(&export("east", "cart").reference());
    run.settle();
    assert_eq!(run.import("east", "cart").unwrap().clusters, ["west"]);
    run.remove(&export("west", "cart").reference());
    run.settle();
    for cluster in ["east", "west"] {
        assert_eq!(run.import(cluster, "cart"), None);
        assert_eq!(run.derived(cluster, "cart"), None);
        // The service itself is nobody's business but its owner's.
        let own = run.servers.get("east", Kind::Service, "cart");
        assert!(own.is_some());
    }
}

#[test]
fn what_others_made_is_neither_changed_nor_removed() {
    let foreign = ServiceImport {
        ips: vec!["10.96.9.9".parse().unwrap()],
        ..ServiceImport::default()
    };
    let mut run = shop();
    let own = object("west", "shop", "cart", Spec::ServiceImport(foreign.clone()));
    run.put(own.clone());
    let squatter = service("east", &derived_name("shop", "cart"), 77);
    run.put(squatter.clone());
    let plan = run.plan();
    let refused: Vec<_> = plan.refused.iter().map(|(at, ..)| at.clone()).collect();
    assert_eq!(refused, [own.reference()]);
    run.planner.everything(&run.world);
    run.settle();
    assert_eq!(run.import("west", "cart"), Some(foreign.clone()));
    assert_eq!(run.derived("west", "cart"), None);
    // A service that has the name gives no address.
    assert_eq!(run.import("east", "cart").unwrap().ips, [] as [IpAddr; 0]);
    run.planner.everything(&run.world);
    let refused = run.plan().refused;
    assert!(refused.iter().any(|(at, ..)| *at == squatter.reference()));
    run.remove(&export("east", "cart").reference());
    run.settle();
    assert_eq!(run.import("west", "cart"), Some(foreign));
    assert!(run.derived("east", "cart").is_some());
    assert_eq!(run.import("east", "cart"), None);
}

#[test]
fn an_import_is_pending_until_it_has_an_address_and_says_why() {
    let mut run = shop();
    let ready = |run: &Run, cluster: &str| {
        let import = run.import(cluster, "cart")?;
        let found = import.observed.conditions.into_iter().next()?;
        assert_eq!(found.kind, "Ready");
        Some((found.status, found.reason, found.message))
    };
    let squatter = service("east", &derived_name("shop", "cart"), 77);
    run.put(squatter.clone());
    run.settle();
    let said =
        |status, reason: &str, message: &str| Some((status, reason.to_owned(), message.to_owned()));
    assert_eq!(ready(&run, "west"), said(Truth::True, "Ready", ""));
    let name = derived_name("shop", "cart");
    let why =
        format!("{name}: a Service of this name was not made by the mesh, and stays as it is");
    assert_eq!(ready(&run, "east"), said(Truth::False, "Pending", &why));
    run.remove(&squatter.reference());
    run.planner.everything(&run.world);
    run.settle();
    assert_eq!(ready(&run, "east"), said(Truth::True, "Ready", ""));
}

#[test]
fn an_exporter_is_told_where_its_name_is_somebody_elses() {
    let mut run = shop();
    let own = Spec::ServiceImport(ServiceImport::default());
    run.put(object("west", "shop", "cart", own.clone()));
    run.put(service("east", &derived_name("shop", "cart"), 77));
    run.settle();
    let message = |run: &Run| {
        let Some(Spec::ServiceExport(export)) =
            run.servers.get("east", Kind::ServiceExport, "cart")
        else {
            panic!("an export")
        };
        let said = export.observed.conditions.into_iter();
        let ready = said.into_iter().find(|c| c.kind == "Ready").unwrap();
        assert_eq!(
            (ready.status, ready.reason.as_str()),
            (Truth::True, "Ready")
        );
        ready.message
    };
    let told = message(&run);
    assert!(
        told.contains("not imported in west: a ServiceImport of this name"),
        "{told}"
    );
    assert!(told.contains("no address in east: derived-"), "{told}");
    run.remove(&object("west", "shop", "cart", own).reference());
    run.settle();
    assert!(!message(&run).contains("west"), "it is over");
}

#[test]
fn what_clients_prefer_is_carried_into_imports_and_followed_when_it_changes() {
    let mut run = shop();
    let with = |distribution: Option<&str>| {
        let mut close = service("east", "cart", 5);
        if let Spec::Service(service) = &mut close.spec {
            service.spread.distribution = distribution.map(str::to_owned);
            service.spread.node_only = true;
        }
        close
    };
    for distribution in [Some("PreferClose"), Some("PreferSameZone"), None] {
        run.put(with(distribution));
        assert!(run.settle() > 0);
        let import = run.import("west", "cart").unwrap();
        assert_eq!(import.spread.distribution.as_deref(), distribution);
        assert!(import.spread.node_only);
        // Of the address that it has here, whatever the exporter's pods have.
        assert_eq!(import.families, [IpFamily::V4]);
    }
}

#[test]
fn an_import_that_was_read_in_an_older_version_is_not_written_again_and_again() {
    let mut run = shop();
    run.settle();
    let mut older = run.import("west", "cart").unwrap();
    older.is_alpha = true;
    older.families.clear();
    older.observed = Observed::default();
    run.put(object("west", "shop", "cart", Spec::ServiceImport(older)));
    run.planner.everything(&run.world);
    assert_eq!(run.plan().writes, []);
}

#[test]
fn what_a_stale_cluster_exports_stays_and_it_is_not_written_to() {
    let mut run = shop();
    run.settle();
    lost(&mut run, "east");
    run.servers.remove(&export("east", "cart").reference());
    run.put(service("west", "pay", 9));
    run.put(export("west", "pay"));
    run.settle();
    assert_eq!(run.import("west", "cart").unwrap().clusters, ["east"]);
    assert!(run.import("west", "pay").is_some());
    assert_eq!(run.import("east", "pay"), None);
    // It is seen again: now both is caught up with.
    run.relist("east");
    run.settle();
    assert_eq!(run.import("west", "cart"), None);
    assert_eq!(run.derived("west", "cart"), None);
    assert!(run.import("east", "pay").is_some());
}

#[test]
fn while_a_cluster_is_unknown_nothing_is_taken_away() {
    let mut run = shop();
    run.put(service("east", "pay", 7));
    run.put(export("east", "pay"));
    run.put(service("west", "pay", 7));
    run.put(export("west", "pay"));
    run.settle();
    let objects = |run: &Run| {
        let mut objects = run.servers.objects(&id("west"));
        for object in &mut objects {
            if let Spec::ServiceImport(import) = &mut object.spec {
                import.observed = Observed::default();
            }
        }
        objects
    };
    let before = objects(&run);
    // A new control plane, which can't reach east.
    run.world = world(&["east", "west"]);
    run.planner = Planner::default();
    run.relist("west");
    // Only that the import waits for east is told.
    assert_eq!(run.settle(), 1);
    assert_eq!(objects(&run), before);
    // What is new all the same is made.
    run.put(service("west", "web", 8));
    run.put(export("west", "web"));
    run.settle();
    assert!(run.import("west", "web").unwrap().ips.len() == 1);
    run.relist("east");
    run.settle();
    assert!(run.import("east", "web").is_some());
    assert_eq!(
        run.import("west", "pay").unwrap().clusters,
        ["east", "west"]
    );
}

#[test]
fn a_kind_that_may_not_be_read_takes_nothing_away_and_is_caught_up_with() {
    let mut run = shop();
    run.settle();
    // A new control plane, which may not read east's exports.
    run.world = world(&["east", "west"]);
    run.planner = Planner::default();
    run.relist("west");
    let east = id("east");
    let init = Change::Init {
        cluster: east.clone(),
    };
    let mut told = vec![init];
    let seen = run.servers.objects(&east);
    let (hidden, seen): (Vec<_>, Vec<_>) = seen
        .into_iter()
        .partition(|object| object.spec.kind() == Kind::ServiceExport);
    told.extend(seen.into_iter().map(Change::Apply));
    told.push(Change::InitDone {
        cluster: east.clone(),
        kept: [Kind::ServiceExport].into(),
    });
    for change in told {
        let dirty = run.world.apply(change, at(70));
        run.planner.note(&run.world, &dirty);
    }
    // Both clusters are told for whom it waits.
    assert_eq!(run.settle(), 2);
    assert!(run.import("west", "cart").is_some());
    // It may again, and there is none any more.
    for object in hidden {
        run.servers.remove(&object.reference());
    }
    let listed = Change::Listed {
        cluster: east,
        kind: Kind::ServiceExport,
    };
    let dirty = run.world.apply(listed, at(71));
    run.planner.note(&run.world, &dirty);
    run.settle();
    assert_eq!(run.import("west", "cart"), None);
    assert_eq!(run.import("east", "cart"), None);
}

#[test]
fn before_membership_is_known_nothing_is_removed() {
    let mut run = shop();
    run.settle();
    // East has not been added yet.
    run.world = world(&["west"]);
    run.planner = Planner::default();
    run.removals = false;
    run.relist("west");
    run.settle();
    assert!(run.import("west", "cart").is_some());
    run.removals = true;
    run.planner.everything(&run.world);
    run.settle();
    assert_eq!(run.import("west", "cart"), None);
}

#[test]
fn headless_and_back_replaces_the_derived_service() {
    let mut run = shop();
    run.settle();
    let mut headless = service("east", "cart", 5);
    if let Spec::Service(service) = &mut headless.spec {
        service.kind = ServiceType::Headless;
        service.cluster_ips.clear();
        service.client_ip_affinity = true;
    }
    run.put(headless);
    run.settle();
    let import = run.import("west", "cart").unwrap();
    assert!(import.headless && import.ips.is_empty());
    assert_eq!(import.affinity, None);
    assert_eq!(
        run.derived("west", "cart").unwrap().kind,
        ServiceType::Headless
    );
    run.put(service("east", "cart", 5));
    run.settle();
    let import = run.import("west", "cart").unwrap();
    assert_eq!(import.ips, run.derived("west", "cart").unwrap().cluster_ips);
    assert_eq!(import.ips.len(), 1);
}

#[test]
fn labels_affinity_and_ports_of_the_oldest_are_carried_and_dropped_again() {
    let mut run = shop();
    let exported = |pairs: &[(&str, &str)]| {
        let spec = ServiceExport {
            labels: labels(pairs),
            annotations: labels(&[("note", "any thing")]),
            ..ServiceExport::default()
        };
        object("east", "shop", "cart", Spec::ServiceExport(spec))
    };
    let mut sticky = service("east", "cart", 5);
    if let Spec::Service(service) = &mut sticky.spec {
        service.client_ip_affinity = true;
        service.affinity_seconds = Some(60);
        service.others = vec![OtherPort {
            port: 53,
            transport: Transport::Udp,
            name: "dns".into(),
            app_protocol: None,
        }];
    }
    run.put(sticky);
    run.put(exported(&[("team", "cart"), ("tier", "1")]));
    run.settle();
    let import = run.import("west", "cart").unwrap();
    assert_eq!(import.affinity, Some(60));
    assert_eq!(import.ports.len(), 2);
    assert_eq!(run.derived("west", "cart").unwrap().affinity(), Some(60));
    let managed = import.managed.unwrap();
    let says = |words: &Labels, key, value| folded_hold(words, &labels(&[(key, value)]));
    assert!(says(&managed.labels, "team", "cart"));
    assert!(says(&managed.labels, "tier", "1"));
    assert!(says(&managed.annotations, "note", "any thing"));
    assert!(!says(&managed.annotations, "note", "other"));
    run.put(exported(&[("team", "cart")]));
    run.settle();
    let managed = run.import("west", "cart").unwrap().managed.unwrap();
    assert!(!says(&managed.labels, "tier", "1"));
}

#[test]
fn a_conflict_is_said_of_every_export_and_ends_when_it_is_over() {
    let mut run = shop();
    let mut other = service("west", "cart", 5);
    if let Spec::Service(service) = &mut other.spec {
        service.ports = vec![port("http", 81)];
        service.client_ip_affinity = true;
    }
    run.put(other);
    let mut young = export("west", "cart");
    young.created = Some(at(9));
    run.put(young);
    run.settle();
    for cluster in ["east", "west"] {
        let said = run.said(cluster, Kind::ServiceExport, "cart", "Conflict");
        let reasons = "PortConflict,SessionAffinityConflict".to_owned();
        assert_eq!(said, (Truth::True, reasons));
    }
    assert_eq!(run.import("west", "cart").unwrap().ports[0].port, 80);
    run.put(service("west", "cart", 5));
    run.settle();
    let said = run.said("east", Kind::ServiceExport, "cart", "Conflict");
    assert_eq!(said, (Truth::False, "NoConflicts".to_owned()));
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let said = |status, since| Said {
        kind: "Accepted".into(),
        status,
        reason: "r".into(),
        message: String::new(),
        generation: 1,
        since,
    };
    let before = [said(Truth::True, Some(at(1)))];
    let same = dated(vec![said(Truth::True, None)], &before, at(9));
    assert_eq!(same[0].since, Some(at(1)));
    let other = dated(vec![said(Truth::False, None)], &before, at(9));
    assert_eq!(other[0].since, Some(at(9)));
}

fn route(backends: &[(&str, u32)], section: Option<&str>) -> Object {
    let service = ServiceRef {
        reach: Reach::Cluster,
        namespace: "shop".parse().unwrap(),
        name: "cart".into(),
    };
    let backend = |(service, port): &(&str, u32)| resource::WeightedBackend {
        service: (*service).to_owned(),
        port: *port,
        ..Default::default()
    };
    let rule = resource::RouteRule {
        backends: backends.iter().map(backend).collect(),
        ..Default::default()
    };
    let route = Route {
        kind: RouteKind::Http,
        parents: vec![ParentRef {
            service,
            port: None,
            section: section.map(str::to_owned),
            explicit: false,
        }],
        hostnames: Vec::new(),
        rules: vec![rule],
        invalid: None,
        incompatible: false,
        failing: Vec::new(),
        dropped: Vec::new(),
        limited: Vec::new(),
        generation: 3,
        statuses: Vec::new(),
    };
    object("east", "shop", "r", Spec::Route(route))
}

#[test]
fn what_is_used_with_another_value_is_told_in_accepted() {
    let mut run = shop();
    let mut object = route(&[("shop/cart.shop.svc.cluster.local", 80)], None);
    let Spec::Route(of) = &mut object.spec else {
        panic!("a route")
    };
    of.limited = vec!["eleven counts as ten".to_owned()];
    run.put(object);
    run.settle();
    let told = run.said("east", Kind::HttpRoute, "r", "Accepted");
    assert_eq!(told, (Truth::True, "Accepted".to_owned()));
    let Some(Spec::Route(written)) = run.servers.get("east", Kind::HttpRoute, "r") else {
        panic!("a route")
    };
    let conditions = &written.statuses[0].conditions;
    let accepted = conditions.iter().find(|c| c.kind == "Accepted").unwrap();
    assert_eq!(accepted.message, "eleven counts as ten");
}

#[test]
fn a_route_is_told_what_became_of_its_references() {
    const CART: &str = "shop/cart.shop.svc.cluster.local";
    const OTHER: &str = "bank/pay.bank.svc.cluster.local";
    const EVERYWHERE: &str = "shop/cart.shop.svc.clusterset.local";
    let mut run = shop();
    let mut said = |object: Object, condition: &str| {
        run.put(object);
        run.settle();
        run.said("east", Kind::HttpRoute, "r", condition)
    };
    let told = |status, reason: &str| (status, reason.to_owned());
    let all = route(&[(CART, 80), (EVERYWHERE, 80)], Some("http"));
    assert_eq!(said(all.clone(), "Accepted"), told(Truth::True, "Accepted"));
    assert_eq!(said(all, "ResolvedRefs"), told(Truth::True, "ResolvedRefs"));
    for (backend, port, reason) in [
        ("", 0, "InvalidKind"),
        (OTHER, 80, "RefNotPermitted"),
        ("shop/no.shop.svc.cluster.local", 80, "BackendNotFound"),
        (CART, 81, "BackendNotFound"),
        ("shop/no.shop.svc.clusterset.local", 80, "BackendNotFound"),
    ] {
        let said = said(route(&[(CART, 80), (backend, port)], None), "ResolvedRefs");
        assert_eq!(said, told(Truth::False, reason), "{backend}:{port}");
    }
    let astray = route(&[(CART, 80)], Some("admin"));
    assert_eq!(
        said(astray, "Accepted"),
        told(Truth::False, "NoMatchingParent")
    );
    let mut partial = route(&[(CART, 80)], None);
    if let Spec::Route(route) = &mut partial.spec {
        route.dropped = vec!["spec.rules[1]: no".into()];
    }
    let partially = said(partial, "PartiallyInvalid");
    assert_eq!(partially, told(Truth::True, "UnsupportedValue"));
    let mut failing = route(&[(CART, 80)], None);
    if let Spec::Route(route) = &mut failing.spec {
        route.failing = vec!["spec.rules[1]: no".into()];
        let message = partly(route).unwrap();
        // Gateway API: only what is left out is said to be dropped.
        assert_eq!(message, "answered with 500: spec.rules[1]: no");
    }
    let partially = said(failing, "PartiallyInvalid");
    assert_eq!(partially, told(Truth::True, "UnsupportedValue"));
    let whole = said(route(&[(CART, 80)], None), "PartiallyInvalid");
    assert_eq!(whole.1, "-");
    let mut broken = route(&[(CART, 80)], None);
    if let Spec::Route(route) = &mut broken.spec {
        route.invalid = Some("no".into());
    }
    assert_eq!(
        said(broken.clone(), "Accepted"),
        told(Truth::False, "UnsupportedValue")
    );
    if let Spec::Route(route) = &mut broken.spec {
        route.incompatible = true;
    }
    assert_eq!(
        said(broken, "Accepted"),
        told(Truth::False, "IncompatibleFilters")
    );
}

/// GEP-1294: "The rejected routes should be ignored and have the [status] set to [...] Conflicted."
#[test]
fn a_route_hears_when_one_of_a_stronger_kind_comes_and_goes() {
    const CART: &str = "shop/cart.shop.svc.cluster.local";
    let mut run = shop();
    run.put(route(&[(CART, 80)], None));
    run.settle();
    let accepted = |run: &Run| run.said("east", Kind::HttpRoute, "r", "Accepted");
    assert_eq!(accepted(&run), (Truth::True, "Accepted".to_owned()));
    let mut grpc = route(&[(CART, 80)], None);
    if let Spec::Route(route) = &mut grpc.spec {
        route.kind = RouteKind::Grpc;
        route.parents[0].port = Some(80);
    }
    run.put(grpc.clone());
    run.settle();
    assert_eq!(accepted(&run), (Truth::False, "Conflicted".to_owned()));
    let said = run.said("east", Kind::GrpcRoute, "r", "Accepted");
    assert_eq!(said, (Truth::True, "Accepted".to_owned()));
    let conditions = run.world.conditions();
    let told = |kind| {
        conditions
            .iter()
            .any(|c| c.object.kind == kind && c.reason == "Conflicted")
    };
    assert!(told(Kind::HttpRoute) && !told(Kind::GrpcRoute));
    // A route on a port that the service does not have gives nobody a place to apply at.
    let mut astray = route(&[(CART, 80)], None);
    "astray".clone_into(&mut astray.name);
    if let Spec::Route(route) = &mut astray.spec {
        route.parents[0].port = Some(81);
    }
    run.put(astray);
    run.settle();
    assert_eq!(accepted(&run), (Truth::False, "Conflicted".to_owned()));
    run.remove(&grpc.reference());
    run.settle();
    assert_eq!(accepted(&run), (Truth::True, "Accepted".to_owned()));
}

#[test]
fn a_route_is_told_that_its_parent_has_no_calls_of_its_own() {
    let mut run = shop();
    for (kind, accepted, refs) in [
        (ServiceType::Headless, "NoMatchingParent", "ResolvedRefs"),
        (ServiceType::ExternalName, "NoMatchingParent", "InvalidKind"),
    ] {
        let mut cart = service("east", "cart", 7);
        if let Spec::Service(service) = &mut cart.spec {
            service.kind = kind;
        }
        run.put(cart);
        run.put(route(&[("shop/cart.shop.svc.cluster.local", 80)], None));
        run.settle();
        let said = |condition| run.said("east", Kind::HttpRoute, "r", condition).1;
        assert_eq!(
            (said("Accepted").as_str(), said("ResolvedRefs").as_str()),
            (accepted, refs)
        );
    }
}

#[test]
fn a_name_that_covers_imports_is_there_for_a_route_where_only_others_export_it() {
    const FAR: &str = "shop/far.shop.svc.cluster.local";
    let mut run = shop();
    run.put(service("west", "far", 9));
    run.put(export("west", "far"));
    let mut far = route(&[(FAR, 80)], None);
    if let Spec::Route(route) = &mut far.spec {
        route.parents[0].service.name = "far".into();
    }
    run.put(far);
    run.settle();
    let said = |run: &Run, condition| run.said("east", Kind::HttpRoute, "r", condition).1;
    let both = |run: &Run| (said(run, "Accepted"), said(run, "ResolvedRefs"));
    let told = |accepted: &str, refs: &str| (accepted.to_owned(), refs.to_owned());
    assert_eq!(both(&run), told("NoMatchingParent", "BackendNotFound"));
    let policy = TrafficPolicy {
        reach: Reach::Cluster,
        service: "far".into(),
        body: resource::TrafficPolicy::default(),
        cover_imported: true,
        invalid: None,
        observed: Observed::default(),
    };
    run.put(object("east", "shop", "far", Spec::TrafficPolicy(policy)));
    run.settle();
    assert_eq!(both(&run), told("Accepted", "ResolvedRefs"));
}

#[test]
fn a_grant_or_a_service_that_comes_later_changes_what_a_route_is_told() {
    let mut run = shop();
    run.put(route(&[("bank/pay.bank.svc.cluster.local", 80)], None));
    run.settle();
    let grant = ReferenceGrant {
        from: vec![(Kind::HttpRoute, "shop".parse().unwrap())],
        to: vec![(Kind::Service, None)],
    };
    run.put(object("east", "bank", "g", Spec::ReferenceGrant(grant)));
    run.settle();
    let said = run.said("east", Kind::HttpRoute, "r", "ResolvedRefs");
    assert_eq!(said.1, "BackendNotFound");
    let mut pay = service("east", "pay", 8);
    pay.namespace = Some("bank".parse().unwrap());
    run.put(pay);
    run.settle();
    let said = run.said("east", Kind::HttpRoute, "r", "ResolvedRefs");
    assert_eq!(said.1, "ResolvedRefs");
}

#[test]
fn a_route_that_leaves_the_mesh_takes_its_status_along() {
    let mut run = shop();
    run.put(route(&[], None));
    run.settle();
    let Some(Spec::Route(mut left)) = run.servers.get("east", Kind::HttpRoute, "r") else {
        panic!("a route")
    };
    assert_eq!(left.statuses.len(), 1);
    assert_eq!(left.statuses[0].conditions[0].generation, 3);
    left.parents.clear();
    run.put(object("east", "shop", "r", Spec::Route(left)));
    run.settle();
    let Some(Spec::Route(route)) = run.servers.get("east", Kind::HttpRoute, "r") else {
        panic!("a route")
    };
    assert_eq!(route.statuses, []);
}

#[test]
fn gateways_and_policies_are_told_whether_they_count() {
    let traffic = |name: &str, service: &str, created| {
        let policy = TrafficPolicy {
            reach: Reach::Cluster,
            service: service.into(),
            body: resource::TrafficPolicy::default(),
            cover_imported: false,
            invalid: None,
            observed: Observed::default(),
        };
        let mut object = object("east", "shop", name, Spec::TrafficPolicy(policy));
        object.created = Some(at(created));
        object
    };
    let access = |name: &str, target| {
        let policy = crate::sample::allow(target);
        object("east", "shop", name, Spec::AccessPolicy(policy))
    };
    let mut run = shop();
    run.put(crate::sample::gateway("east", 1));
    let mut foreign = crate::sample::gateway("east", 2);
    foreign.name = "foreign".into();
    if let Spec::Gateway(gateway) = &mut foreign.spec {
        gateway.class = "other".into();
    }
    run.put(foreign);
    run.put(traffic("old", "cart", 1));
    run.put(traffic("young", "cart", 2));
    run.put(traffic("astray", "nothing", 1));
    run.put(access("good", PolicyTarget::Namespace));
    run.put(access("far", PolicyTarget::Mesh));
    run.put(access(
        "astray",
        crate::sample::services(&["cart", "carts"]),
    ));
    run.put(pod("east", "web", 1));
    run.settle();
    let system = run.servers.find("east", Kind::Gateway, "ew").unwrap();
    let Spec::Gateway(gateway) = system else {
        panic!("a gateway")
    };
    let reasons: Vec<_> = gateway
        .observed
        .conditions
        .iter()
        .map(|c| c.reason.as_str())
        .collect();
    assert_eq!(reasons, ["Accepted", "Programmed"]);
    let Some(Spec::Gateway(foreign)) = run.servers.find("east", Kind::Gateway, "foreign") else {
        panic!("a gateway")
    };
    assert_eq!(foreign.observed.conditions, []);
    let accepted = |kind, name| run.said("east", kind, name, "Accepted").1;
    assert_eq!(accepted(Kind::TrafficPolicy, "old"), "Accepted");
    assert_eq!(accepted(Kind::TrafficPolicy, "young"), "Conflicted");
    assert_eq!(accepted(Kind::TrafficPolicy, "astray"), "TargetNotFound");
    assert_eq!(accepted(Kind::AccessPolicy, "good"), "Accepted");
    assert_eq!(accepted(Kind::AccessPolicy, "far"), "Invalid");
    let resolved = |name| run.said("east", Kind::AccessPolicy, name, "ResolvedRefs").1;
    assert_eq!(resolved("good"), "ResolvedRefs");
    assert_eq!(accepted(Kind::AccessPolicy, "astray"), "Accepted");
    assert_eq!(resolved("astray"), "TargetNotFound");
}

#[test]
fn the_home_cluster_is_told_what_became_of_the_clusters_that_it_names() {
    use crate::world::{Standing, Standings};

    let mut run = shop();
    run.put(mesh("east", "east-net"));
    run.settle();
    let standing = |holds| Standing {
        kind: "Connected",
        holds,
        reason: "Because",
        message: String::new(),
    };
    let say = |run: &mut Run, holds| {
        let standings = Standings::from([(
            (Kind::MeshCluster, "east".to_owned()),
            vec![standing(holds)],
        )]);
        let dirty = run.world.set_standings(&id("east"), standings);
        run.planner.note(&run.world, &dirty);
        run.settle();
        let Some(Spec::MeshCluster(cluster)) = run.servers.find("east", Kind::MeshCluster, "east")
        else {
            panic!("a MeshCluster")
        };
        cluster.observed.conditions[0].status
    };
    assert_eq!(say(&mut run, None), Truth::Unknown);
    assert_eq!(say(&mut run, Some(true)), Truth::True);
    assert_eq!(say(&mut run, Some(false)), Truth::False);
    // What the mesh says of a cluster changes nothing for anybody else.
    let mut object = mesh("east", "east-net");
    if let Spec::MeshCluster(cluster) = &mut object.spec {
        cluster.observed.generation = 7;
    }
    let dirty = run.world.apply(Change::Apply(object.clone()), at(90));
    assert_eq!(dirty.objects, [object.reference()].into());
    assert!(!dirty.all && dirty.services.is_empty());
}

#[test]
fn a_trust_policy_is_told_whether_it_is_heard_and_whom_nobody_knows() {
    let mut run = shop();
    let cut = |cluster, named: &[&str]| {
        let policy = TrustPolicy {
            distrusted: named.iter().map(|named| id(named)).collect(),
            ..TrustPolicy::default()
        };
        object(cluster, "", "cut", Spec::TrustPolicy(policy))
    };
    let told = |run: &mut Run, cluster: &str| {
        run.settle();
        let Some(Spec::TrustPolicy(policy)) = run.servers.find(cluster, Kind::TrustPolicy, "cut")
        else {
            panic!("a TrustPolicy")
        };
        let conditions = policy.observed.conditions;
        conditions.into_iter().map(|c| c.reason).collect::<Vec<_>>()
    };
    run.put(cut("east", &["west", "north"]));
    assert_eq!(told(&mut run, "east"), ["Accepted", "NoSuchCluster"]);
    run.put(cut("east", &["west"]));
    assert_eq!(told(&mut run, "east"), ["Accepted", "ResolvedRefs"]);
    let dirty = run
        .world
        .set_mesh_authors(Some(BTreeSet::from([id("west")])));
    run.planner.note(&run.world, &dirty);
    assert_eq!(told(&mut run, "east"), ["NotPermitted", "ResolvedRefs"]);
}

#[test]
fn a_class_of_ours_is_accepted_and_its_gateways_are_ours() {
    let mut run = shop();
    let class = |name: &str, controller: &str| {
        let class = GatewayClass {
            controller: controller.to_owned(),
            observed: Observed::default(),
        };
        object("east", "", name, Spec::GatewayClass(class))
    };
    let mut named = crate::sample::gateway("east", 1);
    if let Spec::Gateway(gateway) = &mut named.spec {
        gateway.class = "mesh".into();
    }
    named.name = "named".into();
    run.put(named);
    let literal = crate::sample::gateway("east", 2);
    run.put(literal);
    let told = |run: &mut Run, kind, name| {
        run.settle();
        match run.servers.find("east", kind, name) {
            Some(Spec::Gateway(gateway)) => gateway.observed.conditions.len(),
            Some(Spec::GatewayClass(class)) => class.observed.conditions.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(&mut run, Kind::Gateway, "named"), 0);
    assert_eq!(told(&mut run, Kind::Gateway, "ew"), 2);
    run.put(class("mesh", CONTROLLER_NAME));
    run.put(class("other", "example.com/other"));
    assert_eq!(told(&mut run, Kind::GatewayClass, "mesh"), 1);
    assert_eq!(told(&mut run, Kind::GatewayClass, "other"), 0);
    assert_eq!(told(&mut run, Kind::Gateway, "named"), 2);
    // Whoever has the class, has its Gateways, also under our name.
    run.put(class(GATEWAY_CLASS, "example.com/other"));
    run.settle();
    let gateway = crate::translate::gateway::is_ours;
    let cluster = &run.world.clusters[&id("east")];
    let ours = |name| {
        gateway(
            cluster,
            &cluster.gateways.get("isthmus-system", name).unwrap().value,
        )
    };
    assert_eq!((ours("named"), ours("ew")), (true, false));
}

#[test]
fn a_cluster_that_states_another_name_or_set_is_told_at_its_mesh_cluster() {
    let mut run = shop();
    for name in ["east", "west"] {
        let mut cluster = mesh("east", "net");
        cluster.name = name.into();
        run.put(cluster);
    }
    let named = ["east", "west"].map(|name| ((Kind::MeshCluster, name.to_owned()), Vec::new()));
    let dirty = run
        .world
        .set_standings(&id("east"), named.into_iter().collect());
    run.planner.note(&run.world, &dirty);
    let property = |cluster: &str, name: &str, value: &str| {
        let value = value.to_owned();
        let property = Spec::ClusterProperty(ClusterProperty { value });
        object(cluster, "", name, property)
    };
    let told = |run: &mut Run, name| {
        run.settle();
        let found = run.servers.find("east", Kind::MeshCluster, name);
        let Some(Spec::MeshCluster(cluster)) = found else {
            panic!("a MeshCluster")
        };
        let mut reasons = cluster.observed.conditions.into_iter().map(|c| c.reason);
        reasons.next().unwrap_or_default()
    };
    assert_eq!(told(&mut run, "west"), "", "nothing is stated");
    run.put(property("west", CLUSTER_ID_PROPERTY, "west"));
    assert_eq!(told(&mut run, "west"), "Match");
    run.put(property("east", CLUSTER_SET_PROPERTY, "ours"));
    run.put(property("west", CLUSTER_SET_PROPERTY, "theirs"));
    assert_eq!(told(&mut run, "west"), "ClusterSetMismatch");
    assert_eq!(told(&mut run, "east"), "Match");
    run.put(property("west", CLUSTER_ID_PROPERTY, "north"));
    assert_eq!(told(&mut run, "west"), "ClusterIdMismatch");
    let conditions = run.world.conditions();
    assert!(conditions.iter().any(|c| c.reason == "ClusterIdMismatch"));
    for name in [CLUSTER_ID_PROPERTY, CLUSTER_SET_PROPERTY] {
        run.remove(&property("west", name, "").reference());
    }
    assert_eq!(told(&mut run, "west"), "NothingStated");
}
