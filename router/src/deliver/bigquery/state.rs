//! What the cursor's state says: the write stream, how far it is filled, and the appends whose answer is not known.
//!
//! Format: JSON with a version. An append says which rows it holds, not their bytes: rows are a pure function of
//! journaled blocks, so `from`, `to` and `removed` are enough to make the same request again, however the feed groups
//! the blocks then.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::record::Seq;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Name of the write stream; empty: none yet.
    pub(super) stream: String,
    /// Rows in the write stream, as far as acknowledged: the offset of the next append.
    pub(super) offset: i64,
    /// Rows of the cursor's block that are done with.
    pub(super) row: u32,
    /// Fingerprint of the schema of which the server last took an append: a request of that schema that is refused as a
    /// whole is refused for a row in it. Empty: none was ever taken, so it may well be the table that is wrong.
    pub(super) accepted: String,
    /// Appends that are or may be under way, one behind the other, the first at `offset`.
    pub(super) in_doubt: Vec<Append>,
}

/// One request's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) from: Place,
    /// First row behind.
    pub(super) to: Place,
    pub(super) offset: i64,
    /// Rows sent: those from `from` to `to` without the removed ones.
    pub(super) count: u32,
    /// Dead letters among the rows, counted from `from`; sorted.
    pub(super) removed: Vec<u32>,
    /// Whether the server may know it. What comes from the journal was perhaps sent.
    #[serde(skip, default = "perhaps")]
    pub(super) was_sent: bool,
}

fn perhaps() -> bool {
    true
}

/// A row of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) seq: Seq,
    pub(super) row: u32,
}

impl State {
    /// Fails where a newer version of the router wrote it.
    pub(super) fn decode(bytes: &[u8]) -> Result<State, String> {
        if bytes.is_empty() {
            return Ok(State { version: VERSION, ..State::default() });
        }
        let state: State = serde_json::from_slice(bytes).map_err(|error| format!("read journaled state: {error}"))?;
        match state.version {
            VERSION => Ok(state),
            version => Err(format!("read journaled state: version {version}, this program knows {VERSION}")),
        }
    }

    pub(super) fn encode(&self) -> Result<Bytes, String> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|error| format!("write state: {error}"))
    }

    /// Puts the appends one behind the other again. Only for appends the server cannot have.
    pub(super) fn renumber(&mut self) {
        let mut offset = self.offset;
        for append in &mut self.in_doubt {
            append.offset = offset;
            offset += i64::from(append.count);
        }
    }

    /// Forgets the write stream; what is in doubt is to go to a new one.
    pub(super) fn leave_stream(&mut self) {
        self.stream.clear();
        self.offset = 0;
        self.in_doubt.iter_mut().for_each(|append| append.was_sent = false);
        self.renumber();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(offset: i64, count: u32) -> Append {
        let from = Place { seq: 3, row: 1 };
        Append { from, to: Place { seq: 4, row: 0 }, offset, count, removed: vec![2, 5], was_sent: true }
    }

    #[test]
    fn a_state_comes_back_and_a_newer_one_is_refused() {
        let mut state = State::decode(b"").unwrap();
        state.stream = "projects/p/datasets/d/tables/t/streams/s".into();
        (state.offset, state.row, state.in_doubt) = (9, 1, vec![append(9, 4), append(13, 1)]);
        let bytes = state.encode().unwrap();
        assert_eq!(State::decode(&bytes).unwrap(), state);
        let newer = String::from_utf8(bytes.to_vec()).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(State::decode(newer.as_bytes()).unwrap_err().contains("version 2"));
        state.leave_stream();
        assert_eq!(state.in_doubt.iter().map(|append| append.offset).collect::<Vec<_>>(), [0, 4]);
        assert!(state.in_doubt.iter().all(|append| !append.was_sent));
    }
}
