//! Is a kind that a cluster has never shown told apart from one that is empty there?

use super::*;
use crate::model::Kind;
use crate::model::{GatewayAddress, GatewayFront, SYSTEM_NAMESPACE, Service};

/// The kind is seen after all, as it is in these objects.
fn late(
    world: &mut World,
    session: &mut Session,
    objects: &[Object],
    (cluster, kind): (&str, Kind),
) {
    let cluster = id(cluster);
    let told = objects
        .iter()
        .filter(|object| object.cluster == cluster && object.spec.kind() == kind);
    for object in told {
        tell(world, session, Change::Apply(object.clone()));
    }
    tell(world, session, Change::Listed { cluster, kind });
}

/// East and west, and what web's proxy holds and knows, while one kind of one cluster is unknown.
fn without(at: (&str, Kind), held: Option<&Proxy>) -> (World, Session, Proxy) {
    let objects = shop();
    let mut world = world(&["east", "west"]);
    for cluster in ["east", "west"] {
        if cluster == at.0 {
            list_without(&mut world, cluster, &objects, at.1);
        } else {
            list(&mut world, cluster, &objects);
        }
    }
    let client = web(&world);
    let keys = [LOCAL, EVERYWHERE, "shop/none.shop.svc.clusterset.local"];
    let mut proxy = held
        .cloned()
        .unwrap_or_else(|| Proxy::sidecar(&client, &keys));
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    (world, session, proxy)
}

/// What a proxy holds that was told everything.
fn full() -> Proxy {
    without(("nowhere", Kind::Pod), None).2
}

const NONE: &str = "shop/none.shop.svc.clusterset.local";

#[test]
fn exports_that_were_never_seen_may_be_of_any_service() {
    let exports = ("west", Kind::ServiceExport);
    let (mut world, mut session, mut proxy) = without(exports, None);
    for kind in [T::Service, T::Endpoint] {
        assert!(!proxy.is_absent(kind, NONE), "{kind:?}");
    }
    late(&mut world, &mut session, &shop(), exports);
    proxy.settle(&mut session, &world);
    assert!(proxy.is_absent(T::Service, NONE));
    assert_eq!(proxy.state(), full().state());
}

#[test]
fn who_holds_endpoints_keeps_them_until_exports_are_seen() {
    let exports = ("west", Kind::ServiceExport);
    let full = full();
    let (mut world, mut session, mut proxy) = without(exports, Some(&full));
    assert_eq!(proxy.names(T::Endpoint), full.names(T::Endpoint));
    // But not one whose pod is gone.
    let pod = pod("west", "cart", 12).reference();
    tell(&mut world, &mut session, Change::Delete(pod));
    let local = service("east", "cart", 5);
    tell(&mut world, &mut session, Change::Apply(local));
    session.dirty(&Dirty::everything());
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::Endpoint), full.names(T::Endpoint)[..2]);
}

#[test]
fn a_gateway_keeps_what_it_forwards_to_until_exports_are_seen() {
    let gateway = |world: &World| client(world, "east/isthmus-system/ew-1", "ew", "gateway");
    let world = listed(&shop());
    let mut proxy = Proxy::default().with(T::ExportedEndpoint, "*");
    let mut session = proxy.connect(gateway(&world));
    proxy.settle(&mut session, &world);
    let before = proxy.state();
    assert_eq!(before.len(), 1);
    let (world, ..) = without(("east", Kind::ServiceExport), None);
    let mut session = proxy.connect(gateway(&world));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.state(), before);
}

#[test]
fn without_a_kind_of_routes_no_service_is_known_to_have_none() {
    for kind in [
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
        Kind::ReferenceGrant,
    ] {
        let (mut world, mut session, mut proxy) = without(("east", kind), None);
        assert!(!proxy.is_absent(T::Route, LOCAL), "{kind}");
        late(&mut world, &mut session, &shop(), ("east", kind));
        proxy.settle(&mut session, &world);
        assert!(proxy.is_absent(T::Route, LOCAL), "{kind}");
        // What another cluster routes is its own affair.
        let (_, _, proxy) = without(("west", kind), None);
        assert!(proxy.is_absent(T::Route, LOCAL), "{kind}");
    }
}

