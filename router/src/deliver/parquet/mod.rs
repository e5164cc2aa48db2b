//! Parquet files: the embedded default sink, and the archive.
//!
//! Rows of whole blocks are collected in a *cycle*: one open file per day and schema version. A cycle ends when it holds
//! `file_max_bytes` of messages, is `file_max_age` old, has `PARTITIONS_MAX` files open, or the node stops. Its files
//! then appear, all at once or (after a crash) one after the other, and the cursor moves behind its last block:
//!
//! 1. rows are shredded into column buffers and written, row group by row group, to hidden temporary files
//!    (`.SINK-*.tmp`) in the directories where they will stay;
//! 2. the files are finished and fsynced;
//! 3. **commit**: cursor unchanged, state = the list of renames and the seq behind the last block (see `pending`),
//!    together with the dead letters of the cycle;
//! 4. renames, fsync of the directories;
//! 5. **commit**: cursor behind the last block, state empty.
//!
//! A crash before 3 leaves temporary files, which the next start deletes, and the rows are read again. A crash after 3
//! leaves renames to finish, which the next start does before it reads anything. So each row is in exactly one visible
//! file, always.
//!
//! Layout: `DIRECTORY/STREAM/date=YYYY-MM-DD/FIRST-NEXT-ID.parquet`. The date is that of the event (in UTC) where the
//! schema says when that is, else that of the arrival. FIRST and NEXT are the cycle's seqs in the lane; ID is from the
//! file's first record, so that a node whose journal began anew never writes over an older file. Files of several schema
//! versions lie side by side: read them by column name (DuckDB: `union_by_name`).
//!
//! Limits: memory is bounded by `BUFFERS_MAX_BYTES` of column buffers plus what Parquet keeps per open file, whatever
//! the size of a file. A block whose records spread over more days than there may be files puts what is left over into
//! the day of its arrival. Several nodes may share a directory: an unfinished file of a living node is locked.
//!
//! I/O errors (disk full above all) are retried for ever with back-off, from the cursor, with the metric
//! `sluice_deliver_paused` at 1; nothing is dropped and the cursor stands.

mod cycle;
mod part;
mod pending;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::retry::Backoff;
use super::{Error, Feed, Progress, Sink};
use crate::record::Rows;
use crate::tasks::{self, Stop};
use crate::telemetry::{DELIVER_PAUSED, DELIVER_RETRIES};
use cycle::{Cycle, Target};
use pending::Pending;

/// Rows asked of the feed at once: enough to be worth a change of threads.
const READ_MAX_BYTES: usize = 4 << 20;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Files go to `directory/STREAM/date=YYYY-MM-DD/`.
    pub directory: PathBuf,
    /// A file is finished when it holds about this many bytes of messages ...
    pub file_max_bytes: usize,
    /// ... or is this old.
    pub file_max_age: Duration,
}

/// Why a cycle did not end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Time or an operator heals it: tried again.
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// Only another configuration or schema heals it.
    #[error("{0}")]
    Stopped(String),
    #[error(transparent)]
    Deliver(#[from] Error),
}

/// The Parquet sink of one stream.
pub struct ParquetSink {
    name: Arc<str>,
    settings: Settings,
}

/// What a cycle ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    GoOn,
    Stop,
}

impl ParquetSink {
    pub fn new(name: Arc<str>, settings: Settings) -> ParquetSink {
        ParquetSink { name, settings }
    }

