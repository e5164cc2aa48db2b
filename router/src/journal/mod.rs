//! STAGE 2: the journal, where everything that must survive lives.
mod block;
pub use block::{Block, BlockError, NAME_MAX_LEN, RAW_MAX_LEN};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::record::{DeadLetter, Fingerprint, Seq};

/// Which store keeps the journal's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Engine {
    #[default]
    Sled,
    Redb,
}

/// Checked settings of the journal.
#[derive(Clone, Debug)]
pub struct Settings {
    pub directory: PathBuf,
    /// Agent id of this node: the origin of blocks journaled here first.
    pub agent: Arc<str>,
    pub engine: Engine,
    /// Hard bound on disk.
    pub max_bytes: u64,
    /// Longest wait of a commit for others to share its fsync.
    pub group_max_delay: Duration,
    /// A group this large is committed at once.
    pub group_max_bytes: usize,
    pub cache_bytes: u64,
    /// Dead letters kept at most; the oldest go first, counted.
    pub dead_letter_max_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open journal {directory}: it is in use by another process")]
    InUse { directory: PathBuf },
    #[error("open journal {directory}: format version {found}, this build reads {supported}")]
    Format { directory: PathBuf, found: u32, supported: u32 },
    #[error("{operation} journal {directory}")]
    Store {
        operation: &'static str,
        directory: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// An earlier commit or fsync failed: nothing is acknowledged any more until the node restarts.
    #[error("commit to journal: it stopped after an earlier failure: {reason}")]
    Poisoned { reason: String },
    #[error("read journal: lane {stream}, seq {seq}")]
    Block {
        stream: Arc<str>,
        seq: Seq,
        #[source]
        source: BlockError,
    },
}

/// New blocks with all that must become durable together with them.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// Each goes to the lane of its stream. A block whose origin seq is 0 gets this journal's origin; any other was
    /// forwarded, and is dropped here if its (agent, epoch, stream) already got that far.
    pub blocks: Vec<Block>,
    /// Source id -> how far that source has been read.
    pub positions: Vec<(Arc<str>, Bytes)>,
    /// Inputs that did not parse.
    pub refused: Vec<DeadLetter>,
}

/// What processing found about one block, decided once.
#[derive(Clone, Debug)]
pub struct Decision {
    pub stream: Arc<str>,
    pub seq: Seq,
    /// One `Verdict` byte per row; empty = every row kept.
    pub verdicts: Bytes,
    /// Keys this block added to the seen-set.
    pub seen: Vec<SeenKeys>,
    pub dead: Vec<DeadLetter>,
    pub counts: DecisionCounts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecisionCounts {
    pub kept: u64,
    pub filtered: u64,
    pub duplicate: u64,
    pub dead: u64,
    /// Rows beyond one per record, made by plugins that split.
    pub split: u64,
}

/// Dedup keys of one block that share an expiry bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenKeys {
    /// Start of the bucket, unix seconds; all its keys have expired when the window has passed behind its end.
    pub bucket_start_seconds: u64,
    /// Packed entries: 16 bytes key, 4 bytes seconds since `bucket_start_seconds`.
    pub entries: Bytes,
}

/// A sink's progress in one lane.
#[derive(Clone, Debug)]
pub struct Advance {
    pub sink: Arc<str>,
    pub stream: Arc<str>,
    /// First seq not yet delivered. May repeat the current one, to journal `state` alone (in-doubt requests).
    pub next: Seq,
    /// The sink's own: write stream and offset, files in doubt.
    pub state: Bytes,
    /// Records delivered since the last advance.
    pub delivered: u64,
    pub dead: Vec<DeadLetter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// First seq not yet delivered.
    pub next: Seq,
    pub state: Bytes,
    pub delivered: u64,
    pub dead: u64,
}

/// Counts of one stream, for the ledger (G5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Records appended, by origin agent.
    pub received: BTreeMap<Arc<str>, u64>,
    /// Inputs refused by this node's own sources.
    pub refused: u64,
    pub decided: DecisionCounts,
    /// First seq not yet decided.
    pub next_undecided: Seq,
    /// First seq not yet used.
    pub next: Seq,
    /// Records in blocks from `next_undecided` on.
    pub undecided_records: u64,
}

// ---- in-memory stand-in until the store lands ----
#[derive(Default)]
struct State {
    blocks: BTreeMap<(Arc<str>, Seq), Block>,
    verdicts: BTreeMap<(Arc<str>, Seq), Bytes>,
    seen: Vec<(Arc<str>, SeenKeys)>,
    positions: BTreeMap<Arc<str>, Bytes>,
    cursors: BTreeMap<(Arc<str>, Arc<str>), Cursor>,
    origins: BTreeMap<(Arc<str>, u64, Arc<str>), Seq>,
    dead: Vec<DeadLetter>,
    counts: BTreeMap<Arc<str>, LaneCounts>,
    schemas: BTreeMap<Fingerprint, (Arc<str>, Bytes)>,
    ends: BTreeMap<Arc<str>, watch::Sender<Seq>>,
}

