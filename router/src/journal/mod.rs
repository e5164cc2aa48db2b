//! STAGE 2: the journal, where everything that must survive lives.
//!
//! Sources append blocks, processing decides about them, sinks advance their cursors; what every sink of a lane has
//! passed is trimmed. All of it goes through one thread (`commit.rs`) that gathers what waits (`queue.rs`), makes it one
//! atomic batch with one fsync, and answers only then.
//!
//! ```text
//! append, decide, advance … ──► Space (appends wait while full) ──► Queue ──► Committer ──► Store (sled or redb)
//!                                                                                 │ after the flush
//! read, verdicts, cursor … ◄── Facts, and the store up to what the facts say ◄────┘
//! ```
//!
//! What always holds:
//! - What was acknowledged is on stable storage; nothing is shown, read or delivered before it is.
//! - A commit is there as a whole or not at all: blocks with the positions they came from, a cursor with its sink's state,
//!   verdicts with the seen-set's keys, and every count with what it counts.
//! - Seqs of a lane start at 1 and are used once. A trimmed block never comes back.
//! - After a failed write or fsync nothing is acknowledged any more; [`Journal::failure`] says why. Reopening finds
//!   everything that was acknowledged.
//! - One process at a time.
//!
//! # Format, version 1
//!
//! One ordered tree of an engine (`store/`), in the subdirectory `sled` or `redb`, beside the file `lock`. Numbers in keys are
//! big-endian (lane u32, the others u64); names are the UTF-8 rest of the key. Values other than blocks: `values.rs`.
//!
//! | prefix | key | value | lives until |
//! |---|---|---|---|
//! | `m` | `format` \| `epoch` \| `dead` | format version u32 \| epoch u64 \| bounds of the dead letters | - |
//! | `n` | stream | lane id u32 | - |
//! | `l` | lane | seqs and counts of the lane | - |
//! | `r` | lane, agent | records received from the agent u64 | - |
//! | `o` | lane, epoch, agent | last seq forwarded by the agent u64 | - |
//! | `b` | lane, seq | block (`block.rs`) | every sink's cursor has passed |
//! | `v` | lane, seq | verdict byte per row | with its block |
//! | `d` | lane, bucket start in seconds, seq | the keys this block added to the seen-set, 20 bytes each | the window has passed |
//! | `c` | lane, sink | cursor, counts, sink state | - |
//! | `p` | source id | position, the source's own | - |
//! | `x` | id | dead letter; ids grow with time | dropped as the oldest above the bound |
//! | `f` | fingerprint | message name, FileDescriptorSet | - |
//! | `q` | lane, seq | block that failed its checksum, as it was found | repaired by hand |
//!
//! A directory of another version is refused, so is one that holds another engine's store.
//!
//! # Limits
//!
//! A block is stored in up to [`BLOCK_MAX_LEN`] bytes; larger is refused with [`Error::Large`]. Sources make blocks of 256 KiB
//! raw, and a block that does not compress still fits many times over; where the engine needs it (sled), long values are split.

mod block;
mod change;
mod commit;
mod facts;
mod keys;
mod open;
mod queue;
mod read;
mod space;
mod store;
mod trim;
mod values;
mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use block::{Block, BlockError, NAME_MAX_LEN, RAW_MAX_LEN};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use facts::Facts;
use queue::Queue;
use space::Space;
use store::Store;

use crate::record::{DeadLetter, Seq};
use crate::tasks::Stop;

/// Longest stored form of a block.
pub const BLOCK_MAX_LEN: usize = 16 << 20;
/// Version of the format above.
pub const FORMAT_VERSION: u32 = 1;

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
    /// The directory belongs to the other engine; opening it with this one would look like an empty journal.
    #[error("open journal {directory}: it was written by engine {found:?}, the settings say {set:?}")]
    Engine { directory: PathBuf, found: Engine, set: Engine },
    /// Nothing was changed. Retrying does not help: the caller must make smaller pieces.
    #[error("{operation}: {len} bytes are more than the {max} one commit takes")]
    Large { operation: &'static str, len: u64, max: u64 },
    /// The caller's mistake; nothing was changed.
    #[error("{operation} in journal: lane {stream}, seq {seq} is out of order, allowed is {allowed:?}")]
    Order { operation: &'static str, stream: Arc<str>, seq: Seq, allowed: RangeInclusive<Seq> },
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
    /// Records in blocks that were set aside because they failed their checksum.
    pub quarantined: u64,
}

/// Handle on an open journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    /// Ends the committer with the last handle.
    committer: Arc<open::Running>,
}

/// What handles and committer share.
struct Shared {
    directory: PathBuf,
    agent: Arc<str>,
    epoch: u64,
    dead_letter_max_bytes: u64,
    /// Gone once the journal is closed.
    store: RwLock<Option<Arc<dyn Store>>>,
    facts: Mutex<Facts>,
    queue: Queue,
    space: Arc<Space>,
    /// Sinks by stream, as [`Journal::set_sinks`] named them.
    sinks: Mutex<BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    ends: Mutex<BTreeMap<Arc<str>, watch::Sender<Seq>>>,
    /// Damaged blocks that readers found and had moved aside since the journal was opened: each is reported once.
    quarantined: Mutex<BTreeSet<(Arc<str>, Seq)>>,
    failure: watch::Sender<Option<Arc<str>>>,
    /// Closed or failed: who waits for space need not wait any longer.
    ended: Stop,
}

/// A lock whose holder panicked still guards consistent maps here: each is changed by single inserts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Nothing is acknowledged from here on.
    fn poison(&self, reason: &str) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| Arc::from(reason));
            first
        });
        self.end();
    }

    /// Takes no more changes; those queued are still committed.
    fn end(&self) {
        self.queue.close();
        self.ended.cancel();
    }

    fn poisoned(&self) -> Error {
        let reason = self.failure.borrow().as_deref().unwrap_or("it was closed").to_owned();
        Error::Poisoned { reason }
    }

    fn store_error(&self, operation: &'static str) -> impl Fn(std::io::Error) -> Error {
        let directory = self.directory.clone();
        move |source| Error::Store { operation, directory: directory.clone(), source }
    }

    fn store(&self) -> Result<Arc<dyn Store>, Error> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner).clone();
        store.ok_or_else(|| self.poisoned())
    }

    fn publish_ends(&self, lanes: &[(Arc<str>, Seq)]) {
        let mut ends = lock(&self.ends);
        for (stream, next) in lanes {
            let end = ends.entry(Arc::clone(stream)).or_insert_with(|| watch::channel(*next).0);
            end.send_if_modified(|end| std::mem::replace(end, *next) != *next);
        }
    }
}
