//! How does a proxy get its certificate?

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use isthmus_control_plane_core::issue::{self, CsrFacts, KeyKind, Refused, Throttle};
use isthmus_control_plane_core::rotation::Phase;
use isthmus_proto::identity::identity_service_server::IdentityService;
use isthmus_proto::identity::{IssueRequest, IssueResponse};
use isthmus_proto::ids::WorkloadName;
use isthmus_proto::resource::TrustBundle;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData as _};
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::authority::csr::{InvalidCsr, public_key};
use crate::authority::registry::Authorities;
use crate::hub::Hub;
use crate::listener::Connection;
use crate::metrics::{Metric, Metrics};
use crate::rotation::Rosters;
use crate::state::random;
use crate::token::{self, TokenReviewer};

/// Requests of one address at once, and the time in which one more is allowed.
const SOURCE_BURST: u32 = 400;
const SOURCE_EVERY: Duration = Duration::from_millis(20);

/// The service.
#[derive(Debug)]
pub struct Identity<R> {
    hub: Arc<Hub>,
    authorities: Arc<Authorities>,
    reviewer: R,
    rosters: Arc<Rosters>,
    metrics: Arc<Metrics>,
    /// Of what is issued.
    lifetime: Duration,
    /// Before anything is looked at: by address.
    sources: Mutex<Throttle>,
    /// When it is known who asks: by pod.
    workloads: Mutex<Throttle>,
}

/// Why there is no certificate: the status, and the word that is counted.
struct Refusal {
    status: Status,
    reason: &'static str,
}

impl<R: TokenReviewer> Identity<R> {
    /// The service over these.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        (authorities, rosters): (Arc<Authorities>, Arc<Rosters>),
        reviewer: R,
        metrics: Arc<Metrics>,
        lifetime: Duration,
    ) -> Self {
        let sources = Mutex::new(Throttle::new(SOURCE_BURST, SOURCE_EVERY));
        let workloads = Mutex::new(Throttle::for_certificates());
        Self {
            hub,
            authorities,
            rosters,
            reviewer,
            metrics,
            lifetime,
            sources,
            workloads,
        }
    }

    /// Who signs for a workload of this cluster. Before that is decided it is noted that somebody asks:
    /// no root goes while anybody may get a certificate of it whom nobody has in mind.
    async fn signer(&self, cluster: &str, workload: &str) -> Result<Arc<Authority>, Refusal> {
        let name: Option<WorkloadName> = workload.parse().ok();
        if let Some(name) = &name {
            self.rosters.note(name);
        }
        let authority = self
            .hub
            .read(|world| world.trust_domain(cluster).cloned())
            .and_then(|trust_domain| self.authorities.of(&trust_domain))
            .ok_or(Refused::Token("its cluster has no authority"))?;
        if authority.stage().phase != Phase::Stable
            && let Some(name) = &name
            && !self
                .rosters
                .remembered(authority.trust_domain(), name)
                .await
        {
            return Err(Refusal {
                status: Status::unavailable("a root is being replaced: try again"),
                reason: "rotation",
            });
        }
        Ok(authority)
    }

    async fn answer(&self, request: &Request<IssueRequest>) -> Result<IssueResponse, Refusal> {
        let connection = request.extensions().get::<Connection>();
        let source = connection.map(|c| c.remote.ip().to_canonical().to_string());
        take(
            &self.sources,
            &source.unwrap_or_default(),
            "source_throttled",
        )?;
        let request = request.get_ref();
        let claims = self
            .reviewer
            .review(&request.cluster, &request.token)
            .await?;
        let pod = claims.pod.as_deref().unwrap_or(&claims.service_account);
        let workload = format!("{}/{}/{pod}", claims.cluster, claims.namespace);
        take(&self.workloads, &workload, "workload_throttled")?;
        let key = public_key(&request.csr)?;
        let kind = match key.algorithm() {
            a if *a == PKCS_ECDSA_P256_SHA256 => KeyKind::EcdsaP256,
            a if *a == PKCS_ECDSA_P384_SHA384 => KeyKind::EcdsaP384,
            // `public_key` lets no other kind through.
            _ => KeyKind::Ed25519,
        };
        let facts = CsrFacts {
            bytes: request.csr.len(),
            key: kind,
            signature_valid: true,
        };
        let cluster = claims.cluster.as_str();
        let authority = self.signer(cluster, &workload).await?;
        let signer = issue::Authority {
            trust_domain: authority.trust_domain().clone(),
            not_after: authority.not_after(),
            lifetime: self.lifetime,
            cut_off: false,
        };
        let (serial, now) = (random().map_err(internal)?, SystemTime::now());
        let decide = |world: &_| {
            let of = (&claims, request.cluster.as_str());
            let grant = issue::issue(world, of, &facts, &signer, serial, now)?;
            let bundles: Vec<TrustBundle> = world.trust_bundles().cloned().collect();
            Ok::<_, Refused>((grant, bundles))
        };
        let (grant, bundles) = self.hub.read(decide)?;
        let issued = authority.issue(&grant, &key, now).map_err(internal)?;
        let since = issued
            .not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let node = claims.node.as_deref().unwrap_or_default();
        let node_uid = claims.node_uid.as_deref().unwrap_or_default();
        tracing::info!(identity = %grant.identity, %workload, node, node_uid, "certificate issued");
        self.metrics.count(Metric::Issued, cluster);
        Ok(IssueResponse {
            chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            not_after: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            bundles,
        })
    }
}

