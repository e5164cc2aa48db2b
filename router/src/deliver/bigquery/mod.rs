//! BigQuery, Storage Write API.
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Auth {
    /// No credentials: an emulator.
    None,
    /// Application default credentials.
    Default,
    ServiceAccountKey {
        path: std::path::PathBuf,
    },
    /// The metadata server (workload identity).
    Metadata,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub project: String,
    pub dataset: String,
    /// Table; `{stream}` is replaced by the stream's name.
    pub table: String,
    pub auth: Auth,
    /// REST endpoint; absent = Google's.
    pub rest_url: Option<String>,
    /// gRPC endpoint; `http://` = plaintext; absent = Google's.
    pub grpc_url: Option<String>,
    /// Bytes of rows in one append.
    pub request_max_bytes: usize,
    pub timeout: Duration,
    pub retry_max: Duration,
}
