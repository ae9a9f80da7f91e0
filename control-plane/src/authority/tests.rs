//! Is what is signed an SVID, and nothing more?

mod foreign;

use super::*;
use crate::state::StateDir;
use isthmus_control_plane_core::rotation::{Phase, Rotation};
use rcgen::KeyPair;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(36 * 3600);

fn east() -> TrustDomain {
    "east.mesh.internal".parse().unwrap()
}

fn cart() -> SpiffeId {
    SpiffeId::new(&east(), "shop", "cart").unwrap()
}

fn grant(now: SystemTime) -> Grant {
    let terms = Terms::until(now + LIFETIME, now).unwrap();
    let Terms {
        not_before,
        not_after,
        serial,
    } = terms;
    Grant {
        identity: cart(),
        not_before,
        not_after,
        serial,
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'static>) -> X509Certificate<'a> {
    x509_parser::parse_x509_certificate(certificate).unwrap().1
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

#[tokio::test]
async fn a_leaf_is_an_svid() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let authority = Authority::open(&store, &east(), now).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let issued = authority.issue(&grant(now), &key, now).unwrap();
    assert_eq!(
        issued.chain.len(),
        2,
        "leaf and issuer; the root is in the bundle"
    );
    let leaf = parse(&issued.chain[0]);
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(
        names.as_slice(),
        [GeneralName::URI(
            "spiffe://east.mesh.internal/ns/shop/sa/cart"
        )]
    );
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now) - 600);
    assert_eq!(
        leaf.validity().not_after.timestamp(),
        seconds(now) + 36 * 3600
    );
    assert_eq!(seconds(issued.not_after), seconds(now) + 36 * 3600);
    let again = authority.issue(&grant(now), &key, now).unwrap();
    assert_ne!(
        leaf.raw_serial(),
        parse(&again.chain[0]).raw_serial(),
        "random serial numbers"
    );
    let issuer = parse(&issued.chain[1]);
    assert_eq!(
        issuer
            .basic_constraints()
            .unwrap()
            .unwrap()
            .value
            .path_len_constraint,
        Some(0)
    );
    let root = authority.roots();
    assert_eq!(
        parse(&root[0])
            .basic_constraints()
            .unwrap()
            .unwrap()
            .value
            .path_len_constraint,
        Some(1)
    );
    assert!(
        issuer
            .verify_signature(Some(parse(&root[0]).public_key()))
            .is_ok()
    );
}

#[tokio::test]
async fn what_a_request_asks_for_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let authority = Authority::open(&store, &east(), now).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    let foreign = Ia5String::try_from("spiffe://west.mesh.internal/ns/bank/sa/vault").unwrap();
    wish.subject_alt_names.push(SanType::URI(foreign));
    wish.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = wish.serialize_request(&key).unwrap();
    let taken = csr::public_key(request.der()).unwrap();
    let issued = authority.issue(&grant(now), &taken, now).unwrap();
    let peer = crate::trust::identity_of(&issued.chain[0]).unwrap();
    assert_eq!(peer.id, cart());
    let leaf = parse(&issued.chain[0]);
    assert_eq!(
        *leaf.public_key().subject_public_key.data,
        *key.public_key_raw()
    );
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn an_identity_of_another_trust_domain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let west = Authority::open(&store, &"west.mesh.internal".parse().unwrap(), now)
        .await
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let refused = west.issue(&grant(now), &key, now).unwrap_err();
    assert!(matches!(refused, NotIssued::Foreign { .. }), "{refused}");
}

#[tokio::test]
async fn the_authority_is_made_once_and_its_issuer_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let first = Authority::open(&store, &east(), now).await.unwrap();
    let again = Authority::open(&store, &east(), now + 200 * DAY)
        .await
        .unwrap();
    assert_eq!((first.number, first.roots()), (again.number, again.roots()));
    let renewed = Authority::open(&store, &east(), now + 300 * DAY)
        .await
        .unwrap();
    assert_eq!(renewed.number, 2);
    assert_eq!(
        renewed.roots(),
        first.roots(),
        "the same root vouches for both"
    );
    assert!(renewed.not_after() > first.not_after());
    assert_eq!(
        Authority::open(&store, &east(), now).await.unwrap().number,
        2
    );
}

