//! How is the mesh's state laid out for people?

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::items;
use crate::output::{leaf, table};

/// A kind of which nothing was heard for so many seconds longer than of its cluster is told: a quiet
/// one is confirmed every minute.
const OLDER: f64 = 120.0;

/// Every table.
pub(super) fn all(seen: &Value) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |now| now.as_secs_f64());
    let world = get(seen, "world");
    let mut parts = Vec::new();
    if let Some(error) = get(world, "error").as_str() {
        parts.push(format!("Control plane\n  {error}\n"));
    } else if !world.is_null() {
        parts.push(replicas(get(seen, "replicas")));
        parts.push(clusters(world));
        parts.push(problems(world, now));
    }
    let offered = get(seen, "services");
    if offered.get("services").is_some() {
        parts.push(services(offered));
    }
    let clients = get(seen, "proxies");
    if clients.is_array() {
        parts.push(proxies(clients, now));
    }
    for (name, config) in get(seen, "configs").as_object().into_iter().flatten() {
        match get(config, "error").as_str() {
            Some(error) => parts.push(format!("{name}\n  {error}\n")),
            None => parts.push(endpoints(name, config, now)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// The pods of the control plane, if it was asked by way of them.
fn replicas(listed: &Value) -> String {
    if items(listed).is_empty() {
        return String::new();
    }
    let row = |replica: &Value| {
        let leads = match get(replica, "leads").as_bool() {
            Some(true) => "leads".to_owned(),
            Some(false) => "-".to_owned(),
            None => unknown(),
        };
        let (answers, seen, proxies) = match get(replica, "error").as_str() {
            Some(why) => (format!("no: {why}"), unknown(), unknown()),
            None => (
                "yes".to_owned(),
                format!(
                    "{} of {}",
                    text(replica, "synced"),
                    text(replica, "clusters")
                ),
                text(replica, "proxies"),
            ),
        };
        vec![text(replica, "name"), leads, proxies, seen, answers]
    };
    let rows: Vec<Vec<String>> = items(listed).iter().map(row).collect();
    let head = ["replica", "writes", "proxies", "clusters synced", "answers"];
    table("Control plane", &head, &rows)
}

fn clusters(world: &Value) -> String {
    let row = |cluster: &Value| {
        let objects = get(cluster, "objects").as_object();
        let objects: u64 = objects
            .into_iter()
            .flatten()
            .filter_map(|(_, n)| n.as_u64())
            .sum();
        vec![
            text(cluster, "cluster"),
            freshness(cluster),
            objects.to_string(),
            text(cluster, "reason"),
        ]
    };
    let rows: Vec<Vec<String>> = items(get(world, "clusters")).iter().map(row).collect();
    let title = format!("Clusters, world generation {}", text(world, "generation"));
    table(
        &title,
        &["cluster", "state and age", "objects", "because"],
        &rows,
    )
}

/// `stale, 14 s`: what is known of a cluster, and how old that is.
fn freshness(cluster: &Value) -> String {
    let state = text(cluster, "state");
    match number(cluster, "age_seconds") {
        Some(age) => format!("{state}, {}", seconds(age)),
        None => state,
    }
}

/// Kinds that an API server does not show, and a saved world that says nothing.
fn unseen(cluster: &Value, now: f64) -> Vec<Vec<String>> {
    let name = text(cluster, "cluster");
    let kinds = get(get(cluster, "source"), "kinds").as_object();
    let mut lines = Vec::new();
    for kind in items(get(cluster, "unknown_kinds")) {
        let at = format!("{name}: {}", kind.as_str().unwrap_or_default());
        let why = "never seen: nothing is told that depends on it";
        lines.push(vec![at, "unknown".to_owned(), why.to_owned()]);
    }
    for (kind, report) in kinds.into_iter().flatten() {
        let state = text(report, "state");
        let age = number(report, "confirmed_at").map(|at| (now - at).max(0.0));
        let told = age.map_or_else(|| state.clone(), |age| format!("{state}, {}", seconds(age)));
        let at = format!("{name}: {kind}");
        if matches!(state.as_str(), "forbidden" | "lost") {
            lines.push(vec![at, told, text(report, "reason")]);
        } else if age.unwrap_or(0.0) > number(cluster, "age_seconds").unwrap_or(0.0) + OLDER {
            let why = "nothing was heard of it for longer than of the cluster";
            lines.push(vec![at, told, why.to_owned()]);
        }
    }
    for (key, what) in [("refused", "left aside"), ("failed", "not written")] {
        if let Some(why) = get(get(cluster, "saved"), key).as_str() {
            let at = format!("{name}: the world on disk");
            lines.push(vec![at, what.to_owned(), why.to_owned()]);
        }
    }
    lines
}

/// Where in a file a problem is, `:3:1`. Nothing, if it is in none of its lines.
fn position(problem: &Value) -> String {
    match get(problem, "line").as_u64() {
        None | Some(0) => String::new(),
        Some(line) => format!(":{line}:{}", text(problem, "column")),
    }
}

/// Files that are not understood, what is not seen, and conditions that an author would not expect.
fn problems(world: &Value, now: f64) -> String {
    let mut lines = Vec::new();
    if let Some(author) = get(world, "trust_awaits").as_str() {
        let why = format!(
            "no certificate is issued and no roots are told before {author} has told its \
             TrustPolicies and AccessPolicies"
        );
        lines.push(vec!["trust".to_owned(), "held back".to_owned(), why]);
    }
    for cluster in items(get(world, "clusters")) {
        let name = text(cluster, "cluster");
        lines.extend(unseen(cluster, now));
        for key in ["errors", "invalid"] {
            let files = get(get(cluster, "source"), key).as_object();
            for (file, problems) in files.into_iter().flatten() {
                lines.extend(items(problems).iter().map(|problem| {
                    let at = position(problem);
                    let object = text(problem, "object");
                    vec![
                        format!("{name}: {file}{at}"),
                        object,
                        text(problem, "message"),
                    ]
                }));
            }
        }
    }
    for one in items(get(world, "unwritten")) {
        let why = text(one, "why");
        lines.push(vec![text(one, "object"), "not written".to_owned(), why]);
    }
    for condition in items(get(world, "conditions")) {
        // A conflict is bad if there is one, and so is an excess; everything else if it is not so.
        let kind = condition.get("kind").and_then(Value::as_str);
        let is_bad_if = matches!(kind, Some("Conflict" | "QuotaExceeded"));
        if get(condition, "holds").as_bool() == Some(is_bad_if) {
            let what = format!("{} {}", text(condition, "kind"), text(condition, "reason"));
            lines.push(vec![
                text(condition, "object"),
                what,
                text(condition, "message"),
            ]);
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    table("Problems", &["where", "what", "why"], &lines)
}

/// What the clusters export, and how many of each cluster's endpoints serve.
fn services(offered: &Value) -> String {
    let row = |service: &Value, cluster: &Value| {
        let endpoints = items(get(cluster, "endpoints"));
        let open = endpoints.iter().filter(|e| get(e, "meshed") == true);
        let name = format!("{}/{}", text(service, "namespace"), text(service, "name"));
        vec![
            name,
            text(cluster, "cluster"),
            text(cluster, "healthy"),
            text(cluster, "draining"),
            text(cluster, "unhealthy"),
            format!("{} of {}", open.count(), endpoints.len()),
        ]
    };
    let of = |service: &Value| -> Vec<Vec<String>> {
        let clusters = items(get(service, "clusters"));
        clusters
            .iter()
            .map(|cluster| row(service, cluster))
            .collect()
    };
    let rows: Vec<Vec<String>> = items(get(offered, "services"))
        .iter()
        .flat_map(of)
        .collect();
    let title = match get(offered, "more").as_bool() {
        Some(true) => "Exported services (there are more)",
        Some(false) | None => "Exported services",
    };
    let head = [
        "service",
        "cluster",
        "healthy",
        "draining",
        "unhealthy",
        "meshed",
    ];
    table(title, &head, &rows)
}

fn proxies(clients: &Value, now: f64) -> String {
    let row = |client: &Value| {
        vec![
            text(client, "node"),
            text(client, "identity"),
            acknowledged(client),
            refused(client),
            number(client, "since").map_or_else(unknown, |since| seconds(now - since)),
            number(client, "certificate_not_after").map_or_else(unknown, |end| left(end - now)),
        ]
    };
    let rows: Vec<Vec<String>> = items(clients).iter().map(row).collect();
    let head = [
        "proxy",
        "identity",
        "acknowledged",
        "refused",
        "connected",
        "certificate",
    ];
    table("Proxies", &head, &rows)
}

/// The newest generation that the proxy has taken, and the types of which it has not taken all.
fn acknowledged(client: &Value) -> String {
    let types = || get(client, "types").as_object().into_iter().flatten();
    let newest = types().filter_map(|(_, t)| get(t, "acked_generation").as_u64());
    let newest = newest.max().map_or_else(unknown, |it| it.to_string());
    let behind = |t: &Value| get(t, "in_flight") == true || !refusals(t).is_empty();
    let behind: Vec<&str> = types()
        .filter(|(_, t)| behind(t))
        .map(|(name, _)| name.as_str())
        .collect();
    if behind.is_empty() {
        newest
    } else {
        format!("{newest}, but {}", behind.join(", "))
    }
}

/// What the proxy does not take as it is now.
fn refused(client: &Value) -> String {
    let types = get(client, "types").as_object().into_iter().flatten();
    let all: Vec<String> = types.flat_map(|(_, t)| refusals(t)).collect();
    if all.is_empty() {
        return "-".to_owned();
    }
    format!("{} ({})", all.len(), all.join("; "))
}

fn refusals(of_type: &Value) -> Vec<String> {
    let all = get(of_type, "refused").as_object().into_iter().flatten();
    all.map(|(name, why)| format!("{name}: {}", why.as_str().unwrap_or_default()))
        .collect()
}

/// How long a certificate is still valid.
fn left(number: f64) -> String {
    if number <= 0.0 {
        return "ended".to_owned();
    }
    format!("{} left", seconds(number))
}

/// The endpoints that one proxy knows, and what it has measured of them.
fn endpoints(name: &str, config: &Value, now: f64) -> String {
    let certificate = get(config, "certificate");
    let held = match (
        number(certificate, "age_seconds"),
        number(certificate, "not_after"),
    ) {
        (Some(age), Some(until)) => {
            format!(
                "certificate {} old, {} left",
                seconds(age),
                seconds(until - now)
            )
        }
        _ => "no certificate".to_owned(),
    };
    let subscription = get(config, "subscription");
    let discovery = match (
        get(subscription, "connected").as_bool(),
        get(subscription, "error").as_str(),
    ) {
        (Some(true), _) => "connected",
        (_, Some(error)) => error,
        (_, None) => "not connected",
    };
    let generation = text(config, "generation");
    let title = format!("{name}: generation {generation}, {held}, discovery {discovery}");
    let mut rows = Vec::new();
    for service in items(get(config, "services")) {
        let called = text(service, "name");
        // Unknown, empty and listed are three different things.
        match get(service, "endpoints").as_array() {
            None => rows.push(vec![called, "(not known yet)".to_owned()]),
            Some(none) if none.is_empty() => {
                rows.push(vec![called, "(known to be empty)".to_owned()])
            }
            Some(listed) => rows.extend(listed.iter().map(|e| endpoint_row(&called, e))),
        }
    }
    let head = [
        "service",
        "endpoint",
        "health",
        "ejected",
        "latency",
        "in flight",
        "calls",
        "failures",
    ];
    if rows.is_empty() {
        format!("{title}\n  calls nobody\n")
    } else {
        table(&title, &head, &rows)
    }
}

fn endpoint_row(service: &str, endpoint: &Value) -> Vec<String> {
    let stats = get(endpoint, "stats");
    let ejected = match number(stats, "ejected_for_seconds") {
        Some(left) => format!("for {left:.1} s"),
        None => "-".to_owned(),
    };
    let name = text(endpoint, "name");
    vec![
        service.to_owned(),
        name.rsplit('#').next().unwrap_or(&name).to_owned(),
        text(endpoint, "health"),
        ejected,
        number(stats, "latency_mean_ms").map_or_else(unknown, |ms| format!("{ms:.2} ms")),
        text(stats, "in_flight"),
        text(stats, "attempts"),
        text(stats, "failures"),
    ]
}

/// A field; null if it isn't there.
fn get<'v>(value: &'v Value, key: &str) -> &'v Value {
    static NONE: Value = Value::Null;
    value.get(key).unwrap_or(&NONE)
}

/// A field as text; a question mark if it isn't there.
fn text(value: &Value, key: &str) -> String {
    match get(value, key) {
        Value::Null => unknown(),
        found => leaf(found),
    }
}

fn number(value: &Value, key: &str) -> Option<f64> {
    get(value, key).as_f64()
}

/// `12.3` reads `12 s`, `7300` reads `2 h`.
fn seconds(number: f64) -> String {
    match number {
        ..120.0 => format!("{:.0} s", number.max(0.0)),
        120.0..7_200.0 => format!("{:.0} min", number / 60.0),
        _ => format!("{:.0} h", number / 3_600.0),
    }
}

fn unknown() -> String {
    "?".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The cells of the first line that has this text.
    fn cells(text: &str, wanted: &str) -> Vec<String> {
        let line = text.lines().find(|line| line.contains(wanted));
        let line = line.unwrap_or_else(|| panic!("{wanted} is not in {text}"));
        line.split("  ")
            .filter(|c| !c.is_empty())
            .map(|c| c.trim().to_owned())
            .collect()
    }

    fn world() -> Value {
        assert_eq!(position(&json!({ "line": 3, "column": 1 })), ":3:1");
        assert_eq!(position(&json!({ "line": 0, "column": 0 })), "");
        let problem = json!({ "line": 3, "column": 1, "object": "Pod shop/a", "message": "no" });
        let report = json!({ "errors": { "a.yaml": [problem] }, "invalid": {} });
        json!({
            "generation": 9,
            "clusters": [
                { "cluster": "east", "state": "synced", "age_seconds": 3.2, "reason": "",
                  "objects": { "Pod": 3, "Service": 1 }, "source": report },
                { "cluster": "west", "state": "unknown", "age_seconds": null, "reason": "hangs",
                  "objects": {}, "source": null },
                { "cluster": "north", "state": "stale", "age_seconds": 14.1, "reason": "refused",
                  "objects": {}, "saved": { "refused": "the file is cut", "failed": null },
                  "source": { "errors": {}, "kinds": {
                    "Pod": { "state": "forbidden", "reason": "may not list" },
                    "Service": { "state": "watching", "reason": "" } } } },
            ],
            "conditions": [
                { "object": "east: ServiceExport shop/a", "kind": "Valid", "holds": true },
                { "object": "east: ServiceExport shop/b", "kind": "Conflict", "holds": true,
                  "reason": "PortConflict", "message": "ports differ" },
            ],
            "unwritten": [
                { "object": "east: ConfigMap shop/isthmus-roots", "why": "not made by the mesh" },
            ],
        })
    }

    #[test]
    fn a_kind_that_is_older_than_its_cluster_is_told_with_its_age() {
        let mut world = world();
        let kinds = &mut world["clusters"][2]["source"]["kinds"];
        kinds["Pod"]["confirmed_at"] = 700.0.into();
        kinds["Service"]["confirmed_at"] = 400.0.into();
        kinds["EndpointSlice"] = json!({ "state": "watching", "confirmed_at": 990.0 });
        world["clusters"][2]["unknown_kinds"] = json!(["TrustPolicy"]);
        world["trust_awaits"] = "north".into();
        let text = problems(&world, 1_000.0);
        assert_eq!(cells(&text, "north: Pod")[1], "forbidden, 5 min");
        assert_eq!(cells(&text, "north: Service")[1], "watching, 10 min");
        assert!(!text.contains("EndpointSlice"), "{text}");
        assert_eq!(cells(&text, "north: TrustPolicy")[1], "unknown");
        assert_eq!(cells(&text, "held back")[0], "trust");
    }

    #[test]
    fn clusters_and_what_is_wrong_in_them() {
        let text = all(&json!({ "world": world(), "proxies": null, "configs": {} }));
        assert_eq!(
            cells(&text, "ConfigMap"),
            [
                "east: ConfigMap shop/isthmus-roots",
                "not written",
                "not made by the mesh"
            ]
        );
        assert_eq!(cells(&text, "synced"), ["east", "synced, 3 s", "4"]);
        assert_eq!(cells(&text, "hangs"), ["west", "unknown", "0", "hangs"]);
        assert_eq!(
            cells(&text, "refused")[1..],
            ["stale, 14 s", "0", "refused"]
        );
        assert_eq!(
            cells(&text, "may not"),
            ["north: Pod", "forbidden", "may not list"]
        );
        assert_eq!(cells(&text, "cut")[1..], ["left aside", "the file is cut"]);
        assert!(!text.contains("Service  watching"), "{text}");
        assert_eq!(
            cells(&text, "a.yaml"),
            ["east: a.yaml:3:1", "Pod shop/a", "no"]
        );
        assert_eq!(cells(&text, "differ")[1], "Conflict PortConflict");
        assert!(!text.contains("shop/a  Valid"), "{text}");
    }

    #[test]
    fn a_control_plane_that_is_gone_is_said_to_be() {
        let text =
            all(&json!({ "world": { "error": "refused" }, "proxies": { "error": "refused" } }));
        assert_eq!(text, "Control plane\n  refused\n");
    }

    #[test]
    fn services_are_counted_by_cluster() {
        let endpoint = |meshed: bool| json!({ "name": "west/shop/cart-1", "meshed": meshed });
        let west = json!({ "cluster": "west", "healthy": 1, "draining": 0, "unhealthy": 1,
            "endpoints": [endpoint(true), endpoint(false)] });
        let cart = json!({ "namespace": "shop", "name": "cart", "clusters": [west] });
        let text = all(&json!({ "services": { "services": [cart], "more": false } }));
        assert_eq!(
            cells(&text, "shop/cart"),
            ["shop/cart", "west", "1", "0", "1", "1 of 2"]
        );
    }

    #[test]
    fn proxies_with_the_latest_that_they_took() {
        let types = json!({
            "Endpoint": { "acked_generation": 12, "nacked": 1, "refused": {} },
            "Gateway": { "acked_generation": 9, "nacked": 0, "in_flight": true },
            "Route": { "acked_generation": 9, "nacked": 2, "refused": { "shop/r": "bad route" } },
        });
        let client = json!({ "node": "east/shop/web-1", "identity": "id", "since": 40, "types": types,
                "certificate_not_after": 7300 });
        let text = proxies(&json!([client]), 100.0);
        let row = [
            "east/shop/web-1",
            "id",
            "12, but Gateway, Route",
            "1 (shop/r: bad route)",
            "60 s",
            "2 h left",
        ];
        assert_eq!(cells(&text, "web-1"), row);
        assert_eq!(
            cells(&proxies(&json!([client]), 8000.0), "web-1")[5],
            "ended"
        );
    }

    #[test]
    fn replicas_say_who_leads_and_who_does_not_answer() {
        let text = replicas(&json!([
            { "name": "cp-1", "leads": true, "proxies": 3, "synced": 2, "clusters": 2 },
            { "name": "cp-2", "leads": false, "error": "its pod is not ready" },
        ]));
        assert_eq!(
            cells(&text, "cp-1"),
            ["cp-1", "leads", "3", "2 of 2", "yes"]
        );
        assert_eq!(
            cells(&text, "cp-2"),
            ["cp-2", "-", "?", "?", "no: its pod is not ready"]
        );
        assert_eq!(replicas(&Value::Null), "");
    }

    #[test]
    fn unknown_and_empty_are_told_apart() {
        let config = json!({
            "generation": 7, "certificate": { "age_seconds": 7300, "not_after": 1300.0 },
            "subscription": { "connected": false, "error": "refused" },
            "services": [
                { "name": "shop/cart", "endpoints": [
                    { "name": "shop/cart#west/shop/cart-3", "health": "healthy",
                      "stats": { "ejected": true, "ejected_for_seconds": 2.25, "attempts": 9 } },
                    { "name": "shop/cart#west/shop/cart-4", "health": "healthy",
                      "stats": { "ejected": false, "latency_mean_ms": 1.234, "in_flight": 2 } },
                ] },
                { "name": "shop/echo", "endpoints": null },
                { "name": "shop/db", "endpoints": [] },
            ],
        });
        let text = endpoints("east/shop/web-1", &config, 1000.0);
        let title = "generation 7, certificate 2 h old, 5 min left, discovery refused";
        assert!(text.contains(title), "{text}");
        assert_eq!(
            cells(&text, "cart-3")[1..5],
            ["west/shop/cart-3", "healthy", "for 2.2 s", "?"]
        );
        assert_eq!(
            cells(&text, "cart-4")[2..6],
            ["healthy", "-", "1.23 ms", "2"]
        );
        assert_eq!(cells(&text, "not known yet")[0], "shop/echo");
        assert_eq!(cells(&text, "known to be empty")[0], "shop/db");
    }
}
