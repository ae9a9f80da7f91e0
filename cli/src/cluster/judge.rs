//! What is wrong with what is seen of the clusters, and what helps?

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use isthmus_proto::range::IpRange;

use super::conditions;
use super::definitions::Kinds;
use super::facts::Facts;
use super::view::Views;

/// The first definitions of the Multi-Cluster Services API that serve both versions.
const UPSTREAM: &str =
    "https://raw.githubusercontent.com/kubernetes-sigs/mcs-api/v0.5.0/config/crd";

/// A clock that is further away makes certificates and tokens that are not valid yet, in seconds.
/// Certificates are backdated by ten minutes.
const SKEW_BAD: i64 = 300;
/// ... and this much is worth a word.
const SKEW_ODD: i64 = 10;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not be what is meant.
    Warning,
    /// Something does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Finding {
    /// Of this cluster.
    pub(super) cluster: String,
    /// What was looked at.
    pub(super) check: &'static str,
    /// From where: here, or the control plane.
    pub(super) from: String,
    /// How it is.
    pub(super) level: Level,
    /// What was seen.
    pub(super) message: String,
    /// What helps; empty where nothing is wrong.
    pub(super) fix: String,
}

impl Finding {
    /// The beginning of one, as it is seen from here.
    pub(super) fn of(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            check: "",
            from: "here".to_owned(),
            level: Level::Ok,
            message: String::new(),
            fix: String::new(),
        }
    }
}

/// Everything that can be said of these clusters.
pub(super) fn judge(clusters: &[Facts], mesh_domain: &str, views: &Views) -> Vec<Finding> {
    let mut found = Vec::new();
    for facts in clusters {
        let reached = reachability(facts, views, &mut found);
        let begun = Finding::of(&facts.name);
        views.tell(&begun, &mut found);
        conditions::tell(&facts.conditions, &begun, &mut found);
        if facts.home {
            views.silent(&begun, &mut found);
        }
        if !reached {
            continue;
        }
        clocks(facts, &mut found);
        permissions(facts, &mut found);
        definitions(facts, &mut found);
        trust_domain(facts, mesh_domain, &mut found);
    }
    properties(clusters, &mut found);
    twins(clusters, &mut found);
    overlaps(clusters, &mut found);
    outside(clusters, &mut found);
    unranged(clusters, &mut found);
    found
}

/// Beginnings of a finding about a cluster.
fn about(facts: &Facts, check: &'static str) -> Finding {
    Finding {
        check,
        ..Finding::of(&facts.name)
    }
}

/// The command that mends most of it.
fn again(facts: &Facts) -> String {
    if facts.home {
        format!("isthmus install --cluster {} --apply", facts.name)
    } else {
        format!("isthmus cluster join {} --context CONTEXT", facts.name)
    }
}

fn reachability(facts: &Facts, views: &Views, found: &mut Vec<Finding>) -> bool {
    let finding = about(facts, "reachability");
    let Some(why) = &facts.unreachable else {
        let message = format!("Kubernetes {}", facts.version);
        found.push(Finding { message, ..finding });
        return true;
    };
    // The way from here is nobody's but ours.
    let (level, message) = match views.reach(&facts.name) {
        true => (Level::Warning, format!("{why}; the control plane sees it")),
        false => (Level::Broken, why.clone()),
    };
    found.push(Finding {
        level,
        message,
        fix: format!(
            "make the API server reachable from here, or renew the credential: {}",
            again(facts)
        ),
        ..finding
    });
    false
}

fn clocks(facts: &Facts, found: &mut Vec<Finding>) {
    let finding = about(facts, "clock");
    let Some(ahead) = facts.ahead else {
        let message = "the API server does not say what time it is".to_owned();
        found.push(Finding {
            level: Level::Warning,
            message,
            ..finding
        });
        return;
    };
    found.push(clock(ahead, "this machine", &finding));
}

