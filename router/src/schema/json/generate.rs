//! Random schemas and random messages of them, from a seed.

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MessageOptions, OneofDescriptorProto,
};

/// SplitMix64: small, and the same on every machine.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const SCALARS: [Type; 15] = [
    Type::Double,
    Type::Float,
    Type::Int32,
    Type::Int64,
    Type::Uint32,
    Type::Uint64,
    Type::Sint32,
    Type::Sint64,
    Type::Fixed32,
    Type::Fixed64,
    Type::Sfixed32,
    Type::Sfixed64,
    Type::Bool,
    Type::String,
    Type::Bytes,
];

const KEYS: [Type; 6] = [Type::Int32, Type::Uint64, Type::Sint64, Type::Fixed32, Type::Bool, Type::String];

const WELL_KNOWN: [&str; 16] = [
    // These three hold a map.
    "Struct",
    "Value",
    "ListValue",
    "Timestamp",
    "Duration",
    "FieldMask",
    "DoubleValue",
    "FloatValue",
    "Int64Value",
    "UInt64Value",
    "Int32Value",
    "UInt32Value",
    "BoolValue",
    "StringValue",
    "BytesValue",
    "Empty",
];

/// A message type of up to a dozen fields of every kind, in proto2 or proto3; its messages refer to one another.
pub(super) fn schema(random: &mut Random) -> MessageDescriptor {
    let is_proto3 = random.one_in(2);
    let has_maps = random.one_in(2);
    let imports = ["struct", "timestamp", "duration", "wrappers", "field_mask", "empty", "any"];
    let mut file = FileDescriptorProto {
        name: Some("random.proto".into()),
        package: Some("random".into()),
        syntax: is_proto3.then(|| "proto3".into()),
        dependency: imports.map(|name| format!("google/protobuf/{name}.proto")).to_vec(),
        enum_type: vec![EnumDescriptorProto {
            name: Some("Choice".into()),
            value: [0, 1, 2, -5, i32::MAX, i32::MIN]
                .map(|number| EnumValueDescriptorProto {
                    name: Some(format!("CHOICE_{}", number.to_string().replace('-', "MINUS_"))),
                    number: Some(number),
                    ..Default::default()
                })
                .to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let count = 1 + random.below(4);
    for place in 0..count {
        let message = message_type(random, &format!("M{place}"), count, (is_proto3, has_maps));
        file.message_type.push(message);
    }
    let mut pool = DescriptorPool::global();
    pool.add_file_descriptor_proto(file).unwrap();
    pool.get_message_by_name("random.M0").unwrap()
}

fn message_type(random: &mut Random, name: &str, count: usize, (is_proto3, has_maps): (bool, bool)) -> DescriptorProto {
    let mut message = DescriptorProto { name: Some(name.into()), ..Default::default() };
    let mut number = 0;
    let mut optionals = Vec::new();
    let oneofs = random.below(3);
    for oneof in 0..oneofs {
        message.oneof_decl.push(OneofDescriptorProto { name: Some(format!("one_{oneof}")), ..Default::default() });
    }
    for place in 0..random.below(13) + 2 * oneofs {
        number += 1 + if random.one_in(6) { random.below(3000) as i32 } else { 0 };
        let field_name = format!("{}_{place}", random.pick(&["name", "some_name", "camelName", "x"]));
        let mut field =
            FieldDescriptorProto { name: Some(field_name.clone()), number: Some(number), ..Default::default() };
        field.set_label(Label::Optional);
        if place < 2 * oneofs {
            field.oneof_index = Some((place / 2) as i32);
            value_type(random, &mut field, (count, has_maps));
        } else if has_maps && random.one_in(6) {
            let entry = entry(random, &field_name, count);
            field.set_label(Label::Repeated);
            field.set_type(Type::Message);
            field.type_name = Some(format!(".random.{name}.{}", entry.name()));
            message.nested_type.push(entry);
        } else {
            value_type(random, &mut field, (count, has_maps));
            if !is_proto3 && random.one_in(8) {
                field.set_type(Type::Group);
                field.type_name = Some(format!(".random.M{}", random.below(count)));
            }
            let is_packable = !matches!(field.r#type(), Type::String | Type::Bytes | Type::Message | Type::Group);
            match random.below(4) {
                0 => {
                    field.set_label(Label::Repeated);
                    if is_packable && random.one_in(2) {
                        field.options.get_or_insert_default().packed = Some(random.one_in(2));
                    }
                }
                1 if is_proto3 => {
                    field.proto3_optional = Some(true);
                    optionals.push(message.field.len());
                }
                _ => {}
            }
        }
        message.field.push(field);
    }
    // Synthetic oneofs come behind the real ones.
    for place in optionals {
        let name = format!("_{}", message.field[place].name());
        message.field[place].oneof_index = Some(message.oneof_decl.len() as i32);
        message.oneof_decl.push(OneofDescriptorProto { name: Some(name), ..Default::default() });
    }
    message
}

fn value_type(random: &mut Random, field: &mut FieldDescriptorProto, (count, has_maps): (usize, bool)) {
    match random.below(10) {
        0 | 1 => {
            field.set_type(Type::Message);
            field.type_name = Some(format!(".random.M{}", random.below(count)));
        }
        2 | 3 => {
            field.set_type(Type::Message);
            field.type_name = Some(format!(
                ".google.protobuf.{}",
                random.pick(if has_maps { &WELL_KNOWN } else { &WELL_KNOWN[3..] })
            ));
        }
        4 => {
            field.set_type(Type::Enum);
            field.type_name = Some(random.pick(&[".random.Choice", ".google.protobuf.NullValue"]).to_string());
        }
        _ => field.set_type(*random.pick(&SCALARS)),
    }
}

fn entry(random: &mut Random, field_name: &str, count: usize) -> DescriptorProto {
    // The name protoc gives it: camel case and "Entry".
    let name: String = field_name
        .split('_')
        .map(|part| part.chars().take(1).flat_map(char::to_uppercase).chain(part.chars().skip(1)).collect::<String>())
        .collect();
    let field = |name: &str, number| {
        let mut field = FieldDescriptorProto { name: Some(name.into()), number: Some(number), ..Default::default() };
        field.set_label(Label::Optional);
        field
    };
    let mut key = field("key", 1);
    key.set_type(*random.pick(&KEYS));
    let mut value = field("value", 2);
    value_type(random, &mut value, (count, true));
    DescriptorProto {
        name: Some(format!("{name}Entry")),
        field: vec![key, value],
        options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

/// A message of which about half the fields are set.
pub(super) fn message(random: &mut Random, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            message.set_field_by_number(1, Value::I64(random.next() as i64 % 100_000_000_000 % 62_135_596_800));
            message.set_field_by_number(2, Value::I32(fraction(random)));
            return message;
        }
        "google.protobuf.Duration" => {
            // Neither part is 0, so that a merge replaces both: the oracle misspells parts of different signs.
            let sign = if random.one_in(2) { -1 } else { 1 };
            let seconds = i64::from(sign) * (1 + random.next() % 315_575_999_999) as i64;
            message.set_field_by_number(1, Value::I64(seconds));
            message.set_field_by_number(2, Value::I32(sign * fraction(random).max(1_000_000)));
            return message;
        }
        "google.protobuf.FieldMask" => {
            let paths = ["a", "some_name", "a.b_c.d", "x"].iter().take(random.below(5));
            message.set_field_by_number(1, Value::List(paths.map(|path| Value::String((*path).into())).collect()));
            return message;
        }
        "google.protobuf.Value" => {
            // A value of no kind reads back as null, which is another message.
            let number = if depth == 0 { 1 + random.below(4) } else { 1 + random.below(6) } as u32;
            let field = descriptor.get_field(number).unwrap();
            let value = match number {
                1 => Value::EnumNumber(0),
                2 => Value::F64(f64::from(random.next() as i32) / 8.0),
                _ => value(random, &field, depth),
            };
            message.set_field(&field, value);
            return message;
        }
        // The oracle writes infinities in wrappers as null.
        "google.protobuf.FloatValue" => {
            message.set_field_by_number(1, Value::F32(random.next() as i16 as f32 / 8.0));
            return message;
        }
        "google.protobuf.DoubleValue" => {
            message.set_field_by_number(1, Value::F64(f64::from(random.next() as i32) / 8.0));
            return message;
        }
        _ => {}
    }
    for field in descriptor.fields() {
        let in_set_oneof = field.containing_oneof().is_some_and(|oneof| oneof.fields().any(|f| message.has_field(&f)));
        let holds_messages = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind().as_message().is_some(),
            kind => kind.as_message().is_some(),
        };
        if random.one_in(2) || in_set_oneof || depth == 0 && holds_messages {
            continue;
        }
        if field.is_list() {
            let values = (0..random.below(4)).map(|_| value(random, &field, depth)).collect();
            message.set_field(&field, Value::List(values));
        } else if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!() };
            let limit = if random.one_in(9) { 40 } else { 4 };
            let entries = (0..random.below(limit)).map(|_| {
                let key = map_key(random, &entry.map_entry_key_field());
                (key, value(random, &entry.map_entry_value_field(), depth))
            });
            message.set_field(&field, Value::Map(entries.collect()));
        } else {
            message.set_field(&field, value(random, &field, depth));
        }
    }
    message
}

fn fraction(random: &mut Random) -> i32 {
    let nanos = random.below(1_000_000_000) as i32;
    *random.pick(&[0, nanos, nanos / 1000 * 1000, nanos / 1_000_000 * 1_000_000])
}

fn map_key(random: &mut Random, field: &FieldDescriptor) -> MapKey {
    match value(random, field, 0) {
        Value::Bool(value) => MapKey::Bool(value),
        Value::I32(value) => MapKey::I32(value),
        Value::I64(value) => MapKey::I64(value),
        Value::U32(value) => MapKey::U32(value),
        Value::U64(value) => MapKey::U64(value),
        Value::String(value) => MapKey::String(value),
        other => unreachable!("{other:?}"),
    }
}

fn value(random: &mut Random, field: &FieldDescriptor, depth: usize) -> Value {
    assert!(field.cardinality() != Cardinality::Required);
    let word = *random.pick(&[0, 1, 127, 128, 255, 300, u64::MAX, i64::MAX as u64, i64::MIN as u64, 1 << 31, 1 << 53]);
    let word = if random.one_in(2) { random.next() >> random.below(64) } else { word };
    match field.kind() {
        Kind::Double => Value::F64(*random.pick(&[0.0, 1.0, -1.5, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, 0.1])),
        Kind::Float => Value::F32(*random.pick(&[0.0, 1.0, -2.25, 1e30, f32::NEG_INFINITY, 0.1, 16_777_216.0])),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(word as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(word as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(word as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(word),
        Kind::Bool => Value::Bool(word & 1 == 1),
        Kind::String => Value::String(text(random)),
        Kind::Bytes => Value::Bytes((0..random.below(9)).map(|_| random.next() as u8).collect()),
        Kind::Enum(descriptor) if descriptor.name() == "NullValue" => Value::EnumNumber(0),
        Kind::Enum(_) => Value::EnumNumber(*random.pick(&[0, 1, 2, -5, i32::MAX, i32::MIN, 77])),
        Kind::Message(descriptor) => Value::Message(message(random, &descriptor, depth.saturating_sub(1))),
    }
}

fn text(random: &mut Random) -> String {
    const PARTS: [&str; 12] = [
        "",
        "plain",
        "with space",
        "\"",
        "\\",
        "\n\t\r",
        "\u{0}\u{1f}\u{8}",
        "ü",
        "漢字",
        "😀",
        "/",
        "longer than eight",
    ];
    (0..random.below(4)).map(|_| *random.pick(&PARTS)).collect()
}
