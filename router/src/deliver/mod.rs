//! STAGE 4: sinks. A sink pulls the rows of a lane in order, makes them durable at its destination, and then moves its
//! cursor. It never moves the cursor before, and what it refuses for good goes to dead letters in the commit of the
//! cursor.
//!
//! Always: after a crash at any moment a sink starts again from its cursor and its journaled state, and what it sends
//! then is byte for byte what it sent before, so the destination can tell a repetition.

pub mod bigquery;
pub mod elasticsearch;
pub mod link;
pub mod outage;
pub mod parquet;
pub mod retry;
pub mod stdout;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::journal::Block;
use crate::record::{DeadLetter, Rows, Seq};
use crate::tasks::Stop;

/// A block with its seq in this journal's lane.
pub type SeqBlock = (Seq, Block);

/// A lane as one sink sees it: what comes next, and how to say how far it got. The pipeline implements it over the
/// journal; sink tests implement it in memory.
pub trait Feed: Send {
    fn stream(&self) -> &Arc<str>;
    /// Cursor and sink state as last committed.
    fn cursor(&self) -> Cursor;
    /// The rows of the next decided blocks, in order: at least one block, waiting for it if there is none, then as
    /// many more as are ready, up to about `max_bytes` of messages. Calling again goes on behind them; the cursor
    /// does not move. `None` when the node is stopping. A future dropped before it is ready loses nothing.
    fn next(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, Error>>;
    /// Like `next`, but the blocks as they lie in the journal, undecided ones too (for the link).
    fn next_blocks(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<SeqBlock>>, Error>>;
    /// Whether `next` would answer without waiting.
    fn is_ready(&self) -> bool;
    /// Goes back: the next call of `next` starts at `seq` again.
    fn rewind(&mut self, seq: Seq);
    /// Makes progress durable.
    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), Error>>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// First seq not yet delivered.
    pub next: Seq,
    pub state: Bytes,
}

/// What a sink has achieved since its last commit.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// First seq not yet delivered; the current cursor's to journal `state` alone.
    pub next: Seq,
    pub state: Bytes,
    pub delivered: u64,
    pub dead: Vec<DeadLetter>,
}

/// One sink on one stream. Runs until the feed ends or `stop`; returning an error stops this sink alone, so whatever
/// time or an operator can heal is retried inside instead.
pub trait Sink: Send {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, stop: Stop) -> BoxFuture<'a, Result<(), Error>>;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal failed: the node stops.
    #[error("commit progress of sink {sink} on stream {stream}")]
    Journal {
        sink: Arc<str>,
        stream: Arc<str>,
        #[source]
        source: crate::journal::Error,
    },
    /// Processing cannot go on (a plugin policy says halt): retried by the pipeline, never by a sink.
    #[error("process stream {stream}: {reason}")]
    Process { stream: Arc<str>, reason: String },
    /// The sink cannot go on without a change by its operator.
    #[error("deliver stream {stream} to sink {sink}: {reason}")]
    Stopped { sink: Arc<str>, stream: Arc<str>, reason: String },
}
