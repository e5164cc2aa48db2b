//! JSON -> wire: reads the text once, from front to back, and appends each field as it comes.
//!
//! The fields of a record lie in the order of its JSON keys, which Protobuf allows. A nested message's length is patched
//! in behind it (`wire::close_len`).

use super::super::check::Fault;
use super::super::options::Epoch;
use super::super::plan::{Field, Kind, Message, Plan, Rule, Shape};
use super::super::wire;
use super::lexer::{Lexer, Read, Scratch};
use super::{known, number};
use crate::record::push_varint;

pub(super) fn read(plan: &Plan, json: &[u8], out: &mut Vec<u8>) -> Read<()> {
    if let Err(error) = std::str::from_utf8(json) {
        return Err(Fault::new(error.valid_up_to(), "text is not UTF-8"));
    }
    let mut reader = Reader { plan, lexer: Lexer { bytes: json, at: 0 }, scratch: Scratch::default() };
    reader.message(plan.root(), None, out, 0)?;
    match reader.lexer.peek() {
        0 if reader.lexer.at >= json.len() => Ok(()),
        _ => reader.lexer.fault("more text behind the record"),
    }
}

struct Reader<'p, 'a> {
    plan: &'p Plan,
    lexer: Lexer<'a>,
    scratch: Scratch,
}

