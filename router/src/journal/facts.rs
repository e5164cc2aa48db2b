//! What the journal knows beside the blocks themselves: lanes, counts, cursors, positions.
//!
//! The facts exist twice. The committer works on [`Working`], ahead of the store; what everyone else sees is [`Facts`],
//! and the committer publishes to it what a commit changed only after that commit's flush. So nobody ever sees,
//! reads or delivers what a crash could still take back. [`Tracked`] remembers what a commit changed: that alone is
//! written to the store and published.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::keys::{self, KeyReader, LaneId};
use super::store::{Batch, Store};
use super::values::{self, DeadBounds, Lane};
use super::{Cursor, LaneCounts};
use crate::record::Seq;

/// The facts as of the last durable commit.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub names: BTreeMap<Arc<str>, LaneId>,
    pub lanes: BTreeMap<LaneId, Lane>,
    /// Records by origin agent.
    pub received: BTreeMap<(LaneId, Arc<str>), u64>,
    /// Last seq that arrived from (agent, epoch).
    pub origins: BTreeMap<(LaneId, u64, Arc<str>), Seq>,
    pub cursors: BTreeMap<(LaneId, Arc<str>), Cursor>,
    pub positions: BTreeMap<Arc<str>, Bytes>,
    pub dead: BTreeMap<(), DeadBounds>,
}

