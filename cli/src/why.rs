//! Why did this call go where it went, or why was it refused?
//!
//! The proxies replay the decision with the functions that made it; this puts both ends' answers
//! together and reads them out.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::args::{CallOptions, Format, WhyOptions};
use crate::client::{self, Door, escape};
use crate::demo::state::State;
use crate::output;

mod story;

pub(crate) use story::Story;

/// `isthmus why`.
///
/// # Errors
/// Nobody can be asked, or they don't know.
pub(crate) fn run(options: &WhyOptions, format: Format) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let story = runtime.block_on(async {
        match &options.service {
            None => of_reason(options).await,
            Some(service) => of_call(options, service).await,
        }
    })?;
    match format {
        Format::Json => output::json(&story.json),
        Format::Text => output::line(story.text.trim_end()),
    }
    Ok(())
}

async fn of_reason(options: &WhyOptions) -> anyhow::Result<Story> {
    let id = &options.client_or_reason;
    let Some(workload) = workload_of(id) else {
        bail!(
            "{id:?} is no reason id (cluster/namespace/pod:hex); to ask about a call, name the \
             service too: isthmus why {} SERVICE",
            id.split(':').next().unwrap_or(id)
        );
    };
    let proxy = match options.mesh.proxies.first() {
        Some(address) => options.mesh.door(*address)?,
        None => find(&State::read(options.mesh.demo.as_deref())?, workload)?.1,
    };
    reason(&proxy, id).await
}

/// Whose proxy gave this reason id; `None`: it is none.
fn workload_of(id: &str) -> Option<&str> {
    let (workload, number) = id.split_once(':')?;
    let is_hex = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some(workload)
}

/// What was behind a refusal, as its proxy remembers it.
///
/// # Errors
/// The proxy doesn't answer, or has forgotten.
pub(crate) async fn reason(proxy: &Door, id: &str) -> anyhow::Result<Story> {
    let answer = client::json(proxy, &format!("/why?reason={}", escape(id))).await?;
    Ok(Story::of_reason(answer))
}

async fn of_call(options: &WhyOptions, service: &str) -> anyhow::Result<Story> {
    let state = match options.mesh.proxies.first() {
        Some(_) => None,
        None => Some(State::read(options.mesh.demo.as_deref())?),
    };
    let (client, client_admin) = match (options.mesh.proxies.first(), &state) {
        (Some(address), _) => {
            let door = options.mesh.door(*address)?;
            (options.client_or_reason.clone(), door)
        }
        (None, Some(state)) => find(state, &options.client_or_reason)?,
        (None, None) => bail!("no proxy to ask: give --proxy"),
    };
    let config = client::json(&client_admin, "/config").await?;
    let (host, port) = host_and_port(service, namespace_of(&config))?;
    let asked = format!("host={}&port={port}{}", escape(&host), said(&options.call));
    let outbound = client::json(&client_admin, &format!("/why?{asked}")).await?;
    let first_use = if story::is_first_use(&outbound) {
        let control_plane = match (options.mesh.control_plane, &state) {
            (Some(at), _) => Some(options.mesh.door(at)?),
            (None, Some(state)) => Some(state.door(state.control_plane)),
            (None, None) => None,
        };
        Some(first_use(control_plane, &config, (&host, port)).await)
    } else {
        None
    };
    // What the sidecar has not been told yet, the control plane knows.
    let decided = first_use.as_ref().unwrap_or(&outbound);
    let inbound = match server_of(options, state.as_ref(), decided)? {
        Some((_, admin)) => {
            let call = (host.as_str(), port, &options.call);
            Some(inbound(&admin, &config, decided, call).await)
        }
        None => None,
    };
    let mut answers = json!({ "outbound": outbound, "inbound": inbound });
    if let Some(first_use) = first_use {
        answers["first_use"] = first_use;
    }
    Ok(Story::of_call(&client, answers))
}

/// What the client's sidecar would be told at its first call. Where nobody can say it, this is
/// `{"unavailable": why}`.
async fn first_use(
    control_plane: Option<Door>,
    client: &Value,
    (host, port): (&str, u16),
) -> Value {
    let Some(at) = control_plane else {
        return json!({ "unavailable": "its address is not known; --control-plane names it" });
    };
    let Some(name) = client.pointer("/own/name").and_then(Value::as_str) else {
        return json!({ "unavailable": "the client's sidecar does not know its own pod yet" });
    };
    let (name, host) = (escape(name), escape(host));
    client::json(
        &at,
        &format!("/first-use?client={name}&host={host}&port={port}"),
    )
    .await
    .unwrap_or_else(|error| json!({ "unavailable": format!("{error:#}") }))
}

