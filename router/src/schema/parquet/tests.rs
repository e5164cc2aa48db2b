use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::printer::print_schema;
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::*;
use crate::record::push_varint;

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/any.proto";

message All {
  bool bool_one = 1;
  int32 int32_one = 2;
  sint32 sint32_one = 3;
  sfixed32 sfixed32_one = 4;
  uint32 uint32_one = 5;
  fixed32 fixed32_one = 6;
  int64 int64_one = 7;
  sint64 sint64_one = 8;
  sfixed64 sfixed64_one = 9;
  uint64 uint64_one = 10;
  fixed64 fixed64_one = 11;
  float float_one = 12;
  double double_one = 13;
  string string_one = 14;
  bytes bytes_one = 15;
  Color color = 16;
  optional int32 maybe = 17;
  Inner inner = 18;
  oneof choice { string choice_text = 19; Inner choice_inner = 20; }
  repeated sint32 numbers = 21;
  repeated string texts = 22;
  repeated Inner inners = 23;
  repeated Color colors = 24;
  map<string, Inner> by_name = 25;
  map<int32, string> by_number = 26;
  google.protobuf.Timestamp at = 27;
  repeated google.protobuf.Timestamp times = 28;
  google.protobuf.StringValue wrapped = 29;
  google.protobuf.Struct open = 30;
  Tree tree = 31;
  google.protobuf.Any any = 32;
  repeated double doubles = 500;
}
message Inner {
  string name = 1;
  repeated int64 sizes = 3;
  map<string, sint64> marks = 7;
  optional Deep deep = 9;
}
message Deep { repeated Pair pairs = 1; Empty empty = 2; }
message Pair { int32 left = 1; optional string right = 2; }
message Tree { string label = 1; repeated Tree children = 2; }
message Empty {}
message Clash { string _id = 1; string _agent = 2; }
enum Color { NONE = 0; RED = 1; BLUE = -7; }
"#;

fn message(name: &str) -> MessageDescriptor {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), PROTO).unwrap();
    let set = protox::compile(["t.proto"], [folder.path()]).unwrap();
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).unwrap();
    pool.get_message_by_name(name).unwrap()
}

const EXTRA: Extra<'static> = Extra { id: "id-1", received_nanos: 1_700_000_000_123_456_789, agent: "edge-1" };

/// Writes records as a file, in row groups of three, and reads it back.
fn rows(descriptor: &MessageDescriptor, messages: &[Vec<u8>]) -> Vec<Row> {
    let plan = Plan::new(descriptor).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), plan.schema().clone(), properties).unwrap();
    let mut columns = Columns::new(&plan);
    for some in messages.chunks(3) {
        some.iter().for_each(|message| columns.push(&plan, message, EXTRA).unwrap());
        columns.write(&mut writer).unwrap();
        assert_eq!((columns.row_count(), columns.len_bytes()), (0, 0));
    }
    let file = bytes::Bytes::from(writer.into_inner().unwrap());
    let reader = SerializedFileReader::new(file).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

/// What a column should hold, in a form that both sides can be brought to.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Null,
    Leaf(String),
    List(Vec<Shape>),
    Map(BTreeMap<String, Shape>),
    Group(BTreeMap<String, Shape>),
}

fn found(field: &Field) -> Shape {
    match field {
        Field::Null => Shape::Null,
        Field::Group(row) => Shape::Group(row.get_column_iter().map(|(name, f)| (name.clone(), found(f))).collect()),
        Field::ListInternal(list) => Shape::List(list.elements().iter().map(found).collect()),
        Field::MapInternal(map) => {
            Shape::Map(map.entries().iter().map(|(key, value)| (leaf(key), found(value))).collect())
        }
        other => Shape::Leaf(leaf(other)),
    }
}

fn leaf(field: &Field) -> String {
    match field {
        Field::Bytes(bytes) => format!("{:?}", bytes.data()),
        Field::Str(text) => text.clone(),
        Field::Float(value) => format!("{:x}", value.to_bits()),
        Field::Double(value) => format!("{:x}", value.to_bits()),
        Field::TimestampMicros(value) => value.to_string(),
        other => other.to_string(),
    }
}

