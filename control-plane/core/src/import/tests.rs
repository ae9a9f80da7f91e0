//! Are the exports of all clusters merged as KEP-1645 says?

use std::time::{Duration, SystemTime};

use isthmus_proto::resource::Protocol;

use super::*;
use crate::model::{Change, Kind, Object, Observed, Spec, TargetPort};
use crate::sample::{at, export, id, list, object, service, world};

fn port(name: &str, number: u16, protocol: Protocol) -> ServicePort {
    ServicePort {
        name: name.into(),
        port: number,
        target: TargetPort::Number(1),
        protocol,
        app_protocol: None,
    }
}

const PLAIN: &ServiceExport = &ServiceExport {
    labels: Labels::new(),
    annotations: Labels::new(),
    observed: Observed {
        generation: 0,
        conditions: Vec::new(),
        deleting: false,
    },
};

fn offer<'a>(cluster: &'a ClusterId, created: Option<u64>, service: &'a Service) -> Export<'a> {
    let since = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
    let stamp = Stamp {
        at: since(1),
        generation: 1,
    };
    Export {
        cluster,
        age: Age::of(created.map(since)),
        stamp,
        service,
        export: PLAIN,
    }
}

fn with(ports: Vec<ServicePort>) -> Service {
    Service {
        ports,
        ..Service::default()
    }
}

#[test]
fn ports_are_united_and_the_oldest_export_wins_a_contradiction() {
    let (east, west, north) = (id("east"), id("west"), id("north"));
    let old = with(vec![
        port("http", 80, Protocol::Http1),
        port("db", 5432, Protocol::Tcp),
    ]);
    let young = with(vec![
        port("http", 8080, Protocol::Http1),
        port("admin", 9000, Protocol::Http1),
    ]);
    let other = with(vec![
        port("grpc", 80, Protocol::Grpc),
        port("db", 5432, Protocol::Tcp),
    ]);
    let offers = [
        offer(&west, Some(5), &young),
        offer(&north, None, &other),
        offer(&east, Some(3), &old),
    ];
    let merged = merge(offers.to_vec()).unwrap();
    assert_eq!(merged.origin, east);
    assert_eq!(merged.exporters, [east, west.clone(), north.clone()]);
    let numbers: Vec<_> = merged
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.port))
        .collect();
    assert_eq!(numbers, [("http", 80), ("db", 5432), ("admin", 9000)]);
    let losers: Vec<_> = merged
        .conflicts
        .iter()
        .map(|c| (&c.cluster, c.reason))
        .collect();
    // What contradicts, then what is not offered everywhere.
    assert_eq!(losers.len(), 5);
    assert!(
        losers
            .iter()
            .all(|(_, reason)| *reason == Contradiction::Port)
    );
    assert!(
        merged.conflicts[0]
            .message
            .contains("west: port 8080/TCP \"http\" contradicts")
    );
    assert!(
        merged.conflicts[1]
            .message
            .contains("north: port 80/TCP \"grpc\" contradicts")
    );
    assert_eq!(
        merged.conflicts[2].message,
        "east: has no port 9000/TCP \"admin\""
    );
}

#[test]
fn types_and_affinity_that_differ_are_conflicts_of_the_younger() {
    let (east, west) = (id("east"), id("west"));
    let old = Service {
        kind: ServiceType::Headless,
        ..with(vec![port("", 80, Protocol::Tcp)])
    };
    let young = Service {
        client_ip_affinity: true,
        ..with(vec![port("", 80, Protocol::Tcp)])
    };
    let merged = merge(vec![
        offer(&west, Some(2), &young),
        offer(&east, Some(1), &old),
    ])
    .unwrap();
    assert_eq!(merged.kind, ServiceType::Headless);
    let reasons: Vec<_> = merged
        .conflicts
        .iter()
        .map(|c| (&c.cluster, c.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            (&west, Contradiction::Type),
            (&west, Contradiction::Affinity)
        ]
    );
}

#[test]
fn what_clients_prefer_is_the_oldest_exports_and_the_others_are_told() {
    let (east, west) = (id("east"), id("west"));
    let close = |distribution: &str| Some(distribution.to_owned());
    let old = Service {
        kind: ServiceType::Headless,
        spread: Spread {
            node_only: false,
            distribution: close("PreferClose"),
        },
        families: vec![IpFamily::V4],
        ..with(vec![port("", 80, Protocol::Tcp)])
    };
    let young = Service {
        spread: Spread {
            node_only: true,
            distribution: None,
        },
        families: vec![IpFamily::V6, IpFamily::V4],
        ..old.clone()
    };
    let offers = vec![offer(&west, Some(2), &young), offer(&east, Some(1), &old)];
    let merged = merge(offers).unwrap();
    assert_eq!(merged.spread, old.spread);
    assert_eq!(merged.families, [IpFamily::V4]);
    let said: Vec<_> = merged
        .conflicts
        .iter()
        .map(|c| (c.reason.as_str(), c.message.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (
                "InternalTrafficPolicyConflict",
                "west: internalTrafficPolicy is Local; Cluster of east is used"
            ),
            (
                "TrafficDistributionConflict",
                "west: trafficDistribution is not set; PreferClose of east is used"
            ),
            (
                "IPFamilyConflict",
                "west: ipFamilies is IPv4, IPv6; IPv4 of east is used"
            ),
        ]
    );
    // A virtual address leads to pods of every family.
    let (old, young) = [old, young]
        .map(|s| Service {
            kind: ServiceType::ClusterIp,
            ..s
        })
        .into();
    let merged = merge(vec![
        offer(&west, Some(2), &young),
        offer(&east, Some(1), &old),
    ])
    .unwrap();
    assert!(
        merged
            .conflicts
            .iter()
            .all(|c| c.reason != Contradiction::IpFamily)
    );
}

