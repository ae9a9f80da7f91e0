//! Who joins by which object, and what is said of it?

use isthmus_control_plane_core::model::{CredentialRef, KindFreshness};

use super::*;
use crate::connect::NOT_REACHED;
use crate::source::{KindReport, KindState, Report};

fn object(trust_domain: Option<&str>, secret: Option<&str>) -> MeshCluster {
    MeshCluster {
        root: None,
        network: "n".parse().unwrap(),
        pod_ranges: Vec::new(),
        locality: isthmus_proto::locality::Locality::default(),
        cluster_domain: None,
        passthrough_denied: false,
        observed: isthmus_control_plane_core::model::Observed::default(),
        trust_domain: trust_domain.map(|domain| domain.parse().unwrap()),
        gateways: Vec::new(),
        priority: 0,
        price: 0,
        credential: secret.map(reference),
        issuer: None,
        uid: None,
        quota: Allotment::default(),
    }
}

fn reference(secret: &str) -> CredentialRef {
    CredentialRef {
        secret: secret.to_owned(),
        key: "kubeconfig".to_owned(),
    }
}

#[test]
fn only_a_cluster_with_a_credential_of_its_own_joins() {
    let configured = BTreeSet::from(["east".parse().unwrap()]);
    let judged = |name: &str, object: MeshCluster| {
        let found = judge((name, &object), "mesh.internal", &configured);
        found.map_err(|(reason, _)| reason)
    };
    let west = Some(("west".parse().unwrap(), reference("w")));
    assert_eq!(judged("west", object(None, Some("w"))), Ok(west.clone()));
    let domain = Some("west.mesh.internal");
    assert_eq!(judged("west", object(domain, Some("w"))), Ok(west));
    assert_eq!(judged("west", object(None, None)), Err("NoCredential"));
    let other = Some("east.mesh.internal");
    assert_eq!(
        judged("west", object(other, Some("w"))),
        Err("TrustDomainMismatch")
    );
    assert_eq!(judged("a.b", object(None, Some("w"))), Err("InvalidName"));
    assert_eq!(judged("east", object(None, Some("w"))), Ok(None));
    assert_eq!(judged("east", object(None, None)), Ok(None));
}

#[test]
fn a_credential_that_the_server_refuses_is_not_valid() {
    let mut report = Report::default();
    let kind = |unauthorized: bool| KindReport {
        state: KindState::Lost,
        reason: "whatever it says".to_owned(),
        confirmed_at: None,
        lists: 0,
        restarts: 0,
        bytes: 0,
        resource_version: String::new(),
        unauthorized,
    };
    report.kinds.insert("Pod", kind(false));
    let credential = |verdict, report: Option<&Report>| {
        let kept = Kept {
            verdict,
            ..Kept::default()
        };
        credential((&kept, None), report, SystemTime::now())
    };
    let said = credential(Some(Ok(())), Some(&report));
    assert_eq!((said.holds, said.reason), (Some(true), "Valid"));
    report.kinds.insert("Service", kind(true));
    let said = credential(Some(Ok(())), Some(&report));
    assert_eq!((said.holds, said.reason), (Some(false), "Unauthorized"));
    let gone = Unusable::new("SecretNotFound", "Secret a/b is not there");
    let said = credential(Some(Err(gone)), Some(&report));
    assert_eq!((said.holds, said.reason), (Some(false), "SecretNotFound"));
    assert_eq!(credential(None, None).holds, None);
    // Nobody could be asked: it is not known to be bad.
    let unheard = Unusable::new(NOT_REACHED, "connection refused");
    assert_eq!(credential(Some(Err(unheard)), None).holds, None);
}

#[test]
fn a_credential_that_is_not_renewed_says_when_it_ends() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut kept = Kept {
        verdict: Some(Ok(())),
        not_renewed: None,
    };
    let ends = Some(now + Duration::from_secs(3_600));
    let said = credential((&kept, ends), None, now);
    assert_eq!((said.holds, said.reason), (Some(true), "Valid"));
    kept.not_renewed = Some("403 Forbidden".to_owned());
    let said = credential((&kept, ends), None, now);
    assert_eq!((said.holds, said.reason), (Some(true), "NotRenewed"));
    let why = "it ends at 2027-01-15T09:00:00Z, and is not renewed: 403 Forbidden";
    assert_eq!(said.message, why);
    let said = credential((&kept, ends), None, now + Duration::from_secs(3_600));
    assert_eq!((said.holds, said.reason), (Some(false), "Expired"));
    assert_eq!(said.message, why);
}

#[test]
fn a_kind_that_may_not_be_read_any_more_is_named() {
    assert_eq!(standing::older(&BTreeMap::new()), "");
    let of = |reason: &str| KindFreshness {
        confirmed_at: None,
        reason: reason.to_owned(),
    };
    let kinds = BTreeMap::from([
        (Kind::Pod, of("pods is forbidden")),
        (Kind::HttpRoute, of("not listed yet")),
    ]);
    let told =
        "what was known before counts of Pod (pods is forbidden), HTTPRoute (not listed yet)";
    assert_eq!(standing::older(&kinds), told);
}

#[test]
fn a_quota_that_is_exceeded_is_told_without_counting() {
    let mut report = Report::default();
    let said = exceeded(&report);
    assert_eq!((said.holds, said.reason), (Some(false), "WithinQuota"));
    report.over_quota = true;
    let said = exceeded(&report);
    assert_eq!((said.holds, said.reason), (Some(true), "BeyondQuota"));
}

#[test]
fn a_profile_names_a_cluster_that_nobody_else_does() {
    let profile = |cluster: &str, has_left: bool| ClusterProfile {
        access: Vec::new(),
        cluster: cluster.to_owned(),
        has_left,
        mesh: object(None, None),
    };
    let configured = BTreeSet::from(["east".parse().unwrap()]);
    let declared = BTreeMap::from([("west".to_owned(), object(None, Some("w")))]);
    let profiles = BTreeMap::from([
        ("a-left".to_owned(), profile("north", true)),
        ("b".to_owned(), profile("north", false)),
        ("c".to_owned(), profile("north", false)),
        ("d".to_owned(), profile("west", false)),
        ("e".to_owned(), profile("east", false)),
        ("f".to_owned(), profile("A B", false)),
    ]);
    let named = named(&declared, &profiles);
    let judged = |name: &str| {
        let of = (name, &profiles[name]);
        let found = judge_profile(of, "mesh.internal", &configured, &named);
        found.map_err(|(reason, _)| reason)
    };
    assert_eq!(judged("a-left"), Err("NotJoined"));
    assert_eq!(judged("b"), Ok(Some("north".parse().unwrap())));
    assert_eq!(judged("c"), Err("NamedTwice"));
    assert_eq!(judged("d"), Err("NamedByMeshCluster"));
    assert_eq!(judged("e"), Ok(None));
    assert_eq!(judged("f"), Err("InvalidName"));
}
