//! The ordered key-value store under the journal: the handful of calls the journal needs, and the engines that offer them.
//!
//! What an engine promises: [`Store::apply`] is atomic, also across a crash; what was applied before a
//! [`Store::flush`] that returned is on stable storage; keys sort as unsigned bytes. Values may be of any length up to
//! [`VALUE_MAX_LEN`]. Reads may see what is applied and not yet flushed: who must not, bounds its reads (the journal
//! reads only below what it has published after a flush).
//!
//! One process at a time: [`DirectoryLock`] is taken before an engine is opened and held until it is closed.

mod fsync;
mod lock;
mod redb;
mod sled;

pub(super) use lock::DirectoryLock;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Engine;

/// Longest value. sled splits values (see `sled.rs`), redb need not; both hold a value in memory several times over during
/// a commit.
pub(super) const VALUE_MAX_LEN: usize = 32 << 20;

/// Called with each key and value of a range, in order, until it breaks.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>;

pub(super) trait Store: Send + Sync {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Visits the keys from `from` up to and without `to`.
    fn range(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()>;

    /// Applies all of the batch or nothing. After an error the store must be reopened.
    fn apply(&self, batch: Batch) -> io::Result<()>;

    /// On return everything applied before is on stable storage. After an error the store must be reopened.
    fn flush(&self) -> io::Result<()>;
}

/// Changes that belong together. Of several to one key the last counts.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Batch {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Subdirectory of the journal that holds the engine's files.
pub(super) fn engine_directory(directory: &Path, engine: Engine) -> PathBuf {
    directory.join(match engine {
        Engine::Sled => "sled",
        Engine::Redb => "redb",
    })
}

/// Opens or creates the engine's files below `directory`, which the caller has locked.
pub(super) fn open(directory: &Path, engine: Engine, cache_bytes: u64) -> io::Result<Box<dyn Store>> {
    let own = engine_directory(directory, engine);
    fs::create_dir_all(&own)?;
    let store: Box<dyn Store> = match engine {
        Engine::Sled => Box::new(sled::Sled::open(&own, cache_bytes)?),
        Engine::Redb => Box::new(redb::Redb::open(&own, cache_bytes)?),
    };
    // The engines sync what is in their files; that the files have names after a power loss is ours to see to.
    for created in [own.as_path(), directory] {
        sync_directory(created)?;
    }
    directory.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_directory)?;
    Ok(store)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Bytes that the files below `directory` take on disk, as `du` counts them.
pub(super) fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may go away under the walk (an old snapshot, a temporary name): then it takes no space either.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            total += disk_bytes(&entry.path())?;
        } else {
            total += allocated_bytes(&metadata);
        }
    }
    Ok(total)
}

#[cfg(unix)]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    metadata.blocks() * 512
}

#[cfg(not(unix))]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests;
