//! The values of the journal's keys other than blocks: each starts with a version byte, numbers are little-endian.
//!
//! | value | after the version |
//! |---|---|
//! | lane | next, first, next undecided, undecided records, refused, kept, filtered, duplicate, dead, split, quarantined records, live bytes: u64 each |
//! | cursor | next, delivered, dead: u64 each, then the sink's state |
//! | dead letter | flags u8 (1: has id, 2: has schema), id 16, schema 16, received nanos u64, stream, stage, reason (u32 length and text each), then the bytes |
//! | dead bounds | first id, next id, bytes, dropped: u64 each |
//! | schema | message name (u32 length and text), then the serialized FileDescriptorSet |
//!
//! Counts, seqs and lane ids that stand alone are one u64 or u32 without a version; verdicts, seen-set entries and
//! positions are their owners' bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cursor, DecisionCounts};
use crate::record::{DeadLetter, Fingerprint, RecordId, Seq};

const VERSION: u8 = 1;

/// What is known of a lane, without what it knows per agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// First seq not yet used.
    pub next: Seq,
    /// First seq not yet trimmed.
    pub first: Seq,
    pub next_undecided: Seq,
    pub undecided_records: u64,
    pub refused: u64,
    pub decided: DecisionCounts,
    pub quarantined: u64,
    /// What its blocks, verdicts and seen-set take in the store.
    pub live_bytes: u64,
}

impl Default for Lane {
    fn default() -> Lane {
        Lane {
            next: 1,
            first: 1,
            next_undecided: 1,
            undecided_records: 0,
            refused: 0,
            decided: DecisionCounts::default(),
            quarantined: 0,
            live_bytes: 0,
        }
    }
}

/// Which dead letters there are: ids `first..next`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeadBounds {
    pub first: u64,
    pub next: u64,
    pub bytes: u64,
    /// Dropped because there were too many.
    pub dropped: u64,
}

pub(super) fn numbers(numbers: &[u64]) -> Bytes {
    let mut out = vec![VERSION];
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.into()
}

impl Lane {
    pub(super) fn encode(&self) -> Bytes {
        let DecisionCounts { kept, filtered, duplicate, dead, split } = self.decided;
        let own = [self.next, self.first, self.next_undecided, self.undecided_records, self.refused];
        numbers(&[&own[..], &[kept, filtered, duplicate, dead, split, self.quarantined, self.live_bytes]].concat())
    }

    pub(super) fn decode(value: &Bytes) -> Option<Lane> {
        let mut value = ValueReader::new(value)?;
        Some(Lane {
            next: value.u64()?,
            first: value.u64()?,
            next_undecided: value.u64()?,
            undecided_records: value.u64()?,
            refused: value.u64()?,
            decided: DecisionCounts {
                kept: value.u64()?,
                filtered: value.u64()?,
                duplicate: value.u64()?,
                dead: value.u64()?,
                split: value.u64()?,
            },
            quarantined: value.u64()?,
            live_bytes: value.u64()?,
        })
    }
}

impl DeadBounds {
    pub(super) fn encode(&self) -> Bytes {
        numbers(&[self.first, self.next, self.bytes, self.dropped])
    }

    pub(super) fn decode(value: &Bytes) -> Option<DeadBounds> {
        let mut value = ValueReader::new(value)?;
        Some(DeadBounds { first: value.u64()?, next: value.u64()?, bytes: value.u64()?, dropped: value.u64()? })
    }
}

pub(super) fn encode_cursor(cursor: &Cursor) -> Bytes {
    let mut out = numbers(&[cursor.next, cursor.delivered, cursor.dead]).to_vec();
    out.extend_from_slice(&cursor.state);
    out.into()
}

pub(super) fn decode_cursor(value: &Bytes) -> Option<Cursor> {
    let mut value = ValueReader::new(value)?;
    let (next, delivered, dead) = (value.u64()?, value.u64()?, value.u64()?);
    // Cursors stay in memory, and `value` may share a whole page of the store.
    Some(Cursor { next, state: Bytes::copy_from_slice(&value.rest), delivered, dead })
}

