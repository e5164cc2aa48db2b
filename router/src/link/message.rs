//! The link's messages. Fields are only ever added; an old peer skips what it does not know.

use crate::record::Fingerprint;

/// First frame of a connection, edge to central.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub major: u32,
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    /// Must be a DNS name in the edge's certificate.
    #[prost(string, tag = "3")]
    pub agent: String,
    /// Drawn when the edge's data directory was created.
    #[prost(fixed64, tag = "4")]
    pub epoch: u64,
    /// Program and version, for people.
    #[prost(string, tag = "5")]
    pub program: String,
    /// Streams the edge is configured to forward; for people, a lane may be opened without being named here.
    #[prost(string, repeated, tag = "6")]
    pub lanes: Vec<String>,
    /// Schemas the edge has used lately, so that central can say which of them it need not send.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub fingerprints: Vec<bytes::Bytes>,
}

/// Answer to `Hello`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub major: u32,
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    #[prost(bool, tag = "3")]
    pub accepted: bool,
    #[prost(string, tag = "4")]
    pub program: String,
    /// Those of `Hello.fingerprints` that central knows.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub known: Vec<bytes::Bytes>,
    /// Why not, where not accepted.
    #[prost(string, tag = "6")]
    pub refusal: String,
}

/// First frame of a lane stream, edge to central.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LaneOpen {
    #[prost(string, tag = "1")]
    pub stream: String,
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
}

/// The lane may be sent from `last + 1` on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LaneReady {
    /// Highest seq of the lane that is durable at central; 0 if none.
    #[prost(uint64, tag = "1")]
    pub last: u64,
}

/// The lane ends; nothing beyond the last ack was kept.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LaneRefused {
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Whether time or an operator of central can heal it.
    #[prost(bool, tag = "2")]
    pub retryable: bool,
}

/// A schema version, before the first block that carries its fingerprint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SchemaOffer {
    #[prost(bytes = "bytes", tag = "1")]
    pub fingerprint: bytes::Bytes,
    /// Full name of the message type.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Serialized FileDescriptorSet.
    #[prost(bytes = "bytes", tag = "3")]
    pub descriptors: bytes::Bytes,
}

/// Seqs below `next` that were not sent yet will never come from this edge.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Gap {
    #[prost(uint64, tag = "1")]
    pub next: u64,
}

/// All blocks up to `seq` are durable at central.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
}

/// Reads a fingerprint field; `None` where it does not have its 16 bytes.
pub fn fingerprint(bytes: &[u8]) -> Option<Fingerprint> {
    bytes.try_into().ok().map(Fingerprint)
}
