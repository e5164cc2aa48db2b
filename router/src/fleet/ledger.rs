//! The ledger (G5): what became of every record this node received.
//!
//! Two sets of books are compared. One is what stages said as they committed: received, kept, filtered, duplicate,
//! dead, delivered. The other is what still lies in the journal: undecided records, and kept rows that a sink's cursor
//! has not passed, counted block by block. They agree to the record, or there is a gap, and the line says in which
//! stream and sink.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub agent: String,
    /// edge, central or solo.
    pub role: String,
    pub balanced: bool,
    /// Where the books disagree, in words.
    pub gaps: Vec<String>,
    pub streams: BTreeMap<String, StreamLedger>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLedger {
    /// Records made durable here, by the agent that first received them.
    pub received: BTreeMap<String, u64>,
    /// Inputs that did not parse, in dead letters.
    pub refused: u64,
    pub kept: u64,
    pub filtered: u64,
    pub duplicate: u64,
    /// Refused by a plugin, in dead letters.
    pub dead: u64,
    /// Rows beyond one per record.
    pub split: u64,
    /// Received and waiting for the plugins.
    pub undecided: u64,
    pub sinks: BTreeMap<String, SinkLedger>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkLedger {
    pub delivered: u64,
    /// Refused by the sink, in dead letters.
    pub dead: u64,
    /// Kept, and not yet past the sink's cursor.
    pub in_flight: u64,
    /// Kept before the sink was added: not owed to it.
    pub skipped: u64,
}

impl Ledger {
    /// Closes the books: looks for gaps and says whether there are none.
    pub fn close(mut self) -> Ledger {
        self.gaps = self.streams.iter().flat_map(|(name, stream)| stream.gaps(name)).collect();
        self.balanced = self.gaps.is_empty();
        self
    }
}

impl StreamLedger {
    /// Records received from all agents.
    pub fn received_count(&self) -> u64 {
        self.received.values().sum()
    }

    fn gaps(&self, name: &str) -> Vec<String> {
        let mut gaps = Vec::new();
        let received = self.received_count() + self.split;
        let settled = self.kept + self.filtered + self.duplicate + self.dead + self.undecided;
        if received != settled {
            gaps.push(format!(
                "stream {name}: {received} records received and split, {settled} kept, filtered, duplicate, dead or undecided"
            ));
        }
        for (sink, books) in &self.sinks {
            let settled = books.delivered + books.dead + books.in_flight + books.skipped;
            if settled != self.kept {
                let kept = self.kept;
                gaps.push(format!(
                    "stream {name}, sink {sink}: {kept} records kept, {settled} delivered, dead, in flight or skipped"
                ));
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_names_its_place() {
        let sink = SinkLedger { delivered: 4, dead: 1, in_flight: 1, skipped: 1 };
        let mut stream = StreamLedger {
            received: [("a".into(), 6), ("b".into(), 4)].into(),
            kept: 7,
            filtered: 2,
            duplicate: 1,
            dead: 1,
            split: 1,
            sinks: [("search".into(), sink)].into(),
            ..StreamLedger::default()
        };
        assert!(stream.gaps("s").is_empty());
        stream.undecided = 1;
        assert!(stream.gaps("s")[0].starts_with("stream s: 11 records received"));
        stream.undecided = 0;
        stream.sinks.insert("search".into(), SinkLedger::default());
        assert_eq!(
            stream.gaps("s"),
            ["stream s, sink search: 7 records kept, 0 delivered, dead, in flight or skipped"]
        );
    }
}
