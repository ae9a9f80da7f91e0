//! What does the ConfigMap say by which pods find the control plane?

use isthmus_control_plane_core::model::{ConfigMap, Labels, Spec};
use serde::Deserialize;

use super::{Document, Failure, Metadata, status};

#[derive(Deserialize)]
struct Holding {
    #[serde(default)]
    data: Option<Labels>,
}

pub(super) fn config_map(document: &Document<'_>, metadata: &Metadata) -> Result<Spec, Failure> {
    let holding: Holding = document.decode()?;
    Ok(Spec::ConfigMap(ConfigMap {
        managed: status::managed(metadata),
        digest: ConfigMap::digest(&holding.data.unwrap_or_default()),
    }))
}
