//! Blocks: records as they are stored in the journal and carried over the link.
//!
//! Format, version 1 (integers little-endian):
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 2 | header length in bytes, from version to the header's checksum inclusive |
//! | 4 | crc32c of the payload |
//! | 4 | raw length: bytes of the frames before compression |
//! | 4 | record count |
//! | 8 | first received, unix nanoseconds |
//! | 8 | last received, unix nanoseconds |
//! | 16 | schema fingerprint |
//! | 8 | origin epoch |
//! | 8 | origin seq (0 until the first journal assigns it) |
//! | 1 + n | origin agent, UTF-8 |
//! | 1 + n | stream, UTF-8 |
//! | 4 | crc32c of the header before this field |
//!
//! then the payload: zstd level 1 of the frames. The payload is compressed once, at the source, and never again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::record::{Fingerprint, Frames, Origin};

const VERSION: u8 = 1;
/// Version, header length, and everything of fixed size, without names and checksum.
const FIXED_LEN: usize = 1 + 2 + 4 + 4 + 4 + 8 + 8 + 16 + 8 + 8;
/// Where the record count stands: behind version, header length, payload checksum and raw length.
const COUNT_AT: usize = 1 + 2 + 4 + 4;
/// Longest stream or agent name: its length is one byte.
pub const NAME_MAX_LEN: usize = 255;
/// Largest raw block that is opened; larger is taken for damage rather than allocated.
pub const RAW_MAX_LEN: usize = 64 << 20;

/// A compressed, checksummed run of records of one stream. Clones share the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub stream: Arc<str>,
    pub fingerprint: Fingerprint,
    pub record_count: u32,
    pub first_received_nanos: u64,
    pub last_received_nanos: u64,
    pub origin: Origin,
    pub raw_len: u32,
    payload_crc: u32,
    payload: Bytes,
}

/// What is wrong with stored bytes that should be a block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlockError {
    #[error("read block: header is cut short or its checksum does not match ({len} bytes)")]
    Header { len: usize },
    #[error("read block: format version {found}, this build reads {VERSION}")]
    Version { found: u8 },
    #[error("read block: payload checksum is {found:08x}, header says {expected:08x}")]
    Payload { expected: u32, found: u32 },
    #[error(
        "read block: payload does not decompress to the {raw_len} bytes and {record_count} records its header names"
    )]
    Content { raw_len: u32, record_count: u32 },
    #[error("make block: name {name:?} is longer than {NAME_MAX_LEN} bytes")]
    Name { name: String },
    #[error("make block: {len} raw bytes are more than {RAW_MAX_LEN}")]
    Large { len: usize },
}

impl Block {
    /// Compresses `frames`. The origin's seq is 0: the journal assigns it on append.
    pub fn new(
        stream: &Arc<str>,
        fingerprint: Fingerprint,
        frames: &Frames,
        received_nanos: (u64, u64),
    ) -> Result<Block, BlockError> {
        if stream.len() > NAME_MAX_LEN {
            return Err(BlockError::Name { name: stream.to_string() });
        }
        let raw = frames.bytes();
        if raw.len() > RAW_MAX_LEN {
            return Err(BlockError::Large { len: raw.len() });
        }
        // Compression into a buffer of its own bound cannot run out of room.
        let payload = zstd::bulk::compress(raw, 1).map_err(|_| BlockError::Large { len: raw.len() })?;
        Ok(Block {
            stream: Arc::clone(stream),
            fingerprint,
            record_count: frames.count(),
            first_received_nanos: received_nanos.0,
            last_received_nanos: received_nanos.1,
            origin: Origin { agent: Arc::from(""), epoch: 0, seq: 0 },
            raw_len: raw.len() as u32,
            payload_crc: crc32c::crc32c(&payload),
            payload: Bytes::from(payload),
        })
    }

    /// Decompresses. Costs the decompression and one walk over the lengths.
    pub fn frames(&self) -> Result<Frames, BlockError> {
        let wrong = || BlockError::Content { raw_len: self.raw_len, record_count: self.record_count };
        let raw = zstd::bulk::decompress(&self.payload, self.raw_len as usize).map_err(|_| wrong())?;
        let frames = Frames::check(Bytes::from(raw)).map_err(|_| wrong())?;
        if frames.bytes().len() != self.raw_len as usize || frames.count() != self.record_count {
            return Err(wrong());
        }
        Ok(frames)
    }

    /// Length of the stored form.
    pub fn stored_len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    fn header_len(&self) -> usize {
        FIXED_LEN + 1 + self.origin.agent.len() + 1 + self.stream.len() + 4
    }

