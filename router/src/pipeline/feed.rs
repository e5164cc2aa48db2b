//! A lane as one sink sees it, over the journal.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tracing::warn;

use super::lane::{Halt, Lane, locked};
use crate::deliver::{self, Cursor, Error, Feed, Progress};
use crate::journal::{self, Advance, Block};
use crate::process::{Processor, Verdicts, Work};
use crate::record::{Rows, Seq};
use crate::tasks::{self, Stop};
use crate::telemetry;

/// One sink's view of a lane.
pub struct LaneFeed {
    lane: Arc<Lane>,
    sink: Arc<str>,
    stop: Stop,
    cursor: Cursor,
    /// First seq the next call gives.
    next: Seq,
    decided: watch::Receiver<Seq>,
    end: watch::Receiver<Seq>,
    /// Made when this sink first falls behind the recent rows.
    replayer: Option<Processor>,
    warned_changed: bool,
}

impl LaneFeed {
    pub fn open(lane: Arc<Lane>, sink: Arc<str>, stop: Stop) -> Result<LaneFeed, Error> {
        let stream = Arc::clone(&lane.stream);
        let cursor = lane.journal.cursor(&sink, &stream);
        let cursor =
            cursor.map_err(|source| Error::Journal { sink: Arc::clone(&sink), stream: stream.clone(), source })?;
        Ok(LaneFeed {
            next: cursor.next,
            cursor: Cursor { next: cursor.next, state: cursor.state },
            decided: lane.decided(),
            end: lane.journal.end(&stream),
            lane,
            sink,
            stop,
            replayer: None,
            warned_changed: false,
        })
    }

    fn journal_failed(&self, source: journal::Error) -> Error {
        Error::Journal { sink: Arc::clone(&self.sink), stream: Arc::clone(&self.lane.stream), source }
    }

    async fn next_rows(&mut self, max_bytes: usize) -> Result<Option<Vec<Rows>>, Error> {
        loop {
            let next = self.next;
            let decided = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                decided = self.decided.wait_for(|decided| *decided > next) => match decided {
                    Ok(decided) => *decided,
                    Err(_) => return Ok(None),
                },
            };
            let mut rows = locked(&self.lane.recent).from(next, max_bytes);
            if rows.is_empty() {
                rows = self.read_back(decided, max_bytes).await?;
            }
            if let Some(last) = rows.last() {
                self.next = last.seq + 1;
                return Ok(Some(rows));
            }
            // Nothing readable up to here: the blocks were quarantined.
            self.next = decided;
        }
    }

    /// Reads blocks from the journal and replays them with their verdicts.
    async fn read_back(&mut self, decided: Seq, max_bytes: usize) -> Result<Vec<Rows>, Error> {
        let lane = Arc::clone(&self.lane);
        let from = self.next;
        // Dropping this future (a sink waits on several things) loses the replayer, which is made again, and no rows.
        let mut replayer = self.replayer.take();
        let (replayer, replayed) = tasks::blocking(move || {
            let replayed = replay(&lane, &mut replayer, from..decided, max_bytes);
            (replayer, replayed)
        })
        .await;
        self.replayer = replayer;
        match replayed {
            Ok((rows, same)) => {
                if !same && !self.warned_changed {
                    self.warned_changed = true;
                    warn!(
                        stream = %self.lane.stream, sink = %self.sink,
                        "plugins changed since these blocks were decided, their duplicates are delivered rather than dropped"
                    );
                }
                Ok(rows)
            }
            Err(Halt::Journal { source, .. }) => Err(self.journal_failed(source)),
            Err(halt) => Err(Error::Process {
                stream: Arc::clone(&self.lane.stream),
                reason: telemetry::chain(&halt).to_string(),
            }),
        }
    }

    async fn next_raw(&mut self, max_bytes: usize) -> Result<Option<Vec<(Seq, Block)>>, Error> {
        loop {
            let next = self.next;
            let end = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                end = self.end.wait_for(|end| *end > next) => match end {
                    Ok(end) => *end,
                    Err(_) => return Ok(None),
                },
            };
            let lane = Arc::clone(&self.lane);
            let blocks = tasks::blocking(move || lane.journal.read(&lane.stream, next, max_bytes)).await;
            let blocks = blocks.map_err(|source| self.journal_failed(source))?;
            if let Some((last, _)) = blocks.last() {
                self.next = last + 1;
                return Ok(Some(blocks));
            }
            self.next = end;
        }
    }

    async fn advance(&mut self, progress: Progress) -> Result<(), Error> {
        let labels = [("stream", &*self.lane.stream), ("sink", &*self.sink)];
        let (delivered, dead) = (progress.delivered, progress.dead.len() as u64);
        let advance = Advance {
            sink: Arc::clone(&self.sink),
            stream: Arc::clone(&self.lane.stream),
            next: progress.next,
            state: progress.state.clone(),
            delivered,
            dead: progress.dead,
        };
        self.lane.journal.advance(advance).await.map_err(|source| self.journal_failed(source))?;
        let moved = progress.next > self.cursor.next;
        self.cursor = Cursor { next: progress.next, state: progress.state };
        if moved {
            self.lane.passed().map_err(|source| self.journal_failed(source))?;
        }
        if delivered > 0 {
            telemetry::DELIVER_RECORDS.add(delivered, &labels);
        }
        if dead > 0 {
            telemetry::DELIVER_DEAD.add(dead, &labels);
        }
        telemetry::DELIVER_LAG_BLOCKS.set(self.end.borrow().saturating_sub(self.cursor.next) as f64, &labels);
        Ok(())
    }
}

