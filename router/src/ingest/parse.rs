//! Turns input into records: JSON or text becomes a message of the stream's schema.

/// How a source's bytes become records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, by the stream's schema.
    Json,
    /// One line of text per record: `sluice.v1.LogLine`.
    Line,
}