    async fn deliver(&self, feed: &mut dyn Feed, stop: &Stop) -> Result<(), Error> {
        let stream = feed.stream().clone();
        let stopped = |reason| Error::Stopped { sink: self.name.clone(), stream: stream.clone(), reason };
        let target = Target::new(&self.name, &stream, &self.settings).map_err(stopped)?;
        let seed = xxhash_rust::xxh3::xxh3_64(stream.as_bytes());
        let mut pause =
            Pause { sink: &self.name, stream: &stream, backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, seed) };
        let mut is_recovered = false;
        loop {
            let outcome =
                if is_recovered { self.cycle(feed, &target, stop).await } else { recover(feed, &target).await };
            match outcome {
                Ok(Ended::GoOn) => {
                    is_recovered = true;
                    pause.end();
                }
                Ok(Ended::Stop) => {
                    pause.end();
                    return Ok(());
                }
                Err(Failure::Deliver(error)) => return Err(error),
                Err(Failure::Stopped(reason)) => return Err(stopped(reason)),
                Err(failure @ (Failure::Io { .. } | Failure::Write { .. })) => {
                    // What was collected is gone with its files; or the renames are journaled and recovery goes on
                    // with them. Either way the cursor says where to begin.
                    is_recovered = false;
                    feed.rewind(feed.cursor().next);
                    if pause.wait(&failure, stop).await == Ended::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Collects rows until the files are to be finished, and finishes them.
    async fn cycle(&self, feed: &mut dyn Feed, target: &Arc<Target>, stop: &Stop) -> Result<Ended, Failure> {
        let mut cycle = Cycle::new(target.clone());
        let mut deadline = None;
        let mut ended = Ended::GoOn;
        while !cycle.is_full() {
            match next_rows(feed, deadline, self.settings.file_max_bytes.min(READ_MAX_BYTES)).await? {
                Next::Rows(rows) => {
                    deadline = deadline.or_else(|| Some(Instant::now() + self.settings.file_max_age));
                    let behind = rows.last().map(|rows| rows.seq + 1);
                    cycle = tasks::blocking(move || cycle.add(rows)).await?;
                    if let Some(through) = cycle.through().filter(|_| cycle.through() != behind) {
                        // It became full before the last block: the next cycle begins with what is left.
                        feed.rewind(through);
                    }
                }
                Next::TooOld => break,
                Next::Ended => {
                    ended = Ended::Stop;
                    break;
                }
            }
            // A stop ends the cycle even if the feed could go on for long.
            if stop.is_cancelled() {
                ended = Ended::Stop;
                break;
            }
        }
        let Some(through) = cycle.through() else { return Ok(ended) };
        let done = tasks::blocking(move || cycle.finish()).await?;
        let cursor = feed.cursor();
        if done.pending.is_empty() {
            let progress = Progress { next: through, state: bytes::Bytes::new(), delivered: 0, dead: done.dead };
            feed.commit(progress).await?;
            return Ok(ended);
        }
        let state = done.pending.encode();
        feed.commit(Progress { next: cursor.next, state, delivered: 0, dead: done.dead }).await?;
        complete(feed, done.pending).await?;
        Ok(ended)
    }
}

impl Sink for ParquetSink {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, stop: Stop) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.deliver(feed, &stop).await })
    }
}

enum Next {
    Rows(Vec<Rows>),
    TooOld,
    Ended,
}

/// The next rows, unless `deadline` comes first. Dropping the wait loses nothing: the feed hands rows out only when
/// it is ready.
async fn next_rows(feed: &mut dyn Feed, deadline: Option<Instant>, max_bytes: usize) -> Result<Next, Error> {
    let too_old = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = too_old => Ok(Next::TooOld),
        rows = feed.next(max_bytes) => Ok(rows?.map_or(Next::Ended, Next::Rows)),
    }
}

/// Finishes what a crash left: journaled renames are done, other temporary files of this sink deleted.
async fn recover(feed: &mut dyn Feed, target: &Arc<Target>) -> Result<Ended, Failure> {
    let state = feed.cursor().state;
    let pending = if state.is_empty() { None } else { Some(Pending::decode(&state).map_err(Failure::Stopped)?) };
    if let Some(pending) = pending {
        tracing::info!(sink = %target.sink, stream = %target.stream, files = pending.renames.len(), "finishing parquet files");
        let through = pending.through;
        complete(feed, pending).await?;
        // The feed stands where the cursor was.
        feed.rewind(through);
    }
    let target = target.clone();
    tasks::blocking(move || pending::delete_leftovers(&target)).await?;
    Ok(Ended::GoOn)
}

/// Makes journaled files visible and moves the cursor behind them.
async fn complete(feed: &mut dyn Feed, pending: Pending) -> Result<(), Failure> {
    let pending = tasks::blocking(move || pending.rename().map(|()| pending)).await?;
    let progress =
        Progress { next: pending.through, state: bytes::Bytes::new(), delivered: pending.delivered, dead: Vec::new() };
    Ok(feed.commit(progress).await?)
}

/// A sink that waits for its disk.
struct Pause<'a> {
    sink: &'a str,
    stream: &'a str,
    backoff: Backoff,
}

impl Pause<'_> {
    /// Says once that delivery pauses, and waits; `Stop` where the node stops meanwhile.
    async fn wait(&mut self, failure: &Failure, stop: &Stop) -> Ended {
        let labels = [("stream", self.stream), ("sink", self.sink)];
        if self.backoff.attempt() == 0 {
            let error = failure as &(dyn std::error::Error + 'static);
            tracing::warn!(sink = %self.sink, stream = %self.stream, error, "parquet delivery paused, retrying");
            DELIVER_PAUSED.set(1.0, &labels);
        }
        DELIVER_RETRIES.add(1, &[("sink", self.sink), ("reason", "io")]);
        tokio::select! {
            () = stop.cancelled() => Ended::Stop,
            () = tokio::time::sleep(self.backoff.next_delay()) => Ended::GoOn,
        }
    }

    fn end(&mut self) {
        if self.backoff.attempt() > 0 {
            tracing::info!(sink = %self.sink, stream = %self.stream, "parquet delivery resumed");
            DELIVER_PAUSED.set(0.0, &[("stream", self.stream), ("sink", self.sink)]);
            self.backoff.reset();
        }
    }
}
