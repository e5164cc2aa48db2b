//! One lane's sending side.
//!
//! Three futures of one task share a lane stream: `drive` moves blocks from the feed to `write_frames` and commits what
//! `read_acks` heard. Sending never waits for an ack, except at the bound of bytes in flight. The feed's `next_blocks`
//! is dropped whenever something else happens first, so it must take nothing before it answers.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quinn::SendStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::connect::{HEALTHY_AFTER, RETRY_FIRST, STOP_GRACE, Session, Shared};
use super::window::Window;
use crate::deliver::retry::Backoff;
use crate::deliver::{self, Feed, Progress, Sink};
use crate::journal::Block;
use crate::link::Error;
use crate::link::frame::{self, Frame, FrameReader};
use crate::link::message::{Gap, LaneOpen, LaneReady, SchemaOffer};
use crate::record::{Fingerprint, Seq};
use crate::tasks::Stop;
use crate::telemetry;

/// Bytes asked of the feed at once.
const READ_BYTES: usize = 1 << 20;
/// Frames between `drive` and `write_frames`; the window bounds their bytes.
const FRAMES_MAX: usize = 64;
/// Acks are gathered this long before they are committed, because a commit is an fsync.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// After central stopped reading, for its reason to arrive.
const REASON_GRACE: Duration = Duration::from_secs(1);
/// For blocks that central already has to come out of this edge's own journal, where they must be.
const OWN_BLOCKS_TIMEOUT: Duration = Duration::from_secs(10);

/// Forwards one stream.
pub struct LinkSink {
    shared: Arc<Shared>,
    name: Arc<str>,
    /// What was logged last about this lane, to log it once.
    trouble: Option<String>,
    /// Schemas this edge's own registry lacks, logged once each.
    missing: BTreeSet<Fingerprint>,
    /// (central's last, our cursor) that was logged.
    behind: Option<(Seq, Seq)>,
}

/// Why a lane stream ended.
enum End {
    /// The feed ended or the node stops: done.
    Finished,
    /// The connection ended, which the link logs.
    Lost,
    /// Central refused the lane, or either end found the other breaking the protocol.
    Trouble(String),
    /// This sink cannot go on.
    Failed(deliver::Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        match error {
            Error::Lost { .. } | Error::Cut => End::Lost,
            other => End::Trouble(other.chain()),
        }
    }
}

impl From<deliver::Error> for End {
    fn from(error: deliver::Error) -> End {
        End::Failed(error)
    }
}

impl Sink for LinkSink {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, stop: Stop) -> BoxFuture<'a, Result<(), deliver::Error>> {
        Box::pin(self.forward(feed, stop))
    }
}

impl LinkSink {
    pub(super) fn new(shared: Arc<Shared>, name: Arc<str>) -> LinkSink {
        LinkSink { shared, name, trouble: None, missing: BTreeSet::new(), behind: None }
    }

