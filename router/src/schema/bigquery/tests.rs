use std::sync::Arc;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::*;
use crate::record::{Origin, RecordIds};

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Color { COLOR_NONE = 0; COLOR_RED = 1; }
message Inner { sint32 s = 1; string text = 2; Color color = 3; }
message Tree { string name = 1; repeated Tree children = 2; }
message Nothing {}
message All {
  double d = 1; float f = 2; int32 i32 = 3; int64 i64 = 4; uint32 u32 = 5; uint64 u64 = 6;
  sint32 s32 = 7; sint64 s64 = 8; fixed32 x32 = 9; fixed64 x64 = 10; sfixed32 y32 = 11; sfixed64 y64 = 12;
  bool b = 13; string s = 14; bytes raw = 15; Color color = 16; Inner inner = 17;
  repeated Inner inners = 18; repeated sint64 many = 19; repeated double doubles = 20; repeated Color colors = 21;
  map<string, Inner> by_name = 22; map<int32, uint64> by_number = 23;
  google.protobuf.Timestamp at = 24; repeated google.protobuf.Timestamp ats = 25;
  google.protobuf.Duration took = 26; google.protobuf.Int64Value wrapped = 27;
  google.protobuf.UInt64Value wrapped_u = 28; google.protobuf.StringValue wrapped_s = 29;
  google.protobuf.Struct anything = 30; google.protobuf.Any any = 31; Tree tree = 32; Nothing nothing = 33;
  oneof choice { int32 left = 34; string right = 35; }
  string _ID = 36; string _partition_of = 37;
}
"#;

fn schema(source: &str, message: &str) -> Arc<Schema> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.proto"), source).unwrap();
    let set = protox::compile(["test.proto"], [dir.path()]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(set).unwrap();
    Arc::new(Schema::new(pool.get_message_by_name(message).unwrap()))
}

fn wire_of(schema: &Schema, json: serde_json::Value) -> Vec<u8> {
    DynamicMessage::deserialize(schema.descriptor.clone(), json).unwrap().encode_to_vec()
}

/// Encodes a record and reads the row as the server does: by the writer descriptor alone, as proto2.
fn row_of(schema: &Schema, message: &[u8]) -> Result<serde_json::Value, Error> {
    let table = Table::new(schema);
    let id = RecordIds::new("s", &Origin { agent: "a".into(), epoch: 1, seq: 1 }, 0).id(0, 0);
    let mut row = Vec::new();
    table.encode(message, Appended { id, received_nanos: 1_234_567, agent: "edge" }, &mut row)?;
    let file = FileDescriptorProto { name: Some("w".into()), message_type: vec![table.writer], ..Default::default() };
    let pool = DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: vec![file] }).unwrap();
    let row = DynamicMessage::decode(pool.get_message_by_name("Row").unwrap(), &row[..]).unwrap();
    assert_eq!(row.unknown_fields().count(), 0);
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let mut json = row.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    let added = json.as_object_mut().unwrap();
    assert_eq!(added.remove("_id"), Some(id.to_string().into()));
    assert_eq!(added.remove("_received_at"), Some(1_234.into()));
    assert_eq!(added.remove("_agent"), Some("edge".into()));
    Ok(json)
}

