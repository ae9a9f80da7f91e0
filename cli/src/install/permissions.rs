//! What may the control plane do in a cluster?
//!
//! One table: what `install` and `cluster join` grant, and what `cluster check` asks for. Each line is
//! on docs/KUBERNETES.md with its reason.

use serde_json::{Value, json};

/// Where it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In every namespace of every cluster.
    Everywhere,
    /// In `isthmus-system` of every cluster.
    System,
    /// In `isthmus-system` of the cluster that the control plane runs in.
    Home,
}

/// One thing that it may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permission {
    /// Of this API group.
    pub(crate) group: &'static str,
    /// Resources, with subresources as `name/status`.
    pub(crate) resources: &'static [&'static str],
    /// What it may do with them.
    pub(crate) verbs: &'static [&'static str],
    /// Only objects of these names; empty: all.
    pub(crate) names: &'static [&'static str],
    /// Where.
    pub(crate) place: Place,
}

/// The service account of the control plane, in every cluster.
pub(crate) const ACCOUNT: &str = "isthmus-control-plane";
/// What pods read the mesh's roots from, in every meshed namespace.
pub(crate) const ROOTS: &str = "isthmus-roots";

/// Where every namespace finds the roots of its cluster's API server.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The definitions of our own kinds.
pub(crate) const DEFINITIONS: &[&str] = &[
    "meshclusters.isthmus.dev",
    "accesspolicies.isthmus.dev",
    "trafficpolicies.isthmus.dev",
    "trustpolicies.isthmus.dev",
];

const READ: &[&str] = &["get", "list", "watch"];
/// Server-side apply patches, and creates what is not there.
const OWN: &[&str] = &["create", "patch", "delete"];
const PATCH: &[&str] = &["patch"];