/// The oracle: what the file should hold, from a decoded message.
fn expected(message: &DynamicMessage) -> BTreeMap<String, Shape> {
    let fields = message.descriptor().fields().collect::<Vec<_>>();
    let fields = fields.iter().map(|field| {
        let is_there = !field.supports_presence() || message.has_field(field);
        let shape = if is_there { value_shape(&message.get_field(field), &field.kind()) } else { Shape::Null };
        (field.name().to_owned(), shape)
    });
    fields.collect()
}

fn value_shape(value: &Value, kind: &prost_reflect::Kind) -> Shape {
    match value {
        Value::List(list) => Shape::List(list.iter().map(|value| value_shape(value, kind)).collect()),
        Value::Map(map) => {
            let entry = kind.as_message().unwrap().map_entry_value_field().kind();
            Shape::Map(map.iter().map(|(key, value)| (key_text(key), value_shape(value, &entry))).collect())
        }
        Value::Message(message) => message_shape(message),
        Value::EnumNumber(number) => {
            let of = kind.as_enum().unwrap().get_value(*number);
            Shape::Leaf(of.map_or_else(|| number.to_string(), |value| value.name().to_owned()))
        }
        Value::Bytes(bytes) => Shape::Leaf(format!("{:?}", &bytes[..])),
        Value::String(text) => Shape::Leaf(text.clone()),
        Value::F32(value) => Shape::Leaf(format!("{:x}", value.to_bits())),
        Value::F64(value) => Shape::Leaf(format!("{:x}", value.to_bits())),
        Value::Bool(value) => Shape::Leaf(value.to_string()),
        Value::I32(value) => Shape::Leaf(value.to_string()),
        Value::I64(value) => Shape::Leaf(value.to_string()),
        Value::U32(value) => Shape::Leaf(value.to_string()),
        Value::U64(value) => Shape::Leaf(value.to_string()),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => value.clone(),
    }
}

fn message_shape(message: &DynamicMessage) -> Shape {
    let field = |name: &str| message.get_field_by_name(name).unwrap();
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => {
            let nanos = i128::from(field("seconds").as_i64().unwrap()) * 1_000_000_000;
            let nanos = nanos + i128::from(field("nanos").as_i32().unwrap());
            Shape::Leaf(nanos.div_euclid(1_000).to_string())
        }
        "google.protobuf.StringValue" => Shape::Leaf(field("value").as_str().unwrap().to_owned()),
        // Only empty ones come out of the generator.
        "google.protobuf.Any" => Shape::Leaf(r#"{"@type":"","value":""}"#.into()),
        "google.protobuf.Struct" | "t.Empty" => Shape::Leaf(json(message)),
        // Its children recurse, so they are JSON.
        "t.Tree" => {
            let children = field("children");
            let children = children.as_list().unwrap().iter().map(|child| json(child.as_message().unwrap()));
            let children = children.map(Shape::Leaf).collect();
            let label = Shape::Leaf(field("label").as_str().unwrap().to_owned());
            Shape::Group(BTreeMap::from([("label".to_owned(), label), ("children".to_owned(), Shape::List(children))]))
        }
        _ => Shape::Group(expected(message)),
    }
}

fn json(message: &DynamicMessage) -> String {
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let mut out = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options).unwrap();
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check_against_oracle(descriptor: &MessageDescriptor, messages: &[Vec<u8>]) {
    let rows = rows(descriptor, messages);
    assert_eq!(rows.len(), messages.len());
    for (row, message) in rows.iter().zip(messages) {
        let mut want = expected(&DynamicMessage::decode(descriptor.clone(), &message[..]).unwrap());
        want.insert("_id".into(), Shape::Leaf("id-1".into()));
        want.insert("_received_at".into(), Shape::Leaf("1700000000123456".into()));
        want.insert("_agent".into(), Shape::Leaf("edge-1".into()));
        let have: BTreeMap<_, _> = row.get_column_iter().map(|(name, field)| (name.clone(), found(field))).collect();
        for (name, want) in &want {
            assert_eq!(have.get(name), Some(want), "column {name} of {message:?}");
        }
        assert_eq!(have.len(), want.len());
    }
}

