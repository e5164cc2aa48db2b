//! Takes personal data out of records: whole fields, and patterns inside text (see the README).

mod replace;
mod scan;

use sluice_plugin::prelude::*;
use sluice_plugin::{Kind, Value};

use replace::Replace;
use scan::Pattern;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names or dotted paths of fields whose whole value goes.
    #[serde(default)]
    fields: Vec<String>,
    /// What to find inside text.
    #[serde(default)]
    patterns: Vec<Pattern>,
    /// Where to look for patterns; every string field where absent.
    pattern_fields: Option<Vec<String>>,
    #[serde(default)]
    action: Action,
    hash_key: Option<String>,
}

/// What takes the place of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Mask,
    Hash,
    Drop,
}

/// The config, resolved against the schema.
#[derive(Debug)]
pub struct Redactor {
    whole: Fields,
    texts: Fields,
    patterns: Vec<Pattern>,
    replace: Replace,
}

pub fn start(config: Config, schema: &Schema) -> Result<Redactor> {
    if config.fields.is_empty() && config.patterns.is_empty() {
        return Err(Error::new("config key fields: name at least one of `fields` and `patterns`"));
    }
    let replace = match (config.action, config.hash_key) {
        (Action::Mask, _) => Replace::Mask,
        (Action::Drop, _) => Replace::Drop,
        (Action::Hash, Some(key)) if !key.is_empty() => Replace::hash(&key),
        (Action::Hash, _) => return Err(Error::new("config key hash_key: action `hash` needs a key")),
    };
    for name in &config.fields {
        check(schema, "fields", name, |kind| match kind {
            Kind::Text | Kind::Bytes | Kind::Map => true,
            Kind::Message | Kind::Number => config.action == Action::Drop,
        })?;
    }
    let texts = match &config.pattern_fields {
        None if config.patterns.is_empty() => schema.fields::<String>(&[])?,
        None => schema.text_fields(),
        Some(names) => {
            for name in names {
                check(schema, "pattern_fields", name, |kind| matches!(kind, Kind::Text | Kind::Map))?;
            }
            schema.fields(names)?
        }
    };
    Ok(Redactor { whole: schema.fields(&config.fields)?, texts, patterns: config.patterns, replace })
}

fn check(schema: &Schema, key: &str, name: &str, fits: impl Fn(Kind) -> bool) -> Result<()> {
    let field = schema.field(name).map_err(|error| Error::new(format_args!("config key {key}: {error}")))?;
    if fits(field.kind()) {
        return Ok(());
    }
    let help = if key == "fields" { "only action `drop` fits it" } else { "only text can be searched" };
    Err(Error::new(format_args!("config key {key}: {name} holds no text; {help}")))
}

#[transform(setup = start)]
pub fn redact(redactor: &Redactor, record: &mut Record) -> Result<sluice_plugin::Action> {
    let replace = &redactor.replace;
    if !redactor.whole.is_empty() {
        record.edit(&redactor.whole, |value, out| match value {
            Value::Bytes([]) => Edit::Keep,
            Value::Bytes(bytes) => replace.whole(bytes, out),
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) | Value::Group => Edit::Remove,
        })?;
    }
    if !redactor.texts.is_empty() {
        record.edit(&redactor.texts, |value, out| match value {
            Value::Bytes(text) => replace_matches(redactor, text, out),
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) | Value::Group => Edit::Keep,
        })?;
    }
    Ok(sluice_plugin::Action::Keep)
}

/// Copies `text` with every match replaced. Matches are ASCII from end to end, so valid UTF-8 stays so.
fn replace_matches(redactor: &Redactor, text: &[u8], out: &mut Vec<u8>) -> Edit {
    let mut copied = 0;
    for (pattern, range) in scan::matches(text, &redactor.patterns) {
        out.extend_from_slice(&text[copied..range.start]);
        redactor.replace.matched(pattern, &text[range.clone()], out);
        copied = range.end;
    }
    if copied == 0 {
        return Edit::Keep;
    }
    out.extend_from_slice(&text[copied..]);
    Edit::Replace
}

#[cfg(test)]
mod tests;
