//! One lane stream: blocks come in, appends go out, acks go back.
//!
//! Three futures of one task share a lane: `read` takes frames off the stream and checks them, `Appender::run` turns
//! what has arrived into appends, `acknowledge` sends the highest durable seq. However the lane ends, the append that
//! is under way is waited for before the turn is given back: nothing of an older stream becomes durable after a newer
//! one was told where to start.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::SendStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::append::{Appender, Arrived, acknowledge};
use super::connection::{Peer, close_reason};
use super::schemas::SchemaError;
use super::turns::Turn;
use super::{BUDGET_PERMITS, GREETING_TIMEOUT, LARGE_BLOCK_BYTES, PERMIT_BYTES, STOP_GRACE, Shared};
use crate::journal::{Block, NAME_MAX_LEN};
use crate::link::frame::{self, Frame, FrameReader};
use crate::link::message::{Gap, LaneOpen, LaneReady, LaneRefused, SchemaOffer, fingerprint};
use crate::link::{CloseCode, Error};
use crate::record::Seq;
use crate::tasks;

/// Blocks between `read` and the appender; the budget bounds their bytes.
const ARRIVED_MAX: usize = 256;
/// For the last frames of a lane to reach the edge.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a lane ended.
enum End {
    /// The edge ended it, or its connection is gone.
    Over,
    Stopping,
    Superseded,
    /// The edge keeps its blocks and tries again later.
    Refused(String),
    /// The connection is closed: what else it says is not to be trusted.
    Misbehaved(Error),
    /// The connection is closed: nothing can be acknowledged.
    Journal(String),
}

impl From<SchemaError> for End {
    fn from(error: SchemaError) -> End {
        match error {
            SchemaError::Journal(source) => End::Journal(source.to_string()),
            refused @ (SchemaError::Unknown { .. } | SchemaError::Refused { .. }) => End::Refused(refused.to_string()),
        }
    }
}

/// A frame that cannot be read: the peer's fault, unless the stream just ended.
impl From<Error> for End {
    fn from(error: Error) -> End {
        match error {
            Error::Lost { .. } | Error::Cut => End::Over,
            other => End::Misbehaved(other),
        }
    }
}

/// An open lane.
struct Lane {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    stream: Arc<str>,
    /// Highest durable seq when the lane opened.
    last: Seq,
    turn: Turn,
}

/// Serves a lane stream to its end.
pub(super) async fn serve(shared: Arc<Shared>, peer: Arc<Peer>, mut send: SendStream, mut reader: FrameReader) {
    let (end, send) = match open(&shared, &peer, &mut reader).await {
        Ok(lane) => match frame::write(&mut send, &Frame::LaneReady(LaneReady { last: lane.last })).await {
            Ok(()) => lane.run(send, &mut reader).await,
            Err(_) => (End::Over, None),
        },
        Err(end) => (end, Some(send)),
    };
    farewell(&peer, end, send).await;
}

/// Tells the edge why its lane ended.
async fn farewell(peer: &Peer, end: End, send: Option<SendStream>) {
    let refusal = match end {
        End::Over | End::Stopping => None,
        End::Superseded => Some("a newer stream of this lane took over".to_owned()),
        End::Refused(reason) => Some(reason),
        End::Misbehaved(error) => {
            let reason = error.chain();
            tracing::warn!(agent = %peer.edge.0, reason, "link connection closed: protocol error");
            peer.connection.close(CloseCode::Protocol.code(), close_reason(&reason));
            return;
        }
        End::Journal(reason) => {
            tracing::warn!(agent = %peer.edge.0, reason, "link connection closed: journal failed");
            peer.connection.close(CloseCode::Journal.code(), b"central's journal stopped");
            return;
        }
    };
    let Some(mut send) = send else { return };
    if let Some(reason) = refusal {
        let refused = Frame::LaneRefused(LaneRefused { reason, retryable: true });
        if frame::write(&mut send, &refused).await.is_err() {
            return;
        }
    }
    if send.finish().is_ok() {
        // So that a connection that is closed next does not take the last ack with it.
        let _ = timeout(FAREWELL_TIMEOUT, send.stopped()).await;
    }
}

