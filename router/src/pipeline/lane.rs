//! One stream on this node: its decider, and what its feeds share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::recent::Recent;
use crate::deliver::retry::Backoff;
use crate::journal::{self, Block, Decision, Journal};
use crate::process::{self, Decided, Processor, Recipe, Verdicts, Work, dedup::SeenSet};
use crate::record::{Rows, Seq};
use crate::schema::{Schema, registry::Registry};
use crate::tasks::{self, Stop};
use crate::telemetry;

/// Stored bytes of blocks that are decided in one commit.
const DECIDE_MAX_BYTES: usize = 1 << 20;
/// Rows kept in memory for sinks that keep up.
const RECENT_MAX_BYTES: usize = 16 << 20;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What the sinks of a lane want of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows: plugins and dedup run here.
    Processed,
    /// Blocks as they lie in the journal: an edge.
    Raw,
}

/// Why processing stands still. It is tried again; the blocks wait.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error("process block {seq}")]
    Process {
        seq: Seq,
        #[source]
        source: process::Error,
    },
    #[error("process block {seq}: schema {fingerprint} is not known here")]
    Schema { seq: Seq, fingerprint: crate::record::Fingerprint },
    #[error("process stream {stream}")]
    Journal {
        stream: Arc<str>,
        #[source]
        source: journal::Error,
    },
}

/// One stream on this node.
pub struct Lane {
    pub(super) stream: Arc<str>,
    pub(super) journal: Journal,
    pub(super) recipe: Option<Recipe>,
    pub(super) recent: Mutex<Recent>,
    registry: Registry,
    kind: Kind,
    sinks: Vec<Arc<str>>,
    /// First seq whose decision is not durable yet.
    decided: watch::Sender<Seq>,
    /// Kept rows of each decided block that some sink has yet to pass.
    kept: Mutex<BTreeMap<Seq, u32>>,
    /// Rows kept and gone before a sink was added, which it is not owed.
    skipped: BTreeMap<Arc<str>, u64>,
}

impl Lane {
    /// Opens the lane of a stream. `recipe` is absent where only raw blocks are wanted.
    pub async fn open(
        stream: &Arc<str>,
        journal: &Journal,
        registry: &Registry,
        recipe: Option<Recipe>,
        sinks: &[Arc<str>],
    ) -> Result<Arc<Lane>, journal::Error> {
        journal.set_sinks(stream, sinks)?;
        let next = journal.counts(stream)?.next_undecided.max(1);
        let mut lane = Lane {
            stream: Arc::clone(stream),
            journal: journal.clone(),
            kind: if recipe.is_some() { Kind::Processed } else { Kind::Raw },
            recipe,
            recent: Mutex::new(Recent::new(RECENT_MAX_BYTES)),
            registry: registry.clone(),
            sinks: sinks.to_vec(),
            decided: watch::channel(next).0,
            kept: Mutex::default(),
            skipped: BTreeMap::new(),
        };
        let mut oldest = next;
        for sink in sinks {
            oldest = oldest.min(journal.cursor(sink, stream)?.next);
        }
        for seq in oldest..next {
            if let Some(verdicts) = journal.verdicts(stream, seq)?.and_then(Verdicts::decode) {
                locked(&lane.kept).insert(seq, verdicts.kept_count());
            }
        }
        for sink in sinks {
            let skipped = lane.skipped_before(sink).await?;
            lane.skipped.insert(Arc::clone(sink), skipped);
        }
        Ok(Arc::new(lane))
    }

    /// What a sink is not owed, measured and kept when the lane first meets it.
    async fn skipped_before(&self, sink: &str) -> Result<u64, journal::Error> {
        let id: Arc<str> = format!("ledger/{}/{sink}", self.stream).into();
        if let Some(stored) = self.journal.position(&id)?.and_then(|stored| stored.as_ref().try_into().ok()) {
            return Ok(u64::from_le_bytes(stored));
        }
        let cursor = self.journal.cursor(sink, &self.stream)?;
        let counts = self.journal.counts(&self.stream)?;
        let total = match self.kind {
            Kind::Processed => counts.decided.kept - self.kept_from(cursor.next),
            Kind::Raw => 0,
        };
        let skipped = total.saturating_sub(cursor.delivered + cursor.dead);
        let stored = Bytes::copy_from_slice(&skipped.to_le_bytes());
        self.journal.append(journal::Append { positions: vec![(id, stored)], ..Default::default() }).await?;
        Ok(skipped)
    }

