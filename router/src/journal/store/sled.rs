//! The default engine: sled 0.34.7, hardened so that it keeps what it was told to keep.
//!
//! As it comes it loses acknowledged data at a power loss and sometimes does not open after a kill. Three things change
//! that, and each has a test that fails without it:
//!
//! 1. Its flush becomes an fsync: see `fsync.rs`. [`Sled::open`] refuses to run without.
//! 2. Nothing goes to blob files, which sled writes and never syncs. A log message above a quarter of a segment goes
//!    there, and a message can be a whole tree page: up to 16 keys, some more for the moment of a split or a merge of
//!    two pages. So segments are 8 MiB and a value longer than [`PIECE_LEN`] is split: 20 pieces of 64 KiB and their
//!    keys stay below 2 MiB.
//! 3. `snap.*.generating` is deleted before opening: a torn one, left by a kill during a snapshot, would be taken for the
//!    newest snapshot; the last whole one and the log rebuild everything.
//!
//! Split values: under the key lie the first `PIECE_LEN` bytes and the whole length (u32); the rest lies in pieces under
//! `0xff`, key, piece number (u16 big-endian), counted from 1. A value of up to `PIECE_LEN` bytes is stored as it is, so
//! the stored length tells the two apart. Keys of the journal never start with `0xff`.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Batch, Store, VALUE_MAX_LEN, Visit, fsync};

/// A power of two; sled allows up to 16 MiB. Larger costs memory and the bound's slack.
const SEGMENT_LEN: usize = 8 << 20;
/// See the module's second point.
pub(super) const PIECE_LEN: usize = 64 << 10;
/// How long a journal closed in this process may still hold the file: sled's own threads end a little later.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Between two runs of sled's cleaner, which moves what is left in mostly dead segments so that they can be used again.
/// It works half of this time at most.
const CLEAN_EVERY_MS: u64 = 100;
const PROBE_KEY: &[u8] = b"\xfeprobe";

pub(super) struct Sled {
    // One tree: a batch is atomic within one tree only.
    db: sled::Db,
}

impl Sled {
    pub(super) fn open(directory: &Path, cache_bytes: u64) -> io::Result<Sled> {
        fsync::check()?;
        remove_torn_snapshots(directory)?;
        let config = sled::Config::new()
            .path(directory)
            .segment_size(SEGMENT_LEN)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(CLEAN_EVERY_MS));
        let deadline = Instant::now() + LOCK_WAIT;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(error) if is_locked(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        };
        // sled writes this file once and never syncs it.
        fs::File::open(directory.join("conf"))?.sync_all()?;
        let store = Sled { db };
        store.check_flush()?;
        Ok(store)
    }

    /// Fails where a flush of something new ends without an fsync.
    fn check_flush(&self) -> io::Result<()> {
        let before = fsync::calls();
        // sled writes nothing for a value that is there already.
        self.db.remove(PROBE_KEY)?;
        self.db.insert(PROBE_KEY, b"")?;
        self.db.flush()?;
        if cfg!(target_os = "linux") && fsync::calls() == before {
            return Err(io::Error::other("a flush of the store ended without an fsync"));
        }
        Ok(())
    }

    /// The whole value behind what lies under `key`; `None` where its pieces were removed meanwhile.
    fn whole(&self, key: &[u8], stored: sled::IVec) -> io::Result<Option<Bytes>> {
        let Some(len) = split_len(&stored)? else { return Ok(Some(Bytes::from_owner(stored))) };
        let mut value = BytesMut::with_capacity(len);
        value.extend_from_slice(&stored[..PIECE_LEN]);
        for number in 1..piece_count(len) {
            match self.db.get(piece_key(key, number))? {
                Some(piece) => value.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
        if value.len() != len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a split value's pieces do not add up to its length",
            ));
        }
        Ok(Some(value.freeze()))
    }

    /// Removes the pieces of what lies under `key` now.
    fn remove_pieces(&self, key: &[u8], changes: &mut sled::Batch) -> io::Result<()> {
        let Some(stored) = self.db.get(key)? else { return Ok(()) };
        if let Some(len) = split_len(&stored)? {
            (1..piece_count(len)).for_each(|number| changes.remove(piece_key(key, number)));
        }
        Ok(())
    }
}

impl Store for Sled {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        match self.db.get(key)? {
            Some(stored) => self.whole(key, stored),
            None => Ok(None),
        }
    }

    fn range(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()> {
        for item in self.db.range(from..to) {
            let (key, stored) = item?;
            if let Some(value) = self.whole(&key, stored)?
                && visit(&key, value) == ControlFlow::Break(())
            {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes {
            self.remove_pieces(&key, &mut changes)?;
            match value {
                None => changes.remove(key),
                Some(value) if value.len() <= PIECE_LEN => changes.insert(key, &value[..]),
                Some(value) if value.len() > VALUE_MAX_LEN => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "value is longer than a store keeps"));
                }
                Some(value) => {
                    let mut pieces = value.chunks(PIECE_LEN);
                    let mut head = pieces.next().unwrap_or_default().to_vec();
                    head.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    for (number, piece) in (1..).zip(pieces) {
                        changes.insert(piece_key(&key, number), piece);
                    }
                    changes.insert(key, head);
                }
            }
        }
        Ok(self.db.apply_batch(changes)?)
    }

    fn flush(&self) -> io::Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

/// Length of a split value; `None` where `stored` is the value itself.
fn split_len(stored: &[u8]) -> io::Result<Option<usize>> {
    let Some(tail) = stored.get(PIECE_LEN..).filter(|tail| !tail.is_empty()) else { return Ok(None) };
    match tail.try_into().map(u32::from_le_bytes) {
        Ok(len) if len as usize <= VALUE_MAX_LEN => Ok(Some(len as usize)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a split value's length cannot be read")),
    }
}

fn piece_count(len: usize) -> u16 {
    // At most VALUE_MAX_LEN / PIECE_LEN = 512.
    len.div_ceil(PIECE_LEN) as u16
}

fn piece_key(key: &[u8], number: u16) -> Vec<u8> {
    [&[0xff], key, &number.to_be_bytes()].concat()
}

fn remove_torn_snapshots(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
            tracing::info!(file = %name, "removed unfinished journal snapshot");
        }
    }
    Ok(())
}

/// sled reports a lock held by another only in words.
fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => error.to_string().contains("could not acquire lock"),
        _ => false,
    }
}
