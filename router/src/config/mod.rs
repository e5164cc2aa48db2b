//! Configuration: keys as the user writes them -> checked `Settings` per stage.
//!
//! ```text
//! text ──tree──► values with places ──expand──► ${...} replaced ──shape──► file::Config ──settings──► Settings
//! ```
//!
//! `load` does all of it and is the only way in. Every step reports all it finds wrong, by key path, and the tree knows
//! the line and column of each path. Always: `Settings` satisfy every rule that can be checked without touching what
//! they name (certificates, plugins, ports), and no secret appears in a problem or in what `sluice check` prints. The
//! `Settings` themselves do hold secrets: they are never printed or logged.

mod expand;
pub mod file;
mod load;
mod problem;
mod settings;
mod shape;
mod tree;
pub mod units;

#[cfg(test)]
mod tests;

pub use load::{Error, Loaded, load, load_with};
pub use problem::Problems;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::LogFormat;
use crate::{admin, deliver, ingest, journal, process, schema};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sources -> journal -> link.
    Edge,
    /// Link (and its own sources) -> journal -> plugins, dedup -> sinks.
    Central,
    /// Everything in one process, no link.
    Solo,
}

/// All of a node's settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    /// This node's name: agent id of an edge.
    pub agent: Arc<str>,
    pub data_directory: PathBuf,
    pub log_format: LogFormat,
    /// `tracing` filter, as in RUST_LOG.
    pub log_filter: String,
    /// Longest drain after SIGTERM.
    pub drain_deadline: Duration,
    pub journal: journal::Settings,
    pub schema: schema::Settings,
    pub admin: Option<admin::Settings>,
    pub plugins: process::plugin::HostSettings,
    pub file_sources: Vec<ingest::file::Settings>,
    pub http_source: Option<ingest::http::Settings>,
    pub link_source: Option<ingest::link::Settings>,
    pub streams: Vec<Stream>,
    pub sinks: Vec<Sink>,
    /// Edge only: where blocks go.
    pub link_sink: Option<deliver::link::Settings>,
}

/// One stream's settings.
#[derive(Clone, Debug)]
pub struct Stream {
    pub name: Arc<str>,
    /// Full name of the message type.
    pub message: String,
    /// Transforms, in order.
    pub transforms: Vec<process::plugin::Settings>,
    pub dedup: Option<Dedup>,
    /// Names of the sinks that get it.
    pub sinks: Vec<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct Dedup {
    pub plugin: process::plugin::Settings,
    /// A record is a duplicate of one with the same key less than this before it.
    pub window: Duration,
    /// Keys in memory at most; beyond it the oldest buckets are dropped, counted.
    pub keys_max: usize,
}

#[derive(Clone, Debug)]
pub struct Sink {
    pub name: Arc<str>,
    pub kind: SinkKind,
}

#[derive(Clone, Debug)]
pub enum SinkKind {
    Parquet(deliver::parquet::Settings),
    Elasticsearch(deliver::elasticsearch::Settings),
    Bigquery(deliver::bigquery::Settings),
    Stdout,
}
