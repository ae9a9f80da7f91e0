//! What does the mesh look like right now, and how old is what everybody knows?

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context as _;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::args::{Format, MeshAddresses, StatusOptions};
use crate::client::{self, Door};
use crate::demo::state::State;
use crate::output;

mod tables;
mod replicas;
mod forward;

pub(crate) use replicas::each;

/// `isthmus status`.
///
/// # Errors
/// Nobody can be asked, or nobody answers. A part that doesn't answer is shown as such.
pub(crate) fn run(options: &StatusOptions, format: Format) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let seen = runtime.block_on(look(options))?;
    match format {
        Format::Json => output::json(&seen),
        Format::Text => output::line(tables::all(&seen).trim_end()),
    }
    anyhow::ensure!(has_answer(&seen), "nobody answered");
    Ok(())
}

/// Is there anything but errors in what was seen?
fn has_answer(seen: &Value) -> bool {
    let answers = |page: &Value| !page.is_null() && page.get("error").is_none();
    let configs = seen["configs"].as_object();
    answers(&seen["world"]) || configs.is_some_and(|all| all.values().any(answers))
}

async fn look(options: &StatusOptions) -> anyhow::Result<Value> {
    if options.reach.is_given() {
        return replicas::look(&options.reach).await;
    }
    let (control_plane, proxies) = addresses(&options.mesh)?;
    Ok(ask(control_plane.as_ref(), &proxies).await)
}

/// A page of the control plane's.
///
/// # Errors
/// It can't be asked.
pub(crate) async fn page(options: &StatusOptions, path: &str) -> anyhow::Result<Value> {
    if options.reach.is_given() {
        return replicas::page(&options.reach, path).await;
    }
    let (control_plane, _) = addresses(&options.mesh)?;
    let control_plane = control_plane.context("name it with --control-plane")?;
    client::json(&control_plane, path).await
}

/// A proxy's name, if it is known, and its admin pages.
type ProxyAt = (String, Door);

/// Where to ask: what was given, else the demo that is held.
fn addresses(mesh: &MeshAddresses) -> anyhow::Result<(Option<Door>, Vec<ProxyAt>)> {
    if mesh.control_plane.is_some() || !mesh.proxies.is_empty() {
        let proxies = mesh.proxies.iter();
        let proxies = proxies.map(|at| Ok((at.to_string(), mesh.door(*at)?)));
        let control_plane = mesh.control_plane.map(|at| mesh.door(at)).transpose()?;
        return Ok((control_plane, proxies.collect::<anyhow::Result<_>>()?));
    }
    let state = State::read(mesh.demo.as_deref())?;
    let door = |(id, at): (&String, &SocketAddr)| (id.clone(), state.door(*at));
    let proxies = state.proxies.iter().map(door).collect();
    Ok((Some(state.door(state.control_plane)), proxies))
}

/// Everybody's answers; what can't be asked says why in `error`.
async fn ask(control_plane: Option<&Door>, proxies: &[ProxyAt]) -> Value {
    let page = async |at: &Door, path: &str| {
        let answer = client::json(at, path).await;
        answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }))
    };
    let (world, clients, services) = match control_plane {
        Some(at) => (
            page(at, "/world").await,
            page(at, "/proxies").await,
            page(at, "/services").await,
        ),
        None => (Value::Null, Value::Null, Value::Null),
    };
    let configs = join_all(proxies.iter().map(|(_, at)| page(at, "/config"))).await;
    let configs: Map<String, Value> = proxies
        .iter()
        .map(|(name, _)| name.clone())
        .zip(configs)
        .collect();
    json!({ "world": world, "services": services, "proxies": clients, "configs": configs })
}

/// Which proxies are connected, by the control plane's `/proxies`.
pub(crate) fn connected(proxies: &Value) -> BTreeSet<&str> {
    items(proxies)
        .iter()
        .filter_map(|client| client.get("node")?.as_str())
        .collect()
}

/// The items of a list; none if it isn't one.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_enough_and_none_is_an_error() {
        let error = || json!({ "error": "refused" });
        let seen =
            |world: Value, config: Value| json!({ "world": world, "configs": { "a": config } });
        assert!(!has_answer(&seen(error(), error())));
        assert!(!has_answer(&json!({ "world": null, "configs": {} })));
        assert!(has_answer(&seen(json!({ "clusters": [] }), error())));
        assert!(has_answer(&seen(json!(null), json!({ "generation": 1 }))));
        assert!(has_answer(&json!({ "world": [] })));
    }

    #[test]
    fn a_proxy_with_two_streams_counts_once() {
        let list =
            json!([{ "node": "east/shop/web-1" }, { "node": "east/shop/web-1" }, { "node": "b" }]);
        assert_eq!(connected(&list), BTreeSet::from(["b", "east/shop/web-1"]));
        assert!(connected(&json!({ "error": "down" })).is_empty());
    }

    #[test]
    fn given_addresses_win_over_the_demo() {
        let at: SocketAddr = "127.0.0.1:15000".parse().unwrap();
        let mesh = MeshAddresses {
            proxies: vec![at],
            ..MeshAddresses::default()
        };
        let (control_plane, proxies) = addresses(&mesh).unwrap();
        assert!(control_plane.is_none());
        let [(name, door)] = &proxies[..] else {
            panic!("one proxy")
        };
        assert_eq!((name.as_str(), door.at), ("127.0.0.1:15000", at));
        assert!(door.token.is_none());
    }
}
