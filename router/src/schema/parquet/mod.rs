//! Schema -> Parquet columns: how a message type becomes a Parquet schema, and how records become columns of it.
//!
//! A [`Plan`] is made once per schema. [`Columns`] collects records: each is walked once, by tables indexed by field
//! number, from its wire bytes into column buffers with the repetition and definition levels of the Dremel paper; no
//! message is built. What is collected is then written as one row group.
//!
//! | Protobuf | Parquet |
//! |---|---|
//! | bool, float, double, int32, int64 and their kin | BOOLEAN, FLOAT, DOUBLE, INT32, INT64 |
//! | uint32, fixed32, uint64, fixed64 | INT32, INT64 marked unsigned |
//! | string, enum | BYTE_ARRAY, string; an enum is its value's name, an unknown value its number |
//! | bytes | BYTE_ARRAY |
//! | google.protobuf.Timestamp | INT64, TIMESTAMP(MICROS, UTC) |
//! | google.protobuf.StringValue and the other wrappers | their value, null where absent |
//! | message, group | group |
//! | repeated | LIST of three levels |
//! | map | MAP; of a key that comes twice the last value holds |
//! | Struct, Value, ListValue, Any, recursive, empty or too deep messages | BYTE_ARRAY, JSON |
//!
//! A field with explicit presence (`optional`, member of a oneof, message, anything of proto2) is OPTIONAL and null where
//! absent. A proto3 field without it is REQUIRED and holds its default where absent, for absent and default are the
//! same thing there. Lists and maps are REQUIRED, empty where absent.
//!
//! Timestamps are microseconds because that covers all of Protobuf's years 1 to 9999, which nanoseconds in 64 bits do
//! not, and because it is what BigQuery, DuckDB and pandas agree on; finer digits are cut off.
//!
//! Every record gets three more columns: `_id` (string), `_received_at` (timestamp) and `_agent` (string). A field of
//! that name yields: its column gets a further underscore.
//!
//! Always: a record is in all columns or, where it is refused, in none. Unknown fields are passed over; packed and
//! unpacked lists are both read; of a singular field the last value holds, and of a singular message the parts are
//! merged, as Protobuf defines.

mod columns;
mod plan;
mod shred;
#[cfg(test)]
mod tests;
mod wire;

pub use columns::Columns;
pub use plan::Plan;

/// What a record gets beside its own fields.
#[derive(Clone, Copy, Debug)]
pub struct Extra<'a> {
    pub id: &'a str,
    pub received_nanos: u64,
    pub agent: &'a str,
}
