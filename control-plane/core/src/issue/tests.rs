//! Does nobody get an identity that is not theirs?

use super::*;
use crate::model::{Change, Object, Pod, Spec};
use proptest::prelude::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn cluster(name: &str) -> ClusterId {
    name.parse().unwrap()
}

/// East has the pod shop/cart-1 with the account cart.
fn world(listed: bool) -> World {
    let mut world = World::new("mesh.internal").unwrap();
    world.add_cluster(&cluster("east")).unwrap();
    world.add_cluster(&cluster("west")).unwrap();
    let pod = Pod {
        service_account: "cart".into(),
        ..Pod::default()
    };
    let object = Object {
        cluster: cluster("east"),
        namespace: Some("shop".parse().unwrap()),
        name: "cart-1".into(),
        created: None,
        spec: Spec::Pod(pod),
    };
    world.apply(Change::Apply(object), at(0));
    if listed {
        world.apply(
            Change::InitDone {
                cluster: cluster("east"),
                kept: std::collections::BTreeSet::new(),
            },
            at(0),
        );
    }
    world
}

/// An identity that may be cut off is not given out while that is not known.
#[test]
fn nobody_gets_an_identity_before_it_is_known_who_is_cut_off() {
    use crate::model::Kind;
    let mut world = world(true);
    let issued = |world: &World| ask(world, &claims(), &CSR).map(drop);
    world.set_mesh_authors(Some([cluster("west")].into()));
    assert_eq!(issued(&world), Err(Refused::Unheard(cluster("west"))));
    let done = Change::InitDone {
        cluster: cluster("west"),
        kept: [Kind::TrustPolicy].into(),
    };
    world.apply(done, at(1));
    assert_eq!(issued(&world), Err(Refused::Unheard(cluster("west"))));
    let late = Change::Listed {
        cluster: cluster("west"),
        kind: Kind::TrustPolicy,
    };
    world.apply(late, at(1));
    assert_eq!(issued(&world), Ok(()));
}

fn claims() -> Claims {
    Claims {
        cluster: cluster("east"),
        namespace: "shop".into(),
        service_account: "cart".into(),
        pod: Some("cart-1".into()),
        pod_uid: None,
        node: None,
        node_uid: None,
        audiences: vec![AUDIENCE.into()],
        not_before: Some(at(0)),
        expires: at(3600),
    }
}

fn authority(name: &str) -> Authority {
    let trust_domain = TrustDomain::of_cluster(&cluster(name), "mesh.internal").unwrap();
    Authority {
        trust_domain,
        not_after: at(1_000_000),
        lifetime: LIFETIME,
        cut_off: false,
    }
}

const CSR: CsrFacts = CsrFacts {
    bytes: 300,
    key: KeyKind::EcdsaP256,
    signature_valid: true,
};

fn ask(world: &World, claims: &Claims, csr: &CsrFacts) -> Result<Grant, Refused> {
    issue(
        world,
        (claims, "east"),
        csr,
        &authority("east"),
        [0xff; 16],
        at(10),
    )
}

#[test]
fn a_pod_gets_its_own_identity_for_36_hours() {
    let grant = ask(&world(true), &claims(), &CSR).unwrap();
    assert_eq!(
        grant.identity.as_str(),
        "spiffe://east.mesh.internal/ns/shop/sa/cart"
    );
    assert_eq!(grant.not_before, at(10) - BACKDATED);
    assert_eq!(grant.not_after, at(10) + LIFETIME);
    assert_eq!(grant.serial[0], 0x7f);
}

#[test]
fn a_token_that_is_foreign_old_or_orphaned_gets_nothing() {
    let world = world(true);
    let refused = |change: &dyn Fn(&mut Claims)| {
        let mut changed = claims();
        change(&mut changed);
        ask(&world, &changed, &CSR).unwrap_err().to_string()
    };
    assert!(refused(&|c| c.cluster = cluster("west")).contains("another cluster"));
    assert!(refused(&|c| c.audiences = vec!["kubernetes".into()]).contains("audience"));
    assert!(refused(&|c| c.expires = at(10)).contains("expired"));
    assert!(refused(&|c| c.not_before = Some(at(11))).contains("not valid yet"));
    assert!(refused(&|c| c.pod = Some("cart-2".into())).contains("gone"));
    assert!(refused(&|c| c.service_account = "admin".into()).contains("another service account"));
    let foreign = issue(
        &world,
        (&claims(), "east"),
        &CSR,
        &authority("west"),
        [0; 16],
        at(10),
    );
    assert!(matches!(foreign, Err(Refused::Token(_))), "{foreign:?}");
}

