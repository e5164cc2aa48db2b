//! What tells one file from another, whatever it is called.
//!
//! A file is known by device and inode, and by its *head*: length and hash of its first bytes, up to 256. The head tells a
//! file that was emptied and written anew (copytruncate), or whose inode now belongs to another file, from the one that was
//! read before. A short file's head grows with it: a file still is what it was as long as it begins with the known head.
//!
//! Limit: two files that begin with the same 256 bytes (a long fixed header) and follow one another on the same inode are
//! told apart only while the second is shorter than what was read of the first.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a file's beginning that identify it.
const HEAD_MAX_LEN: usize = 256;

/// Where a file's contents are, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Fingerprint of a file's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// Bytes hashed, up to 256. 0: the file was empty, and anything still begins like it.
    len: usize,
    hash: u64,
}

impl Head {
    fn of(beginning: &[u8]) -> Head {
        let len = beginning.len().min(HEAD_MAX_LEN);
        // So that the head of nothing is the default, whatever the hash of nothing is.
        let hash = if len == 0 { 0 } else { xxh3_64(&beginning[..len]) };
        Head { len, hash }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the file still begins as it did; then returns its head as it is now, which may have grown.
    pub(super) fn check(&self, file: &File) -> io::Result<Option<Head>> {
        let mut buffer = [0; HEAD_MAX_LEN];
        let len = read_full(file, &mut buffer, 0)?;
        let beginning = &buffer[..len];
        Ok((len >= self.len && Head::of(&beginning[..self.len]) == *self).then(|| Head::of(beginning)))
    }
}

/// When a file last changed, as far as its metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) len: u64,
    modified_seconds: i64,
    modified_nanos: i64,
}

impl State {
    pub(super) fn of(metadata: &Metadata) -> State {
        State { len: metadata.len(), modified_seconds: metadata.mtime(), modified_nanos: metadata.mtime_nsec() }
    }
}

/// Reads from `position` until `buffer` is full or the file ends; returns how much that was.
pub(super) fn read_full(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], position + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_holds_while_a_file_grows_and_breaks_when_it_begins_differently() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let head_of = |content: &[u8], known: Head| {
            std::fs::write(&path, content).unwrap();
            known.check(&File::open(&path).unwrap()).unwrap()
        };
        let long: Vec<u8> = (0..1_000u32).map(|i| (i % 251) as u8).collect();
        let mut head = Head::default();
        for len in [0, 1, 2, 100, 255, 256, 257, 1_000] {
            head = head_of(&long[..len], head).expect("a grown file is the same");
            assert_eq!(head.len, len.min(256));
        }
        // A file that is shorter than its known head, or differs within it, is another.
        for content in [&long[..255], &long[1..], b""] {
            assert_eq!(head_of(content, head), None);
        }
        let mut beyond = long.clone();
        beyond[256] ^= 1;
        assert_eq!(head_of(&beyond, head), Some(head));
    }
}
