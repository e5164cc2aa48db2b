//! Tails files: each line a record, durable once, whatever happens to file, name or process.
//!
//! ```text
//! every `poll`: look ─► patterns ─► files by (device, inode) ─► known: changed? new? away? ─► due
//! meanwhile:    step ─► next due file: 256 KiB at its position ─► lines ─► records, refused ─► Entry with new position
//!                                                                                                  └─► gather
//! ```
//!
//! A file is its device, inode and first bytes (`identity`); names only lead to it. How far it was read is journaled in the
//! same commit as the records read (`position`), so a restart goes on behind the last durable line. Reading is by position:
//! a tail keeps no bytes, so hundreds of files take one buffer.
//!
//! What always holds:
//! - Each line becomes one record or one dead letter, once, in the order of the file. A file that takes the place of a
//!   renamed one is read after it.
//! - **Renamed** (rotation): the open file is read on, under whatever name, until it has not grown for a minute. A source
//!   that was not running finds it in the same folder by its inode, even where no pattern takes the new name.
//! - **Deleted** while open: read to its end, for a minute without growth; then forgotten.
//! - **Emptied** (copytruncate): shorter than what was read, or other first bytes: read from its beginning.
//! - A last line without its end waits for it. When a renamed or deleted file has not grown for a minute, it is a line.
//! - A file that cannot be read is warned of once, tried again at each look, and holds up no other.
//!
//! Limits, which come with tailing:
//! - What is written between the copy and the truncation of copytruncate is lost by logrotate, not read here. The copy is
//!   another file: exclude it, or it is read as well.
//! - A file that comes and goes between two looks, or is rotated twice while the source is not running and the patterns do
//!   not take rotated names, is not seen.
//! - Compressed files are read as what they are; exclude them.

mod discover;
mod identity;
mod lines;
mod position;
mod tail;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::gather::{Entry, Feeder, Gatherer, Origin};
use super::parse::Format;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::schema::Schema;
use crate::tasks::{self, Stop};
use tail::Patience;
use watch::Watch;

/// A writer that was told to open its new file has done so long since.
const FINISH_AFTER: Duration = Duration::from_secs(60);
/// Time for a vanished file to come back, say on a volume that is mounted late.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the source in positions and metrics.
    pub name: Arc<str>,
    pub stream: Arc<str>,
    /// Glob patterns of files to read.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub format: Format,
    /// A longer line is refused (dead letter with its beginning), never split into records.
    pub line_max_bytes: usize,
    /// How often globs are looked at and files that ended are asked for more.
    pub poll: Duration,
    /// Where a file seen for the first time is read from, if it is there when the source first starts.
    pub start_at: StartAt,
    pub gather: super::gather::Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StartAt {
    #[default]
    Beginning,
    End,
}

/// Reads files and makes their lines durable.
pub struct FileSource {
    settings: Settings,
    origin: Origin,
    journal: Journal,
    clock: Clock,
    patience: Patience,
}

impl FileSource {
    /// `schema` is that of the stream's message; for `Format::Line`, of `sluice.v1.LogLine`.
    pub fn new(settings: Settings, schema: Arc<Schema>, journal: Journal, clock: Clock) -> FileSource {
        let source = format!("file:{}", settings.name).into();
        let origin = Origin { source, stream: Arc::clone(&settings.stream), schema };
        let patience = Patience { finish_after: FINISH_AFTER, forget_after: FORGET_AFTER };
        FileSource { settings, origin, journal, clock, patience }
    }

    /// Reads until `stop`; what was read by then is durable on return. Fails where the patterns or the positions in the
    /// journal cannot be read, and when the journal fails.
    pub async fn run(self, stop: Stop) -> Result<(), Error> {
        let FileSource { settings, origin, journal, clock, patience } = self;
        let known = position::known(&journal, &settings.name, &settings.stream)?;
        let watch = Watch::new(&settings, origin.clone(), known, clock, patience)?;
        let (feeder, gatherer) = Gatherer::new(origin, settings.gather, journal);
        let tailing = tail(watch, settings.poll, feeder, stop.clone());
        let ((), gathered) = tokio::join!(tailing, gatherer.run(stop));
        gathered
    }
}

/// Looks and reads until `stop`, or until the gatherer has ended. Files are touched on blocking threads only.
async fn tail(mut watch: Watch, poll: Duration, feeder: Feeder, stop: Stop) {
    let mut next_look = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= next_look {
            watch = look(watch).await;
            next_look = Instant::now() + poll;
        }
        if watch.is_idle() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = feeder.ended() => return,
                () = tokio::time::sleep_until(next_look) => continue,
            }
        }
        let entry;
        (watch, entry) = step(watch).await;
        let Some(entry) = entry else { continue };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                room = feeder.room() => {
                    let Ok(room) = room else { return };
                    room.put(entry);
                    break;
                }
                // A full journal must not blind the source: files that are rotated meanwhile are opened in time.
                () = tokio::time::sleep_until(next_look) => {
                    watch = look(watch).await;
                    next_look = Instant::now() + poll;
                }
            }
        }
    }
}

async fn look(mut watch: Watch) -> Watch {
    tasks::blocking(move || {
        watch.look();
        watch
    })
    .await
}

async fn step(mut watch: Watch) -> (Watch, Option<Entry>) {
    tasks::blocking(move || {
        let entry = watch.step();
        (watch, entry)
    })
    .await
}
