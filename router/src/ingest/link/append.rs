//! A lane's way into the journal and its acks back.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use quinn::SendStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::journal::{self, Append, Block, Journal};
use crate::link::frame::{self, Frame};
use crate::link::message::Ack;
use crate::record::Seq;
use crate::telemetry;

/// Stored bytes of one append. Large enough that one append at a time fills any disk.
const GROUP_MAX_BYTES: usize = 2 << 20;

/// A checked block on its way to the journal.
pub(super) struct Arrived {
    pub(super) block: Block,
    /// Given back when the block is durable.
    pub(super) budget: OwnedSemaphorePermit,
}

/// Appends what arrives, one group at a time, in order (rule 3 of [`crate::link`]).
pub(super) struct Appender {
    journal: Journal,
    agent: Arc<str>,
    stream: Arc<str>,
    /// Highest durable seq when the lane opened.
    last: Seq,
    durable: watch::Sender<Seq>,
    group: Vec<Sent>,
    /// Kept here rather than in `run`'s future, so that it outlives it: a dropped append may or may not be durable.
    under_way: Option<BoxFuture<'static, Result<Vec<Seq>, journal::Error>>>,
}

/// What is remembered of a block while its append is under way.
struct Sent {
    seq: Seq,
    record_count: u32,
    /// Came from an agent name that is not the connection's (a renamed edge): `last` says nothing about it.
    is_renamed: bool,
    _budget: OwnedSemaphorePermit,
}

impl Appender {
    /// `durable` starts at the highest seq that is durable already.
    pub(super) fn new(journal: Journal, agent: Arc<str>, stream: Arc<str>, durable: watch::Sender<Seq>) -> Appender {
        let last = *durable.borrow();
        Appender { journal, agent, stream, last, durable, group: Vec::new(), under_way: None }
    }

    /// Appends until nothing can arrive any more and all that did is durable. Fails as the journal does.
    pub(super) async fn run(&mut self, mut arrived: mpsc::Receiver<Arrived>) -> Result<(), String> {
        while let Some(first) = arrived.recv().await {
            self.start(first, &mut arrived);
            self.finish().await?;
        }
        Ok(())
    }

    fn start(&mut self, first: Arrived, arrived: &mut mpsc::Receiver<Arrived>) {
        let mut blocks = Vec::new();
        let mut len = 0;
        let mut next = Some(first);
        while let Some(Arrived { block, budget }) = next {
            len += block.stored_len();
            let is_renamed = block.origin.agent != self.agent;
            self.group.push(Sent {
                seq: block.origin.seq,
                record_count: block.record_count,
                is_renamed,
                _budget: budget,
            });
            blocks.push(block);
            next = if len < GROUP_MAX_BYTES { arrived.try_recv().ok() } else { None };
        }
        let journal = self.journal.clone();
        let append = Append { blocks, ..Append::default() };
        self.under_way = Some(Box::pin(async move { journal.append(append).await }));
    }

    /// Waits for the append under way, if any, and makes its result known. May be called again after being dropped.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        let Some(append) = self.under_way.as_mut() else { return Ok(()) };
        let result = append.await;
        self.under_way = None;
        let group = std::mem::take(&mut self.group);
        let seqs = result.map_err(|error| error.to_string())?;
        let (mut resent, mut records, mut high) = (0, 0, *self.durable.borrow());
        for (sent, &seq) in group.iter().zip(&seqs) {
            high = high.max(sent.seq);
            if seq != 0 {
                records += u64::from(sent.record_count);
            } else if sent.seq <= self.last || sent.is_renamed {
                resent += 1;
            } else {
                // Cannot happen while a lane has one writer: the journal took for a resend what it never saw.
                let reason =
                    format!("journal dropped block {} of lane {}, which it had not seen", sent.seq, self.stream);
                tracing::error!(agent = %self.agent, reason, "block lost");
                return Err(reason);
            }
        }
        let stream = [("stream", &*self.stream)];
        telemetry::LINK_BLOCKS.add(group.len() as u64 - resent, &stream);
        telemetry::LINK_RESENT.add(resent, &stream);
        telemetry::INGEST_RECORDS.add(records, &[("stream", &*self.stream), ("source", "link")]);
        self.durable.send_replace(high);
        Ok(())
    }
}

/// Sends the highest durable seq whenever it has grown; returns the stream once the appender is gone and the last ack
/// sent, `None` where the stream is broken.
pub(super) async fn acknowledge(mut send: SendStream, mut durable: watch::Receiver<Seq>) -> Option<SendStream> {
    while durable.changed().await.is_ok() {
        let seq = *durable.borrow_and_update();
        frame::write(&mut send, &Frame::Ack(Ack { seq })).await.ok()?;
    }
    Some(send)
}
