//! Which objects say who may do what?

use super::Kind;

/// What an object governs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governs {
    /// Who is in the mesh, and who is cut off. Only those write it who own the mesh.
    Mesh,
    /// Who may call, by namespace.
    Access,
    /// How calls are treated, by namespace.
    Traffic,
}

impl Kind {
    /// Does an object of this kind say who may do what, and who belongs to the mesh? `None`: it does not.
    #[must_use]
    pub fn governs(self) -> Option<Governs> {
        match self {
            Self::MeshCluster | Self::TrustPolicy => Some(Governs::Mesh),
            Self::AccessPolicy => Some(Governs::Access),
            Self::TrafficPolicy => Some(Governs::Traffic),
            Self::Namespace
            | Self::ServiceAccount
            | Self::Pod
            | Self::Deployment
            | Self::Service
            | Self::EndpointSlice
            | Self::ServiceExport
            | Self::ServiceImport
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant
            | Self::Gateway
            | Self::GatewayClass
            | Self::ClusterProperty
            | Self::ClusterProfile
            | Self::ConfigMap => None,
        }
    }
}
