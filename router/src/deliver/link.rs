//! The sink that forwards blocks to a central, as they lie in the journal.
use std::path::PathBuf;
use std::time::Duration;

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
