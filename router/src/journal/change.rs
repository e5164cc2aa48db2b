//! What each request changes: from a request to facts and keys of the commit in the making. No request is half done:
//! what can be wrong with one is found before it changes anything.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::commit::{Commit, Committer};
use super::facts::Working;
use super::keys;
use super::space::KEY_BYTES;
use super::values::Lane;
use super::{Advance, Append, Block, Decision, Error, SeenKeys};
use crate::record::{Origin, Seq};

impl Committer {
    pub(super) fn append(&mut self, append: Append, commit: &mut Commit) -> Vec<Seq> {
        let seqs = append.blocks.into_iter().map(|block| self.append_block(block, commit)).collect();
        for (source, position) in append.positions {
            self.working.positions.insert(source, position);
        }
        for letter in append.refused {
            let lane = self.working.lane_id(&letter.stream);
            self.working.lanes.change(lane).refused += 1;
            self.put_dead(&letter, commit);
        }
        seqs
    }

    /// Gives the block its seq; 0 where it came before.
    fn append_block(&mut self, mut block: Block, commit: &mut Commit) -> Seq {
        let id = self.working.lane_id(&block.stream);
        let seq = self.working.lanes.get(&id).map_or(1, |lane| lane.next);
        if block.origin.seq == 0 {
            block.origin = Origin { agent: Arc::clone(&self.shared.agent), epoch: self.shared.epoch, seq };
        } else {
            let from = (id, block.origin.epoch, Arc::clone(&block.origin.agent));
            if self.working.origins.get(&from).is_some_and(|&last| block.origin.seq <= last) {
                return 0;
            }
            self.working.origins.insert(from, block.origin.seq);
        }
        let records = u64::from(block.record_count);
        let stored = block.encode();
        let lane = self.working.lanes.change(id);
        lane.next = seq + 1;
        lane.undecided_records += records;
        lane.live_bytes += stored.len() as u64 + KEY_BYTES;
        *self.working.received.change((id, Arc::clone(&block.origin.agent))) += records;
        commit.appended_bytes += stored.len() as u64;
        commit.batch.put(keys::of_block(keys::BLOCK, id, seq), stored);
        seq
    }

    /// The outer error is the store's, the inner one the caller's.
    pub(super) fn decide(&mut self, decisions: Vec<Decision>, commit: &mut Commit) -> io::Result<Result<(), Error>> {
        if let Err(error) = check_order(&self.working, &decisions) {
            return Ok(Err(error));
        }
        for decision in decisions {
            self.decide_block(decision, commit)?;
        }
        Ok(Ok(()))
    }

    fn decide_block(&mut self, decision: Decision, commit: &mut Commit) -> io::Result<()> {
        let id = self.working.lane_id(&decision.stream);
        let stored = self.store.get(&keys::of_block(keys::BLOCK, id, decision.seq))?;
        // A quarantined block is no longer there and its records no longer count as undecided.
        let records = stored.as_deref().and_then(Block::stored_record_count).unwrap_or(0);
        let mut added = 0;
        for keys_of_bucket in merge_buckets(decision.seen) {
            added += keys_of_bucket.entries.len() as u64 + KEY_BYTES;
            let key = keys::seen(id, keys_of_bucket.bucket_start_seconds, decision.seq);
            commit.batch.put(key, keys_of_bucket.entries);
        }
        added += decision.verdicts.len() as u64 + KEY_BYTES;
        commit.batch.put(keys::of_block(keys::VERDICTS, id, decision.seq), decision.verdicts);
        let lane = self.working.lanes.change(id);
        lane.next_undecided = decision.seq + 1;
        lane.undecided_records = lane.undecided_records.saturating_sub(u64::from(records));
        lane.live_bytes += added;
        lane.decided.kept += decision.counts.kept;
        lane.decided.filtered += decision.counts.filtered;
        lane.decided.duplicate += decision.counts.duplicate;
        lane.decided.dead += decision.counts.dead;
        lane.decided.split += decision.counts.split;
        for letter in &decision.dead {
            self.put_dead(letter, commit);
        }
        Ok(())
    }

