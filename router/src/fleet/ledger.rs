//! The ledger (G5): what became of every record this node received.
//!
//! Two sets of books are compared. One is what stages said as they committed: received, kept, filtered, duplicate,
//! dead, delivered. The other is what still lies in the journal: undecided records, and kept rows that a sink's cursor
//! has not passed, counted block by block. They agree to the record, or there is a gap, and the line says in which
//! stream and sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::journal;
use crate::pipeline::{Kind, Lane};

/// Books that are read while records flow may be torn between two commits; a real gap stays.
const READINGS_MAX: u32 = 20;
const READING_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    pub agent: String,
    pub role: &'static str,
    pub balanced: bool,
    /// Where the books disagree, in words.
    pub gaps: Vec<String>,
    pub streams: BTreeMap<String, StreamLedger>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkLedger {
    pub delivered: u64,
    /// Refused by the sink, in dead letters.
    pub dead: u64,
    /// Kept, and not yet past the sink's cursor.
    pub in_flight: u64,
    /// Kept before the sink was added: not owed to it.
    pub skipped: u64,
}

/// Reads the books of all lanes; again, for a moment, where they seem to disagree.
pub async fn read(agent: &str, role: &'static str, lanes: &[Arc<Lane>]) -> Result<Ledger, journal::Error> {
    let mut reading = 1;
    loop {
        let mut ledger =
            Ledger { agent: agent.to_owned(), role, balanced: true, gaps: Vec::new(), streams: BTreeMap::new() };
        for lane in lanes {
            let stream = read_lane(lane)?;
            ledger.gaps.extend(gaps(lane.stream(), &stream));
            ledger.streams.insert(lane.stream().to_string(), stream);
        }
        ledger.balanced = ledger.gaps.is_empty();
        if ledger.balanced || reading == READINGS_MAX {
            return Ok(ledger);
        }
        reading += 1;
        tokio::time::sleep(READING_PAUSE).await;
    }
}

fn read_lane(lane: &Lane) -> Result<StreamLedger, journal::Error> {
    let mut sinks = BTreeMap::new();
    // Cursors before counts: what is decided in between makes a torn reading, which is read again.
    for sink in lane.sinks() {
        let cursor = lane.journal().cursor(sink, lane.stream())?;
        let in_flight = lane.kept_from(cursor.next);
        let skipped = lane.skipped(sink);
        sinks.insert(
            sink.to_string(),
            SinkLedger { delivered: cursor.delivered, dead: cursor.dead, in_flight, skipped },
        );
    }
    let counts = lane.journal().counts(lane.stream())?;
    let mut stream = StreamLedger {
        refused: counts.refused,
        kept: counts.decided.kept,
        filtered: counts.decided.filtered,
        duplicate: counts.decided.duplicate,
        dead: counts.decided.dead,
        split: counts.decided.split,
        undecided: counts.undecided_records,
        received: counts.received.into_iter().map(|(agent, count)| (agent.to_string(), count)).collect(),
        sinks,
    };
    if lane.kind() == Kind::Raw {
        // Nothing is decided at an edge: what is received is what has to be forwarded.
        let received: u64 = stream.received.values().sum();
        stream.kept = received;
        stream.undecided = 0;
        for sink in stream.sinks.values_mut() {
            sink.in_flight = received.saturating_sub(sink.delivered + sink.dead);
        }
    }
    Ok(stream)
}

fn gaps(name: &str, stream: &StreamLedger) -> Vec<String> {
    let mut gaps = Vec::new();
    let received = stream.received.values().sum::<u64>() + stream.split;
    let settled = stream.kept + stream.filtered + stream.duplicate + stream.dead + stream.undecided;
    if received != settled {
        gaps.push(format!("stream {name}: {received} records received and split, {settled} kept, filtered, duplicate, dead or undecided"));
    }
    for (sink, books) in &stream.sinks {
        let settled = books.delivered + books.dead + books.in_flight + books.skipped;
        if settled != stream.kept {
            gaps.push(format!(
                "stream {name}, sink {sink}: {} records kept, {settled} delivered, dead, in flight or skipped",
                stream.kept
            ));
        }
    }
    gaps
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
        assert!(gaps("s", &stream).is_empty());
        stream.undecided = 1;
        assert!(gaps("s", &stream)[0].starts_with("stream s: 11 records received"));
        stream.undecided = 0;
        stream.sinks.insert("search".into(), SinkLedger::default());
        assert_eq!(
            gaps("s", &stream),
            ["stream s, sink search: 7 records kept, 0 delivered, dead, in flight or skipped"]
        );
    }
}
