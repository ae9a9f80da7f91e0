//! May this caller have this SPIFFE ID, and for how long?
//!
//! The token decides who it is; the certificate request gives a public key and nothing else. Both
//! have been verified by the shell as far as that needs cryptography; what follows from them is
//! decided here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use isthmus_proto::ids::{ClusterId, InvalidName, WorkloadName};
use isthmus_proto::spiffe::{SpiffeId, TrustDomain};

use crate::world::{State, World};

/// The audience that a token has to be bound to.
pub const AUDIENCE: &str = "isthmus";
/// A certificate's lifetime: renewed so that 24 h always remain.
pub const LIFETIME: Duration = Duration::from_secs(36 * 3600);
/// A certificate is valid from this long before it was issued: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(600);
/// An issuer with less than this left issues nothing any more.
pub const ISSUER_LEFT_MIN: Duration = Duration::from_secs(600);
/// Largest certificate request, DER.
pub const CSR_BYTES_MAX: usize = 16 << 10;
/// Bytes of a serial number (RFC 5280 §4.1.2.2 allows 20).
pub const SERIAL_BYTES: usize = 16;
/// Smallest RSA key, in bits.
const RSA_BITS_MIN: u32 = 2_048;
/// Largest RSA key, in bits: checking one more is work for everybody else.
const RSA_BITS_MAX: u32 = 4_096;

/// What a token says, after its signature was checked with the keys of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The cluster whose keys the signature was checked with.
    pub cluster: ClusterId,
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the token is bound to, if any.
    pub pod: Option<String>,
    /// The pod's UID, if it was told: two pods of one name have two.
    pub pod_uid: Option<String>,
    /// The node that the pod runs on, and its UID, if they were told.
    pub node: Option<String>,
    /// See `node`.
    pub node_uid: Option<String>,
    /// The audiences.
    pub audiences: Vec<String>,
    /// Not valid before; absent: always.
    pub not_before: Option<SystemTime>,
    /// Not valid from then on.
    pub expires: SystemTime,
}

/// What kind of key is to be certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA, with the modulus' length.
    Rsa {
        /// In bits.
        bits: u32,
    },
    /// Anything else.
    Other,
}

/// What counts of a certificate request. Its names do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsrFacts {
    /// Its length, DER.
    pub bytes: usize,
    /// Its key.
    pub key: KeyKind,
    /// Is it signed with that key?
    pub signature_valid: bool,
}

/// The issuing key of the caller's cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// For which trust domain it issues.
    pub trust_domain: TrustDomain,
    /// Its own certificate's end.
    pub not_after: SystemTime,
    /// How long what it issues is valid, as long as it lives itself. Default: [`LIFETIME`].
    pub lifetime: Duration,
    /// The cluster is not trusted any more.
    pub cut_off: bool,
}

/// What may be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The only URI name of the certificate.
    pub identity: SpiffeId,
    /// The certificate's begin.
    pub not_before: SystemTime,
    /// The certificate's end.
    pub not_after: SystemTime,
    /// The certificate's serial number, big endian, positive.
    pub serial: [u8; SERIAL_BYTES],
}

/// Why nothing is issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Who the caller is was not shown (UNAUTHENTICATED).
    #[error("the token is not accepted: {0}")]
    Token(&'static str),
    /// The token's names make no identity (UNAUTHENTICATED).
    #[error("the token names no identity")]
    Identity(#[source] InvalidName),
    /// The cluster gets no certificates (PERMISSION_DENIED).
    #[error("cluster {0} is cut off")]
    CutOff(ClusterId),
    /// It is not known yet who is cut off (UNAVAILABLE).
    #[error("cluster {0}, which speaks for the mesh, has not told its TrustPolicies yet")]
    Unheard(ClusterId),
    /// The request for a certificate is not acceptable (INVALID_ARGUMENT).
    #[error("the certificate request is not accepted: {0}")]
    Csr(&'static str),
    /// The issuing certificate ends too soon (UNAVAILABLE).
    #[error("the issuer of cluster {0} is about to expire")]
    Issuer(ClusterId),
}

/// Decides about one request. `claimed` is the cluster that the request names, `random` comes from a
/// cryptographic source.
///
/// # Errors
/// Nothing may be issued; the text may be told to the caller.
pub fn issue(
    world: &World,
    (claims, claimed): (&Claims, &str),
    csr: &CsrFacts,
    authority: &Authority,
    random: [u8; SERIAL_BYTES],
    now: SystemTime,
) -> Result<Grant, Refused> {
    check_token(claims, claimed, now)?;
    if let Some(author) = world.mesh_author_awaited() {
        return Err(Refused::Unheard(author.clone()));
    }
    if authority.cut_off || world.is_distrusted(claims.cluster.as_str()) {
        return Err(Refused::CutOff(claims.cluster.clone()));
    }
    // The key of one trust domain never signs for another, whoever mixes them up.
    if world.trust_domain(claims.cluster.as_str()) != Some(&authority.trust_domain) {
        return Err(Refused::Token(
            "its cluster is not in the mesh, or has another issuer",
        ));
    }
    let identity = SpiffeId::new(
        &authority.trust_domain,
        &claims.namespace,
        &claims.service_account,
    )
    .map_err(Refused::Identity)?;
    check_pod(world, claims)?;
    check_csr(csr)?;
    let (not_before, not_after) = validity(&claims.cluster, authority, now)?;
    Ok(Grant {
        identity,
        not_before,
        not_after,
        serial: serial(random),
    })
}

fn check_token(claims: &Claims, claimed: &str, now: SystemTime) -> Result<(), Refused> {
    if claims.cluster.as_str() != claimed {
        return Err(Refused::Token("it belongs to another cluster"));
    }
    if !claims.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Refused::Token("it is for another audience"));
    }
    if now >= claims.expires {
        return Err(Refused::Token("it has expired"));
    }
    if claims.not_before.is_some_and(|begin| now < begin) {
        return Err(Refused::Token("it is not valid yet"));
    }
    Ok(())
}

