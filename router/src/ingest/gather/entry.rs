//! A piece of input on its way to the journal: its records, what it refused, how far its source has got with it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Origin, RECORD_MAX_LEN};
use crate::ingest::parse::{Parsed, Parser, Place, Refused};
use crate::record::{DeadLetter, Fingerprint, FramesBuilder};

/// Refusals that sources put into one entry at most: input that is nothing but refusals must not outgrow memory, nor the
/// largest append, in dead letters that are larger than what they stand for.
pub const REFUSED_MAX: usize = 1_000;
/// What a dead letter keeps of an input that is too long to be kept.
const BEGINNING_LEN: usize = 4 << 10;
/// Guess of what a dead letter takes beside its bytes.
const LETTER_BYTES: usize = 256;

/// Records of one piece of input, and all that becomes durable together with them.
#[derive(Debug)]
pub struct Entry {
    stream: Arc<str>,
    fingerprint: Fingerprint,
    pub(super) received_nanos: u64,
    pub(super) records: FramesBuilder,
    pub(super) refused: Vec<(DeadLetter, &'static str)>,
    refused_bytes: usize,
    /// Length of the input, for metrics.
    pub input_bytes: u64,
    /// Source id -> how far the source has read. The later of two of one id holds.
    pub positions: Vec<(Arc<str>, Bytes)>,
    /// Told when all of this is durable.
    pub waiter: Option<Waiter>,
}

/// Whoever waits for an entry to be durable. Dropped untold where it will not be.
#[derive(Debug)]
pub struct Waiter {
    pub durable: oneshot::Sender<()>,
    /// Given back together with the memory of the entry.
    pub held: Option<OwnedSemaphorePermit>,
}

impl Entry {
    /// `received_nanos`: when the input was received, unix time.
    pub fn new(origin: &Origin, received_nanos: u64) -> Entry {
        Entry {
            stream: Arc::clone(&origin.stream),
            fingerprint: origin.schema.fingerprint,
            received_nanos,
            records: FramesBuilder::default(),
            refused: Vec::new(),
            refused_bytes: 0,
            input_bytes: 0,
            positions: Vec::new(),
            waiter: None,
        }
    }

    /// Number of records.
    pub fn records(&self) -> u32 {
        self.records.count()
    }

    /// Number of inputs that went to dead letters.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Memory it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.records.len() + self.refused_bytes
    }

    /// Nothing in it has to become durable.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.refused.is_empty() && self.positions.is_empty()
    }

    /// Parses one input: a record, nothing, or a dead letter with the reason it returns. `scratch` is overwritten.
    pub fn parse(
        &mut self,
        parser: &mut Parser,
        input: &[u8],
        place: Place<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), String> {
        scratch.clear();
        match parser.parse(input, place, scratch) {
            Ok(Parsed::Record) => self.push(scratch),
            Ok(Parsed::Blank) => Ok(()),
            Err(refused) => Err(self.refuse(input, refused)),
        }
    }

    /// Takes a message as it is; one that no block can hold becomes a dead letter, with the reason it returns.
    pub fn push(&mut self, message: &[u8]) -> Result<(), String> {
        if message.len() > RECORD_MAX_LEN {
            let reason = format!("record of {} bytes is longer than {RECORD_MAX_LEN}", message.len());
            return Err(self.refuse_long(message, reason));
        }
        self.records.push(message);
        Ok(())
    }

    /// Makes an input that is no record a dead letter. Returns the reason.
    pub fn refuse(&mut self, input: &[u8], refused: Refused) -> String {
        let Refused { reason, class } = refused;
        let letter = DeadLetter {
            stream: Arc::clone(&self.stream),
            stage: Arc::from("parse"),
            reason: reason.clone(),
            id: None,
            schema: Some(self.fingerprint),
            received_nanos: self.received_nanos,
            bytes: Bytes::copy_from_slice(&input[..input.len().min(RECORD_MAX_LEN)]),
        };
        self.refused_bytes += letter_bytes(&letter);
        self.refused.push((letter, class));
        reason
    }

    /// As `refuse`, of an input that is too long to be kept: the dead letter holds its beginning.
    pub fn refuse_long(&mut self, input: &[u8], reason: String) -> String {
        let beginning = &input[..input.len().min(BEGINNING_LEN)];
        self.refuse(beginning, Refused { reason, class: "long" })
    }
}

#[cfg(test)]
impl Entry {
    /// What it holds, for tests of those who fill it.
    pub(in crate::ingest) fn open(self) -> (crate::record::Frames, Vec<DeadLetter>) {
        (self.records.finish(), self.refused.into_iter().map(|(letter, _)| letter).collect())
    }
}

/// Memory a dead letter takes, roughly.
pub(super) fn letter_bytes(letter: &DeadLetter) -> usize {
    letter.bytes.len() + letter.reason.len() + LETTER_BYTES
}
