//! The committer: the one thread that writes to the store.
//!
//! It takes a group of requests, works out what they change ([`Working`]), puts all of it into one batch, applies the batch,
//! flushes once, publishes the facts, and only then answers everyone in the group. Trimming and expiry ride
//! along in the same batches, a bounded number of keys each time, so they cost no fsync of their own while there is
//! traffic and never hold up a commit for long.
//!
//! A request that cannot be done (a decision out of order) is answered with its error and changes nothing. A
//! store that fails ends it all: every waiter, and everyone who comes later, is told [`Error::Poisoned`].

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::facts::Working;
use super::keys::{self, LaneId};
use super::queue::{Answer, Group, GroupLimits, Idle, Request};
use super::space::{KEY_BYTES, Reservation};
use super::store::{Batch, Store};
use super::{Error, Shared, lock, values};
use crate::record::{DeadLetter, Seq};
use crate::telemetry;

/// Keys that one commit trims or expires of each lane at most, beside what it adds.
const TRIM_MAX_KEYS: usize = 512;
/// How long trimming waits for a commit that it can share.
const TRIM_DELAY: Duration = Duration::from_millis(50);
/// How often a full journal looks whether room came from outside (another program's files, the store's own cleaning).
const FULL_RECHECK: Duration = Duration::from_millis(100);

/// What a waiter gets once the commit is durable.
enum Reply {
    Seqs(Answer<Vec<Seq>>, Vec<Seq>),
    Done(Answer<()>),
}

impl Reply {
    fn send(self) {
        // A waiter that went away does not need the answer; what it asked for is done all the same.
        match self {
            Reply::Seqs(answer, seqs) => drop(answer.send(Ok(seqs))),
            Reply::Done(answer) => drop(answer.send(Ok(()))),
        }
    }

    fn fail(self, error: Error) {
        match self {
            Reply::Seqs(answer, _) => drop(answer.send(Err(error))),
            Reply::Done(answer) => drop(answer.send(Err(error))),
        }
    }
}

/// Seen-set buckets to drop, and who waits for it.
pub(super) struct Expiry {
    pub lane: LaneId,
    pub before_seconds: u64,
    pub answer: Answer<()>,
}

/// One commit as it is put together.
#[derive(Default)]
pub(super) struct Commit {
    pub batch: Batch,
    replies: Vec<Reply>,
    /// Held until the space they stand for is counted as live.
    reservations: Vec<Reservation>,
    pub appended_bytes: u64,
    /// More to trim or expire than this commit took.
    pub more: bool,
    /// A cursor moved, or there are too many dead letters.
    pub trim_soon: bool,
}

/// What a commit left to be trimmed or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// What the cursors it made durable have passed.
    Trim,
    /// More than one commit takes.
    Backlog,
}

pub(super) struct Committer {
    pub shared: Arc<Shared>,
    pub store: Arc<dyn Store>,
    pub working: Working,
    pub limits: GroupLimits,
    pub expiries: VecDeque<Expiry>,
}

impl Committer {
    /// Runs until the queue is closed and empty, or the store fails.
    pub(super) fn run(mut self) {
        let mut expected = 1;
        let mut left = Left::Trim;
        loop {
            let is_full = self.shared.space.is_full();
            let idle = match left {
                Left::Backlog => Idle::Work,
                Left::Trim if is_full => Idle::Work,
                Left::Trim => Idle::Wake(TRIM_DELAY),
                Left::Nothing if is_full => Idle::Wake(FULL_RECHECK),
                Left::Nothing => Idle::Wait,
            };
            let Group { requests, closed } = self.shared.queue.take(self.limits, expected, idle);
            if !requests.is_empty() {
                expected = requests.len();
            }
            // What panics inside a store has broken it like any error would.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit(requests)));
            let failure = match outcome {
                Ok(Ok(now_left)) => {
                    left = now_left;
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_panic) => Some("the committer panicked".to_owned()),
            };
            if let Some(reason) = failure {
                self.shared.poison(&reason);
                self.drain();
                return;
            }
            if closed && self.expiries.is_empty() {
                return;
            }
        }
    }

    /// Answers what is still queued; nothing comes after it, for the queue is closed.
    fn drain(&mut self) {
        loop {
            let Group { requests, closed } = self.shared.queue.take(self.limits, 1, Idle::Work);
            // Dropping a request drops its answer, which its waiter reads as the journal's failure.
            drop(requests);
            if closed {
                break;
            }
        }
        self.expiries.clear();
    }

