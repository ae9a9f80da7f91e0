//! Does a root vouch for its own trust domain only?

use super::*;
use crate::authority::{Authority, forge};
use crate::state::StateDir;
use crate::store::KeyStore;
use rcgen::string::Ia5String;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, SanType};

const HOUR: Duration = Duration::from_secs(3600);

struct Mesh {
    _folder: tempfile::TempDir,
    east: Authority,
    west: Authority,
    trust: watch::Sender<Arc<Trust>>,
    verifier: Verifier,
    now: SystemTime,
}

async fn mesh() -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let open = async |name: &str| {
        let trust_domain = format!("{name}.mesh.internal").parse().unwrap();
        Authority::open(&store, &trust_domain, now).await.unwrap()
    };
    let (east, west) = (open("east").await, open("west").await);
    let mut trust = Trust::default();
    trust.set(east.trust_domain(), &east.roots()).unwrap();
    trust.set(west.trust_domain(), &west.roots()).unwrap();
    let (trust, seen) = watch::channel(Arc::new(trust));
    Mesh {
        _folder: folder,
        east,
        west,
        trust,
        verifier: Verifier::new(seen),
        now,
    }
}

impl Mesh {
    fn verify_at(&self, chain: &[CertificateDer<'static>], now: SystemTime) -> Result<Peer, Error> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.verifier
            .verify(&chain[0], &chain[1..], UnixTime::since_unix_epoch(since))
    }

    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<Peer, Error> {
        self.verify_at(chain, self.now)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn why(error: &Error) -> String {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
        return error.to_string();
    };
    cause.to_string()
}

#[tokio::test]
async fn a_good_chain_is_believed_while_it_lasts() {
    let mesh = mesh().await;
    let key = KeyPair::generate().unwrap();
    let id = SpiffeId::new(mesh.east.trust_domain(), "shop", "cart").unwrap();
    let grant = isthmus_control_plane_core::issue::Grant {
        identity: id.clone(),
        not_before: mesh.now - HOUR / 6,
        not_after: mesh.now + HOUR,
        serial: [0x41; 16],
    };
    let issued = mesh.east.issue(&grant, &key, mesh.now).unwrap();
    let peer = mesh.verify(&issued.chain).unwrap();
    assert_eq!((peer.id, peer.not_after), (id, issued.not_after));
    let expired = mesh
        .verify_at(&issued.chain, mesh.now + 2 * HOUR)
        .unwrap_err();
    assert_eq!(
        expired,
        Error::InvalidCertificate(CertificateError::Expired)
    );
    let early = mesh.verify_at(&issued.chain, mesh.now - HOUR).unwrap_err();
    assert_eq!(
        early,
        Error::InvalidCertificate(CertificateError::NotValidYet)
    );
}

#[tokio::test]
async fn a_root_vouches_for_its_own_trust_domain_only() {
    let mesh = mesh().await;
    let key = KeyPair::generate().unwrap();
    let foreign = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://east.mesh.internal/ns/shop/sa/cart")];
    };
    let chain = forge(&mesh.west, foreign, &key, mesh.now);
    let error = mesh.verify(&chain).unwrap_err();
    assert_eq!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    );
    let unknown = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://north.mesh.internal/ns/shop/sa/cart")];
    };
    let error = mesh
        .verify(&forge(&mesh.west, unknown, &key, mesh.now))
        .unwrap_err();
    assert_eq!(
        why(&error),
        "no root is known for the trust domain north.mesh.internal"
    );
}

#[tokio::test]
async fn what_is_no_svid_is_refused() {
    let mesh = mesh().await;
    let key = KeyPair::generate().unwrap();
    type Change = fn(&mut rcgen::CertificateParams);
    let cases: [(&str, Change); 9] = [
        ("has 0 URI names", |p| p.subject_alt_names.clear()),
        ("has 0 URI names", |p| {
            p.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("a.b").unwrap())];
        }),
        ("has 2 URI names", |p| {
            p.subject_alt_names
                .push(uri("spiffe://east.mesh.internal/ns/shop/sa/admin"));
        }),
        ("SPIFFE ID", |p| {
            p.subject_alt_names = vec![uri("spiffe://east.mesh.internal/x")]
        }),
        ("SPIFFE ID", |p| {
            p.subject_alt_names = vec![uri("spiffe://EAST.mesh.internal/ns/a/sa/b")]
        }),
        ("SPIFFE ID", |p| {
            p.subject_alt_names = vec![uri("https://east.mesh.internal/ns/a/sa/b")]
        }),
        ("may sign certificates", |p| {
            p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
        }),
        ("may sign certificates", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign)
        }),
        ("may sign certificates", |p| {
            p.key_usages.push(KeyUsagePurpose::CrlSign)
        }),
    ];
    for (expected, change) in cases {
        let error = mesh
            .verify(&forge(&mesh.east, change, &key, mesh.now))
            .unwrap_err();
        assert!(why(&error).contains(expected), "{error:?} lacks {expected}");
    }
    let usage: Change =
        |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    assert!(
        mesh.verify(&forge(&mesh.east, usage, &key, mesh.now))
            .is_err()
    );
    let mut long = forge(&mesh.east, |_| {}, &key, mesh.now);
    assert!(mesh.verify(&long).is_ok());
    long.extend(std::iter::repeat_n(long[1].clone(), 20));
    assert_eq!(
        why(&mesh.verify(&long).unwrap_err()),
        "the chain has 22 certificates"
    );
}

#[tokio::test]
async fn an_issuer_is_no_client() {
    let mesh = mesh().await;
    let chain = forge(&mesh.east, |_| {}, &KeyPair::generate().unwrap(), mesh.now);
    assert_eq!(
        why(&mesh.verify(&chain[1..]).unwrap_err()),
        "the certificate may sign certificates"
    );
}

#[tokio::test]
async fn a_removed_root_counts_at_once() {
    let mesh = mesh().await;
    let chain = forge(&mesh.east, |_| {}, &KeyPair::generate().unwrap(), mesh.now);
    assert!(mesh.verify(&chain).is_ok());
    mesh.trust.send_modify(|trust| {
        Arc::make_mut(trust)
            .set(mesh.east.trust_domain(), &[])
            .unwrap();
    });
    let error = mesh.verify(&chain).unwrap_err();
    assert_eq!(
        why(&error),
        "no root is known for the trust domain east.mesh.internal"
    );
}
