//! The journal as plain maps: what the property test compares the real one with.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Advance, Append, Block, Cursor, Decision, LaneCounts, SeenKeys};
use crate::record::{DeadLetter, Origin, Seq};

#[derive(Default)]
pub(super) struct Model {
    pub agent: String,
    pub epoch: u64,
    pub blocks: BTreeMap<(Arc<str>, Seq), Block>,
    pub verdicts: BTreeMap<(Arc<str>, Seq), Bytes>,
    /// By stream, bucket and the seq of the block that added them.
    pub seen: BTreeMap<(Arc<str>, u64, Seq), Bytes>,
    pub positions: BTreeMap<Arc<str>, Bytes>,
    pub cursors: BTreeMap<(Arc<str>, Arc<str>), Cursor>,
    pub forwarded: BTreeMap<(Arc<str>, u64, Arc<str>), Seq>,
    pub dead: Vec<DeadLetter>,
    pub counts: BTreeMap<Arc<str>, LaneCounts>,
    pub sinks: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl Model {
    pub(super) fn lane(&mut self, stream: &Arc<str>) -> &mut LaneCounts {
        let new = || LaneCounts { next: 1, next_undecided: 1, ..LaneCounts::default() };
        self.counts.entry(Arc::clone(stream)).or_insert_with(new)
    }

    pub(super) fn append(&mut self, append: Append) -> Vec<Seq> {
        let seqs = append.blocks.into_iter().map(|block| self.append_block(block)).collect();
        self.positions.extend(append.positions);
        for letter in append.refused {
            self.lane(&letter.stream).refused += 1;
            self.dead.push(letter);
        }
        seqs
    }

    fn append_block(&mut self, mut block: Block) -> Seq {
        let stream = Arc::clone(&block.stream);
        let seq = self.lane(&stream).next;
        if block.origin.seq == 0 {
            block.origin = Origin { agent: self.agent.as_str().into(), epoch: self.epoch, seq };
        } else {
            let key = (Arc::clone(&block.origin.agent), block.origin.epoch, Arc::clone(&stream));
            let last = self.forwarded.entry(key).or_default();
            if block.origin.seq <= *last {
                return 0;
            }
            *last = block.origin.seq;
        }
        let records = u64::from(block.record_count);
        let agent = Arc::clone(&block.origin.agent);
        let lane = self.lane(&stream);
        lane.next += 1;
        lane.undecided_records += records;
        *lane.received.entry(agent).or_default() += records;
        self.blocks.insert((stream, seq), block);
        seq
    }

    pub(super) fn decide(&mut self, decision: Decision) {
        let key = (Arc::clone(&decision.stream), decision.seq);
        let records = self.blocks.get(&key).map_or(0, |block| u64::from(block.record_count));
        let lane = self.lane(&decision.stream);
        lane.next_undecided = decision.seq + 1;
        lane.undecided_records -= records;
        lane.decided.kept += decision.counts.kept;
        lane.decided.filtered += decision.counts.filtered;
        lane.decided.duplicate += decision.counts.duplicate;
        lane.decided.dead += decision.counts.dead;
        lane.decided.split += decision.counts.split;
        for SeenKeys { bucket_start_seconds, entries } in decision.seen {
            let key = (Arc::clone(&decision.stream), bucket_start_seconds, decision.seq);
            let have = self.seen.entry(key).or_default();
            *have = [&have[..], &entries[..]].concat().into();
        }
        self.dead.extend(decision.dead);
        self.verdicts.insert(key, decision.verdicts);
    }

    pub(super) fn advance(&mut self, advance: Advance) {
        self.lane(&advance.stream);
        let cursor = self.cursors.entry((advance.sink, Arc::clone(&advance.stream))).or_default();
        cursor.next = advance.next;
        cursor.state = advance.state;
        cursor.delivered += advance.delivered;
        cursor.dead += advance.dead.len() as u64;
        self.dead.extend(advance.dead);
    }

    /// First seq that some sink still needs.
    pub(super) fn passed(&self, stream: &Arc<str>) -> Seq {
        let sinks = self.sinks.get(stream).map_or(&[][..], |sinks| sinks);
        let cursor = |sink: &Arc<str>| self.cursors.get(&(Arc::clone(sink), Arc::clone(stream))).map_or(1, |c| c.next);
        sinks.iter().map(cursor).min().unwrap_or(1)
    }

    pub(super) fn expire(&mut self, stream: &Arc<str>, before: u64) {
        self.seen.retain(|(of, bucket, _), _| of != stream || *bucket >= before);
    }
}
