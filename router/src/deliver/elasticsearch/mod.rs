//! Elasticsearch and OpenSearch, through `_bulk`.
//!
//! Each pull from the feed becomes one *load*: its rows are rendered as documents, cut into requests, and sent until
//! every single document has an answer that is final. Several loads are under way at a time; the cursor only follows
//! the oldest ones, so it never passes a document without a final answer. Nothing is journaled before a request is
//! sent: a document is created under the record's id, so a repetition after a crash is answered 409 and counts as
//! delivered.
//!
//! | answer | what it means here |
//! |---|---|
//! | item 201, 409 version conflict | delivered |
//! | item 400, or diverted to a failure store | dead letter, durable with the cursor |
//! | item 429, 5xx | that document again, after a delay |
//! | 401, 403, 404, an index block | paused: nothing is given up, the operator is told once |
//! | 413, 400 for the whole request | half as many documents; a single one is a dead letter |
//! | no answer, a cut or an unreadable one | in doubt: the same documents again |
//!
//! Limits: an `_id` is unique within one concrete index, so an index that is rolled over between a request in doubt
//! and its repetition can hold a record twice. Timestamps keep their nanoseconds.

mod answer;
mod docs;
mod load;
mod nodes;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt as _};

use self::load::{Delivered, Target};
use self::nodes::Nodes;
use super::outage::Outage;
use super::{Error, Feed, Progress, Sink};
use crate::tasks::Stop;

/// Time that requests in flight get to finish after the node was asked to stop. What is cut off then is in doubt and
/// is sent again at the next start.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How often to look for new blocks while older ones are under way.
const READY_TICK: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub enum Auth {
    None,
    Basic { user: String, password: String },
    ApiKey { encoded: String },
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Nodes, tried in turn.
    pub urls: Vec<String>,
    pub auth: Auth,
    /// Index, alias or data stream; `{stream}` is replaced by the stream's name.
    pub index: String,
    /// Bytes of one `_bulk` request before compression.
    pub request_max_bytes: usize,
    pub gzip: bool,
    /// Requests in flight per stream.
    pub in_flight_max: usize,
    pub timeout: Duration,
    pub retry_max: Duration,
}

/// Delivers streams to one cluster.
#[derive(Debug)]
pub struct ElasticsearchSink {
    name: Arc<str>,
    settings: Settings,
    nodes: Arc<Nodes>,
}

impl ElasticsearchSink {
    /// Fails where an address or a credential cannot be used at all; nothing is connected yet.
    pub fn new(name: Arc<str>, settings: Settings) -> Result<ElasticsearchSink, Error> {
        let nodes = Nodes::new(&settings).map_err(|reason| Error::Stopped {
            sink: name.clone(),
            stream: "*".into(),
            reason,
        })?;
        Ok(ElasticsearchSink { name, settings, nodes: Arc::new(nodes) })
    }

    fn target(&self, stream: &Arc<str>) -> Arc<Target> {
        let index = self.settings.index.replace("{stream}", stream);
        Arc::new(Target::new(self.nodes.clone(), &index, Outage::new(&self.name, stream), self))
    }

    /// Pulls, sends and commits until the feed ends or `stop`.
    async fn deliver(&self, feed: &mut dyn Feed, stop: &Stop) -> Result<(), Error> {
        let target = self.target(feed.stream());
        let mut loads = FuturesOrdered::new();
        let mut has_ended = false;
        loop {
            let can_pull = !has_ended && !stop.is_cancelled() && loads.len() < self.settings.in_flight_max.max(1);
            if can_pull && (loads.is_empty() || feed.is_ready()) {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    pulled = feed.next(self.settings.request_max_bytes) => match pulled? {
                        Some(blocks) => loads.push_back(load::deliver(target.clone(), blocks, stop.clone())),
                        None => has_ended = true,
                    },
                }
                continue;
            }
            tokio::select! {
                delivered = loads.next() => match delivered {
                    Some(Some(delivered)) => {
                        let delivered = with_all_ready(delivered, &mut loads);
                        self.commit(feed, delivered).await?;
                    }
                    // Stopped between two attempts, or nothing is under way any more.
                    Some(None) | None => return Ok(()),
                },
                () = tokio::time::sleep(READY_TICK), if can_pull => {}
            }
        }
    }

    async fn commit(&self, feed: &mut dyn Feed, delivered: Delivered) -> Result<(), Error> {
        let state = feed.cursor().state;
        let Delivered { next, records, dead, .. } = delivered;
        feed.commit(Progress { next, state, delivered: records, dead }).await
    }
}

impl Sink for ElasticsearchSink {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, stop: Stop) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let grace = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            tokio::select! {
                biased;
                ended = self.deliver(feed, &stop) => ended,
                () = grace => Ok(()),
            }
        })
    }
}

/// Adds what is complete by now to the oldest, so that one commit serves all of it.
fn with_all_ready<F>(mut delivered: Delivered, loads: &mut FuturesOrdered<F>) -> Delivered
where
    F: Future<Output = Option<Delivered>>,
{
    while let Some(Some(Some(next))) = loads.next().now_or_never() {
        delivered.next = next.next;
        delivered.records += next.records;
        delivered.dead.extend(next.dead);
    }
    delivered
}
