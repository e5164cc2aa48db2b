//! The link: how blocks get from an edge's journal into a central's. Both ends share this module; the edge's half is
//! [`crate::deliver::link`], the central's [`crate::ingest::link`].
//!
//! One QUIC connection (ALPN `sluice/1`, TLS 1.3, certificates on both sides) carries a control stream and one
//! bidirectional stream per lane, all opened by the edge:
//!
//! ```text
//! control   edge  Hello {version, agent, epoch, program, lanes, fingerprints}
//!           central  Welcome {version, accepted, known fingerprints, refusal}
//! lane      edge  LaneOpen {stream, epoch}
//!           central  LaneReady {last durable seq}          or LaneRefused {reason, retryable}
//!           edge  Schema*  Gap?  Block  Block  ...         Schema before the first block that needs it
//!           central  Ack {seq} ...                         or LaneRefused, at any time
//! ```
//!
//! # Exactly once from journal to journal
//!
//! Central's journal keeps, per (agent, epoch, stream), the highest seq it made durable, and drops any block at or
//! below it. That alone makes a resend harmless; for nothing to be *lost* no block may be passed over, that is, no block
//! may become durable before all blocks below it are. Four rules keep that:
//!
//! 1. **A lane has one writer.** Central lets one lane stream per (agent, epoch, stream) append. A newer one ends the
//!    older, waits until the appends that one had started have ended, and only then reads the last durable seq it
//!    answers with. So `LaneReady.last` is never overtaken by an append of a connection that was thought dead.
//! 2. **Seqs are contiguous.** A lane stream starts at or below `last + 1`, and each block is one above the block before.
//!    Anything else is a protocol error that ends the connection, unless the edge declared with `Gap {next}` that the
//!    seqs below `next` will never come from it: it quarantined them, or another central (or this one, before it lost
//!    its disk) acknowledged them.
//! 3. **Appends keep their order.** A lane has one append under way at a time; what arrives meanwhile gathers for the
//!    next. Two at once would be no faster (a group may be 2 MiB and shares its fsync with every other lane) and would
//!    hang on the journal taking them in order even while it is full.
//! 4. **The cursor follows the ack, the ack follows the fsync.** The edge never forgets a block that is not acknowledged;
//!    it never goes back before its cursor either, because what is acknowledged may already be delivered.
//!
//! A crash of the edge between ack and commit leaves its cursor behind central's `last`: the edge then advances its
//! cursor over those blocks without sending them.
//!
//! Known limit: with several centrals that do not share a journal, blocks that were sent but not acknowledged when the
//! edge moves on are sent to the next central too. Their record ids are the same, so a sink that tells ids apart
//! (Elasticsearch) still has each once.
//!
//! # Frames
//!
//! | bytes | field |
//! |---|---|
//! | 4 | body length, little-endian; bounded per kind ([`frame::Kind::max_len`]) before anything is allocated |
//! | 1 | kind |
//! | n | body: a Protobuf message of [`message`]; for a block 8 bytes seq, little-endian, then the stored block |
//!
//! # Limits
//!
//! [`LANES_MAX`] lane streams per connection, [`STREAM_WINDOW`] bytes on the wire per lane stream. Central shares
//! [`RECEIVE_BUFFERS`] among the connections it allows, so that edges that all push against a full journal cost it a
//! bounded amount of memory however many they are.

mod error;
pub mod frame;
pub mod message;
pub mod tls;

#[cfg(test)]
mod tests;

pub use error::{CloseCode, Error, explain};

/// Application protocol of the TLS handshake.
pub const ALPN: &[u8] = b"sluice/1";
/// Peers of another major version are refused; a minor version only adds what the other side may ignore.
pub const PROTOCOL_MAJOR: u32 = 1;
pub const PROTOCOL_MINOR: u32 = 0;
/// What this build calls itself to the other end.
pub const PROGRAM: &str = concat!("sluice ", env!("CARGO_PKG_VERSION"));
/// Lane streams open at once on one connection.
pub const LANES_MAX: u32 = 256;
/// Bytes on the wire per lane stream: at 20 ms round trip 50 MB/s of compressed blocks.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes that all connections of a central may have received and not yet read.
pub const RECEIVE_BUFFERS: u64 = 512 << 20;
