//! Who may append: one connection per agent, one stream per lane, the newest of each.
//!
//! An edge that lost its connection connects again long before central notices that the old one is dead, and central
//! may still hold appends of the old one. So a newer lane stream cancels the older one's turn and then waits for it to
//! be given back, which happens only after its appends ended (rule 1 of [`crate::link`]). A connection carries the
//! generation of its hello: an older one that comes late never takes a turn from a newer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// An edge's journal: agent and the epoch of its data directory.
pub(super) type Edge = (Arc<str>, u64);
type Lane = (Edge, Arc<str>);

#[derive(Default)]
pub(super) struct Turns {
    lanes: Arc<Mutex<HashMap<Lane, Arc<Slot>>>>,
    connections: Mutex<HashMap<Edge, (u64, quinn::Connection)>>,
}

/// Entries live as long as somebody holds or waits for the turn.
#[derive(Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    holder: Mutex<(u64, CancellationToken)>,
}

/// The right to append to a lane; given back when dropped.
pub(super) struct Turn {
    lane: Lane,
    lanes: Arc<Mutex<HashMap<Lane, Arc<Slot>>>>,
    slot: Option<Arc<Slot>>,
    guard: Option<OwnedMutexGuard<()>>,
    /// Cancelled when a newer stream wants the turn.
    pub(super) superseded: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every section below leaves its map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// Enters a connection as its edge's newest; returns the older one, which the caller closes.
    pub(super) fn enter(
        &self,
        edge: Edge,
        generation: u64,
        connection: quinn::Connection,
    ) -> Option<quinn::Connection> {
        let mut connections = lock(&self.connections);
        if connections.get(&edge).is_some_and(|(newest, _)| *newest > generation) {
            return Some(connection);
        }
        let older = connections.insert(edge, (generation, connection)).map(|(_, older)| older);
        telemetry::LINK_EDGES.set(connections.len() as f64, &[]);
        older
    }

    pub(super) fn leave(&self, edge: &Edge, generation: u64) {
        let mut connections = lock(&self.connections);
        if connections.get(edge).is_some_and(|(newest, _)| *newest == generation) {
            connections.remove(edge);
            telemetry::LINK_EDGES.set(connections.len() as f64, &[]);
        }
    }

    /// Ends the older holder of the lane's turn and waits for it to be given back. `None` where a newer stream came
    /// first or meanwhile.
    pub(super) async fn take(&self, edge: Edge, stream: Arc<str>, generation: u64) -> Option<Turn> {
        let lane = (edge, stream);
        let slot = Arc::clone(lock(&self.lanes).entry(lane.clone()).or_default());
        let superseded = CancellationToken::new();
        let mut turn = Turn {
            lane,
            lanes: Arc::clone(&self.lanes),
            slot: Some(Arc::clone(&slot)),
            guard: None,
            superseded: superseded.clone(),
        };
        {
            let mut holder = lock(&slot.holder);
            if holder.0 > generation {
                return None;
            }
            holder.1.cancel();
            *holder = (generation, superseded.clone());
        }
        let waiting = Arc::clone(&slot.turn).lock_owned();
        drop(slot);
        turn.guard = Some(waiting.await);
        (!superseded.is_cancelled()).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut lanes = lock(&self.lanes);
        // Slots are cloned out of the map only under its lock, so a count of one means that nobody else is there.
        self.slot = None;
        if lanes.get(&self.lane).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            lanes.remove(&self.lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn edge() -> Edge {
        ("edge-1".into(), 7)
    }

    #[tokio::test]
    async fn a_newer_stream_waits_for_the_older_to_end() {
        let turns = Turns::default();
        let older = turns.take(edge(), "s".into(), 1).await.unwrap();
        let mut newer = Box::pin(turns.take(edge(), "s".into(), 2));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut newer).await.is_err(), "the older still appends");
        assert!(older.superseded.is_cancelled());
        drop(older);
        let newer = newer.await.unwrap();
        assert!(!newer.superseded.is_cancelled());
        assert!(turns.take(edge(), "s".into(), 1).await.is_none(), "an older connection comes too late");
        assert!(turns.take(edge(), "other".into(), 1).await.is_some(), "lanes are independent");
        drop(newer);
        assert!(lock(&turns.lanes).is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn of_three_only_the_newest_gets_the_turn() {
        let turns = Turns::default();
        let first = turns.take(edge(), "s".into(), 1).await.unwrap();
        let (second, third, ()) = tokio::join!(
            turns.take(edge(), "s".into(), 2),
            turns.take(edge(), "s".into(), 3),
            async move { drop(first) }
        );
        assert!(second.is_none());
        assert!(third.is_some());
    }
}
