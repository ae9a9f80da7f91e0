//! What do the demo's pods run? Small servers that say who answered and whom they saw.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::args::{App, AppListen, AppOptions};
use crate::shutdown;

mod http;
pub(crate) mod grpc;
mod tcp;
mod guard;

/// Connections that an application serves at once.
const CONNECTIONS_MAX: usize = 4_096;

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    /// The pod.
    pub(crate) pod: String,
    /// Its cluster.
    pub(crate) cluster: String,
}

/// Runs an application until it must stop.
///
/// # Errors
/// It can't listen, or the guarded program can't start.
pub(crate) fn run(options: AppOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match options.app {
            App::Http(listen) => {
                let server = http::Server::new(name(&listen));
                serve(&listen, move |stream, _| server.clone().connection(stream)).await
            }
            App::Grpc(listen) => {
                let name = name(&listen);
                serve(&listen, move |stream, _| {
                    grpc::connection(stream, name.clone())
                })
                .await
            }
            App::Tcp { listen, greet } => {
                let greeting = greet.then(|| name(&listen));
                serve(&listen, move |stream, _| {
                    tcp::connection(stream, greeting.clone())
                })
                .await
            }
            App::Guard { parent, command } => guard::run(parent, &command).await,
        }
    })
}

fn name(listen: &AppListen) -> Name {
    Name {
        pod: listen.name.clone(),
        cluster: listen.cluster.clone(),
    }
}

fn takes(options: &AppListen, peer: SocketAddr) -> bool {
    let from = &options.accept_from;
    from.is_empty() || from.iter().any(|network| network.contains(&peer.ip()))
}

/// Accepts until it must stop; a connection's end is nobody else's business.
async fn serve<F, C>(options: &AppListen, connection: F) -> anyhow::Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening on {}", options.listen))?;
    let mut connections = JoinSet::new();
    let stop = shutdown::requested(options.exit_with_stdin);
    tokio::pin!(stop);
    loop {
        // All branches are cancel-safe: accept, join_next and a pinned future.
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                // A failed accept (the peer was gone, no more descriptors) concerns one connection.
                match accepted {
                    Ok((stream, peer)) if takes(options, peer) => {
                        let _no_delay = stream.set_nodelay(true);
                        connections.spawn(connection(stream, peer));
                    }
                    // Dropped, and so closed: as a network that has no way here.
                    Ok(_) => {}
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }
    }
}
