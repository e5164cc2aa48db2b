//! The plan: a message type's Parquet schema beside the tables by which its records are shredded.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::schema::Error;

/// Groups within groups; what lies deeper is one column of JSON.
const DEPTH_MAX: usize = 16;
/// Columns of one file; from here on messages become JSON, so that a schema that unfolds without end still fits.
const COLUMNS_MAX: usize = 2_000;

/// How records of one schema become columns.
#[derive(Debug)]
pub struct Plan {
    schema: TypePtr,
    pub(super) root: Group,
    /// Depth first, as Parquet counts columns; the last three are the extra ones.
    pub(super) leaves: Vec<Leaf>,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) physical: Physical,
    pub(super) definition_max: i16,
    pub(super) repetition_max: i16,
}

#[derive(Debug)]
pub(super) struct Group {
    /// By number.
    pub(super) fields: Vec<Field>,
    pub(super) has_oneof: bool,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) number: u32,
    /// Which oneof of its message it is a member of.
    pub(super) oneof: Option<usize>,
    pub(super) label: Label,
    pub(super) content: Content,
    /// All columns below it.
    pub(super) leaves: Range<usize>,
    /// Definition level of its columns when it is there; of a list or map, when it has an element.
    pub(super) definition: i16,
    /// Repetition level of the second element of a list or map.
    pub(super) repetition: i16,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Label {
    Required,
    Optional,
    List,
    /// The key, whose column is the first.
    Map(MapKey),
}

/// Keys are never enums, so unlike `Scalar` this is small enough to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapKey(pub(super) Primitive);

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    Timestamp,
    /// A `google.protobuf` wrapper: its value lies in field 1.
    Wrapper(Scalar),
    Group(Group),
    Json(MessageDescriptor),
}

#[derive(Debug)]
pub(super) enum Scalar {
    Plain(Primitive),
    /// Names by value, sorted by value.
    Enum(Vec<(i32, Box<str>)>),
}

/// Scalar types as the wire tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primitive {
    Bool,
    Int32,
    Sint32,
    Sfixed32,
    Uint32,
    Fixed32,
    Int64,
    Sint64,
    Sfixed64,
    Uint64,
    Fixed64,
    Float,
    Double,
    Text,
    Bytes,
}

/// Where in the tree a field stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The messages it lies in, outermost first.
    path: &'a [MessageDescriptor],
    definition: i16,
    repetition: i16,
}

impl Plan {
    /// Fails only where Parquet itself refuses the schema.
    pub fn new(descriptor: &MessageDescriptor) -> Result<Plan, Error> {
        let refused = |error: ParquetError| Error::Load {
            place: format!("message {}", descriptor.full_name()),
            reason: format!("make Parquet schema: {error}"),
        };
        let mut leaves = Vec::new();
        let place = Place { path: std::slice::from_ref(descriptor), definition: 0, repetition: 0 };
        let (root, mut types) = group(descriptor, place, &mut leaves).map_err(refused)?;
        for (name, extra) in [("_id", Primitive::Text), ("_received_at", Primitive::Int64), ("_agent", Primitive::Text)]
        {
            let logical = if name == "_received_at" { Some(timestamp()) } else { extra.logical() };
            let primitive = primitive(name, extra.physical(), logical, Repetition::REQUIRED).map_err(refused)?;
            leaves.push(Leaf { physical: extra.physical(), definition_max: 0, repetition_max: 0 });
            types.push(primitive);
        }
        let schema = Type::group_type_builder("record").with_fields(types).build().map_err(refused)?;
        Ok(Plan { schema: Arc::new(schema), root, leaves })
    }

    pub fn schema(&self) -> &TypePtr {
        &self.schema
    }
}

fn group(
    descriptor: &MessageDescriptor,
    place: Place<'_>,
    leaves: &mut Vec<Leaf>,
) -> Result<(Group, Vec<TypePtr>), ParquetError> {
    let mut sources: Vec<FieldDescriptor> = descriptor.fields().collect();
    sources.sort_by_key(FieldDescriptor::number);
    let oneofs: Vec<_> = descriptor.oneofs().filter(|oneof| !oneof.is_synthetic()).collect();
    let mut taken = HashSet::new();
    if place.path.len() == 1 {
        taken.extend(["_id", "_received_at", "_agent"].map(str::to_owned));
    }
    let mut made = Group { fields: Vec::with_capacity(sources.len()), has_oneof: !oneofs.is_empty() };
    let mut types = Vec::with_capacity(sources.len());
    for source in &sources {
        let mut column = source.name().to_owned();
        while !taken.insert(column.clone()) {
            column.push('_');
        }
        let oneof = source.containing_oneof().and_then(|of| oneofs.iter().position(|oneof| *oneof == of));
        let (field, column_type) = field(source, &column, place, leaves)?;
        made.fields.push(Field { oneof, ..field });
        types.push(column_type);
    }
    Ok((made, types))
}

