//! Where the stages meet: read -> process -> deliver -> commit.
//!
//! A [`Lane`] is one stream on this node. Its decider reads blocks in order, processes each once and commits verdicts,
//! dedup keys, dead letters and counts together. Each sink has a [`LaneFeed`]: it gets decided blocks in order, from the
//! lane's recent rows while it keeps up, else read back and replayed with the journaled verdicts. A sink that is down
//! holds back its own cursor and nothing else.
//!
//! Always: no sink sees a block before its decision is durable; a block is decided once, whatever crashes.

mod feed;
mod lane;
mod recent;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

use crate::deliver::retry::Backoff;
use crate::deliver::{self, Feed as _, Sink};
use crate::tasks::{self, Stop, Tasks};
use crate::telemetry;

pub use feed::LaneFeed;
pub use lane::{Kind, Lane};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A sink by the name that its cursor and the ledger know.
pub type NamedSink = (Arc<str>, Box<dyn Sink>);

/// Starts a lane's decider (unless only raw blocks are wanted) and one task for each sink.
pub async fn start(lane: &Arc<Lane>, sinks: Vec<NamedSink>, tasks: &Tasks) -> Result<(), deliver::Error> {
    for (name, sink) in sinks {
        let feed = LaneFeed::open(Arc::clone(lane), Arc::clone(&name), tasks.stop().clone())?;
        tasks.spawn("sink", run_sink(name, sink, feed, tasks.stop().clone()));
    }
    let preparing = Arc::clone(lane);
    let worker = tasks::blocking(move || preparing.worker()).await.map_err(|source| deliver::Error::Process {
        stream: Arc::clone(lane.stream()),
        reason: telemetry::chain(&source).to_string(),
    })?;
    if let Some(worker) = worker {
        tasks.spawn("decide", Arc::clone(lane).decide(worker, tasks.stop().clone()));
    }
    Ok(())
}

async fn run_sink(name: Arc<str>, mut sink: Box<dyn Sink>, mut feed: LaneFeed, stop: Stop) {
    let stream = Arc::clone(feed.stream());
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, 3);
    info!(%stream, sink = %name, next = feed.cursor().next, "sink started");
    loop {
        match sink.run(&mut feed, stop.clone()).await {
            Ok(()) => break info!(%stream, sink = %name, next = feed.cursor().next, "sink ended"),
            // The plugins cannot give the rows again just now. The rows are safe in the journal: ask once more.
            Err(reason @ deliver::Error::Process { .. }) if !stop.is_cancelled() => {
                if backoff.attempt() == 0 {
                    error!(%stream, sink = %name, error = %telemetry::chain(&reason), "sink waits for its plugins");
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
                feed.rewind(feed.cursor().next);
            }
            Err(reason) => {
                telemetry::DELIVER_PAUSED.set(1.0, &[("stream", &stream), ("sink", &name)]);
                break error!(%stream, sink = %name, error = %telemetry::chain(&reason), "sink stopped until the node restarts");
            }
        }
    }
}
