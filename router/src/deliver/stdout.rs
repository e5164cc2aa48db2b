//! Prints records as JSON lines: to look at a stream, or to hand it to another program.
//!
//! Records are written and flushed, and then the cursor moves. A pipe gives no receipt, so a crash in between repeats
//! the rows of up to one read: this sink delivers at least once, alone among the sinks. When nobody reads the pipe any
//! more the sink stops with an error. A record that has no JSON form goes to dead letters.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::{Error, Feed, Progress, Sink};
use crate::record::{DeadLetter, Rows};
use crate::schema;
use crate::tasks::{self, Stop};

/// Rows printed between two commits.
const READ_MAX_BYTES: usize = 1 << 20;

type Output = Arc<Mutex<dyn Write + Send>>;

pub struct StdoutSink {
    name: Arc<str>,
    stage: Arc<str>,
    output: Output,
}

/// Rows as lines.
#[derive(Default)]
struct Printed {
    lines: Vec<u8>,
    delivered: u64,
    dead: Vec<DeadLetter>,
}

impl StdoutSink {
    pub fn new(name: Arc<str>) -> StdoutSink {
        StdoutSink::with_output(name, Arc::new(Mutex::new(std::io::stdout())))
    }

    fn with_output(name: Arc<str>, output: Output) -> StdoutSink {
        StdoutSink { stage: format!("sink:{name}").into(), name, output }
    }

    async fn deliver(&self, feed: &mut dyn Feed) -> Result<(), Error> {
        while let Some(blocks) = feed.next(READ_MAX_BYTES).await? {
            let Some(next) = blocks.last().map(|rows| rows.seq + 1) else { continue };
            let (stage, output) = (self.stage.clone(), self.output.clone());
            let printed = tasks::blocking(move || {
                let printed = print(&blocks, &stage);
                // Whole lines under one lock: another stream's lines never come in between. A writer that panicked
                // left nothing half done that would matter here.
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                output.write_all(&printed.lines).and_then(|()| output.flush()).map(|()| printed)
            });
            let printed = printed.await.map_err(|error| Error::Stopped {
                sink: self.name.clone(),
                stream: feed.stream().clone(),
                reason: format!("write to standard output: {error}"),
            })?;
            let Printed { delivered, dead, .. } = printed;
            feed.commit(Progress { next, state: bytes::Bytes::new(), delivered, dead }).await?;
        }
        Ok(())
    }
}

impl Sink for StdoutSink {
    /// Ends with the feed, which ends when the node stops.
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, _stop: Stop) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.deliver(feed).await })
    }
}

fn print(blocks: &[Rows], stage: &Arc<str>) -> Printed {
    let mut printed = Printed::default();
    for rows in blocks {
        for row in &rows.records {
            let start = printed.lines.len();
            match schema::json::to_json(&rows.schema, &row.message, &mut printed.lines) {
                Ok(()) => {
                    printed.lines.push(b'\n');
                    printed.delivered += 1;
                }
                Err(error) => {
                    printed.lines.truncate(start);
                    printed.dead.push(DeadLetter {
                        stream: rows.stream.clone(),
                        stage: stage.clone(),
                        reason: error.to_string(),
                        id: Some(row.id),
                        schema: Some(rows.schema.fingerprint),
                        received_nanos: rows.received_nanos,
                        bytes: row.message.clone(),
                    });
                }
            }
        }
    }
    printed
}

#[cfg(test)]
mod tests;
