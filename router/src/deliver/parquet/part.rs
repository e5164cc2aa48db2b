//! One file being written: its column buffers and the temporary file behind them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::Failure;
use crate::schema::parquet::{Columns, Extra, Plan};

/// An open temporary file. Dropped unfinished, it is deleted.
pub(super) struct Part {
    plan: Arc<Plan>,
    columns: Columns,
    writer: SerializedFileWriter<File>,
    temporary: Temporary,
    pub(super) row_count: u64,
    /// Name of the first record, for the file's name.
    first_id: String,
    /// Bytes of column buffers, as of the last push.
    pub(super) buffered_bytes: usize,
    buffered_message_bytes: usize,
}

/// A temporary file that goes with its handle unless it is kept.
struct Temporary {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // Best effort: what stays is deleted at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that is complete and fsynced under its temporary name.
pub(super) struct Finished {
    pub(super) temporary: PathBuf,
    pub(super) first_id: String,
    pub(super) row_count: u64,
    /// Holds the lock that tells other nodes that the file is not a leftover.
    pub(super) file: File,
}

impl Part {
    /// Creates the file, locked, and its directory where that is missing.
    pub(super) fn create(path: PathBuf, plan: Arc<Plan>, first_id: String) -> Result<Part, Failure> {
        if let Some(directory) = path.parent() {
            create_directories(directory)?;
        }
        let io = |operation| {
            let path = path.clone();
            move |source| Failure::Io { operation, path, source }
        };
        // Emptied only once it is locked: what another node might be writing is left alone.
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(io("create"))?;
        file.try_lock().map_err(|error| io("lock")(error.into()))?;
        let temporary = Temporary { path: path.clone(), is_kept: false };
        file.set_len(0).map_err(io("empty"))?;
        let writer = SerializedFileWriter::new(file, plan.schema().clone(), properties())
            .map_err(|source| Failure::Write { path, source })?;
        let columns = Columns::new(&plan);
        Ok(Part {
            plan,
            columns,
            writer,
            temporary,
            row_count: 0,
            first_id,
            buffered_bytes: 0,
            buffered_message_bytes: 0,
        })
    }

    /// Adds a record, or says why it is refused.
    pub(super) fn push(&mut self, message: &[u8], extra: Extra<'_>) -> Result<(), crate::schema::Error> {
        self.columns.push(&self.plan, message, extra)?;
        self.row_count += 1;
        self.buffered_message_bytes += message.len();
        Ok(())
    }

    /// Measures the buffers; pushing does not, for it is done per record.
    pub(super) fn measure(&mut self) -> usize {
        self.buffered_bytes = self.columns.len_bytes();
        self.buffered_bytes
    }

    /// Bytes of messages in the buffers.
    pub(super) fn buffered_message_bytes(&self) -> usize {
        self.buffered_message_bytes
    }

    /// Writes the buffers as a row group.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if self.columns.row_count() > 0 {
            let path = &self.temporary.path;
            let written = self.columns.write(&mut self.writer);
            written.map_err(|source| Failure::Write { path: path.clone(), source })?;
        }
        self.buffered_bytes = 0;
        self.buffered_message_bytes = 0;
        Ok(())
    }

    /// Writes what is left and the footer, and fsyncs. The caller sees to it that the file is journaled or deleted.
    pub(super) fn finish(mut self) -> Result<Finished, Failure> {
        self.flush()?;
        let Part { mut temporary, writer, row_count, first_id, .. } = self;
        let path = temporary.path.clone();
        let file = writer.into_inner().map_err(|source| Failure::Write { path: path.clone(), source })?;
        file.sync_all().map_err(|source| Failure::Io { operation: "fsync", path: path.clone(), source })?;
        temporary.is_kept = true;
        Ok(Finished { temporary: path, first_id, row_count, file })
    }
}

fn properties() -> WriterPropertiesPtr {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("sluice ", env!("CARGO_PKG_VERSION")).to_owned())
        // Every id is another one: a dictionary would gather them all and then be thrown away.
        .set_column_dictionary_enabled(ColumnPath::from("_id"), false)
        .build();
    Arc::new(properties)
}

/// Like `create_dir_all`, but a directory that was made is in its parent for good.
fn create_directories(directory: &Path) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Failure::Io { operation, path, source }
    };
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directories(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(io("create", directory)(error)),
        _ => match directory.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        },
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Failure> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| Failure::Io { operation: "fsync", path: directory.to_owned(), source })
}
