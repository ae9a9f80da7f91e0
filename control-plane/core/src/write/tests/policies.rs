//! Is each policy told what became of it, and nothing looked at that is as it was?

use super::*;
use crate::sample::allow;
use crate::world::Dirty;

fn traffic(name: &str, service: &str, created: u64) -> Object {
    let policy = TrafficPolicy {
        reach: Reach::Cluster,
        service: service.to_owned(),
        body: resource::TrafficPolicy::default(),
        cover_imported: false,
        invalid: None,
        observed: Observed::default(),
    };
    let mut object = object("east", "shop", name, Spec::TrafficPolicy(policy));
    object.created = Some(at(created));
    object
}

fn access(name: &str, service: &str) -> Object {
    let target = PolicyTarget::Services([service.to_owned()].into());
    object("east", "shop", name, Spec::AccessPolicy(allow(target)))
}

/// Name, and why it is (not) accepted or resolved, of all policies that have something new to be told.
fn told(run: &mut Run) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for write in run.plan().writes {
        let Body::Conditions(said) = &write.body else {
            panic!("{write:?}")
        };
        let reasons: Vec<&str> = said.iter().map(|said| said.reason.as_str()).collect();
        told.push((write.object.name.clone(), reasons.join(" ")));
        assert_eq!(run.servers.write(&write), Ok(()));
    }
    told.sort();
    // What is looked at for two reasons is planned twice, and sent once.
    told.dedup();
    told
}

fn pair(name: &str, reason: &str) -> (String, String) {
    (name.to_owned(), reason.to_owned())
}

#[test]
fn a_change_of_one_policy_looks_at_no_other_service() {
    let count = 500;
    let many = (0..count).flat_map(|n| {
        let name = format!("n{n}");
        [
            traffic(&format!("t{n}"), &name, 5),
            access(&format!("a{n}"), &name),
        ]
    });
    let many: Vec<Object> = many.collect();
    let mut run = Run::of(&["east"], &many);
    assert_eq!(told(&mut run).len(), 2 * count);
    // What was written comes back: each is as it should be, and is looked at for itself.
    run.watch();
    let unchanged = run.plan().unchanged;
    let looks = unchanged.get("conditions").copied().unwrap_or(0);
    assert!(looks <= 4 * u64::try_from(count).unwrap(), "{looks}");
    run.put(traffic("one-more", "web", 6));
    let plan = run.plan();
    assert_eq!(plan.writes.len(), 1);
    assert!(
        plan.unchanged.values().sum::<u64>() < 5,
        "{:?}",
        plan.unchanged
    );
    run.put(access("one-more", "web"));
    let plan = run.plan();
    assert!(
        plan.unchanged.values().sum::<u64>() < 5,
        "{:?}",
        plan.unchanged
    );
}

#[test]
fn what_the_mesh_has_said_itself_is_no_news_for_anybody() {
    let mut run = Run::of(&["east"], &[traffic("t", "cart", 5), access("a", "cart")]);
    assert_eq!(told(&mut run).len(), 2);
    let changes = run.servers.changes(|_| true).into_iter();
    let is_policy = |change: &Change| match change {
        Change::Apply(object) => object.namespace.is_some(),
        other => panic!("{other:?}"),
    };
    let changes: Vec<Change> = changes.filter(is_policy).collect();
    assert_eq!(changes.len(), 2);
    for change in changes {
        let dirty = run.world.apply(change, at(50));
        assert_eq!(dirty.objects.len(), 1);
        let of_it = Dirty {
            objects: dirty.objects.clone(),
            ..Dirty::default()
        };
        assert_eq!(dirty, of_it);
    }
}

#[test]
fn of_policies_for_one_service_each_hears_of_the_others() {
    let mut run = Run::of(
        &["east"],
        &[service("east", "cart", 5), traffic("young", "cart", 20)],
    );
    assert_eq!(told(&mut run), [pair("young", "Accepted")]);
    run.watch();
    run.put(traffic("old", "cart", 10));
    assert_eq!(
        told(&mut run),
        [pair("old", "Accepted"), pair("young", "Conflicted")]
    );
    run.watch();
    // It means another service now, that is not there yet.
    run.put(traffic("old", "web", 10));
    assert_eq!(
        told(&mut run),
        [pair("old", "TargetNotFound"), pair("young", "Accepted")]
    );
    run.watch();
    run.put(service("east", "web", 30));
    assert_eq!(told(&mut run), [pair("old", "Accepted")]);
    run.watch();
    run.put(traffic("third", "cart", 15));
    assert_eq!(
        told(&mut run),
        [pair("third", "Accepted"), pair("young", "Conflicted")]
    );
    run.watch();
    run.remove(&traffic("third", "cart", 15).reference());
    assert_eq!(told(&mut run), [pair("young", "Accepted")]);
}

#[test]
fn an_access_policy_hears_of_its_services() {
    let mut run = Run::of(&["east"], &[access("a", "cart"), access("b", "web")]);
    let nowhere = "Accepted TargetNotFound";
    assert_eq!(told(&mut run), [pair("a", nowhere), pair("b", nowhere)]);
    run.watch();
    assert_eq!(told(&mut run), []);
    run.put(service("east", "cart", 30));
    assert_eq!(told(&mut run), [pair("a", "Accepted ResolvedRefs")]);
    run.watch();
    run.remove(&service("east", "cart", 30).reference());
    assert_eq!(told(&mut run), [pair("a", nowhere)]);
}