/// Handle on an open journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    agent: Arc<str>,
    state: Arc<Mutex<State>>,
}

impl Journal {
    /// Opens or creates the journal. Everything acknowledged before is there on return.
    pub fn open(settings: Settings, _clock: Clock) -> Result<Journal, Error> {
        Ok(Journal { agent: settings.agent, state: Arc::default() })
    }

    /// This node's agent id.
    pub fn agent(&self) -> &Arc<str> {
        &self.agent
    }

    /// Drawn when the data directory was created.
    pub fn epoch(&self) -> u64 {
        1
    }

    /// Makes `append` durable; returns after the fsync with the seqs the blocks got (0 for a resent block that was
    /// dropped). Waits while the journal is full: that is how sources slow down.
    pub async fn append(&self, append: Append) -> Result<Vec<Seq>, Error> {
        let mut state = self.state.lock().expect("not poisoned");
        let mut seqs = Vec::new();
        for mut block in append.blocks {
            let counts = state.counts.entry(block.stream.clone()).or_default();
            let seq = counts.next.max(1);
            if block.origin.seq == 0 {
                block.origin = crate::record::Origin { agent: self.agent.clone(), epoch: 1, seq };
            } else {
                let key = (block.origin.agent.clone(), block.origin.epoch, block.stream.clone());
                let last = state.origins.entry(key).or_default();
                if block.origin.seq <= *last {
                    seqs.push(0);
                    continue;
                }
                *last = block.origin.seq;
            }
            let counts = state.counts.entry(block.stream.clone()).or_default();
            counts.next = seq + 1;
            counts.next_undecided = counts.next_undecided.max(1);
            counts.undecided_records += u64::from(block.record_count);
            *counts.received.entry(block.origin.agent.clone()).or_default() += u64::from(block.record_count);
            let stream = block.stream.clone();
            state.blocks.insert((stream.clone(), seq), block);
            state.ends.entry(stream).or_insert_with(|| watch::channel(0).0).send_replace(seq + 1);
            seqs.push(seq);
        }
        state.positions.extend(append.positions);
        for dead in append.refused {
            state.counts.entry(dead.stream.clone()).or_default().refused += 1;
            state.dead.push(dead);
        }
        Ok(seqs)
    }

    /// Makes decisions durable: verdicts, seen-set keys, dead letters and counts in one commit.
    /// Decisions of one stream come in order of seq, each exactly once.
    pub async fn decide(&self, decisions: Vec<Decision>) -> Result<(), Error> {
        let mut state = self.state.lock().expect("not poisoned");
        for decision in decisions {
            let records = state.blocks.get(&(decision.stream.clone(), decision.seq)).map_or(0, |b| b.record_count);
            let counts = state.counts.entry(decision.stream.clone()).or_default();
            counts.next_undecided = decision.seq + 1;
            counts.undecided_records -= u64::from(records);
            counts.decided.kept += decision.counts.kept;
            counts.decided.filtered += decision.counts.filtered;
            counts.decided.duplicate += decision.counts.duplicate;
            counts.decided.dead += decision.counts.dead;
            counts.decided.split += decision.counts.split;
            state.seen.extend(decision.seen.into_iter().map(|keys| (decision.stream.clone(), keys)));
            state.dead.extend(decision.dead);
            state.verdicts.insert((decision.stream, decision.seq), decision.verdicts);
        }
        Ok(())
    }

    /// Makes a sink's progress durable: cursor, state, dead letters and counts in one commit. Blocks that every
    /// sink of their lane has passed are trimmed afterwards.
    pub async fn advance(&self, advance: Advance) -> Result<(), Error> {
        let mut state = self.state.lock().expect("not poisoned");
        let cursor = state.cursors.entry((advance.sink, advance.stream)).or_default();
        cursor.next = advance.next;
        cursor.state = advance.state;
        cursor.delivered += advance.delivered;
        cursor.dead += advance.dead.len() as u64;
        state.dead.extend(advance.dead);
        Ok(())
    }

    /// Streams that have a lane.
    pub fn streams(&self) -> Vec<Arc<str>> {
        self.state.lock().expect("not poisoned").counts.keys().cloned().collect()
    }

    /// Names the sinks of a lane: only those hold blocks back. Cursors of sinks no longer named are kept, but hold
    /// nothing. A new sink starts at the oldest block.
    pub fn set_sinks(&self, _stream: &str, _sinks: &[Arc<str>]) -> Result<(), Error> {
        Ok(())
    }