/// How far a cluster's clock is ahead of somebody's.
pub(super) fn clock(ahead: i64, whose: &str, begun: &Finding) -> Finding {
    let (level, fix) = match ahead.abs() {
        SKEW_BAD.. => (
            Level::Broken,
            "set the clocks by NTP: certificates and tokens depend on them",
        ),
        SKEW_ODD.. => (Level::Warning, "set the clocks by NTP"),
        _ => (Level::Ok, ""),
    };
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    Finding {
        level,
        message: format!("{} s {side} {whose}", ahead.abs()),
        fix: fix.to_owned(),
        ..begun.clone()
    }
}

fn permissions(facts: &Facts, found: &mut Vec<Finding>) {
    let finding = about(facts, "permissions");
    if facts.forbidden.is_empty() {
        let message = "everything that it needs".to_owned();
        found.push(Finding { message, ..finding });
        return;
    }
    for what in &facts.forbidden {
        found.push(Finding {
            level: Level::Broken,
            message: format!("may not {what}"),
            fix: again(facts),
            ..finding.clone()
        });
    }
}

fn definitions(facts: &Facts, found: &mut Vec<Finding>) {
    let finding = about(facts, "definitions");
    let kinds = &facts.kinds;
    if *kinds == Kinds::default() {
        let message = "every kind is served".to_owned();
        found.push(Finding { message, ..finding });
        return;
    }
    let mut tell = |level, message, fix| {
        found.push(Finding {
            level,
            message,
            fix,
            ..finding.clone()
        });
    };
    for kind in &kinds.missing {
        tell(Level::Broken, format!("{kind} is not served"), again(facts));
    }
    for kind in &kinds.other {
        let version = env!("CARGO_PKG_VERSION");
        let message = format!("{kind} has another schema than in version {version}");
        tell(Level::Broken, message, again(facts));
    }
    for kind in &kinds.older {
        let message =
            format!("{kind} is not served, only an older version: some fields are left out");
        tell(Level::Warning, message, upgrade(kind));
    }
}

/// How a definition that is somebody else's comes to serve the newer version, too: what is stored in the
/// older one has to stay readable, so ours, which has only one, can't take its place.
fn upgrade(kind: &str) -> String {
    let plural = kind.split(' ').next().unwrap_or_default().to_lowercase();
    format!(
        "whoever installed it may have a newer one; else kubectl apply --context CONTEXT --server-side \
         --force-conflicts -f {UPSTREAM}/multicluster.x-k8s.io_{plural}s.yaml"
    )
}

fn trust_domain(facts: &Facts, mesh_domain: &str, found: &mut Vec<Finding>) {
    let real = format!("{}.{mesh_domain}", facts.name);
    let finding = about(facts, "trust domain");
    match &facts.trust_domain {
        Some(said) if *said != real => found.push(Finding {
            level: Level::Broken,
            message: format!("spec.trustDomain is {said}, and its workloads have {real}"),
            fix: format!("kubectl patch meshcluster {} --type merge -p '{{\"spec\":{{\"trustDomain\":\"{real}\"}}}}'", facts.name),
            ..finding
        }),
        Some(_) | None => found.push(Finding { message: real, ..finding }),
    }
}

/// One cluster under two names has every pod twice, in two trust domains.
fn twins(clusters: &[Facts], found: &mut Vec<Finding>) {
    let mut first: BTreeMap<&str, &Facts> = BTreeMap::new();
    for facts in clusters {
        let Some(uid) = facts.uid.as_deref().filter(|uid| !uid.is_empty()) else {
            continue;
        };
        let Some(other) = first.insert(uid, facts) else {
            continue;
        };
        found.push(Finding {
            level: Level::Broken,
            message: format!(
                "is the same cluster as {}: two trust domains for one",
                other.name
            ),
            fix: format!("isthmus cluster leave {} --only-home", facts.name),
            ..about(facts, "trust domain")
        });
    }
}

