//! Groups of entries, and what becomes of them: compressed blocks, and the appends that carry them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Entry, Waiter, letter_bytes};
use crate::journal::{Append, Block, BlockError};
use crate::record::{DeadLetter, Fingerprint, Frames, FramesBuilder};

/// Guess of what a stored position takes.
const POSITION_BYTES: usize = 512;

/// Entries that become durable together.
#[derive(Debug, Default)]
pub(super) struct Group {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push(entry);
    }

    /// Compresses the records into blocks of up to `block_max_bytes` raw; a larger record gets a block of its own.
    pub(super) fn seal(
        self,
        stream: &Arc<str>,
        fingerprint: Fingerprint,
        block_max_bytes: usize,
    ) -> Result<Sealed, BlockError> {
        let mut sealed = Sealed::default();
        let received = || self.entries.iter().map(|entry| entry.received_nanos);
        let received = (received().min().unwrap_or(0), received().max().unwrap_or(0));
        let mut frames = FramesBuilder::default();
        let mut blocks = Vec::new();
        let mut close = |frames: Frames| -> Result<(), BlockError> {
            if !frames.is_empty() {
                blocks.push(Block::new(stream, fingerprint, &frames, received)?);
            }
            Ok(())
        };
        for entry in self.entries {
            sealed.durable.records += u64::from(entry.records.count());
            sealed.durable.input_bytes += entry.input_bytes;
            for (letter, class) in entry.refused {
                *sealed.durable.refused.entry(class).or_default() += 1;
                sealed.refused.push(letter);
            }
            sealed.positions.extend(entry.positions);
            sealed.durable.waiters.extend(entry.waiter);
            let records = entry.records.finish();
            // The usual entry of a busy source is a block already: spare the copy.
            if frames.is_empty()
                && records.bytes().len() <= block_max_bytes
                && records.bytes().len() > block_max_bytes / 2
            {
                close(records)?;
                continue;
            }
            for record in records.iter() {
                if !frames.is_empty() && frames.len() + record.len() + LENGTH_MAX_LEN > block_max_bytes {
                    close(std::mem::take(&mut frames).finish())?;
                }
                frames.push(record);
            }
        }
        close(frames.finish())?;
        sealed.blocks = blocks;
        Ok(sealed)
    }
}

/// A varint length of what fits into a block.
const LENGTH_MAX_LEN: usize = 5;

/// A group whose records are blocks.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    blocks: Vec<Block>,
    /// One per source id: the last.
    positions: BTreeMap<Arc<str>, Bytes>,
    refused: Vec<DeadLetter>,
    durable: Durable,
}

/// What is to be told and counted once a group is durable.
#[derive(Debug, Default)]
pub(super) struct Durable {
    pub(super) records: u64,
    pub(super) input_bytes: u64,
    /// Count by reason class.
    pub(super) refused: BTreeMap<&'static str, u64>,
    waiters: Vec<Waiter>,
}

impl Durable {
    pub(super) fn tell(self) {
        for waiter in self.waiters {
            // Gone where its client has hung up; the records are durable all the same.
            let _gone = waiter.durable.send(());
        }
    }
}

impl Sealed {
    /// Bytes it brings to the journal, roughly.
    pub(super) fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Block::stored_len).sum();
        let refused: usize = self.refused.iter().map(letter_bytes).sum();
        blocks + refused + self.positions.len() * POSITION_BYTES
    }

    /// Adds a later group.
    pub(super) fn join(&mut self, later: Sealed) {
        self.blocks.extend(later.blocks);
        self.positions.extend(later.positions);
        self.refused.extend(later.refused);
        self.durable.records += later.durable.records;
        self.durable.input_bytes += later.durable.input_bytes;
        for (class, count) in later.durable.refused {
            *self.durable.refused.entry(class).or_default() += count;
        }
        self.durable.waiters.extend(later.durable.waiters);
    }

    /// Cuts it into appends of up to `max_bytes`: one, unless it is the group of a single large entry. Positions come
    /// with the last.
    pub(super) fn split(self, max_bytes: usize) -> (Vec<Append>, Durable) {
        let mut packing = Packing { full: Vec::new(), open: Append::default(), bytes: 0, max_bytes };
        packing.bytes = self.positions.len() * POSITION_BYTES;
        for block in self.blocks {
            packing.make_room(block.stored_len());
            packing.open.blocks.push(block);
        }
        for letter in self.refused {
            packing.make_room(letter_bytes(&letter));
            packing.open.refused.push(letter);
        }
        packing.open.positions = self.positions.into_iter().collect();
        packing.full.push(packing.open);
        (packing.full, self.durable)
    }
}

/// Appends being filled, one after the other.
struct Packing {
    full: Vec<Append>,
    open: Append,
    bytes: usize,
    max_bytes: usize,
}

impl Packing {
    fn make_room(&mut self, len: usize) {
        let empty = self.open.blocks.is_empty() && self.open.refused.is_empty();
        if !empty && self.bytes + len > self.max_bytes {
            self.full.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
        self.bytes += len;
    }
}
