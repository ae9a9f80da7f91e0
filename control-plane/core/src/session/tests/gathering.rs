//! Does a cluster that is named and can't join yet keep another one's word waiting?

use isthmus_proto::resource::TrustBundle;

use super::*;
use crate::model::{Kind, TrustPolicy};
use crate::world::{NOT_ADMITTED, Standing, Standings};

fn standings(refused: &[&str]) -> Standings {
    let one = |name: &&str| {
        let said = Standing {
            kind: "Accepted",
            holds: Some(false),
            reason: NOT_ADMITTED,
            message: String::new(),
        };
        ((Kind::MeshCluster, (*name).to_owned()), vec![said])
    };
    refused.iter().map(one).collect()
}

/// East, which is home, and west; north is named, and its keys can't be had.
fn with_north_awaited() -> (World, Session, Proxy) {
    let mut world = listed(&shop());
    for cluster in ["east", "west"] {
        let bundle = TrustBundle {
            trust_domain: format!("{cluster}.mesh.internal"),
            cluster: cluster.to_owned(),
            sequence: 1,
            ..TrustBundle::default()
        };
        world.set_trust_bundle(bundle).unwrap();
    }
    world.set_mesh_authors(Some([id("east")].into()));
    world.set_standings(&id("east"), standings(&["north"]));
    let client = web(&world);
    let mut proxy = Proxy::sidecar(&client, &[EVERYWHERE]);
    let mut session = proxy.connect(client);
    proxy.settle(&mut session, &world);
    assert_eq!(
        proxy.names(T::TrustBundle),
        ["east.mesh.internal", "west.mesh.internal"]
    );
    (world, session, proxy)
}

fn cut_off(cluster: &str) -> Object {
    let policy = TrustPolicy {
        distrusted: [id(cluster)].into(),
        ..TrustPolicy::default()
    };
    object("east", "", "cut", Spec::TrustPolicy(policy))
}

#[test]
fn a_cluster_is_cut_off_while_another_one_can_not_join() {
    let (mut world, mut session, mut proxy) = with_north_awaited();
    tell(&mut world, &mut session, Change::Apply(cut_off("west")));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle), ["east.mesh.internal"]);
    let cut = cut_off("west").reference();
    tell(&mut world, &mut session, Change::Delete(cut));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle).len(), 2);
}

#[test]
fn a_cluster_leaves_while_another_one_can_not_join() {
    let (mut world, mut session, mut proxy) = with_north_awaited();
    session.dirty(&world.remove_cluster(&id("west")));
    let domain = "west.mesh.internal".parse().unwrap();
    session.dirty(&world.remove_trust_bundle(&domain));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle), ["east.mesh.internal"]);
    let endpoints = proxy.names(T::Endpoint);
    assert!(
        !endpoints.iter().any(|name| name.contains("#west/")),
        "{endpoints:?}"
    );
    assert!(!endpoints.is_empty());
    assert!(
        !proxy
            .names(T::Gateway)
            .iter()
            .any(|name| name.starts_with("west"))
    );
}

/// What other replicas have told of it stays.
#[test]
fn the_one_that_can_not_join_keeps_its_roots() {
    let (mut world, _, mut proxy) = with_north_awaited();
    // West is named, too, and this replica has not taken it in.
    world.remove_cluster(&id("west"));
    world.remove_trust_bundle(&"west.mesh.internal".parse().unwrap());
    world.set_standings(&id("east"), standings(&["north", "west"]));
    let mut session = proxy.connect(web(&world));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle).len(), 2);
    assert!(
        proxy
            .names(T::Endpoint)
            .iter()
            .any(|name| name.contains("#west/"))
    );
}

/// Whom the clusters that were heard cut off is cut off, whatever those would say that were not.
#[test]
fn a_cluster_is_cut_off_while_another_author_was_not_heard() {
    let (mut world, mut session, mut proxy) = with_north_awaited();
    session.dirty(&world.add_cluster(&id("north")).unwrap());
    session.dirty(&world.set_mesh_authors(Some([id("east"), id("north")].into())));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle).len(), 2);
    tell(&mut world, &mut session, Change::Apply(cut_off("west")));
    proxy.settle(&mut session, &world);
    assert_eq!(proxy.names(T::TrustBundle), ["east.mesh.internal"]);
}