/// Is each cluster what it states of itself, and of the home cluster's set?
fn properties(clusters: &[Facts], found: &mut Vec<Finding>) {
    let home = clusters.iter().find(|facts| facts.home);
    let ours = home.map(|facts| facts.stated.clone()).unwrap_or_default();
    for facts in clusters {
        let finding = about(facts, "properties");
        let stated = &facts.stated;
        match stated.contradicts(&facts.name, &ours) {
            Some(message) => found.push(Finding {
                level: Level::Warning,
                message,
                fix: format!(
                    "is {} the cluster that is meant? Else mend its ClusterProperty",
                    facts.name
                ),
                ..finding
            }),
            None if stated.id.is_some() || stated.set.is_some() => found.push(Finding {
                message: "it is what it states of itself".to_owned(),
                ..finding
            }),
            None => {}
        }
    }
}

/// Clusters on one network reach each other's pods by address: no address may mean two pods.
fn overlaps(clusters: &[Facts], found: &mut Vec<Finding>) {
    for (at, one) in clusters.iter().enumerate() {
        for other in clusters.get(at + 1..).into_iter().flatten() {
            // The same cluster under two names has been told already.
            let same = one.uid.is_some() && one.uid == other.uid;
            if one.network != other.network || same {
                continue;
            }
            let on = format!("{} on network {}", other.name, one.network);
            if let Some((a, b)) = meeting(pods(one), pods(other)) {
                found.push(Finding {
                    level: Level::Broken,
                    message: format!("pods in {a}, and in {b} of {on}"),
                    fix: format!(
                        "put {} on a network of its own: spec.network of its MeshCluster",
                        other.name
                    ),
                    ..about(one, "pod CIDR")
                });
            }
            let (Some(mine), Some(theirs)) = (&one.service_cidrs, &other.service_cidrs) else {
                continue;
            };
            if let Some((a, b)) = meeting(mine, theirs) {
                found.push(Finding {
                    level: Level::Warning,
                    message: format!("services in {a}, and in {b} of {on}"),
                    fix: "the mesh does not mind; route no service addresses between these clusters, or put them on two networks".to_owned(),
                    ..about(one, "service CIDR")
                });
            }
        }
    }
}

/// Where a cluster's pods are: as it is declared, else as its Nodes say.
fn pods(facts: &Facts) -> &[String] {
    match facts.pod_ranges.as_slice() {
        [] => &facts.pods.ranges,
        declared => declared,
    }
}

/// Are its Nodes' pods where they are declared to be? Nobody else is told of the others.
fn outside(clusters: &[Facts], found: &mut Vec<Finding>) {
    for facts in clusters {
        let parsed = |all: &[String]| -> Vec<IpRange> {
            all.iter().filter_map(|range| range.parse().ok()).collect()
        };
        let declared = parsed(&facts.pod_ranges);
        if declared.is_empty() {
            continue;
        }
        let is_in = |range: &&IpRange| declared.iter().any(|one| one.covers(range));
        let nodes = parsed(&facts.pods.ranges);
        let Some(range) = nodes.iter().find(|range| !is_in(range)) else {
            continue;
        };
        found.push(Finding {
            level: Level::Warning,
            message: format!("pods in {range} of a Node, which is in none of its podRanges"),
            fix: format!(
                "declare it if its pods are there: isthmus cluster join {} --pod-ranges {},{range}, \
                 or spec.podRanges of its MeshCluster",
                facts.name,
                facts.pod_ranges.join(",")
            ),
            ..about(facts, "pod CIDR")
        });
    }
}

