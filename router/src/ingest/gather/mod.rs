//! Gathers the records of one stream into blocks and makes them durable.
//!
//! A source makes an [`Entry`] of every piece of input (a chunk of a file, a request) and feeds it to the stream's
//! [`Gatherer`]. There entries become blocks, and blocks one append with all that belongs to them:
//!
//! ```text
//! Feeder ─► [entries] ─► collect: group, compress ─► [sealed groups] ─► append: journal, then acknowledge
//! ```
//!
//! The next group is collected and compressed while the one before waits for its fsync. Groups that are ready by then
//! go into the journal together.
//!
//! What always holds:
//! - Entries become durable in the order in which they were fed, so a position never overtakes the records before it.
//! - An entry of up to 8 MiB is durable as a whole or not at all: records, positions and dead letters in one commit. A
//!   larger one (a large request) takes several; its positions come, and its waiter is told, with the last.
//! - A group is sealed when it reaches `block_max_bytes`, when its first entry is `block_max_age` old, when the source is
//!   done, or at once while the node stops.
//! - What is in flight is bounded: [`ENTRIES_MAX`] entries, one group being compressed, [`SEALED_MAX`] waiting for the
//!   journal. A full journal thus stops the source.

mod entry;
mod seal;
#[cfg(test)]
mod tests;

pub use entry::{Entry, REFUSED_MAX, Waiter};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Error;
use crate::journal::Journal;
use crate::schema::Schema;
use crate::tasks::{self, Stop};
use crate::telemetry;
use seal::{Group, Sealed};

/// Longest record: what a block must hold in one piece. Longer becomes a dead letter that keeps its beginning.
pub const RECORD_MAX_LEN: usize = 4 << 20;
/// Entries on their way to the collecting side. Sources bound the bytes: a chunk each for files, in total for HTTP.
const ENTRIES_MAX: usize = 8;
/// Sealed groups that wait for the journal: enough to fill the time of an fsync.
const SEALED_MAX: usize = 4;
/// Most that one append brings to the journal, unless a single record is larger.
const APPEND_MAX_BYTES: usize = 8 << 20;

/// When a block is closed: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Raw bytes of a block.
    pub block_max_bytes: usize,
    /// Age of its first record.
    pub block_max_age: Duration,
}

/// What is gathered: one stream's records from one source.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Label in metrics: kind and name of the source.
    pub source: Arc<str>,
    pub stream: Arc<str>,
    pub schema: Arc<Schema>,
}

/// Where a source puts its entries. The gatherer ends when all feeders are gone.
#[derive(Clone, Debug)]
pub struct Feeder {
    entries: mpsc::Sender<Entry>,
}

/// The gatherer has ended, so nothing becomes durable any more; its own error says why.
#[derive(Debug, thiserror::Error)]
#[error("feed records: their gatherer has ended")]
pub struct Ended;

impl Feeder {
    /// Waits for room; cancelling loses the place in the queue and nothing else.
    pub async fn room(&self) -> Result<Room<'_>, Ended> {
        self.entries.reserve().await.map(Room).map_err(|_closed| Ended)
    }

    /// Returns when the gatherer has ended.
    pub async fn ended(&self) {
        self.entries.closed().await;
    }
}

/// Room for one entry.
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Entry>);

impl Room<'_> {
    /// From here on the entry becomes durable, unless the journal fails or the process ends.
    pub fn put(self, entry: Entry) {
        self.0.send(entry);
    }
}

/// Makes a stream's entries durable while it runs.
pub struct Gatherer {
    origin: Origin,
    settings: Settings,
    journal: Journal,
    entries: mpsc::Receiver<Entry>,
}

impl Gatherer {
    pub fn new(origin: Origin, settings: Settings, journal: Journal) -> (Feeder, Gatherer) {
        let (feeder, entries) = mpsc::channel(ENTRIES_MAX);
        (Feeder { entries: feeder }, Gatherer { origin, settings, journal, entries })
    }