#[test]
fn a_pod_is_gone_only_if_its_cluster_is_seen() {
    let mut other = claims();
    other.pod = Some("cart-2".into());
    assert!(ask(&world(false), &other, &CSR).is_ok());
    let mut lost = world(true);
    lost.apply(
        Change::Lost {
            cluster: cluster("east"),
            reason: "gone".into(),
        },
        at(1),
    );
    assert!(ask(&lost, &other, &CSR).is_ok());
}

#[test]
fn weak_or_unproven_keys_are_refused() {
    let world = world(true);
    for csr in [
        CsrFacts {
            key: KeyKind::Rsa { bits: 1024 },
            ..CSR
        },
        CsrFacts {
            key: KeyKind::Rsa { bits: 16_384 },
            ..CSR
        },
        CsrFacts {
            key: KeyKind::Other,
            ..CSR
        },
        CsrFacts {
            signature_valid: false,
            ..CSR
        },
        CsrFacts {
            bytes: CSR_BYTES_MAX + 1,
            ..CSR
        },
    ] {
        assert!(
            matches!(ask(&world, &claims(), &csr), Err(Refused::Csr(_))),
            "{csr:?}"
        );
    }
}

#[test]
fn nothing_outlives_its_issuer_and_a_cut_off_cluster_gets_nothing() {
    let world = world(true);
    let ask = |authority: &Authority| {
        issue(
            &world,
            (&claims(), "east"),
            &CSR,
            authority,
            [0; 16],
            at(10),
        )
    };
    let short = Authority {
        not_after: at(7_210),
        ..authority("east")
    };
    assert_eq!(ask(&short).unwrap().not_after, at(7_210));
    let over = Authority {
        not_after: at(20),
        ..authority("east")
    };
    assert_eq!(ask(&over), Err(Refused::Issuer(cluster("east"))));
    let cut = Authority {
        cut_off: true,
        ..authority("east")
    };
    assert_eq!(ask(&cut), Err(Refused::CutOff(cluster("east"))));
}

/// A StatefulSet's pods have the names of those before them.
#[test]
fn a_token_of_a_pod_that_had_the_name_before_is_worth_nothing() {
    let mut world = world(true);
    let pod = Pod {
        service_account: "cart".into(),
        uid: Some("new".into()),
        ..Pod::default()
    };
    let object = Object {
        cluster: cluster("east"),
        namespace: Some("shop".parse().unwrap()),
        name: "cart-1".into(),
        created: None,
        spec: Spec::Pod(pod),
    };
    world.apply(Change::Apply(object), at(1));
    let of = |uid: Option<&str>| Claims {
        pod_uid: uid.map(str::to_owned),
        ..claims()
    };
    assert!(ask(&world, &of(Some("new")), &CSR).is_ok());
    assert!(ask(&world, &of(None), &CSR).is_ok());
    let old = ask(&world, &of(Some("old")), &CSR).unwrap_err();
    assert!(old.to_string().contains("another one"), "{old}");
}

#[test]
fn a_flood_is_throttled_and_others_are_not() {
    let mut throttle = Throttle::for_certificates();
    let now = Instant::now();
    let served = (0..1_000)
        .filter(|_| throttle.take("a", now).is_ok())
        .count();
    assert_eq!(served, 10);
    assert_eq!(throttle.take("a", now), Err(Duration::from_secs(10)));
    assert_eq!(throttle.take("b", now), Ok(()));
    assert_eq!(throttle.take("a", now + Duration::from_secs(10)), Ok(()));
    assert!(throttle.take("a", now + Duration::from_secs(10)).is_err());
}

proptest! {
    /// S9: whatever the token and the request claim, no identity of another cluster comes out.
    #[test]
    fn no_foreign_identity_is_ever_issued(
        ns in "[a-z./%]{0,12}", account in "[a-z./%]{0,12}", claimed in "(east|west|north)",
        home in "(east|west|north)", by in "(east|west)", pod in proptest::option::of("[a-z./-]{0,8}"),
    ) {
        let claims = Claims {
            cluster: cluster(&home), namespace: ns.clone(), service_account: account.clone(), pod, ..claims()
        };
        let grant = issue(&world(true), (&claims, &claimed), &CSR, &authority(&by), [7; 16], at(10));
        if let Ok(grant) = grant {
            prop_assert_eq!(grant.identity.trust_domain().cluster(), &claimed);
            prop_assert_eq!(&claimed, &home);
            prop_assert_eq!(grant.identity.namespace(), ns);
            prop_assert_eq!(grant.identity.service_account(), account);
        }
    }
}
