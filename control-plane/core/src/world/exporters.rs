//! Which cluster may offer a service, and was not heard?

use crate::model::ServiceImport;
use crate::world::World;

/// The annotation of an import that names the clusters that it was made for, until its status does.
pub(crate) const EXPORTERS_ANNOTATION: &str = "isthmus.dev/exporters";

impl World {
    /// A cluster that may export this service and has not said yet whether it does; `None`: what is not
    /// exported now is exported by nobody. The mesh's own imports name the clusters that did: those have to be
    /// heard, and no other. Where no import tells, all have to.
    pub(crate) fn awaited_exporter(&self, namespace: &str, name: &str) -> Option<String> {
        if self.offers_known() {
            return None;
        }
        let imports = self.clusters.values().filter_map(|cluster| {
            let import = &cluster.imports.get(namespace, name)?.value;
            import.managed.is_some().then_some(import)
        });
        let mut told = false;
        for import in imports {
            let Some(named) = exporters(import) else {
                return Some(self.unheard());
            };
            told = true;
            if let Some(name) = named.into_iter().find(|name| !self.exports_known(name)) {
                return Some(name.to_owned());
            }
        }
        (!told).then(|| self.unheard())
    }

    /// A cluster of which it is not known what it exports.
    fn unheard(&self) -> String {
        let mut all = self.clusters.values();
        let unheard = all.find(|cluster| !cluster.offers_known());
        let unheard = unheard.map(|cluster| cluster.id.to_string());
        let awaited = || self.awaited_members()?.first().cloned();
        let unheard = unheard.or_else(awaited);
        unheard.unwrap_or_else(|| "the home cluster".to_owned())
    }
}

/// The clusters that an import was made for; `None`: it does not say.
pub(crate) fn exporters(import: &ServiceImport) -> Option<Vec<&str>> {
    if !import.clusters.is_empty() {
        return Some(import.clusters.iter().map(String::as_str).collect());
    }
    // Its status has not been written yet.
    let managed = import.managed.as_ref();
    let made_for = managed.and_then(|m| m.annotations.get(EXPORTERS_ANNOTATION));
    made_for.map(|list| list.split(',').collect())
}