pub(super) fn encode_dead_letter(letter: &DeadLetter) -> Bytes {
    let mut out = Vec::with_capacity(64 + letter.reason.len() + letter.bytes.len());
    let flags = u8::from(letter.id.is_some()) | u8::from(letter.schema.is_some()) << 1;
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(&letter.id.map_or([0; 16], |id| id.0));
    out.extend_from_slice(&letter.schema.map_or([0; 16], |schema| schema.0));
    out.extend_from_slice(&letter.received_nanos.to_le_bytes());
    for text in [&letter.stream, &letter.stage, &letter.reason[..]] {
        push_text(&mut out, text);
    }
    out.extend_from_slice(&letter.bytes);
    out.into()
}

pub(super) fn decode_dead_letter(value: &Bytes) -> Option<DeadLetter> {
    let mut value = ValueReader::new(value)?;
    let [flags] = value.array()?;
    let (id, schema) = (RecordId(value.array()?), Fingerprint(value.array()?));
    Some(DeadLetter {
        received_nanos: value.u64()?,
        id: (flags & 1 != 0).then_some(id),
        schema: (flags & 2 != 0).then_some(schema),
        stream: value.text()?.into(),
        stage: value.text()?.into(),
        reason: value.text()?,
        bytes: value.rest,
    })
}

pub(super) fn encode_schema(message: &str, descriptors: &[u8]) -> Bytes {
    let mut out = vec![VERSION];
    push_text(&mut out, message);
    out.extend_from_slice(descriptors);
    out.into()
}

pub(super) fn decode_schema(value: &Bytes) -> Option<(Arc<str>, Bytes)> {
    let mut value = ValueReader::new(value)?;
    Some((value.text()?.into(), value.rest))
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Takes fields off the front of a value.
struct ValueReader {
    rest: Bytes,
}

impl ValueReader {
    /// `None` where the version is not this build's.
    fn new(value: &Bytes) -> Option<ValueReader> {
        let mut value = ValueReader { rest: value.clone() };
        (value.array()? == [VERSION]).then_some(value)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = *self.rest.first_chunk()?;
        self.rest = self.rest.slice(N..);
        Some(field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let text = std::str::from_utf8(self.rest.get(..len)?).ok()?.to_owned();
        self.rest = self.rest.slice(len..);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: Option<RecordId>, schema: Option<Fingerprint>) -> DeadLetter {
        DeadLetter {
            stream: "playback".into(),
            stage: "sink:search".into(),
            reason: "mapper_parsing_exception: zu groß".into(),
            id,
            schema,
            received_nanos: 1 << 60,
            bytes: Bytes::from_static(b"\x00bytes"),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_a_cut_value_is_refused() {
        for letter in [letter(None, None), letter(Some(RecordId([7; 16])), Some(Fingerprint([8; 16])))] {
            let value = encode_dead_letter(&letter);
            assert_eq!(decode_dead_letter(&value), Some(letter));
            let fixed = value.len() - b"\x00bytes".len();
            (0..fixed).for_each(|len| assert_eq!(decode_dead_letter(&value.slice(..len)), None, "cut to {len}"));
        }
        let decided = DecisionCounts { kept: 6, filtered: 7, duplicate: 8, dead: 9, split: 10 };
        let own = Lane { next: 1, first: 2, next_undecided: 3, undecided_records: 4, ..Lane::default() };
        let lane = Lane { refused: 5, decided, quarantined: 11, live_bytes: 12, ..own };
        assert_eq!(Lane::decode(&lane.encode()), Some(lane));
        assert_eq!(Lane::decode(&lane.encode().slice(..50)), None);
        let bounds = DeadBounds { first: 1, next: 2, bytes: 3, dropped: 4 };
        assert_eq!(DeadBounds::decode(&bounds.encode()), Some(bounds));
        let cursor = Cursor { next: 5, state: Bytes::from_static(b"state"), delivered: 6, dead: 7 };
        assert_eq!(decode_cursor(&encode_cursor(&cursor)), Some(cursor));
        let schema = ("a.B".into(), Bytes::from_static(b"set"));
        assert_eq!(decode_schema(&encode_schema("a.B", b"set")), Some(schema));
    }

    #[test]
    fn a_value_of_another_version_is_refused() {
        let mut value = Lane::default().encode().to_vec();
        value[0] += 1;
        assert_eq!(Lane::decode(&value.into()), None);
    }
}
