//! Is an author told of an object that is not taken as it is?

use super::*;
use crate::model::NOT_TAKEN;
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

/// What governs is remembered first, however many others are refused.
#[test]
fn many_refusals_of_one_kind_hide_none_that_matters_more() {
    let mut run = Run::of(&["east"], &[]);
    let refused = |kind: Kind, namespace: Option<&str>, name: String| Change::Refused {
        at: ObjectRef {
            cluster: "east".parse().unwrap(),
            kind,
            namespace: namespace.map(|text| text.parse().unwrap()),
            name,
        },
        why: refusal(1, &[]),
    };
    for at in 0..1_100 {
        let name = format!("t{at:04}");
        tell(&mut run, refused(Kind::TrafficPolicy, Some("shop"), name));
    }
    tell(
        &mut run,
        refused(Kind::AccessPolicy, Some("shop"), "who".to_owned()),
    );
    tell(
        &mut run,
        refused(Kind::TrustPolicy, None, "cut-off".to_owned()),
    );
    let told: Vec<_> = run
        .plan()
        .writes
        .into_iter()
        .map(|write| write.object)
        .collect();
    let count = |kind: Kind| told.iter().filter(|at| at.kind == kind).count();
    assert_eq!(
        (count(Kind::AccessPolicy), count(Kind::TrustPolicy)),
        (1, 1)
    );
    assert_eq!(count(Kind::TrafficPolicy), 998);
}

/// What stands in the place of policies that were not taken denies, and has no status.
#[test]
fn a_stand_in_denies_and_is_told_to_nobody_as_an_object() {
    let stand_in = object(
        "east",
        "shop",
        NOT_TAKEN,
        Spec::AccessPolicy(AccessPolicy {
            target: PolicyTarget::Namespace,
            body: None,
            inbound: None,
            invalid: Some("some were not taken".to_owned()),
            observed: Observed::default(),
        }),
    );
    let mut run = Run::of(&["east"], &[]);
    tell(&mut run, Change::Apply(stand_in));
    let conditions = run.world.conditions();
    let found = conditions.iter().find(|c| c.object.name == NOT_TAKEN);
    assert!(found.is_some_and(|c| !c.holds), "{conditions:?}");
    assert_eq!(run.plan().writes, []);
}
