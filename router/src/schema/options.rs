//! What a schema says about its stream: the options of `sluice/options.proto`, read and checked.
//!
//! A mark such as `dedup_key` may stand on a field of the record or of a message inside it, down to [`MAX_LEVELS`]
//! levels, outside repeated fields. Marks count at the shallowest level that has one: an event that carries another
//! event keeps its own time and key. What contradicts itself is listed in [`Options::problems`], never guessed.

use std::time::Duration;

use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};

use super::wire;

/// How deep below the record marks are looked for.
pub const MAX_LEVELS: usize = 4;
/// How many fields are looked at: messages that hold one another a thousandfold are no reason to stop.
const MAX_FIELDS: usize = 4096;
/// Columns by which BigQuery clusters a table.
const MAX_CLUSTER: u32 = 4;

/// What the schema says of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub event_time: Option<EventTime>,
    /// Fields that together identify a record, in the order of declaration.
    pub dedup_key: Vec<FieldPath>,
    pub dedup_window: Option<Duration>,
    pub partition: Option<(FieldPath, Partition)>,
    /// Columns to cluster by, the first first.
    pub cluster: Vec<FieldPath>,
    pub expiry: Option<Duration>,
    pub required: Vec<FieldPath>,
    /// Options that contradict themselves, in words; a schema with any is not used.
    pub problems: Vec<String>,
}

/// Way to a field from the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath {
    /// Names, joined by dots.
    pub name: String,
    pub numbers: Vec<u32>,
}

/// What the schema says of one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldOptions {
    pub event_time: bool,
    pub epoch: Option<Epoch>,
    pub dedup_key: bool,
    pub partition: Option<Partition>,
    /// Place among the columns to cluster by, from 1.
    pub cluster: Option<u32>,
    /// `none` = stored but not indexed.
    pub elasticsearch_type: Option<String>,
    pub sensitivity: Option<Sensitivity>,
    pub required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    Hour,
    Day,
    Month,
    Year,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sensitivity {
    Mask,
    Hash,
    Drop,
}

impl Epoch {
    /// How many zeros a nanosecond count has behind this unit.
    pub fn nanos_power(self) -> u32 {
        match self {
            Epoch::Seconds => 9,
            Epoch::Milliseconds => 6,
            Epoch::Microseconds => 3,
            Epoch::Nanoseconds => 0,
        }
    }
}

impl FieldOptions {
    /// Nothing said = the default.
    pub fn of(field: &FieldDescriptor) -> FieldOptions {
        if field.field_descriptor_proto().options.is_none() {
            return FieldOptions::default();
        }
        let Some(rules) = extension(&field.options(), "sluice.field") else { return FieldOptions::default() };
        FieldOptions {
            event_time: get(&rules, "event_time", Value::as_bool).unwrap_or(false),
            epoch: get(&rules, "epoch", Value::as_enum_number).and_then(|number| match number {
                1 => Some(Epoch::Seconds),
                2 => Some(Epoch::Milliseconds),
                3 => Some(Epoch::Microseconds),
                4 => Some(Epoch::Nanoseconds),
                _ => None,
            }),
            dedup_key: get(&rules, "dedup_key", Value::as_bool).unwrap_or(false),
            partition: get(&rules, "partition", Value::as_enum_number).and_then(|number| match number {
                1 => Some(Partition::Hour),
                2 => Some(Partition::Day),
                3 => Some(Partition::Month),
                4 => Some(Partition::Year),
                _ => None,
            }),
            cluster: get(&rules, "cluster", Value::as_u32),
            elasticsearch_type: get(&rules, "elasticsearch_type", |value| value.as_str().map(str::to_owned)),
            sensitivity: get(&rules, "sensitivity", Value::as_enum_number).and_then(|number| match number {
                1 => Some(Sensitivity::Mask),
                2 => Some(Sensitivity::Hash),
                3 => Some(Sensitivity::Drop),
                _ => None,
            }),
            required: get(&rules, "required", Value::as_bool).unwrap_or(false),
        }
    }
}

