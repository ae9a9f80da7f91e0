//! placeholder
use isthmus_proxy_core::snapshot::Snapshot; use isthmus_proxy_core::balance::Ticks; use serde_json::Value;
pub(super) fn inbound(_: &Snapshot, _: &str) -> Result<Value, String> { Err(String::new()) }
pub(super) fn outbound(_: &Snapshot, _: &str, _: Ticks, _: &str) -> Result<Value, String> { Err(String::new()) }
pub(super) fn parameter(_: &str, _: &str) -> Option<String> { None }
