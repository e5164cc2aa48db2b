//! The journal's calls that read it. All of them show the state of the last durable commit; only what is being trimmed
//! may be gone a moment before its commit is durable.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::keys::{self, KeyReader};
use super::queue::Request;
use super::{Block, BlockError, Cursor, Error, Journal, LaneCounts, SeenKeys, lock, values};
use crate::record::{DeadLetter, Fingerprint, Seq};
use crate::telemetry;

impl Journal {
    /// This node's agent id.
    pub fn agent(&self) -> &Arc<str> {
        &self.shared.agent
    }

    /// Drawn when the data directory was created.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Streams that have a lane.
    pub fn streams(&self) -> Vec<Arc<str>> {
        let mut streams: BTreeSet<Arc<str>> = lock(&self.shared.facts).names.keys().cloned().collect();
        streams.extend(lock(&self.shared.ends).keys().cloned());
        streams.into_iter().collect()
    }

    /// Changes whenever the lane grows; the value is the first seq not yet used. Creates the lane.
    /// Copy the value out of a borrow at once: a borrow that is held (across an `.await`, say) holds up every commit.
    pub fn end(&self, stream: &str) -> watch::Receiver<Seq> {
        // Both locks at once, in the committer's order of publishing: no end falls between them.
        let mut ends = lock(&self.shared.ends);
        if let Some(end) = ends.get(stream) {
            return end.subscribe();
        }
        let next = lock(&self.shared.facts).lane(stream).map_or(1, |(_, lane)| lane.next);
        ends.entry(stream.into()).or_insert_with(|| watch::channel(next).0).subscribe()
    }

    /// Blocks from `from` on, in order, at least one if there is one, then up to about `max_bytes` stored bytes.
    /// Blocks that fail their checksum are quarantined, counted and passed over.
    pub fn read(&self, stream: &str, from: Seq, max_bytes: usize) -> Result<Vec<(Seq, Block)>, Error> {
        let store = self.shared.store()?;
        let Some((id, lane)) = lock(&self.shared.facts).lane(stream) else { return Ok(Vec::new()) };
        let (from, to) = (from.max(lane.first), lane.next);
        let mut blocks = Vec::new();
        if from >= to {
            return Ok(blocks);
        }
        let mut damaged: Vec<(Seq, BlockError)> = Vec::new();
        let mut len = 0;
        let (first_key, end_key) = (keys::of_block(keys::BLOCK, id, from), keys::of_block(keys::BLOCK, id, to));
        store
            .range(&first_key, &end_key, &mut |key, stored| {
                if !blocks.is_empty() && len + stored.len() > max_bytes {
                    return ControlFlow::Break(());
                }
                let seq = u64_after_lane(key);
                match Block::decode(&stored) {
                    Ok(block) => {
                        len += stored.len();
                        blocks.push((seq, block));
                    }
                    Err(error) => damaged.push((seq, error)),
                }
                ControlFlow::Continue(())
            })
            .map_err(self.shared.store_error("read"))?;
        damaged.into_iter().for_each(|(seq, error)| self.quarantine(stream, seq, &error));
        Ok(blocks)
    }

    /// Has a damaged block moved aside, once.
    fn quarantine(&self, stream: &str, seq: Seq, error: &BlockError) {
        let stream: Arc<str> = stream.into();
        if !lock(&self.shared.quarantined).insert((Arc::clone(&stream), seq)) {
            return;
        }
        tracing::warn!(%stream, seq, %error, "quarantined damaged block");
        telemetry::JOURNAL_QUARANTINED.add(1, &[("stream", &stream)]);
        self.shared.queue.push_now(Request::Quarantine { stream, seq });
    }

    /// Verdicts of a decided block; `None` before its decision.
    pub fn verdicts(&self, stream: &str, seq: Seq) -> Result<Option<Bytes>, Error> {
        let store = self.shared.store()?;
        let lane = lock(&self.shared.facts).lane(stream);
        let Some((id, _)) = lane.filter(|(_, lane)| seq < lane.next_undecided) else { return Ok(None) };
        store.get(&keys::of_block(keys::VERDICTS, id, seq)).map_err(self.shared.store_error("read"))
    }

    /// The stream's whole seen-set, in no order; called once at start.
    pub fn seen_keys(&self, stream: &str, visit: &mut dyn FnMut(SeenKeys)) -> Result<(), Error> {
        let store = self.shared.store()?;
        let Some((id, _)) = lock(&self.shared.facts).lane(stream) else { return Ok(()) };
        let (from, to) = (keys::seen(id, 0, 0), keys::seen(id, u64::MAX, u64::MAX));
        store
            .range(&from, &to, &mut |key, entries| {
                visit(SeenKeys { bucket_start_seconds: u64_after_lane(key), entries });
                ControlFlow::Continue(())
            })
            .map_err(self.shared.store_error("read"))
    }

