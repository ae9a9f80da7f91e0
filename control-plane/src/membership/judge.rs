//! Who is a member by a MeshCluster or a ClusterProfile, or why nobody is?

use std::collections::{BTreeMap, BTreeSet};

use isthmus_control_plane_core::model::{ClusterProfile, CredentialRef, Kind, MeshCluster};
use isthmus_proto::ids::ClusterId;
use isthmus_proto::spiffe::TrustDomain;

/// Why an object does not make a member, or not as it is written.
pub(super) type Wrong = (&'static str, String);

/// Who is a member by this object? `None`: the configuration names the cluster, and its credential
/// there counts.
pub(super) fn judge(
    (name, object): (&str, &MeshCluster),
    mesh_domain: &str,
    configured: &BTreeSet<ClusterId>,
) -> Result<Option<(ClusterId, CredentialRef)>, Wrong> {
    let cluster: ClusterId = name
        .parse()
        .map_err(|error| ("InvalidName", format!("{error}")))?;
    let domain = TrustDomain::of_cluster(&cluster, mesh_domain)
        .map_err(|error| ("InvalidName", format!("{error}")))?;
    if let Some(other) = object.trust_domain.as_ref().filter(|d| **d != domain) {
        let why = format!("its trust domain is {domain}, and the object says {other}");
        return Err(("TrustDomainMismatch", why));
    }
    if configured.contains(&cluster) {
        return Ok(None);
    }
    match &object.credential {
        Some(credential) => Ok(Some((cluster, credential.clone()))),
        None => {
            let why = "it has no credential, and the configuration does not name it";
            Err(("NoCredential", why.to_owned()))
        }
    }
}

/// The clusters that MeshClusters and ClusterProfiles name.
pub(super) type Named = BTreeMap<String, (Kind, String)>;

/// Who is a member by this profile? `named`: who else names clusters.
pub(super) fn judge_profile(
    (name, profile): (&str, &ClusterProfile),
    mesh_domain: &str,
    configured: &BTreeSet<ClusterId>,
    named: &Named,
) -> Result<Option<ClusterId>, Wrong> {
    if profile.has_left {
        let why = "its cluster manager says that it has not joined the inventory";
        return Err(("NotJoined", why.to_owned()));
    }
    match named.get(&profile.cluster) {
        Some((Kind::MeshCluster, _)) => {
            let why = format!("the MeshCluster {} counts", profile.cluster);
            return Err(("NamedByMeshCluster", why));
        }
        Some((_, first)) if first != name => {
            let why = format!("{first} names the cluster {} already", profile.cluster);
            return Err(("NamedTwice", why));
        }
        Some(_) | None => {}
    }
    // What a credential would be is not judged here.
    let mesh = MeshCluster {
        credential: Some(CredentialRef {
            secret: String::new(),
            key: String::new(),
        }),
        ..profile.mesh.clone()
    };
    let judged = judge((&profile.cluster, &mesh), mesh_domain, configured)?;
    Ok(judged.map(|(cluster, _)| cluster))
}

/// Which object names each cluster: a MeshCluster before a profile, and of these the first by name.
pub(super) fn named(
    declared: &BTreeMap<String, MeshCluster>,
    profiles: &BTreeMap<String, ClusterProfile>,
) -> Named {
    let meshes = declared.keys();
    let meshes = meshes.map(|name| (name.clone(), (Kind::MeshCluster, name.clone())));
    let mut named: Named = meshes.collect();
    for (name, profile) in profiles.iter().filter(|(_, profile)| !profile.has_left) {
        let by = (Kind::ClusterProfile, name.clone());
        named.entry(profile.cluster.clone()).or_insert(by);
    }
    named
}
