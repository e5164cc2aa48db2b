//! Takes the records out of a body.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::answer::{Outcome, Problem, REASONS_MAX, Refused};
use crate::ingest::gather::{Entry, Origin, REFUSED_MAX};
use crate::ingest::parse::{self, Format, Parser, Place};
use crate::record::read_varint;

/// What a dead letter keeps of a body that is no frames from some byte on.
const BROKEN_MAX_LEN: usize = 4 << 10;

/// How records lie in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Messages, each behind its varint length.
    Frames,
    /// JSON objects, one per line.
    Lines,
}

impl Layout {
    pub(super) fn of(headers: &HeaderMap) -> Result<Layout, Problem> {
        let value = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let value = value.unwrap_or_default();
        let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/x-protobuf" | "application/x-protobuf-delimited" => Ok(Layout::Frames),
            "application/x-ndjson" | "application/json" => Ok(Layout::Lines),
            _ => Err(Problem::MediaType { found: value }),
        }
    }
}

/// Puts a body's records into an entry. Computes: not for the runtime's threads.
pub(super) fn take(layout: Layout, body: &[u8], origin: &Origin, received_nanos: u64) -> (Entry, Outcome) {
    let mut taking = Taking {
        entry: Entry::new(origin, received_nanos),
        parser: Parser::new(Format::Json, origin.schema.clone()),
        outcome: Outcome::default(),
        index: 0,
    };
    taking.entry.input_bytes = body.len() as u64;
    match layout {
        Layout::Frames => taking.frames(body),
        Layout::Lines => taking.lines(body),
    }
    let Taking { entry, mut outcome, .. } = taking;
    outcome.accepted = u64::from(entry.records());
    outcome.refused_count = entry.refused() as u64;
    (entry, outcome)
}

struct Taking {
    entry: Entry,
    parser: Parser,
    outcome: Outcome,
    /// Of the next record.
    index: u64,
}

impl Taking {
    /// Whether another record may be looked at.
    fn goes_on(&mut self) -> bool {
        if self.entry.refused() >= REFUSED_MAX {
            self.outcome.unread_from = Some(self.index);
        }
        self.outcome.unread_from.is_none()
    }

    fn count(&mut self, taken: Result<(), String>) {
        if let Err(reason) = taken
            && self.outcome.refused.len() < REASONS_MAX
        {
            self.outcome.refused.push(Refused { index: self.index, reason });
        }
        self.index += 1;
    }

    fn lines(&mut self, body: &[u8]) {
        let mut scratch = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let len = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..len];
            let next = &rest[rest.len().min(len + 1)..];
            if !line.trim_ascii().is_empty() {
                if !self.goes_on() {
                    return;
                }
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let taken = self.entry.parse(&mut self.parser, line, Place { path: "", position: 0 }, &mut scratch);
                self.count(taken);
            }
            rest = next;
        }
    }

    fn frames(&mut self, body: &[u8]) {
        let mut at = 0;
        while at < body.len() {
            if !self.goes_on() {
                return;
            }
            let frame = read_varint(body, at).and_then(|(len, start)| {
                let end = start.checked_add(usize::try_from(len).ok()?)?;
                Some((body.get(start..end)?, end))
            });
            let Some((message, end)) = frame else {
                // Where the next record begins nobody can say.
                let reason = format!("length at byte {at} is cut short or points past the end of the body");
                let refused = parse::Refused { reason, class: "frames" };
                let rest = &body[at..body.len().min(at + BROKEN_MAX_LEN)];
                let reason = self.entry.refuse(rest, refused);
                return self.count(Err(reason));
            };
            let taken = match self.parser.check_protobuf(message) {
                Ok(()) => self.entry.push(message),
                Err(refused) => Err(self.entry.refuse(message, refused)),
            };
            self.count(taken);
            at = end;
        }
    }
}
