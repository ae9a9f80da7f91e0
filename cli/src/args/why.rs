//! How is `isthmus why` asked?

use std::net::SocketAddr;

use clap::Args;

use super::MeshAddresses;

/// Options of `isthmus why`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus why web reviews                    as web's sidecar would decide, and the server's\n  \
        isthmus why east/shop/web-1 cart.shop:80 --path /admin --method POST --header x-team=a\n  \
        isthmus why web cart --proxy 10.0.0.7:15000 --server 10.0.0.9:15000 \\\n    \
          --admin-token 10.0.0.7:15000=web/admin-token --admin-token 10.0.0.9:15000=cart/admin-token\n  \
        isthmus why web vault:8200 --server-name vault.shop  a TLS connection\n  \
        isthmus why west/shop/reviews-1:2a         the id in x-mesh-reason of a refusal")]
pub(crate) struct WhyOptions {
    /// The calling pod (`[cluster/][namespace/]pod`), or a reason id (cluster/namespace/pod:hex).
    pub(crate) client_or_reason: String,
    /// The service called: `host[:port]`. Without it, the first argument is a reason id.
    pub(crate) service: Option<String>,
    /// What the request or connection would be like.
    #[command(flatten)]
    pub(crate) call: CallOptions,
    /// Admin address of the server's sidecar, where it is not in the demo's state file.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) server: Option<SocketAddr>,
    /// Where to ask; `--proxy` is the client's sidecar.
    #[command(flatten)]
    pub(crate) mesh: MeshAddresses,
}

/// What a call would carry. Without any of these, the service's port says it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CallOptions {
    /// Path of the request, with its query [default: /].
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Method of the request [default: GET].
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// A header field of the request. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// It is a TLS connection, whose client asks for this name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["path", "method", "header"])]
    pub(crate) server_name: Option<String>,
    /// It is a connection of bytes, where the port does not declare what it speaks.
    #[arg(long, conflicts_with_all = ["path", "method", "header"])]
    pub(crate) connection: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "is not NAME=VALUE".to_owned())?;
    let name =
        http::HeaderName::try_from(name).map_err(|_| format!("{name:?} is no field name"))?;
    Ok((name.as_str().to_owned(), value.to_owned()))
}
