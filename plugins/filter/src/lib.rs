//! Drops records whose fields hold given values (see the README).

use sluice_plugin::prelude::*;
use sluice_plugin::{Schema, Value};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    drop: Vec<RuleConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    /// Name or dotted path.
    field: String,
    equals: Vec<Wanted>,
}

/// A value as the configuration writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)] // a number or a text, which JSON tells apart
enum Wanted {
    Number(i64),
    Text(String),
}

/// The rules, with their fields found in the schema.
#[derive(Debug)]
pub struct Filter {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    field: Field,
    equals: Vec<Wanted>,
}

pub fn start(config: Config, schema: &Schema) -> Result<Filter> {
    let mut rules = Vec::new();
    for rule in config.drop {
        let named = |reason: &dyn std::fmt::Display| Error::new(format_args!("config key drop: {reason}"));
        let field = schema.field(&rule.field).map_err(|error| named(&error))?;
        if field.is_repeated() {
            return Err(named(&format_args!("{} may hold several values", rule.field)));
        }
        if rule.equals.is_empty() {
            return Err(named(&format_args!("{}: name at least one value in equals", rule.field)));
        }
        rules.push(Rule { field, equals: rule.equals });
    }
    Ok(Filter { rules })
}

#[transform(setup = start)]
pub fn filter(filter: &Filter, record: &mut Record) -> Result<Action> {
    for rule in &filter.rules {
        let holds = match record.value(&rule.field)? {
            Some(value) => rule.equals.iter().any(|wanted| wanted.is(value)),
            None => false,
        };
        if holds {
            return Ok(Action::Drop);
        }
    }
    Ok(Action::Keep)
}

impl Wanted {
    fn is(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Wanted::Text(text), Value::Bytes(bytes)) => text.as_bytes() == bytes,
            (Wanted::Number(number), Value::Varint(value)) => *number as u64 == value,
            (Wanted::Number(number), Value::Fixed64(value)) => *number as u64 == value,
            (Wanted::Number(number), Value::Fixed32(value)) => *number as u32 == value,
            (Wanted::Text(_) | Wanted::Number(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::test::{self, Message, Proto, Row};

    fn proto() -> Vec<u8> {
        Proto::new("app")
            .message("Event", &[("kind", 1, "int32"), ("user", 2, "User"), ("tags", 3, "repeated string")])
            .message("User", &[("country", 1, "string")])
            .descriptors()
    }

    #[test]
    fn records_with_a_wanted_value_are_dropped() {
        let config = r#"{"drop": [{"field": "kind", "equals": [6, -1]}, {"field": "user.country", "equals": ["KR"]}]}"#;
        let filter_config = test::setup(config, "app.Event", &proto(), start).unwrap();
        let country = |name: &str| Message::new().message(2, Message::new().text(1, name));
        let check = |record: Message, dropped: bool| {
            let rows = test::run(filter, &filter_config, &[record.encode()]);
            assert_eq!(rows[0] == Row::Drop, dropped);
        };
        check(Message::new().varint(1, 6), true);
        check(Message::new().varint(1, u64::MAX), true);
        check(Message::new().varint(1, 7), false);
        check(Message::new(), false);
        check(country("KR"), true);
        check(country("KRX"), false);
    }

    #[test]
    fn config_errors_name_the_key() {
        let check = |json: &str, expected: &str| {
            let error = test::setup(json, "app.Event", &proto(), start).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        };
        check("{}", "missing field `drop`");
        check(r#"{"drop": [{"field": "nope", "equals": [1]}]}"#, "config key drop: find field nope");
        check(r#"{"drop": [{"field": "tags", "equals": ["a"]}]}"#, "tags may hold several values");
        check(r#"{"drop": [{"field": "kind", "equals": []}]}"#, "name at least one value");
    }
}