    /// A sink's cursor in a lane; a new one starts at the lane's oldest block.
    pub fn cursor(&self, sink: &str, stream: &str) -> Result<Cursor, Error> {
        self.shared.store()?;
        let facts = lock(&self.shared.facts);
        let Some((id, lane)) = facts.lane(stream) else { return Ok(Cursor { next: 1, ..Cursor::default() }) };
        let cursor = facts.cursors.get(&(id, sink.into())).cloned().unwrap_or_default();
        // One that was not named for a while may have been left behind by trimming.
        Ok(Cursor { next: cursor.next.max(lane.first), ..cursor })
    }

    /// Every sink that has a cursor in a lane, those that are no longer named too.
    pub fn cursors(&self, stream: &str) -> Result<Vec<(Arc<str>, Cursor)>, Error> {
        self.shared.store()?;
        let facts = lock(&self.shared.facts);
        let Some((id, _)) = facts.lane(stream) else { return Ok(Vec::new()) };
        let of_lane = facts.cursors.iter().filter(|((lane, _), _)| *lane == id);
        Ok(of_lane.map(|((_, sink), cursor)| (Arc::clone(sink), cursor.clone())).collect())
    }

    /// Bytes that the journal takes on disk.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        let directory = self.shared.directory.clone();
        super::store::disk_bytes(&directory).map_err(|source| Error::Store { operation: "measure", directory, source })
    }

    /// Position of a source, as it was last committed.
    pub fn position(&self, source: &str) -> Result<Option<Bytes>, Error> {
        self.shared.store()?;
        Ok(lock(&self.shared.facts).positions.get(source).cloned())
    }

    /// Positions of all sources whose id starts with `prefix`.
    pub fn positions(&self, prefix: &str) -> Result<Vec<(Arc<str>, Bytes)>, Error> {
        self.shared.store()?;
        let facts = lock(&self.shared.facts);
        let positions = facts.positions.range(Arc::<str>::from(prefix)..);
        let matching = positions.take_while(|(source, _)| source.starts_with(prefix));
        Ok(matching.map(|(source, position)| (Arc::clone(source), position.clone())).collect())
    }

    /// Last seq that arrived from an agent's lane; 0 if none.
    pub fn forwarded(&self, agent: &str, epoch: u64, stream: &str) -> Result<Seq, Error> {
        self.shared.store()?;
        let facts = lock(&self.shared.facts);
        let Some((id, _)) = facts.lane(stream) else { return Ok(0) };
        Ok(facts.origins.get(&(id, epoch, agent.into())).copied().unwrap_or(0))
    }

    /// All kept schemas: fingerprint, message name, serialized FileDescriptorSet.
    pub fn schemas(&self) -> Result<Vec<(Fingerprint, Arc<str>, Bytes)>, Error> {
        let store = self.shared.store()?;
        let mut schemas = Vec::new();
        store
            .range(&[keys::SCHEMA], &keys::end_of(keys::SCHEMA), &mut |key, value| {
                let fingerprint = key[1..].try_into().map(Fingerprint);
                match (fingerprint, values::decode_schema(&value)) {
                    (Ok(fingerprint), Some((message, descriptors))) => {
                        schemas.push((fingerprint, message, descriptors));
                    }
                    _ => tracing::warn!(?key, "passed over unreadable schema"),
                }
                ControlFlow::Continue(())
            })
            .map_err(self.shared.store_error("read"))?;
        Ok(schemas)
    }

    pub fn counts(&self, stream: &str) -> Result<LaneCounts, Error> {
        self.shared.store()?;
        Ok(lock(&self.shared.facts).counts(stream))
    }

    /// Dead letters, oldest first, at most `limit`, of one stream or all.
    pub fn dead_letters(&self, stream: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let store = self.shared.store()?;
        let bounds = lock(&self.shared.facts).dead.get(&()).copied().unwrap_or_default();
        let mut letters = Vec::new();
        store
            .range(&keys::dead(bounds.first), &keys::dead(bounds.next), &mut |key, value| {
                if letters.len() >= limit {
                    return ControlFlow::Break(());
                }
                match values::decode_dead_letter(&value) {
                    Some(letter) if stream.is_none_or(|stream| *stream == *letter.stream) => letters.push(letter),
                    Some(_of_another) => {}
                    None => tracing::warn!(?key, "passed over unreadable dead letter"),
                }
                ControlFlow::Continue(())
            })
            .map_err(self.shared.store_error("read"))?;
        Ok(letters)
    }

    /// Dead letters dropped so far because there were more than their bound.
    pub fn dead_letters_dropped(&self) -> u64 {
        lock(&self.shared.facts).dead.get(&()).map_or(0, |dead| dead.dropped)
    }

    /// Whether sources wait for space.
    pub fn is_full(&self) -> bool {
        self.shared.space.is_full()
    }

    /// Why the journal stopped, if it did.
    pub fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.failure.subscribe()
    }
}

/// The number behind prefix and lane: a block's seq, a seen-set key's bucket.
fn u64_after_lane(key: &[u8]) -> u64 {
    let mut key = KeyReader(key.get(1..).unwrap_or_default());
    key.u32().and_then(|_lane| key.u64()).unwrap_or(0)
}
