//! Does everybody hear what concerns them, and nobody speak for others?

use std::collections::BTreeSet;

use super::*;
use isthmus_control_plane_core::model::{
    AccessPolicy, Labels, Object, ObjectRef, Observed, PolicyTarget,
};
use isthmus_control_plane_core::world::State;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn east() -> ClusterId {
    "east".parse().unwrap()
}

fn namespace(cluster: &ClusterId, name: &str) -> Change {
    let (cluster, name) = (cluster.clone(), name.to_owned());
    let spec = Spec::Namespace(Labels::new());
    Change::Apply(Object {
        cluster,
        namespace: None,
        name,
        created: None,
        spec,
    })
}

fn listed(cluster: &ClusterId) -> Change {
    Change::InitDone {
        cluster: cluster.clone(),
        kept: BTreeSet::new(),
    }
}

fn start() -> (Arc<Hub>, mpsc::Sender<Change>, mpsc::Sender<Change>) {
    let mut world = World::new("mesh.internal").unwrap();
    let west: ClusterId = "west".parse().unwrap();
    world.add_cluster(&east()).unwrap();
    world.add_cluster(&west).unwrap();
    let hub = Arc::new(Hub::new(world));
    let (from_east, to_east) = mpsc::channel(CHANGES_MAX);
    let (from_west, to_west) = mpsc::channel(CHANGES_MAX);
    let writer = Arc::clone(&hub);
    hub.join(&east(), to_east);
    hub.join(&west, to_west);
    tokio::spawn(async move { writer.run().await });
    (hub, from_east, from_west)
}

fn state(hub: &Hub, cluster: &str) -> State {
    hub.read(|world| world.state(cluster).unwrap())
}

#[tokio::test]
async fn a_session_hears_of_what_is_different() {
    let (hub, from_east, _from_west) = start();
    let inbox = hub.subscribe();
    let all = [Change::Init { cluster: east() }, listed(&east())];
    for change in all {
        from_east.send(change).await.unwrap();
    }
    let news = timeout(LIMIT, inbox.next()).await.unwrap();
    assert!(news.iter().all(|one| !one.dirty.is_empty()));
    assert_eq!(
        (state(&hub, "east"), state(&hub, "west")),
        (State::Synced, State::Unknown)
    );
}