impl<'p> Reader<'p, '_> {
    /// Appends a message's content. `epoch` is the unit in which a Timestamp may be given as a number.
    fn message(&mut self, message: &'p Message, epoch: Option<Epoch>, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        if depth > wire::MAX_DEPTH {
            return self.lexer.fault(format!("messages nest more than {} deep", wire::MAX_DEPTH));
        }
        match message.shape {
            Shape::Object | Shape::Empty => self.object(message, out, depth),
            Shape::Timestamp => self.timestamp(epoch, out),
            Shape::Duration => self.duration(out),
            Shape::FieldMask => self.field_mask(&message.fields[0], out),
            Shape::Struct => self.map(&message.fields[0], out, depth),
            Shape::List => self.list(&message.fields[0], out, depth),
            Shape::Value => self.value(message, out, depth),
            Shape::Wrapper => self.single(&message.fields[0], message.fields[0].rule, out, depth),
            Shape::Any => self.any(out, depth),
        }
    }

    fn object(&mut self, message: &'p Message, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        self.lexer.expect(b'{', "an object")?;
        let mut seen = Seen::new(message);
        let mut first = true;
        let mut guess = 0;
        while self.lexer.more(b'}', &mut first)? {
            let key = self.lexer.key(&mut self.scratch)?;
            let Some(place) = message.by_name(key, guess) else {
                self.lexer.skip(&mut self.scratch, 0)?;
                continue;
            };
            guess = place + 1;
            let field = &message.fields[place];
            if !self.takes_null(field) && self.lexer.word(b"null") {
                continue;
            }
            if let Some(reason) = seen.add(place, field) {
                return self.lexer.fault(reason).map_err(|fault| fault.inside(&field.name));
            }
            self.field(field, out, depth).map_err(|fault| fault.inside(&field.name))?;
        }
        Ok(())
    }

    /// Whether null is a value of the field, not its absence.
    fn takes_null(&self, field: &Field) -> bool {
        let is_single = matches!(field.rule, Rule::Explicit | Rule::Implicit);
        match field.kind {
            Kind::Message(inner) => is_single && self.plan.messages[inner].shape == Shape::Value,
            Kind::Enum(inner) => is_single && self.plan.enums[inner].is_null,
            _ => false,
        }
    }

    #[inline]
    fn field(&mut self, field: &'p Field, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        match field.rule {
            Rule::Explicit | Rule::Implicit => self.single(field, field.rule, out, depth),
            Rule::List => self.list(field, out, depth),
            Rule::PackedList => self.packed(field, out),
            Rule::Map => self.map(field, out, depth),
        }
    }

    /// Appends one value with its tag; a default value of a field that does not tell it from absence is left out.
    fn single(&mut self, field: &'p Field, rule: Rule, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        let omits_default = rule == Rule::Implicit;
        match field.kind {
            Kind::String => {
                let text = self.lexer.string(&mut self.scratch)?;
                if !(omits_default && text.is_empty()) {
                    wire::push_len(out, field.number, text);
                }
            }
            Kind::Bytes => {
                let before = out.len();
                wire::push_tag(out, field.number, wire::LEN);
                let start = wire::open_len(out);
                self.bytes(out)?;
                if omits_default && out.len() == start {
                    out.truncate(before);
                } else {
                    wire::close_len(out, start);
                }
            }
            Kind::Message(inner) => {
                wire::push_tag(out, field.number, wire::LEN);
                let start = wire::open_len(out);
                self.message(&self.plan.messages[inner], field.epoch, out, depth + 1)?;
                wire::close_len(out, start);
            }
            Kind::Group(inner) => {
                wire::push_tag(out, field.number, wire::START_GROUP);
                self.message(&self.plan.messages[inner], None, out, depth + 1)?;
                wire::push_tag(out, field.number, wire::END_GROUP);
            }
            kind => {
                let bits = self.scalar(kind)?;
                if !(omits_default && bits == 0) {
                    wire::push_tag(out, field.number, kind.wire_type());
                    push_bits(out, kind, bits);
                }
            }
        }
        Ok(())
    }

    fn list(&mut self, field: &'p Field, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        self.lexer.expect(b'[', "a list")?;
        let mut first = true;
        while self.lexer.more(b']', &mut first)? {
            self.single(field, Rule::Explicit, out, depth)?;
        }
        Ok(())
    }

    fn packed(&mut self, field: &'p Field, out: &mut Vec<u8>) -> Read<()> {
        self.lexer.expect(b'[', "a list")?;
        let before = out.len();
        wire::push_tag(out, field.number, wire::LEN);
        let start = wire::open_len(out);
        let mut first = true;
        while self.lexer.more(b']', &mut first)? {
            let bits = self.scalar(field.kind)?;
            push_bits(out, field.kind, bits);
        }
        if out.len() == start {
            out.truncate(before);
        } else {
            wire::close_len(out, start);
        }
        Ok(())
    }

    fn map(&mut self, field: &'p Field, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        let Kind::Message(entry) = field.kind else { return self.lexer.fault("map has no entries") };
        let [key, value] = self.plan.messages[entry].fields.as_slice() else {
            return self.lexer.fault("map has no key and value");
        };
        self.lexer.expect(b'{', "an object")?;
        let mut first = true;
        while self.lexer.more(b'}', &mut first)? {
            wire::push_tag(out, field.number, wire::LEN);
            let start = wire::open_len(out);
            let text = self.lexer.key(&mut self.scratch)?;
            match map_key(key.kind, text) {
                _ if key.kind == Kind::String => wire::push_len(out, key.number, text),
                Some(bits) => {
                    wire::push_tag(out, key.number, key.kind.wire_type());
                    push_bits(out, key.kind, bits);
                }
                None => {
                    let key = String::from_utf8_lossy(text).into_owned();
                    return self.lexer.fault(format!("map has no such key as {key:?}"));
                }
            }
            self.single(value, Rule::Explicit, out, depth)?;
            wire::close_len(out, start);
        }
        Ok(())
    }

    /// Reads a number, bool or enum: the bits that go on the wire.
    #[inline]
    fn scalar(&mut self, kind: Kind) -> Read<u64> {
        match kind {
            Kind::Bool => match self.lexer.peek() {
                _ if self.lexer.word(b"true") => Ok(1),
                _ if self.lexer.word(b"false") => Ok(0),
                _ => self.lexer.unexpected("true or false"),
            },
            Kind::Enum(inner) => self.enumeration(inner),
            Kind::Double | Kind::Float => self.float(kind),
            _ => {
                let at = self.lexer.at;
                let text = number_text(&mut self.lexer, &mut self.scratch)?;
                let bits = number::integer(text).and_then(|value| integer_bits(kind, value));
                bits.ok_or_else(|| Fault::new(at, "number is not whole or out of range"))
            }
        }
    }

    fn enumeration(&mut self, inner: usize) -> Read<u64> {
        let known = &self.plan.enums[inner];
        let at = self.lexer.at;
        if self.lexer.peek() == b'"' {
            let name = self.lexer.string(&mut self.scratch)?;
            let reason = || format!("enum has no value {:?}", String::from_utf8_lossy(name));
            return known.number(name).map(|number| number as u64).ok_or_else(|| Fault::new(at, reason()));
        }
        if known.is_null && self.lexer.word(b"null") {
            return Ok(0);
        }
        if !matches!(self.lexer.peek(), b'-' | b'0'..=b'9') {
            return self.lexer.unexpected("an enum's name or number");
        }
        let text = self.lexer.number()?;
        let bits = number::integer(text).and_then(|value| integer_bits(Kind::Int32, value));
        bits.ok_or_else(|| Fault::new(at, "number is not whole or out of range"))
    }

    fn float(&mut self, kind: Kind) -> Read<u64> {
        let bits = |value: f64| match kind {
            Kind::Float => u64::from((value as f32).to_bits()),
            _ => value.to_bits(),
        };
        let at = self.lexer.at;
        let text = match self.lexer.peek() {
            b'"' => match self.lexer.string(&mut self.scratch)? {
                b"NaN" => return Ok(bits(f64::NAN)),
                b"Infinity" => return Ok(bits(f64::INFINITY)),
                b"-Infinity" => return Ok(bits(f64::NEG_INFINITY)),
                text if number::is_number(text) => text,
                _ => return Err(Fault::new(at, "string is not a number")),
            },
            _ => self.lexer.number()?,
        };
        // A float is read from its text, not through a double: that would round twice.
        let value = match kind {
            Kind::Float => number::float(text).map(|value| u64::from(value.to_bits())),
            _ => number::double(text).map(f64::to_bits),
        };
        value.ok_or_else(|| Fault::new(at, "number is out of range"))
    }

    /// Appends the bytes of a base64 or base64url string, padded or not.
    fn bytes(&mut self, out: &mut Vec<u8>) -> Read<()> {
        use base64::Engine as _;
        use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
        const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent);
        const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
        const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, CONFIG);
        let at = self.lexer.at;
        let text = self.lexer.string(&mut self.scratch)?;
        let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { URL_SAFE } else { STANDARD };
        engine.decode_vec(text, out).map_err(|_| Fault::new(at, "string is not base64"))
    }

    fn timestamp(&mut self, epoch: Option<Epoch>, out: &mut Vec<u8>) -> Read<()> {
        let at = self.lexer.at;
        let time = match (self.lexer.peek(), epoch) {
            (b'"', _) => match (self.lexer.string(&mut self.scratch)?, epoch) {
                (text, Some(epoch)) if number::is_number(text) => known::from_epoch(text, epoch.nanos_power()),
                (text, _) => known::parse_timestamp(text),
            },
            (b'-' | b'0'..=b'9', Some(epoch)) => known::from_epoch(self.lexer.number()?, epoch.nanos_power()),
            _ => return self.lexer.unexpected("a time in RFC 3339"),
        };
        let Some((seconds, nanos)) = time else { return Err(Fault::new(at, "not a time of the years 1 to 9999")) };
        push_seconds(out, seconds, nanos);
        Ok(())
    }

    fn duration(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let at = self.lexer.at;
        let text = self.lexer.string(&mut self.scratch)?;
        let Some((seconds, nanos)) = known::parse_duration(text) else {
            return Err(Fault::new(at, "not a duration like 1.5s of at most 10,000 years"));
        };
        push_seconds(out, seconds, nanos);
        Ok(())
    }

    fn field_mask(&mut self, paths: &Field, out: &mut Vec<u8>) -> Read<()> {
        let at = self.lexer.at;
        let text = self.lexer.string(&mut self.scratch)?;
        for path in text.split(|&byte| byte == b',').filter(|path| !path.is_empty()) {
            wire::push_tag(out, paths.number, wire::LEN);
            let start = wire::open_len(out);
            known::push_snake(out, path).ok_or_else(|| Fault::new(at, "field mask is not in camel case"))?;
            wire::close_len(out, start);
        }
        Ok(())
    }

    /// `google.protobuf.Value`: the kind of JSON value decides which member is set.
    fn value(&mut self, message: &'p Message, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        let place = match self.lexer.peek() {
            b'"' => 2,
            b'{' => 4,
            b'[' => 5,
            b't' | b'f' => 3,
            b'n' => 0,
            _ => 1,
        };
        self.single(&message.fields[place], Rule::Explicit, out, depth)
    }

    /// `google.protobuf.Any`: `@type` may stand anywhere, so the object is read twice.
    fn any(&mut self, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        self.lexer.peek();
        let start = self.lexer.at;
        let (type_url, has_keys) = self.type_url()?;
        let Some(type_url) = type_url else {
            return if has_keys { self.lexer.fault("message of any type has no @type") } else { Ok(()) };
        };
        let Some(inner) = self.plan.any(&type_url) else {
            return self.lexer.fault(format!("no loaded schema defines {type_url:?}"));
        };
        self.lexer.at = start;
        wire::push_len(out, 1, type_url.as_bytes());
        wire::push_tag(out, 2, wire::LEN);
        let content = wire::open_len(out);
        match inner.shape {
            Shape::Object => self.message(inner, None, out, depth + 1)?,
            _ => self.any_value(inner, out, depth)?,
        }
        if out.len() == content {
            out.truncate(content - 2);
        } else {
            wire::close_len(out, content);
        }
        Ok(())
    }

    /// Passes over an object; returns its `@type`, and whether it has any keys.
    fn type_url(&mut self) -> Read<(Option<String>, bool)> {
        self.lexer.expect(b'{', "an object")?;
        let mut found = None;
        let mut first = true;
        while self.lexer.more(b'}', &mut first)? {
            if self.lexer.key(&mut self.scratch)? != b"@type" {
                self.lexer.skip(&mut self.scratch, 0)?;
            } else if found.is_some() {
                return self.lexer.fault("@type comes twice");
            } else {
                let text = self.lexer.string(&mut self.scratch)?;
                found = Some(String::from_utf8_lossy(text).into_owned());
            }
        }
        Ok((found, !first))
    }

    /// The `value` of an `Any` that holds a well-known type.
    fn any_value(&mut self, inner: &'p Message, out: &mut Vec<u8>, depth: usize) -> Read<()> {
        self.lexer.expect(b'{', "an object")?;
        let mut first = true;
        let mut found = false;
        while self.lexer.more(b'}', &mut first)? {
            if self.lexer.key(&mut self.scratch)? != b"value" {
                self.lexer.skip(&mut self.scratch, 0)?;
            } else if std::mem::replace(&mut found, true) {
                return self.lexer.fault("value comes twice");
            } else {
                self.message(inner, None, out, depth + 1)?;
            }
        }
        if found { Ok(()) } else { self.lexer.fault("well-known type has no value") }
    }
}

