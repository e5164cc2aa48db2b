//! Accepts records over HTTP/1.1 and HTTP/2.
//!
//! `POST /v1/streams/{stream}/records` with one of
//!
//! | Content-Type | body |
//! |---|---|
//! | `application/x-protobuf`, `application/x-protobuf-delimited` | messages of the stream's schema, each behind its varint length |
//! | `application/x-ndjson`, `application/json` | one JSON object per line; blank lines count for nothing |
//!
//! and `Content-Encoding` `gzip`, `zstd` or none. Answers, all JSON:
//!
//! | status | meaning | body |
//! |---|---|---|
//! | 200 | all records are durable | `{"accepted":n}` |
//! | 400 | the accepted are durable, the refused are dead letters: send neither again | `{"accepted":n,"refused_count":m,"refused":[{"index":i,"reason":"…"}]}` |
//! | 400 | the body itself cannot be read: nothing was kept | `{"error":"…"}`, as all below |
//! | 404, 405, 408, 411, 413, 415 | the request has to change | what is allowed |
//! | 429 | too much in flight, or the journal is full: again after `Retry-After` | |
//! | 503 | stopping, the journal failed or is late: again, perhaps elsewhere | |
//!
//! `index` counts records from 0. Of refused records the first 100 are listed. When 1,000 of a request are refused the rest is
//! not looked at, and `"unread_from":i` says from which record on it has to be sent again.
//!
//! What always holds:
//! - 200 and 400 with `accepted` come after the fsync. Requests share blocks: each waits for the block its records are in.
//! - A client that gets no answer, or 503, does not know whether its records are durable. It sends them again; a stream
//!   whose clients do needs a dedup plugin.
//! - Memory is bounded: bodies, decompressed ones too, by `in_flight_max_bytes` in total, connections by
//!   [`CONNECTIONS_MAX`], and no client may take its time ([`Patience`]).
//! - When the node stops no request is taken any more, and every request that was taken is answered.

mod answer;
mod body;
mod connection;
mod records;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Error;
use super::gather::{Feeder, Gatherer, Origin};
use crate::clock::Clock;
use crate::journal::Journal;
use crate::schema::Schema;
use crate::tasks::{Stop, Tasks};

/// Connections at a time. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// After an `accept` that failed, which is for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Larger bodies are answered 413.
    pub body_max_bytes: usize,
    /// Bodies being handled at once, in bytes; beyond it requests are answered 429.
    pub in_flight_max_bytes: usize,
    pub gather: super::gather::Settings,
}

/// How long clients, and the journal, may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For a request's headers.
    headers: Duration,
    /// Between two pieces of a body.
    pause: Duration,
    /// For a whole body.
    body: Duration,
    /// Of a connection without a request.
    idle: Duration,
    /// For records to become durable: below the usual timeout of clients, so that they hear the reason.
    durable: Duration,
}

const PATIENCE: Patience = Patience {
    headers: Duration::from_secs(10),
    pause: Duration::from_secs(10),
    body: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    durable: Duration::from_secs(25),
};

/// What all requests share.
struct Service {
    inputs: BTreeMap<Arc<str>, Input>,
    body_max_bytes: usize,
    /// A permit is a byte.
    in_flight: Arc<Semaphore>,
    patience: Patience,
    journal: Journal,
    clock: Clock,
    stop: Stop,
}

/// A stream that takes records.
struct Input {
    origin: Origin,
    feeder: Feeder,
}

/// Accepts records over HTTP.
pub struct HttpSource;

impl HttpSource {
    /// Starts to listen, and returns the address (port 0 gets a free one). Requests are taken until `tasks` are to stop;
    /// those taken by then are answered, and all tasks end when the last is.
    pub async fn bind(
        settings: Settings,
        streams: BTreeMap<Arc<str>, Arc<Schema>>,
        journal: Journal,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<SocketAddr, Error> {
        let failed = |source| Error::Listen { listen: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = Service::start(&settings, streams, (journal, clock), PATIENCE, tasks);
        tasks.spawn("http-accept", accept(listener, Arc::new(service), tasks.clone()));
        Ok(address)
    }
}

impl Service {
    /// Starts a gatherer per stream. They end when the service is dropped and all that was fed is durable.
    fn start(
        settings: &Settings,
        streams: BTreeMap<Arc<str>, Arc<Schema>>,
        (journal, clock): (Journal, Clock),
        patience: Patience,
        tasks: &Tasks,
    ) -> Service {
        let start = |(stream, schema): (Arc<str>, Arc<Schema>)| {
            let origin = Origin { source: "http".into(), stream: Arc::clone(&stream), schema };
            let (feeder, gatherer) = Gatherer::new(origin.clone(), settings.gather, journal.clone());
            tasks.spawn("http-gather", gather(gatherer, tasks.stop().clone()));
            (stream, Input { origin, feeder })
        };
        Service {
            inputs: streams.into_iter().map(start).collect(),
            body_max_bytes: settings.body_max_bytes,
            in_flight: Arc::new(Semaphore::new(settings.in_flight_max_bytes.min(Semaphore::MAX_PERMITS))),
            patience,
            journal,
            clock,
            stop: tasks.stop().clone(),
        }
    }
}

/// Requests are answered 503 once their gatherer has ended; the reason is told here.
async fn gather(gatherer: Gatherer, stop: Stop) {
    if let Err(error) = gatherer.run(stop).await {
        tracing::error!(error = &error as &(dyn std::error::Error + 'static), "http source ended");
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>, tasks: Tasks) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut failing = false;
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&connections).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = tasks.stop().cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((socket, _peer)) => {
                failing = false;
                let connection = connection::serve(socket, Arc::clone(&service), tasks.clone());
                tasks.spawn("http-connection", async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "connection cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
