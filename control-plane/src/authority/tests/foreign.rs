//! Does whatever a request asks for come out as what the token says, and as nothing else?

use std::cell::Cell;

use isthmus_control_plane_core::issue::{self, AUDIENCE, Claims, CsrFacts, KeyKind};
use isthmus_control_plane_core::model::{Change, Object, Pod, Spec};
use isthmus_control_plane_core::world::World;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rcgen::{CustomExtension, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;
use crate::authority::csr::public_key;

/// What issue 4 asks for.
const REQUESTS: u32 = 10_000;
const ACCOUNTS: [&str; 3] = ["cart", "web", "pay"];
/// RFC 5280: names, constraints, usages, policies, and two of nobody.
const EXTENSIONS: [&[u64]; 7] = [
    &[2, 5, 29, 17],
    &[2, 5, 29, 19],
    &[2, 5, 29, 15],
    &[2, 5, 29, 37],
    &[2, 5, 29, 32],
    &[1, 3, 6, 1, 4, 1, 99_999, 1],
    &[1, 2, 3],
];
/// The same as DER of a constraint that makes a CA, and of a usage that signs certificates.
const CA: &[u8] = &[0x30, 3, 1, 1, 0xff];
const CERT_SIGN: &[u8] = &[3, 2, 2, 4];

/// What a request asks for.
#[derive(Debug, Clone)]
struct Asked {
    uris: Vec<String>,
    hosts: Vec<String>,
    ips: Vec<[u8; 4]>,
    mails: Vec<String>,
    subject: Vec<String>,
    extensions: Vec<(usize, Vec<u8>, bool)>,
    /// Which of the keys signs it.
    key: usize,
}

/// What a token says, and which cluster the caller names.
#[derive(Debug, Clone)]
struct Said {
    cluster: &'static str,
    claimed: &'static str,
    signer: &'static str,
    account: &'static str,
    pod: u8,
}

fn name() -> impl Strategy<Value = String> {
    let foreign = "spiffe://(east|west|control)\\.mesh\\.internal/ns/(shop|isthmus-system)/sa/(cart|web|admin)";
    prop_oneof![foreign, "spiffe://[a-z./]{1,20}", "[a-z]{1,8}:[a-z/]{1,12}"]
}

fn asked() -> impl Strategy<Value = Asked> {
    let extension = (
        0..EXTENSIONS.len(),
        prop_oneof![
            Just(CA.to_vec()),
            Just(CERT_SIGN.to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40)
        ],
        any::<bool>(),
    );
    let hosts = prop_oneof!["[a-z]{1,10}\\.[a-z]{1,10}", "\\*\\.mesh\\.internal"];
    (
        proptest::collection::vec(name(), 0..4),
        proptest::collection::vec(hosts, 0..3),
        proptest::collection::vec(any::<[u8; 4]>(), 0..2),
        proptest::collection::vec("[a-z]{1,8}@[a-z]{1,8}", 0..2),
        proptest::collection::vec("[a-zA-Z0-9 /=,]{0,20}", 0..3),
        proptest::collection::vec(extension, 0..4),
        0..3usize,
    )
        .prop_map(
            |(uris, hosts, ips, mails, subject, extensions, key)| Asked {
                uris,
                hosts,
                ips,
                mails,
                subject,
                extensions,
                key,
            },
        )
}

fn said() -> impl Strategy<Value = Said> {
    let cluster = || proptest::sample::select(&["east", "east", "east", "west"][..]);
    let account = proptest::sample::select(&ACCOUNTS[..]);
    (cluster(), cluster(), cluster(), account, 0..5u8).prop_map(
        |(cluster, claimed, signer, account, pod)| Said {
            cluster,
            claimed,
            signer,
            account,
            pod,
        },
    )
}

/// A request in DER; `None`: nobody can write that one.
fn request(asked: &Asked, key: &KeyPair) -> Option<Vec<u8>> {
    let mut params = CertificateParams::default();
    let text = |text: &String| Ia5String::try_from(text.as_str()).ok();
    let names = &mut params.subject_alt_names;
    names.extend(asked.uris.iter().filter_map(text).map(SanType::URI));
    names.extend(asked.hosts.iter().filter_map(text).map(SanType::DnsName));
    names.extend(asked.ips.iter().map(|ip| SanType::IpAddress((*ip).into())));
    names.extend(asked.mails.iter().filter_map(text).map(SanType::Rfc822Name));
    params.distinguished_name = DistinguishedName::new();
    for (part, kind) in asked.subject.iter().zip([
        DnType::CommonName,
        DnType::OrganizationName,
        DnType::OrganizationalUnitName,
    ]) {
        params.distinguished_name.push(kind, part.as_str());
    }
    for (at, content, critical) in &asked.extensions {
        let mut extension = CustomExtension::from_oid_content(EXTENSIONS[*at], content.clone());
        extension.set_criticality(*critical);
        params.custom_extensions.push(extension);
    }
    Some(params.serialize_request(key).ok()?.der().to_vec())
}

/// Each account has two pods in each cluster: `cart-0` and `cart-1`.
fn world() -> World {
    let mut world = World::new("mesh.internal").unwrap();
    for cluster in ["east", "west"] {
        let cluster: isthmus_proto::ids::ClusterId = cluster.parse().unwrap();
        world.add_cluster(&cluster).unwrap();
        for account in ACCOUNTS {
            for number in 0..2 {
                let pod = Pod {
                    service_account: account.to_owned(),
                    ..Pod::default()
                };
                let object = Object {
                    cluster: cluster.clone(),
                    namespace: Some("shop".parse().unwrap()),
                    name: format!("{account}-{number}"),
                    created: None,
                    spec: Spec::Pod(pod),
                };
                world.apply(Change::Apply(object), SystemTime::now());
            }
        }
        let kept = std::collections::BTreeSet::new();
        world.apply(Change::InitDone { cluster, kept }, SystemTime::now());
    }
    world
}

/// What a token says.
fn claims(said: &Said, now: SystemTime) -> Claims {
    Claims {
        cluster: said.cluster.parse().unwrap(),
        namespace: "shop".to_owned(),
        service_account: said.account.to_owned(),
        pod: Some(format!("{}-{}", said.account, said.pod)),
        pod_uid: None,
        node: None,
        node_uid: None,
        audiences: vec![AUDIENCE.to_owned()],
        not_before: None,
        expires: now + DAY,
    }
}

/// Everything in the certificate that says who its owner is, or what it may do.
fn check(leaf: &X509Certificate<'_>, identity: &str, key: &[u8]) -> Result<(), TestCaseError> {
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    prop_assert_eq!(
        names.value.general_names.as_slice(),
        [GeneralName::URI(identity)]
    );
    prop_assert_eq!(leaf.subject().to_string(), "O=isthmus");
    prop_assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    prop_assert_eq!(usage.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    prop_assert!(extended.server_auth && extended.client_auth && !extended.any);
    prop_assert!(extended.other.is_empty() && !extended.code_signing);
    let mut oids: Vec<String> = leaf
        .extensions()
        .iter()
        .map(|extension| extension.oid.to_id_string())
        .collect();
    oids.sort_unstable();
    let ours = [
        "2.5.29.14",
        "2.5.29.15",
        "2.5.29.17",
        "2.5.29.19",
        "2.5.29.35",
        "2.5.29.37",
    ];
    prop_assert_eq!(oids, ours);
    prop_assert_eq!(&*leaf.public_key().subject_public_key.data, key);
    Ok(())
}

/// Issue 4: of 10,000 requests none gets an identity, a name, a right or an extension that the token
/// does not give. One in several is one that is to be granted.
#[tokio::test]
async fn no_request_gets_more_than_the_token_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::Files(StateDir::open(folder.path()).unwrap());
    let now = SystemTime::now();
    let west = "west.mesh.internal".parse().unwrap();
    let authorities = [
        ("east", Authority::open(&store, &east(), now).await.unwrap()),
        ("west", Authority::open(&store, &west, now).await.unwrap()),
    ];
    let algorithms = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ];
    let keys = algorithms.map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    let (world, issued) = (world(), Cell::new(0u32));
    let config = ProptestConfig {
        cases: REQUESTS,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&(asked(), said()), |(asked, said)| {
        let Some(der) = request(&asked, &keys[asked.key]) else {
            return Ok(());
        };
        let Ok(key) = public_key(&der) else {
            return Ok(());
        };
        let claims = claims(&said, now);
        let facts = CsrFacts {
            bytes: der.len(),
            key: KeyKind::EcdsaP256,
            signature_valid: true,
        };
        let (_, authority) = authorities
            .iter()
            .find(|(name, _)| *name == said.signer)
            .unwrap();
        let signer = issue::Authority {
            trust_domain: authority.trust_domain().clone(),
            not_after: authority.not_after(),
            lifetime: LIFETIME,
            cut_off: false,
        };
        let of = (&claims, said.claimed);
        let right = said.cluster == said.claimed && said.cluster == said.signer && said.pod < 2;
        let grant = issue::issue(&world, of, &facts, &signer, [7; 16], now);
        prop_assert_eq!(grant.is_ok(), right, "{:?}", grant);
        let Ok(grant) = grant else { return Ok(()) };
        let chain = authority.issue(&grant, &key, now).unwrap().chain;
        let identity = format!(
            "spiffe://{}.mesh.internal/ns/shop/sa/{}",
            said.cluster, said.account
        );
        check(
            &parse(&chain[0]),
            &identity,
            keys[asked.key].public_key_raw(),
        )?;
        issued.set(issued.get() + 1);
        Ok(())
    });
    result.unwrap();
    // A test in which nobody gets anything would say nothing.
    assert!(issued.get() > REQUESTS / 20, "{}", issued.get());
}
