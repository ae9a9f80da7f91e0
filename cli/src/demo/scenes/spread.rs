//! Does one keep-alive connection reach every single remote pod, evenly?

use std::time::{Duration, Instant};

use super::super::plan::{Callee, REVIEWS};
use super::super::report::Report;
use super::Stage;
use crate::load::{Caller, Target, Window};
use crate::statistics::{coefficient_of_variation, shares};

/// Requests over the one connection, in a round.
const REQUESTS: usize = 1_200;
/// A pod that the machine stops for a moment is slower, and rightly gets less: then another round counts.
const ROUNDS_MAX: usize = 3;
/// Largest coefficient of variation of the pods' counts. Drawing lots would give 0.04 on average.
const VARIATION_MAX: f64 = 0.05;

pub(super) async fn play(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.tell(&format!(
        "web opens one connection and sends {REQUESTS} requests over it, one after another; \
         reviews has {} pods behind west's gateway.",
        REVIEWS.len()
    ));
    let callee = Callee::REVIEWS;
    let address = stage.mesh.plan.local(&callee);
    let mut caller = Caller::new(Target::new(address, &callee.host(), "/spread"));
    let mut rounds = 0_usize;
    let (window, variation, over) = loop {
        rounds += 1;
        let (window, variation, over) = round(&mut caller).await;
        let even = variation < VARIATION_MAX;
        if even || window.failed + window.denied > 0 || rounds == ROUNDS_MAX {
            break (window, variation, over);
        }
    };

    let failed = window.failed + window.denied;
    report.failed_requests(failed);
    let first = window.first_failure.clone().unwrap_or_default();
    report.demand(failed == 0, format!("{failed} requests failed: {first}"));
    report.demand(
        caller.opened() == 1,
        format!("{} connections were opened", caller.opened()),
    );
    report.demand(
        variation < VARIATION_MAX,
        format!(
            "the pods' counts vary by {:.1} %, 5 % are allowed",
            variation * 100.0
        ),
    );
    report.figure("requests", window.requests());
    report.figure("pods", serde_json::to_value(&window.by_pod)?);
    report.figure("variation_percent", (variation * 1000.0).round() / 10.0);
    report.figure("connections", caller.opened());
    report.figure("rounds", rounds);
    report.time_to_effect(over);
    report.because(format!(
        "one connection, {}; the counts vary by {:.1} %",
        shares(&window.by_pod, 3),
        variation * 100.0
    ));
    Ok(())
}

/// One round: what was answered, how much the pods' counts vary, and how long it took.
async fn round(caller: &mut Caller) -> (Window, f64, Duration) {
    let began = Instant::now();
    let mut samples = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        samples.push(caller.call().await);
    }
    let over = began.elapsed();
    let window = Window::of(&samples);
    let counts: Vec<u64> = REVIEWS.iter().map(|pod| window.of_pod(pod.name)).collect();
    let variation = coefficient_of_variation(&counts).unwrap_or(f64::INFINITY);
    (window, variation, over)
}
