//! What has the control plane written of a cluster that is not as it should be?

use serde_json::Value;

use super::judge::{Finding, Level};
use crate::kubernetes::text;

/// One that tells of something wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// `CredentialValid`, say.
    kind: String,
    reason: String,
    message: String,
    /// It works for now.
    for_now: bool,
}

/// Those of a MeshCluster.
pub(super) fn of(cluster: &Value) -> Vec<Condition> {
    let all = cluster.pointer("/status/conditions");
    let all = all.and_then(Value::as_array).into_iter().flatten();
    let wrong = all.filter_map(|condition| {
        let kind = text(condition, "/type");
        let reason = text(condition, "/reason");
        // An excess is bad if there is one; everything else if it is not so.
        let bad = match kind {
            "QuotaExceeded" => "True",
            _ => "False",
        };
        let for_now = reason == "NotRenewed";
        (text(condition, "/status") == bad || for_now).then(|| Condition {
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            message: text(condition, "/message").to_owned(),
            for_now,
        })
    });
    wrong.collect()
}

/// Tells each, with what helps.
pub(super) fn tell(conditions: &[Condition], begun: &Finding, found: &mut Vec<Finding>) {
    for condition in conditions {
        let Condition {
            kind,
            reason,
            message,
            for_now,
        } = condition;
        found.push(Finding {
            check: "condition",
            from: "the control plane".to_owned(),
            level: match for_now {
                true => Level::Warning,
                false => Level::Broken,
            },
            message: format!("{kind}: {reason}: {message}"),
            fix: fix(condition, &begun.cluster),
            ..begun.clone()
        });
    }
}

fn fix(condition: &Condition, cluster: &str) -> String {
    match (condition.kind.as_str(), condition.reason.as_str()) {
        ("CredentialValid", "Refused") => format!(
            "write one that the control plane takes: isthmus cluster join {cluster} --context CONTEXT \
             --server URL; or allow what it asks for: `home.allow` in the FILE of `isthmus install \
             --config FILE --apply`"
        ),
        ("CredentialValid", "AnotherCluster") => format!(
            "if the other cluster is meant: isthmus cluster leave {cluster}, then join; else write the \
             right credential: isthmus cluster join {cluster} --context CONTEXT"
        ),
        ("CredentialValid", _) => {
            format!("make a new one: isthmus cluster join {cluster} --context CONTEXT")
        }
        ("Connected", _) => format!(
            "make the API server of {cluster} reachable from the control plane's pods; `isthmus cluster \
             join {cluster} --server URL` names another way to it"
        ),
        ("QuotaExceeded", _) => format!(
            "isthmus status names what has no room; more room: spec.quota of the MeshCluster {cluster}, \
             or `home.quota`"
        ),
        ("Synced", _) => "isthmus status names the kinds that are not seen, and why".to_owned(),
        _ => {
            format!("mend the MeshCluster as the message says: kubectl edit meshcluster {cluster}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_as_it_should_be_is_told_with_what_helps() {
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "so" });
        let cluster = json!({ "status": { "conditions": [
            condition("Accepted", "True", "Accepted"),
            condition("Connected", "Unknown", "Pending"),
            condition("CredentialValid", "False", "Refused"),
            condition("Synced", "False", "Forbidden"),
            condition("QuotaExceeded", "False", "WithinQuota"),
        ] } });
        let told = |cluster: &Value| {
            let mut found = Vec::new();
            tell(&of(cluster), &Finding::of("west"), &mut found);
            assert!(found.iter().all(|f| !f.fix.is_empty()), "{found:?}");
            let told = found.iter().map(|f| format!("{:?} {}", f.level, f.message));
            told.collect::<Vec<_>>()
        };
        assert_eq!(
            told(&cluster),
            [
                "Broken CredentialValid: Refused: so",
                "Broken Synced: Forbidden: so"
            ]
        );
        let cluster = json!({ "status": { "conditions": [
            condition("CredentialValid", "True", "NotRenewed"),
            condition("QuotaExceeded", "True", "BeyondQuota"),
        ] } });
        assert_eq!(
            told(&cluster),
            [
                "Warning CredentialValid: NotRenewed: so",
                "Broken QuotaExceeded: BeyondQuota: so"
            ]
        );
        assert!(told(&json!({})).is_empty());
    }
}
