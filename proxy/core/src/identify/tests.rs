//! Is nobody taken for somebody else?

use super::*;
use proptest::prelude::*;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn bundle(domain: &str, roots: &[&[u8]], sequence: u64) -> resource::TrustBundle {
    resource::TrustBundle {
        trust_domain: domain.into(),
        roots: roots.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
        sequence,
        ..Default::default()
    }
}

/// Takes any bytes for a certificate.
fn any(_: &[u8]) -> Result<(), String> {
    Ok(())
}

const CART: &str = "spiffe://east.mesh.internal/ns/shop/sa/cart";

#[test]
fn exactly_one_uri_names_a_workload() {
    assert_eq!(identity_of(&[CART], false), Ok(id(CART)));
    assert_eq!(identity_of(&[CART], true), Ok(id(CART)));
    assert_eq!(
        identity_of(&[], true),
        Err(NotIdentified::NoUri { others: true })
    );
    assert_eq!(
        identity_of(&[], false),
        Err(NotIdentified::NoUri { others: false })
    );
    assert_eq!(
        identity_of(&[CART, CART], false),
        Err(NotIdentified::SeveralUris(2))
    );
    assert_eq!(
        identity_of(&[CART, "https://a"], false),
        Err(NotIdentified::SeveralUris(2))
    );
}

#[test]
fn names_that_two_readers_could_take_differently_are_refused() {
    let long = format!("spiffe://a.b/ns/x/sa/{}", "y".repeat(2_049));
    for bad in [
        "",
        "https://east.mesh.internal/ns/shop/sa/cart",
        "spiffe://EAST.mesh.internal/ns/shop/sa/cart",
        "spiffe://east.mesh.internal",
        "spiffe://east.mesh.internal/",
        "spiffe://u@east.mesh.internal/ns/shop/sa/cart",
        "spiffe://east.mesh.internal:1/ns/shop/sa/cart",
        "spiffe://east.mesh.internal/ns/shop/sa/cart?x",
        "spiffe://east.mesh.internal/ns/shop/sa/cart#x",
        "spiffe://east.mesh.internal/ns/shop/sa/cart/",
        "spiffe://east.mesh.internal/ns//shop/sa/cart",
        "spiffe://east.mesh.internal/ns/../sa/cart",
        "spiffe://east.mesh.internal/ns/%2e/sa/cart",
        "spiffe://east.mesh.internal/ns/shop/sa/cart\0.evil",
        long.as_str(),
    ] {
        let got = identity_of(&[bad], false);
        assert!(
            matches!(got, Err(NotIdentified::Malformed(_))),
            "{bad:?}: {got:?}"
        );
    }
}