    /// Opens the lane again and again until it is done.
    async fn forward(&mut self, feed: &mut dyn Feed, stop: Stop) -> Result<(), deliver::Error> {
        let _running = self.shared.lanes.token();
        let shared = Arc::clone(&self.shared);
        let mut backoff = Backoff::new(RETRY_FIRST, shared.settings.retry_max, shared.agent.epoch);
        while let Some(session) = shared.session(&stop).await {
            let since = Instant::now();
            match self.transfer(&session, feed, &stop).await {
                End::Finished => return Ok(()),
                End::Failed(error) => return Err(error),
                // The link paces new connections; a lane that slept beside it would miss them.
                End::Lost if session.connection.close_reason().is_some() => continue,
                End::Lost => {}
                End::Trouble(reason) => self.note_trouble(feed.stream(), &session.central, reason),
            }
            if since.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = stop.cancelled() => break,
            }
        }
        Ok(())
    }

    fn note_trouble(&mut self, stream: &str, central: &str, reason: String) {
        if self.trouble.as_ref() != Some(&reason) {
            tracing::warn!(stream, central, reason, "lane not forwarded: trying again");
            self.trouble = Some(reason);
        }
    }

    /// One lane stream, from open to end. What was acknowledged is committed however it ends.
    async fn transfer(&mut self, session: &Session, feed: &mut dyn Feed, stop: &Stop) -> End {
        let opened = tokio::select! {
            opened = self.open(session, feed.stream()) => opened,
            () = stop.cancelled() => return End::Finished,
        };
        let (send, reader, last) = match opened {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        if let Err(end) = self.align(feed, last, stop).await {
            return end;
        }
        let mut lane = Sending {
            window: Window::new(self.shared.settings.in_flight_max_bytes, last),
            queue: VecDeque::new(),
            offered: session.known.clone(),
            high: last,
        };
        let (frames_in, frames) = mpsc::channel(FRAMES_MAX);
        let (acks_in, acks) = watch::channel(last);
        let mut pipes = Pipes { frames: frames_in, acks: acks.clone() };
        let end = tokio::select! {
            biased;
            end = read_acks(reader, acks_in) => end,
            end = self.drive(feed, &mut lane, &mut pipes, stop) => end,
            end = write_frames(send, frames) => end,
        };
        match self.commit_rest(feed, &mut lane, &acks).await {
            Ok(()) => end,
            Err(end) => end,
        }
    }

    /// Opens the lane and hears where central goes on. There is no timeout: central may first have to wait for appends
    /// of an older connection, and a dead connection ends by itself.
    async fn open(&self, session: &Session, stream: &str) -> Result<(SendStream, FrameReader, Seq), End> {
        let (mut send, recv) = session.connection.open_bi().await.map_err(Error::from)?;
        let mut reader = FrameReader::new(recv);
        let open = LaneOpen { stream: stream.to_owned(), epoch: self.shared.agent.epoch };
        frame::write(&mut send, &Frame::LaneOpen(open)).await?;
        match reader.next().await? {
            Some(Frame::LaneReady(LaneReady { last })) => Ok((send, reader, last)),
            Some(Frame::LaneRefused(refused)) => Err(self.refused(stream, refused.reason, refused.retryable)),
            Some(other) => Err(End::from(other.unexpected("lane-ready"))),
            None => Err(End::Lost),
        }
    }

    fn refused(&self, stream: &str, reason: String, retryable: bool) -> End {
        if retryable {
            return End::Trouble(reason);
        }
        let (sink, stream) = (Arc::clone(&self.name), Arc::from(stream));
        End::Failed(deliver::Error::Stopped { sink, stream, reason })
    }

    /// Brings cursor and feed together with what central has.
    async fn align(&mut self, feed: &mut dyn Feed, last: Seq, stop: &Stop) -> Result<(), End> {
        let cursor = feed.cursor();
        feed.rewind(cursor.next);
        if last >= cursor.next {
            return self.skip(feed, last, stop).await;
        }
        if last + 1 < cursor.next && self.behind != Some((last, cursor.next)) {
            // What lies before the cursor was acknowledged, here or by another central, and may be delivered: sending
            // it again would deliver it twice.
            let (stream, cursor) = (feed.stream(), cursor.next);
            tracing::warn!(%stream, central_last = last, cursor, "central lacks acknowledged blocks: going on at the cursor");
            self.behind = Some((last, cursor));
        }
        Ok(())
    }

    /// Moves the cursor over blocks that central has: this edge ended between ack and commit. They are read, not
    /// sent, because the ledger counts their records.
    async fn skip(&self, feed: &mut dyn Feed, last: Seq, stop: &Stop) -> Result<(), End> {
        let state = feed.cursor().state;
        let mut next = feed.cursor().next;
        let mut delivered = 0;
        while next <= last {
            let read = tokio::select! {
                read = timeout(OWN_BLOCKS_TIMEOUT, feed.next_blocks(READ_BYTES)) => read,
                () = stop.cancelled() => return Err(End::Finished),
            };
            let Ok(blocks) = read else {
                let reason = format!(
                    "central has blocks up to {last} of this agent's epoch, the journal here ends before {next}: it is \
                     an older copy of a data directory; start with an empty one"
                );
                return Err(self.refused(feed.stream(), reason, false));
            };
            let Some(blocks) = blocks? else { return Err(End::Finished) };
            for (seq, block) in blocks {
                if seq <= last {
                    delivered += u64::from(block.record_count);
                }
                next = seq + 1;
            }
        }
        feed.commit(Progress { next: last + 1, state, delivered, dead: Vec::new() }).await?;
        feed.rewind(last + 1);
        Ok(())
    }

    /// Feeds the lane until the feed ends, then waits for the acks of what was sent.
    async fn drive(&mut self, feed: &mut dyn Feed, lane: &mut Sending, pipes: &mut Pipes, stop: &Stop) -> End {
        let state = feed.cursor().state;
        let mut committed = Instant::now();
        let mut deadline = None;
        loop {
            if deadline.is_some() && lane.window.is_empty() {
                return End::Finished;
            }
            let may_send = lane.queue.front().is_some_and(|(_, block)| lane.window.fits(block.stored_len()));
            let may_read = deadline.is_none() && lane.queue.is_empty() && lane.window.has_room();
            tokio::select! {
                biased;
                () = stop.cancelled(), if deadline.is_none() => {
                    lane.queue.clear();
                    deadline = Some(Instant::now() + STOP_GRACE);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return End::Finished;
                }
                Ok(()) = pipes.acks.changed() => {
                    let seq = *pipes.acks.borrow_and_update();
                    if let Err(error) = lane.window.acknowledge(seq) {
                        return error.into();
                    }
                    if lane.window.has_settled() && self.trouble.take().is_some() {
                        tracing::info!(stream = %feed.stream(), "lane forwarded again");
                    }
                }
                () = tokio::time::sleep_until(committed + COMMIT_EVERY), if lane.window.has_settled() => {
                    if let Err(error) = commit(feed, &mut lane.window, &state).await {
                        return error.into();
                    }
                    committed = Instant::now();
                }
                Ok(room) = pipes.frames.reserve(), if may_send => self.send_front(feed.stream(), lane, room),
                blocks = feed.next_blocks(READ_BYTES), if may_read => match blocks {
                    Ok(Some(blocks)) => lane.queue.extend(blocks),
                    // The feed ends because the node stops.
                    Ok(None) => deadline = Some(Instant::now() + STOP_GRACE),
                    Err(error) => return error.into(),
                },
            }
        }
    }

    /// Sends the next frame that the front block needs: its schema, the gap before it, or the block itself.
    fn send_front(&mut self, stream: &str, lane: &mut Sending, room: mpsc::Permit<'_, Frame>) {
        let Some((seq, block)) = lane.queue.front() else { return };
        let (seq, fingerprint) = (*seq, block.fingerprint);
        if lane.offered.insert(fingerprint) {
            self.shared.note_used(fingerprint);
            if let Some(schema) = (self.shared.schemas)(fingerprint) {
                let (name, descriptors) = (Bytes::copy_from_slice(&fingerprint.0), schema.descriptors.clone());
                let message = schema.message().to_owned();
                room.send(Frame::Schema(SchemaOffer { fingerprint: name, message, descriptors }));
                return;
            }
            // Central may have it from another edge; if not, it refuses the lane and the blocks stay here.
            if self.missing.insert(fingerprint) {
                tracing::error!(stream, %fingerprint, "schema of journaled blocks is missing here: sending them without");
            }
        }
        if seq > lane.high + 1 {
            lane.high = seq - 1;
            room.send(Frame::Gap(Gap { next: seq }));
            return;
        }
        let Some((seq, block)) = lane.queue.pop_front() else { return };
        lane.high = lane.high.max(seq);
        lane.window.sent(seq, block.record_count, block.stored_len());
        telemetry::LINK_BLOCKS.add(1, &[("stream", stream)]);
        room.send(Frame::Block { seq, stored: block.encode() });
    }

    /// Commits what was acknowledged by the time the lane ended.
    async fn commit_rest(
        &self,
        feed: &mut dyn Feed,
        lane: &mut Sending,
        acks: &watch::Receiver<Seq>,
    ) -> Result<(), End> {
        let seq = *acks.borrow();
        lane.window.acknowledge(seq)?;
        let state = feed.cursor().state;
        commit(feed, &mut lane.window, &state).await?;
        Ok(())
    }
}

