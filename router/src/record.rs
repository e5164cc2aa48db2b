//! What flows: records, the frames that hold them, and the ids that name them. No I/O.
//!
//! A record is one Protobuf message of a stream, as bytes. Records travel in *frames*: each message preceded by its
//! varint length, one behind the other in one buffer. This one layout is the body of an HTTP request, the payload of a
//! journal block before compression, what a plugin reads and what it returns, so no stage re-frames for the next.
//!
//! Always: a `Frames` was walked once when it was made, so its count is true and every length lies inside the buffer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::schema::Schema;

/// Place of a block in its lane; the first block of a lane is 1, so 0 means "none yet".
pub type Seq = u64;

/// Name of a schema version: a hash of its descriptors (see `schema::Schema`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fingerprint(pub [u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a block was first journaled. It never changes on the way, so ids made from it are the same after any resend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Agent whose journal gave the block its first seq.
    pub agent: Arc<str>,
    /// Drawn when that agent's data directory was created: a wiped agent starts a new epoch, not a used seq.
    pub epoch: u64,
    /// Seq in that agent's lane of the same stream. 0 until the journal assigns it.
    pub seq: Seq,
}

/// Identity of one delivered record: 6 bytes of receive time in milliseconds, then 10 bytes that are a hash of
/// (agent, epoch, stream, seq, index, part). Sorted by time, so Elasticsearch finds recent ids in recent segments;
/// a pure function of the journaled block, so every retry by every process names the record the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RecordId(pub [u8; 16]);

/// Makes the ids of one block's records; hashes the block's part of the id once.
pub struct RecordIds {
    millis: [u8; 6],
    salt: u64,
}

impl RecordIds {
    pub fn new(stream: &str, origin: &Origin, received_nanos: u64) -> RecordIds {
        let mut name = Vec::with_capacity(origin.agent.len() + stream.len() + 18);
        name.extend_from_slice(origin.agent.as_bytes());
        name.push(0);
        name.extend_from_slice(stream.as_bytes());
        name.push(0);
        name.extend_from_slice(&origin.epoch.to_be_bytes());
        name.extend_from_slice(&origin.seq.to_be_bytes());
        let mut millis = [0; 6];
        millis.copy_from_slice(&(received_nanos / 1_000_000).to_be_bytes()[2..]);
        RecordIds { millis, salt: xxhash_rust::xxh3::xxh3_64(&name) }
    }

    /// `index` is the record's place in the block, `part` its place among the records a plugin split it into.
    pub fn id(&self, index: u32, part: u16) -> RecordId {
        let mut place = [0; 6];
        place[..4].copy_from_slice(&index.to_be_bytes());
        place[4..].copy_from_slice(&part.to_be_bytes());
        let hash = xxhash_rust::xxh3::xxh3_128_with_seed(&place, self.salt).to_be_bytes();
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.millis);
        id[6..].copy_from_slice(&hash[..10]);
        RecordId(id)
    }
}

impl fmt::Display for RecordId {
    /// 22 characters of unpadded base64url.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        let mut text = [0; 22];
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let len = engine.encode_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

/// Records in one buffer, each preceded by its varint length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    bytes: Bytes,
    count: u32,
}

/// A buffer that is not frames: where it stops being so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("read frames: length at byte {at} of {len} is cut short or points past the end")]
pub struct FramesError {
    pub at: usize,
    pub len: usize,
}

impl Frames {
    /// Takes a buffer from outside after walking it once.
    pub fn check(bytes: Bytes) -> Result<Frames, FramesError> {
        let mut count = 0;
        let mut at = 0;
        while at < bytes.len() {
            let broken = FramesError { at, len: bytes.len() };
            let Some((len, start)) = read_varint(&bytes, at) else { return Err(broken) };
            let Some(end) = usize::try_from(len).ok().and_then(|len| start.checked_add(len)) else {
                return Err(broken);
            };
            if end > bytes.len() || count == u32::MAX {
                return Err(broken);
            }
            at = end;
            count += 1;
        }
        Ok(Frames { bytes, count })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of records.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each record's place in `bytes()`, without its length.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (len, start) = read_varint(&self.bytes, at)?;
            at = start + len as usize;
            Some(start..at)
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.ranges().map(|range| &self.bytes[range])
    }
}