#[test]
fn an_authoritys_certificate_stands_for_no_workload() {
    let leaf = LeafFacts {
        chain: 2,
        ..LeafFacts::default()
    };
    assert_eq!(check_leaf(&leaf), Ok(()));
    for bad in [
        LeafFacts {
            is_ca: true,
            ..leaf
        },
        LeafFacts {
            signs_certificates: true,
            ..leaf
        },
        LeafFacts {
            signs_revocations: true,
            ..leaf
        },
        LeafFacts {
            chain: CHAIN_CERTIFICATES_MAX + 1,
            ..leaf
        },
    ] {
        assert!(check_leaf(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn peers_are_compared_by_their_whole_id() {
    let cart = id(CART);
    let other = id("spiffe://west.mesh.internal/ns/shop/sa/cart");
    assert_eq!(accept_peer(&cart, Expected::Anyone).unwrap().id, cart);
    assert_eq!(
        accept_peer(&cart, Expected::Exactly(&cart)).unwrap().id,
        cart
    );
    let refused = accept_peer(&other, Expected::Exactly(&cart)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("expected {cart}, but {other} answered")
    );
}

#[test]
fn bad_bundles_are_refused_and_their_siblings_kept() {
    let long = vec![0x30; ROOT_BYTES_MAX + 1];
    let many = vec![b"r".as_slice(); ROOTS_MAX + 1];
    let (all, refused) = TrustBundles::compile(
        &[
            bundle("East.mesh", &[b"r"], 1),
            bundle("", &[b"r"], 1),
            bundle("a.b", &[b"r", b""], 1),
            bundle("a.b", &[&long], 1),
            bundle("a.b", &many, 1),
            bundle("west.mesh", &[b"w"], 1),
        ],
        any,
    );
    assert_eq!(all.len(), 1);
    assert_eq!(refused.len(), 5);
    assert_eq!(
        refused[2].to_string(),
        "a.b: roots[1]: 0 bytes; 1 to 16384 are allowed"
    );
    assert!(all.roots(&"west.mesh".parse().unwrap()).is_some());
    assert!(all.roots(&"east.mesh".parse().unwrap()).is_none());
}

#[test]
fn an_empty_bundle_believes_nobody() {
    let (all, refused) = TrustBundles::compile(&[bundle("east.mesh.internal", &[], 4)], any);
    assert_eq!(refused, []);
    let refused = all.roots_for(&id(CART)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "trust domain east.mesh.internal is not trusted"
    );
}

#[test]
fn sequences_never_go_back() {
    let at = |sequence, root: &[u8]| {
        TrustRoots::compile(&bundle("a.b", &[root], sequence), any).unwrap()
    };
    assert!(at(2, b"new").newer_than(&at(1, b"old")));
    assert!(!at(1, b"new").newer_than(&at(1, b"old")));
    assert!(at(1, b"old").check_replaces(&at(1, b"old")).is_ok());
    assert!(at(1, b"new").check_replaces(&at(1, b"old")).is_err());
    assert!(at(1, b"old").check_replaces(&at(2, b"new")).is_err());
    let foreign = TrustRoots::compile(&bundle("c.d", &[b"r"], 9), any).unwrap();
    assert!(!foreign.newer_than(&at(1, b"old")) && foreign.check_replaces(&at(1, b"old")).is_err());
    for (first, second) in [(1, 2), (2, 1)] {
        let all = TrustBundles::new([first, second].map(|n| Arc::new(at(n, b"r"))));
        assert_eq!(all.roots(&"a.b".parse().unwrap()).unwrap().sequence(), 2);
    }
    let (all, refused) =
        TrustBundles::compile(&[bundle("a.b", &[b"n"], 2), bundle("a.b", &[b"o"], 1)], any);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        all.roots(&"a.b".parse().unwrap()).unwrap().roots(),
        [Bytes::from_static(b"n")]
    );
}

/// S3: 100 trust domains with their own root each, 100 identities that claim each of them. Names
/// are chosen to be beginnings, ends and case variants of one another.
#[test]
fn ten_thousand_roots_and_ids_never_meet_across_trust_domains() {
    let domains: Vec<String> = (0..100)
        .map(|n| match n % 4 {
            0 => format!("east{n}.mesh.internal"),
            1 => format!("east{n}.mesh.internal.evil"),
            2 => format!("a.east{n}.mesh.internal"),
            _ => format!("east{n}"),
        })
        .collect();
    let (all, refused) = TrustBundles::compile(
        &domains
            .iter()
            .map(|d| bundle(d, &[d.as_bytes()], 1))
            .collect::<Vec<_>>(),
        any,
    );
    assert_eq!(refused, []);
    let mut pairs = 0;
    for claimed in &domains {
        let id = id(&format!("spiffe://{claimed}/ns/shop/sa/cart"));
        let offered = all.roots_for(&id).unwrap().roots();
        for owner in &domains {
            pairs += 1;
            let believed = offered.iter().any(|root| root == owner.as_bytes());
            assert_eq!(believed, owner == claimed, "the root of {owner} for {id}");
        }
    }
    assert_eq!(pairs, 10_000);
}

proptest! {
    #[test]
    fn only_the_same_id_is_accepted(
        a in "(e|w)\\.m/ns/[ab]{1,2}/sa/[ab]{1,2}",
        b in "(e|w)\\.m/ns/[ab]{1,2}/sa/[ab]{1,2}",
    ) {
        let (x, y) = (id(&format!("spiffe://{a}")), id(&format!("spiffe://{b}")));
        prop_assert_eq!(accept_peer(&x, Expected::Exactly(&y)).is_ok(), a == b);
    }
}