/// A number, or a string that holds one.
#[inline]
fn number_text<'a: 's, 's>(lexer: &mut Lexer<'a>, scratch: &'s mut Scratch) -> Read<&'s [u8]> {
    if lexer.peek() != b'"' {
        return lexer.number();
    }
    let at = lexer.at;
    let text = lexer.string(scratch)?;
    if number::is_number(text) { Ok(text) } else { Err(Fault::new(at, "string is not a number")) }
}

/// The wire's bits of an integer; `None` where the kind cannot hold it.
#[inline]
fn integer_bits(kind: Kind, value: i128) -> Option<u64> {
    let bits = match kind {
        Kind::Int32 => i64::from(i32::try_from(value).ok()?) as u64,
        Kind::Sfixed32 => u64::from(i32::try_from(value).ok()? as u32),
        Kind::Sint32 => wire::zigzag(i64::from(i32::try_from(value).ok()?)),
        Kind::Int64 | Kind::Sfixed64 => i64::try_from(value).ok()? as u64,
        Kind::Sint64 => wire::zigzag(i64::try_from(value).ok()?),
        Kind::Uint32 | Kind::Fixed32 => u64::from(u32::try_from(value).ok()?),
        Kind::Uint64 | Kind::Fixed64 => u64::try_from(value).ok()?,
        _ => return None,
    };
    Some(bits)
}

