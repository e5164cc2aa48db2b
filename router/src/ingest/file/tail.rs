//! One file and how far it was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::discover::{Found, renamed};
use super::identity::{FileId, Head, State, read_full};
use super::lines::{Behind, Lines, Taken};
use super::position::Position;
use crate::ingest::gather::Entry;

/// Looks into the folder of a file that has vanished. It was renamed at once or not at all, but the folder may be busy.
const LOOKS_MAX: u32 = 3;

/// How long a file that has left its place is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without growth: then its writer has moved on, and a last line without an end is a line.
    pub(super) finish_after: Duration,
    /// Then its position is forgotten.
    pub(super) forget_after: Duration,
}

/// What reading took, and whether there may be more at once.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) more: bool,
}

#[derive(Debug)]
pub(super) struct Tail {
    /// Source id of its position.
    pub(super) id: Arc<str>,
    pub(super) number: u32,
    pub(super) known: Position,
    /// Has to be read.
    pub(super) due: bool,
    /// Nothing of it is kept any more.
    pub(super) forgotten: bool,
    file: Option<Arc<File>>,
    /// Where it was found at the last look; `None`: away, which is to say renamed, deleted or not yet looked for.
    at: Option<PathBuf>,
    /// What it was like when it was last read to its end.
    ended: Option<State>,
    /// When it last changed or went away.
    quiet_since: Instant,
    /// Looks for it since it went away.
    looks: u32,
    /// Its last line is to be taken, or (`finished`) has been.
    finishing: bool,
    finished: bool,
    /// The last read failed, and was warned of.
    failing: bool,
}