fn field(
    source: &FieldDescriptor,
    column: &str,
    place: Place<'_>,
    leaves: &mut Vec<Leaf>,
) -> Result<(Field, TypePtr), ParquetError> {
    let start = leaves.len();
    let repeats = i16::from(source.is_list() || source.is_map());
    let is_wrapper = matches!(source.kind(), Kind::Message(message) if wrapped(&message).is_some());
    let is_optional = repeats == 0 && (source.supports_presence() || is_wrapper);
    let definition = place.definition + repeats + i16::from(is_optional);
    let repetition = place.repetition + repeats;
    let inner = Place { definition, repetition, ..place };
    let once = if is_optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    let (label, content, column_type) = if let (true, Kind::Message(entry)) = (source.is_map(), source.kind()) {
        let key = MapKey(Primitive::of(&entry.map_entry_key_field().kind()).unwrap_or(Primitive::Text));
        leaves.push(Leaf { physical: key.0.physical(), definition_max: definition, repetition_max: repetition });
        let key_type = primitive("key", key.0.physical(), key.0.logical(), Repetition::REQUIRED)?;
        let (content, value) =
            content(&entry.map_entry_value_field().kind(), "value", Repetition::REQUIRED, inner, leaves)?;
        let entries = Type::group_type_builder("key_value").with_repetition(Repetition::REPEATED);
        let entries = Arc::new(entries.with_fields(vec![key_type, value]).build()?);
        (Label::Map(key), content, wrap(column, LogicalType::Map, entries)?)
    } else if source.is_list() {
        let (content, element) = content(&source.kind(), "element", Repetition::REQUIRED, inner, leaves)?;
        let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
        let list = Arc::new(list.with_fields(vec![element]).build()?);
        (Label::List, content, wrap(column, LogicalType::List, list)?)
    } else {
        let (content, column_type) = content(&source.kind(), column, once, inner, leaves)?;
        (if is_optional { Label::Optional } else { Label::Required }, content, column_type)
    };
    let name = source.name().to_owned();
    let leaves = start..leaves.len();
    Ok((
        Field { name, number: source.number(), oneof: None, label, content, leaves, definition, repetition },
        column_type,
    ))
}

/// The outer level of a list or map.
fn wrap(column: &str, logical: LogicalType, inner: TypePtr) -> Result<TypePtr, ParquetError> {
    let outer = Type::group_type_builder(column).with_repetition(Repetition::REQUIRED);
    Ok(Arc::new(outer.with_logical_type(Some(logical)).with_fields(vec![inner]).build()?))
}

/// What one value of a field is, and its Parquet type under `column`.
fn content(
    kind: &Kind,
    column: &str,
    once: Repetition,
    place: Place<'_>,
    leaves: &mut Vec<Leaf>,
) -> Result<(Content, TypePtr), ParquetError> {
    let mut leaf = |physical| {
        leaves.push(Leaf { physical, definition_max: place.definition, repetition_max: place.repetition });
        physical
    };
    let message = match kind {
        Kind::Message(message) => message,
        Kind::Enum(of) => {
            let physical = leaf(Physical::BYTE_ARRAY);
            let column_type = primitive(column, physical, Some(LogicalType::String), once)?;
            return Ok((Content::Scalar(Scalar::Enum(names(of))), column_type));
        }
        scalar => {
            let number = Primitive::of(scalar).unwrap_or(Primitive::Bytes);
            let column_type = primitive(column, leaf(number.physical()), number.logical(), once)?;
            return Ok((Content::Scalar(Scalar::Plain(number)), column_type));
        }
    };
    if message.full_name() == "google.protobuf.Timestamp" {
        return Ok((Content::Timestamp, primitive(column, leaf(Physical::INT64), Some(timestamp()), once)?));
    }
    if let Some(number) = wrapped(message) {
        let column_type = primitive(column, leaf(number.physical()), number.logical(), once)?;
        return Ok((Content::Wrapper(Scalar::Plain(number)), column_type));
    }
    if is_json(message, place.path) || leaves.len() >= COLUMNS_MAX {
        leaves.push(Leaf {
            physical: Physical::BYTE_ARRAY,
            definition_max: place.definition,
            repetition_max: place.repetition,
        });
        let column_type = primitive(column, Physical::BYTE_ARRAY, Some(LogicalType::Json), once)?;
        return Ok((Content::Json(message.clone()), column_type));
    }
    let mut path = place.path.to_vec();
    path.push(message.clone());
    let (inner, types) = group(message, Place { path: &path, ..place }, leaves)?;
    let column_type = Type::group_type_builder(column).with_repetition(once).with_fields(types).build()?;
    Ok((Content::Group(inner), Arc::new(column_type)))
}

