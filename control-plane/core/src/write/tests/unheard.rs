//! Does a cluster that was never heard keep waiting only what may be its own?

use super::*;

/// East, west and north, each with a service `cart`; these export it.
fn three(exporters: &[&str]) -> Run {
    let clusters = ["east", "north", "west"];
    let mut objects: Vec<Object> = clusters.iter().map(|c| service(c, "cart", 5)).collect();
    objects.extend(exporters.iter().map(|cluster| export(cluster, "cart")));
    let mut run = Run::of(&clusters, &objects);
    run.settle();
    run
}

/// A control plane that has just started, and can't reach north.
fn restart_without_north(run: &mut Run) {
    run.world = world(&["east", "north", "west"]);
    run.planner = Planner::default();
    run.relist("east");
    run.relist("west");
}

fn ready(run: &Run, cluster: &str) -> Said {
    let import = run.import(cluster, "cart").unwrap();
    let mut conditions = import.observed.conditions.into_iter();
    conditions.find(|said| said.kind == "Ready").unwrap()
}

#[test]
fn what_it_never_exported_goes_without_it() {
    let mut run = three(&["west"]);
    restart_without_north(&mut run);
    run.remove(&export("west", "cart").reference());
    run.settle();
    for cluster in ["east", "west"] {
        assert_eq!(run.import(cluster, "cart"), None);
        assert_eq!(run.derived(cluster, "cart"), None);
    }
}

#[test]
fn what_it_exported_stays_and_says_for_whom_it_waits() {
    let mut run = three(&["north", "west"]);
    restart_without_north(&mut run);
    run.remove(&export("west", "cart").reference());
    run.settle();
    for cluster in ["east", "west"] {
        assert!(run.derived(cluster, "cart").is_some());
        let said = ready(&run, cluster);
        assert_eq!(said.status, Truth::True, "{said:?}");
        assert!(
            said.message.ends_with("stays until north is heard"),
            "{said:?}"
        );
    }
    let told = run.world.conditions();
    let told = told.iter().filter(|said| said.reason == "ExporterNotHeard");
    let told: Vec<_> = told.map(|said| said.object.to_string()).collect();
    let at = ["east", "west"].map(|cluster| format!("{cluster}: ServiceImport shop/cart"));
    assert_eq!(told, at);
    // It goes on to export it.
    run.relist("north");
    run.settle();
    assert_eq!(ready(&run, "east").message, "");
    // And then it does not.
    run.remove(&export("north", "cart").reference());
    run.settle();
    assert_eq!(run.import("east", "cart"), None);
    assert!(
        run.world
            .conditions()
            .iter()
            .all(|said| said.reason != "ExporterNotHeard")
    );
}

#[test]
fn what_a_cluster_exported_that_has_left_goes_without_the_others() {
    let mut run = three(&["west"]);
    restart_without_north(&mut run);
    let dirty = run.world.remove_cluster(&id("west"));
    run.planner.note(&run.world, &dirty);
    run.writable.remove(&id("west"));
    run.settle();
    assert_eq!(run.import("east", "cart"), None);
}

#[test]
fn a_conflict_with_what_is_known_to_be_gone_is_over() {
    let mut run = three(&["east"]);
    let mut other = service("west", "cart", 5);
    if let Spec::Service(service) = &mut other.spec {
        service.ports = vec![port("http", 81)];
    }
    run.put(other);
    run.put(export("west", "cart"));
    run.settle();
    let conflict = |run: &Run| {
        let Some(Spec::ServiceExport(export)) =
            run.servers.get("east", Kind::ServiceExport, "cart")
        else {
            panic!("no export")
        };
        let mut conditions = export.observed.conditions.into_iter();
        conditions
            .find(|said| said.kind == "Conflict")
            .unwrap()
            .status
    };
    assert_eq!(conflict(&run), Truth::True);
    restart_without_north(&mut run);
    run.remove(&export("west", "cart").reference());
    run.settle();
    assert_eq!(conflict(&run), Truth::False);
}