impl Tail {
    pub(super) fn new(id: Arc<str>, number: u32, known: Position, now: Instant) -> Tail {
        Tail {
            id,
            number,
            known,
            due: false,
            forgotten: false,
            file: None,
            at: None,
            ended: None,
            quiet_since: now,
            looks: 0,
            finishing: false,
            finished: false,
            failing: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Whether it has left the place where it was first seen, so that another file may have taken it.
    pub(super) fn has_moved(&self) -> bool {
        !self.at.as_deref().is_some_and(|at| self.was_first_seen_at(at))
    }

    fn was_first_seen_at(&self, path: &Path) -> bool {
        path.to_string_lossy() == self.known.path
    }

    /// Neither open nor found: whatever is known of it may belong to a file that is found under another device number.
    pub(super) fn is_lost(&self) -> bool {
        self.file.is_none() && self.at.is_none()
    }

    /// Frees the descriptor of a file that can be opened again by name.
    pub(super) fn close(&mut self) {
        if self.at.is_some() {
            self.file = None;
        }
    }

    /// The file was found where the patterns say.
    pub(super) fn found(&mut self, found: &Found, now: Instant, patience: &Patience) {
        let stays = found.paths.iter().find(|path| self.at.as_ref() == Some(path));
        let first_seen = || found.paths.iter().find(|path| self.was_first_seen_at(path));
        self.at = stays.or_else(first_seen).or(found.paths.first()).cloned();
        self.looks = 0;
        if self.ended == Some(found.state) {
            self.finish_if_quiet(self.has_moved(), now, patience);
        } else {
            self.quiet_since = now;
            self.due = true;
        }
    }

    /// The file was not found where the patterns say: it was renamed or deleted.
    pub(super) fn missed(&mut self, now: Instant, patience: &Patience) {
        if self.at.take().is_some() {
            self.quiet_since = now;
        }
        if self.file.is_none() && !self.finished && self.looks < LOOKS_MAX {
            self.looks += 1;
            self.file = self.look_for().map(Arc::new);
            self.due |= self.is_open();
            return;
        }
        match &self.file {
            Some(file) => match file.metadata() {
                Ok(metadata) if self.ended == Some(State::of(&metadata)) => self.finish_if_quiet(true, now, patience),
                // Where it cannot be looked at, reading says why.
                Ok(_) | Err(_) => {
                    self.quiet_since = now;
                    self.due = true;
                }
            },
            None => self.forgotten |= now.duration_since(self.quiet_since) >= patience.forget_after,
        }
    }

    fn finish_if_quiet(&mut self, moved: bool, now: Instant, patience: &Patience) {
        if moved && !self.finished && now.duration_since(self.quiet_since) >= patience.finish_after {
            self.finishing = true;
            self.due = true;
        }
    }

    /// Opens the file under the name it was given since, if it is still in its folder.
    fn look_for(&mut self) -> Option<File> {
        let path = renamed(Path::new(&self.known.path), self.known.id)?;
        let file = File::open(&path).ok()?;
        let id = FileId::of(&file.metadata().ok()?);
        let same = id.inode == self.known.id.inode && matches!(self.known.head.check(&file), Ok(Some(_)));
        if !same || self.known.head.is_empty() {
            return None;
        }
        tracing::info!(path = %self.known.path, now = %path.display(), position = self.known.position, "renamed file found");
        self.known.id = id;
        Some(file)
    }

    /// Takes over a file that the journal knows under another device number.
    pub(super) fn adopt(&mut self, id: FileId, path: &Path) -> bool {
        let same = |file: File| {
            let opened = file.metadata().is_ok_and(|metadata| FileId::of(&metadata) == id);
            opened && matches!(self.known.head.check(&file), Ok(Some(_)))
        };
        if id.inode != self.known.id.inode || self.known.head.is_empty() || !File::open(path).is_ok_and(same) {
            return false;
        }
        self.known.id = id;
        true
    }

    /// Starts at the file's end instead of its beginning; in the middle of a line, at the end of that.
    pub(super) fn start_at_end(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut last = [b'\n'];
        read_full(&file, &mut last, len.saturating_sub(1))?;
        self.known.head = Head::default().check(&file)?.unwrap_or_default();
        self.known.position = len;
        self.known.skipping = last != *b"\n";
        Ok(())
    }

    /// Reads one buffer's worth of lines into `entry`, with the position behind them. A failure is warned of once and
    /// tried again after the next look.
    pub(super) fn step(&mut self, lines: &mut Lines, buffer: &mut [u8], entry: &mut Entry) {
        let more = match self.read(lines, buffer, entry) {
            Ok(step) => {
                self.failing = false;
                step.more
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.at.as_deref().unwrap_or(Path::new(&self.known.path));
                    tracing::warn!(path = %path.display(), %error, "file cannot be read");
                }
                false
            }
        };
        self.due = more;
    }

    fn read(&mut self, lines: &mut Lines, buffer: &mut [u8], entry: &mut Entry) -> io::Result<Step> {
        let Some(file) = self.open()? else { return Ok(Step { more: false }) };
        // Before reading, so that growth while reading is seen at the next look.
        let metadata = file.metadata()?;
        match self.known.head.check(&file)? {
            Some(head) if metadata.len() >= self.known.position => self.known.head = head,
            Some(_) | None => self.start_over(&file)?,
        }
        let len = read_full(&file, buffer, self.known.position)?;
        let input = &buffer[..len];
        let emptied = self.known.head.check(&file)?.is_none();
        if emptied && self.is_there_now(&file, input)? {
            // These bytes are the middle of what was written since.
            return Ok(Step { more: true });
        }
        let at_end = len < buffer.len();
        let last = at_end && !emptied && std::mem::take(&mut self.finishing);
        let before = self.known.position;
        let behind = if last { Behind::Nothing } else { Behind::More };
        let taken = lines.take(input, behind, &mut self.known, entry);
        let more = emptied || !at_end || taken == Taken::Full;
        if !more {
            self.ended = Some(State::of(&metadata));
        }
        // A full entry may have cut the last input short: finish with what is left.
        self.finishing = last && more;
        self.finished = last && !more;
        if self.finished {
            self.file = None;
            self.forgotten = metadata.nlink() == 0;
        }
        if self.forgotten {
            entry.positions.push((Arc::clone(&self.id), Bytes::new()));
        } else if before != self.known.position {
            entry.positions.push((Arc::clone(&self.id), self.known.encode()));
        }
        Ok(Step { more })
    }

    /// The open file; `None` where its name is another's by now, which the next look will see.
    fn open(&mut self) -> io::Result<Option<Arc<File>>> {
        if let Some(file) = &self.file {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(path) = &self.at else { return Ok(None) };
        let file = match File::open(path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if FileId::of(&file.metadata()?) != self.known.id {
            return Ok(None);
        }
        self.file = Some(Arc::clone(&file));
        Ok(Some(file))
    }

    /// The file was emptied, or is another on the same inode.
    fn start_over(&mut self, file: &File) -> io::Result<()> {
        if self.known.position > 0 {
            let position = self.known.position;
            tracing::info!(path = %self.known.path, position, "file was emptied, reading from its beginning");
        }
        if let Some(path) = &self.at {
            self.known.path = path.to_string_lossy().into_owned();
        }
        self.known.head = Head::default().check(file)?.unwrap_or_default();
        self.known.position = 0;
        self.known.skipping = false;
        self.finished = false;
        Ok(())
    }

    /// The file was emptied around the time when `input` was read: was that after? Then the same bytes are there still.
    /// If not, they were the last of the old contents, and are to be taken.
    fn is_there_now(&self, file: &File, input: &[u8]) -> io::Result<bool> {
        let mut again = vec![0; input.len()];
        let len = read_full(file, &mut again, self.known.position)?;
        Ok(again[..len] == *input)
    }
}