/// What the server's sidecar says of it. That it can't be asked may be the very reason: then the
/// other half counts all the more, and this one is `{"unavailable": why}`.
async fn inbound(
    admin: &Door,
    client: &Value,
    outbound: &Value,
    (host, port, call): (&str, u16, &CallOptions),
) -> Value {
    let Some(identity) = story::identity(client) else {
        return json!({ "unavailable": "the client's sidecar does not say who it is" });
    };
    let port = story::target_port(outbound).unwrap_or(port);
    let sent = sent(outbound).unwrap_or_else(|| said(call));
    // The first of a parameter counts: a route's host before ours.
    let query = format!(
        "identity={}&port={port}{sent}&host={}",
        escape(&identity),
        escape(host)
    );
    client::json(admin, &format!("/why/inbound?{query}"))
        .await
        .unwrap_or_else(|error| json!({ "unavailable": format!("{error:#}") }))
}

/// The sidecar of the pod that would be called.
fn server_of(
    options: &WhyOptions,
    state: Option<&State>,
    outbound: &Value,
) -> anyhow::Result<Option<(String, Door)>> {
    if let Some(address) = options.server {
        return Ok(Some((String::new(), options.mesh.door(address)?)));
    }
    let found = story::endpoint(outbound).zip(state);
    Ok(found.and_then(|(endpoint, state)| find(state, &endpoint).ok()))
}

/// What was said of the call, as parameters of a query. Nothing: the port's protocol decides.
fn said(call: &CallOptions) -> String {
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        query.push_str(&format!("&{name}={}", escape(value)));
    };
    if call.connection {
        add("as", "connection");
    }
    let texts = [
        ("path", &call.path),
        ("method", &call.method),
        ("server_name", &call.server_name),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, value) in &call.header {
        add("header", &format!("{name}:{value}"));
    }
    query
}

/// What the client's sidecar would send, as parameters of a query: its routes may have changed
/// host, path and fields. `None`: it did not come to that.
fn sent(outbound: &Value) -> Option<String> {
    if outbound.get("judged_as")?.as_str()? == "connection" {
        return Some("&as=connection".to_owned());
    }
    let route = outbound.get("route")?;
    let text = |name| route.get(name)?.as_str().map(escape);
    let headers = route.get("headers")?.as_array()?.iter();
    let mut query = "&as=request".to_owned();
    for (parameter, value) in [
        ("method", text("method")?),
        ("host", text("authority")?),
        ("path", text("path")?),
    ] {
        query.push_str(&format!("&{parameter}={value}"));
    }
    for line in headers.filter_map(Value::as_str) {
        query.push_str(&format!("&header={}", escape(line)));
    }
    Some(query)
}

/// The proxy of a pod that is named as `cluster/namespace/pod`, or by an end of that, or by the
/// name of its workload (`web` means `web-1`, if nothing else fits).
fn find(state: &State, name: &str) -> anyhow::Result<(String, Door)> {
    let proxies = || {
        state
            .proxies
            .iter()
            .map(|(id, at)| (id.clone(), state.door(*at)))
    };
    let fits = |id: &str| id == name || id.ends_with(&format!("/{name}"));
    if let Some(found) = proxies().find(|(id, _)| fits(id)) {
        return Ok(found);
    }
    let starts = |id: &str| {
        let pod = id.rsplit('/').next().unwrap_or(id);
        pod.rsplit_once('-')
            .is_some_and(|(workload, _)| workload == name)
    };
    proxies().find(|(id, _)| starts(id)).with_context(|| {
        let known: Vec<&str> = state.proxies.keys().map(String::as_str).collect();
        format!(
            "no proxy of {name:?} is known; there are {}",
            known.join(", ")
        )
    })
}

/// The namespace of a proxy's workload, from its `/config`.
fn namespace_of(config: &Value) -> &str {
    let workload = config.pointer("/own/name").and_then(Value::as_str);
    workload
        .and_then(|name| name.split('/').nth(1))
        .unwrap_or("default")
}

