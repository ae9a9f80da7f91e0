//! Which objects do the two clusters hold?

use super::folder::Folder;
use super::plan::{Cluster, Plan};
use super::store::Store;

/// A file of a cluster's folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manifest {
    pub(crate) cluster: Cluster,
    pub(crate) file: &'static str,
    text: &'static str,
}

macro_rules! manifest {
    ($cluster:ident, $folder:literal, $file:literal) => {
        Manifest {
            cluster: Cluster::$cluster,
            file: $file,
            text: include_str!(concat!("../../../deploy/local/", $folder, "/", $file)),
        }
    };
}

/// `cart` in east: edited by the scene in which it stops.
pub(crate) const CART_EAST: Manifest = manifest!(East, "east", "cart.yaml");
/// Edited by the scene in which its API server stops.
pub(crate) const REVIEWS: Manifest = manifest!(West, "west", "reviews.yaml");
/// Only where redis-server is installed.
const REDIS: Manifest = manifest!(West, "west", "redis.yaml");
/// Forbids the calls of web; written by the scene about policy.
pub(crate) const FORBID_WEB: Manifest = manifest!(West, "scenes", "forbid-web.yaml");

/// Written at the start.
const AT_START: [Manifest; 10] = [
    manifest!(East, "east", "cluster.yaml"),
    manifest!(East, "east", "gateway.yaml"),
    manifest!(East, "east", "web.yaml"),
    CART_EAST,
    manifest!(East, "east", "imports.yaml"),
    manifest!(East, "east", "routes.yaml"),
    manifest!(West, "west", "cluster.yaml"),
    manifest!(West, "west", "gateway.yaml"),
    manifest!(West, "west", "cart.yaml"),
    REVIEWS,
];
const ECHO: Manifest = manifest!(West, "west", "echo.yaml");

/// What a pod's Ready condition says while it serves.
const READY: &str = "- type: Ready\n      status: \"True\"";
/// ... and when it does not.
const UNREADY: &str = "- type: Ready\n      status: \"False\"";

impl Manifest {
    /// What it says, with the first demo's addresses.
    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    /// What it says, with this demo's addresses.
    pub(crate) fn readdressed(&self, plan: &Plan) -> String {
        plan.readdress(self.text)
    }

    /// The same with its first pods unready, as a kubelet would report them.
    pub(crate) fn unready(&self, pods: usize, plan: &Plan) -> String {
        plan.readdress(&self.text.replacen(READY, UNREADY, pods))
    }

    /// In which cluster it is, and in which file.
    pub(crate) fn place(&self) -> (Cluster, &'static str) {
        (self.cluster, self.file)
    }
}

/// Fills both clusters.
///
/// # Errors
/// They can't be written to.
pub(crate) async fn put_all(store: &Store, folder: &Folder, plan: &Plan) -> anyhow::Result<()> {
    let redis = plan.redis.is_some().then_some(&REDIS);
    for manifest in AT_START.iter().chain([&ECHO]).chain(redis) {
        let text = manifest.readdressed(plan);
        store.put(folder, manifest.place(), &text).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Callee, Pod};
    use super::*;
    use serde_json::Value;

    fn documents(manifest: &Manifest) -> Vec<Value> {
        serde_saphyr::from_multiple(manifest.text)
            .unwrap_or_else(|error| panic!("{}: {error}", manifest.file))
    }

    fn all() -> Vec<Value> {
        let more = [ECHO, REDIS, FORBID_WEB];
        AT_START.iter().chain(&more).flat_map(documents).collect()
    }

    #[test]
    fn every_manifest_is_yaml_with_kind_and_name() {
        for document in all() {
            assert!(document["apiVersion"].is_string(), "{document}");
            assert!(document["kind"].is_string(), "{document}");
            assert!(document["metadata"]["name"].is_string(), "{document}");
        }
    }

    #[test]
    fn every_pod_of_the_plan_is_declared_as_it_runs() {
        let plan = Plan::claim().unwrap();
        let documents = all();
        for pod in plan.pods() {
            let Pod {
                name,
                namespace,
                account,
                ..
            } = pod;
            let found = documents
                .iter()
                .find(|d| d["kind"] == "Pod" && d["metadata"]["name"] == name)
                .unwrap_or_else(|| panic!("{name} is in no manifest"));
            assert_eq!(found["metadata"]["namespace"], namespace, "{name}");
            assert_eq!(found["spec"]["serviceAccountName"], account, "{name}");
            let ip = plan.readdress(found["status"]["podIP"].as_str().unwrap());
            assert_eq!(ip, plan.address(&pod).to_string(), "{name}");
        }
    }

    #[test]
    fn everything_that_web_calls_is_imported_at_its_virtual_address() {
        let documents = all();
        for callee in Callee::ALL {
            let import = documents
                .iter()
                .find(|d| d["kind"] == "ServiceImport" && d["metadata"]["name"] == callee.service)
                .unwrap_or_else(|| panic!("{} is not imported", callee.service));
            let address = import["spec"]["ips"][0].as_str().unwrap();
            assert_eq!(address, callee.destination().ip().to_string());
            let ports = import["spec"]["ports"].as_array().unwrap();
            assert!(ports.iter().any(|p| p["port"] == callee.port), "{callee:?}");
        }
    }

    #[test]
    fn unready_pods_differ_in_their_condition_only() {
        let text = CART_EAST.text;
        assert_eq!(text.matches(READY).count(), 2);
        let plan = Plan::claim().unwrap();
        assert!(!CART_EAST.unready(2, &plan).contains("\"True\""));
        let one = CART_EAST.unready(1, &plan);
        let at = |word| one.find(word).unwrap();
        assert!(at("\"False\"") < at("cart-2") && at("cart-2") < at("\"True\""));
    }
}
