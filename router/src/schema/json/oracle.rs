//! The plans against DynamicMessage, on random schemas and messages.
//!
//! `SLUICE_SEED` repeats a run, `SLUICE_PAIRS` makes it longer. A failure names the seed of its pair.

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

use super::generate::{self, Random};
use super::*;

/// Schemas, and messages of each.
const SCHEMAS: u64 = 100;
const MESSAGES: u64 = 10;

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Calls `check` with random pairs; prints the seed that leads to a panic.
fn for_each_pair(check: impl Fn(&mut Random, &Schema, &DynamicMessage)) {
    let seed = env("SLUICE_SEED", 4);
    println!("seed {seed}");
    for round in 0..env("SLUICE_PAIRS", SCHEMAS * MESSAGES).div_ceil(MESSAGES) {
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let schema = Schema::new(generate::schema(&mut random));
        for _ in 0..MESSAGES {
            let message = generate::message(&mut random, &schema.descriptor, 3);
            check(&mut random, &schema, &message);
        }
    }
}

fn oracle_json(message: &DynamicMessage, options: &SerializeOptions) -> Result<String, String> {
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::new(&mut out);
    message.serialize_with_options(&mut writer, options).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

const OURS: SerializeOptions = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);

fn oracle_message(descriptor: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &options);
    let message = message.map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(message)
}

fn decode(schema: &Schema, wire: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(schema.descriptor.clone(), wire).unwrap()
}

