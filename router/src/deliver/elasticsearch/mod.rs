//! Elasticsearch and OpenSearch.
use std::time::Duration;

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