const fn everywhere(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Permission {
    Permission {
        group,
        resources,
        verbs,
        names: &[],
        place: Place::Everywhere,
    }
}

/// Everything that it may do.
pub(crate) const PERMISSIONS: &[Permission] = &[
    everywhere("", &["namespaces", "nodes", "pods", "services"], READ),
    everywhere("discovery.k8s.io", &["endpointslices"], READ),
    everywhere(
        "multicluster.x-k8s.io",
        &["serviceexports", "serviceimports", "clusterprofiles"],
        READ,
    ),
    everywhere(
        "gateway.networking.k8s.io",
        &[
            "gateways",
            "gatewayclasses",
            "httproutes",
            "grpcroutes",
            "tcproutes",
            "tlsroutes",
            "referencegrants",
        ],
        READ,
    ),
    everywhere(
        "isthmus.dev",
        &[
            "meshclusters",
            "accesspolicies",
            "trafficpolicies",
            "trustpolicies",
        ],
        READ,
    ),
    everywhere("about.k8s.io", &["clusterproperties"], READ),
    everywhere("networking.k8s.io", &["servicecidrs"], &["list"]),
    Permission {
        names: DEFINITIONS,
        ..everywhere(
            "apiextensions.k8s.io",
            &["customresourcedefinitions"],
            &["get"],
        )
    },
    everywhere("multicluster.x-k8s.io", &["serviceimports"], OWN),
    everywhere(
        "multicluster.x-k8s.io",
        &["serviceexports/status", "serviceimports/status"],
        PATCH,
    ),
    everywhere("", &["services"], OWN),
    everywhere("discovery.k8s.io", &["endpointslices"], OWN),
    everywhere(
        "gateway.networking.k8s.io",
        &[
            "gateways/status",
            "gatewayclasses/status",
            "httproutes/status",
            "grpcroutes/status",
            "tcproutes/status",
            "tlsroutes/status",
        ],
        PATCH,
    ),
    everywhere(
        "isthmus.dev",
        &[
            "meshclusters/status",
            "accesspolicies/status",
            "trafficpolicies/status",
            "trustpolicies/status",
        ],
        PATCH,
    ),
    // A list of those with one name asks for no more than that name.
    Permission {
        names: &[ROOTS],
        ..everywhere("", &["configmaps"], READ)
    },
    Permission {
        names: &[ROOTS],
        ..everywhere("", &["configmaps"], OWN)
    },
    everywhere("authentication.k8s.io", &["tokenreviews"], &["create"]),
    Permission {
        names: &[ACCOUNT],
        place: Place::System,
        ..everywhere("", &["serviceaccounts/token"], &["create"])
    },
    Permission {
        names: &[ROOT_CA],
        place: Place::System,
        ..everywhere("", &["configmaps"], &["get"])
    },
    Permission {
        place: Place::Home,
        ..everywhere("", &["secrets"], &["get", "list", "create", "update"])
    },
    Permission {
        place: Place::Home,
        ..everywhere(
            "coordination.k8s.io",
            &["leases"],
            &["get", "create", "update"],
        )
    },
];

impl Permission {
    /// As a rule of a Role.
    pub(crate) fn rule(&self) -> Value {
        let mut rule = json!({
            "apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs,
        });
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }

    /// Each verb on each resource, as a SelfSubjectAccessReview asks for it.
    pub(crate) fn questions(&self, namespace: &str) -> Vec<Value> {
        let mut questions = Vec::new();
        for resource in self.resources {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            for verb in self.verbs {
                let mut attributes = json!({
                    "group": self.group, "resource": resource, "verb": verb,
                });
                if !subresource.is_empty() {
                    attributes["subresource"] = subresource.into();
                }
                if self.place != Place::Everywhere {
                    attributes["namespace"] = namespace.into();
                }
                if let Some(name) = self.names.first() {
                    attributes["name"] = (*name).into();
                }
                questions.push(attributes);
            }
        }
        questions
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_written_but_what_is_ours() {
        let writable = |p: &&Permission| p.verbs.iter().any(|verb| !READ.contains(verb));
        for permission in PERMISSIONS.iter().filter(writable) {
            for resource in permission.resources {
                let ours = resource.ends_with("/status")
                    || matches!(*resource, "serviceimports" | "services" | "tokenreviews")
                    // The fence says which: see `objects::fence`.
                    || *resource == "endpointslices"
                    || permission.place != Place::Everywhere
                    || !permission.names.is_empty();
                assert!(ours, "{resource} may be written everywhere");
            }
        }
    }

    #[test]
    fn no_permission_is_for_everything() {
        for permission in PERMISSIONS {
            let all = permission
                .verbs
                .iter()
                .chain(permission.resources)
                .chain([&permission.group]);
            assert!(
                all.into_iter().all(|word| !word.contains('*')),
                "{permission:?}"
            );
            let secret = permission.resources.contains(&"secrets");
            assert!(!secret || permission.place == Place::Home, "{permission:?}");
        }
    }

    #[test]
    fn each_verb_is_asked_for_by_itself() {
        let status = everywhere("g", &["a/status", "b"], &["patch", "get"]);
        let asked = status.questions("isthmus-system");
        assert_eq!(asked.len(), 4);
        assert_eq!(
            asked[0],
            json!({ "group": "g", "resource": "a", "subresource": "status", "verb": "patch" })
        );
        let own = Permission {
            place: Place::Home,
            names: &["x"],
            ..status
        };
        assert_eq!(own.questions("ns")[3]["namespace"], "ns");
        assert_eq!(own.questions("ns")[3]["name"], "x");
    }

    /// Resource, verb, where, and whether only some names are meant.
    type Line = (String, String, String, bool);

    fn granted() -> BTreeSet<Line> {
        let mut all = BTreeSet::new();
        for permission in PERMISSIONS {
            let place = match permission.place {
                Place::Everywhere => "everywhere",
                Place::System => "`isthmus-system`",
                Place::Home => "`isthmus-system` of the home cluster",
            };
            for resource in permission.resources {
                for verb in permission.verbs {
                    let named = !permission.names.is_empty();
                    let words = [*resource, *verb, place].map(ToOwned::to_owned);
                    let [resource, verb, place] = words;
                    all.insert((resource, verb, place, named));
                }
            }
        }
        all
    }

    /// The rows of the table.
    fn told(page: &str) -> BTreeSet<Line> {
        let (_, section) = page.split_once("## What may be done").unwrap();
        let (section, _) = section.split_once("\n#").unwrap();
        let mut all = BTreeSet::new();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, resources, verbs, place, _, _] = cells[..] else {
                panic!("{row}");
            };
            let (resources, only) = match resources.split_once(", only ") {
                Some((resources, only)) => (resources, Some(only)),
                None => (resources, None),
            };
            for resource in resources.split('`').skip(1).step_by(2) {
                for verb in verbs.split(", ") {
                    let words = [resource, verb, place].map(ToOwned::to_owned);
                    let [resource, verb, place] = words;
                    all.insert((resource, verb, place, only.is_some()));
                }
            }
        }
        all
    }

    #[test]
    fn the_page_tells_every_permission_with_its_verbs_and_its_place() {
        let page = include_str!("../../../docs/KUBERNETES.md");
        assert_eq!(told(page), granted());
        for name in PERMISSIONS.iter().flat_map(|p| p.names) {
            let told = page.contains(&format!("`{name}`")) || DEFINITIONS.contains(name);
            assert!(told, "{name}");
        }
        // It notices a verb that is missing, and a place that is another one.
        for (from, to) in [
            ("| create, patch, delete |", "| create, patch |"),
            ("| create | everywhere |", "| create | `isthmus-system` |"),
        ] {
            assert_ne!(told(&page.replace(from, to)), granted(), "{to}");
        }
    }
}
