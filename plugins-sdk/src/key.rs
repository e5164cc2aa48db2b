//! What identifies a record.

use crate::wire::push_varint;

/// Collects the bytes that identify one record; the router hashes them and keeps the set of those it has seen.
/// An empty key means: never a duplicate.
#[derive(Debug, Default)]
pub struct Key {
    pub(crate) bytes: Vec<u8>,
    pub(crate) time_seconds: Option<u64>,
    pub(crate) window_seconds: Option<u32>,
}

impl Key {
    /// Adds one part. Its length goes in front, so ("ab", "c") and ("a", "bc") differ.
    pub fn push(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        push_varint(&mut self.bytes, part.len() as u64);
        self.bytes.extend_from_slice(part);
    }

    /// Forgets all parts.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// All parts so far, each behind its length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// When the event happened, unix seconds; the time of receipt where it is not set.
    pub fn set_time(&mut self, unix_seconds: u64) {
        self.time_seconds = Some(unix_seconds);
    }

    /// How long a second record with this key is a duplicate; the stream's window where it is not set.
    pub fn set_window(&mut self, seconds: u32) {
        self.window_seconds = Some(seconds);
    }
}
