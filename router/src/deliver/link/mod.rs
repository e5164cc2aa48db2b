//! The sink that forwards blocks to a central, as they lie in the journal: the edge's half of the link.
//! [`crate::link`] describes the protocol and the rules that make it exactly once.
//!
//! One [`Link`] per node keeps the connection: it tries the centrals in order, greets, and tries again when the
//! connection ends. Each stream has a [`LinkSink`] that opens its lane on whatever connection there is, sends what its
//! feed gives, and moves its cursor behind central's acks. While no central answers a lane waits; its blocks stay in
//! the journal, and nothing else happens however long it takes.

mod connect;
mod sink;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use connect::Link;
pub use sink::LinkSink;

use crate::record::Fingerprint;
use crate::schema::Schema;

/// Which acknowledgement moves the edge's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AckWhen {
    #[default]
    Journaled,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Centrals as host:port, tried in order.
    pub centrals: Vec<String>,
    pub ca_certificate: PathBuf,
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// Bytes sent and not yet acknowledged, per lane.
    pub in_flight_max_bytes: usize,
    pub connect_timeout: Duration,
    /// Keep-alive; three missed ones end the connection.
    pub keep_alive: Duration,
    pub retry_max: Duration,
}

/// Who this edge is.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Must be a DNS name in the certificate.
    pub id: Arc<str>,
    /// Drawn when the data directory was created.
    pub epoch: u64,
    /// Streams it is configured to forward; told to central for its operator.
    pub streams: Vec<Arc<str>>,
}

/// Finds the schema of a block. Must know whatever fingerprints lie in the journal, those of older `.proto` files too.
pub type SchemaSource = Arc<dyn Fn(Fingerprint) -> Option<Arc<Schema>> + Send + Sync>;
