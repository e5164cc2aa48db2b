//! STAGE 1: sources. They accept input, turn it into records, append blocks to the journal, and acknowledge (or
//! advance their position) only when the append is durable.
//!
//! ```text
//! files ──► lines ─┐
//!                  ├─► parse ─► Entry ─► gather ─► blocks + positions + dead letters ─► one journal append
//! HTTP bodies ─────┘     (one input, one record or one refusal)
//! edges (link) ── blocks as they are ─────────────────────────────────────────────────► one journal append
//! ```
//!
//! What always holds: input that is no record becomes a dead letter, counted, and never holds up the input behind it; a
//! source reads no faster than the journal takes.

pub mod file;
pub mod gather;
pub mod http;
pub mod link;
pub mod parse;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::journal;

/// Why a source cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen for records on {listen}")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("read pattern {pattern:?} of file source {name}")]
    Pattern {
        name: Arc<str>,
        pattern: String,
        #[source]
        source: glob::PatternError,
    },
    /// The journal was written by a newer build, or is damaged. Starting anyway would read every file again.
    #[error("read position {id} of a file: {reason}")]
    Position { id: Arc<str>, reason: String },
    #[error("make a block of stream {stream}")]
    Block {
        stream: Arc<str>,
        #[source]
        source: journal::BlockError,
    },
    /// Nothing further of this source is durable.
    #[error("store records of stream {stream}")]
    Store {
        stream: Arc<str>,
        #[source]
        source: journal::Error,
    },
}