/// Time stands still unless everybody waits: what is kept back would cost some of it.
#[tokio::test(start_paused = true)]
async fn who_may_come_in_is_not_kept_back() {
    let (hub, from_east, _from_west) = start();
    let inbox = hub.subscribe();
    for change in [Change::Init { cluster: east() }, listed(&east())] {
        from_east.send(change).await.unwrap();
    }
    timeout(LIMIT, inbox.next()).await.unwrap();
    let policy = |name: &str| Object {
        cluster: east(),
        namespace: Some("shop".parse().unwrap()),
        name: name.to_owned(),
        created: None,
        spec: Spec::AccessPolicy(AccessPolicy {
            target: PolicyTarget::Namespace,
            body: Some(isthmus_proto::resource::AccessPolicy::default()),
            inbound: None,
            invalid: None,
            observed: Observed::default(),
        }),
    };
    for change in [
        Change::Apply(policy("closed")),
        Change::Delete(policy("closed").reference()),
    ] {
        let begun = Instant::now();
        from_east.send(change).await.unwrap();
        timeout(LIMIT, inbox.next()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}

#[tokio::test]
async fn what_a_session_has_not_looked_at_is_merged() {
    let (hub, _from_east, _from_west) = start();
    let inbox = hub.subscribe();
    for _ in 0..1000 {
        hub.change(|world| world.remove_cluster(&east()));
        hub.change(|world| world.add_cluster(&east()).unwrap());
    }
    let news = inbox.next().await;
    assert!(news.len() <= NEWS_MAX, "{} pieces of news", news.len());
    let again = timeout(Duration::ZERO, inbox.next()).await;
    assert!(again.is_err(), "one set of names, however many changes");
}

#[tokio::test]
async fn a_source_speaks_for_its_own_cluster_only() {
    let (hub, from_east, from_west) = start();
    let inbox = hub.subscribe();
    // West says that east is listed, and empty.
    from_west
        .send(Change::Init { cluster: east() })
        .await
        .unwrap();
    from_west.send(listed(&east())).await.unwrap();
    let of_east = ObjectRef {
        cluster: east(),
        kind: Kind::Namespace,
        namespace: None,
        name: "shop".to_owned(),
    };
    from_west.send(Change::Delete(of_east)).await.unwrap();
    let west: ClusterId = "west".parse().unwrap();
    from_west
        .send(Change::Init {
            cluster: west.clone(),
        })
        .await
        .unwrap();
    from_west.send(namespace(&west, "shop")).await.unwrap();
    from_west.send(listed(&west)).await.unwrap();
    timeout(LIMIT, inbox.next()).await.unwrap();
    assert_eq!(
        (state(&hub, "east"), state(&hub, "west")),
        (State::Unknown, State::Synced)
    );
    drop(from_east);
}

#[tokio::test]
async fn a_source_that_ends_loses_its_cluster() {
    let (hub, from_east, _from_west) = start();
    let inbox = hub.subscribe();
    from_east
        .send(Change::Init { cluster: east() })
        .await
        .unwrap();
    from_east.send(listed(&east())).await.unwrap();
    timeout(LIMIT, inbox.next()).await.unwrap();
    drop(from_east);
    timeout(LIMIT, async {
        while state(&hub, "east") != State::Stale {
            inbox.next().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_source_that_takes_anothers_seat_is_the_one_that_is_heard() {
    let (hub, from_east, _from_west) = start();
    let inbox = hub.subscribe();
    for change in [Change::Init { cluster: east() }, namespace(&east(), "shop")] {
        from_east.send(change).await.unwrap();
    }
    from_east.send(listed(&east())).await.unwrap();
    timeout(LIMIT, inbox.next()).await.unwrap();
    let (again, receiver) = mpsc::channel(CHANGES_MAX);
    hub.join(&east(), receiver);
    timeout(LIMIT, from_east.closed()).await.unwrap();
    let count = || {
        hub.read(|world| {
            let status = world.clusters().find(|c| *c.cluster == east()).unwrap();
            let namespaces = status.objects.get(&Kind::Namespace).copied().unwrap_or(0);
            (status.state, namespaces)
        })
    };
    assert_eq!(
        count(),
        (State::Synced, 1),
        "the seat alone changes nothing"
    );
    for name in ["shop", "bank"] {
        again.send(namespace(&east(), name)).await.unwrap();
    }
    timeout(LIMIT, async {
        while count() != (State::Synced, 2) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cluster_joins_and_leaves_while_the_others_are_heard() {
    let (hub, _from_east, from_west) = start();
    let north: ClusterId = "north".parse().unwrap();
    hub.change(|world| world.add_cluster(&north).unwrap());
    let (from_north, receiver) = mpsc::channel(CHANGES_MAX);
    hub.join(&north, receiver);
    let init = Change::Init {
        cluster: north.clone(),
    };
    from_north.send(init).await.unwrap();
    from_north.send(listed(&north)).await.unwrap();
    let until = async |cluster: &str, wanted: Option<State>| {
        timeout(LIMIT, async {
            while hub.read(|world| world.state(cluster)) != wanted {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    };
    until("north", Some(State::Synced)).await;
    hub.leave(&north);
    hub.change(|world| world.remove_cluster(&north));
    timeout(LIMIT, from_north.closed()).await.unwrap();
    let west: ClusterId = "west".parse().unwrap();
    let init = Change::Init {
        cluster: west.clone(),
    };
    from_west.send(init).await.unwrap();
    from_west.send(listed(&west)).await.unwrap();
    until("west", Some(State::Synced)).await;
    until("north", None).await;
}