/// What could not be compared is said, where it matters.
fn unranged(clusters: &[Facts], found: &mut Vec<Finding>) {
    for facts in clusters {
        let network = &facts.network;
        let beside = |other: &Facts| other.network == *network && other.name != facts.name;
        if facts.unreachable.is_some() || !clusters.iter().any(beside) {
            continue;
        }
        let mut tell = |check, message, what: &str| {
            found.push(Finding {
                level: Level::Warning,
                message,
                fix: format!("compare {what} on network {network} yourself"),
                ..about(facts, check)
            });
        };
        let undeclared = facts.pod_ranges.is_empty();
        if let Some(why) = facts.pods.unknown.as_ref().filter(|_| undeclared) {
            let message = format!("not checked to the end: {why}");
            tell("pod CIDR", message, "the ranges of pods of the clusters");
        }
        if let Some(why) = &facts.unranged {
            let message =
                format!("not checked: its range of service addresses is not known: {why}");
            let what = "--service-cluster-ip-range of the API servers";
            tell("service CIDR", message, what);
        }
    }
}

/// A pair of ranges, or addresses, that have an address in common.
fn meeting<'a>(ours: &'a [String], theirs: &'a [String]) -> Option<(&'a str, &'a str)> {
    let spans = |list: &'a [String], side: usize| {
        let spans = list
            .iter()
            .filter_map(move |text| Some((span(text)?, side, text.as_str())));
        spans.collect::<Vec<_>>()
    };
    let mut all = [spans(ours, 0), spans(theirs, 1)].concat();
    all.sort_unstable();
    // Of each side the one that reaches furthest, of those that begin before.
    let mut furthest: [Option<(Span, &str)>; 2] = [None, None];
    for (span, side, text) in all {
        let (own, other) = match side {
            0 => (0, 1),
            _ => (1, 0),
        };
        let reaches = |&((first, last), _): &(Span, &str)| (first..=last).contains(&span.0);
        if let Some((_, met)) = furthest[other].filter(reaches) {
            return Some(if own == 0 { (text, met) } else { (met, text) });
        }
        if furthest[own].is_none_or(|(before, _)| before.1 < span.1) {
            furthest[own] = Some((span, text));
        }
    }
    None
}

/// The first address and the last one. All of IPv4 comes before all of IPv6.
type Span = (IpAddr, IpAddr);

