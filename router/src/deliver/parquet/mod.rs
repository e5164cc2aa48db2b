//! Parquet files.
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Files go to `directory/STREAM/date=YYYY-MM-DD/`.
    pub directory: PathBuf,
    /// A file is finished when it holds about this many bytes of messages ...
    pub file_max_bytes: usize,
    /// ... or is this old.
    pub file_max_age: Duration,
}
