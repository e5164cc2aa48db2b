//! Tails files.
use std::sync::Arc;
use std::time::Duration;

use super::parse::Format;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the source in positions and metrics.
    pub name: Arc<str>,
    pub stream: Arc<str>,
    /// Glob patterns of files to read.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub format: Format,
    /// A longer line is refused (dead letter with its beginning), never split into records.
    pub line_max_bytes: usize,
    /// How often globs are looked at and files that ended are asked for more.
    pub poll: Duration,
    /// Where a file seen for the first time is read from, if it is there when the source first starts.
    pub start_at: StartAt,
    pub gather: super::gather::Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StartAt {
    #[default]
    Beginning,
    End,
}