#[tonic::async_trait]
impl<R: TokenReviewer> IdentityService for Identity<R> {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        match self.answer(&request).await {
            Ok(response) => Ok(Response::new(response)),
            Err(Refusal { status, reason }) => {
                self.metrics.count(Metric::NotIssued, reason);
                let remote = request.extensions().get::<Connection>().map(|c| c.remote);
                tracing::info!(?remote, reason, why = status.message(), "no certificate");
                Err(status)
            }
        }
    }
}

fn take(throttle: &Mutex<Throttle>, key: &str, reason: &'static str) -> Result<(), Refusal> {
    let taken = throttle
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(key, Instant::now());
    taken.map_err(|wait| {
        let seconds = wait.as_secs_f64();
        let text = format!("too many requests for certificates; again in {seconds:.1} s");
        Refusal {
            status: Status::resource_exhausted(text),
            reason,
        }
    })
}

fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Refusal {
    // What went wrong inside is for the log, not for the caller.
    tracing::error!("no certificate: {:#}", anyhow::Error::from(error));
    Refusal {
        status: Status::internal("the certificate could not be made"),
        reason: "internal",
    }
}

impl From<token::Refused> for Refusal {
    fn from(refused: token::Refused) -> Self {
        let text = refused.to_string();
        match refused {
            token::Refused::Unavailable(_) => Self {
                status: Status::unavailable(text),
                reason: "review_unavailable",
            },
            token::Refused::UnknownCluster(_)
            | token::Refused::Malformed(_)
            | token::Refused::Algorithm
            | token::Refused::Signature(_)
            | token::Refused::Rejected { .. }
            | token::Refused::Foreign { .. }
            | token::Refused::Audience
            | token::Refused::Expired
            | token::Refused::Subject => Self {
                status: Status::unauthenticated(text),
                reason: "token",
            },
        }
    }
}

impl From<InvalidCsr> for Refusal {
    fn from(invalid: InvalidCsr) -> Self {
        Self {
            status: Status::invalid_argument(invalid.to_string()),
            reason: "csr",
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Token(_) | Refused::Identity(_) => Self {
                status: Status::unauthenticated(text),
                reason: "token",
            },
            Refused::CutOff(_) => Self {
                status: Status::permission_denied(text),
                reason: "cut_off",
            },
            Refused::Csr(_) => Self {
                status: Status::invalid_argument(text),
                reason: "csr",
            },
            Refused::Unheard(_) => Self {
                status: Status::unavailable(text),
                reason: "unheard",
            },
            Refused::Issuer(_) => Self {
                status: Status::unavailable(text),
                reason: "issuer",
            },
        }
    }
}
