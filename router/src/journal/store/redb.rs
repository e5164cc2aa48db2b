//! The other engine: redb, for those who measure that they need it, and to keep the interface honest.
//!
//! A commit of redb is atomic and ends with an fsync, so [`Store::flush`] has nothing left to do.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition, TableError};

use super::{Batch, Store, VALUE_MAX_LEN, Visit};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("journal");

pub(super) struct Redb {
    db: Database,
}

impl Redb {
    pub(super) fn open(directory: &Path, cache_bytes: u64) -> io::Result<Redb> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(usize::try_from(cache_bytes).unwrap_or(usize::MAX));
        let db = builder.create(directory.join("journal.redb")).map_err(failed)?;
        Ok(Redb { db })
    }
}

impl Store for Redb {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let read = self.db.begin_read().map_err(failed)?;
        let table = match read.open_table(TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(failed)?,
        };
        let value = table.get(key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let read = self.db.begin_read().map_err(failed)?;
        let table = match read.open_table(TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table.map_err(failed)?,
        };
        for item in table.range(from..to).map_err(failed)? {
            let (key, value) = item.map_err(failed)?;
            if visit(key.value(), Bytes::copy_from_slice(value.value())) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        let mut write = self.db.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        {
            let mut table = write.open_table(TABLE).map_err(failed)?;
            for (key, value) in batch.changes {
                match value {
                    Some(value) if value.len() > VALUE_MAX_LEN => {
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, "value is longer than a store keeps"));
                    }
                    Some(value) => drop(table.insert(&key[..], &value[..]).map_err(failed)?),
                    None => drop(table.remove(&key[..]).map_err(failed)?),
                }
            }
        }
        write.commit().map_err(failed)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// redb's errors as the interface's, with the operating system's error where that is what they are.
fn failed(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
