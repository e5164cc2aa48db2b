//! The journal's calls that change it. Each waits until the change is durable.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::queue::{Answer, Request};
use super::space::KEY_BYTES;
use super::store::VALUE_MAX_LEN;
use super::{Advance, Append, BLOCK_MAX_LEN, Decision, Error, Journal, NAME_MAX_LEN, lock};
use crate::record::{DeadLetter, Fingerprint, Seq};
use crate::telemetry;

/// Most that one append may bring: it becomes one batch, which the store holds in memory.
const APPEND_MAX_BYTES: u64 = 32 << 20;

impl Journal {
    /// Makes `append` durable; returns after the fsync with the seqs the blocks got (0 for a resent block that was
    /// dropped). Waits while the journal is full: that is how sources slow down.
    pub async fn append(&self, append: Append) -> Result<Vec<Seq>, Error> {
        let started = Instant::now();
        let bytes = append_bytes(&append)?;
        let max = APPEND_MAX_BYTES.min(self.shared.space.append_max_bytes());
        check_len("append to journal", bytes, max)?;
        let reservation = tokio::select! {
            biased;
            () = self.shared.ended.cancelled() => return Err(self.shared.poisoned()),
            reservation = self.shared.space.reserve(bytes) => reservation,
        };
        let seqs = self.ask(bytes, |answer| Request::Append { append, reservation, answer }).await?;
        telemetry::JOURNAL_APPEND_SECONDS.record(started.elapsed().as_secs_f64(), &[]);
        Ok(seqs)
    }

    /// Makes decisions durable: verdicts, seen-set keys, dead letters and counts in one commit.
    /// Decisions of one stream come in order of seq, each exactly once: another is refused with [`Error::Order`].
    pub async fn decide(&self, decisions: Vec<Decision>) -> Result<(), Error> {
        let mut bytes = 0;
        for decision in &decisions {
            let seen: usize = decision.seen.iter().map(|keys| keys.entries.len()).sum();
            for len in [decision.verdicts.len(), seen] {
                check_len("decide in journal", len as u64, VALUE_MAX_LEN as u64)?;
                bytes += len as u64;
            }
            bytes += dead_bytes(&decision.dead)?;
        }
        self.ask(bytes, |answer| Request::Decide { decisions, answer }).await
    }

    /// Makes a sink's progress durable: cursor, state, dead letters and counts in one commit. Blocks that every
    /// sink of their lane has passed are trimmed afterwards. A cursor never goes back: that is refused with
    /// [`Error::Order`].
    pub async fn advance(&self, advance: Advance) -> Result<(), Error> {
        check_len("advance in journal", advance.state.len() as u64, VALUE_MAX_LEN as u64)?;
        let bytes = advance.state.len() as u64 + dead_bytes(&advance.dead)?;
        self.ask(bytes, |answer| Request::Advance { advance, answer }).await
    }

    /// Drops seen-set buckets that start before `bucket_start_seconds`.
    pub async fn expire_seen(&self, stream: &str, bucket_start_seconds: u64) -> Result<(), Error> {
        let stream = Arc::from(stream);
        self.ask(0, |answer| Request::Expire { stream, before_seconds: bucket_start_seconds, answer }).await
    }

    /// Keeps a schema for blocks that carry its fingerprint. Durable on return.
    pub async fn put_schema(&self, fingerprint: Fingerprint, message: &str, descriptors: Bytes) -> Result<(), Error> {
        let bytes = (message.len() + descriptors.len()) as u64;
        check_len("put schema into journal", bytes, VALUE_MAX_LEN as u64 / 2)?;
        let message = Arc::from(message);
        self.ask(bytes, |answer| Request::Schema { fingerprint, message, descriptors, answer }).await
    }

    /// Names the sinks of a lane: only those hold blocks back. Cursors of sinks no longer named are kept, but hold
    /// nothing. A new sink starts at the oldest block. A lane whose sinks were never named, or named as none, keeps
    /// everything.
    pub fn set_sinks(&self, stream: &str, sinks: &[Arc<str>]) -> Result<(), Error> {
        self.shared.store()?;
        let _end: watch::Receiver<Seq> = self.end(stream);
        lock(&self.shared.sinks).insert(stream.into(), sinks.to_vec());
        self.shared.queue.nudge();
        Ok(())
    }

    /// Hands a request to the committer and waits for its answer.
    async fn ask<T>(&self, bytes: u64, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        if !self.shared.queue.push(request(answer), bytes as usize).await {
            return Err(self.shared.poisoned());
        }
        match answered.await {
            Ok(outcome) => outcome,
            // The committer ended with the request in hand.
            Err(_gone) => Err(self.shared.poisoned()),
        }
    }
}

/// What an append takes in the store at most.
fn append_bytes(append: &Append) -> Result<u64, Error> {
    let mut bytes = dead_bytes(&append.refused)?;
    for block in &append.blocks {
        // The origin's agent may still have to be filled in.
        let len = (block.stored_len() + NAME_MAX_LEN) as u64;
        check_len("append block to journal", len, BLOCK_MAX_LEN as u64)?;
        bytes += len + KEY_BYTES;
    }
    for (source, position) in &append.positions {
        check_len("append position to journal", position.len() as u64, VALUE_MAX_LEN as u64)?;
        bytes += (source.len() + position.len()) as u64 + KEY_BYTES;
    }
    Ok(bytes)
}

fn dead_bytes(dead: &[DeadLetter]) -> Result<u64, Error> {
    let mut bytes = 0;
    for letter in dead {
        let len = (letter.bytes.len() + letter.reason.len() + letter.stage.len() + letter.stream.len()) as u64;
        check_len("put dead letter into journal", len, VALUE_MAX_LEN as u64 / 2)?;
        bytes += len + 2 * KEY_BYTES;
    }
    Ok(bytes)
}

fn check_len(operation: &'static str, len: u64, max: u64) -> Result<(), Error> {
    if len > max { Err(Error::Large { operation, len, max }) } else { Ok(()) }
}
