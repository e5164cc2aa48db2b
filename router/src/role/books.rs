//! Reads the ledger's two sets of books off the lanes.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::ledger::{Ledger, SinkLedger, StreamLedger};
use crate::journal;
use crate::pipeline::{Kind, Lane};

/// Books that are read while records flow may be torn between two commits; a real gap stays.
const READINGS_MAX: u32 = 20;
const READING_PAUSE: Duration = Duration::from_millis(10);

/// Reads the books of all lanes; again, for a moment, where they seem to disagree. Blocks.
pub(super) fn read(agent: &str, role: &str, lanes: &[Arc<Lane>]) -> Result<Ledger, journal::Error> {
    let mut reading = 1;
    loop {
        let mut ledger = Ledger { agent: agent.to_owned(), role: role.to_owned(), ..Ledger::default() };
        for lane in lanes {
            ledger.streams.insert(lane.stream().to_string(), read_lane(lane)?);
        }
        let ledger = ledger.close();
        if ledger.balanced || reading == READINGS_MAX {
            return Ok(ledger);
        }
        reading += 1;
        std::thread::sleep(READING_PAUSE);
    }
}

fn read_lane(lane: &Lane) -> Result<StreamLedger, journal::Error> {
    let counts = lane.journal().counts(lane.stream())?;
    let mut stream = StreamLedger {
        received: counts.received.into_iter().map(|(agent, count)| (agent.to_string(), count)).collect(),
        refused: counts.refused,
        kept: counts.decided.kept,
        filtered: counts.decided.filtered,
        duplicate: counts.decided.duplicate,
        dead: counts.decided.dead,
        split: counts.decided.split,
        undecided: counts.undecided_records,
        ..StreamLedger::default()
    };
    if lane.kind() == Kind::Raw {
        // Nothing is decided at an edge: what is received is what has to be forwarded.
        stream.kept = stream.received_count();
        stream.undecided = 0;
    }
    for sink in lane.sinks() {
        let cursor = lane.journal().cursor(sink, lane.stream())?;
        let in_flight = match lane.kind() {
            Kind::Processed => lane.kept_from(cursor.next),
            // Derived, not counted block by block: this finds what was forwarded twice, not what was forgotten. Central's
            // own count of what it received from the agent is the other book.
            Kind::Raw => stream.kept.saturating_sub(cursor.delivered + cursor.dead),
        };
        let skipped = lane.skipped(sink);
        let books = SinkLedger { delivered: cursor.delivered, dead: cursor.dead, in_flight, skipped };
        stream.sinks.insert(sink.to_string(), books);
    }
    Ok(stream)
}
