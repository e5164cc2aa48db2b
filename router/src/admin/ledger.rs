//! What became of every record (G5), as `/ledger` tells it and `sluice ledger` prints it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The counts of one node since its data directory was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub agent: String,
    /// edge, central or solo.
    pub role: String,
    pub streams: Vec<StreamLedger>,
}

/// One stream's. Always: received + split = kept + filtered + duplicate + dead + undecided; see [`StreamLedger::gap`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLedger {
    pub stream: String,
    /// Records that became durable here, by the agent that journaled them first.
    pub received: BTreeMap<String, u64>,
    /// Inputs of this node's own sources that did not parse; not among `received`.
    pub refused: u64,
    /// Records that plugins and dedup have not seen yet. At an edge, where there are none: all.
    pub undecided: u64,
    pub kept: u64,
    pub filtered: u64,
    pub duplicate: u64,
    /// Records that a plugin refused for good.
    pub dead: u64,
    /// Rows beyond one per record, made by plugins.
    pub split: u64,
    pub sinks: Vec<SinkLedger>,
}

/// One sink's share of a stream. Always: owed = delivered + dead + in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkLedger {
    pub sink: String,
    /// Records this sink is or was to get: the kept ones, or for the link all that were received.
    pub owed: u64,
    pub delivered: u64,
    /// Records this sink refused for good.
    pub dead: u64,
}

impl StreamLedger {
    /// Records received from all agents.
    pub fn received_count(&self) -> u64 {
        self.received.values().sum()
    }

    /// Records that are unaccounted for (positive) or counted twice (negative). Not 0 is a defect.
    pub fn gap(&self) -> i128 {
        let sum = |counts: &[u64]| counts.iter().map(|&count| i128::from(count)).sum::<i128>();
        let decided = [self.kept, self.filtered, self.duplicate, self.dead, self.undecided];
        sum(&[self.received_count(), self.split]) - sum(&decided)
    }
}

impl SinkLedger {
    /// Records not yet delivered; negative where more were delivered than owed, a defect.
    pub fn in_flight(&self) -> i128 {
        i128::from(self.owed) - i128::from(self.delivered) - i128::from(self.dead)
    }
}
