//! How is the mesh's state laid out for people?

use std::time::Duration;

use serde_json::Value;

use super::{entries, text};
use crate::output::table;

/// Every table.
pub(super) fn all(seen: &Value) -> String {
    let none = Value::Null;
    let part = |key: &str| seen.get(key).unwrap_or(&none);
    let mut parts = Vec::new();
    for (title, key, rows) in [
        ("Clusters", "clusters", clusters as fn(&Value) -> String),
        ("Proxies", "proxies", proxies),
    ] {
        match part(key).get("error").and_then(Value::as_str) {
            Some(error) => parts.push(format!("{title}\n  {error}\n")),
            None if part(key).is_null() => {}
            None => parts.push(rows(part(key))),
        }
    }
    for (name, config) in entries(part("configs"), "configs") {
        match config.get("error").and_then(Value::as_str) {
            Some(error) => parts.push(format!("{name}\n  {error}\n")),
            None => parts.push(endpoints(&name, config)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn clusters(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = entries(answer, "clusters")
        .into_iter()
        .map(|(name, cluster)| {
            let errors = cluster.get("errors").map_or(0, count);
            vec![
                name,
                text(cluster, &["state"]).unwrap_or_else(unknown),
                age(cluster),
                cluster
                    .get("objects")
                    .or_else(|| cluster.get("counts"))
                    .map_or_else(unknown, objects),
                if errors == 0 {
                    "-".to_owned()
                } else {
                    errors.to_string()
                },
            ]
        })
        .collect();
    table(
        "Clusters",
        &["cluster", "state", "age", "objects", "errors"],
        &rows,
    )
}

fn proxies(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = entries(answer, "proxies")
        .into_iter()
        .map(|(name, proxy)| {
            let nacks = proxy
                .get("nacks")
                .or_else(|| proxy.get("nacked"))
                .map_or(0, count);
            vec![
                text(proxy, &["node", "workload"]).unwrap_or(name),
                text(proxy, &["identity"]).unwrap_or_else(unknown),
                acknowledged(proxy),
                if nacks == 0 {
                    "-".to_owned()
                } else {
                    nacks.to_string()
                },
                text(proxy, &["since", "connected_seconds", "age_seconds"]).unwrap_or_else(unknown),
            ]
        })
        .collect();
    table(
        "Proxies",
        &["proxy", "identity", "acknowledged", "refused", "since"],
        &rows,
    )
}

/// The endpoints that one proxy knows, and what it thinks of them.
fn endpoints(name: &str, config: &Value) -> String {
    let generation = text(config, &["generation"]).unwrap_or_else(unknown);
    let certificate = config
        .get("certificate")
        .and_then(|c| text(c, &["age_seconds"]));
    let title = format!(
        "{name}: generation {generation}, certificate {} old",
        certificate.map_or_else(unknown, |age| seconds(&age))
    );
    let mut rows = Vec::new();
    for (service, value) in entries(config.get("services").unwrap_or(&Value::Null), "services") {
        // Unknown, empty and listed are three different things.
        match value.get("endpoints") {
            None | Some(Value::Null) => rows.push(vec![service, "(not known yet)".to_owned()]),
            Some(Value::Array(none)) if none.is_empty() => {
                rows.push(vec![service, "(known to be empty)".to_owned()]);
            }
            Some(listed) => {
                let listed = entries(listed, "endpoints");
                rows.extend(listed.iter().map(|(pod, e)| endpoint_row(&service, pod, e)));
            }
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

fn endpoint_row(service: &str, pod: &str, endpoint: &Value) -> Vec<String> {
    let none = Value::Null;
    let stats = endpoint.get("stats").unwrap_or(&none);
    let figure = |key: &str| stats.get(key).and_then(Value::as_f64);
    let ejected = match figure("ejected_for_seconds") {
        Some(left) => format!("for {left:.1} s"),
        None if stats.get("ejected") == Some(&Value::Bool(true)) => "yes".to_owned(),
        None => "-".to_owned(),
    };
    vec![
        service.to_owned(),
        pod.rsplit('#').next().unwrap_or(pod).to_owned(),
        text(endpoint, &["health"]).unwrap_or_else(unknown),
        ejected,
        figure("latency_mean_ms").map_or_else(unknown, |ms| format!("{ms:.2} ms")),
        text(stats, &["in_flight"]).unwrap_or_else(unknown),
        text(stats, &["attempts"]).unwrap_or_else(unknown),
        text(stats, &["failures"]).unwrap_or_else(unknown),
    ]
}

/// The highest version or generation that the proxy has acknowledged, over all types.
fn acknowledged(proxy: &Value) -> String {
    let acked = proxy
        .get("acked")
        .or_else(|| proxy.get("acknowledged"))
        .or_else(|| proxy.get("types"));
    match acked {
        None | Some(Value::Null) => text(proxy, &["generation"]).unwrap_or_else(unknown),
        Some(Value::Object(types)) => {
            let numbers = types.values().filter_map(|version| match version {
                Value::Object(fields) => fields.get("acked").or_else(|| fields.get("generation")),
                other => Some(other),
            });
            let highest = numbers.filter_map(Value::as_u64).max();
            highest.map_or_else(unknown, |number| number.to_string())
        }
        Some(other) => crate::output::leaf(other),
    }
}

fn age(cluster: &Value) -> String {
    text(cluster, &["age_seconds", "age", "confirmed_seconds_ago"])
        .map_or_else(unknown, |age| seconds(&age))
}

/// `12.3` reads `12 s`, `7300` reads `2 h`; what is no number stays.
fn seconds(age: &str) -> String {
    let Ok(number) = age.parse::<f64>() else {
        return age.to_owned();
    };
    let time = Duration::try_from_secs_f64(number)
        .unwrap_or_default()
        .as_secs();
    match time {
        0..120 => format!("{time} s"),
        120..7_200 => format!("{} min", time / 60),
        _ => format!("{} h", time / 3_600),
    }
}

/// `12 Pod, 3 Service` for an object of counts, a number as it is.
fn objects(value: &Value) -> String {
    match value.as_object() {
        None => crate::output::leaf(value),
        Some(counts) => {
            let total: u64 = counts.values().filter_map(Value::as_u64).sum();
            total.to_string()
        }
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        Value::Number(number) => number
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

fn unknown() -> String {
    "?".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_shown_and_what_is_missing_is_named() {
        let seen = json!({
            "clusters": [{ "name": "east", "state": "synced", "age_seconds": 3.2,
                           "objects": { "Pod": 3, "Service": 1 }, "errors": {} }],
            "proxies": { "error": "connecting: refused" },
            "configs": { "east/shop/web-1": {
                "generation": 7, "certificate": { "age_seconds": 7300 },
                "services": [{ "name": "shop/cart", "endpoints": [
                    { "name": "shop/cart#west/shop/cart-3", "health": "healthy",
                      "stats": { "ejected": true, "ejected_for_seconds": 2.25, "attempts": 9 } },
                    { "name": "shop/cart#west/shop/cart-4", "health": "healthy",
                      "stats": { "ejected": false, "latency_mean_ms": 1.234, "in_flight": 2 } }
                ] },
                { "name": "shop/echo", "endpoints": null }, { "name": "shop/db", "endpoints": [] }]
            } },
        });
        let text = all(&seen);
        assert!(text.contains("east     synced  3 s  4        -"), "{text}");
        assert!(text.contains("Proxies\n  connecting: refused"), "{text}");
        assert!(text.contains("generation 7, certificate 2 h old"), "{text}");
        let cells = |pod: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.contains(pod));
            let line = line.unwrap_or_else(|| panic!("{pod} is not in {text}"));
            line.split("  ")
                .filter(|c| !c.is_empty())
                .map(|c| c.trim().to_owned())
                .collect()
        };
        assert_eq!(cells("cart-3")[2..5], ["healthy", "for 2.2 s", "?"]);
        assert_eq!(cells("cart-4")[2..6], ["healthy", "-", "1.23 ms", "2"]);
        assert_eq!(cells("not known yet")[0], "shop/echo");
        assert_eq!(cells("known to be empty")[0], "shop/db");
    }

    #[test]
    fn the_highest_acknowledged_version_counts() {
        let proxy = json!({ "acked": { "Endpoint": 12, "Service": 9 } });
        assert_eq!(acknowledged(&proxy), "12");
        assert_eq!(acknowledged(&json!({})), "?");
    }
}
