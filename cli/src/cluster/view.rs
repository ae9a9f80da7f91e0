//! What does the control plane itself see of its clusters?
//!
//! It stands somewhere else than whoever runs this tool: what a laptop reaches, its pods may not.

use std::collections::BTreeMap;

use serde_json::Value;

use super::judge::{Finding, Level, clock};
use crate::args::Reach;
use crate::kubernetes::text;
use crate::status;

/// The clusters, as each replica sees them.
#[derive(Debug, Clone)]
pub(super) struct Views {
    /// By the replica's name; why it does not say, if so.
    replicas: BTreeMap<String, Result<BTreeMap<String, Seen>, String>>,
    /// Why nobody was asked, if so.
    why: Option<String>,
}

/// A cluster, as one replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    state: String,
    reason: String,
    /// How far the API server's clock is ahead of the replica's, in seconds.
    ahead: Option<i64>,
}

/// Asks every replica of the control plane in the cluster of this context.
pub(super) async fn of(reach: &Reach) -> Views {
    match status::each(reach, "/clusters").await {
        Ok(said) => Views {
            replicas: said
                .into_iter()
                .map(|(replica, page)| (replica, page.map(|page| clusters(&page))))
                .collect(),
            why: None,
        },
        Err(why) => Views {
            replicas: BTreeMap::new(),
            why: Some(format!("{why:#}")),
        },
    }
}

fn clusters(page: &Value) -> BTreeMap<String, Seen> {
    let seen = |cluster: &Value| {
        let seen = Seen {
            state: text(cluster, "/state").to_owned(),
            reason: text(cluster, "/reason").to_owned(),
            ahead: cluster["clock_ahead_seconds"].as_i64(),
        };
        (text(cluster, "/cluster").to_owned(), seen)
    };
    page.as_array().into_iter().flatten().map(seen).collect()
}

impl Views {
    /// Does every replica that answers see this cluster? `false` if none answers.
    pub(super) fn reach(&self, cluster: &str) -> bool {
        let mut said = self.answers().peekable();
        let synced = |seen: &BTreeMap<String, Seen>| {
            let seen = seen.get(cluster);
            seen.is_some_and(|seen| seen.state == "synced")
        };
        said.peek().is_some() && said.all(|(_, seen)| synced(seen))
    }

    fn answers(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, Seen>)> {
        let all = self.replicas.iter();
        all.filter_map(|(name, said)| Some((name.as_str(), said.as_ref().ok()?)))
    }

    /// What they say of a cluster: once, if they agree.
    pub(super) fn tell(&self, begun: &Finding, found: &mut Vec<Finding>) {
        let mut said: BTreeMap<(Level, String), Vec<&str>> = BTreeMap::new();
        for (replica, clusters) in self.answers() {
            let told = match clusters.get(&begun.cluster) {
                None => (Level::Warning, "is not known yet".to_owned()),
                Some(seen) if seen.state == "synced" => (Level::Ok, "synced".to_owned()),
                Some(seen) => (Level::Broken, format!("{}: {}", seen.state, seen.reason)),
            };
            said.entry(told).or_default().push(replica);
        }
        let one = said.len() == 1;
        for ((level, message), replicas) in said {
            let from = match one {
                true => "the control plane".to_owned(),
                false => replicas.join(", "),
            };
            let fix = match level {
                Level::Ok => String::new(),
                Level::Warning | Level::Broken => format!(
                    "make the API server of {} reachable from the control plane's pods; `isthmus cluster \
                     join {0} --server URL` names another way to it",
                    begun.cluster
                ),
            };
            found.push(Finding {
                check: "reachability",
                from,
                level,
                message,
                fix,
                ..begun.clone()
            });
        }
        let clocks = self
            .answers()
            .filter_map(|(_, seen)| seen.get(&begun.cluster)?.ahead);
        if let Some(ahead) = clocks.max_by_key(|ahead| ahead.abs()) {
            let from = "the control plane".to_owned();
            found.push(Finding {
                check: "clock",
                from,
                ..clock(ahead, "the control plane", begun)
            });
        }
    }

    /// Who does not say anything, told of the cluster that they run in.
    pub(super) fn silent(&self, home: &Finding, found: &mut Vec<Finding>) {
        let lost = self.replicas.iter().filter_map(|(name, said)| {
            let why = said.as_ref().err()?;
            Some(format!("{name} can't be asked: {why}"))
        });
        for why in lost.chain(self.why.clone()) {
            found.push(Finding {
                check: "control plane",
                level: Level::Warning,
                message: why,
                fix: "what the control plane sees was not looked at: kubectl must reach its pods, \
                      and they must be ready"
                    .to_owned(),
                ..home.clone()
            });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// Replicas with their pages.
    pub(in crate::cluster) fn views(said: &[(&str, Result<Value, &str>)]) -> Views {
        let one = |(name, said): &(&str, Result<Value, &str>)| {
            let said = said.as_ref().map(clusters);
            ((*name).to_owned(), said.map_err(|why| (*why).to_owned()))
        };
        Views {
            replicas: said.iter().map(one).collect(),
            why: None,
        }
    }

    fn page(state: &str, reason: &str, ahead: i64) -> Result<Value, &'static str> {
        Ok(
            json!([{ "cluster": "west", "state": state, "reason": reason,
            "clock_ahead_seconds": ahead }]),
        )
    }

    fn told(views: &Views) -> Vec<String> {
        let mut found = Vec::new();
        let begun = Finding::of("west");
        views.tell(&begun, &mut found);
        views.silent(&begun, &mut found);
        let told = found.iter().map(|f| {
            assert_eq!(f.fix.is_empty(), f.level == Level::Ok, "{f:?}");
            format!("{:?} {} by {}: {}", f.level, f.check, f.from, f.message)
        });
        told.collect()
    }

    #[test]
    fn replicas_that_agree_are_one_and_others_are_named() {
        let agreed = views(&[("a", page("synced", "", 1)), ("b", page("synced", "", 2))]);
        assert!(agreed.reach("west") && !agreed.reach("east"));
        assert_eq!(
            told(&agreed),
            [
                "Ok reachability by the control plane: synced",
                "Ok clock by the control plane: 2 s ahead of the control plane",
            ]
        );
        let torn = views(&[
            ("a", page("synced", "", 1)),
            ("b", page("stale", "no route", -400)),
            ("c", Err("hangs")),
        ]);
        assert!(!torn.reach("west"));
        assert_eq!(
            told(&torn),
            [
                "Ok reachability by a: synced",
                "Broken reachability by b: stale: no route",
                "Broken clock by the control plane: 400 s behind the control plane",
                "Warning control plane by here: c can't be asked: hangs",
            ]
        );
        assert!(!views(&[("a", Err("hangs"))]).reach("west"));
    }
}