    /// Makes a group durable and answers it. Returns what it left to trim.
    fn commit(&mut self, requests: Vec<Request>) -> io::Result<Left> {
        let mut commit = Commit::default();
        // First what earlier commits made possible: a block is deleted only after the cursor that passed it is durable.
        self.trim(&mut commit)?;
        self.drop_oldest_dead(&mut commit)?;
        self.expire(&mut commit)?;
        for request in requests {
            self.request(request, &mut commit)?;
        }
        self.working.write(&mut commit.batch);
        if !commit.batch.is_empty()
            && let Err(error) = self.store.apply(commit.batch).and_then(|()| self.store.flush())
        {
            let reason: Arc<str> = error.to_string().into();
            for reply in commit.replies {
                reply.fail(Error::Poisoned { reason: reason.to_string() });
            }
            return Err(error);
        }
        self.publish()?;
        drop(commit.reservations);
        commit.replies.into_iter().for_each(Reply::send);
        telemetry::JOURNAL_COMMITS.add(1, &[]);
        telemetry::JOURNAL_APPENDED_BYTES.add(commit.appended_bytes, &[]);
        Ok(match commit {
            Commit { more: true, .. } => Left::Backlog,
            Commit { trim_soon: true, .. } => Left::Trim,
            Commit { .. } => Left::Nothing,
        })
    }

    fn publish(&mut self) -> io::Result<()> {
        let mut facts = lock(&self.shared.facts);
        self.working.publish(&mut facts);
        let blocks = facts.live_bytes();
        let live = blocks + facts.dead.get(&()).map_or(0, |dead| dead.bytes);
        let ends: Vec<(Arc<str>, Seq)> = facts
            .names
            .iter()
            .map(|(stream, lane)| (Arc::clone(stream), facts.lanes.get(lane).map_or(1, |lane| lane.next)))
            .collect();
        drop(facts);
        self.shared.publish_ends(&ends);
        let disk = self.shared.space.measure(live)?;
        telemetry::JOURNAL_LIVE_BYTES.set(blocks as f64, &[]);
        telemetry::JOURNAL_DISK_BYTES.set(disk as f64, &[]);
        telemetry::JOURNAL_FULL.set(if self.shared.space.is_full() { 1.0 } else { 0.0 }, &[]);
        Ok(())
    }

    fn request(&mut self, request: Request, commit: &mut Commit) -> io::Result<()> {
        let (answer, outcome) = match request {
            Request::Append { append, reservation, answer } => {
                let seqs = self.append(append, commit);
                commit.reservations.push(reservation);
                commit.replies.push(Reply::Seqs(answer, seqs));
                return Ok(());
            }
            Request::Quarantine { stream, seq } => return self.quarantine(&stream, seq, commit),
            Request::Expire { stream, before_seconds, answer } => {
                let Some(&lane) = self.working.names.get(&stream) else {
                    commit.replies.push(Reply::Done(answer));
                    return Ok(());
                };
                self.expiries.push_back(Expiry { lane, before_seconds, answer });
                commit.more = true;
                return Ok(());
            }
            Request::Decide { decisions, answer } => (answer, self.decide(decisions, commit)?),
            Request::Advance { advance, answer } => (answer, self.advance(advance, commit)),
            Request::Schema { fingerprint, message, descriptors, answer } => {
                commit.batch.put(keys::schema(fingerprint), values::encode_schema(&message, &descriptors));
                (answer, Ok(()))
            }
        };
        match outcome {
            Ok(()) => commit.replies.push(Reply::Done(answer)),
            Err(error) => drop(answer.send(Err(error))),
        }
        Ok(())
    }

    pub(super) fn done(commit: &mut Commit, answer: Answer<()>) {
        commit.replies.push(Reply::Done(answer));
    }

    /// Adds a dead letter to the commit.
    pub(super) fn put_dead(&mut self, letter: &DeadLetter, commit: &mut Commit) {
        let value = values::encode_dead_letter(letter);
        let bounds = self.working.dead.change(());
        commit.batch.put(keys::dead(bounds.next), value.clone());
        bounds.next += 1;
        bounds.bytes += value.len() as u64 + KEY_BYTES;
        commit.trim_soon |= bounds.bytes > self.shared.dead_letter_max_bytes;
    }

    /// Deletes the oldest dead letters above their bound. Only letters of earlier commits: the bound may be passed by one
    /// group.
    fn drop_oldest_dead(&mut self, commit: &mut Commit) -> io::Result<()> {
        let Some(&bounds) = self.working.dead.get(&()) else { return Ok(()) };
        let mut left = bounds;
        let (from, to) = (keys::dead(bounds.first), keys::dead(bounds.next));
        let max_bytes = self.shared.dead_letter_max_bytes;
        if bounds.bytes <= max_bytes {
            return Ok(());
        }
        self.store.range(&from, &to, &mut |key, value: Bytes| {
            // The newest stays, however large: it is what the operator looks for.
            let dropped = left.dropped - bounds.dropped;
            if left.bytes <= max_bytes || left.first + 1 >= left.next || dropped >= TRIM_MAX_KEYS as u64 {
                return ControlFlow::Break(());
            }
            commit.batch.remove(key.to_vec());
            left.first += 1;
            left.dropped += 1;
            left.bytes = left.bytes.saturating_sub(value.len() as u64 + KEY_BYTES);
            ControlFlow::Continue(())
        })?;
        if left != bounds {
            commit.more = true;
            telemetry::JOURNAL_DEAD_DROPPED.add(left.dropped - bounds.dropped, &[]);
            self.working.dead.insert((), left);
        }
        Ok(())
    }
}

pub(super) const fn trim_max_keys() -> usize {
    TRIM_MAX_KEYS
}