    /// The stored form: what the journal keeps and the link carries.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.stored_len());
        out.extend_from_slice(&[VERSION]);
        out.extend_from_slice(&(self.header_len() as u16).to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        out.extend_from_slice(&self.first_received_nanos.to_le_bytes());
        out.extend_from_slice(&self.last_received_nanos.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.0);
        out.extend_from_slice(&self.origin.epoch.to_le_bytes());
        out.extend_from_slice(&self.origin.seq.to_le_bytes());
        for name in [&self.origin.agent, &self.stream] {
            out.extend_from_slice(&[name.len() as u8]);
            out.extend_from_slice(name.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.payload);
        out.freeze()
    }

    /// Record count of a stored block; `None` where its header is damaged.
    pub(super) fn stored_record_count(stored: &[u8]) -> Option<u32> {
        let header_len = usize::from(u16::from_le_bytes(stored.get(1..3)?.try_into().ok()?));
        let (header, crc) = stored.get(..header_len)?.split_last_chunk::<4>()?;
        if stored.first() != Some(&VERSION) || crc32c::crc32c(header).to_le_bytes() != *crc {
            return None;
        }
        Some(u32::from_le_bytes(header.get(COUNT_AT..COUNT_AT + 4)?.try_into().ok()?))
    }

    /// Reads the stored form and checks both checksums. The payload shares `stored`.
    pub fn decode(stored: &Bytes) -> Result<Block, BlockError> {
        let cut = || BlockError::Header { len: stored.len() };
        let version = *stored.first().ok_or_else(cut)?;
        if version != VERSION {
            return Err(BlockError::Version { found: version });
        }
        let mut header = Reader { bytes: stored, at: 1 };
        let header_len = usize::from(u16::from_le_bytes(header.take().ok_or_else(cut)?));
        let crc_at = header_len.checked_sub(4).ok_or_else(cut)?;
        let crc = stored.get(crc_at..header_len).ok_or_else(cut)?;
        if crc32c::crc32c(&stored[..crc_at]).to_le_bytes() != crc {
            return Err(cut());
        }
        let block = header.block(stored.slice(header_len..)).ok_or_else(cut)?;
        let found = crc32c::crc32c(&block.payload);
        if found != block.payload_crc {
            return Err(BlockError::Payload { expected: block.payload_crc, found });
        }
        if block.raw_len as usize > RAW_MAX_LEN {
            return Err(BlockError::Large { len: block.raw_len as usize });
        }
        Ok(block)
    }
}

/// Takes fixed-size fields off the front of a header.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(field)
    }

    fn name(&mut self) -> Option<Arc<str>> {
        let [len] = self.take::<1>()?;
        let name = self.bytes.get(self.at..self.at + usize::from(len))?;
        self.at += usize::from(len);
        Some(Arc::from(std::str::from_utf8(name).ok()?))
    }

    fn block(&mut self, payload: Bytes) -> Option<Block> {
        let payload_crc = u32::from_le_bytes(self.take()?);
        let raw_len = u32::from_le_bytes(self.take()?);
        let record_count = u32::from_le_bytes(self.take()?);
        let first_received_nanos = u64::from_le_bytes(self.take()?);
        let last_received_nanos = u64::from_le_bytes(self.take()?);
        let fingerprint = Fingerprint(self.take()?);
        let epoch = u64::from_le_bytes(self.take()?);
        let seq = u64::from_le_bytes(self.take()?);
        let agent = self.name()?;
        let stream = self.name()?;
        let origin = Origin { agent, epoch, seq };
        let received = (first_received_nanos, last_received_nanos);
        Some(Block {
            stream,
            fingerprint,
            record_count,
            first_received_nanos: received.0,
            last_received_nanos: received.1,
            origin,
            raw_len,
            payload_crc,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FramesBuilder;

    fn block() -> Block {
        let mut frames = FramesBuilder::default();
        (0..50u8).for_each(|i| frames.push(&vec![i; usize::from(i)]));
        let mut block = Block::new(&"playback".into(), Fingerprint([3; 16]), &frames.finish(), (5, 9)).unwrap();
        block.origin = Origin { agent: "host-1".into(), epoch: 77, seq: 12 };
        block
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let stored = block().encode();
        assert_eq!(stored.len(), block().stored_len());
        let read = Block::decode(&stored).unwrap();
        assert_eq!(read, block());
        assert_eq!(read.frames().unwrap().count(), 50);
        assert_eq!(Block::stored_record_count(&stored), Some(50));
        assert_eq!(Block::stored_record_count(&stored[..40]), None);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let stored = block().encode();
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::decode(&Bytes::from(damaged)).is_err(), "bit {bit}");
        }
        for len in 0..stored.len() {
            assert!(Block::decode(&stored.slice(..len)).is_err(), "cut to {len}");
        }
    }
}
