//! placeholder
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use isthmus_proxy_core::balance::Me;
use isthmus_proxy_core::snapshot::Snapshot;
use crate::worker::Shared;
#[derive(Debug, Default)]
pub struct State;
impl State { pub fn describe(&self) -> serde_json::Value { serde_json::Value::Null } }
pub struct Discovery { state: Arc<Mutex<State>> }
impl Discovery { pub fn new(_: &Arc<Shared>, _: Me, _: watch::Sender<Arc<Snapshot>>) -> Self { Self { state: Arc::default() } } pub fn state(&self) -> Arc<Mutex<State>> { self.state.clone() } }
pub async fn run(_: Discovery, _: mpsc::Receiver<String>, _: watch::Receiver<u64>) {}