#[test]
fn equal_ages_are_decided_by_name() {
    let (east, west) = (id("east"), id("west"));
    let service = with(vec![port("", 80, Protocol::Tcp)]);
    for offers in [
        vec![
            offer(&east, Some(1), &service),
            offer(&west, Some(1), &service),
        ],
        vec![
            offer(&west, Some(1), &service),
            offer(&east, Some(1), &service),
        ],
    ] {
        assert_eq!(merge(offers).unwrap().origin, east);
    }
    assert_eq!(merge(Vec::new()), None);
}

#[test]
fn a_view_finds_the_port_behind_by_name_before_number() {
    let view = [
        port("http", 80, Protocol::Tcp),
        port("", 443, Protocol::Tcp),
    ];
    let own = [
        port("http", 8080, Protocol::Tcp),
        port("x", 80, Protocol::Tcp),
        port("", 443, Protocol::Tcp),
    ];
    let found: Vec<_> = matching(&view, &own)
        .iter()
        .map(|(v, o)| (*v, o.port))
        .collect();
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
        let mut found = all
            .into_iter()
            .filter(|c| c.object.cluster == id(cluster) && c.object.name == name && c.kind == kind);
        found.next().map(|c| (c.holds, c.reason))
    };
    assert_eq!(
        find(&world, "east", "cart", "Valid"),
        Some((true, "Valid".to_owned()))
    );
    for cluster in ["east", "west"] {
        let conflict = Some((true, "PortConflict".to_owned()));
        assert_eq!(find(&world, cluster, "cart", "Conflict"), conflict);
        let ready = Some((true, "Ready".to_owned()));
        assert_eq!(find(&world, cluster, "cart", "Ready"), ready);
    }
    assert_eq!(
        find(&world, "east", "ghost", "Valid"),
        Some((false, "NoService".to_owned()))
    );
    let bad = object(
        "east",
        "shop",
        "Upper",
        Spec::ServiceExport(ServiceExport::default()),
    );
    world.apply(Change::Apply(bad), at(3));
    assert_eq!(
        find(&world, "east", "Upper", "Accepted"),
        Some((false, "Refused".to_owned()))
    );
    assert_eq!(
        world.clusters().next().unwrap().objects[&Kind::ServiceExport],
        2
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{OtherPort, Transport};

    fn any_spread() -> impl Strategy<Value = (Spread, Vec<IpFamily>)> {
        let families = proptest::sample::select(vec![
            vec![],
            vec![IpFamily::V4],
            vec![IpFamily::V4, IpFamily::V6],
            vec![IpFamily::V6, IpFamily::V4],
        ]);
        let spread = (any::<bool>(), proptest::option::of("PreferClose"));
        let spread = spread.prop_map(|(node_only, distribution)| Spread {
            node_only,
            distribution,
        });
        (spread, families)
    }

    fn any_service() -> impl Strategy<Value = Service> {
        let tcp = ("[ab]?", 80..83_u16, proptest::option::of("[xy]"));
        let udp = ("[ab]?", 80..82_u16);
        let kind = prop_oneof![Just(ServiceType::ClusterIp), Just(ServiceType::Headless)];
        (
            proptest::collection::vec(tcp, 0..4),
            proptest::collection::vec(udp, 0..2),
            kind,
            (any::<bool>(), proptest::option::of(1..3_u32)),
            any_spread(),
        )
            .prop_map(|(tcp, udp, kind, affinity, (spread, families))| {
                let mut service = Service {
                    kind,
                    client_ip_affinity: affinity.0,
                    affinity_seconds: affinity.1,
                    spread,
                    families,
                    ..Service::default()
                };
                // As Kubernetes has it: unique by number, and by name.
                for (name, number, app_protocol) in tcp {
                    let unique = |p: &ServicePort| p.port != number && p.name != name;
                    if service.ports.iter().all(unique) {
                        service.ports.push(ServicePort {
                            app_protocol,
                            ..port(&name, number, Protocol::Tcp)
                        });
                    }
                }
                for (name, number) in udp {
                    let unique =
                        service.ports.iter().all(|p| p.name != name) && service.others.is_empty();
                    if unique {
                        service.others.push(OtherPort {
                            port: number,
                            transport: Transport::Udp,
                            name,
                            app_protocol: None,
                        });
                    }
                }
                service
            })
    }

    fn any_export() -> impl Strategy<Value = (Option<u64>, Service, ServiceExport)> {
        let labels = proptest::collection::btree_map("[kl]", "[v]?", 0..2);
        let export = (labels.clone(), labels).prop_map(|(labels, annotations)| ServiceExport {
            labels,
            annotations,
            ..ServiceExport::default()
        });
        (proptest::option::of(0..3_u64), any_service(), export)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// KEP-1645, "Constraints and Conflict Resolution".
        #[test]
        fn the_oldest_export_wins_and_the_rest_is_a_union(
            made in proptest::collection::vec(any_export(), 1..5),
            turn in 0..5_usize,
        ) {
            let ids: Vec<ClusterId> = (0..made.len()).map(|n| id(&format!("c{n}"))).collect();
            let mut offers: Vec<Export<'_>> = made.iter().zip(&ids)
                .map(|((age, service, export), cluster)| Export { export, ..offer(cluster, *age, service) })
                .collect();
            let merged = merge(offers.clone()).unwrap();
            let turn = turn % offers.len();
            offers.rotate_left(turn);
            prop_assert_eq!(merge(offers.clone()).unwrap(), merged.clone(), "order does not matter");

            let oldest = offers.iter().min_by_key(|o| (o.age, o.cluster)).unwrap();
            prop_assert_eq!(&merged.origin, oldest.cluster);
            prop_assert_eq!(merged.kind, oldest.service.kind);
            prop_assert_eq!(merged.affinity, oldest.service.affinity());
            prop_assert_eq!(&merged.spread, &oldest.service.spread);
            prop_assert_eq!(&merged.families, &sorted(&oldest.service.families));
            prop_assert_eq!(&merged.labels, &oldest.export.labels);
            prop_assert_eq!(&merged.annotations, &oldest.export.annotations);
            let all = &merged.all_ports;
            // All of the oldest; of the others what exists nowhere older.
            for port in listed(oldest.service) {
                prop_assert!(all.contains(&port));
            }
            let declared: Vec<_> = offers.iter().flat_map(|o| listed(o.service)).collect();
            for (index, port) in all.iter().enumerate() {
                prop_assert!(declared.contains(port), "made up");
                for other in all.iter().skip(index + 1) {
                    prop_assert!((port.port, port.transport) != (other.port, other.transport));
                    prop_assert!(port.name.is_empty() || port.name != other.name);
                }
            }
            for port in &declared {
                let placed = all.iter().any(|p| (p.port, p.transport) == (port.port, port.transport));
                let named = all.iter().any(|p| !p.name.is_empty() && p.name == port.name);
                prop_assert!(placed || named, "lost without a reason");
            }
            // The mesh leads to the TCP ports of the same union.
            let tcp: Vec<_> = all.iter().filter(|p| p.transport == Transport::Tcp).map(|p| p.port).collect();
            prop_assert_eq!(merged.ports.iter().map(|p| p.port).collect::<Vec<_>>(), tcp);

            // There is a conflict exactly if two exports differ.
            let alike = |a: &Export<'_>, b: &Export<'_>| {
                let ports = |s: &Service| { let mut p = listed(s); p.sort(); p };
                let families = |s: &Service| sorted(&s.families);
                let (of_a, of_b) = (families(a.service), families(b.service));
                let met = merged.kind == ServiceType::ClusterIp || of_a.is_empty() || of_b.is_empty();
                a.service.kind == b.service.kind
                    && a.service.affinity() == b.service.affinity()
                    && a.service.spread == b.service.spread
                    && (met || of_a == of_b)
                    && ports(a.service) == ports(b.service)
                    && a.export == b.export
            };
            let equal = offers.iter().all(|o| alike(o, oldest));
            prop_assert_eq!(merged.conflicts.is_empty(), equal);
        }
    }
}