    pub fn stream(&self) -> &Arc<str> {
        &self.stream
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn sinks(&self) -> &[Arc<str>] {
        &self.sinks
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Rows kept before a sink was added to the lane.
    pub fn skipped(&self, sink: &str) -> u64 {
        self.skipped.get(sink).copied().unwrap_or(0)
    }

    /// Rows that are kept in blocks from `next` on, as counted block by block: the ledger's own view of what a sink
    /// has yet to deliver, independent of what it says it delivered.
    pub fn kept_from(&self, next: Seq) -> u64 {
        locked(&self.kept).range(next..).map(|(_, &count)| u64::from(count)).sum()
    }

    pub(super) fn decided(&self) -> watch::Receiver<Seq> {
        self.decided.subscribe()
    }

    pub(super) fn schema(&self, seq: Seq, block: &Block) -> Result<Arc<Schema>, Halt> {
        let fingerprint = block.fingerprint;
        self.registry.by_fingerprint(fingerprint).ok_or(Halt::Schema { seq, fingerprint })
    }

    /// A sink has passed: forget what no sink needs any more.
    pub(super) fn passed(&self) -> Result<(), journal::Error> {
        let mut oldest = Seq::MAX;
        for sink in &self.sinks {
            oldest = oldest.min(self.journal.cursor(sink, &self.stream)?.next);
        }
        let mut kept = locked(&self.kept);
        *kept = kept.split_off(&oldest);
        drop(kept);
        locked(&self.recent).passed(oldest);
        Ok(())
    }

    /// Decides blocks in order until `stop`. What cannot be processed is tried again, and everything behind it waits.
    pub(super) async fn decide(self: Arc<Self>, mut worker: Worker, stop: Stop) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, 1);
        let mut end = self.journal.end(&self.stream);
        let mut next = *self.decided.borrow();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = end.wait_for(|end| *end > next) => if changed.is_err() { return },
            }
            let (lane, from) = (Arc::clone(&self), next);
            let (returned, decided) = tasks::blocking(move || {
                let decided = lane.decide_blocks(&mut worker, from);
                (worker, decided)
            })
            .await;
            worker = returned;
            let halted = match decided {
                Ok(batch) => {
                    let until = batch.next;
                    match self.commit(batch).await {
                        Ok(()) => {
                            next = until;
                            self.expire(&mut worker).await;
                            None
                        }
                        Err(source) => {
                            // What the journal did not take was not decided: the next attempt must not find its keys.
                            worker.seen_is_ahead = true;
                            Some(Halt::Journal { stream: Arc::clone(&self.stream), source })
                        }
                    }
                }
                Err(halt) => Some(halt),
            };
            let Some(halt) = halted else {
                if backoff.attempt() > 0 {
                    info!(stream = %self.stream, seq = next, "processing goes on");
                    backoff.reset();
                }
                continue;
            };
            if backoff.attempt() == 0 {
                error!(stream = %self.stream, error = %telemetry::chain(&halt), "processing stands still, sources will wait");
            }
            if matches!(halt, Halt::Journal { source: journal::Error::Poisoned { .. }, .. }) {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Makes what the decider works with; reads the seen-set, which blocks. `None` for a raw lane.
    pub(super) fn worker(&self) -> Result<Option<Worker>, journal::Error> {
        let Some(recipe) = self.recipe.clone() else { return Ok(None) };
        let mut worker = Worker { seen: None, seen_is_ahead: true, processor: Processor::new(recipe) };
        self.load_seen(&mut worker)?;
        Ok(Some(worker))
    }

    fn load_seen(&self, worker: &mut Worker) -> Result<(), journal::Error> {
        let mut seen = self.recipe.as_ref().and_then(Recipe::seen_set);
        if let Some(seen) = &mut seen {
            self.journal.seen_keys(&self.stream, &mut |keys| seen.load(&keys))?;
            info!(stream = %self.stream, keys = seen.len(), "seen-set loaded");
        }
        worker.seen = seen;
        worker.seen_is_ahead = false;
        Ok(())
    }

    /// Processes what is ready, up to a commit's worth. Where a block fails, those before it count.
    fn decide_blocks(&self, worker: &mut Worker, from: Seq) -> Result<DecidedBatch, Halt> {
        let journal_failed = |source| Halt::Journal { stream: Arc::clone(&self.stream), source };
        if worker.seen_is_ahead {
            self.load_seen(worker).map_err(journal_failed)?;
        }
        let blocks = self.journal.read(&self.stream, from, DECIDE_MAX_BYTES).map_err(journal_failed)?;
        let mut batch = DecidedBatch { blocks: Vec::with_capacity(blocks.len()), next: from };
        if blocks.is_empty() {
            // Everything up to the end was quarantined: go on behind it.
            batch.next = *self.journal.end(&self.stream).borrow();
        }
        for (seq, block) in blocks {
            let decided = self.schema(seq, &block).and_then(|schema| {
                let work = Work { seq, block: &block, schema: &schema };
                worker.processor.decide(work, worker.seen.as_mut()).map_err(|source| Halt::Process { seq, source })
            });
            match decided {
                Ok(decided) => {
                    batch.blocks.push((seq, decided));
                    batch.next = seq + 1;
                }
                Err(_) if !batch.blocks.is_empty() => break,
                Err(halt) => return Err(halt),
            }
        }
        Ok(batch)
    }

    async fn commit(&self, batch: DecidedBatch) -> Result<(), journal::Error> {
        let mut rows: Vec<(Rows, u32)> = Vec::with_capacity(batch.blocks.len());
        let mut decisions = Vec::with_capacity(batch.blocks.len());
        for (seq, decided) in batch.blocks {
            count(&self.stream, &decided);
            rows.push((decided.rows, decided.verdicts.kept_count()));
            decisions.push(Decision {
                stream: Arc::clone(&self.stream),
                seq,
                verdicts: decided.verdicts.bytes().clone(),
                seen: decided.seen,
                dead: decided.dead,
                counts: decided.counts,
            });
        }
        self.journal.decide(decisions).await?;
        for (rows, kept) in rows {
            locked(&self.kept).insert(rows.seq, kept);
            locked(&self.recent).push(rows);
        }
        self.decided.send_replace(batch.next);
        Ok(())
    }

    async fn expire(&self, worker: &mut Worker) {
        let Some(seen) = &mut worker.seen else { return };
        let before = seen.expire();
        telemetry::DEDUP_KEYS.set(seen.len() as f64, &[("stream", &self.stream)]);
        let evicted = seen.take_evicted();
        if evicted > 0 {
            telemetry::DEDUP_EVICTED.add(evicted, &[("stream", &self.stream)]);
            warn!(stream = %self.stream, keys = evicted, "seen-set is over its limit, oldest keys dropped before their window passed");
        }
        if let Some(before) = before
            && let Err(reason) = self.journal.expire_seen(&self.stream, before).await
        {
            // Keys that stay longer on disk cost space only; the next expiry tries again.
            warn!(stream = %self.stream, error = %telemetry::chain(&reason), "expired dedup keys stay in the journal");
        }
    }
}

/// What the decider carries from block to block.
pub(super) struct Worker {
    processor: Processor,
    seen: Option<SeenSet>,
    /// It holds keys of a commit that failed: read it again before the next block.
    seen_is_ahead: bool,
}

struct DecidedBatch {
    blocks: Vec<(Seq, Decided)>,
    /// First seq behind the batch.
    next: Seq,
}

fn count(stream: &str, decided: &Decided) {
    let counts = decided.counts;
    for (verdict, count) in
        [("kept", counts.kept), ("filtered", counts.filtered), ("duplicate", counts.duplicate), ("dead", counts.dead)]
    {
        if count > 0 {
            telemetry::PROCESS_RECORDS.add(count, &[("stream", stream), ("verdict", verdict)]);
        }
    }
}

/// Locks what only ever holds plain values: a panic elsewhere leaves nothing half-made in it.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