/// Random messages of random depth, by way of random values for each field.
fn arbitrary_message(descriptor: MessageDescriptor, depth: u32) -> BoxedStrategy<DynamicMessage> {
    let fields: Vec<_> = descriptor.fields().collect();
    let values: Vec<_> = fields
        .iter()
        .map(|field| prop_oneof![1 => Just(None), 2 => arbitrary_field(field, depth).prop_map(Some)].boxed())
        .collect();
    values
        .prop_map(move |values| {
            let mut message = DynamicMessage::new(descriptor.clone());
            for (field, value) in fields.iter().zip(values) {
                if let Some(value) = value {
                    message.set_field(field, value);
                }
            }
            message
        })
        .boxed()
}

fn arbitrary_field(field: &prost_reflect::FieldDescriptor, depth: u32) -> BoxedStrategy<Value> {
    if let (true, Some(entry)) = (field.is_map(), field.kind().as_message().cloned()) {
        let key = entry.map_entry_key_field();
        let key = arbitrary_value(&key.kind(), depth).prop_map(|key| match key {
            Value::String(text) => MapKey::String(text),
            Value::I32(number) => MapKey::I32(number),
            other => panic!("add key {other:?}"),
        });
        let value = arbitrary_value(&entry.map_entry_value_field().kind(), depth);
        return proptest::collection::hash_map(key, value, 0..4).prop_map(Value::Map).boxed();
    }
    if field.is_list() {
        return proptest::collection::vec(arbitrary_value(&field.kind(), depth), 0..5).prop_map(Value::List).boxed();
    }
    arbitrary_value(&field.kind(), depth)
}

fn arbitrary_value(kind: &prost_reflect::Kind, depth: u32) -> BoxedStrategy<Value> {
    use prost_reflect::Kind;
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Uint32 | Kind::Fixed32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => any::<i64>().prop_map(Value::I64).boxed(),
        Kind::Uint64 | Kind::Fixed64 => any::<u64>().prop_map(Value::U64).boxed(),
        Kind::Float => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))).boxed(),
        Kind::Double => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))).boxed(),
        Kind::String => "\\PC{0,6}".prop_map(Value::String).boxed(),
        Kind::Bytes => proptest::collection::vec(any::<u8>(), 0..6).prop_map(|b| Value::Bytes(b.into())).boxed(),
        Kind::Enum(_) => prop_oneof![Just(0), Just(1), Just(-7), Just(42)].prop_map(Value::EnumNumber).boxed(),
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            let descriptor = message.clone();
            (-62_135_596_800i64..=253_402_300_799, 0..1_000_000_000i32)
                .prop_map(move |(seconds, nanos)| {
                    let mut message = DynamicMessage::new(descriptor.clone());
                    message.set_field_by_name("seconds", Value::I64(seconds));
                    message.set_field_by_name("nanos", Value::I32(nanos));
                    Value::Message(message)
                })
                .boxed()
        }
        // Values that JSON has no form for are no test of ours; one of each is in the fixed test below.
        Kind::Message(message) if ["google.protobuf.Any", "google.protobuf.Struct"].contains(&message.full_name()) => {
            Just(Value::Message(DynamicMessage::new(message.clone()))).boxed()
        }
        Kind::Message(message) if depth == 0 => Just(Value::Message(DynamicMessage::new(message.clone()))).boxed(),
        Kind::Message(message) => arbitrary_message(message.clone(), depth - 1).prop_map(Value::Message).boxed(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn files_hold_what_messages_say(
        messages in proptest::collection::vec(arbitrary_message(message("t.All"), 3), 1..8),
        shuffles in proptest::collection::vec(any::<u64>(), 8),
    ) {
        let mut encoded: Vec<Vec<u8>> = messages.iter().map(DynamicMessage::encode_to_vec).collect();
        let descriptor = message("t.All");
        check_against_oracle(&descriptor, &encoded);
        // Two messages in a row are one merged message, with every field twice and out of order.
        let twice: Vec<Vec<u8>> = encoded.iter().zip(encoded.iter().rev()).map(|(a, b)| [&a[..], b].concat()).collect();
        check_against_oracle(&descriptor, &twice);
        // Broken bytes are refused or read as something, and what was refused leaves no trace.
        let plan = Plan::new(&descriptor).unwrap();
        let mut columns = Columns::new(&plan);
        let mut kept = Vec::new();
        for (message, shuffle) in encoded.iter_mut().zip(shuffles) {
            if !message.is_empty() {
                let at = shuffle as usize % message.len();
                message[at] ^= (shuffle >> 32) as u8 | 1;
            }
            let (rows_before, bytes_before) = (columns.row_count(), columns.len_bytes());
            match columns.push(&plan, message, EXTRA) {
                Ok(()) => kept.push(message.clone()),
                Err(_) => prop_assert_eq!((columns.row_count(), columns.len_bytes()), (rows_before, bytes_before)),
            }
        }
        prop_assert_eq!(rows(&descriptor, &kept).len(), kept.len());
    }
}