fn replay(
    lane: &Lane,
    replayer: &mut Option<Processor>,
    seqs: std::ops::Range<Seq>,
    max_bytes: usize,
) -> Result<(Vec<Rows>, bool), Halt> {
    let journal_failed = |source| Halt::Journal { stream: Arc::clone(&lane.stream), source };
    let Some(recipe) = &lane.recipe else { return Ok((Vec::new(), true)) };
    let replayer = replayer.get_or_insert_with(|| Processor::new(recipe.clone()));
    let blocks = lane.journal.read(&lane.stream, seqs.start, max_bytes).map_err(journal_failed)?;
    let (mut rows, mut all_same, mut len_bytes) = (Vec::with_capacity(blocks.len()), true, 0);
    for (seq, block) in blocks.into_iter().take_while(|(seq, _)| *seq < seqs.end) {
        // `max_bytes` bounds messages, and what is stored is compressed.
        if !rows.is_empty() && len_bytes + block.raw_len as usize > max_bytes {
            break;
        }
        len_bytes += block.raw_len as usize;
        let schema = lane.schema(seq, &block)?;
        let stored = lane.journal.verdicts(&lane.stream, seq).map_err(journal_failed)?;
        let all_kept = || Verdicts::new(std::iter::empty());
        let verdicts = stored.and_then(Verdicts::decode).unwrap_or_else(all_kept);
        let work = Work { seq, block: &block, schema: &schema };
        let (replayed, same) = replayer.replay(work, &verdicts).map_err(|source| Halt::Process { seq, source })?;
        all_same &= same;
        rows.push(replayed);
    }
    Ok((rows, all_same))
}

impl Feed for LaneFeed {
    fn stream(&self) -> &Arc<str> {
        &self.lane.stream
    }

    fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }

    fn next(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, Error>> {
        Box::pin(self.next_rows(max_bytes))
    }

    fn next_blocks(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<deliver::SeqBlock>>, Error>> {
        Box::pin(self.next_raw(max_bytes))
    }

    fn is_ready(&self) -> bool {
        *self.decided.borrow() > self.next
    }

    fn rewind(&mut self, seq: Seq) {
        self.next = seq;
    }

    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.advance(progress))
    }
}
