//! Gathers records into blocks.
use std::time::Duration;

/// When a block is closed: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Raw bytes of a block.
    pub block_max_bytes: usize,
    /// Age of its first record.
    pub block_max_age: Duration,
}