/// Reads `LaneOpen`, takes the lane's turn and finds where the edge goes on.
async fn open(shared: &Arc<Shared>, peer: &Arc<Peer>, reader: &mut FrameReader) -> Result<Lane, End> {
    let protocol = |reason: String| End::Misbehaved(Error::Protocol { reason });
    let opened = timeout(GREETING_TIMEOUT, reader.next()).await;
    let LaneOpen { stream, epoch } = match opened.map_err(|_| protocol("no lane-open in time".to_owned()))?? {
        Some(Frame::LaneOpen(open)) => open,
        Some(other) => return Err(End::Misbehaved(other.unexpected("lane-open"))),
        None => return Err(End::Over),
    };
    if stream.is_empty() || stream.len() > NAME_MAX_LEN {
        return Err(protocol(format!("stream name of {} bytes, allowed are 1 to {NAME_MAX_LEN}", stream.len())));
    }
    if epoch != peer.edge.1 {
        return Err(protocol(format!("lane of epoch {epoch} on a connection of epoch {}", peer.edge.1)));
    }
    if !(shared.accepts)(&stream) {
        if shared.note_refused(&stream) {
            tracing::warn!(agent = %peer.edge.0, stream, "lane refused: central does not carry the stream");
        }
        return Err(End::Refused(format!("central does not carry stream {stream:?}: add it to central's streams")));
    }
    if shared.forget_refused(&stream) {
        tracing::info!(stream, "lane accepted: central carries the stream now");
    }
    let stream: Arc<str> = Arc::from(stream);
    let turn = shared.turns.take(peer.edge.clone(), Arc::clone(&stream), peer.generation);
    let Some(turn) = turn.await else { return Err(End::Superseded) };
    let (journal, agent, lane) = (shared.journal.clone(), Arc::clone(&peer.edge.0), Arc::clone(&stream));
    let last = tasks::blocking(move || journal.forwarded(&agent, epoch, &lane)).await;
    let last = last.map_err(|error| End::Journal(error.to_string()))?;
    Ok(Lane { shared: Arc::clone(shared), peer: Arc::clone(peer), stream, last, turn })
}

impl Lane {
    /// Carries blocks until the lane ends; returns the stream to say goodbye on, if it is still whole.
    async fn run(self, send: SendStream, reader: &mut FrameReader) -> (End, Option<SendStream>) {
        let (arrived_in, arrived) = mpsc::channel(ARRIVED_MAX);
        let (durable_in, durable) = watch::channel(self.last);
        let (agent, stream) = (Arc::clone(&self.peer.edge.0), Arc::clone(&self.stream));
        let mut appender = Appender::new(self.shared.journal.clone(), agent, stream, durable_in);
        let mut acknowledging = pin!(acknowledge(send, durable));
        let stop = self.shared.tasks.stop();
        let mut is_broken = false;
        let end = {
            let mut reading = pin!(self.read(reader, arrived_in));
            let mut appending = pin!(appender.run(arrived));
            let mut read_end = None;
            loop {
                tokio::select! {
                    // What arrived before the end is still appended.
                    end = &mut reading, if read_end.is_none() => read_end = Some(end),
                    result = &mut appending => break match result {
                        Ok(()) => read_end.unwrap_or(End::Over),
                        Err(reason) => End::Journal(reason),
                    },
                    _ = &mut acknowledging => {
                        is_broken = true;
                        break End::Over;
                    }
                    () = self.turn.superseded.cancelled() => break End::Superseded,
                    () = stop.cancelled() => break End::Stopping,
                }
            }
        };
        let end = self.settle(end, appender).await;
        // The turn is given back here.
        drop(self);
        if is_broken {
            return (end, None);
        }
        let send = timeout(FAREWELL_TIMEOUT, acknowledging).await.ok().flatten();
        (end, send)
    }