#[test]
fn an_export_that_nobody_else_can_call_says_so() {
    use crate::model::Truth;
    use crate::sample::pod;
    let bare = |number: u8| {
        let mut pod = pod("east", "cart", number);
        let Spec::Pod(spec) = &mut pod.spec else {
            panic!("a Pod")
        };
        spec.meshed = false;
        pod
    };
    let told = |pods: &[Object]| {
        let mut world = world(&["east"]);
        let mut objects = vec![service("east", "cart", 5), export("east", "cart")];
        objects.extend_from_slice(pods);
        list(&mut world, "east", &objects);
        let cluster = world.listed("east").unwrap();
        let at = ("shop", "cart");
        let said = verdict(
            &world,
            cluster,
            at,
            merged(&world, "shop", "cart").as_ref(),
            &[],
        );
        let ready = said.into_iter().find(|said| said.kind == "Ready").unwrap();
        assert_eq!(ready.status, Truth::True);
        let unreached = world.conditions();
        let unreached = unreached.iter().any(|said| said.reason == "NoSidecar");
        assert_eq!(unreached, !ready.message.is_empty());
        ready.message
    };
    assert_eq!(
        told(&[bare(1), bare(2)]),
        "none of 2 endpoints has a sidecar: other clusters can't call it"
    );
    assert_eq!(told(&[bare(1), pod("east", "cart", 2)]), "");
    // There may be some soon.
    assert_eq!(told(&[]), "");
}
