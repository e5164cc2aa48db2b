//! Records -> documents of a `_bulk` body.
//!
//! All rows of a load are rendered into one buffer, an action line and a source line each; a request is a list of
//! documents of that buffer, so sending some of them again copies bytes and encodes nothing anew. Added to a record's
//! own fields: `@timestamp` (event time, else when it was received) and `sluice` (agent, received_at), or `sluice_`
//! where the message has a field of that name.

use std::io::Write as _;
use std::ops::Range;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::record::{DeadLetter, Row, Rows};
use crate::schema::{self, Schema};

/// A load's documents, and the records that have no form as one.
pub(super) struct Docs {
    bytes: Bytes,
    docs: Vec<Doc>,
    pub(super) refused: Vec<DeadLetter>,
    blocks: Vec<Rows>,
}

struct Doc {
    range: Range<usize>,
    /// Place of the record: index into `blocks`, index into its records.
    block: usize,
    row: usize,
}

impl Docs {
    /// Renders every record. Computes for milliseconds: call it off the runtime.
    pub(super) fn render(blocks: Vec<Rows>, stage: &std::sync::Arc<str>) -> Docs {
        let len: usize = blocks.iter().map(Rows::len_bytes).sum();
        let mut bytes = Vec::with_capacity(len * 2);
        let (mut docs, mut refused) = (Vec::new(), Vec::new());
        for (block, rows) in blocks.iter().enumerate() {
            let frame = Frame::new(rows);
            for (row, record) in rows.records.iter().enumerate() {
                let start = bytes.len();
                match frame.push(rows, record, &mut bytes) {
                    Ok(()) => docs.push(Doc { range: start..bytes.len(), block, row }),
                    Err(reason) => {
                        bytes.truncate(start);
                        refused.push(dead_letter(rows, record, stage, reason));
                    }
                }
            }
        }
        Docs { bytes: Bytes::from(bytes), docs, refused, blocks }
    }

    /// Cuts all documents into requests of up to `max_bytes`, or one document that is larger.
    pub(super) fn requests(&self, max_bytes: usize) -> Vec<Vec<usize>> {
        let mut requests: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for (index, doc) in self.docs.iter().enumerate() {
            match requests.last_mut() {
                Some(request) if doc.range.len() <= room => request.push(index),
                _ => {
                    requests.push(vec![index]);
                    room = max_bytes;
                }
            }
            room = room.saturating_sub(doc.range.len());
        }
        requests
    }

    /// Bytes of a request before compression.
    pub(super) fn len_bytes(&self, request: &[usize]) -> usize {
        request.iter().map(|&index| self.docs[index].range.len()).sum()
    }

    /// The body of a request. A copy only where the documents do not lie one behind the other.
    pub(super) fn body(&self, request: &[usize]) -> Bytes {
        let (Some(&first), Some(&last)) = (request.first(), request.last()) else { return Bytes::new() };
        if last - first + 1 == request.len() {
            return self.bytes.slice(self.docs[first].range.start..self.docs[last].range.end);
        }
        let mut body = Vec::with_capacity(self.len_bytes(request));
        request.iter().for_each(|&index| body.extend_from_slice(&self.bytes[self.docs[index].range.clone()]));
        Bytes::from(body)
    }

    pub(super) fn dead_letter(&self, index: usize, stage: &std::sync::Arc<str>, reason: String) -> DeadLetter {
        let doc = &self.docs[index];
        let rows = &self.blocks[doc.block];
        dead_letter(rows, &rows.records[doc.row], stage, reason)
    }
}

/// Compresses a body at level 1. Computes for milliseconds: call it off the runtime.
pub(super) fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut out = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    out.write_all(body)?;
    Ok(Bytes::from(out.finish()?))
}

fn dead_letter(rows: &Rows, record: &Row, stage: &std::sync::Arc<str>, reason: String) -> DeadLetter {
    DeadLetter {
        stream: rows.stream.clone(),
        stage: stage.clone(),
        reason,
        id: Some(record.id),
        schema: Some(rows.schema.fingerprint),
        received_nanos: rows.received_nanos,
        bytes: record.message.clone(),
    }
}

/// What all documents of a block have in common.
struct Frame {
    received_at: String,
    /// `"sluice":{...}}` and a line break: the end of every source line.
    end: String,
}

impl Frame {
    fn new(rows: &Rows) -> Frame {
        let received_at = rfc3339(i128::from(rows.received_nanos)).unwrap_or_default();
        let agent = serde_json::Value::from(&*rows.agent);
        let key = if has_field(&rows.schema, "sluice") { "sluice_" } else { "sluice" };
        let end = format!("\"{key}\":{{\"agent\":{agent},\"received_at\":\"{received_at}\"}}}}\n");
        Frame { received_at, end }
    }

    fn push(&self, rows: &Rows, record: &Row, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(format!("{{\"create\":{{\"_id\":\"{}\"}}}}\n", record.id).as_bytes());
        let start = out.len();
        schema::json::to_json(&rows.schema, &record.message, out).map_err(|error| error.to_string())?;
        let object = out.get(start..).unwrap_or_default();
        if object.first() != Some(&b'{') || object.last() != Some(&b'}') {
            return Err(format!("message {} has no form as a JSON object", rows.schema.message()));
        }
        let is_empty = object.len() == 2;
        out.pop();
        if !is_empty {
            out.push(b',');
        }
        let event = rows.schema.event_time_nanos(&record.message).and_then(|nanos| rfc3339(i128::from(nanos)));
        out.extend_from_slice(b"\"@timestamp\":\"");
        out.extend_from_slice(event.as_ref().unwrap_or(&self.received_at).as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(self.end.as_bytes());
        Ok(())
    }
}

fn has_field(schema: &Schema, name: &str) -> bool {
    schema.descriptor.get_field_by_name(name).is_some()
}

/// `None` outside the years 0 to 9999.
fn rfc3339(nanos: i128) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}
