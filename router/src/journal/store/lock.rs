//! One process per journal: an advisory lock on a file of our own, which the operating system drops with the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Held as long as the store is open.
#[derive(Debug)]
pub(in crate::journal) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// `None` where another holds it.
    pub(in crate::journal) fn take(directory: &Path) -> io::Result<Option<DirectoryLock>> {
        let path = directory.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(DirectoryLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
