//! What the admin port says of this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::books;
use crate::admin::Status;
use crate::config::Settings;
use crate::fleet::ledger::Ledger;
use crate::journal::Journal;
use crate::pipeline::Lane;
use crate::record::DeadLetter;

const STARTING: u8 = 0;
const STARTED: u8 = 1;
const STOPPING: u8 = 2;

pub(super) struct NodeStatus {
    agent: Arc<str>,
    role: &'static str,
    journal: Journal,
    lanes: Vec<Arc<Lane>>,
    phase: AtomicU8,
}

impl NodeStatus {
    pub(super) fn new(settings: &Settings, journal: Journal, lanes: Vec<Arc<Lane>>) -> NodeStatus {
        let (agent, role) = (Arc::clone(&settings.agent), super::role_name(settings.role));
        NodeStatus { agent, role, journal, lanes, phase: AtomicU8::new(STARTING) }
    }

    pub(super) fn started(&self) {
        self.phase.store(STARTED, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) {
        self.phase.store(STOPPING, Ordering::Relaxed);
    }
}

impl Status for NodeStatus {
    fn live(&self) -> Result<(), String> {
        match &*self.journal.failure().borrow() {
            Some(reason) => Err(format!("journal failed: {reason}")),
            None => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        match self.phase.load(Ordering::Relaxed) {
            STARTED => {}
            STARTING => reasons.push("starting".to_owned()),
            _ => reasons.push("stopping".to_owned()),
        }
        reasons.extend(self.live().err());
        if self.journal.is_full() {
            reasons.push("journal is full, sources wait".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn ledger(&self) -> Result<Ledger, String> {
        let ledger = books::read(&self.agent, self.role, &self.lanes);
        ledger.map_err(|reason| crate::telemetry::chain(&reason).to_string())
    }
    fn dead_letters(&self, stream: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, String> {
        self.journal.dead_letters(stream, limit).map_err(|reason| crate::telemetry::chain(&reason).to_string())
    }
}