/// `10.0.0.0/8`, or an address alone.
fn span(text: &str) -> Option<Span> {
    let net = match text.split_once('/') {
        Some((ip, bits)) => IpNet::new(ip.parse().ok()?, bits.parse().ok()?).ok()?,
        None => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    Some((net.network(), net.broadcast()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::properties::Stated;
    use crate::cluster::view::tests::views;

    fn cluster(name: &str, network: &str) -> Facts {
        Facts {
            name: name.to_owned(),
            network: network.to_owned(),
            version: "v1.36.3".to_owned(),
            ahead: Some(1),
            uid: Some(format!("uid of {name}")),
            ..Facts::default()
        }
    }

    /// But for what the control plane can't be asked.
    fn bad(clusters: &[Facts]) -> Vec<Finding> {
        let mut found = bad_by(clusters, &views(&[("cp-1", Err("hangs"))]));
        found.retain(|finding| finding.check != "control plane");
        found
    }

    fn bad_by(clusters: &[Facts], views: &Views) -> Vec<Finding> {
        let all = judge(clusters, "mesh.internal", views);
        all.into_iter()
            .filter(|finding| finding.level > Level::Ok)
            .collect()
    }

    #[test]
    fn nothing_is_wrong_with_two_clusters_that_are_as_they_should_be() {
        let (mut east, mut west) = (cluster("east", "a"), cluster("west", "b"));
        east.service_cidrs = Some(vec!["10.96.0.0/12".to_owned()]);
        west.service_cidrs.clone_from(&east.service_cidrs);
        east.pods.ranges = vec!["10.244.0.0/24".to_owned()];
        west.pods.ranges.clone_from(&east.pods.ranges);
        east.trust_domain = Some("east.mesh.internal".to_owned());
        assert_eq!(bad(&[east, west]), vec![]);
    }

    #[test]
    fn every_finding_that_is_broken_has_a_fix() {
        let mut clusters = vec![
            cluster("a", "n"),
            cluster("b", "n"),
            cluster("c", "m"),
            cluster("d", "o"),
        ];
        clusters[0].ahead = Some(-400);
        clusters[0].forbidden = vec!["list pods".to_owned(), "watch pods".to_owned()];
        clusters[0].kinds.missing = vec!["MeshCluster isthmus.dev/v1alpha1".to_owned()];
        clusters[0].kinds.other = vec!["TrustPolicy isthmus.dev/v1alpha1".to_owned()];
        clusters[0].kinds.older = vec!["ServiceImport multicluster.x-k8s.io/v1beta1".to_owned()];
        clusters[0].pods.ranges = vec!["10.0.0.0/8".to_owned()];
        clusters[1].pods.ranges = vec!["10.244.3.0/24".to_owned()];
        clusters[2].unreachable = Some("it does not answer".to_owned());
        clusters[3].trust_domain = Some("west.mesh.internal".to_owned());
        clusters[3].uid = clusters[1].uid.clone();
        let found = bad(&clusters);
        assert!(
            found.iter().all(|finding| !finding.fix.is_empty()),
            "{found:#?}"
        );
        let of = |check| {
            found
                .iter()
                .filter(|f| f.check == check && f.level == Level::Broken)
                .count()
        };
        let checks = [
            "clock",
            "permissions",
            "definitions",
            "reachability",
            "pod CIDR",
            "trust domain",
        ];
        assert_eq!(checks.map(of), [1, 2, 2, 1, 1, 2], "{found:#?}");
    }

    #[test]
    fn a_cluster_that_states_another_name_or_set_is_told() {
        let stated = |id: &str, set: &str| Stated {
            id: Some(id.to_owned()),
            set: Some(set.to_owned()),
        };
        let (mut east, mut west) = (cluster("east", "a"), cluster("west", "b"));
        east.home = true;
        east.stated = stated("east", "prod");
        west.stated = stated("west", "prod");
        assert_eq!(bad(&[east.clone(), west.clone()]), vec![]);
        for other in [stated("other", "prod"), stated("west", "lab")] {
            west.stated = other;
            let found = bad(&[east.clone(), west.clone()]);
            let told: Vec<_> = found
                .iter()
                .map(|f| (f.cluster.as_str(), f.check))
                .collect();
            assert_eq!(told, [("west", "properties")], "{found:#?}");
            assert!(
                found
                    .iter()
                    .all(|f| f.level == Level::Warning && !f.fix.is_empty())
            );
        }
    }

    #[test]
    fn declared_ranges_of_pods_come_before_those_of_nodes() {
        let (mut east, mut west) = (cluster("east", "a"), cluster("west", "a"));
        east.pods.ranges = vec!["10.8.1.0/24".to_owned(), "10.8.2.0/24".to_owned()];
        west.pods.ranges = vec!["10.9.1.0/24".to_owned()];
        east.pod_ranges = vec!["10.8.0.0/16".to_owned()];
        west.pod_ranges = vec!["10.9.0.0/16".to_owned()];
        assert_eq!(bad(&[east.clone(), west.clone()]), vec![]);
        west.pod_ranges = vec!["10.8.2.0/24".to_owned(), "10.9.0.0/25".to_owned()];
        let found = bad(&[east, west]);
        let told: Vec<_> = found
            .iter()
            .map(|f| (f.cluster.as_str(), f.level))
            .collect();
        assert_eq!(
            told,
            [("east", Level::Broken), ("west", Level::Warning)],
            "{found:#?}"
        );
        assert!(found[0].message.contains("10.8.0.0/16"), "{found:#?}");
        assert!(found[1].message.contains("10.9.1.0/24"), "{found:#?}");
    }

    #[test]
    fn service_ranges_matter_only_on_one_network_and_are_a_warning() {
        let (mut east, mut west) = (cluster("east", "a"), cluster("west", "a"));
        east.service_cidrs = Some(vec!["fd00::/108".to_owned(), "10.96.0.0/12".to_owned()]);
        west.service_cidrs = Some(vec!["10.100.0.0/16".to_owned()]);
        let found = bad(&[east, west]);
        assert_eq!(
            (found.len(), found[0].level),
            (1, Level::Warning),
            "{found:#?}"
        );
    }

    #[test]
    fn ranges_that_are_not_known_are_told_where_another_cluster_is_on_the_network() {
        let (mut east, west) = (cluster("east", "a"), cluster("west", "a"));
        east.unranged = Some("may not".to_owned());
        let found = bad(&[east.clone(), west]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].level, Level::Warning);
        assert!(found[0].message.ends_with("may not"), "{found:#?}");
        assert!(!found[0].fix.is_empty());
        assert_eq!(bad(&[east, cluster("west", "b")]), vec![]);
    }

    #[test]
    fn ranges_meet_if_they_have_an_address_in_common() {
        for (a, b, meet) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.1.2.0/24", "10.0.0.0/8", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "203.0.113.0/24", true),
            ("::/0", "10.0.0.0/8", false),
            ("fd00::/64", "fd00::1:0:0/96", true),
            ("nonsense", "10.0.0.0/8", false),
        ] {
            let (ours, theirs) = ([a.to_owned()], [b.to_owned()]);
            assert_eq!(meeting(&ours, &theirs), meet.then_some((a, b)), "{a} {b}");
        }
    }

    #[test]
    fn the_ranges_that_meet_are_found_among_many() {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let ours = list(&["10.0.0.0/8", "10.9.0.1", "fd00::1", "192.168.0.1"]);
        let theirs = list(&["11.0.0.1", "10.200.0.0/16", "172.16.0.0/12"]);
        assert_eq!(
            meeting(&ours, &theirs),
            Some(("10.0.0.0/8", "10.200.0.0/16"))
        );
        assert_eq!(
            meeting(&theirs, &ours),
            Some(("10.200.0.0/16", "10.0.0.0/8"))
        );
        let theirs = list(&["192.168.0.1", "fd00::2"]);
        assert_eq!(
            meeting(&ours, &theirs),
            Some(("192.168.0.1", "192.168.0.1"))
        );
        assert_eq!(meeting(&ours, &list(&["192.168.0.0", "fd00::"])), None);
    }

    #[test]
    fn pods_of_which_no_address_is_known_are_told_where_another_cluster_is_on_the_network() {
        let (mut east, west) = (cluster("east", "a"), cluster("west", "a"));
        east.pods.unknown = Some("may not list nodes".to_owned());
        let found = bad(&[east.clone(), west]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(
            (found[0].check, found[0].level),
            ("pod CIDR", Level::Warning)
        );
        assert!(
            found[0].message.ends_with("may not list nodes"),
            "{found:#?}"
        );
        assert_eq!(bad(&[east, cluster("west", "b")]), vec![]);
    }

    #[test]
    fn what_is_not_reached_from_here_but_by_the_control_plane_works() {
        let mut west = cluster("west", "b");
        west.unreachable = Some("it does not answer".to_owned());
        let page = |state: &str| {
            let page =
                serde_json::json!([{ "cluster": "west", "state": state, "reason": "no route" }]);
            views(&[("cp-1", Ok(page))])
        };
        let found = bad_by(&[west.clone()], &page("synced"));
        assert_eq!(
            (found.len(), found[0].level),
            (1, Level::Warning),
            "{found:#?}"
        );
        let found = bad_by(&[west.clone()], &page("stale"));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found.iter().all(|finding| finding.level == Level::Broken));
        // ... and the other way round it does not.
        west.unreachable = None;
        let found = bad_by(&[west], &page("stale"));
        assert_eq!(found[0].from, "the control plane");
        assert_eq!(found[0].message, "stale: no route");
    }
}
