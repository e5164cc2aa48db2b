//! Giving space back: blocks that every sink has passed, and seen-set buckets that have expired.
//!
//! Blocks go in order of seq, and `first`, the first seq that is left, moves in the same commit: so what was trimmed
//! never comes back, and a reader never sees a hole. A lane whose sinks are not named keeps everything.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::commit::{Commit, Committer, trim_max_keys};
use super::keys::{self, KeyReader, LaneId};
use super::space::KEY_BYTES;
use super::{Block, lock};
use crate::record::Seq;

impl Committer {
    /// Deletes what the cursors of earlier commits have passed.
    pub(super) fn trim(&mut self, commit: &mut Commit) -> io::Result<()> {
        let sinks = lock(&self.shared.sinks).clone();
        for (stream, sinks) in sinks {
            let Some(&id) = self.working.names.get(&stream) else { continue };
            self.trim_lane(id, &sinks, commit)?;
        }
        Ok(())
    }

    fn trim_lane(&mut self, id: LaneId, sinks: &[Arc<str>], commit: &mut Commit) -> io::Result<()> {
        let Some(&lane) = self.working.lanes.get(&id) else { return Ok(()) };
        let cursor = |sink: &Arc<str>| self.working.cursors.get(&(id, Arc::clone(sink))).map_or(lane.first, |c| c.next);
        let passed = sinks.iter().map(cursor).min().unwrap_or(lane.first);
        if passed <= lane.first {
            return Ok(());
        }
        // Seqs are dense but for quarantined blocks, so this bounds the keys.
        let to = passed.min(lane.first.saturating_add(trim_max_keys() as u64));
        let mut freed = 0;
        let mut undecided = 0;
        for prefix in [keys::BLOCK, keys::VERDICTS] {
            let (from, to) = (keys::of_block(prefix, id, lane.first), keys::of_block(prefix, id, to));
            self.store.range(&from, &to, &mut |key, value| {
                commit.batch.remove(key.to_vec());
                freed += value.len() as u64 + KEY_BYTES;
                if prefix == keys::BLOCK && seq_of(key) >= lane.next_undecided {
                    undecided += u64::from(Block::stored_record_count(&value).unwrap_or(0));
                }
                ControlFlow::Continue(())
            })?;
        }
        let facts = self.working.lanes.change(id);
        facts.first = to;
        facts.live_bytes = facts.live_bytes.saturating_sub(freed);
        // Where sinks take blocks as they are (the link), nothing decides: what they passed is no longer undecided.
        facts.next_undecided = facts.next_undecided.max(to);
        facts.undecided_records = facts.undecided_records.saturating_sub(undecided);
        commit.more |= to < passed;
        Ok(())
    }

    /// Deletes expired buckets, a bounded number of keys; who asked is answered when the last is gone.
    pub(super) fn expire(&mut self, commit: &mut Commit) -> io::Result<()> {
        let Some(expiry) = self.expiries.pop_front() else { return Ok(()) };
        let mut freed = 0;
        let mut count = 0;
        let (from, to) = (keys::seen(expiry.lane, 0, 0), keys::seen(expiry.lane, expiry.before_seconds, 0));
        self.store.range(&from, &to, &mut |key, value| {
            if count == trim_max_keys() {
                return ControlFlow::Break(());
            }
            count += 1;
            freed += value.len() as u64 + KEY_BYTES;
            commit.batch.remove(key.to_vec());
            ControlFlow::Continue(())
        })?;
        if count > 0 {
            let lane = self.working.lanes.change(expiry.lane);
            lane.live_bytes = lane.live_bytes.saturating_sub(freed);
        }
        if count == trim_max_keys() {
            self.expiries.push_front(expiry);
        } else {
            Committer::done(commit, expiry.answer);
        }
        commit.more |= !self.expiries.is_empty();
        Ok(())
    }
}

fn seq_of(key: &[u8]) -> Seq {
    let mut key = KeyReader(key.get(1..).unwrap_or_default());
    key.u32().and_then(|_lane| key.u64()).unwrap_or(0)
}