    /// Changes whenever the lane grows; the value is the first seq not yet used. Creates the lane.
    pub fn end(&self, stream: &str) -> watch::Receiver<Seq> {
        let mut state = self.state.lock().expect("not poisoned");
        state.ends.entry(stream.into()).or_insert_with(|| watch::channel(1).0).subscribe()
    }

    /// Blocks from `from` on, in order, at least one if there is one, then up to about `max_bytes` stored bytes.
    /// Blocks that fail their checksum are quarantined, counted and passed over.
    pub fn read(&self, stream: &str, from: Seq, max_bytes: usize) -> Result<Vec<(Seq, Block)>, Error> {
        let state = self.state.lock().expect("not poisoned");
        let mut len = 0;
        let stream: Arc<str> = stream.into();
        Ok(state
            .blocks
            .range((stream.clone(), from)..(stream, Seq::MAX))
            .take_while(|(_, block)| {
                let first = len == 0;
                len += block.stored_len();
                first || len <= max_bytes
            })
            .map(|((_, seq), block)| (*seq, block.clone()))
            .collect())
    }

    /// Verdicts of a decided block; `None` before its decision.
    pub fn verdicts(&self, stream: &str, seq: Seq) -> Result<Option<Bytes>, Error> {
        Ok(self.state.lock().expect("not poisoned").verdicts.get(&(stream.into(), seq)).cloned())
    }

    /// The stream's whole seen-set, in no order; called once at start.
    pub fn seen_keys(&self, stream: &str, visit: &mut dyn FnMut(SeenKeys)) -> Result<(), Error> {
        let state = self.state.lock().expect("not poisoned");
        state.seen.iter().filter(|(s, _)| &**s == stream).for_each(|(_, keys)| visit(keys.clone()));
        Ok(())
    }

    /// Drops seen-set buckets that start before `bucket_start_seconds`.
    pub async fn expire_seen(&self, _stream: &str, _bucket_start_seconds: u64) -> Result<(), Error> {
        Ok(())
    }

    /// A sink's cursor in a lane; a new one starts at the lane's oldest block.
    pub fn cursor(&self, sink: &str, stream: &str) -> Result<Cursor, Error> {
        let state = self.state.lock().expect("not poisoned");
        let cursor = state.cursors.get(&(sink.into(), stream.into())).cloned();
        Ok(cursor.unwrap_or(Cursor { next: 1, ..Cursor::default() }))
    }

    /// Position of a source, as it was last committed.
    pub fn position(&self, source: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.state.lock().expect("not poisoned").positions.get(source).cloned())
    }

    /// Positions of all sources whose id starts with `prefix`.
    pub fn positions(&self, prefix: &str) -> Result<Vec<(Arc<str>, Bytes)>, Error> {
        let state = self.state.lock().expect("not poisoned");
        Ok(state
            .positions
            .iter()
            .filter(|(id, _)| id.starts_with(prefix))
            .map(|(i, p)| (i.clone(), p.clone()))
            .collect())
    }

    /// Last seq that arrived from an agent's lane; 0 if none.
    pub fn forwarded(&self, agent: &str, epoch: u64, stream: &str) -> Result<Seq, Error> {
        let state = self.state.lock().expect("not poisoned");
        Ok(state.origins.get(&(agent.into(), epoch, stream.into())).copied().unwrap_or(0))
    }

    /// Keeps a schema for blocks that carry its fingerprint. Durable on return.
    pub async fn put_schema(&self, fingerprint: Fingerprint, message: &str, descriptors: Bytes) -> Result<(), Error> {
        self.state.lock().expect("not poisoned").schemas.insert(fingerprint, (message.into(), descriptors));
        Ok(())
    }

    /// All kept schemas: fingerprint, message name, serialized FileDescriptorSet.
    pub fn schemas(&self) -> Result<Vec<(Fingerprint, Arc<str>, Bytes)>, Error> {
        let state = self.state.lock().expect("not poisoned");
        Ok(state.schemas.iter().map(|(f, (m, d))| (*f, m.clone(), d.clone())).collect())
    }

    pub fn counts(&self, stream: &str) -> Result<LaneCounts, Error> {
        Ok(self.state.lock().expect("not poisoned").counts.get(stream).cloned().unwrap_or_default())
    }

    /// Dead letters, oldest first, at most `limit`, of one stream or all.
    pub fn dead_letters(&self, stream: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let state = self.state.lock().expect("not poisoned");
        let of = |dead: &&DeadLetter| stream.is_none_or(|s| s == &*dead.stream);
        Ok(state.dead.iter().filter(of).take(limit).cloned().collect())
    }

    /// Whether sources wait for space.
    pub fn is_full(&self) -> bool {
        false
    }

    /// Why the journal stopped, if it did.
    pub fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        watch::channel(None).1
    }

    /// Flushes and closes; later calls fail.
    pub async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
