use super::*;
use sluice_plugin::test::{self, Message, Proto, Row};

fn proto() -> Vec<u8> {
    Proto::new("app")
        .message(
            "Event",
            &[
                ("message", 1, "string"),
                ("user", 2, "User"),
                ("tags", 3, "repeated string"),
                ("token", 4, "bytes"),
                ("amount", 5, "int64"),
            ],
        )
        .message("User", &[("email", 1, "string"), ("name", 2, "string")])
        .map("Event", "labels", 6, "string")
        .descriptors()
}

fn redactor(json: &str) -> Redactor {
    test::setup(json, "app.Event", &proto(), start).unwrap()
}

fn run(json: &str, record: Message) -> Row {
    test::run(redact, &redactor(json), &[record.encode()]).remove(0)
}

#[test]
fn whole_fields_are_masked_wherever_they_lie() {
    let entry = |value: &str| Message::new().text(1, "k").text(2, value);
    let record = |secret: &str, email: &str| {
        Message::new()
            .text(1, "hello")
            .message(2, Message::new().text(1, email).text(2, "Kim"))
            .text(4, secret)
            .varint(5, 9)
            .message(6, entry(secret))
            .message(6, entry(secret))
            .text(99, "unknown")
    };
    let row = run(r#"{"fields": ["user.email", "token", "labels"]}"#, record("s", "a@b.com"));
    assert_eq!(row, Row::Replace(record("[redacted]", "[redacted]").encode()));
}

#[test]
fn absent_and_empty_fields_stay() {
    let json = r#"{"fields": ["user.email", "token"], "patterns": ["email"]}"#;
    assert_eq!(run(json, Message::new().text(1, "nothing here").text(4, "")), Row::Keep);
}

#[test]
fn dropped_fields_are_gone() {
    let record = Message::new().text(1, "x").varint(5, 7).text(3, "a").text(3, "b");
    let row = run(r#"{"fields": ["amount", "tags"], "action": "drop"}"#, record);
    assert_eq!(row, Row::Replace(Message::new().text(1, "x").encode()));
}

#[test]
fn patterns_are_found_in_every_text() {
    let user = |name: &str| Message::new().text(2, name);
    let record = |email: &str, card: &str, ip: &str| {
        Message::new()
            .text(1, &format!("mail {email} ok"))
            .message(2, user(card))
            .text(3, "plain")
            .text(3, &format!("{ip}:80"))
            .text(4, "a@b.com is bytes")
    };
    let row = run(r#"{"patterns": ["card", "email", "ipv4"]}"#, record("a@b.com", "4111 1111 1111 1111", "10.0.0.1"));
    assert_eq!(row, Row::Replace(record("[email]", "[card]", "[ipv4]").encode()));
}

#[test]
fn patterns_keep_to_their_fields() {
    let record = |text: &str| Message::new().text(1, text).text(3, "a@b.com");
    let row = run(r#"{"patterns": ["email"], "pattern_fields": ["message"], "action": "drop"}"#, record("<a@b.com>"));
    assert_eq!(row, Row::Replace(record("<>").encode()));
}

#[test]
fn hashes_are_keyed_and_stable() {
    let hash = |key: &str, email: &str| {
        let json = format!(r#"{{"fields": ["user.email"], "action": "hash", "hash_key": "{key}"}}"#);
        match run(&json, Message::new().message(2, Message::new().text(1, email))) {
            Row::Replace(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hash("k", "a@b.com"), hash("k", "a@b.com"));
    assert_ne!(hash("k", "a@b.com"), hash("l", "a@b.com"));
    assert_ne!(hash("k", "a@b.com"), hash("k", "b@b.com"));
    assert!(hash("k", "a@b.com").windows(6).any(|window| window == b"[hash:"));
}

#[test]
fn a_broken_record_fails_alone() {
    let redactor = redactor(r#"{"patterns": ["email"]}"#);
    let rows = test::run(redact, &redactor, &[vec![0x0a, 9], Message::new().text(1, "a@b.com").encode()]);
    assert!(matches!(&rows[0], Row::Failed(reason) if reason.contains("past the end")), "{rows:?}");
    assert_eq!(rows[1], Row::Replace(Message::new().text(1, "[email]").encode()));
}

#[test]
fn config_errors_name_the_key() {
    let check = |json: &str, expected: &str| {
        let error = test::setup(json, "app.Event", &proto(), start).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{json}: {error}");
    };
    check("{}", "config key fields: name at least one");
    check(
        r#"{"fields": ["user.mail"]}"#,
        "config key fields: find field user.mail: message app.User has no field mail",
    );
    check(r#"{"fields": ["amount"]}"#, "config key fields: amount holds no text; only action `drop` fits it");
    check(r#"{"patterns": ["email"], "pattern_fields": ["token"]}"#, "config key pattern_fields: token holds no text");
    check(r#"{"fields": ["message"], "action": "hash"}"#, "config key hash_key: action `hash` needs a key");
    check(r#"{"patterns": ["phone"]}"#, "config key patterns[0]: unknown variant `phone`");
    check(r#"{"fields": ["message"], "action": "shred"}"#, "config key action: unknown variant `shred`");
    check(r#"{"fields": "message"}"#, "config key fields: invalid type");
}
