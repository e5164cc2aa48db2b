//! How far a file was read, as the journal keeps it.
//!
//! Source ids (`NAME` is the name of the file source):
//!
//! | id | value |
//! |---|---|
//! | `file:NAME:started` | `{"version":1}`: the source has run before, so `start_at: end` holds no longer |
//! | `file:NAME:NUMBER` | position of one file; empty once the file is forgotten, and the number free for another |
//!
//! A position is JSON, version 1:
//!
//! ```json
//! {"version":1,"path":"/var/log/app.log","id":{"device":66306,"inode":1311},"head":{"len":256,"hash":812},
//!  "position":70656,"skipping":false}
//! ```
//!
//! `path` is where the file was first seen; the records name it so, and its folder is where the file is looked for once it
//! has been renamed. `position` is that of the first byte not yet durable as part of a record or dead letter: always the
//! beginning of a line, except while `skipping`, where the rest of a line too long is still to be passed over.
//!
//! The journal deletes no position. A forgotten file's is made empty, and its number is used again, so a source never has
//! more keys than it once had files at a time.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::identity::{FileId, Head};
use crate::ingest::Error;
use crate::journal::Journal;

const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    version: u32,
    pub(super) path: String,
    pub(super) id: FileId,
    pub(super) head: Head,
    pub(super) position: u64,
    /// The line before `position` was refused for its length, and has not ended there.
    pub(super) skipping: bool,
}

/// Only to see the version before anything else is believed.
#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
}

/// All that the journal knows of a source's files.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The source has run before.
    pub(super) started: bool,
    /// Number and position of each file.
    pub(super) files: Vec<(u32, Position)>,
    /// Numbers of forgotten files.
    pub(super) free: Vec<u32>,
    /// First number never used.
    pub(super) next: u32,
}

/// Reads a source's positions. Fails on one that this build cannot read, since without it files would be read twice.
pub(super) fn known(journal: &Journal, source: &str, stream: &Arc<str>) -> Result<Known, Error> {
    let prefix = prefix(source);
    let stored = journal.positions(&prefix);
    let stored = stored.map_err(|source| Error::Store { stream: Arc::clone(stream), source })?;
    let mut known = Known::default();
    for (id, value) in stored {
        let wrong = |reason: String| Error::Position { id: Arc::clone(&id), reason };
        let name = &id[prefix.len()..];
        if name == STARTED {
            read_version(&value).map_err(wrong)?;
            known.started = true;
            continue;
        }
        let number: u32 = name.parse().map_err(|_| wrong("its id does not end in a number".into()))?;
        known.next = known.next.max(number.saturating_add(1));
        if value.is_empty() {
            known.free.push(number);
        } else {
            known.files.push((number, decode(&value).map_err(wrong)?));
        }
    }
    Ok(known)
}

const STARTED: &str = "started";

fn prefix(source: &str) -> String {
    format!("file:{source}:")
}

/// The entry that says that a source has run before.
pub(super) fn started(source: &str) -> (Arc<str>, Bytes) {
    (format!("{}{STARTED}", prefix(source)).into(), encode(&Versioned { version: VERSION }))
}

/// Source id of a file.
pub(super) fn id(source: &str, number: u32) -> Arc<str> {
    format!("{}{number}", prefix(source)).into()
}

impl Position {
    pub(super) fn new(path: String, id: FileId) -> Position {
        Position { version: VERSION, path, id, head: Head::default(), position: 0, skipping: false }
    }

    pub(super) fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// Numbers, text and flags: nothing in it can fail to become JSON.
fn encode<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

fn read_version(value: &[u8]) -> Result<(), String> {
    // Fields that a newer version may have do not matter yet.
    let Versioned { version } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if version == VERSION { Ok(()) } else { Err(format!("version {version}, this build reads {VERSION}")) }
}

fn decode(value: &[u8]) -> Result<Position, String> {
    read_version(value)?;
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_stays_readable() {
        let stored = br#"{"version":1,"path":"/a \"b\"","id":{"device":18446744073709551615,"inode":7},"head":{"len":256,"hash":18446744073709551614},"position":9007199254740993,"skipping":true}"#;
        let read = decode(stored).unwrap();
        assert_eq!((read.position, read.skipping, read.id.device), (9007199254740993, true, u64::MAX));
        assert_eq!(&read.encode()[..], stored);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_reason() {
        let check = |stored: &str, expected: &str| {
            let reason = decode(stored.as_bytes()).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        };
        check(r#"{"version":2,"more":1}"#, "version 2, this build reads 1");
        check(r#"{"version":1}"#, "missing field `path`");
        check("7", "invalid type");
        check("{", "EOF");
    }
}
