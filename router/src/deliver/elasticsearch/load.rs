//! One load: the rows of one pull, until each of their documents has a final answer.
//!
//! Its requests go one after the other, so that one load never has more than one body in memory; it keeps its place
//! among the loads while it waits, so however long an outage takes, no more than the loads in flight are held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::Item;
use super::docs::{self, Docs};
use super::nodes::{Answer, Nodes, Request};
use super::{ElasticsearchSink, Outage};
use crate::deliver::retry::Backoff;
use crate::record::{DeadLetter, Rows, Seq};
use crate::tasks::{self, Stop};
use crate::telemetry;

/// First delay after a failure; never more than the configured longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Failed attempts that are part of normal operation: connections are closed, nodes restart.
const ATTEMPTS_UNREMARKABLE: u32 = 3;

/// Where the loads of one stream go, and what they know of each other.
pub(super) struct Target {
    nodes: Arc<Nodes>,
    sink: Arc<str>,
    /// Stage in dead letters.
    stage: Arc<str>,
    path: String,
    is_gzipped: bool,
    retry_max: Duration,
    outage: Outage,
    /// Bytes of a request: as configured, then what the server turned out to take.
    request_max_bytes: AtomicUsize,
    /// The server took a request of ours: from then on a 400 is about the document in it.
    has_accepted: AtomicBool,
    /// Differs between loads, for the jitter.
    seed: AtomicU64,
}

/// What a load achieved: final answers for all its documents.
pub(super) struct Delivered {
    /// Seq behind the load's last block.
    pub(super) next: Seq,
    pub(super) records: u64,
    pub(super) dead: Vec<DeadLetter>,
}

impl Target {
    pub(super) fn new(nodes: Arc<Nodes>, index: &str, outage: Outage, sink: &ElasticsearchSink) -> Target {
        let index: String = index.bytes().map(escape).collect();
        Target {
            nodes,
            sink: sink.name.clone(),
            stage: format!("sink:{}", sink.name).into(),
            path: format!("{index}/_bulk"),
            is_gzipped: sink.settings.gzip,
            retry_max: sink.settings.retry_max,
            outage,
            request_max_bytes: AtomicUsize::new(sink.settings.request_max_bytes.max(1)),
            has_accepted: AtomicBool::new(false),
            seed: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
        }
    }

    fn backoff(&self) -> Backoff {
        let seed = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        Backoff::new(RETRY_FIRST.min(self.retry_max), self.retry_max, seed)
    }

    fn count_retry(&self, reason: &'static str) {
        telemetry::DELIVER_RETRIES.add(1, &[("sink", &self.sink), ("reason", reason)]);
    }
}

/// Percent-encodes what an index name should not have, so that it cannot become another path.
fn escape(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

/// Delivers a load; `None` where it was stopped before every document had its final answer.
pub(super) async fn deliver(target: Arc<Target>, blocks: Vec<Rows>, stop: Stop) -> Option<Delivered> {
    let next = blocks.last().map_or(0, |rows| rows.seq + 1);
    let stage = target.stage.clone();
    let mut docs = tasks::blocking(move || Docs::render(blocks, &stage)).await;
    let mut delivered = Delivered { next, records: 0, dead: std::mem::take(&mut docs.refused) };
    let mut sending = Sending {
        todo: docs.requests(target.request_max_bytes.load(Ordering::Relaxed)).into(),
        backoff: target.backoff(),
        docs: Arc::new(docs),
        target,
    };
    while let Some(request) = sending.todo.pop_front() {
        let outcome = sending.send(request, &mut delivered).await;
        if let Some(reason) = outcome {
            sending.target.count_retry(reason);
            let delay = sending.backoff.next_delay();
            stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
        } else {
            sending.backoff.reset();
        }
    }
    Some(delivered)
}

struct Sending {
    target: Arc<Target>,
    docs: Arc<Docs>,
    /// Requests still to be made, as document indexes.
    todo: VecDeque<Vec<usize>>,
    backoff: Backoff,
}

impl Sending {
    /// Makes one request and puts back what of it is still to be done, with the reason to wait before that.
    async fn send(&mut self, request: Vec<usize>, delivered: &mut Delivered) -> Option<&'static str> {
        let answer = match self.prepare(&request).await {
            Ok(prepared) => self.target.nodes.send(&prepared).await,
            Err(reason) => Answer::Unavailable(reason),
        };
        let (class, reason) = match answer {
            Answer::AllCreated => {
                delivered.records += request.len() as u64;
                self.accepted();
                return None;
            }
            Answer::Items(items) => return self.settle(request, items, delivered),
            Answer::TooLarge(reason) => {
                let half = self.docs.len_bytes(&request) / 2;
                self.target.request_max_bytes.fetch_min(half.max(1), Ordering::Relaxed);
                return self.split(request, reason, delivered);
            }
            Answer::Refused(reason) if request.len() > 1 || self.target.has_accepted.load(Ordering::Relaxed) => {
                return self.split(request, reason, delivered);
            }
            Answer::Refused(reason) | Answer::Paused(reason) => ("paused", reason),
            Answer::Unavailable(reason) => ("unavailable", reason),
            Answer::InDoubt(reason) => ("in_doubt", reason),
        };
        if class == "paused" || self.backoff.attempt() >= ATTEMPTS_UNREMARKABLE {
            self.target.outage.began(&reason);
        }
        self.todo.push_front(request);
        Some(class)
    }

    async fn prepare(&self, request: &[usize]) -> Result<Request, String> {
        let body = self.docs.body(request);
        let is_gzipped = self.target.is_gzipped;
        let body = match is_gzipped {
            true => tasks::blocking(move || docs::gzip(&body)).await.map_err(|error| format!("compress: {error}"))?,
            false => body,
        };
        Ok(Request { path: self.target.path.clone(), body, is_gzipped, count: request.len() })
    }

    /// Takes each document's outcome; those without a final one are put back alone.
    fn settle(&mut self, request: Vec<usize>, items: Vec<Item>, delivered: &mut Delivered) -> Option<&'static str> {
        self.target.has_accepted.store(true, Ordering::Relaxed);
        let (mut rest, mut paused) = (Vec::new(), None);
        let sent = request.len();
        for (index, item) in request.into_iter().zip(items) {
            match item {
                Item::Delivered => delivered.records += 1,
                Item::Dead(reason) => delivered.dead.push(self.docs.dead_letter(index, &self.target.stage, reason)),
                Item::Again(_) => rest.push(index),
                Item::Paused(reason) => {
                    paused.get_or_insert(reason);
                    rest.push(index);
                }
            }
        }
        match &paused {
            Some(reason) => self.target.outage.began(reason),
            None => self.target.outage.ended(),
        }
        if rest.is_empty() {
            return None;
        }
        if rest.len() < sent {
            self.backoff.reset();
        }
        self.todo.push_front(rest);
        Some(if paused.is_some() { "paused" } else { "throttled" })
    }

    /// Puts a refused request back in halves; a document that is refused alone is a dead letter.
    fn split(&mut self, mut request: Vec<usize>, reason: String, delivered: &mut Delivered) -> Option<&'static str> {
        if let [index] = request[..] {
            delivered.dead.push(self.docs.dead_letter(index, &self.target.stage, reason));
            return None;
        }
        let second = request.split_off(request.len() / 2);
        self.todo.push_front(second);
        self.todo.push_front(request);
        self.target.count_retry("split");
        None
    }

    fn accepted(&self) {
        self.target.has_accepted.store(true, Ordering::Relaxed);
        self.target.outage.ended();
    }
}
