//! The keys of the journal's one tree, as the table in the module documentation of `journal`.
//!
//! Numbers in keys are big-endian, so that keys of a lane sort by seq. Names stand only at the end of a key, so no key
//! needs an escape.

use crate::record::{Fingerprint, Seq};

/// Short name of a stream inside this journal, drawn when its lane is created.
pub(super) type LaneId = u32;

pub(super) const META: u8 = b'm';
pub(super) const LANE_NAME: u8 = b'n';
pub(super) const LANE: u8 = b'l';
pub(super) const RECEIVED: u8 = b'r';
pub(super) const ORIGIN: u8 = b'o';
pub(super) const BLOCK: u8 = b'b';
pub(super) const VERDICTS: u8 = b'v';
pub(super) const SEEN: u8 = b'd';
pub(super) const CURSOR: u8 = b'c';
pub(super) const POSITION: u8 = b'p';
pub(super) const DEAD: u8 = b'x';
pub(super) const SCHEMA: u8 = b'f';
pub(super) const QUARANTINE: u8 = b'q';

pub(super) fn meta(name: &str) -> Vec<u8> {
    [&[META], name.as_bytes()].concat()
}

pub(super) fn lane_name(stream: &str) -> Vec<u8> {
    [&[LANE_NAME], stream.as_bytes()].concat()
}

pub(super) fn lane(lane: LaneId) -> Vec<u8> {
    [&[LANE][..], &lane.to_be_bytes()].concat()
}

pub(super) fn received(lane: LaneId, agent: &str) -> Vec<u8> {
    [&[RECEIVED][..], &lane.to_be_bytes(), agent.as_bytes()].concat()
}

pub(super) fn origin(lane: LaneId, epoch: u64, agent: &str) -> Vec<u8> {
    [&[ORIGIN][..], &lane.to_be_bytes(), &epoch.to_be_bytes(), agent.as_bytes()].concat()
}

/// Key of something that a lane holds one of per block: `BLOCK`, `VERDICTS` or `QUARANTINE`.
pub(super) fn of_block(prefix: u8, lane: LaneId, seq: Seq) -> Vec<u8> {
    [&[prefix][..], &lane.to_be_bytes(), &seq.to_be_bytes()].concat()
}

pub(super) fn seen(lane: LaneId, bucket_start_seconds: u64, seq: Seq) -> Vec<u8> {
    [&[SEEN][..], &lane.to_be_bytes(), &bucket_start_seconds.to_be_bytes(), &seq.to_be_bytes()].concat()
}

pub(super) fn cursor(lane: LaneId, sink: &str) -> Vec<u8> {
    [&[CURSOR][..], &lane.to_be_bytes(), sink.as_bytes()].concat()
}

pub(super) fn position(source: &str) -> Vec<u8> {
    [&[POSITION], source.as_bytes()].concat()
}

pub(super) fn dead(id: u64) -> Vec<u8> {
    [&[DEAD][..], &id.to_be_bytes()].concat()
}

pub(super) fn schema(fingerprint: Fingerprint) -> Vec<u8> {
    [&[SCHEMA][..], &fingerprint.0].concat()
}

/// Where the keys under `prefix` end.
pub(super) fn end_of(prefix: u8) -> Vec<u8> {
    vec![prefix + 1]
}

/// Takes the parts off a key, prefix first.
pub(super) struct KeyReader<'a>(pub &'a [u8]);

impl<'a> KeyReader<'a> {
    /// `None` where the key is too short.
    pub(super) fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.number().map(u64::from_be_bytes)
    }

    /// The rest of the key.
    pub(super) fn name(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}