/// Collects records into frames.
#[derive(Debug, Default)]
pub struct FramesBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl FramesBuilder {
    pub fn with_capacity(len: usize) -> FramesBuilder {
        FramesBuilder { bytes: Vec::with_capacity(len), count: 0 }
    }

    pub fn push(&mut self, record: &[u8]) {
        push_varint(&mut self.bytes, record.len() as u64);
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Bytes so far, lengths included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn finish(self) -> Frames {
        Frames { bytes: Bytes::from(self.bytes), count: self.count }
    }
}

/// What a sink gets: the records of one block that the plugins and dedup kept, in order, with their ids.
#[derive(Clone, Debug)]
pub struct Rows {
    pub stream: Arc<str>,
    /// Seq of the block in this journal's lane.
    pub seq: Seq,
    pub schema: Arc<Schema>,
    /// Agent that first journaled the block.
    pub agent: Arc<str>,
    /// When the block's first record was received, unix nanoseconds.
    pub received_nanos: u64,
    /// Kept records; may be empty (everything filtered or duplicate): the cursor still has to pass.
    pub records: Vec<Row>,
    /// Records of the block before the plugins, for the ledger.
    pub received_count: u32,
}

/// One kept record.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: RecordId,
    /// The Protobuf message; shares the block's buffer.
    pub message: Bytes,
}

impl Rows {
    /// Bytes of all messages.
    pub fn len_bytes(&self) -> usize {
        self.records.iter().map(|row| row.message.len()).sum()
    }
}

/// What became of a record, as stored in the journal: one byte per row of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Kept = 0,
    Filtered = 1,
    Duplicate = 2,
    Dead = 3,
}

/// A record that was refused for good, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub stream: Arc<str>,
    /// Who refused it: `parse`, `plugin:NAME` or `sink:NAME`. A closed set per configuration.
    pub stage: Arc<str>,
    /// In the refuser's own words.
    pub reason: String,
    /// Absent where the record never got one (it did not parse).
    pub id: Option<RecordId>,
    pub schema: Option<Fingerprint>,
    pub received_nanos: u64,
    /// The message, or the input's own bytes where it did not parse.
    pub bytes: Bytes,
}

/// Appends `value` as a Protobuf varint.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads the varint at `at`: its value and the place behind it; `None` where it is cut short or over ten bytes.
pub fn read_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, at + i + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_what_was_pushed() {
        let mut builder = FramesBuilder::default();
        let records: Vec<Vec<u8>> = [0usize, 1, 127, 128, 70_000].iter().map(|&len| vec![7; len]).collect();
        records.iter().for_each(|record| builder.push(record));
        let built = builder.finish();
        let checked = Frames::check(built.bytes().clone()).unwrap();
        assert_eq!(checked, built);
        assert_eq!(checked.iter().collect::<Vec<_>>(), records);
    }

    #[test]
    fn broken_frames_name_the_place() {
        let check = |bytes: &'static [u8], at| {
            assert_eq!(Frames::check(Bytes::from_static(bytes)), Err(FramesError { at, len: bytes.len() }));
        };
        check(&[1, 9, 2, 9], 2);
        check(&[0x80], 0);
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 0);
    }

    #[test]
    fn ids_differ_by_every_part_and_repeat_exactly() {
        let origin = |agent: &str, epoch, seq| Origin { agent: agent.into(), epoch, seq };
        let id = |stream, origin, index, part| RecordIds::new(stream, &origin, 5_000_000_000).id(index, part);
        let base = id("s", origin("a", 1, 1), 0, 0);
        assert_eq!(base, id("s", origin("a", 1, 1), 0, 0));
        assert_eq!(base.to_string().len(), 22);
        for other in [
            id("t", origin("a", 1, 1), 0, 0),
            id("s", origin("b", 1, 1), 0, 0),
            id("s", origin("a", 2, 1), 0, 0),
            id("s", origin("a", 1, 2), 0, 0),
            id("s", origin("a", 1, 1), 1, 0),
            id("s", origin("a", 1, 1), 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
