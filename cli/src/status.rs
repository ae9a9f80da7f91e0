//! What does the mesh look like right now, and how old is what everybody knows?

use std::net::SocketAddr;

use anyhow::Context as _;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::args::{Format, MeshAddresses, StatusOptions};
use crate::client;
use crate::demo::state::State;
use crate::output;

mod tables;

/// `isthmus status`.
///
/// # Errors
/// Nobody can be asked. A part that doesn't answer is shown as such.
pub(crate) fn run(options: &StatusOptions, format: Format) -> anyhow::Result<()> {
    let (control_plane, proxies) = addresses(&options.mesh)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let seen = runtime.block_on(ask(control_plane, &proxies));
    match format {
        Format::Json => output::json(&seen),
        Format::Text => output::line(tables::all(&seen).trim_end()),
    }
    Ok(())
}

/// A proxy's name, if it is known, and its admin address.
type ProxyAt = (String, SocketAddr);

/// Where to ask: what was given, else the demo that is held.
fn addresses(mesh: &MeshAddresses) -> anyhow::Result<(Option<SocketAddr>, Vec<ProxyAt>)> {
    if mesh.control_plane.is_some() || !mesh.proxies.is_empty() {
        let proxies = mesh
            .proxies
            .iter()
            .map(|at| (at.to_string(), *at))
            .collect();
        return Ok((mesh.control_plane, proxies));
    }
    let state = State::read(mesh.demo.as_deref())?;
    Ok((
        Some(state.control_plane),
        state.proxies.into_iter().collect(),
    ))
}

/// Everybody's answers; what can't be asked says why in `error`.
async fn ask(control_plane: Option<SocketAddr>, proxies: &[ProxyAt]) -> Value {
    let page = async |at: SocketAddr, path: &str| {
        client::json(at, path)
            .await
            .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }))
    };
    let (clusters, clients) = match control_plane {
        Some(at) => (page(at, "/clusters").await, page(at, "/proxies").await),
        None => (Value::Null, Value::Null),
    };
    let configs = join_all(proxies.iter().map(|(_, at)| page(*at, "/config"))).await;
    let configs: Map<String, Value> = proxies
        .iter()
        .map(|(name, _)| name.clone())
        .zip(configs)
        .collect();
    json!({ "clusters": clusters, "proxies": clients, "configs": configs })
}

/// How many proxies are connected, by the control plane's `/proxies`.
pub(crate) fn connected(proxies: &Value) -> usize {
    entries(proxies, "proxies").len()
}

/// Named things of an answer, in one of the shapes that they come in: `[{name, ...}]` or
/// `{name: {...}}`, each also below `key`.
fn entries<'v>(answer: &'v Value, key: &str) -> Vec<(String, &'v Value)> {
    let inner = answer.get(key).unwrap_or(answer);
    match inner {
        Value::Array(items) => items
            .iter()
            .map(|item| (text(item, &NAMES).unwrap_or_default(), item))
            .collect(),
        Value::Object(fields) => {
            let objects = fields.iter().filter(|(_, value)| value.is_object());
            objects.map(|(name, value)| (name.clone(), value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// What things are called by.
const NAMES: [&str; 6] = ["name", "cluster", "node", "workload", "pod", "identity"];

/// The first of these fields that is there, as text.
fn text(value: &Value, keys: &[&str]) -> Option<String> {
    keys.iter()
        .find_map(|key| value.get(key))
        .filter(|found| !found.is_null())
        .map(output::leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_counted_in_either_shape() {
        let list = json!([{ "node": "east/shop/web-1" }, { "node": "west/shop/cart-3" }]);
        assert_eq!(connected(&list), 2);
        assert_eq!(connected(&json!({ "proxies": list })), 2);
        assert_eq!(
            connected(&json!({ "a/b/c": { "since": 1 }, "generation": 3 })),
            1
        );
        assert_eq!(connected(&json!({ "error": "down" })), 0);
    }

    #[test]
    fn given_addresses_win_over_the_demo() {
        let at: SocketAddr = "127.0.0.1:15000".parse().unwrap();
        let mesh = MeshAddresses {
            proxies: vec![at],
            ..MeshAddresses::default()
        };
        let (control_plane, proxies) = addresses(&mesh).unwrap();
        assert_eq!(control_plane, None);
        assert_eq!(proxies, [("127.0.0.1:15000".to_owned(), at)]);
    }
}
