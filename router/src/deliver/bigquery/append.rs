//! Rows of blocks -> the rows of one append.

use std::sync::Arc;

use super::state::{Append, Place};
use crate::record::{DeadLetter, Row, Rows};
use crate::schema::bigquery::{Appended, Table};

/// Tag and length of a row inside the request, at most.
const ROW_OVERHEAD: usize = 6;

/// What to encode.
pub(super) struct Job {
    /// Blocks in order; the first is the one of `from`.
    pub(super) blocks: Vec<Arc<Rows>>,
    pub(super) from: Place,
    pub(super) extent: Extent,
    pub(super) table: Arc<Table>,
    pub(super) stage: Arc<str>,
}

/// How far an append goes.
pub(super) enum Extent {
    /// As many rows as fit.
    Fill { max_bytes: usize },
    /// Exactly as it was journaled.
    Again { to: Place, removed: Vec<u32> },
}

/// An append's rows, ready to be sent.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) append: Append,
    pub(super) rows: Vec<Vec<u8>>,
    /// For each row, its number counted from `append.from`, removed ones included.
    pub(super) numbers: Vec<u32>,
    /// Records that have no row; already among `append.removed`.
    pub(super) dead: Vec<DeadLetter>,
}

impl Job {
    /// Encodes the rows. Computes for milliseconds: call it off the runtime.
    pub(super) fn encode(self) -> Encoded {
        let mut encoded = Encoded {
            append: Append { from: self.from, to: self.from, offset: 0, count: 0, removed: vec![], was_sent: false },
            rows: Vec::new(),
            numbers: Vec::new(),
            dead: Vec::new(),
        };
        let schema =
            self.blocks.iter().find(|rows| !rest(rows, self.from).1.is_empty()).map(|rows| rows.schema.clone());
        let (mut number, mut len) = (0, 0);
        for rows in &self.blocks {
            let (start, records) = rest(rows, self.from);
            if !records.is_empty() && schema.as_ref().map(|schema| schema.fingerprint) != Some(rows.schema.fingerprint)
            {
                break;
            }
            for (row, record) in (start..).zip(records) {
                let place = Place { seq: rows.seq, row };
                if self.is_behind(place) || !self.add(rows, record, number, &mut len, &mut encoded) {
                    encoded.append.to = place;
                    return encoded.counted();
                }
                number += 1;
            }
            encoded.append.to = Place { seq: rows.seq + 1, row: 0 };
        }
        encoded.counted()
    }

    fn is_behind(&self, place: Place) -> bool {
        matches!(&self.extent, Extent::Again { to, .. } if place >= *to)
    }

    /// Adds one record's row, or removes it; false where it has no room any more.
    fn add(&self, rows: &Rows, record: &Row, number: u32, len: &mut usize, encoded: &mut Encoded) -> bool {
        if let Extent::Again { removed, .. } = &self.extent
            && removed.binary_search(&number).is_ok()
        {
            encoded.append.removed.push(number);
            return true;
        }
        let mut bytes = Vec::with_capacity(record.message.len() + 64);
        let appended = Appended { id: record.id, received_nanos: rows.received_nanos, agent: &rows.agent };
        let refusal = match (self.table.encode(&record.message, appended, &mut bytes), &self.extent) {
            (Err(error), _) => error.to_string(),
            (Ok(()), Extent::Fill { max_bytes }) if bytes.len() + ROW_OVERHEAD > *max_bytes => {
                format!("its row has {} bytes, an append holds {max_bytes}", bytes.len())
            }
            (Ok(()), Extent::Fill { max_bytes }) if *len + bytes.len() + ROW_OVERHEAD > *max_bytes => return false,
            (Ok(()), _) => {
                *len += bytes.len() + ROW_OVERHEAD;
                encoded.rows.push(bytes);
                encoded.numbers.push(number);
                return true;
            }
        };
        encoded.append.removed.push(number);
        encoded.dead.push(dead_letter(rows, record, &self.stage, refusal));
        true
    }
}

impl Encoded {
    fn counted(mut self) -> Encoded {
        self.append.count = self.rows.len() as u32;
        self
    }
}

/// A block's records from `from` on, and the first one's index.
fn rest(rows: &Rows, from: Place) -> (u32, &[Row]) {
    let start = if rows.seq == from.seq { from.row } else { 0 };
    (start, rows.records.get(start as usize..).unwrap_or_default())
}

/// The `number`-th row from `from` on: its place, block and record.
pub(super) fn find(blocks: &[Arc<Rows>], from: Place, number: u32) -> Option<(Place, &Rows, &Row)> {
    let mut left = number as usize;
    for rows in blocks {
        let (start, records) = rest(rows, from);
        if let Some(record) = records.get(left) {
            return Some((Place { seq: rows.seq, row: start + left as u32 }, rows, record));
        }
        left -= records.len();
    }
    None
}

pub(super) fn dead_letter(rows: &Rows, record: &Row, stage: &Arc<str>, reason: String) -> DeadLetter {
    DeadLetter {
        stream: rows.stream.clone(),
        stage: stage.clone(),
        reason,
        id: Some(record.id),
        schema: Some(rows.schema.fingerprint),
        received_nanos: rows.received_nanos,
        bytes: record.message.clone(),
    }
}
