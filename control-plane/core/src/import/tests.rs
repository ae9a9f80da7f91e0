use std::time::{Duration, SystemTime};

use isthmus_proto::resource::Protocol;

use super::*;
use crate::model::{Change, Kind, Object, Spec, TargetPort};
use crate::sample::{at, export, id, list, object, service, world};

fn port(name: &str, number: u16, protocol: Protocol) -> ServicePort {
    ServicePort { name: name.into(), port: number, target: TargetPort::Number(1), protocol }
}

fn offer<'a>(cluster: &'a ClusterId, created: Option<u64>, service: &'a Service) -> Export<'a> {
    let since = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
    let stamp = Stamp { at: since(1), generation: 1 };
    Export { cluster, age: Age::of(created.map(since)), stamp, service }
}

fn with(ports: Vec<ServicePort>) -> Service {
    Service { ports, ..Service::default() }
}

#[test]
fn ports_are_united_and_the_oldest_export_wins_a_contradiction() {
    let (east, west, north) = (id("east"), id("west"), id("north"));
    let old = with(vec![port("http", 80, Protocol::Http1), port("db", 5432, Protocol::Tcp)]);
    let young = with(vec![port("http", 8080, Protocol::Http1), port("admin", 9000, Protocol::Http1)]);
    let other = with(vec![port("grpc", 80, Protocol::Grpc), port("db", 5432, Protocol::Tcp)]);
    let offers = [
        offer(&west, Some(5), &young),
        offer(&north, None, &other),
        offer(&east, Some(3), &old),
    ];
    let merged = merge(offers.to_vec()).unwrap();
    assert_eq!(merged.origin, east);
    assert_eq!(merged.exporters, [east, west.clone(), north.clone()]);
    let numbers: Vec<_> = merged.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(numbers, [("http", 80), ("db", 5432), ("admin", 9000)]);
    let losers: Vec<_> = merged.conflicts.iter().map(|c| (&c.cluster, c.reason)).collect();
    assert_eq!(losers, [(&west, "PortConflict"), (&north, "PortConflict")]);
}

#[test]
fn types_and_affinity_that_differ_are_conflicts_of_the_younger() {
    let (east, west) = (id("east"), id("west"));
    let old = Service { kind: ServiceType::Headless, ..with(vec![port("", 80, Protocol::Tcp)]) };
    let young = Service { client_ip_affinity: true, ..with(vec![port("", 80, Protocol::Tcp)]) };
    let merged = merge(vec![offer(&west, Some(2), &young), offer(&east, Some(1), &old)]).unwrap();
    assert_eq!(merged.kind, ServiceType::Headless);
    let reasons: Vec<_> = merged.conflicts.iter().map(|c| (&c.cluster, c.reason)).collect();
    assert_eq!(reasons, [(&west, "TypeConflict"), (&west, "SessionAffinityConflict")]);
}

#[test]
fn equal_ages_are_decided_by_name() {
    let (east, west) = (id("east"), id("west"));
    let service = with(vec![port("", 80, Protocol::Tcp)]);
    for offers in [
        vec![offer(&east, Some(1), &service), offer(&west, Some(1), &service)],
        vec![offer(&west, Some(1), &service), offer(&east, Some(1), &service)],
    ] {
        assert_eq!(merge(offers).unwrap().origin, east);
    }
    assert_eq!(merge(Vec::new()), None);
}

#[test]
fn a_view_finds_the_port_behind_by_name_before_number() {
    let view = [port("http", 80, Protocol::Tcp), port("", 443, Protocol::Tcp)];
    let own = [port("http", 8080, Protocol::Tcp), port("x", 80, Protocol::Tcp), port("", 443, Protocol::Tcp)];
    let found: Vec<_> = matching(&view, &own).iter().map(|(v, o)| (*v, o.port)).collect();
    assert_eq!(found, [(80, 8080), (443, 443)]);
}

#[test]
fn an_export_says_in_its_status_what_became_of_it() {
    let mut world = world(&["east", "west"]);
    let mut younger = export("west", "cart");
    younger.created = Some(at(9));
    let mut other = service("west", "cart", 5);
    if let Spec::Service(service) = &mut other.spec {
        service.ports = vec![crate::sample::port("http", 81)];
    }
    let objects: Vec<Object> = vec![
        service("east", "cart", 5),
        export("east", "cart"),
        export("east", "ghost"),
        other,
        younger,
    ];
    for cluster in ["east", "west"] {
        list(&mut world, cluster, &objects);
    }
    let find = |world: &World, cluster: &str, name: &str, kind: &str| {
        let all = world.conditions();
        let mut found = all.into_iter().filter(|c| {
            c.object.cluster == id(cluster) && c.object.name == name && c.kind == kind
        });
        found.next().map(|c| (c.holds, c.reason))
    };
    assert_eq!(find(&world, "east", "cart", "Valid"), Some((true, "Valid")));
    assert_eq!(find(&world, "east", "cart", "Conflict"), Some((false, "NoConflicts")));
    assert_eq!(find(&world, "west", "cart", "Conflict"), Some((true, "PortConflict")));
    assert_eq!(find(&world, "east", "ghost", "Valid"), Some((false, "NoService")));
    let bad = object("east", "shop", "Upper", Spec::ServiceExport);
    world.apply(Change::Apply(bad), at(3));
    assert_eq!(find(&world, "east", "Upper", "Accepted"), Some((false, "Refused")));
    assert_eq!(world.clusters().next().unwrap().objects[&Kind::ServiceExport], 2);
}
