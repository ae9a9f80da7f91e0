//! What may be written after `trust`?

use clap::{Args, Subcommand};

use super::{Reach, StatusOptions};

/// Options of `isthmus trust`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus trust rotate west --context east        the next root, step by step\n  \
        isthmus trust status --context east             how far it is, and who is waited for\n  \
        isthmus trust rotate west --root 1 --context east    back, until the new root signs\n\n\
        Each step is taken when every proxy is ready for it, and never by the clock.")]
pub(crate) struct TrustOptions {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TrustCommand,
}

/// What can be done with roots.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TrustCommand {
    /// Wish a cluster's trust domain another root: the annotation isthmus.dev/root of its MeshCluster.
    Rotate(RotateOptions),
    /// Show how far each cluster's root is, and which proxies are waited for.
    Status(StatusOptions),
}

/// Options of `isthmus trust rotate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus trust rotate west --context east           the next root for west, by its MeshCluster in east\n  \
        isthmus trust rotate west --context east --root 1  taken back, as long as the new one does not sign\n  \
        isthmus trust status --context east                how far it is, and who is waited for")]
pub(crate) struct RotateOptions {
    /// The cluster whose root is replaced.
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: String,
    /// The number of the root. Default: one more than was wished for last.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) root: Option<u32>,
    /// The cluster that the control plane runs in.
    #[command(flatten)]
    pub(crate) reach: Reach,
}