/// The bits of a key that is not a string.
fn map_key(kind: Kind, text: &[u8]) -> Option<u64> {
    match (kind, text) {
        (Kind::Bool, b"true") => Some(1),
        (Kind::Bool, b"false") => Some(0),
        (Kind::Bool, _) => None,
        (kind, text) => {
            let is_plain = number::is_number(text) && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            if is_plain { integer_bits(kind, number::integer(text)?) } else { None }
        }
    }
}

#[inline]
fn push_bits(out: &mut Vec<u8>, kind: Kind, bits: u64) {
    match kind.wire_type() {
        wire::FIXED64 => out.extend_from_slice(&bits.to_le_bytes()),
        wire::FIXED32 => out.extend_from_slice(&(bits as u32).to_le_bytes()),
        _ => push_varint(out, bits),
    }
}

/// The content of a Timestamp or Duration.
fn push_seconds(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
        if value != 0 {
            wire::push_tag(out, number, wire::VARINT);
            push_varint(out, value as u64);
        }
    }
}

/// Which fields and oneofs of a message have come. Messages of up to 128 fields need no allocation.
pub(super) struct Seen {
    few: u128,
    many: Vec<u64>,
    fields: usize,
}

impl Seen {
    #[inline]
    pub fn new(message: &Message) -> Seen {
        let count = message.fields.len() + message.oneofs;
        let many = if count <= 128 { Vec::new() } else { vec![0; count.div_ceil(64)] };
        Seen { few: 0, many, fields: message.fields.len() }
    }

    /// Says what is wrong where the field, or another of its oneof, has come before.
    #[inline]
    pub fn add(&mut self, place: usize, field: &Field) -> Option<&'static str> {
        if self.put(place) {
            return Some("field comes twice");
        }
        match field.oneof {
            Some(oneof) if self.put(self.fields + oneof) => Some("another field of the same oneof came before"),
            _ => None,
        }
    }

    /// Whether it was there already.
    #[inline]
    fn put(&mut self, bit: usize) -> bool {
        if self.many.is_empty() {
            let before = self.few >> bit & 1 == 1;
            self.few |= 1 << bit;
            return before;
        }
        let (word, mask) = (&mut self.many[bit / 64], 1 << (bit % 64));
        let before = *word & mask != 0;
        *word |= mask;
        before
    }
}