    /// Runs until every feeder is gone and all they fed is durable. `stop` does not end it, but from then on nothing
    /// waits for company. Fails when the journal does: whoever still waits is told by the loss of the waiter.
    pub async fn run(self, stop: Stop) -> Result<(), Error> {
        let Gatherer { origin, mut settings, journal, entries } = self;
        // So that a group of several entries always fits into one append.
        settings.block_max_bytes = settings.block_max_bytes.min(APPEND_MAX_BYTES / 2);
        let schema = &origin.schema;
        // Before the first block that names it, so that whoever reads the block finds the schema.
        journal
            .put_schema(schema.fingerprint, schema.message(), schema.descriptors.clone())
            .await
            .map_err(|source| Error::Store { stream: Arc::clone(&origin.stream), source })?;
        let (sealed, ready) = mpsc::channel(SEALED_MAX);
        // Either side ends the other: collecting drops `sealed`, appending drops `ready`.
        let collected = collect(origin.clone(), settings, entries, sealed, stop);
        let appended = append(&origin, &journal, ready);
        let (collected, appended) = tokio::join!(collected, appended);
        appended.and(collected)
    }
}

/// Groups entries and seals the groups.
async fn collect(
    origin: Origin,
    settings: Settings,
    mut entries: mpsc::Receiver<Entry>,
    sealed: mpsc::Sender<Sealed>,
    stop: Stop,
) -> Result<(), Error> {
    let mut group = Group::default();
    let mut deadline = Instant::now();
    loop {
        let company = async {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = stop.cancelled() => {}
            }
        };
        // Entries first: what is there already belongs to the group, however late it is.
        let entry = tokio::select! {
            biased;
            entry = entries.recv() => entry,
            () = company, if !group.is_empty() => {
                let whole = std::mem::take(&mut group);
                if !seal(&origin, settings, whole, &sealed).await? {
                    return Ok(());
                }
                continue;
            }
        };
        let Some(entry) = entry else { break };
        if !group.is_empty() && group.bytes() + entry.bytes() > settings.block_max_bytes {
            let whole = std::mem::take(&mut group);
            if !seal(&origin, settings, whole, &sealed).await? {
                return Ok(());
            }
        }
        if group.is_empty() {
            deadline = Instant::now() + settings.block_max_age;
        }
        group.push(entry);
        if group.bytes() >= settings.block_max_bytes {
            deadline = Instant::now();
        }
    }
    if !group.is_empty() {
        seal(&origin, settings, group, &sealed).await?;
    }
    Ok(())
}

/// Compresses a group and hands it on; false where the appending side has ended.
async fn seal(origin: &Origin, settings: Settings, group: Group, sealed: &mpsc::Sender<Sealed>) -> Result<bool, Error> {
    let stream = Arc::clone(&origin.stream);
    let fingerprint = origin.schema.fingerprint;
    let made = tasks::blocking(move || group.seal(&stream, fingerprint, settings.block_max_bytes)).await;
    let made = made.map_err(|source| Error::Block { stream: Arc::clone(&origin.stream), source })?;
    Ok(sealed.send(made).await.is_ok())
}

/// Appends sealed groups in order. One append at a time: only its return says that the next may follow.
async fn append(origin: &Origin, journal: &Journal, mut ready: mpsc::Receiver<Sealed>) -> Result<(), Error> {
    let mut next = ready.recv().await;
    while let Some(mut sealed) = next.take() {
        while let Ok(more) = ready.try_recv() {
            if sealed.bytes() + more.bytes() > APPEND_MAX_BYTES {
                next = Some(more);
                break;
            }
            sealed.join(more);
        }
        let (appends, durable) = sealed.split(APPEND_MAX_BYTES);
        for append in appends {
            let stored = journal.append(append).await;
            stored.map_err(|source| Error::Store { stream: Arc::clone(&origin.stream), source })?;
        }
        let labels = [("stream", &*origin.stream), ("source", &*origin.source)];
        telemetry::INGEST_RECORDS.add(durable.records, &labels);
        telemetry::INGEST_BYTES.add(durable.input_bytes, &labels);
        for (class, count) in &durable.refused {
            telemetry::INGEST_REFUSED.add(*count, &[("stream", &*origin.stream), ("reason", class)]);
        }
        durable.tell();
        if next.is_none() {
            next = ready.recv().await;
        }
    }
    Ok(())
}
