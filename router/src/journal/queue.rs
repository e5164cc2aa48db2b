//! The way of a change to the committer: one bounded queue, taken in groups.
//!
//! Bound: what waits here takes at most [`QUEUE_MAX_BYTES`]; who comes then waits its turn. The room a request takes is
//! given back when the committer takes it, so that at most one queue and one group are in memory.
//!
//! When a group is closed: a group shares one fsync, so it pays to wait for others that are about to come, and only
//! then. A request that meets an idle journal is committed at once. Whatever arrives during that commit is the next
//! group. A group waits, up to `max_delay` behind its first request, only until it holds as many requests as the group
//! before: those were answered a moment ago and are the ones about to return. One lone source therefore never
//! waits, and a hundred of them share an fsync.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::space::Reservation;
use super::{Advance, Append, Decision, Error};
use crate::record::{Fingerprint, Seq};

/// What may wait for the committer; more than one request above it waits alone.
const QUEUE_MAX_BYTES: usize = 16 << 20;
/// Room is counted in these.
const ROOM_BYTES: usize = 1 << 10;
const ROOM: usize = QUEUE_MAX_BYTES / ROOM_BYTES;
/// After this long without a request the last group says nothing about the next.
const IDLE: Duration = Duration::from_millis(50);

pub(super) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A change to the journal and who waits for it.
pub(super) enum Request {
    Append {
        append: Append,
        reservation: Reservation,
        answer: Answer<Vec<Seq>>,
    },
    Decide {
        decisions: Vec<Decision>,
        answer: Answer<()>,
    },
    Advance {
        advance: Advance,
        answer: Answer<()>,
    },
    Schema {
        fingerprint: Fingerprint,
        message: Arc<str>,
        descriptors: Bytes,
        answer: Answer<()>,
    },
    Expire {
        stream: Arc<str>,
        before_seconds: u64,
        answer: Answer<()>,
    },
    /// A block that a reader found damaged.
    Quarantine {
        stream: Arc<str>,
        seq: Seq,
    },
}

/// When a group is closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    pub max_delay: Duration,
    pub max_bytes: usize,
}

/// What the committer is to do when nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// Wait for the next request or nudge.
    Wait,
    /// Come back after this long: someone waits for space, which may also come from outside.
    Wake(Duration),
    /// Come back at once: there is trimming to do.
    Work,
}

pub(super) struct Group {
    pub requests: Vec<Request>,
    /// Nothing comes any more: this was the last group.
    pub closed: bool,
}

struct Queued {
    request: Request,
    bytes: usize,
    /// Gives the room back when the request is taken.
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Queued>,
    bytes: usize,
    /// When the first of `requests` came.
    since: Option<Instant>,
    nudged: bool,
    closed: bool,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue { waiting: Mutex::default(), changed: Condvar::new(), room: Arc::new(Semaphore::new(ROOM)) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, then queues the request. False where the queue is closed; the request is gone then.
    pub(super) async fn push(&self, request: Request, bytes: usize) -> bool {
        let units = bytes.div_ceil(ROOM_BYTES).clamp(1, ROOM) as u32;
        match Arc::clone(&self.room).acquire_many_owned(units).await {
            Ok(permit) => self.add(request, bytes, Some(permit)),
            Err(_closed) => false,
        }
    }

    /// Queues without waiting for room; for what there is at most one of per block.
    pub(super) fn push_now(&self, request: Request) -> bool {
        self.add(request, 0, None)
    }

    fn add(&self, request: Request, bytes: usize, room: Option<OwnedSemaphorePermit>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        waiting.requests.push_back(Queued { request, bytes, _room: room });
        waiting.bytes += bytes;
        waiting.since.get_or_insert_with(Instant::now);
        self.changed.notify_one();
        true
    }

    /// Makes the committer look at the sinks and the space again.
    pub(super) fn nudge(&self) {
        self.lock().nudged = true;
        self.changed.notify_one();
    }

    /// Takes no more requests; those queued are still handed out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.changed.notify_one();
    }

    /// Waits for requests and takes a group of them; `expected` is how many the group before held.
    pub(super) fn take(&self, limits: GroupLimits, expected: usize, idle: Idle) -> Group {
        let started = Instant::now();
        let mut waiting = self.lock();
        while waiting.requests.is_empty() && !waiting.closed && !std::mem::take(&mut waiting.nudged) {
            match idle {
                Idle::Work => break,
                Idle::Wait => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Idle::Wake(after) => {
                    let Some(left) = after.checked_sub(started.elapsed()) else { break };
                    waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        let expected = if started.elapsed() > IDLE { 1 } else { expected };
        while let Some(since) = waiting.since {
            if waiting.closed || waiting.requests.len() >= expected || waiting.bytes >= limits.max_bytes {
                break;
            }
            let Some(left) = limits.max_delay.checked_sub(since.elapsed()) else { break };
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        take_group(&mut waiting, limits.max_bytes)
    }
}

/// Takes requests up to `max_bytes`, at least one if there is one.
fn take_group(waiting: &mut Waiting, max_bytes: usize) -> Group {
    let mut requests = Vec::with_capacity(waiting.requests.len());
    let mut taken = 0;
    while let Some(Queued { bytes, .. }) = waiting.requests.front() {
        if !requests.is_empty() && taken + bytes > max_bytes {
            break;
        }
        taken += bytes;
        requests.extend(waiting.requests.pop_front().map(|queued| queued.request));
    }
    waiting.bytes -= taken;
    waiting.since = (!waiting.requests.is_empty()).then(Instant::now);
    Group { closed: waiting.closed && waiting.requests.is_empty(), requests }
}
