//! What is remembered of a service that nobody could be found of?
//!
//! In an outage every request fails alike: one look in a while is enough for all of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::ids::ServiceName;
use isthmus_proxy_core::balance::Ticks;
use isthmus_proxy_core::explain::exclusions;
use isthmus_proxy_core::snapshot::{Service, Snapshot};
use serde_json::{Value, json};

/// A look is shared by all failures of the service within this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks of one worker within that time; failures of further services have none.
const LOOKS_MAX: usize = 8;

/// A worker's looks of the moment.
#[derive(Debug, Default)]
pub struct Looks {
    window: RefCell<(Ticks, HashMap<(ServiceName, u16), Arc<Value>>)>,
}

impl Looks {
    /// The endpoints of a service with what excludes each of them. `None`: there are too many looks.
    pub(super) fn look(
        &self,
        (snapshot, service): (&Snapshot, &Service),
        port: u16,
        mesh_domain: &str,
        now: Ticks,
    ) -> Option<Arc<Value>> {
        let mut window = self.window.borrow_mut();
        let (since, looks) = &mut *window;
        if now.since(*since) >= LOOK_EVERY {
            *since = now;
            looks.clear();
        }
        let key = (service.name.clone(), port);
        if let Some(found) = looks.get(&key) {
            return Some(Arc::clone(found));
        }
        if looks.len() >= LOOKS_MAX {
            return None;
        }
        let found = exclusions(snapshot, service, port, mesh_domain, now);
        let named = found.named.iter();
        let value = Arc::new(json!({
            "service": found.service,
            "generation": found.generation.0,
            "total": found.total,
            "examined": found.examined,
            "reasons": found.reasons,
            "named": named.map(|(name, why)| json!({ "name": name, "why": why })).collect::<Vec<_>>(),
        }));
        looks.insert(key, Arc::clone(&value));
        Some(value)
    }
}
