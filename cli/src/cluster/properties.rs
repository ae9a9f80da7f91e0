//! What does a cluster state of itself (About API, KEP-2149)?

use anyhow::bail;
use isthmus_control_plane::kubernetes::Api;

use crate::install::installed::said;
use crate::kubernetes;

/// The property that is the cluster's name in its set.
const CLUSTER_ID_PROPERTY: &str = "cluster.clusterset.k8s.io";
/// The property that is the name of its set.
const CLUSTER_SET_PROPERTY: &str = "clusterset.k8s.io";
/// The versions in which it may be served, the newest first.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

/// Its ClusterProperties that the standard names; `None`: not stated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    /// `cluster.clusterset.k8s.io`: its name in its set.
    pub(crate) id: Option<String>,
    /// `clusterset.k8s.io`: the name of its set.
    pub(crate) set: Option<String>,
}

impl Stated {
    /// Reads them. A cluster that does not know the kind states nothing.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub(crate) async fn of(api: &Api) -> anyhow::Result<Self> {
        Ok(Self {
            id: property(api, CLUSTER_ID_PROPERTY).await?,
            set: property(api, CLUSTER_SET_PROPERTY).await?,
        })
    }

    /// The name that the cluster has in the mesh: the one that is given, else the one that it states.
    ///
    /// # Errors
    /// There is neither.
    pub(crate) fn name(&self, given: Option<&str>) -> anyhow::Result<String> {
        match given.or(self.id.as_deref()) {
            Some(name) => Ok(name.to_owned()),
            None => bail!(
                "the cluster needs a name: none is given, and it states none (ClusterProperty \
                 {CLUSTER_ID_PROPERTY})"
            ),
        }
    }

    /// How it contradicts the name that it has, or the set of the home cluster; `None`: it doesn't.
    pub(crate) fn contradicts(&self, name: &str, home: &Self) -> Option<String> {
        if let Some(id) = self.id.as_deref().filter(|id| *id != name) {
            return Some(format!(
                "its ClusterProperty {CLUSTER_ID_PROPERTY} is {id:?}"
            ));
        }
        match (&self.set, &home.set) {
            (Some(theirs), Some(ours)) if theirs != ours => Some(format!(
                "its ClusterProperty {CLUSTER_SET_PROPERTY} is {theirs:?}, and the home cluster's is {ours:?}"
            )),
            _ => None,
        }
    }

    /// How it contradicts them where that is only to be told: the name is in use.
    ///
    /// # Errors
    /// It contradicts a name that is new, as which nobody should `action` it.
    pub(crate) fn agreed(
        &self,
        action: &str,
        name: &str,
        home: &Self,
        is_known: bool,
    ) -> anyhow::Result<Option<String>> {
        match self.contradicts(name, home) {
            Some(why) if !is_known => bail!(
                "{name} is not what the cluster states of itself: {why}; {action} it as what it is, or mend the property"
            ),
            told => Ok(told),
        }
    }
}

async fn property(api: &Api, name: &str) -> anyhow::Result<Option<String>> {
    for version in VERSIONS {
        let path = format!("/apis/about.k8s.io/{version}/clusterproperties/{name}");
        if let Some(found) = kubernetes::find(api, &path).await? {
            return Ok(said(&found, "/spec/value"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(id: &str, set: &str) -> Stated {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Stated {
            id: text(id),
            set: text(set),
        }
    }

    #[test]
    fn a_name_that_is_given_comes_before_the_one_that_is_stated() {
        assert_eq!(stated("west", "").name(None).unwrap(), "west");
        assert_eq!(stated("west", "").name(Some("w")).unwrap(), "w");
        let why = stated("", "").name(None).unwrap_err().to_string();
        assert!(why.contains("cluster.clusterset.k8s.io"), "{why}");
    }

    #[test]
    fn another_name_and_another_set_contradict() {
        let home = stated("east", "prod");
        let told = |of: &Stated| of.contradicts("west", &home);
        assert_eq!(told(&stated("west", "prod")), None);
        assert_eq!(told(&stated("", "")), None);
        assert!(
            told(&stated("other", "prod"))
                .unwrap()
                .contains("\"other\"")
        );
        assert!(told(&stated("west", "lab")).unwrap().contains("\"lab\""));
        assert_eq!(
            stated("west", "lab").contradicts("west", &stated("", "")),
            None
        );
    }
}