/// An open lane's state.
struct Sending {
    window: Window,
    /// Read from the feed, not yet sent.
    queue: VecDeque<(Seq, Block)>,
    /// Schemas central has, or has been sent on this lane. Per lane, because streams overtake one another.
    offered: BTreeSet<Fingerprint>,
    /// Highest seq that central has, was sent, or was declared missing.
    high: Seq,
}

/// What connects `drive` to the two that hold the stream.
struct Pipes {
    frames: mpsc::Sender<Frame>,
    acks: watch::Receiver<Seq>,
}

async fn commit(feed: &mut dyn Feed, window: &mut Window, state: &Bytes) -> Result<(), deliver::Error> {
    match window.take_settled(state) {
        Some(progress) => feed.commit(progress).await,
        None => Ok(()),
    }
}

/// Writes what `drive` made. Ends only when the stream is broken, or when the lane does.
async fn write_frames(mut send: SendStream, mut frames: mpsc::Receiver<Frame>) -> End {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = frame::write(&mut send, &frame).await {
            // `read_acks` will say why.
            tokio::time::sleep(REASON_GRACE).await;
            return error.into();
        }
    }
    std::future::pending().await
}

/// Publishes acks until the lane is refused or the stream ends.
async fn read_acks(mut reader: FrameReader, acks: watch::Sender<Seq>) -> End {
    loop {
        match reader.next().await {
            Ok(Some(Frame::Ack(ack))) => acks.send_replace(ack.seq),
            Ok(Some(Frame::LaneRefused(refused))) => return End::Trouble(refused.reason),
            Ok(Some(other)) => return other.unexpected("ack").into(),
            Ok(None) => return End::Lost,
            Err(error) => return error.into(),
        };
    }
}
