//! Message descriptor -> columns, writer descriptor and plan, in one walk so that they cannot differ.

use std::collections::HashSet;

use prost_reflect::{FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use super::rows::{FieldPlan, How, MessagePlan};
use super::{Column, Kind, Table, wire};

/// Records inside records that BigQuery allows.
const DEPTH_MAX: usize = 15;
const NUMBER_MAX: u32 = (1 << 29) - 1;
/// Field numbers Protobuf keeps for itself.
const NUMBERS_RESERVED: std::ops::RangeInclusive<u32> = 19_000..=19_999;
const APPENDED: [(&str, Kind, Type); 3] = [
    ("_id", Kind::String, Type::String),
    ("_received_at", Kind::Timestamp, Type::Int64),
    ("_agent", Kind::String, Type::String),
];
/// Prefixes BigQuery keeps for itself, in any case.
const PREFIXES_RESERVED: [&str; 6] =
    ["_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier"];

pub(super) fn table(descriptor: &MessageDescriptor) -> Table {
    let mut walk = Walk { nested: Vec::new(), path: Vec::new() };
    let names = APPENDED.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let mut message = walk.message(descriptor, names);
    let appended = free_numbers(descriptor);
    for ((name, kind, writer_type), number) in APPENDED.into_iter().zip(appended) {
        message.columns.push(Column { name: name.into(), kind, is_repeated: false });
        message.writer.push(writer_field(name, number, false, writer_type));
    }
    let writer = DescriptorProto {
        name: Some("Row".into()),
        field: message.writer,
        nested_type: walk.nested,
        ..DescriptorProto::default()
    };
    Table { columns: message.columns, writer, plan: message.plan, appended }
}

/// Three numbers the message does not use: behind its highest one, for short tags.
fn free_numbers(descriptor: &MessageDescriptor) -> [u32; 3] {
    let used: HashSet<u32> = descriptor.fields().map(|field| field.number()).collect();
    let highest = used.iter().copied().max().unwrap_or(0);
    let mut free = (highest + 1..=NUMBER_MAX)
        .chain(1..=NUMBER_MAX)
        .filter(|number| !used.contains(number) && !NUMBERS_RESERVED.contains(number));
    std::array::from_fn(|_| free.next().unwrap_or(NUMBER_MAX))
}

/// A message's three views.
#[derive(Default)]
struct Message {
    columns: Vec<Column>,
    writer: Vec<FieldDescriptorProto>,
    plan: MessagePlan,
}

/// A field's column kind, its type in the writer descriptor, and what happens to its values.
struct Mapped {
    kind: Kind,
    writer_type: Type,
    /// Index + 1 of the nested type, for records.
    nested: Option<usize>,
    how: How,
}

struct Walk {
    /// Nested types of the writer descriptor, side by side inside the root.
    nested: Vec<DescriptorProto>,
    /// Full names of the messages around the current field.
    path: Vec<String>,
}

impl Walk {
    /// `taken` are column names in lower case that are not free.
    fn message(&mut self, descriptor: &MessageDescriptor, mut taken: HashSet<String>) -> Message {
        self.path.push(descriptor.full_name().to_owned());
        let mut message = Message::default();
        message.plan.has_defaults = descriptor.is_map_entry();
        let mut fields: Vec<FieldDescriptor> = descriptor.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in fields {
            let name = column_name(&field, &mut taken);
            let is_repeated = field.is_list() || field.is_map();
            let mapped = self.field(&field);
            let mut writer = writer_field(&name, field.number(), is_repeated, mapped.writer_type);
            // Relative, as Google's own clients name nested types: found in the root from any depth.
            writer.type_name = mapped.nested.map(nested_name);
            message.writer.push(writer);
            message.columns.push(Column { name, kind: mapped.kind, is_repeated });
            message.plan.fields.push(FieldPlan {
                number: field.number(),
                name: field.name().to_owned(),
                is_repeated,
                wire: wire_type(&field.kind()),
                how: mapped.how,
            });
        }
        self.path.pop();
        message
    }

    fn field(&mut self, field: &FieldDescriptor) -> Mapped {
        match field.kind() {
            FieldKind::Message(message) => self.nested(field.number(), &message),
            kind => scalar(&kind),
        }
    }

    fn nested(&mut self, number: u32, message: &MessageDescriptor) -> Mapped {
        let plain = |kind, writer_type, how| Mapped { kind, writer_type, nested: None, how };
        match message.full_name() {
            "google.protobuf.Timestamp" => plain(Kind::Timestamp, Type::Int64, How::Timestamp),
            "google.protobuf.Duration" => plain(Kind::Numeric, Type::String, How::Duration),
            "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => wrapped(number, message),
            "google.protobuf.Struct"
            | "google.protobuf.Value"
            | "google.protobuf.ListValue"
            | "google.protobuf.Any"
            | "google.protobuf.FieldMask" => plain(Kind::Json, Type::String, How::Json(message.clone())),
            name => {
                let is_inside_itself = self.path.iter().any(|outer| outer == name);
                if is_inside_itself || self.path.len() > DEPTH_MAX || message.fields().len() == 0 {
                    return plain(Kind::Json, Type::String, How::Json(message.clone()));
                }
                self.record(message)
            }
        }
    }

    fn record(&mut self, message: &MessageDescriptor) -> Mapped {
        let inner = self.message(message, HashSet::new());
        let index = self.nested.len() + 1;
        self.nested.push(DescriptorProto {
            name: Some(nested_name(index)),
            field: inner.writer,
            ..DescriptorProto::default()
        });
        Mapped {
            kind: Kind::Record(inner.columns),
            writer_type: Type::Message,
            nested: Some(index),
            how: How::Record(inner.plan),
        }
    }
}

fn nested_name(index: usize) -> String {
    format!("T{index}")
}

fn wrapped(number: u32, wrapper: &MessageDescriptor) -> Mapped {
    let Some(value) = wrapper.get_field(1) else {
        // A descriptor set that redefines the wrapper without its field.
        let how = How::Json(wrapper.clone());
        return Mapped { kind: Kind::Json, writer_type: Type::String, nested: None, how };
    };
    let mapped = scalar(&value.kind());
    let wire = wire_type(&value.kind());
    let inner = FieldPlan { number, name: "value".into(), is_repeated: false, wire, how: mapped.how };
    Mapped { how: How::Wrapped(Box::new(inner)), ..mapped }
}

fn scalar(kind: &FieldKind) -> Mapped {
    let (kind, writer_type, how) = match kind {
        FieldKind::Double => (Kind::Float, Type::Double, How::Copy),
        FieldKind::Float => (Kind::Float, Type::Float, How::Copy),
        FieldKind::Int32 => (Kind::Integer, Type::Int32, How::Copy),
        FieldKind::Int64 => (Kind::Integer, Type::Int64, How::Copy),
        FieldKind::Uint32 => (Kind::Integer, Type::Uint32, How::Copy),
        FieldKind::Sint32 | FieldKind::Sint64 => (Kind::Integer, Type::Int64, How::Zigzag),
        FieldKind::Fixed32 => (Kind::Integer, Type::Int64, How::Fixed { is_signed: false }),
        FieldKind::Sfixed32 | FieldKind::Sfixed64 => (Kind::Integer, Type::Int64, How::Fixed { is_signed: true }),
        FieldKind::Uint64 | FieldKind::Fixed64 => (Kind::Numeric, Type::String, How::Decimal),
        FieldKind::Bool => (Kind::Boolean, Type::Bool, How::Copy),
        FieldKind::String => (Kind::String, Type::String, How::Text),
        FieldKind::Bytes => (Kind::Bytes, Type::Bytes, How::Copy),
        FieldKind::Enum(descriptor) => {
            let mut names = std::collections::HashMap::new();
            for value in descriptor.values() {
                // The first name of an alias.
                names.entry(value.number()).or_insert_with(|| value.name().to_owned());
            }
            (Kind::String, Type::String, How::Enum(names))
        }
        FieldKind::Message(message) => (Kind::Json, Type::String, How::Json(message.clone())),
    };
    Mapped { kind, writer_type, nested: None, how }
}

fn wire_type(kind: &FieldKind) -> u8 {
    match kind {
        FieldKind::Double | FieldKind::Fixed64 | FieldKind::Sfixed64 => wire::FIXED64,
        FieldKind::Float | FieldKind::Fixed32 | FieldKind::Sfixed32 => wire::FIXED32,
        FieldKind::String | FieldKind::Bytes | FieldKind::Message(_) => wire::BYTES,
        FieldKind::Int32
        | FieldKind::Int64
        | FieldKind::Uint32
        | FieldKind::Uint64
        | FieldKind::Sint32
        | FieldKind::Sint64
        | FieldKind::Bool
        | FieldKind::Enum(_) => wire::VARINT,
    }
}

fn writer_field(name: &str, number: u32, is_repeated: bool, writer_type: Type) -> FieldDescriptorProto {
    let label = if is_repeated { Label::Repeated } else { Label::Optional };
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number as i32),
        label: Some(label as i32),
        r#type: Some(writer_type as i32),
        ..FieldDescriptorProto::default()
    }
}

/// The field's own name, changed only where BigQuery refuses it: names differ in more than case, and some prefixes
/// are taken.
fn column_name(field: &FieldDescriptor, taken: &mut HashSet<String>) -> String {
    let mut name = field.name().to_owned();
    if PREFIXES_RESERVED.iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)) {
        name.insert(0, 'f');
    }
    while !taken.insert(name.to_ascii_lowercase()) {
        name = format!("{name}_{}", field.number());
    }
    name
}
