//! The source that accepts blocks from edges: central's half of the link. [`crate::link`] describes the protocol and
//! the rules that make it exactly once.
//!
//! A connection is a task that greets the edge and starts a task per lane stream. A lane reads blocks, checks them,
//! gathers what has arrived into one append, and acknowledges what the append made durable. Nothing is acknowledged
//! before, and a failed append ends the connection without an ack.
//!
//! Slowing down: while the journal is full an append waits, the lane stops reading, QUIC stops granting credit, and the
//! edge's lane waits with its blocks in its own journal.
//!
//! Memory is bounded: [`BUDGET_BYTES`] of blocks that wait to become durable, one frame per lane being read, and the
//! receive windows in front of them ([`crate::link::RECEIVE_BUFFERS`]). Room in the budget is taken when a frame is
//! whole, so that an edge that sends half a frame and goes silent holds none of it.
//!
//! What an edge does wrong hurts that edge alone: its connection is closed with a code and a reason, which it logs too.

mod append;
mod connection;
mod lane;
mod schemas;
mod turns;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::journal::Journal;
use crate::link::{CloseCode, Error, tls};
use crate::schema::registry::Registry;
use crate::tasks::Tasks;

/// Bytes of all edges' blocks that wait to become durable.
const BUDGET_BYTES: usize = 128 << 20;
/// Blocks are some 256 KiB raw. An edge may send larger ones (a record may be large), but not many at once.
const LARGE_BLOCK_BYTES: usize = 1 << 20;
const LARGE_BLOCKS_MAX: usize = 4;
/// Permits count KiB, because a semaphore's acquire takes 32 bits.
const PERMIT_BYTES: usize = 1 << 10;
const BUDGET_PERMITS: usize = BUDGET_BYTES / PERMIT_BYTES;
/// For the handshake, for hello, for the first frame of a lane.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// At shutdown: for appends under way and their acks.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Between two log lines about failed handshakes.
const FAILURE_LOG_EVERY: Duration = Duration::from_secs(10);
/// Streams that are refused, remembered so that each is logged once.
const REFUSED_STREAMS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub ca_certificate: PathBuf,
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// Edges at once; one more is refused until another leaves.
    pub connections_max: usize,
}

/// Whether central carries a stream. Asked whenever a lane opens, so that it may change while the node runs.
pub type StreamFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Accepts edges.
pub struct LinkSource {
    endpoint: quinn::Endpoint,
    connections: Arc<Semaphore>,
    connections_max: usize,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    journal: Journal,
    schemas: schemas::Schemas,
    accepts: StreamFilter,
    turns: turns::Turns,
    /// Counts hellos: of two connections of one agent the higher is the newer.
    generation: AtomicU64,
    refused_streams: Mutex<BTreeSet<String>>,
    /// Permits of `PERMIT_BYTES` for blocks on their way into the journal.
    budget: Arc<Semaphore>,
    failures: Mutex<Failures>,
    tasks: Tasks,
}

/// Handshakes that failed: anybody who finds the port can make them fail, so they are logged now and then.
#[derive(Default)]
struct Failures {
    logged: Option<Instant>,
    silent_count: u64,
}

impl LinkSource {
    /// Reads the certificates and binds the socket. Edges are served once [`LinkSource::run`] runs.
    /// Returns the address it is bound to as well, for `listen` with port 0.
    pub fn bind(
        settings: &Settings,
        journal: Journal,
        registry: Registry,
        accepts: StreamFilter,
        tasks: &Tasks,
    ) -> Result<(LinkSource, SocketAddr), Error> {
        let files = tls::Files {
            ca_certificate: &settings.ca_certificate,
            certificate: &settings.certificate,
            private_key: &settings.private_key,
        };
        let config = tls::server(&files, settings.connections_max)?;
        let bind = |source| Error::Bind { address: settings.listen, source };
        let endpoint = quinn::Endpoint::server(config, settings.listen).map_err(bind)?;
        let address = endpoint.local_addr().map_err(bind)?;
        let shared = Shared {
            schemas: schemas::Schemas::load(journal.clone(), registry)?,
            journal,
            accepts,
            turns: turns::Turns::default(),
            generation: AtomicU64::new(0),
            refused_streams: Mutex::default(),
            budget: Arc::new(Semaphore::new(BUDGET_PERMITS)),
            failures: Mutex::default(),
            tasks: tasks.clone(),
        };
        let connections = Arc::new(Semaphore::new(settings.connections_max));
        let connections_max = settings.connections_max;
        Ok((LinkSource { endpoint, connections, connections_max, shared: Arc::new(shared) }, address))
    }

    /// Serves edges until the node stops; returns when what was under way is acknowledged or the grace is over.
    pub async fn run(self) {
        let stop = self.shared.tasks.stop().clone();
        let mut was_full = false;
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = stop.cancelled() => None,
            };
            let Some(incoming) = incoming else { break };
            // From half of the connections on, addresses have to prove themselves, so that forged ones cannot use up
            // the rest.
            let is_crowded = self.connections.available_permits() < self.connections_max / 2;
            if is_crowded && !incoming.remote_address_validated() && incoming.may_retry() {
                // Fails only for those that may not.
                let _ = incoming.retry();
                continue;
            }
            match Arc::clone(&self.connections).try_acquire_owned() {
                Ok(slot) => {
                    was_full = false;
                    let shared = Arc::clone(&self.shared);
                    self.shared.tasks.spawn("link connection", async move {
                        connection::serve(shared, incoming).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    if !was_full {
                        tracing::warn!(remote = %incoming.remote_address(), "link connection refused: connections_max");
                    }
                    was_full = true;
                    incoming.refuse();
                }
            }
        }
        self.drain().await;
    }

    async fn drain(&self) {
        let idle = tokio::time::timeout(STOP_GRACE + Duration::from_secs(1), self.endpoint.wait_idle()).await;
        if idle.is_err() {
            self.endpoint.close(CloseCode::Stopping.code(), b"central is stopping");
            // A moment for the close frames to leave.
            let _ = tokio::time::timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
        }
    }
}

impl Shared {
    /// Counts a failed handshake. Where one may be logged again, returns how many were not.
    fn note_failure(&self) -> Option<u64> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.logged.is_some_and(|logged| logged.elapsed() < FAILURE_LOG_EVERY) {
            failures.silent_count += 1;
            return None;
        }
        failures.logged = Some(Instant::now());
        Some(std::mem::take(&mut failures.silent_count))
    }

    /// True the first time a stream is refused.
    fn note_refused(&self, stream: &str) -> bool {
        let mut refused = self.refused_streams.lock().unwrap_or_else(PoisonError::into_inner);
        refused.len() < REFUSED_STREAMS_MAX && refused.insert(stream.to_owned())
    }

    /// True where the stream had been refused.
    fn forget_refused(&self, stream: &str) -> bool {
        self.refused_streams.lock().unwrap_or_else(PoisonError::into_inner).remove(stream)
    }
}