#[test]
fn how_calls_are_treated_is_told_when_it_is_known() {
    let traffic = ("east", Kind::TrafficPolicy);
    let full = full();
    let (mut world, mut session, mut proxy) = without(traffic, None);
    assert!(proxy.names(T::Service).is_empty());
    assert!(!proxy.is_absent(T::Service, LOCAL));
    let (_, _, held) = without(traffic, Some(&full));
    // It is told how little is known, and else keeps what it has.
    let kept = |proxy: &Proxy| {
        let mut state = proxy.state();
        state.retain(|(kind, _), _| *kind != T::ClusterFreshness);
        state
    };
    assert_eq!(kept(&held), kept(&full), "who has it keeps it");
    late(&mut world, &mut session, &shop(), traffic);
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.state(), full.state());
}

#[test]
fn gateways_that_were_never_seen_are_not_gone() {
    let full = full();
    assert_eq!(full.names(T::Gateway).len(), 2);
    let (.., proxy) = without(("west", Kind::Gateway), Some(&full));
    assert_eq!(proxy.names(T::Gateway), full.names(T::Gateway));
}

/// Its Services have its addresses, and were not seen.
#[test]
fn a_gateway_without_an_address_of_its_own_keeps_what_it_had_until_services_are_seen() {
    let mut objects = shop();
    for object in &mut objects {
        if let Spec::Gateway(gateway) = &mut object.spec {
            gateway.addresses.clear();
        }
    }
    let front = GatewayFront {
        gateway: "ew".to_owned(),
        addresses: vec![GatewayAddress::Ip([198, 51, 100, 7].into())],
    };
    let service = Service {
        ports: vec![port("mesh", 15_443)],
        front: Some(Box::new(front)),
        ..Service::default()
    };
    for cluster in ["east", "west"] {
        objects.push(object(
            cluster,
            SYSTEM_NAMESPACE,
            "ew",
            Spec::Service(service.clone()),
        ));
    }
    let told = |world: &World, proxy: &mut Proxy| {
        let mut session = proxy.connect(web(world));
        proxy.settle(&mut session, world);
        let gateway: resource::Gateway = proxy.get(T::Gateway, "west/isthmus-system/ew");
        gateway.addresses
    };
    let world = listed(&objects);
    let mut proxy = Proxy::sidecar(&web(&world), &[LOCAL, EVERYWHERE]);
    let before = told(&world, &mut proxy);
    assert_eq!(before.len(), 1);
    let mut unseen = self::world(&["east", "west"]);
    list(&mut unseen, "east", &objects);
    list_without(&mut unseen, "west", &objects, Kind::Service);
    assert_eq!(told(&unseen, &mut proxy), before);
}

/// Nobody is believed by mistake while it is not known who is cut off.
#[test]
fn whom_to_believe_waits_for_the_trust_policies_of_the_home_cluster() {
    let trust = ("east", Kind::TrustPolicy);
    let (mut world, _, _) = without(trust, None);
    let bundle = resource::TrustBundle {
        trust_domain: "west.mesh.internal".into(),
        cluster: "west".into(),
        ..Default::default()
    };
    world.set_trust_bundle(bundle).unwrap();
    let told = |world: &World| {
        let client = web(world);
        let mut proxy = Proxy::sidecar(&client, &[]);
        let mut session = proxy.connect(client);
        proxy.settle(&mut session, world);
        proxy.names(T::TrustBundle).len()
    };
    // Where everybody speaks for the mesh, who is not seen keeps nobody waiting.
    assert_eq!(told(&world), 1);
    world.set_mesh_authors(Some([id("east")].into()));
    assert_eq!(world.mesh_author_awaited(), Some(&id("east")));
    assert_eq!(told(&world), 0);
    let (cluster, kind) = (id("east"), Kind::TrustPolicy);
    let dirty = world.apply(Change::Listed { cluster, kind }, at(2));
    assert!(dirty.all);
    assert_eq!((world.mesh_author_awaited(), told(&world)), (None, 1));
}
