//! Schema -> BigQuery: the table's columns, the descriptor that tells the Storage Write API how rows are encoded, and
//! the rows themselves.
//!
//! | Protobuf | column | in the row |
//! |---|---|---|
//! | double, float, bool, string, bytes, int32, int64, uint32 | FLOAT, BOOLEAN, STRING, BYTES, INTEGER | as it is |
//! | sint*, sfixed*, fixed32 | INTEGER | int64: the API does not list their encodings |
//! | uint64, fixed64 | NUMERIC | decimal text: it can exceed INTEGER |
//! | enum | STRING | the value's name; its number in decimal where the schema has no name for it |
//! | message, group | RECORD | its fields, each as here |
//! | map | REPEATED RECORD of key, value | entries; a key or value left out as default is written |
//! | Timestamp | TIMESTAMP | int64 microseconds; finer digits are cut off |
//! | Duration | NUMERIC | seconds with nine decimals, exactly |
//! | wrappers (Int64Value, ...) | as the wrapped type | NULL where the wrapper is absent |
//! | Struct, Value, ListValue, Any, FieldMask | JSON | text |
//! | a message inside itself, one deeper than 15 records, one without fields | JSON | text |
//!
//! What a record leaves out is NULL, also where a reader of the Protobuf message would see a default: the API decodes
//! rows as proto2, and NULL is what lets a later query tell "zero" from "not said". Unknown fields are left out.
//! Three columns are appended: `_id`, `_received_at`, `_agent`.
//!
//! Always: a plan is a pure function of the schema, and a row of record and plan, so a row that is sent again after a
//! crash is the same bytes.

mod columns;
mod json;
mod rows;
#[cfg(test)]
mod tests;
mod wire;

use prost_types::DescriptorProto;

use self::rows::MessagePlan;
use super::{Error, Schema};
use crate::record::{RecordId, push_varint};

/// What one schema is in BigQuery. The default has no columns and takes no rows.
#[derive(Debug, Default)]
pub struct Table {
    pub columns: Vec<Column>,
    /// Self-contained, as the API demands: every nested type inside it, proto2, no oneofs.
    pub writer: DescriptorProto,
    plan: MessagePlan,
    /// Field numbers of `_id`, `_received_at`, `_agent`.
    appended: [u32; 3],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub is_repeated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Bytes,
    Float,
    Integer,
    Json,
    Numeric,
    Record(Vec<Column>),
    String,
    Timestamp,
}

/// What the router adds to a row.
#[derive(Clone, Copy, Debug)]
pub struct Appended<'a> {
    pub id: RecordId,
    pub received_nanos: u64,
    pub agent: &'a str,
}

impl Table {
    pub fn new(schema: &Schema) -> Table {
        columns::table(&schema.descriptor)
    }

    /// Appends the row of one record to `out`. Fails where the record is not of this schema or has a value BigQuery
    /// has no place for; what was appended until then is to be dropped.
    pub fn encode(&self, message: &[u8], appended: Appended<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        self.plan.push(message, out)?;
        let [id, received_at, agent] = self.appended;
        wire::push_bytes(out, id, appended.id.to_string().as_bytes());
        wire::push_tag(out, received_at, wire::VARINT);
        push_varint(out, appended.received_nanos / 1_000);
        wire::push_bytes(out, agent, appended.agent.as_bytes());
        Ok(())
    }
}