/// One field as it lies on the wire.
fn wire(number: u32, kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(&mut out, u64::from(number) << 3 | kind);
    if kind == 2 {
        push_varint(&mut out, payload.len() as u64);
    }
    out.extend_from_slice(payload);
    out
}

#[test]
fn the_wire_may_say_the_same_in_other_ways() {
    let all = message("t.All");
    let inner = |name: &str| wire(1, 2, name.as_bytes());
    let cases = [
        ("unpacked list", [wire(21, 0, &[1]), wire(21, 0, &[2])].concat()),
        ("packed and unpacked", [wire(21, 2, &[1, 2]), wire(14, 2, b"x"), wire(21, 0, &[3])].concat()),
        ("empty packed list", wire(21, 2, &[])),
        ("last value of a singular field", [wire(2, 0, &[1]), wire(2, 0, &[9])].concat()),
        ("oneof: text, then message", [wire(19, 2, b"t"), wire(20, 2, &inner("i"))].concat()),
        ("oneof: message, then text", [wire(20, 2, &inner("i")), wire(19, 2, b"t")].concat()),
        (
            "oneof: cleared in between",
            [wire(20, 2, &wire(3, 0, &[5])), wire(19, 2, b"t"), wire(20, 2, &inner("i"))].concat(),
        ),
        ("map key twice", {
            let entry = |value: &[u8]| wire(26, 2, &[wire(1, 0, &[4]), wire(2, 2, value)].concat());
            [entry(b"old"), entry(b"new")].concat()
        }),
        ("map entry without key and value", wire(26, 2, &[])),
        ("unknown fields", [wire(100, 0, &[1]), wire(101, 2, b"abc"), wire(102, 5, &[1, 2, 3, 4])].concat()),
        ("unknown group", [wire(103, 3, &wire(1, 0, &[1])), wire(103, 4, &[])].concat()),
        ("nothing at all", Vec::new()),
    ];
    for (what, bytes) in &cases {
        println!("{what}");
        check_against_oracle(&all, std::slice::from_ref(bytes));
    }
    check_against_oracle(&all, &cases.map(|(_, bytes)| bytes));
}