    /// Waits for the append under way. While the node stops, not for ever: a full journal may never take it, and no
    /// newer stream can come any more.
    async fn settle(&self, end: End, mut appender: Appender) -> End {
        let settled = tokio::select! {
            settled = appender.finish() => settled,
            () = async { self.shared.tasks.stop().cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Ok(()),
        };
        match (settled, end) {
            (Err(reason), End::Over | End::Stopping | End::Superseded) => End::Journal(reason),
            (_, end) => end,
        }
    }

    /// Reads frames until the stream ends or breaks a rule.
    async fn read(&self, reader: &mut FrameReader, arrived: mpsc::Sender<Arrived>) -> End {
        let mut order = Order { high: self.last, previous: None };
        loop {
            match self.read_one(reader, &arrived, &mut order).await {
                Ok(true) => {}
                Ok(false) => return End::Over,
                Err(end) => return end,
            }
        }
    }

    /// Reads one frame; false at the stream's end.
    async fn read_one(
        &self,
        reader: &mut FrameReader,
        arrived: &mpsc::Sender<Arrived>,
        order: &mut Order,
    ) -> Result<bool, End> {
        let Some(header) = reader.header().await? else { return Ok(false) };
        let is_large = header.len > LARGE_BLOCK_BYTES;
        // Waiting here could hold the connection's window that the other large blocks need to become whole.
        let _large = match is_large.then(|| Arc::clone(&self.peer.large).try_acquire_owned()) {
            Some(Err(_)) => return Err(End::Refused("too many large blocks at once on one connection".to_owned())),
            Some(Ok(permit)) => Some(permit),
            None => None,
        };
        match reader.body(header).await? {
            Frame::Block { seq, stored } => {
                let block = self.check(seq, &stored)?;
                order.admit(seq)?;
                self.shared.schemas.ensure(block.fingerprint).await?;
                let permits = (header.len / PERMIT_BYTES + 1).min(BUDGET_PERMITS) as u32;
                let budget = Arc::clone(&self.shared.budget).acquire_many_owned(permits).await;
                let budget = budget.map_err(|_| End::Over)?; // it is never closed
                // The appender only goes away with this future.
                arrived.send(Arrived { block, budget }).await.map_err(|_| End::Over)?;
            }
            Frame::Schema(offer) => self.learn(offer).await?,
            Frame::Gap(Gap { next }) => {
                if let Some((from, to)) = order.declare_gap(next) {
                    let (agent, stream) = (&self.peer.edge.0, &self.stream);
                    tracing::warn!(%agent, %stream, from, to, "edge declared blocks that will not come");
                }
            }
            other => return Err(End::Misbehaved(other.unexpected("block, schema or gap"))),
        }
        Ok(true)
    }

    /// Checks a block's checksums and that it belongs to this lane.
    fn check(&self, seq: Seq, stored: &bytes::Bytes) -> Result<Block, End> {
        let block = Block::decode(stored).map_err(|source| End::Misbehaved(Error::Block { seq, source }))?;
        let (origin, epoch) = (&block.origin, self.peer.edge.1);
        let problem = if block.stream != self.stream {
            format!("belongs to stream {:?}", block.stream)
        } else if !self.peer.names.iter().any(|name| **name == *origin.agent) {
            let (former, now) = (&origin.agent, &self.peer.names);
            format!(
                "comes from agent {former:?}, the certificate is for {now:?}: `sluice pki agent --former` adds a name"
            )
        } else if origin.epoch != epoch {
            format!("is of epoch {}, the connection of {epoch}", origin.epoch)
        } else if origin.seq != seq {
            format!("names itself {}", origin.seq)
        } else {
            return Ok(block);
        };
        let reason = format!("block {seq} on lane {:?} {problem}", self.stream);
        Err(End::Misbehaved(Error::Protocol { reason }))
    }

    async fn learn(&self, offer: SchemaOffer) -> Result<(), End> {
        let Some(name) = fingerprint(&offer.fingerprint) else {
            let reason = format!("schema fingerprint of {} bytes", offer.fingerprint.len());
            return Err(End::Misbehaved(Error::Protocol { reason }));
        };
        Ok(self.shared.schemas.learn(name, offer.message, offer.descriptors).await?)
    }
}

/// Rule 2 of [`crate::link`]: a lane's seqs leave nothing out.
#[derive(Debug)]
struct Order {
    /// Highest seq that is durable, arrived or declared missing.
    high: Seq,
    /// Seq of the block before, on this stream.
    previous: Option<Seq>,
}

impl Order {
    fn admit(&mut self, seq: Seq) -> Result<(), Error> {
        let due = self.high.saturating_add(1);
        if seq == 0 || seq > due {
            return Err(Error::Protocol { reason: format!("block {seq} came where {due} was due, without a gap") });
        }
        if let Some(previous) = self.previous.filter(|&previous| seq <= previous) {
            return Err(Error::Protocol { reason: format!("block {seq} came after {previous}") });
        }
        self.previous = Some(seq);
        self.high = self.high.max(seq);
        Ok(())
    }

    /// Returns the seqs that were newly declared missing, first and last.
    fn declare_gap(&mut self, next: Seq) -> Option<(Seq, Seq)> {
        let due = self.high.saturating_add(1);
        (next > due).then(|| {
            self.high = next - 1;
            (due, next - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `script`: positive = block, negative = gap declared up to that seq. `expected`: what the last step said.
    fn check(last: Seq, script: &[i64], expected: Result<(), &str>) {
        let mut order = Order { high: last, previous: None };
        let mut result = Ok(());
        for &step in script {
            result = match u64::try_from(step) {
                Ok(seq) => order.admit(seq).map_err(|error| error.to_string()),
                Err(_) => {
                    order.declare_gap(step.unsigned_abs());
                    Ok(())
                }
            };
        }
        assert_eq!(result, expected.map_err(str::to_owned), "{last} {script:?}");
    }

    #[test]
    fn seqs_leave_nothing_out() {
        check(0, &[1, 2, 3], Ok(()));
        check(5, &[6], Ok(()));
        check(5, &[3, 4, 5, 6], Ok(()));
        check(0, &[2], Err("block 2 came where 1 was due, without a gap"));
        check(5, &[6, 8], Err("block 8 came where 7 was due, without a gap"));
        check(5, &[6, 6], Err("block 6 came after 6"));
        check(5, &[6, 4], Err("block 4 came after 6"));
        check(5, &[0], Err("block 0 came where 6 was due, without a gap"));
        check(5, &[-9, 9, 10], Ok(()));
        check(5, &[-9, 10], Err("block 10 came where 9 was due, without a gap"));
        check(5, &[-2, 6], Ok(()));
    }
}