impl Options {
    pub fn of(message: &MessageDescriptor) -> Options {
        let mut options = Options::default();
        options.read_message_rules(message);
        let mut cluster: Vec<(u32, FieldPath)> = Vec::new();
        let mut level = vec![(FieldPath::default(), message.clone())];
        let mut left = MAX_FIELDS;
        for _ in 0..=MAX_LEVELS {
            let mut below = Vec::new();
            let found = options.marks();
            let has_cluster = !cluster.is_empty();
            for (parent, message) in std::mem::take(&mut level) {
                for field in message.fields().filter(|field| field.cardinality() != Cardinality::Repeated) {
                    if left == 0 {
                        options.problems.push(format!("more than {MAX_FIELDS} fields to look for options in"));
                        return options;
                    }
                    left -= 1;
                    let path = parent.join(&field);
                    let rules = FieldOptions::of(&field);
                    if let Some(place) = rules.cluster.filter(|_| !has_cluster) {
                        cluster.push((place, path.clone()));
                    }
                    options.read_field_rules(&field, &path, &rules, &found);
                    if let Kind::Message(inner) = field.kind() {
                        below.push((path, inner));
                    }
                }
            }
            level = below;
        }
        options.read_cluster(cluster);
        options
    }

    fn read_message_rules(&mut self, message: &MessageDescriptor) {
        if message.descriptor_proto().options.is_none() {
            return;
        }
        let Some(rules) = extension(&message.options(), "sluice.message") else { return };
        for (name, place) in [("dedup_window", &mut self.dedup_window), ("expiry", &mut self.expiry)] {
            let Some(text) = get(&rules, name, |value| value.as_str().map(str::to_owned)) else { continue };
            *place = parse_duration(&text);
            if place.is_none() {
                let allowed = "a whole number and one of ms, s, m, h, d";
                self.problems.push(format!("option {name}: {text:?} is not {allowed}"));
            }
        }
    }

    fn marks(&self) -> [bool; 4] {
        let required = !self.required.is_empty();
        [self.event_time.is_some(), !self.dedup_key.is_empty(), self.partition.is_some(), required]
    }

    /// `found` says which marks a shallower level has.
    fn read_field_rules(&mut self, field: &FieldDescriptor, path: &FieldPath, rules: &FieldOptions, found: &[bool; 4]) {
        let [has_event_time, has_dedup_key, has_partition, has_required] = *found;
        if rules.event_time && !has_event_time {
            let time = EventTime::new(field, path, rules.epoch);
            match (time, &self.event_time) {
                (None, _) => {
                    let name = &path.name;
                    self.problems.push(format!("{name}: event_time is neither a Timestamp nor an integer"));
                }
                (Some(_), Some(first)) => {
                    let (first, name) = (&first.path.name, &path.name);
                    self.problems.push(format!("{name}: event_time is {first} already"));
                }
                (time, None) => self.event_time = time,
            }
        }
        if rules.dedup_key && !has_dedup_key {
            self.dedup_key.push(path.clone());
        }
        if let Some(partition) = rules.partition.filter(|_| !has_partition) {
            match &self.partition {
                Some((first, _)) => {
                    let problem = format!("{}: the table is partitioned by {} already", path.name, first.name);
                    self.problems.push(problem);
                }
                None => self.partition = Some((path.clone(), partition)),
            }
        }
        if rules.required && !has_required {
            self.required.push(path.clone());
        }
    }

    fn read_cluster(&mut self, mut cluster: Vec<(u32, FieldPath)>) {
        cluster.sort_by_key(|(place, _)| *place);
        for (index, (place, path)) in cluster.iter().enumerate() {
            if *place == 0 || *place > MAX_CLUSTER {
                self.problems.push(format!("{}: cluster is {place}, not 1 to {MAX_CLUSTER}", path.name));
            } else if index > 0 && cluster[index - 1].0 == *place {
                let first = &cluster[index - 1].1.name;
                self.problems.push(format!("{}: cluster {place} is {first} already", path.name));
            }
        }
        self.cluster = cluster.into_iter().map(|(_, path)| path).collect();
    }
}

impl FieldPath {
    fn join(&self, field: &FieldDescriptor) -> FieldPath {
        let mut numbers = self.numbers.clone();
        numbers.push(field.number());
        let name = match self.name.as_str() {
            "" => field.name().to_owned(),
            name => format!("{name}.{}", field.name()),
        };
        FieldPath { name, numbers }
    }
}

/// Where a record's event time stands and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    pub path: FieldPath,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Timestamp,
    Varint(Epoch),
    Zigzag(Epoch),
    Unsigned(Epoch),
    Fixed(Epoch),
    UnsignedFixed(Epoch),
}