#[test]
fn every_type_arrives_as_its_column_says() {
    let schema = schema(PROTO, "t.All");
    let check = |json: serde_json::Value, row: serde_json::Value| {
        assert_eq!(row_of(&schema, &wire_of(&schema, json.clone())).unwrap(), row, "{json}");
    };
    check(serde_json::json!({}), serde_json::json!({}));
    let same = serde_json::json!({"d": -1.5, "f": 0.25, "i32": -7, "i64": i64::MIN, "u32": u32::MAX, "b": true, "s": "ä", "raw": "AP8="});
    check(same.clone(), same);
    check(
        serde_json::json!({"u64": u64::MAX, "x64": u64::MAX, "s32": i32::MIN, "s64": i64::MIN, "x32": u32::MAX, "y32": -3, "y64": i64::MIN}),
        serde_json::json!({"u64": u64::MAX.to_string(), "x64": u64::MAX.to_string(), "s32": i32::MIN, "s64": i64::MIN, "x32": u32::MAX, "y32": -3, "y64": i64::MIN}),
    );
    check(
        serde_json::json!({"color": "COLOR_RED", "colors": ["COLOR_RED", "COLOR_NONE", 7], "many": [-1, 0, 1], "doubles": [0.5, 1.0]}),
        serde_json::json!({"color": "COLOR_RED", "colors": ["COLOR_RED", "COLOR_NONE", "7"], "many": [-1, 0, 1], "doubles": [0.5, 1.0]}),
    );
    check(
        serde_json::json!({"inner": {"s": -2, "text": "x", "color": 1}, "inners": [{}, {"s": 5}], "by_name": {"k": {"s": 1}}, "by_number": {"0": 0}}),
        serde_json::json!({"inner": {"s": -2, "text": "x", "color": "COLOR_RED"}, "inners": [{}, {"s": 5}],
            "by_name": [{"key": "k", "value": {"s": 1}}], "by_number": [{"key": 0, "value": "0"}]}),
    );
    check(serde_json::json!({"by_name": {"": {}}}), serde_json::json!({"by_name": [{"key": "", "value": {}}]}));
    // The order of a map's entries on the wire is not fixed: compare them sorted by key.
    let several = serde_json::json!({"by_name": {"": {}, "k": {"s": 1}, "l": {}}});
    let mut row = row_of(&schema, &wire_of(&schema, several)).unwrap();
    row["by_name"].as_array_mut().unwrap().sort_by_key(|entry| entry["key"].to_string());
    let expected =
        serde_json::json!([{"key": "", "value": {}}, {"key": "k", "value": {"s": 1}}, {"key": "l", "value": {}}]);
    assert_eq!(row["by_name"], expected);
    check(
        serde_json::json!({"at": "2026-11-23T01:02:03.123456789Z", "ats": ["1969-12-31T23:59:59.999999999Z"], "took": "-1.5s", "left": 0, "right": null}),
        serde_json::json!({"at": 1_795_395_723_123_456i64, "ats": [-1], "took": "-1.500000000", "left": 0}),
    );
    check(
        serde_json::json!({"wrapped": 0, "wrapped_u": 18446744073709551615u64, "wrapped_s": ""}),
        serde_json::json!({"wrapped": 0, "wrapped_u": "18446744073709551615", "wrapped_s": ""}),
    );
    check(
        serde_json::json!({"anything": {"a": [1.0, null]}, "tree": {"name": "r", "children": [{"name": "c", "children": [{}]}]}, "nothing": {}}),
        serde_json::json!({"anything": r#"{"a":[1.0,null]}"#, "tree": {"name": "r", "children": [r#"{"name":"c","children":[{}]}"#]}, "nothing": "{}"}),
    );
    check(
        serde_json::json!({"_ID": "x", "_partition_of": "y"}),
        serde_json::json!({"_ID_36": "x", "f_partition_of": "y"}),
    );
}

#[test]
fn an_any_nobody_knows_is_kept_whole() {
    let schema = schema(PROTO, "t.All");
    let any = prost_types::Any { type_url: "type.googleapis.com/x.Y".into(), value: vec![1, 2] }.encode_to_vec();
    let mut message = Vec::new();
    wire::push_bytes(&mut message, 31, &any);
    let row = row_of(&schema, &message).unwrap();
    assert!(row["any"].as_str().unwrap().contains("\"@bytes\""), "{row}");
}

#[test]
fn unknown_fields_are_left_out_and_packed_is_read_either_way() {
    let schema = schema(PROTO, "t.All");
    let mut message = vec![];
    wire::push_bytes(&mut message, 900, b"from the future");
    message.extend([0xc3, 0x3e, 0x08, 0x01, 0xc4, 0x3e]); // a group, field 1000
    message.extend([0x98, 0x01, 0x01]); // many, one value
    wire::push_bytes(&mut message, 19, &[2, 3]); // many, packed
    assert_eq!(row_of(&schema, &message).unwrap(), serde_json::json!({"many": [-1, 1, -2]}));
}

#[test]
fn what_does_not_fit_names_its_path() {
    let schema = schema(PROTO, "t.All");
    let check = |message: &[u8], path: &str| match row_of(&schema, message) {
        Err(Error::Record { path: found, .. }) => assert_eq!(found, path),
        other => panic!("{message:?}: {other:?}"),
    };
    check(&[0x72, 2, 0xff, 0xfe], "s");
    check(&[0x8a, 1, 3, 0x12, 1, 0xff], "inner.text");
    check(&[0x08, 1], "d");
    check(&[0xc2, 1, 6, 0x10, 0xff, 0xff, 0xff, 0xff, 0x7f], "at");
    check(&[0x9a, 1, 1, 0x80], "many");
    check(&[0x72, 5, b'x'], "");
    check(&[0x80], "");
    check(&[0x07], "");
}

#[test]
fn proto2_groups_are_records() {
    let source = r#"syntax = "proto2"; package t; message G { optional group Part = 1 { optional int32 a = 2; } optional int32 b = 3; optional int32 B = 4 [json_name = "x"]; }"#;
    let schema = schema(source, "t.G");
    assert_eq!(
        row_of(&schema, &[0x0b, 0x10, 5, 0x0c, 0x18, 6]).unwrap(),
        serde_json::json!({"part": {"a": 5}, "b": 6})
    );
}

#[test]
fn columns_say_what_the_rows_hold() {
    let source = r#"syntax = "proto3"; package t; import "google/protobuf/timestamp.proto";
        message M { uint64 n = 2; google.protobuf.Timestamp at = 1; map<string, bool> flags = 18999; }"#;
    let column = |name: &str, kind, is_repeated| Column { name: name.into(), kind, is_repeated };
    let entry = vec![column("key", Kind::String, false), column("value", Kind::Boolean, false)];
    let table = Table::new(&schema(source, "t.M"));
    let expected = vec![
        column("at", Kind::Timestamp, false),
        column("n", Kind::Numeric, false),
        column("flags", Kind::Record(entry), true),
        column("_id", Kind::String, false),
        column("_received_at", Kind::Timestamp, false),
        column("_agent", Kind::String, false),
    ];
    assert_eq!(table.columns, expected);
    assert_eq!(table.appended, [20_000, 20_001, 20_002]);
}
