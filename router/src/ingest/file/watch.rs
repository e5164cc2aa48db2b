//! The files of a source: which there are, which have to be read, and whose turn it is.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::discover::{Found, Patterns};
use super::identity::FileId;
use super::lines::Lines;
use super::position::{self, Known, Position};
use super::tail::{Patience, Tail};
use super::{Settings, StartAt};
use crate::clock::Clock;
use crate::ingest::Error;
use crate::ingest::gather::{Entry, Origin};
use crate::ingest::parse::Parser;

/// Bytes read at a time.
const BUFFER_LEN: usize = 256 << 10;
/// Files kept open. Those that can be opened again by name are closed beyond it; renamed ones cannot.
const OPEN_MAX: usize = 256;

pub(super) struct Watch {
    name: Arc<str>,
    start_at: StartAt,
    origin: Origin,
    clock: Clock,
    patience: Patience,
    patterns: Patterns,
    /// By age: the number counts files as they came to be known, and is used once.
    tails: BTreeMap<u64, Tail>,
    next_age: u64,
    /// Whose turn it is: the first from here on.
    turn: u64,
    free: Vec<u32>,
    next_number: u32,
    started: bool,
    /// Positions that are to go with the next entry, before its own.
    positions: Vec<(Arc<str>, Bytes)>,
    lines: Lines,
    buffer: Vec<u8>,
}

impl Watch {
    pub(super) fn new(
        settings: &Settings,
        origin: Origin,
        known: Known,
        clock: Clock,
        patience: Patience,
    ) -> Result<Watch, Error> {
        let parser = Parser::new(settings.format, Arc::clone(&origin.schema));
        let lines = Lines::new(parser, settings.line_max_bytes);
        let mut watch = Watch {
            name: Arc::clone(&settings.name),
            start_at: settings.start_at,
            origin,
            clock,
            patience,
            patterns: Patterns::new(&settings.name, &settings.include, &settings.exclude)?,
            tails: BTreeMap::new(),
            next_age: 0,
            turn: 0,
            free: known.free,
            next_number: known.next,
            started: known.started,
            positions: Vec::new(),
            buffer: vec![0; BUFFER_LEN.max(lines.input_min_len())],
            lines,
        };
        let now = Instant::now();
        for (number, position) in known.files {
            watch.insert(number, position, now);
        }
        Ok(watch)
    }

    /// Nothing to do before the next look.
    pub(super) fn is_idle(&self) -> bool {
        self.positions.is_empty() && !self.tails.values().any(|tail| tail.due)
    }

    /// Looks for new, grown, renamed and vanished files.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let mut found = self.patterns.find();
        let mut away = Vec::new();
        for (age, tail) in &mut self.tails {
            match found.remove(&tail.known.id) {
                Some(found) => tail.found(&found, now, &self.patience),
                None => away.push(*age),
            }
        }
        let mut new: Vec<(FileId, Found)> = found.into_iter().collect();
        new.sort_by(|(_, one), (_, other)| one.paths.cmp(&other.paths));
        for (id, found) in new {
            match away.iter().position(|age| self.adopt(*age, id, &found, now)) {
                Some(adopted) => drop(away.remove(adopted)),
                None => self.add(id, &found, now),
            }
        }
        for age in away {
            if let Some(tail) = self.tails.get_mut(&age) {
                tail.missed(now, &self.patience);
            }
        }
        if !self.started {
            self.started = true;
            self.positions.push(position::started(&self.name));
        }
        let forgotten = self.tails.values().filter(|tail| tail.forgotten);
        self.positions.extend(forgotten.map(|tail| (Arc::clone(&tail.id), Bytes::new())));
        self.forget();
    }

    /// Reads from the file whose turn it is. `None`: nothing that has to become durable.
    pub(super) fn step(&mut self) -> Option<Entry> {
        let mut entry = Entry::new(&self.origin, self.clock.now_nanos());
        entry.positions.append(&mut self.positions);
        if let Some(age) = self.next() {
            self.turn = age + 1;
            let open = self.tails.values().filter(|tail| tail.is_open()).count();
            if let Some(tail) = self.tails.get_mut(&age) {
                tail.step(&mut self.lines, &mut self.buffer, &mut entry);
                if open > OPEN_MAX {
                    tail.close();
                }
            }
            self.forget();
        }
        (!entry.is_empty()).then_some(entry)
    }

    /// Age of the next file that is due, in turns. One that has taken the place of a renamed file comes after it, so that
    /// records stay in the order in which they were written.
    fn next(&self) -> Option<u64> {
        let moved = |tail: &&Tail| tail.due && tail.has_moved();
        let mut before: HashSet<&str> = HashSet::new();
        let mut first = None;
        if self.tails.values().filter(moved).count() == 0 {
            let due = |(_, tail): &(&u64, &Tail)| tail.due;
            let next = self.tails.range(self.turn..).find(due).or_else(|| self.tails.iter().find(due));
            return next.map(|(age, _)| *age);
        }
        for (age, tail) in self.tails.iter().filter(|(_, tail)| tail.due) {
            let waits = before.contains(tail.known.path.as_str());
            if tail.has_moved() {
                before.insert(&tail.known.path);
            }
            if waits {
                continue;
            }
            if *age >= self.turn {
                return Some(*age);
            }
            first = first.or(Some(*age));
        }
        first
    }

    /// Whether a file that seems to be new is one that the journal knows, on a device that got another number.
    fn adopt(&mut self, age: u64, id: FileId, found: &Found, now: Instant) -> bool {
        let (Some(tail), Some(path)) = (self.tails.get_mut(&age), found.paths.first()) else { return false };
        let adopted = tail.is_lost() && tail.adopt(id, path);
        if adopted {
            tail.found(found, now, &self.patience);
        }
        adopted
    }

    fn add(&mut self, id: FileId, found: &Found, now: Instant) {
        let Some(path) = found.paths.first() else { return };
        let number = self.free.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        let age = self.insert(number, Position::new(path.to_string_lossy().into_owned(), id), now);
        let first_look = !self.started;
        let Some(tail) = self.tails.get_mut(&age) else { return };
        if first_look && self.start_at == StartAt::End {
            match tail.start_at_end(path) {
                Ok(()) => self.positions.push((Arc::clone(&tail.id), tail.known.encode())),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "file has no end to start at, reading from its beginning")
                }
            }
        }
        tracing::info!(source = %self.name, path = %path.display(), position = tail.known.position, "file found");
        tail.found(found, now, &self.patience);
    }

    fn insert(&mut self, number: u32, known: Position, now: Instant) -> u64 {
        let age = self.next_age;
        self.next_age += 1;
        self.tails.insert(age, Tail::new(position::id(&self.name, number), number, known, now));
        age
    }

    fn forget(&mut self) {
        let free = &mut self.free;
        self.tails.retain(|_, tail| {
            if tail.forgotten {
                tracing::info!(path = %tail.known.path, position = tail.known.position, "file forgotten");
                free.push(tail.number);
            }
            !tail.forgotten
        });
    }
}
