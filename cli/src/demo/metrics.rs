//! How many bytes crossed between the clusters? The gateways count them.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use crate::client;

/// What a gateway calls the bytes that it relayed, each way.
const RELAYED: [&str; 2] = ["isthmus_sent_bytes_total", "isthmus_received_bytes_total"];

/// Bytes that a gateway has relayed since it started.
///
/// # Errors
/// It doesn't answer.
pub(crate) async fn relayed(ready: SocketAddr) -> anyhow::Result<u64> {
    let answer = client::ask(Method::GET, ready, "/metrics").await?;
    anyhow::ensure!(
        answer.status == StatusCode::OK,
        "metrics answered {}",
        answer.status
    );
    let text = answer.text();
    Ok(RELAYED.iter().map(|name| sum(&text, name)).sum())
}

/// The sum over all label sets of a counter in Prometheus text. A counter appears with its first
/// label set: none is 0.
fn sum(text: &str, name: &str) -> u64 {
    let mut total = 0_u64;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else {
            continue;
        };
        // `name{...} value` or `name value`; a longer name is another counter.
        let value = match rest.chars().next() {
            Some('{') => rest.rsplit_once('}').map(|(_, value)| value),
            Some(' ') => Some(rest),
            _ => None,
        };
        let number = value
            .and_then(|v| v.split_whitespace().next())
            .and_then(whole);
        if let Some(number) = number {
            total = total.saturating_add(number);
        }
    }
    total
}

/// Counters are whole, but may be written as `12.0`.
fn whole(text: &str) -> Option<u64> {
    let (number, fraction) = text.split_once('.').unwrap_or((text, "0"));
    fraction
        .bytes()
        .all(|b| b == b'0')
        .then(|| number.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_set_counts_and_no_other_name() {
        let text = "# TYPE b_total counter\nb_total{a=\"x} y\",dir=\"in\"} 3\nb_total{a=\"z\"} 4.0 1700\n\
                    b_total_more 100\nb_total 5\nc 1\n";
        assert_eq!(sum(text, "b_total"), 12);
        assert_eq!(sum(text, "d_total"), 0);
    }
}
