//! Who signs for a cluster whose keys an operator hands in?
//!
//! A MeshCluster may name a `kubernetes.io/tls` Secret beside the control plane, as cert-manager keeps
//! one. It is read again and again; what is no good is told in the condition `IssuerValid`, and the
//! last good one goes on. Nothing is ever written into it.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_proto::ids::ClusterId;
use isthmus_proto::spiffe::TrustDomain;
use serde::Deserialize;

use crate::authority::Authority;
use crate::authority::handed::Texts;
use crate::connect::{LOOK_EVERY, Unusable};
use crate::copies::Copies;
use crate::fleet::Fleet;
use crate::kubernetes::Api;

/// The type of Secrets with a key and a chain.
const TYPE: &str = "kubernetes.io/tls";

/// What came of each cluster's Secret.
#[derive(Debug, Default)]
pub(super) struct Issuers {
    looked: BTreeMap<ClusterId, Looked>,
}

#[derive(Debug)]
struct Looked {
    at: Instant,
    secret: String,
    /// Of the Secret that is in use.
    version: Option<String>,
    verdict: Result<(), Unusable>,
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl Issuers {
    /// Looks at the Secret if it is time, and signs with what it holds if that is new and good.
    ///
    /// # Errors
    /// Why what lies there is not used. What was in use before still is.
    pub(super) async fn look(
        &mut self,
        fleet: &Fleet,
        (home, namespace): (Option<&Api>, &str),
        (cluster, trust_domain, secret): (&ClusterId, &TrustDomain, &str),
    ) -> Result<(), Unusable> {
        let known = self.looked.get(cluster).filter(|old| old.secret == secret);
        if let Some(old) = known.filter(|old| old.at.elapsed() < LOOK_EVERY) {
            return old.verdict.clone();
        }
        let version = known.and_then(|old| old.version.clone());
        let mut looked = Looked {
            at: Instant::now(),
            secret: secret.to_owned(),
            version,
            verdict: Ok(()),
        };
        let place = format!("Secret {namespace}/{secret}");
        match read((fleet.copies(), home), namespace, secret).await {
            Ok(found) if looked.version.as_ref() == Some(&found.metadata.resource_version) => {}
            Ok(found) => match take(fleet, (cluster, trust_domain), &found).await {
                Ok(()) => {
                    tracing::info!(%cluster, secret, "signs with what was handed in");
                    looked.version = Some(found.metadata.resource_version);
                }
                Err(why) => {
                    looked.verdict = Err(Unusable::new("Unusable", format!("{place}: {why}")));
                }
            },
            Err((reason, why)) => {
                looked.verdict = Err(Unusable::new(reason, format!("{place}: {why}")));
            }
        }
        if let Err(why) = &looked.verdict
            && known.map(|old| &old.verdict) != Some(&looked.verdict)
        {
            tracing::error!(%cluster, "what was handed in is not used: {}", why.message);
        }
        let verdict = looked.verdict.clone();
        self.looked.insert(cluster.clone(), looked);
        verdict
    }

    /// The cluster has left.
    pub(super) fn forget(&mut self, cluster: &ClusterId) {
        self.looked.remove(cluster);
    }
}

async fn take(
    fleet: &Fleet,
    (cluster, trust_domain): (&ClusterId, &TrustDomain),
    secret: &Secret,
) -> Result<(), String> {
    let authority = authority(trust_domain, secret, SystemTime::now())?;
    let handed = fleet.hand_in(cluster, authority).await;
    handed.map_err(|error| format!("{error:#}"))
}

/// What a Secret holds, if somebody would believe what it signs. What is said of it has no part of it.
fn authority(
    trust_domain: &TrustDomain,
    secret: &Secret,
    now: SystemTime,
) -> Result<Authority, String> {
    if secret.kind.as_deref() != Some(TYPE) {
        return Err(format!("it is not of the type {TYPE}"));
    }
    let text = |key: &str| {
        let value = secret.data.get(key);
        let value = value.ok_or_else(|| format!("{key}: there is no such key"))?;
        STANDARD
            .decode(value)
            .map_err(|_| format!("{key}: not base64"))
    };
    let (chain, key, roots) = (text("tls.crt")?, text("tls.key")?, text("ca.crt")?);
    let texts = Texts {
        chain: &chain,
        key: &key,
        roots: &roots,
    };
    // It grows with each write, and is the same for every replica.
    let version = &secret.metadata.resource_version;
    let version = version
        .parse()
        .map_err(|_| "its resource version is no number")?;
    Authority::handed(trust_domain, texts, version, now)
}

async fn read(
    (copies, home): (&Copies, Option<&Api>),
    namespace: &str,
    secret: &str,
) -> Result<Secret, (&'static str, String)> {
    // Both are names of DNS: the decoder of MeshClusters takes no others.
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
    match copies.get(home, &path, &[]).await {
        Ok(body) => serde_json::from_slice(&body)
            .map_err(|_| ("SecretInvalid", "it is no Secret".to_owned())),
        Err(error) if error.is_not_found() => Err(("SecretNotFound", "it is not there".to_owned())),
        Err(_) if home.is_none() => {
            let not_seen = "the home cluster, which has it, was not reached yet";
            Err(("HomeNotSeen", not_seen.to_owned()))
        }
        Err(error) => Err(("SecretNotRead", error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use isthmus_control_plane_core::world::World;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use serde_json::{Value, json};

    use super::*;
    use crate::authority::registry::Authorities;
    use crate::fleet::Apis;
    use crate::hub::Hub;
    use crate::kubernetes::client::fake::{Fake, answer};
    use crate::state::StateDir;
    use crate::store::KeyStore;

    /// A Secret as cert-manager keeps one, whose root signs by itself.
    fn secret(version: u64) -> Value {
        let mut params = CertificateParams::default();
        let name = format!("root {version}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params, key).unwrap();
        json!({
            "metadata": { "resourceVersion": version.to_string() }, "type": TYPE,
            "data": {
                "tls.crt": STANDARD.encode(root.pem()), "ca.crt": STANDARD.encode(root.pem()),
                "tls.key": STANDARD.encode(root.key().serialize_pem()),
            },
        })
    }

    /// What believers of east hold: the sequence, and how many roots.
    fn told(hub: &Hub) -> (u64, usize) {
        hub.read(|world| {
            let mut bundles = world.trust_bundles();
            let east = bundles.find(|bundle| bundle.cluster == "east").unwrap();
            (east.sequence, east.roots.len())
        })
    }

    #[tokio::test]
    async fn what_is_handed_in_signs_until_something_better_comes() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let store = KeyStore::Files(state.clone());
        let hub = Arc::new(Hub::new(World::new("mesh.internal").unwrap()));
        let now = SystemTime::now();
        let authorities = Arc::new(Authorities::open(&store, [], now).await.unwrap());
        let places = (&state, &store);
        let apis = Apis::default();
        let fleet = Fleet::open(places, "mesh.internal", &hub, &authorities, &apis).unwrap();
        let (east, domain) = (
            "east".parse().unwrap(),
            "east.mesh.internal".parse().unwrap(),
        );
        fleet.admit(&east).await.unwrap();
        assert_eq!(told(&hub), (1, 1));

        let served = Arc::new(Mutex::new(secret(7)));
        let shown = Arc::clone(&served);
        let server = Fake::plain(move |_| answer(200, shown.lock().unwrap().to_string())).await;
        let api = Api::new(server.access()).unwrap();
        let mut issuers = Issuers::default();
        let mut look = async || {
            // Long enough ago.
            for looked in issuers.looked.values_mut() {
                looked.at = looked.at.checked_sub(LOOK_EVERY).unwrap();
            }
            let home = (Some(&api), "isthmus-system");
            issuers.look(&fleet, home, (&east, &domain, "ca")).await
        };
        look().await.unwrap();
        // The root that we had made is believed on.
        assert_eq!(told(&hub), (7, 2));
        let first = authorities.of(&domain).unwrap();
        assert!(first.is_handed());

        // It ends, or is somebody else's: what was good before signs on.
        let mut bad = secret(8);
        bad["data"]["tls.key"] = STANDARD.encode("hunter2").into();
        *served.lock().unwrap() = bad;
        for _ in 0..2 {
            let why = look().await.unwrap_err();
            assert_eq!(why.reason, "Unusable");
            let text = "Secret isthmus-system/ca: tls.key: there is no private key in it";
            assert_eq!(why.message, text);
        }
        authorities.tend(now).await;
        assert_eq!(told(&hub), (7, 2));
        assert_eq!(authorities.of(&domain).unwrap().roots(), first.roots());

        *served.lock().unwrap() = secret(9);
        look().await.unwrap();
        assert_eq!(told(&hub), (9, 2));
        assert_ne!(authorities.of(&domain).unwrap().roots(), first.roots());
    }

    #[test]
    fn a_secret_that_is_no_issuer_is_refused_without_its_content() {
        let domain: TrustDomain = "east.mesh.internal".parse().unwrap();
        let why = |json: &str| {
            let secret: Secret = serde_json::from_str(json).unwrap();
            authority(&domain, &secret, SystemTime::now()).unwrap_err()
        };
        let tls = |data: &str| {
            format!(
                r#"{{"metadata":{{"resourceVersion":"7"}},"type":"kubernetes.io/tls","data":{data}}}"#
            )
        };
        for (json, says) in [
            (
                r#"{"metadata":{"resourceVersion":"7"},"type":"Opaque"}"#.to_owned(),
                "not of the type kubernetes.io/tls",
            ),
            (tls("{}"), "tls.crt: there is no such key"),
            (tls(r#"{"tls.crt":"hunter2"}"#), "tls.crt: not base64"),
            (
                tls(r#"{"tls.crt":"","tls.key":""}"#),
                "ca.crt: there is no such key",
            ),
            (
                tls(r#"{"tls.crt":"","tls.key":"","ca.crt":""}"#),
                "tls.key: there is no private key",
            ),
        ] {
            let why = why(&json);
            assert!(why.contains(says) && !why.contains("hunter2"), "{why}");
        }
    }
}