fn value(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// Where two JSON texts differ first; whole messages are too much to look at.
#[track_caller]
fn same_json(ours: &str, oracle: &str) {
    if let Some(difference) = difference(&value(ours), &value(oracle), "") {
        panic!("{difference}");
    }
}

fn difference(ours: &serde_json::Value, oracle: &serde_json::Value, path: &str) -> Option<String> {
    use serde_json::Value::{Array, Object};
    match (ours, oracle) {
        (Object(ours), Object(oracle)) => {
            let keys = ours.keys().chain(oracle.keys());
            let get = |map: &serde_json::Map<_, _>, key| map.get(key).cloned().unwrap_or("absent".into());
            keys.into_iter().find_map(|key| difference(&get(ours, key), &get(oracle, key), &format!("{path}.{key}")))
        }
        (Array(ours), Array(oracle)) if ours.len() == oracle.len() => {
            let mut pairs = ours.iter().zip(oracle).enumerate();
            pairs.find_map(|(at, (ours, oracle))| difference(ours, oracle, &format!("{path}[{at}]")))
        }
        // serde_json reads some floats one unit in the last place off.
        (serde_json::Value::Number(ours), serde_json::Value::Number(oracle))
            if ours.as_f64().zip(oracle.as_f64()).is_some_and(|(a, b)| (a - b).abs() <= a.abs() * 1e-15)
                && (ours.is_f64() || oracle.is_f64()) =>
        {
            None
        }
        _ => (ours != oracle).then(|| format!("{path}: {ours} here, {oracle} there")),
    }
}

#[track_caller]
fn same_message(ours: &DynamicMessage, oracle: &DynamicMessage) {
    same_json(&oracle_json(ours, &OURS).unwrap(), &oracle_json(oracle, &OURS).unwrap());
}

/// JSON and wire of a message with the entries of its maps in order: the oracle's order is another in every run, and
/// damage would not fall on the same place twice.
fn ordered(schema: &Schema, message: &DynamicMessage) -> (Vec<u8>, Vec<u8>) {
    let json = value(&oracle_json(message, &OURS).unwrap()).to_string().into_bytes();
    let mut wire = Vec::new();
    from_json(schema, &json, &mut wire).unwrap();
    (json, wire)
}

fn written(schema: &Schema, wire: &[u8]) -> Result<String, Error> {
    let mut out = b"before".to_vec();
    to_json(schema, wire, &mut out)?;
    Ok(String::from_utf8(out.split_off(6)).unwrap())
}

#[test]
fn messages_become_the_oracles_json() {
    for_each_pair(|_, schema, message| {
        let wire = message.encode_to_vec();
        let json = written(schema, &wire).unwrap();
        same_json(&json, &oracle_json(message, &OURS).unwrap());
    });
}

#[test]
fn json_becomes_the_message_it_was_written_from() {
    for_each_pair(|random, schema, message| {
        let names = random.one_in(2);
        let options = SerializeOptions::new()
            .use_proto_field_name(names)
            .stringify_64_bit_integers(random.one_in(2))
            .use_enum_numbers(random.one_in(3));
        let json = oracle_json(message, &options).unwrap();
        let mut out = b"before".to_vec();
        from_json(schema, json.as_bytes(), &mut out).unwrap_or_else(|error| panic!("{error}: {json}"));
        let wire = &out[6..];
        let read = decode(schema, wire);
        // Not every message reads back as itself: unset entries of maps become their defaults.
        let expected = oracle_message(&schema.descriptor, json.as_bytes()).unwrap();
        same_message(&read, &expected);
        crate::schema::check(schema, wire).unwrap();
    });
}

/// Two encodings one behind the other are the merge of the two messages.
#[test]
fn scattered_fields_are_merged() {
    for_each_pair(|random, schema, message| {
        let mut wire = message.encode_to_vec();
        for _ in 0..1 + random.below(2) {
            generate::message(random, &schema.descriptor, 2).encode(&mut wire).unwrap();
        }
        let merged = decode(schema, &wire);
        let json = written(schema, &wire).unwrap();
        let expected = oracle_json(&merged, &OURS).unwrap();
        same_json(&json, &expected);
    });
}

#[test]
fn damaged_wire_is_judged_as_by_the_oracle() {
    for_each_pair(|random, schema, message| {
        let (_, mut wire) = ordered(schema, message);
        damage(random, &mut wire);
        let oracle = DynamicMessage::decode(schema.descriptor.clone(), wire.as_slice());
        let checked = crate::schema::check(schema, &wire);
        let json = written(schema, &wire);
        let oracle = match (&checked, oracle) {
            (Ok(()), Ok(oracle)) => oracle,
            (Err(_), Err(_)) => return,
            (Ok(()), Err(error)) => panic!("{error}: {wire:?}"),
            // The oracle takes an entry of a map for one whatever its wire type, and misreads all that follows.
            (Err(error), Ok(_)) => return assert!(has_map(schema), "{error}: {wire:?}"),
        };
        match (json, oracle_json(&oracle, &OURS)) {
            (Ok(json), Ok(expected)) => same_json(&json, &expected),
            // Times whose parts are out of their ranges and the whole is not.
            (Ok(json), Err(error)) => assert!(error.contains("out of range"), "{error}: {json}"),
            // Times that are no times: refused here, misspelled there.
            (Err(error), Ok(_)) => assert!(error.to_string().contains("out of range"), "{error}"),
            (Err(_), Err(_)) => {}
        }
    });
}

fn has_map(schema: &Schema) -> bool {
    let mut fields = schema.plan().messages.iter().flat_map(|message| &message.fields);
    fields.any(|field| field.rule == crate::schema::plan::Rule::Map)
}

#[test]
fn damaged_json_never_becomes_another_message() {
    for_each_pair(|random, schema, message| {
        let (mut json, _) = ordered(schema, message);
        damage(random, &mut json);
        let mut out = b"before".to_vec();
        let ours = from_json(schema, &json, &mut out);
        if ours.is_err() {
            assert_eq!(out, b"before");
            return;
        }
        // What is read here and not there is looked at in the table of cases; here only what both read is compared.
        let Ok(expected) = oracle_message(&schema.descriptor, &json) else { return };
        same_message(&decode(schema, &out[6..]), &expected);
    });
}

/// Changes, removes, repeats or inserts a few bytes.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, *random.pick(b"\"{}[]:,\\0-1e.ntf \x00\xff\x80")),
            4 => bytes.truncate(at),
            _ => {
                let end = (at + random.below(12)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}