#[tokio::test]
async fn a_root_that_is_kept_elsewhere_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let store = KeyStore::Files(state.clone());
    let now = SystemTime::now();
    let first = Authority::open(&store, &east(), now).await.unwrap();
    std::fs::remove_file(state.path("ca/east.mesh.internal/root.pem")).unwrap();
    let later = Authority::open(&store, &east(), now + 364 * DAY)
        .await
        .unwrap();
    assert_eq!((later.number, later.roots()), (1, first.roots()));
    assert!(!state.path("ca/east.mesh.internal/root.pem").exists());
}

#[tokio::test]
async fn nothing_is_signed_past_the_end_of_what_signs() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let authority = Authority::open(&store, &east(), now).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let late = authority.not_after() - Duration::from_secs(60);
    let short = authority.issue(&grant(late), &key, late).unwrap();
    assert_eq!(short.not_after, authority.not_after());
    let ended = authority
        .issue(&grant(authority.not_after()), &key, authority.not_after())
        .unwrap_err();
    assert!(matches!(ended, NotIssued::Expired { .. }), "{ended}");
}

#[tokio::test]
async fn keys_are_in_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let authority = Authority::open(&store, &east(), SystemTime::now())
        .await
        .unwrap();
    assert_eq!(
        format!("{authority:?}"),
        "Authority(east.mesh.internal, issuer 1)"
    );
    assert!(!authority.roots_pem().contains("PRIVATE"));
}

#[tokio::test]
async fn a_file_that_is_no_authority_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let store = KeyStore::Files(state.clone());
    state
        .create("ca/east.mesh.internal/issuer-1.pem", b"nothing")
        .unwrap();
    let error = Authority::open(&store, &east(), SystemTime::now())
        .await
        .unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(
        text.contains("issuer-1.pem: there is no private key in it"),
        "{text}"
    );
}

#[tokio::test]
async fn keys_that_are_gone_are_not_made_anew_while_the_old_ones_are_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let store = KeyStore::Files(state.clone());
    let now = SystemTime::now();
    let all = registry::Authorities::open(&store, [east()], now)
        .await
        .unwrap();
    let before = all.of(&east()).unwrap().roots();
    std::fs::remove_dir_all(state.path("ca/east.mesh.internal")).unwrap();
    all.tend(now + DAY).await;
    assert_eq!(all.of(&east()).unwrap().roots(), before);
    assert!(!state.path("ca/east.mesh.internal/root.pem").exists());
}

#[tokio::test]
async fn which_root_signs_and_which_are_believed_is_as_the_stage_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let first = Authority::open(&store, &east(), now).await.unwrap();
    let rotation = Rotation::default();
    let adding = rotation.wish(2).unwrap().unwrap().stage();
    // Nothing is believed that nobody has the keys of.
    let early = first.reopen_at(adding.clone(), &store, now).await;
    assert!(early.is_err());
    for _ in 0..2 {
        Authority::prepare(&store, &east(), 2, now).await.unwrap();
    }
    // Prepared keys sign nothing before their time.
    let same = first.reopen(&store, now).await.unwrap();
    assert_eq!(same.roots(), first.roots());
    let adding = first.reopen_at(adding, &store, now).await.unwrap();
    assert_eq!((adding.roots().len(), adding.retiring()), (2, None));
    assert_eq!(adding.roots()[0], first.roots()[0]);
    let signer = |authority: &Authority| {
        let key = KeyPair::generate().unwrap();
        let issued = authority.issue(&grant(now), &key, now).unwrap();
        authority.root_of(&issued.chain[1])
    };
    assert_eq!((signer(&first), signer(&adding)), (Some(1), Some(1)));
    let stage = Stage {
        phase: Phase::Issuing,
        sequence: 3,
        roots: vec![1, 2],
        signs: 2,
        retiring: Some(1),
        new: 2,
    };
    let issuing = first.reopen_at(stage.clone(), &store, now).await.unwrap();
    assert_eq!(signer(&issuing), Some(2));
    assert_eq!(issuing.retiring(), first.roots().pop());
    let last = Stage {
        roots: vec![2],
        retiring: None,
        ..stage
    };
    let last = Authority::open_at(last, &store, &east(), now)
        .await
        .unwrap();
    assert_eq!(
        (signer(&last), last.roots()),
        (Some(2), adding.roots()[1..].to_vec())
    );
    assert_eq!(
        std::fs::read_dir(folder.path().join("ca/east.mesh.internal"))
            .unwrap()
            .count(),
        4
    );
}
