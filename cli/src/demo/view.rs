//! What is going on right now? A block of lines, drawn again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::metrics;
use super::screen::{Screen, Style};
use crate::load::{Ledger, Window};
use crate::statistics::{human, human_bytes, shares};

/// Time between two drawings.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// The stretch that rates and latencies are taken over.
const OVER: Duration = Duration::from_secs(2);

/// What the scenes tell the view.
#[derive(Debug, Default)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    showing: String,
    loads: BTreeMap<&'static str, Arc<Ledger>>,
}

impl Board {
    /// What is shown now, in a few words.
    pub(crate) fn showing(&self, what: &str) {
        what.clone_into(
            &mut self
                .inner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .showing,
        );
    }

    /// A load to watch.
    pub(crate) fn watch(&self, name: &'static str, ledger: Arc<Ledger>) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .loads
            .insert(name, ledger);
    }

    fn read(&self) -> (String, Vec<(&'static str, Arc<Ledger>)>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (
            inner.showing.clone(),
            inner.loads.iter().map(|(n, l)| (*n, l.clone())).collect(),
        )
    }
}

/// A gateway to count at: its name and its ready address.
pub(crate) type GatewayAt = (&'static str, SocketAddr);

/// Draws until it is dropped. Does nothing where there is no terminal.
pub(crate) async fn run(screen: Arc<Screen>, board: Arc<Board>, gateways: Vec<GatewayAt>) {
    if screen.style() != Style::Live {
        return;
    }
    let started = Instant::now();
    let mut ticks = interval(DRAW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut crossed = Vec::new();
        for (name, ready) in &gateways {
            crossed.push((*name, metrics::relayed(*ready).await.ok()));
        }
        let (showing, loads) = board.read();
        let now = Instant::now();
        let from = now.checked_sub(OVER).unwrap_or(now);
        let loads: Vec<Row> = loads
            .into_iter()
            .map(|(name, ledger)| Row {
                name,
                now: ledger.since(from),
                all: ledger.since(started),
            })
            .collect();
        screen.draw(&lines(&showing, &loads, &crossed));
    }
}

struct Row {
    name: &'static str,
    now: Window,
    all: Window,
}

fn lines(showing: &str, loads: &[Row], crossed: &[(&'static str, Option<u64>)]) -> Vec<String> {
    let mut lines = vec![String::new(), format!("── {showing} ──")];
    if loads.is_empty() {
        lines.push("no background traffic yet".to_owned());
    }
    for Row { name, now, all } in loads {
        let latency = match (now.p50, now.p99) {
            (Some(p50), Some(p99)) => format!("p50 {}, p99 {}", human(p50), human(p99)),
            _ => "-".to_owned(),
        };
        lines.push(format!(
            "web → {name:<8} {:>5.0} requests/s   {latency}   errors {} ({} now)   denied {}",
            now.rate(OVER),
            all.failed,
            now.failed,
            all.denied
        ));
        lines.push(format!("      clusters {}", shares(&now.by_cluster, 4)));
        lines.push(format!("      pods     {}", shares(&now.by_pod, 6)));
    }
    let bytes: Vec<String> = crossed
        .iter()
        .map(|(name, bytes)| format!("{name} {}", bytes.map_or("-".to_owned(), human_bytes)))
        .collect();
    lines.push(format!("bytes between the clusters: {}", bytes.join(", ")));
    lines
        .into_iter()
        .map(|line| line.chars().take(100).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_bounded_in_lines_and_width() {
        let by_pod = (0..40)
            .map(|n| (format!("a-rather-long-pod-name-{n}"), 1))
            .collect();
        let by_cluster = BTreeMap::from([("west".to_owned(), 40)]);
        let window = Window {
            served: 40,
            by_pod,
            by_cluster,
            ..Window::default()
        };
        let row = |name| Row {
            name,
            now: window.clone(),
            all: window.clone(),
        };
        let lines = lines(
            "ejection",
            &[row("cart"), row("reviews")],
            &[("gateway-west", Some(2048))],
        );
        assert!(lines.len() <= 12, "{lines:#?}");
        assert!(
            lines.iter().all(|line| line.chars().count() <= 100),
            "{lines:#?}"
        );
        assert!(
            lines.last().unwrap().contains("gateway-west 2.0 KiB"),
            "{lines:#?}"
        );
        assert!(lines[2].contains("20 requests/s"), "{lines:#?}");
    }
}
