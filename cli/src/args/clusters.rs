//! What may be written after `install` and `cluster`?

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which cluster is meant: a context of a kubeconfig.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Reach {
    /// The kubeconfig; several, as in `KUBECONFIG`, count together. Default: `~/.kube/config`.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context. Default: the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

impl Reach {
    /// Was a cluster named on the command line? A kubeconfig of the environment alone names none.
    pub(crate) fn is_given(&self) -> bool {
        self.context.is_some()
    }
}

/// Options of `isthmus install`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus install --cluster east | less\n  \
        isthmus install --cluster east --network east-net | kubectl apply --server-side -f -\n  \
        isthmus install --cluster east --apply --context east\n\n\
        Applied again, flags that are not given keep what is installed, and the output says what; what is\n\
        printed is of the flags alone. An empty --discovery-address= takes the address back.\n\n\
        Definitions of the Multi-Cluster Services API are applied only where there are none.")]
pub(crate) struct InstallOptions {
    /// The name of this cluster in the mesh: identities carry it, it can't be changed later. Default, with
    /// --apply: as installed, else what its ClusterProperty `cluster.clusterset.k8s.io` says.
    #[arg(long, value_name = "NAME", required_unless_present = "apply")]
    pub(crate) cluster: Option<String>,
    /// The network that its pods are on. Default: as installed, else one of its own, with the cluster's
    /// name.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// The domain below which every cluster has its trust domain. Default: as installed, else
    /// `mesh.internal`.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) mesh_domain: Option<String>,
    /// The image that has the control plane. Default: as installed, else `isthmus:` and this version.
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Where proxies of other clusters reach the control plane (its Service `control-plane`, port 15012).
    /// Default: as installed; without one only pods of this cluster are told where it is.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) discovery_address: Option<String>,
    /// Let the cluster's load balancer lead to it: the Service `control-plane` becomes one of type
    /// LoadBalancer. Default: as installed; `=false` makes it one of type ClusterIP.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) load_balancer: Option<bool>,
    /// Keep what the control plane knows of each cluster in a volume for each replica, so that it outlives
    /// the pod: of the cluster's default StorageClass, or `=CLASS`. Default: as installed, else on the
    /// pod's node as long as the pod is there; `=false` goes back to that.
    #[arg(long, value_name = "CLASS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) saved_world_claim: Option<String>,
    /// A NetworkPolicy opens the ports that the control plane's pods serve (15012, 15014), and no others.
    /// Default: as installed, else yes; `=false` leaves it out, and takes away what is there.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) network_policy: Option<bool>,
    /// Keys of the control plane's configuration (docs/CONFIG.md) that no flag decides, as JSON or YAML:
    /// `stale_seconds`, `home.quota`, `writes` and others. Default: as installed; an empty `--config=` takes
    /// all of them back.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<OsString>,
    /// Apply it, by server-side apply, instead of printing it.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Take fields over that somebody else owns.
    #[arg(long, requires = "apply")]
    pub(crate) force: bool,
    /// Where to apply it.
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Options of `isthmus cluster`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus cluster join west --context west --home-context east\n  \
        isthmus cluster list\n  \
        isthmus cluster check\n  \
        isthmus cluster leave west --context west")]
pub(crate) struct ClusterOptions {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// What can be done with clusters.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Let the control plane into a cluster, and tell it so.
    Join(JoinOptions),
    /// Show the clusters of the mesh.
    List(ListOptions),
    /// Take a cluster out of the mesh.
    Leave(LeaveOptions),
    /// Find out what is wrong between the control plane and its clusters, and what helps.
    Check(CheckOptions),
}

/// Options of `isthmus cluster join`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus cluster join west --context west\n  \
        isthmus cluster join --context west          by the name that it states itself\n  \
        isthmus cluster join west --context west --home-context east --network west-net\n  \
        isthmus cluster join lab --kubeconfig lab.yaml --home-kubeconfig prod.yaml \\\n    \
        --server https://10.1.0.4:6443\n\n\
        In the cluster it makes a namespace, a service account that may do what docs/KUBERNETES.md says,\n\
        and the definitions; in the home cluster a Secret with that account's token, and a MeshCluster.\n\
        Doing it twice does no harm: the token is made anew, and flags that are not given keep what is\n\
        there; the output says what. An empty --region= or --zone= takes it away.")]
pub(crate) struct JoinOptions {
    /// Its name in the mesh: identities carry it, it can't be changed later. Default: what its
    /// ClusterProperty `cluster.clusterset.k8s.io` says.
    pub(crate) name: Option<String>,
    /// The cluster that joins.
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The context of the cluster that the control plane runs in. Default: the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) home_context: Option<String>,
    /// The kubeconfig that has that context. Default: the same.
    #[arg(long, value_name = "FILE")]
    pub(crate) home_kubeconfig: Option<PathBuf>,
    /// The network that its pods are on: the same name says that pods reach each other without a
    /// gateway. Default: as it was, else one of its own, with the cluster's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Where its pods' addresses are, with commas: others are told of no endpoint outside of them. Default:
    /// as it was, else anywhere.
    #[arg(long, value_name = "CIDR,...")]
    pub(crate) pod_ranges: Option<String>,
    /// The region of pods whose node does not say. Default: as it was.
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// The zone of pods whose node does not say. Default: as it was.
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// Where the control plane reaches the API server. Default: as it was, else where the kubeconfig
    /// says.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The domain below which every cluster has its trust domain. Default: that of the
    /// control plane.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) mesh_domain: Option<String>,
    /// Take fields over that somebody else owns.
    #[arg(long)]
    pub(crate) force: bool,
    /// How long each token lasts. The control plane renews it after a third of that: so long it may be
    /// away before the cluster has to join again is two thirds of it. Default: as it was, else 72.
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub(crate) token_hours: Option<u32>,
}

/// Options of `isthmus cluster list`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  isthmus cluster list\n  isthmus cluster list --context east --output json"
)]
pub(crate) struct ListOptions {
    /// The cluster that the control plane runs in.
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Options of `isthmus cluster leave`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus cluster leave west --context west\n  \
        isthmus cluster leave west --only-home       the cluster is gone already\n\n\
        First the MeshCluster goes, so that nothing is sent there any more; then what let the control\n\
        plane in, and what it made; last the Secret, so that all of it may be done again. Definitions and\n\
        the namespace stay: others' objects may be of them.")]
pub(crate) struct LeaveOptions {
    /// Its name in the mesh.
    pub(crate) name: String,
    /// The cluster that leaves.
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Do nothing in the cluster that leaves.
    #[arg(long, conflicts_with = "context")]
    pub(crate) only_home: bool,
    /// The context of the cluster that the control plane runs in. Default: the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) home_context: Option<String>,
    /// The kubeconfig that has that context. Default: the same.
    #[arg(long, value_name = "FILE")]
    pub(crate) home_kubeconfig: Option<PathBuf>,
}

/// Options of `isthmus cluster check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus cluster check                     every cluster of the mesh, as the control plane sees it\n  \
        isthmus cluster check west --output json\n\n\
        Exit code 0: nothing is broken; 1: something is; warnings do not count.")]
pub(crate) struct CheckOptions {
    /// Only these. Default: all.
    pub(crate) names: Vec<String>,
    /// The cluster that the control plane runs in.
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The domain below which every cluster has its trust domain. Default: that of the
    /// control plane.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) mesh_domain: Option<String>,
}