/// Whether a message has no columns of its own: its shape is not fixed, has no end, or is nothing at all.
fn is_json(message: &MessageDescriptor, path: &[MessageDescriptor]) -> bool {
    let is_open = matches!(
        message.full_name(),
        "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" | "google.protobuf.Any"
    );
    is_open || message.fields().len() == 0 || path.contains(message) || path.len() >= DEPTH_MAX
}

/// The scalar in a `google.protobuf` wrapper.
fn wrapped(message: &MessageDescriptor) -> Option<Primitive> {
    let wrappers = [
        "BoolValue",
        "Int32Value",
        "UInt32Value",
        "Int64Value",
        "UInt64Value",
        "FloatValue",
        "DoubleValue",
        "StringValue",
        "BytesValue",
    ];
    let name = message.full_name().strip_prefix("google.protobuf.")?;
    wrappers.contains(&name).then(|| message.get_field(1)).flatten().and_then(|value| Primitive::of(&value.kind()))
}

fn names(of: &EnumDescriptor) -> Vec<(i32, Box<str>)> {
    let mut names: Vec<(i32, Box<str>)> = of.values().map(|value| (value.number(), value.name().into())).collect();
    // Of aliases the first declared one holds, so the sort has to be stable.
    names.sort_by_key(|&(number, _)| number);
    names.dedup_by_key(|(number, _)| *number);
    names
}

fn primitive(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    repetition: Repetition,
) -> Result<TypePtr, ParquetError> {
    let builder = Type::primitive_type_builder(name, physical).with_repetition(repetition);
    Ok(Arc::new(builder.with_logical_type(logical).build()?))
}

fn timestamp() -> LogicalType {
    LogicalType::timestamp(true, TimeUnit::MICROS)
}

impl Primitive {
    /// `None` for messages and enums.
    fn of(kind: &Kind) -> Option<Primitive> {
        Some(match kind {
            Kind::Bool => Primitive::Bool,
            Kind::Int32 => Primitive::Int32,
            Kind::Sint32 => Primitive::Sint32,
            Kind::Sfixed32 => Primitive::Sfixed32,
            Kind::Uint32 => Primitive::Uint32,
            Kind::Fixed32 => Primitive::Fixed32,
            Kind::Int64 => Primitive::Int64,
            Kind::Sint64 => Primitive::Sint64,
            Kind::Sfixed64 => Primitive::Sfixed64,
            Kind::Uint64 => Primitive::Uint64,
            Kind::Fixed64 => Primitive::Fixed64,
            Kind::Float => Primitive::Float,
            Kind::Double => Primitive::Double,
            Kind::String => Primitive::Text,
            Kind::Bytes => Primitive::Bytes,
            Kind::Message(_) | Kind::Enum(_) => return None,
        })
    }

    fn physical(self) -> Physical {
        match self {
            Primitive::Bool => Physical::BOOLEAN,
            Primitive::Int32 | Primitive::Sint32 | Primitive::Sfixed32 | Primitive::Uint32 | Primitive::Fixed32 => {
                Physical::INT32
            }
            Primitive::Int64 | Primitive::Sint64 | Primitive::Sfixed64 | Primitive::Uint64 | Primitive::Fixed64 => {
                Physical::INT64
            }
            Primitive::Float => Physical::FLOAT,
            Primitive::Double => Physical::DOUBLE,
            Primitive::Text | Primitive::Bytes => Physical::BYTE_ARRAY,
        }
    }

    fn logical(self) -> Option<LogicalType> {
        match self {
            Primitive::Uint32 | Primitive::Fixed32 => Some(LogicalType::integer(32, false)),
            Primitive::Uint64 | Primitive::Fixed64 => Some(LogicalType::integer(64, false)),
            Primitive::Text => Some(LogicalType::String),
            Primitive::Bool | Primitive::Int32 | Primitive::Sint32 | Primitive::Sfixed32 => None,
            Primitive::Int64 | Primitive::Sint64 | Primitive::Sfixed64 => None,
            Primitive::Float | Primitive::Double | Primitive::Bytes => None,
        }
    }
}
