//! What a `_bulk` answer says about each document.
//!
//! Always: an answer that does not speak about exactly the documents that were sent is unreadable, never good news.

use std::borrow::Cow;

use serde::Deserialize;

/// Asked of the server, so that a good answer is 26 bytes a document. The status must stay: without it good items
/// are empty, empty items are left out, and the rest no longer line up with what was sent.
pub(super) const FILTER_PATH: &str =
    "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.failure_store";

/// What became of one document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Delivered,
    /// Server busy or failing: this document again, later.
    Again(String),
    /// An operator has to act: this document again, however long it takes.
    Paused(String),
    /// Refused for good, in the server's words.
    Dead(String),
}

/// Reads an answer to `sent` documents; `None` where it cannot be understood, so that all of them are in doubt.
pub(super) fn read(body: &[u8], sent: usize) -> Option<Vec<Item>> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    if answer.items.len() != sent {
        return None;
    }
    Some(answer.items.iter().map(|item| item.create.outcome()).collect())
}

/// Whether the answer says that all `sent` documents were created: seen without parsing, since nearly all are so.
pub(super) fn is_all_created(body: &[u8], sent: usize) -> bool {
    let is_good = count(body, b"\"errors\":false") == 1 && count(body, b"\"failure_store\"") == 0;
    is_good && count(body, b"\"status\":201") == sent
}

fn count(body: &[u8], word: &[u8]) -> usize {
    let mut count = 0;
    let mut at = 0;
    // Every word searched for begins with a quote: jump from quote to quote.
    while let Some(quote) = body[at..].iter().position(|&byte| byte == b'"') {
        at += quote;
        if body[at..].starts_with(word) {
            count += 1;
            at += word.len();
        } else {
            at += 1;
        }
    }
    count
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<Create<'a>>,
}

#[derive(Deserialize)]
struct Create<'a> {
    #[serde(borrow)]
    create: Outcome<'a>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow, default)]
    error: Option<Failure<'a>>,
    #[serde(borrow, default)]
    failure_store: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Failure<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

impl Outcome<'_> {
    fn outcome(&self) -> Item {
        if self.failure_store.as_deref() == Some("used") {
            return Item::Dead("diverted to the failure store".into());
        }
        let kind = self.error.as_ref().map_or("", |error| &error.kind);
        match (self.status, kind) {
            (200..=299, "") => Item::Delivered,
            (409, "version_conflict_engine_exception") => Item::Delivered,
            // Comes as 403 and, at the flood stage, as 429; only an operator lifts it.
            (_, "cluster_block_exception") => Item::Paused(self.words()),
            (401 | 403 | 404, _) => Item::Paused(self.words()),
            (400, _) if self.is_about_the_index(kind) => Item::Paused(self.words()),
            (400 | 413, _) => Item::Dead(self.words()),
            _ => Item::Again(self.words()),
        }
    }

    /// 400s that are no fault of the document.
    fn is_about_the_index(&self, kind: &str) -> bool {
        let reason = self.error.as_ref().and_then(|error| error.reason.as_deref()).unwrap_or_default();
        matches!(kind, "index_closed_exception" | "invalid_index_name_exception" | "invalid_alias_name_exception")
            || reason.contains("no write index is defined")
    }

    fn words(&self) -> String {
        match &self.error {
            Some(error) => format!("{} {}: {}", self.status, error.kind, error.reason.as_deref().unwrap_or_default()),
            None => format!("status {}", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_outcome() {
        let check = |item: &str, expected: fn(&Item) -> bool| {
            let body = format!("{{\"errors\":true,\"items\":[{{\"create\":{item}}}]}}");
            let items = read(body.as_bytes(), 1).unwrap();
            assert!(expected(&items[0]), "{item} -> {:?}", items[0]);
        };
        let delivered = |item: &Item| *item == Item::Delivered;
        let again = |item: &Item| matches!(item, Item::Again(_));
        let paused = |item: &Item| matches!(item, Item::Paused(_));
        let dead = |item: &Item| matches!(item, Item::Dead(_));
        check(r#"{"status":201}"#, delivered);
        check(r#"{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"exists"}}"#, delivered);
        check(r#"{"status":409,"error":{"type":"another","reason":"x"}}"#, again);
        check(r#"{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"full"}}"#, again);
        check(r#"{"status":503,"error":{"type":"unavailable_shards_exception"}}"#, again);
        check(r#"{"status":429,"error":{"type":"cluster_block_exception","reason":"flood"}}"#, paused);
        check(r#"{"status":403,"error":{"type":"security_exception","reason":"no"}}"#, paused);
        check(r#"{"status":404,"error":{"type":"index_not_found_exception","reason":"no"}}"#, paused);
        check(r#"{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}"#, paused);
        check(r#"{"status":400,"error":{"type":"document_parsing_exception","reason":"a \"b\""}}"#, dead);
        check(r#"{"status":201,"failure_store":"used"}"#, dead);
        check(r#"{"status":201,"failure_store":"not_applicable_or_unknown"}"#, delivered);
    }

    #[test]
    fn a_wrong_count_or_a_torn_answer_is_unreadable() {
        let two = br#"{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}}]}"#;
        assert_eq!(read(two, 2).map(|items| items.len()), Some(2));
        assert!(read(two, 1).is_none() && read(two, 3).is_none());
        assert!(read(&two[..two.len() - 3], 2).is_none());
        assert!(read(b"<html>", 0).is_none());
        assert!(is_all_created(two, 2));
        assert!(!is_all_created(two, 3) && !is_all_created(two, 1));
        let diverted = br#"{"errors":false,"items":[{"create":{"status":201,"failure_store":"used"}}]}"#;
        assert!(!is_all_created(diverted, 1));
    }
}