    pub(super) fn advance(&mut self, advance: Advance, commit: &mut Commit) -> Result<(), Error> {
        let lane = self.working.names.get(&advance.stream).and_then(|id| Some((*id, *self.working.lanes.get(id)?)));
        let facts = lane.map_or_else(Lane::default, |(_, facts)| facts);
        let current = lane.and_then(|(id, _)| self.working.cursors.get(&(id, Arc::clone(&advance.sink))));
        let lowest = current.map_or(facts.first, |cursor| cursor.next);
        if advance.next < lowest || advance.next > facts.next {
            return Err(Error::Order {
                operation: "advance",
                stream: advance.stream,
                seq: advance.next,
                allowed: lowest..=facts.next,
            });
        }
        let id = self.working.lane_id(&advance.stream);
        let cursor = self.working.cursors.change((id, advance.sink));
        cursor.next = advance.next;
        cursor.state = advance.state;
        cursor.delivered += advance.delivered;
        cursor.dead += advance.dead.len() as u64;
        for letter in &advance.dead {
            self.put_dead(letter, commit);
        }
        // A later commit trims what this one made superfluous.
        commit.trim_soon = true;
        Ok(())
    }

    /// Moves a damaged block aside, so that the lane goes on behind it and its bytes stay for repair.
    pub(super) fn quarantine(&mut self, stream: &Arc<str>, seq: Seq, commit: &mut Commit) -> io::Result<()> {
        let key = |id| keys::of_block(keys::BLOCK, id, seq);
        let Some(&id) = self.working.names.get(stream) else { return Ok(()) };
        if self.working.lanes.get(&id).is_none_or(|lane| seq < lane.first) {
            return Ok(()); // Trimmed meanwhile.
        }
        let Some(stored) = self.store.get(&key(id))? else { return Ok(()) };
        let len = stored.len() as u64;
        let records = Block::stored_record_count(&stored).map_or(0, u64::from);
        commit.batch.put(keys::of_block(keys::QUARANTINE, id, seq), stored);
        commit.batch.remove(key(id));
        let lane = self.working.lanes.change(id);
        lane.live_bytes = lane.live_bytes.saturating_sub(len + KEY_BYTES);
        lane.quarantined += records;
        if seq >= lane.next_undecided {
            lane.undecided_records = lane.undecided_records.saturating_sub(records);
        }
        Ok(())
    }
}

/// Decisions of one stream come in order of seq, each exactly once; only quarantined blocks are passed over.
fn check_order(working: &Working, decisions: &[Decision]) -> Result<(), Error> {
    let mut next: Vec<(&Arc<str>, Seq)> = Vec::new();
    for decision in decisions {
        let lane =
            working.names.get(&decision.stream).and_then(|id| working.lanes.get(id)).copied().unwrap_or_default();
        let earlier = next.iter().rev().find(|(stream, _)| **stream == decision.stream);
        let lowest = earlier.map_or(lane.next_undecided, |(_, seq)| seq + 1);
        if decision.seq < lowest || decision.seq >= lane.next {
            return Err(Error::Order {
                operation: "decide",
                stream: Arc::clone(&decision.stream),
                seq: decision.seq,
                allowed: lowest..=lane.next.saturating_sub(1),
            });
        }
        next.push((&decision.stream, decision.seq));
    }
    Ok(())
}

/// One entry per bucket: the bucket is part of the key.
fn merge_buckets(seen: Vec<SeenKeys>) -> Vec<SeenKeys> {
    let mut merged: Vec<SeenKeys> = Vec::with_capacity(seen.len());
    for keys in seen {
        match merged.iter_mut().find(|have| have.bucket_start_seconds == keys.bucket_start_seconds) {
            None => merged.push(keys),
            Some(have) => {
                let mut entries = BytesMut::from(&have.entries[..]);
                entries.extend_from_slice(&keys.entries);
                have.entries = Bytes::from(entries);
            }
        }
    }
    merged
}