/// `cart`, `cart.shop`, `cart.shop.svc.cluster.local`, each with or without a port; 80 otherwise.
/// Short names mean the service in every cluster, in the client's namespace.
fn host_and_port(service: &str, namespace: &str) -> anyhow::Result<(String, u16)> {
    let (host, port) = match service.rsplit_once(':') {
        Some((host, port)) => {
            let port = port
                .parse()
                .with_context(|| format!("{port:?} is no port"))?;
            (host, port)
        }
        None => (service, 80),
    };
    let host = match host.split('.').count() {
        1 => format!("{host}.{namespace}.svc.clusterset.local"),
        2 => format!("{host}.svc.clusterset.local"),
        _ => host.to_owned(),
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn state() -> State {
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let names = [
            "east/shop/web-1",
            "west/shop/cart-3",
            "west/isthmus-system/gateway-west",
        ];
        State {
            control_plane: at,
            proxies: names.map(|name| (name.to_owned(), at)).into(),
            states: [].into(),
            folder: "/".into(),
        }
    }

    #[test]
    fn the_servers_sidecar_is_asked_about_what_the_clients_would_send() {
        let mut outbound = json!({ "judged_as": "request", "route": {
            "method": "POST", "authority": "new.shop", "path": "/v2?a=b", "headers": ["x: 1"],
        }});
        let request = "&as=request&method=POST&host=new.shop&path=/v2%3Fa%3Db&header=x:%201";
        assert_eq!(sent(&outbound).as_deref(), Some(request));
        outbound["judged_as"] = json!("connection");
        assert_eq!(sent(&outbound).as_deref(), Some("&as=connection"));
        assert_eq!(sent(&json!({ "judged_as": null, "route": null })), None);
    }

    #[test]
    fn a_reason_id_ends_in_a_hexadecimal_number() {
        let id = "west/shop/reviews-1:1f";
        assert_eq!(workload_of(id), Some("west/shop/reviews-1"));
        for bad in ["west/shop/reviews-1", "a:", "a:zz", "a:+1", "a:1:2"] {
            assert_eq!(workload_of(bad), None, "{bad}");
        }
    }

    /// A page that answers every question with what its path says.
    async fn sidecar() -> SocketAddr {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = io.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let answer = match head.split([' ', '?']).nth(1) {
                    Some("/config") => json!({
                        "own": { "name": "east/shop/web-1" },
                        "certificate": { "identity": "spiffe://east.mesh.internal/ns/shop/sa/web" },
                    }),
                    _ => json!({ "endpoint": "west/shop/cart-3", "verdict": "it would go there" }),
                };
                let body = answer.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                io.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn what_the_client_would_do_is_told_also_when_the_server_is_dead() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = taken.local_addr().unwrap();
        drop(taken);
        let client = sidecar().await;
        let options = WhyOptions {
            client_or_reason: "web-1".to_owned(),
            service: Some("cart".to_owned()),
            call: CallOptions::default(),
            server: Some(dead),
            mesh: crate::args::MeshAddresses {
                proxies: vec![client],
                ..Default::default()
            },
        };
        let story = of_call(&options, "cart").await.unwrap();
        assert_eq!(story.json["outbound"]["verdict"], "it would go there");
        let why = story.json["inbound"]["unavailable"].as_str().unwrap();
        assert!(why.contains(&dead.to_string()), "{why}");
        assert!(story.text.contains("it would go there") && story.text.contains(why));
    }

    #[test]
    fn a_pod_is_found_by_any_end_of_its_name() {
        for name in ["east/shop/web-1", "shop/web-1", "web-1", "web"] {
            assert_eq!(find(&state(), name).unwrap().0, "east/shop/web-1", "{name}");
        }
        let error = find(&state(), "we").unwrap_err().to_string();
        assert!(error.contains("west/shop/cart-3"), "{error}");
    }

    #[test]
    fn short_names_of_services_are_completed() {
        let config = json!({ "own": { "name": "east/shop/web-1" } });
        let host_and_port = |service| host_and_port(service, namespace_of(&config));
        let full = "cart.shop.svc.clusterset.local";
        assert_eq!(host_and_port("cart").unwrap(), (full.into(), 80));
        assert_eq!(
            host_and_port("cart.shop:8080").unwrap(),
            (full.into(), 8080)
        );
        let local = "cart.shop.svc.cluster.local";
        assert_eq!(host_and_port(local).unwrap(), (local.into(), 80));
        assert!(host_and_port("cart:http").is_err());
    }
}
