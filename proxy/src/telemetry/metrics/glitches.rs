//! What do peers of HTTP/2 do that costs more than it is worth?

use isthmus_proxy_core::http2::Counters;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Glitch {
    kind: &'static str,
}

/// What counts towards the limits of HTTP/2 connections, of all of them.
#[derive(Debug, Default)]
pub struct Glitches(Family<Glitch, Counter>);

impl Glitches {
    pub(super) fn register(&self, registry: &mut Registry) {
        // Each kind is there from the beginning.
        kinds(Counters::default()).for_each(|(kind, _)| drop(self.of(kind)));
        registry.register(
            "http2_glitches",
            "What counts towards the limits of HTTP/2 connections",
            self.0.clone(),
        );
    }

    /// Adds what one peer did.
    pub fn add(&self, counters: Counters) {
        for (kind, count) in kinds(counters) {
            if count > 0 {
                self.of(kind).inc_by(count);
            }
        }
    }

    fn of(&self, kind: &'static str) -> Counter {
        self.0.get_or_create_owned(&Glitch { kind })
    }
}

fn kinds(counters: Counters) -> impl Iterator<Item = (&'static str, u64)> {
    let Counters {
        idle_frames,
        resets,
        stream_errors,
        refused,
        connection_errors,
    } = counters;
    [
        ("idle_frames", idle_frames),
        ("resets", resets),
        ("stream_errors", stream_errors),
        ("refused", refused),
        ("connection_errors", connection_errors),
    ]
    .into_iter()
}