#[test]
fn broken_records_are_refused_with_their_place() {
    let plan = Plan::new(&message("t.All")).unwrap();
    let mut columns = Columns::new(&plan);
    let mut check = |bytes: &[u8], expected: &str| {
        let error = columns.push(&plan, bytes, EXTRA).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!((columns.row_count(), columns.len_bytes()), (0, 0));
    };
    check(&[0x80], "tag at byte 0 is broken");
    check(&[0x00], "tag at byte 0 has a field number out of range");
    check(&wire(14, 2, &[0xff]), "string_one: string is not UTF-8 from byte 0 on");
    check(&[0x72, 9, 1], "field number 14 is cut short");
    check(&wire(2, 5, &[0; 4]), "int32_one: wire has four bytes, schema says int32");
    check(
        &wire(23, 2, &wire(9, 2, &wire(1, 2, &wire(2, 2, &[0xc0])))),
        "inners.[0].deep.pairs.[0].right: string is not UTF-8 from byte 0 on",
    );
    check(&wire(21, 2, &[0x80]), "numbers: packed list is cut short");
    check(&wire(103, 3, &[]), "group 103 has no end");
    check(&wire(103, 3, &wire(104, 4, &[])), "group 104 ends but was not begun");
    check(&wire(1, 7, &[]), "field number 1 has wire type 7");
    check(
        &wire(27, 2, &wire(1, 0, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        "at: timestamp of 9223372036854775807 seconds is out of range",
    );
}

#[test]
fn what_has_no_fixed_shape_is_json() {
    let all = message("t.All");
    let open = wire(1, 2, &[wire(1, 2, b"k"), wire(2, 2, &wire(4, 0, &[1]))].concat());
    let tree = [wire(1, 2, b"root"), wire(2, 2, &wire(1, 2, b"leaf"))].concat();
    let any = [wire(1, 2, b"type.googleapis.com/no.Such"), wire(2, 2, &[1, 2])].concat();
    let bytes = [wire(30, 2, &open), wire(31, 2, &tree), wire(32, 2, &any)].concat();
    let rows = rows(&all, &[bytes]);
    let fields: BTreeMap<_, _> = rows[0].get_column_iter().map(|(name, field)| (name.clone(), found(field))).collect();
    assert_eq!(fields["open"], Shape::Leaf(r#"{"k":true}"#.into()));
    let children = Shape::List(vec![Shape::Leaf(r#"{"label":"leaf"}"#.into())]);
    let label = Shape::Leaf("root".into());
    assert_eq!(fields["tree"], Shape::Group(BTreeMap::from([("children".into(), children), ("label".into(), label)])));
    assert_eq!(fields["any"], Shape::Leaf(r#"{"@type":"type.googleapis.com/no.Such","value":"AQI="}"#.into()));
}

#[test]
fn the_schema_reads_as_the_table_says() {
    let mut printed = Vec::new();
    print_schema(&mut printed, Plan::new(&message("t.Inner")).unwrap().schema());
    let expected = "\
message record {
  REQUIRED BYTE_ARRAY name (STRING);
  REQUIRED group sizes (LIST) {
    REPEATED group list {
      REQUIRED INT64 element;
    }
  }
  REQUIRED group marks (MAP) {
    REPEATED group key_value {
      REQUIRED BYTE_ARRAY key (STRING);
      REQUIRED INT64 value;
    }
  }
  OPTIONAL group deep {
    REQUIRED group pairs (LIST) {
      REPEATED group list {
        REQUIRED group element {
          REQUIRED INT32 left;
          OPTIONAL BYTE_ARRAY right (STRING);
        }
      }
    }
    OPTIONAL BYTE_ARRAY empty (JSON);
  }
  REQUIRED BYTE_ARRAY _id (STRING);
  REQUIRED INT64 _received_at (TIMESTAMP(MICROS,true));
  REQUIRED BYTE_ARRAY _agent (STRING);
}
";
    assert_eq!(String::from_utf8(printed).unwrap(), expected);
    let clash = Plan::new(&message("t.Clash")).unwrap();
    let names: Vec<&str> = clash.schema().get_fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["_id_", "_agent_", "_id", "_received_at", "_agent"]);
}

#[test]
fn more_texts_than_are_written_at_once_keep_their_rows() {
    let descriptor = message("t.All");
    let texts = |row: usize| (0..row % 7).map(|text| format!("{row}-{text}")).collect::<Vec<String>>();
    let plan = Plan::new(&descriptor).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), plan.schema().clone(), properties).unwrap();
    let mut columns = Columns::new(&plan);
    for row in 0..5_000 {
        let message: Vec<u8> = texts(row).iter().flat_map(|text| wire(22, 2, text.as_bytes())).collect();
        columns.push(&plan, &message, EXTRA).unwrap();
    }
    columns.write(&mut writer).unwrap();
    let file = bytes::Bytes::from(writer.into_inner().unwrap());
    let rows = SerializedFileReader::new(file).unwrap();
    let mut count = 0;
    for (row, read) in rows.get_row_iter(None).unwrap().enumerate() {
        let read = read.unwrap();
        let (_, column) = read.get_column_iter().find(|(name, _)| *name == "texts").unwrap();
        let expected = texts(row).into_iter().map(Shape::Leaf).collect();
        assert_eq!(found(column), Shape::List(expected), "row {row}");
        count += 1;
    }
    assert_eq!(count, 5_000);
}
