//! A record's identity, made of the fields the configuration names (see the README).

use sluice_plugin::prelude::*;
use sluice_plugin::{Kind, Schema, Value};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names or dotted paths.
    fields: Vec<String>,
}

/// The fields, found in the schema.
#[derive(Debug)]
pub struct Identity {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    field: Field,
    /// Present where the field may lie several times in a record.
    all: Option<Fields>,
}

pub fn start(config: Config, schema: &Schema) -> Result<Identity> {
    if config.fields.is_empty() {
        return Err(Error::new("config key fields: name at least one field"));
    }
    let mut parts = Vec::new();
    for name in &config.fields {
        let field = schema.field(name).map_err(|error| Error::new(format_args!("config key fields: {error}")))?;
        if field.kind() == Kind::Map {
            let reason = format_args!("config key fields: {name} is a map, whose order on the wire is not fixed");
            return Err(Error::new(reason));
        }
        let all = field.is_repeated().then(|| field.select());
        parts.push(Part { field, all });
    }
    Ok(Identity { parts })
}

#[dedup(setup = start)]
pub fn key(identity: &Identity, record: &mut Record, key: &mut Key) -> Result<()> {
    let mut is_present = false;
    for part in &identity.parts {
        match &part.all {
            None => match record.value(&part.field)? {
                None => key.push(""),
                Some(value) => {
                    is_present = true;
                    push(key, value);
                }
            },
            Some(all) => {
                let mut values = Key::default();
                record.visit(all, |value| push(&mut values, value))?;
                is_present |= !values.is_empty();
                key.push(values.as_bytes());
            }
        }
    }
    if !is_present {
        key.clear();
    }
    Ok(())
}

fn push(key: &mut Key, value: Value<'_>) {
    match value {
        Value::Bytes(bytes) => key.push(bytes),
        Value::Varint(value) | Value::Fixed64(value) => key.push(value.to_le_bytes()),
        Value::Fixed32(value) => key.push(value.to_le_bytes()),
        Value::Group => key.push(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::test::{self, Message, Proto};

    fn proto() -> Vec<u8> {
        Proto::new("app")
            .message(
                "Event",
                &[("id", 1, "string"), ("user", 2, "User"), ("tags", 3, "repeated string"), ("n", 4, "int64")],
            )
            .message("User", &[("id", 1, "string")])
            .map("Event", "labels", 5, "string")
            .descriptors()
    }

    fn keys(fields: &str, records: Vec<Message>) -> Vec<Vec<u8>> {
        let identity = test::setup(&format!(r#"{{"fields": {fields}}}"#), "app.Event", &proto(), start).unwrap();
        let records: Vec<_> = records.into_iter().map(Message::encode).collect();
        test::keys(key, &identity, &records).into_iter().map(|key| key.unwrap()).collect()
    }

    #[test]
    fn the_same_fields_make_the_same_key() {
        let user = |id: &str| Message::new().text(1, id);
        let keys = keys(
            r#"["id", "user.id", "n"]"#,
            vec![
                Message::new().text(1, "a").message(2, user("u")).varint(4, 1),
                Message::new().varint(4, 1).message(2, user("u")).text(9, "other").text(1, "a"),
                Message::new().text(1, "au").varint(4, 1),
                Message::new().text(1, "a").message(2, user("u")).varint(4, 2),
                Message::new().text(1, "a").message(2, user("v")).varint(4, 1),
            ],
        );
        assert_eq!(keys[0], keys[1]);
        for other in &keys[2..] {
            assert_ne!(&keys[0], other);
        }
    }

    #[test]
    fn a_record_without_any_of_them_has_no_key() {
        let keys = keys(r#"["id", "tags"]"#, vec![Message::new().varint(4, 1), Message::new().text(1, "")]);
        assert!(keys[0].is_empty() && !keys[1].is_empty());
    }

    #[test]
    fn repeated_fields_count_with_all_values() {
        let tags = |tags: &[&str]| tags.iter().fold(Message::new(), |message, tag| message.text(3, tag));
        let keys = keys(r#"["tags"]"#, vec![tags(&["a", "b"]), tags(&["b"]), tags(&["ab"]), tags(&["a", "b"])]);
        assert_eq!(keys[0], keys[3]);
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
    }

    #[test]
    fn a_broken_record_fails_alone() {
        let identity = test::setup(r#"{"fields": ["id"]}"#, "app.Event", &proto(), start).unwrap();
        let keys = test::keys(key, &identity, &[vec![0x0a, 9], Message::new().text(1, "a").encode()]);
        assert!(keys[0].is_err() && keys[1].is_ok());
    }

    #[test]
    fn config_errors_name_the_key() {
        let check = |json: &str, expected: &str| {
            let error = test::setup(json, "app.Event", &proto(), start).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        };
        check("{}", "config: missing field `fields`");
        check(r#"{"fields": []}"#, "config key fields: name at least one");
        check(r#"{"fields": ["nope"]}"#, "config key fields: find field nope: message app.Event has no field nope");
        check(r#"{"fields": ["labels"]}"#, "config key fields: labels is a map");
        check(r#"{"field": []}"#, "config key field: unknown field `field`");
    }
}