impl EventTime {
    fn new(field: &FieldDescriptor, path: &FieldPath, epoch: Option<Epoch>) -> Option<EventTime> {
        let epoch = epoch.unwrap_or(Epoch::Milliseconds);
        let form = match field.kind() {
            Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => Form::Timestamp,
            Kind::Int64 | Kind::Int32 => Form::Varint(epoch),
            Kind::Sint64 | Kind::Sint32 => Form::Zigzag(epoch),
            Kind::Uint64 | Kind::Uint32 => Form::Unsigned(epoch),
            Kind::Sfixed64 | Kind::Sfixed32 => Form::Fixed(epoch),
            Kind::Fixed64 | Kind::Fixed32 => Form::UnsignedFixed(epoch),
            _ => return None,
        };
        Some(EventTime { path: path.clone(), form })
    }

    /// Unix nanoseconds; `None` where the record lacks the field, is broken, or the time is outside the years 1677 to
    /// 2262 that nanoseconds in 64 bits can tell.
    pub fn nanos(&self, message: &[u8]) -> Option<i64> {
        let mut found = Found::default();
        find(message, &self.path.numbers, self.form, &mut found)?;
        if !found.any {
            return None;
        }
        let nanos = found.value * 10i128.pow(self.nanos_power()) + i128::from(found.nanos);
        i64::try_from(nanos).ok()
    }

    fn nanos_power(&self) -> u32 {
        match self.form {
            Form::Timestamp => Epoch::Seconds.nanos_power(),
            Form::Varint(epoch)
            | Form::Zigzag(epoch)
            | Form::Unsigned(epoch)
            | Form::Fixed(epoch)
            | Form::UnsignedFixed(epoch) => epoch.nanos_power(),
        }
    }
}

#[derive(Default)]
struct Found {
    any: bool,
    /// Seconds of a Timestamp, else the integer.
    value: i128,
    nanos: i32,
}

/// The last one counts, and parts of a message that comes twice are merged, as Protobuf says.
fn find(message: &[u8], path: &[u32], form: Form, found: &mut Found) -> Option<()> {
    let (&number, rest) = path.split_first()?;
    let mut fields = wire::Fields::new(message);
    while let Some(field) = fields.read().ok()? {
        if field.number != number {
            continue;
        }
        if !rest.is_empty() {
            find(field.content, rest, form, found)?;
            continue;
        }
        found.any = true;
        match (form, field.value) {
            (Form::Timestamp, wire::Value::Len) => merge_timestamp(field.content, found)?,
            (Form::Varint(_), wire::Value::Varint(value)) => found.value = i128::from(value as i64),
            (Form::Zigzag(_), wire::Value::Varint(value)) => found.value = i128::from(wire::unzigzag(value)),
            (Form::Unsigned(_), wire::Value::Varint(value)) => found.value = i128::from(value),
            (Form::Fixed(_), wire::Value::Fixed64(value)) => found.value = i128::from(value as i64),
            (Form::Fixed(_), wire::Value::Fixed32(value)) => found.value = i128::from(value as i32),
            (Form::UnsignedFixed(_), wire::Value::Fixed64(value)) => found.value = i128::from(value),
            (Form::UnsignedFixed(_), wire::Value::Fixed32(value)) => found.value = i128::from(value),
            _ => return None,
        }
    }
    Some(())
}

fn merge_timestamp(content: &[u8], found: &mut Found) -> Option<()> {
    let mut fields = wire::Fields::new(content);
    while let Some(field) = fields.read().ok()? {
        match (field.number, field.value) {
            (1, wire::Value::Varint(value)) => found.value = i128::from(value as i64),
            (2, wire::Value::Varint(value)) => found.nanos = value as i32,
            (1 | 2, _) => return None,
            _ => {}
        }
    }
    Some(())
}

fn extension(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = options.descriptor().get_extension_by_full_name(name)?;
    if !options.has_extension(&extension) {
        return None;
    }
    options.get_extension(&extension).as_message().cloned()
}

/// A set field of the rules; `None` as well where the rules in the schema's own copy have no such field.
fn get<T>(rules: &DynamicMessage, name: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    let field = rules.descriptor().get_field_by_name(name)?;
    rules.has_field(&field).then(|| read(&rules.get_field(&field)))?
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let count: u64 = digits.parse().ok()?;
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(millis).map(Duration::from_millis)
}
