//! Reads back what the demo delivered.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::Input;

/// What lies in the Parquet files.
#[derive(Debug, Default)]
pub(super) struct Archived {
    pub(super) files: u64,
    pub(super) rows: u64,
    pub(super) distinct_ids: u64,
    /// Rows in which personal data can still be read.
    pub(super) leaks: u64,
}

/// Reads every finished file below `folder`. Ids are the records' own, or the router's where records have none.
pub(super) fn read(folder: &Path, input: &Input) -> anyhow::Result<Archived> {
    let id_column = match input {
        Input::Generated => "event_id",
        Input::File(_) => "_id",
    };
    let mut archived = Archived::default();
    let mut ids = HashSet::new();
    for path in glob::glob(&format!("{}/**/*.parquet", folder.display()))?.flatten() {
        let failed = || format!("read {}", path.display());
        let reader = SerializedFileReader::new(File::open(&path).with_context(failed)?).with_context(failed)?;
        archived.files += 1;
        for row in reader.get_row_iter(None).with_context(failed)? {
            archived.rows += 1;
            let row = row.with_context(failed)?;
            for (name, value) in row.get_column_iter() {
                let parquet::record::Field::Str(text) = value else { continue };
                if name == id_column {
                    ids.insert(text.clone());
                }
                archived.leaks += u64::from(text.contains("@example.com") || text.contains("4111 1111"));
            }
        }
    }
    archived.distinct_ids = ids.len() as u64;
    Ok(archived)
}

/// Complete lines of a file as it is now, and their bytes.
pub(super) fn count_lines(path: &Path) -> anyhow::Result<(u64, u64)> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let (mut lines, mut bytes, mut line) = (0, 0, Vec::new());
    let mut reader = BufReader::new(file);
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            lines += 1;
            bytes += line.len() as u64;
        }
        line.clear();
    }
    Ok((lines, bytes))
}