/// Are both known, and not the same?
fn is_another(known: Option<&String>, claimed: Option<&String>) -> bool {
    known
        .zip(claimed)
        .is_some_and(|(known, claimed)| known != claimed)
}

/// A token outlives its pod; an identity must not. Only a cluster that is seen now can say that a
/// pod is gone.
fn check_pod(world: &World, claims: &Claims) -> Result<(), Refused> {
    let Some(pod) = &claims.pod else {
        return Ok(());
    };
    let name: WorkloadName = format!("{}/{}/{pod}", claims.cluster, claims.namespace)
        .parse()
        .map_err(Refused::Identity)?;
    match world.pod(&name) {
        Some(pod) if pod.service_account != claims.service_account => {
            Err(Refused::Token("its pod has another service account"))
        }
        Some(pod) if pod.finished => Err(Refused::Token("its pod has ended")),
        Some(pod) if is_another(pod.uid.as_ref(), claims.pod_uid.as_ref()) => Err(Refused::Token(
            "the pod of that name is another one, or was not seen yet",
        )),
        Some(_) => Ok(()),
        None if world.state(claims.cluster.as_str()) == Some(State::Synced) => {
            Err(Refused::Token("its pod is gone"))
        }
        None => Ok(()),
    }
}

fn check_csr(csr: &CsrFacts) -> Result<(), Refused> {
    if csr.bytes > CSR_BYTES_MAX {
        return Err(Refused::Csr("larger than 16 KiB"));
    }
    match csr.key {
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => {}
        KeyKind::Rsa { bits } if (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) => {}
        KeyKind::Rsa { .. } => return Err(Refused::Csr("RSA keys have 2,048 to 4,096 bits")),
        KeyKind::Other => return Err(Refused::Csr("a key of this kind is not known")),
    }
    if !csr.signature_valid {
        return Err(Refused::Csr("it is not signed with its own key"));
    }
    Ok(())
}

/// Never longer than the issuer lives.
fn validity(
    cluster: &ClusterId,
    authority: &Authority,
    now: SystemTime,
) -> Result<(SystemTime, SystemTime), Refused> {
    let left = authority.not_after.duration_since(now).unwrap_or_default();
    if left < ISSUER_LEFT_MIN {
        return Err(Refused::Issuer(cluster.clone()));
    }
    let not_before = now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH);
    let not_after = now
        .checked_add(authority.lifetime.min(left))
        .unwrap_or(authority.not_after);
    Ok((not_before, not_after))
}

/// A positive number of always the same length: DER reads the highest bit as a sign, and leaves
/// leading zeros out (RFC 5280 §4.1.2.2, X.690 §8.3). 126 bits are random.
fn serial(mut random: [u8; SERIAL_BYTES]) -> [u8; SERIAL_BYTES] {
    if let Some(first) = random.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    random
}

/// How often may one workload ask? One bucket for each key, all bounded.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    every: Duration,
    buckets: BTreeMap<String, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the bucket will be full again.
    full_at: Instant,
}

/// Keys that are remembered at once.
const BUCKETS_MAX: usize = 200_000;

impl Throttle {
    /// `burst` requests at once, and one more after each `every`.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            buckets: BTreeMap::new(),
        }
    }

    /// For certificates: a proxy that restarts a few times in a row is served; one that asks in a
    /// loop is not.
    #[must_use]
    pub fn for_certificates() -> Self {
        Self::new(10, Duration::from_secs(10))
    }

    /// Takes one request of `key`.
    ///
    /// # Errors
    /// Too many; the time after which the next one is served.
    pub fn take(&mut self, key: &str, now: Instant) -> Result<(), Duration> {
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(key) {
            // Full buckets say nothing.
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            if self.buckets.len() >= BUCKETS_MAX {
                return Err(self.every);
            }
        }
        let size = self.every.saturating_mul(self.burst);
        let begin = self
            .buckets
            .get(key)
            .map_or(now, |bucket| bucket.full_at.max(now));
        // The time that it takes to fill what is missing, with this request's share.
        let missing = begin
            .saturating_duration_since(now)
            .saturating_add(self.every);
        if missing > size {
            return Err(missing.saturating_sub(size));
        }
        let full_at = begin.checked_add(self.every).unwrap_or(begin);
        self.buckets.insert(key.to_owned(), Bucket { full_at });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