/// A map that knows which of its entries changed since they were last published.
#[derive(Debug)]
pub(super) struct Tracked<K, V> {
    all: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K: Ord + Clone, V: Clone> Tracked<K, V> {
    fn new(all: BTreeMap<K, V>) -> Tracked<K, V> {
        Tracked { all, changed: BTreeSet::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.all.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.changed.insert(key.clone());
        self.all.insert(key, value);
    }

    /// The entry, which counts as changed from here on.
    pub(super) fn change(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.changed.insert(key.clone());
        self.all.entry(key).or_default()
    }

    fn changes(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changed.iter().filter_map(|key| self.all.get_key_value(key))
    }

    fn publish(&mut self, to: &mut BTreeMap<K, V>) {
        for key in std::mem::take(&mut self.changed) {
            if let Some(value) = self.all.get(&key) {
                to.insert(key, value.clone());
            }
        }
    }
}

/// The committer's facts: those of the last commit and what the next will add.
#[derive(Debug)]
pub(super) struct Working {
    pub names: Tracked<Arc<str>, LaneId>,
    pub lanes: Tracked<LaneId, Lane>,
    pub received: Tracked<(LaneId, Arc<str>), u64>,
    pub origins: Tracked<(LaneId, u64, Arc<str>), Seq>,
    pub cursors: Tracked<(LaneId, Arc<str>), Cursor>,
    pub positions: Tracked<Arc<str>, Bytes>,
    pub dead: Tracked<(), DeadBounds>,
}

impl Working {
    pub(super) fn new(facts: &Facts) -> Working {
        Working {
            names: Tracked::new(facts.names.clone()),
            lanes: Tracked::new(facts.lanes.clone()),
            received: Tracked::new(facts.received.clone()),
            origins: Tracked::new(facts.origins.clone()),
            cursors: Tracked::new(facts.cursors.clone()),
            positions: Tracked::new(facts.positions.clone()),
            dead: Tracked::new(facts.dead.clone()),
        }
    }

    /// The lane of `stream`, created where there is none.
    pub(super) fn lane_id(&mut self, stream: &Arc<str>) -> LaneId {
        if let Some(&lane) = self.names.get(stream) {
            return lane;
        }
        // Lanes are never removed, so their count is the next free id.
        let lane = self.names.all.len() as LaneId;
        self.names.insert(Arc::clone(stream), lane);
        self.lanes.insert(lane, Lane::default());
        lane
    }

    /// Adds what changed to the commit that makes it durable.
    pub(super) fn write(&self, batch: &mut Batch) {
        for (stream, lane) in self.names.changes() {
            batch.put(keys::lane_name(stream), Bytes::copy_from_slice(&lane.to_le_bytes()));
        }
        for (&lane, facts) in self.lanes.changes() {
            batch.put(keys::lane(lane), facts.encode());
        }
        for ((lane, agent), count) in self.received.changes() {
            batch.put(keys::received(*lane, agent), Bytes::copy_from_slice(&count.to_le_bytes()));
        }
        for ((lane, epoch, agent), seq) in self.origins.changes() {
            batch.put(keys::origin(*lane, *epoch, agent), Bytes::copy_from_slice(&seq.to_le_bytes()));
        }
        for ((lane, sink), cursor) in self.cursors.changes() {
            batch.put(keys::cursor(*lane, sink), values::encode_cursor(cursor));
        }
        for (source, position) in self.positions.changes() {
            batch.put(keys::position(source), position.clone());
        }
        for ((), bounds) in self.dead.changes() {
            batch.put(keys::meta("dead"), bounds.encode());
        }
    }

    /// Shows everyone what changed; call after the flush.
    pub(super) fn publish(&mut self, to: &mut Facts) {
        self.names.publish(&mut to.names);
        self.lanes.publish(&mut to.lanes);
        self.received.publish(&mut to.received);
        self.origins.publish(&mut to.origins);
        self.cursors.publish(&mut to.cursors);
        self.positions.publish(&mut to.positions);
        self.dead.publish(&mut to.dead);
    }
}

impl Facts {
    pub(super) fn lane(&self, stream: &str) -> Option<(LaneId, Lane)> {
        let lane = *self.names.get(stream)?;
        Some((lane, self.lanes.get(&lane).copied().unwrap_or_default()))
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.lanes.values().map(|lane| lane.live_bytes).sum()
    }

    pub(super) fn counts(&self, stream: &str) -> LaneCounts {
        let Some((id, lane)) = self.lane(stream) else { return LaneCounts::default() };
        let agents = self.received.range((id, Arc::from(""))..).take_while(|((lane, _), _)| *lane == id);
        LaneCounts {
            received: agents.map(|((_, agent), count)| (Arc::clone(agent), *count)).collect(),
            refused: lane.refused,
            decided: lane.decided,
            next_undecided: lane.next_undecided,
            next: lane.next,
            undecided_records: lane.undecided_records,
            quarantined: lane.quarantined,
        }
    }

    /// Reads the facts back. Costs their own size: no block is read.
    pub(super) fn load(store: &dyn Store) -> io::Result<Facts> {
        let mut facts = Facts::default();
        for prefix in [keys::LANE_NAME, keys::LANE, keys::RECEIVED, keys::ORIGIN, keys::CURSOR, keys::POSITION] {
            let mut unreadable = None;
            store.range(
                &[prefix],
                &keys::end_of(prefix),
                &mut |key, value| match facts.take(prefix, &key[1..], &value) {
                    Some(()) => ControlFlow::Continue(()),
                    None => {
                        unreadable = Some(key.to_vec());
                        ControlFlow::Break(())
                    }
                },
            )?;
            if let Some(key) = unreadable {
                let reason = format!("the value of key {:?} cannot be read", String::from_utf8_lossy(&key));
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        }
        if let Some(value) = store.get(&keys::meta("dead"))? {
            let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the bounds of dead letters cannot be read");
            facts.dead.insert((), DeadBounds::decode(&value).ok_or_else(unreadable)?);
        }
        Ok(facts)
    }

    /// Takes in one stored fact; `None` where it cannot be read.
    fn take(&mut self, prefix: u8, key: &[u8], value: &Bytes) -> Option<()> {
        let mut key = KeyReader(key);
        let count = || Some(u64::from_le_bytes(value[..].try_into().ok()?));
        match prefix {
            keys::LANE_NAME => {
                self.names.insert(key.name()?.into(), u32::from_le_bytes(value[..].try_into().ok()?));
            }
            keys::LANE => {
                self.lanes.insert(key.u32()?, Lane::decode(value)?);
            }
            keys::RECEIVED => {
                self.received.insert((key.u32()?, key.name()?.into()), count()?);
            }
            keys::ORIGIN => {
                self.origins.insert((key.u32()?, key.u64()?, key.name()?.into()), count()?);
            }
            keys::CURSOR => {
                self.cursors.insert((key.u32()?, key.name()?.into()), values::decode_cursor(value)?);
            }
            keys::POSITION => {
                // Stays in memory, and `value` may share a whole page of the store.
                self.positions.insert(key.name()?.into(), Bytes::copy_from_slice(value));
            }
            _ => return None,
        }
        Some(())
    }
}
