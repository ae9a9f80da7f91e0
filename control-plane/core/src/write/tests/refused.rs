//! Is an author told of an object that is not taken as it is?

use super::*;
use crate::sample::{allow, mesh};
use crate::world::{Standing, Standings};

fn refusal(generation: i64, conditions: &[Said]) -> Refusal {
    Refusal {
        reason: "Invalid",
        message: "spec.retries: 99 is more than 10".to_owned(),
        observed: Observed {
            generation,
            conditions: conditions.to_vec(),
            deleting: false,
        },
    }
}

fn policies() -> [Object; 2] {
    let traffic = TrafficPolicy {
        reach: Reach::Cluster,
        service: "cart".into(),
        body: resource::TrafficPolicy::default(),
        cover_imported: false,
        invalid: None,
        observed: Observed::default(),
    };
    [
        object("east", "shop", "t", Spec::TrafficPolicy(traffic)),
        object(
            "east",
            "shop",
            "a",
            Spec::AccessPolicy(allow(PolicyTarget::Namespace)),
        ),
    ]
}

/// The conditions that are written about an object now.
fn told(run: &mut Run, of: &ObjectRef) -> Vec<Vec<Said>> {
    let plan = run.plan();
    let about = plan.writes.into_iter().filter(|write| write.object == *of);
    about
        .map(|write| match write.body {
            Body::Conditions(said) => said,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn tell(run: &mut Run, change: Change) {
    let dirty = run.world.apply(change, at(60));
    run.planner.note(&run.world, &dirty);
}

#[test]
fn an_object_that_is_not_understood_is_told_so_once_and_its_last_good_state_counts() {
    for object in policies() {
        let at = object.reference();
        let mut run = Run::of(&["east"], &[service("east", "cart", 5), object.clone()]);
        run.settle();
        let why = refusal(2, &[]);
        tell(
            &mut run,
            Change::Refused {
                at: at.clone(),
                why,
            },
        );
        let said = told(&mut run, &at);
        assert_eq!(said.len(), 1, "{said:?}");
        let accepted = &said[0][0];
        assert_eq!(
            (accepted.kind.as_str(), accepted.status),
            ("Accepted", Truth::False)
        );
        assert_eq!(
            (accepted.reason.as_str(), accepted.generation),
            ("Invalid", 2)
        );
        assert!(accepted.message.contains("99"), "{accepted:?}");
        // It comes back with what was written, and nothing is written again.
        let why = refusal(2, &said[0]);
        tell(
            &mut run,
            Change::Refused {
                at: at.clone(),
                why,
            },
        );
        assert_eq!(told(&mut run, &at), Vec::<Vec<Said>>::new());
        let held = run.world.page(&id("east"), None, 100).unwrap();
        assert!(held.iter().any(|one| one.reference() == at));
        // A list that still has it, refused, takes nothing away.
        tell(
            &mut run,
            Change::Init {
                cluster: id("east"),
            },
        );
        tell(&mut run, Change::Apply(service("east", "cart", 5)));
        let why = refusal(2, &said[0]);
        tell(
            &mut run,
            Change::Refused {
                at: at.clone(),
                why,
            },
        );
        let kept = BTreeSet::new();
        let cluster = id("east");
        tell(&mut run, Change::InitDone { cluster, kept });
        let held = run.world.page(&id("east"), None, 100).unwrap();
        assert!(held.iter().any(|one| one.reference() == at));
        // It is good again, as it was.
        tell(&mut run, Change::Apply(object.clone()));
        let said = told(&mut run, &at);
        assert!(
            said.iter().flatten().all(|said| said.status == Truth::True),
            "{said:?}"
        );
        assert!(
            run.world
                .conditions()
                .iter()
                .all(|c| c.object != at || c.holds)
        );
    }
}

#[test]
fn one_that_was_never_understood_is_told_so_too_until_it_is_gone() {
    let mut run = Run::of(&["east"], &[]);
    run.settle();
    let at = mesh("east", "n").reference();
    let why = refusal(1, &[]);
    tell(
        &mut run,
        Change::Refused {
            at: at.clone(),
            why,
        },
    );
    assert_eq!(told(&mut run, &at)[0][0].reason, "Invalid");
    tell(&mut run, Change::Delete(at.clone()));
    run.planner.everything(&run.world);
    assert_eq!(told(&mut run, &at), Vec::<Vec<Said>>::new());
}

/// The last good MeshCluster is a member, and its object says that it is not as it is written.
#[test]
fn a_member_whose_object_becomes_wrong_is_told_so_beside_what_becomes_of_it() {
    let mut run = Run::of(&["east"], &[mesh("east", "n")]);
    run.settle();
    let one = |kind| Standing {
        kind,
        holds: Some(true),
        reason: kind,
        message: String::new(),
    };
    let standings = vec![one("Accepted"), one("Synced")];
    let standings = Standings::from([((Kind::MeshCluster, "east".to_owned()), standings)]);
    let dirty = run.world.set_standings(&id("east"), standings);
    run.planner.note(&run.world, &dirty);
    run.settle();
    let at = mesh("east", "n").reference();
    let why = refusal(2, &[]);
    tell(
        &mut run,
        Change::Refused {
            at: at.clone(),
            why,
        },
    );
    let said = told(&mut run, &at);
    let short: Vec<_> = said
        .iter()
        .flatten()
        .map(|said| (said.kind.as_str(), said.status, said.generation))
        .collect();
    assert_eq!(
        short,
        [("Accepted", Truth::False, 2), ("Synced", Truth::True, 2)]
    );
}
