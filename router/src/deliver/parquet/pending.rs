//! Files that are complete but not yet visible, as the journal keeps them between the two commits of a cycle.
//!
//! State, version 1 (integers little-endian):
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | through: seq behind the last block of the cycle |
//! | 8 | records in the files |
//! | 4 | number of renames |
//! | 4 + n, 4 + n | per rename: path of the temporary file, path of the visible one |
//!
//! Paths are kept whole, so that a sink whose directory was configured anew still finishes what it began in the old one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::Failure;
use super::cycle::Target;
use super::part::sync_directory;
use crate::record::Seq;

const VERSION: u8 = 1;

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) through: Seq,
    pub(super) delivered: u64,
    pub(super) renames: Vec<Rename>,
    /// Open handles: their locks keep other nodes from taking the files for leftovers. Not journaled.
    pub(super) files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rename {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
}

impl Pending {
    pub(super) fn new(through: Seq) -> Pending {
        Pending { through, delivered: 0, renames: Vec::new(), files: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.renames.is_empty()
    }

    /// Deletes the temporary files of a cycle that will not be journaled.
    pub(super) fn delete(&self) {
        for rename in &self.renames {
            // Best effort: what stays is deleted at the next start.
            let _ = fs::remove_file(&rename.from);
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u64_le(self.through);
        out.put_u64_le(self.delivered);
        out.put_u32_le(self.renames.len() as u32);
        for path in self.renames.iter().flat_map(|rename| [&rename.from, &rename.to]) {
            let bytes = path.as_os_str().as_bytes();
            out.put_u32_le(bytes.len() as u32);
            out.put_slice(bytes);
        }
        out.freeze()
    }

    /// An error says what is wrong with the state.
    pub(super) fn decode(state: &[u8]) -> Result<Pending, String> {
        let mut rest = state;
        let short = |_| format!("journaled state of {} bytes is cut short", state.len());
        let version = rest.try_get_u8().map_err(short)?;
        if version != VERSION {
            return Err(format!("journaled state has format version {version}, this build reads {VERSION}"));
        }
        let mut pending = Pending::new(rest.try_get_u64_le().map_err(short)?);
        pending.delivered = rest.try_get_u64_le().map_err(short)?;
        let count = rest.try_get_u32_le().map_err(short)?;
        for _ in 0..count {
            let mut path = || -> Result<PathBuf, String> {
                let len = rest.try_get_u32_le().map_err(short)? as usize;
                let (path, behind) = rest.split_at_checked(len).ok_or("journaled state names a path past its end")?;
                rest = behind;
                Ok(PathBuf::from(OsString::from_vec(path.to_vec())))
            };
            pending.renames.push(Rename { from: path()?, to: path()? });
        }
        if rest.is_empty() { Ok(pending) } else { Err(format!("journaled state has {} bytes too many", rest.len())) }
    }

    /// Makes the files visible, durably. Done again after a crash or an error, it goes on where it was.
    pub(super) fn rename(&self) -> Result<(), Failure> {
        for Rename { from, to } in &self.renames {
            match fs::rename(from, to) {
                Ok(()) => {}
                // Renamed before the crash.
                Err(error) if error.kind() == ErrorKind::NotFound && exists(to)? => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone(from, to)),
                Err(source) => return Err(Failure::Io { operation: "rename", path: from.clone(), source }),
            }
        }
        self.sync_directories()
    }

    /// Makes the files' names durable, whichever they have.
    pub(super) fn sync_directories(&self) -> Result<(), Failure> {
        let directories: BTreeSet<&Path> = self.renames.iter().filter_map(|rename| rename.to.parent()).collect();
        directories.into_iter().try_for_each(sync_directory)
    }
}

fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|source| Failure::Io { operation: "look for", path: path.to_owned(), source })
}

fn gone(from: &Path, to: &Path) -> Failure {
    Failure::Stopped(format!(
        "file {} is gone, and so is {}, which it was to become: restore one of them, or create an empty file {0} to go on \
         without its records",
        to.display(),
        from.display(),
    ))
}

/// Deletes what a crash left unfinished: temporary files of this sink that nobody holds locked. What is journaled has
/// to be renamed before.
pub(super) fn delete_leftovers(target: &Target) -> Result<(), Failure> {
    let prefix = target.temporary_prefix();
    for day in list(&target.directory)? {
        if !day.is_dir() {
            continue;
        }
        for path in list(&day)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&prefix) && name.ends_with(".tmp") && is_abandoned(&path)? {
                let io = |source| Failure::Io { operation: "delete", path: path.clone(), source };
                fs::remove_file(&path).map_err(io)?;
            }
        }
    }
    Ok(())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io = |source| Failure::Io { operation: "list", path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io(error)),
    }
}

/// Whether no process writes the file: its writer holds it locked for as long as it lives.
fn is_abandoned(path: &Path) -> Result<bool, Failure> {
    let io = |operation| move |source| Failure::Io { operation, path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("open")(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(io("lock")(error)),
    }
}
