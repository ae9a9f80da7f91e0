//! Which endpoints does a service have that ends at the node (`internalTrafficPolicy: Local`)?

use super::*;
use crate::session::Session;

/// `cart` of east ends at the node. Of its pods 11 is on n1, 12 and 13 are on n2; `web-1` is on n1.
fn on_nodes() -> Vec<Object> {
    let mut objects = shop();
    for number in [12, 13] {
        objects.push(pod("east", "cart", number));
    }
    objects.push(pod("east", "web", 2));
    objects.push(pod("east", "web", 3));
    for object in &mut objects {
        match &mut object.spec {
            Spec::Pod(pod) => {
                let node = match object.name.as_str() {
                    "web-1" | "cart-11" => "n1",
                    "web-3" => "n3",
                    _ => "n2",
                };
                pod.node = Some(node.to_owned());
            }
            Spec::Service(service) => {
                service.spread = Spread {
                    node_only: true,
                    distribution: None,
                };
            }
            _ => {}
        }
    }
    objects
}

fn called(proxy: &Proxy) -> Vec<&str> {
    let names = proxy.names(T::Endpoint).into_iter();
    names.map(|name| name.split_once('#').unwrap().1).collect()
}

#[test]
fn a_service_that_ends_at_the_node_has_the_endpoints_of_the_callers_node() {
    let objects = on_nodes();
    let of = |workload: &str| seen(&objects, workload, "web", &[LOCAL]);
    assert_eq!(called(&of("east/shop/web-1")), ["east/shop/cart-11"]);
    let two = ["east/shop/cart-12", "east/shop/cart-13"];
    assert_eq!(called(&of("east/shop/web-2")), two);
    // None here is none: it is not called elsewhere.
    let none = of("east/shop/web-3");
    assert!(called(&none).is_empty());
    assert!(none.is_absent(T::Endpoint, LOCAL), "and that is known");
    // The name of all clusters ends at no node.
    let key = "shop/cart.shop.svc.clusterset.local";
    let everywhere = seen(&objects, "east/shop/web-1", "web", &[key]);
    assert_eq!(called(&everywhere).len(), 4);
}

#[test]
fn imports_that_a_name_covers_are_on_no_node_of_the_caller() {
    let mut objects = on_nodes();
    let body = resource::TrafficPolicy::default();
    let covers = TrafficPolicy {
        reach: Reach::Cluster,
        service: "cart".to_owned(),
        body,
        cover_imported: true,
        invalid: None,
        observed: Observed::default(),
    };
    objects.push(object("east", "shop", "cart", Spec::TrafficPolicy(covers)));
    let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    assert_eq!(called(&proxy), ["east/shop/cart-11"]);
}

#[test]
fn a_headless_service_and_pods_that_name_no_node_are_as_without_it() {
    let mut headless = on_nodes();
    let mut nowhere = on_nodes();
    for object in headless.iter_mut().chain(&mut nowhere) {
        if let Spec::Service(service) = &mut object.spec {
            service.kind = ServiceType::Headless;
        }
    }
    for object in &mut nowhere {
        match &mut object.spec {
            Spec::Pod(pod) => pod.node = None,
            Spec::Service(service) => service.kind = ServiceType::ClusterIp,
            _ => {}
        }
    }
    for objects in [headless, nowhere] {
        let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
        assert_eq!(called(&proxy).len(), 3);
    }
}

#[test]
fn an_address_without_a_pod_is_on_the_node_that_its_slice_names() {
    let mut objects = on_nodes();
    let at = |ip: &str, node: &str| SliceEndpoint {
        node: Some(node.to_owned()),
        ..endpoint(ip, true, false, None)
    };
    objects.push(slice(
        "east",
        vec![at("10.9.9.1", "n1"), at("10.9.9.2", "n2")],
    ));
    let proxy = seen(&objects, "east/shop/web-1", "web", &[LOCAL]);
    assert_eq!(called(&proxy), ["east/shop/ip-10-9-9-1.address"]);
}

/// A replica may hear of a sidecar before it hears of its pod.
#[test]
fn who_is_on_no_known_node_is_told_when_it_is() {
    let objects = on_nodes();
    let (web, rest): (Vec<Object>, Vec<Object>) = objects
        .into_iter()
        .partition(|object| object.name == "web-1");
    let mut world = build(&rest);
    let client = client(&world, "east/shop/web-1", "web", "sidecar");
    let mut proxy = Proxy::sidecar(&client, &[LOCAL]);
    let mut session: Session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    assert!(called(&proxy).is_empty() && !proxy.is_absent(T::Endpoint, LOCAL));
    session.dirty(&world.apply(Change::Apply(web[0].clone()), at(3)));
    proxy.settle(&mut session, &world);
    assert_eq!(called(&proxy), ["east/shop/cart-11"]);
}
