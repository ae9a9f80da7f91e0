//! What is said of a cluster that is named?

use std::collections::BTreeMap;
use std::time::SystemTime;

use isthmus_control_plane_core::model::{Kind, KindFreshness};
use isthmus_control_plane_core::world::{Standing, State};

use super::keeper::Kept;
use crate::connect::NOT_REACHED;
use crate::kubernetes::timestamp;
use crate::source::{KindState, Report};

pub(super) fn say(
    kind: &'static str,
    holds: Option<bool>,
    reason: &'static str,
    message: impl Into<String>,
) -> Standing {
    let message = message.into();
    Standing {
        kind,
        holds,
        reason,
        message,
    }
}

/// Kinds that the API server refuses because it does not know us.
fn unauthorized(report: &Report) -> Option<&str> {
    let mut kinds = report.kinds.values();
    let refused = kinds.find(|kind| kind.unauthorized);
    refused.map(|kind| kind.reason.as_str())
}

/// The credential in use, and until when it is.
pub(super) fn credential(
    (kept, ends): (&Kept, Option<SystemTime>),
    report: Option<&Report>,
    now: SystemTime,
) -> Standing {
    let kind = "CredentialValid";
    match kept.verdict.clone() {
        None => say(kind, None, "Pending", "not looked at yet"),
        Some(Err(why)) if why.reason == NOT_REACHED => say(kind, None, why.reason, why.message),
        Some(Err(why)) => say(kind, Some(false), why.reason, why.message),
        Some(Ok(())) => match report.and_then(unauthorized) {
            Some(why) => say(kind, Some(false), "Unauthorized", why),
            None => match (ends, &kept.not_renewed) {
                (Some(ends), _) if ends <= now => say(
                    kind,
                    Some(false),
                    "Expired",
                    until(ends, kept.not_renewed.as_deref()),
                ),
                (Some(ends), Some(why)) => {
                    say(kind, Some(true), "NotRenewed", until(ends, Some(why)))
                }
                (Some(_) | None, _) => say(kind, Some(true), "Valid", ""),
            },
        },
    }
}

/// The same as long as the cause is the same.
fn until(ends: SystemTime, not_renewed: Option<&str>) -> String {
    let ends = timestamp::whole(ends);
    let why = not_renewed.unwrap_or("nobody has renewed it");
    format!("it ends at {ends}, and is not renewed: {why}")
}

/// The kinds of a synced cluster that are not seen now, and why; empty: there are none.
pub(super) fn older(kinds: &BTreeMap<Kind, KindFreshness>) -> String {
    let each = kinds
        .iter()
        .map(|(kind, of)| format!("{kind} ({})", of.reason));
    let all: Vec<String> = each.collect();
    if all.is_empty() {
        return String::new();
    }
    format!("what was known before counts of {}", all.join(", "))
}

/// What does not fit into the cluster's quota?
pub(super) fn exceeded(report: &Report) -> Standing {
    let kind = "QuotaExceeded";
    if report.over_quota {
        let why = "some objects do not fit into the cluster's quota: their last good state stays";
        say(kind, Some(true), "BeyondQuota", why)
    } else {
        say(kind, Some(false), "WithinQuota", "")
    }
}

pub(super) fn connected(state: State, reason: &str, report: Option<&Report>) -> Standing {
    let watched = report.is_some_and(|report| {
        let mut kinds = report.kinds.values();
        kinds.any(|kind| kind.state == KindState::Watching)
    });
    match (state, watched) {
        (State::Synced, _) | (State::Unknown, true) => {
            say("Connected", Some(true), "Connected", "")
        }
        (State::Stale | State::Unknown, _) => say("Connected", Some(false), "NotSeen", reason),
    }
}
