//! Cuts what was read of a file into lines, and lines into records.
//!
//! A line ends with LF or CRLF, which are no part of it. A line longer than the limit is refused once, as soon as that
//! much of it is known, and passed over to its end, however far that is. A line without its end waits, unless the file has
//! had its last.

use crate::ingest::gather::{Entry, REFUSED_MAX};
use crate::ingest::parse::{Parser, Place};

use super::position::Position;

/// An entry is closed when it holds this much, so that it becomes durable as a whole. Records may be larger than the
/// lines they come from: each names its file.
const ENTRY_MAX_BYTES: usize = 1 << 20;
/// Line break: CR and LF.
const BREAK_LEN: usize = 2;

/// What comes behind the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Perhaps more, now or later.
    More,
    /// Nothing ever.
    Nothing,
}

/// Why no further line was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// What is left is no whole line.
    All,
    /// The entry is full.
    Full,
}

#[derive(Debug)]
pub(super) struct Lines {
    parser: Parser,
    line_max_bytes: usize,
    /// Reused for every record.
    scratch: Vec<u8>,
}

impl Lines {
    pub(super) fn new(parser: Parser, line_max_bytes: usize) -> Lines {
        Lines { parser, line_max_bytes, scratch: Vec::new() }
    }

    /// Bytes that have to be read at a time, lest a line can neither be taken nor be called too long.
    pub(super) fn input_min_len(&self) -> usize {
        self.line_max_bytes + BREAK_LEN
    }

    /// Takes the lines of `input`, which was read at `known.position`, and moves the position behind them.
    pub(super) fn take(&mut self, input: &[u8], behind: Behind, known: &mut Position, entry: &mut Entry) -> Taken {
        let before = known.position;
        let mut at = 0;
        let taken = loop {
            if entry.refused() >= REFUSED_MAX || entry.bytes() >= ENTRY_MAX_BYTES {
                break Taken::Full;
            }
            let rest = &input[at..];
            known.position = before + at as u64;
            let Some(len) = memchr::memchr(b'\n', rest) else {
                at += self.unended(rest, behind, known, entry);
                break Taken::All;
            };
            if !std::mem::take(&mut known.skipping) {
                self.line(&rest[..len], known, entry);
            }
            at += len + 1;
        };
        known.position = before + at as u64;
        entry.input_bytes += at as u64;
        taken
    }

    /// Looks at the beginning of a line; returns how much of it is dealt with.
    fn unended(&mut self, rest: &[u8], behind: Behind, known: &mut Position, entry: &mut Entry) -> usize {
        if known.skipping {
            known.skipping = behind == Behind::More;
            return rest.len();
        }
        match behind {
            // Even if the last byte is a CR, and LF comes next, it is too long.
            Behind::More if rest.len() >= self.input_min_len() => {
                self.refuse(rest, known, entry);
                known.skipping = true;
                rest.len()
            }
            Behind::Nothing if !rest.is_empty() => {
                self.line(rest, known, entry);
                rest.len()
            }
            Behind::More | Behind::Nothing => 0,
        }
    }

    fn line(&mut self, line: &[u8], known: &Position, entry: &mut Entry) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.line_max_bytes {
            return self.refuse(line, known, entry);
        }
        let place = Place { path: &known.path, position: known.position };
        // What is no record is among the dead letters now, and nobody waits for the reason.
        let _refused = entry.parse(&mut self.parser, line, place, &mut self.scratch);
    }

    fn refuse(&self, beginning: &[u8], known: &Position, entry: &mut Entry) {
        let Position { path, position, .. } = known;
        let max = self.line_max_bytes;
        let beginning = beginning.strip_suffix(b"\r").unwrap_or(beginning);
        entry.refuse_long(beginning, format!("line at byte {position} of {path} is longer than {max} bytes"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::ingest::file::identity::FileId;
    use crate::ingest::gather::Origin;
    use crate::ingest::parse::Format;
    use crate::ingest::tests::{log_line, texts};

    const LINE_MAX: usize = 8;

    /// Feeds `content` through a buffer of `buffer_len` bytes, as a tail does; returns lines, refused and position.
    fn read(content: &[u8], buffer_len: usize, behind: Behind) -> (Vec<String>, Vec<String>, u64, bool) {
        let origin = Origin { source: "test".into(), stream: "s".into(), schema: log_line() };
        let mut lines = Lines::new(Parser::new(Format::Line, log_line()), LINE_MAX);
        assert!(buffer_len >= lines.input_min_len());
        let mut known = Position::new("/f".into(), FileId { device: 1, inode: 1 });
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        loop {
            let input = &content[known.position as usize..];
            let input = &input[..input.len().min(buffer_len)];
            let at_end = input.len() < buffer_len;
            let mut entry = Entry::new(&origin, Clock::system().now_nanos());
            let last = if at_end { behind } else { Behind::More };
            let taken = lines.take(input, last, &mut known, &mut entry);
            let (read_records, read_refused) = texts(entry);
            records.extend(read_records);
            refused.extend(read_refused);
            if at_end && taken == Taken::All {
                return (records, refused, known.position, known.skipping);
            }
        }
    }

    fn check(content: &str, behind: Behind, records: &[&str], refused: &[&str], rest: &str) {
        for buffer_len in LINE_MAX + 2..=content.len() + LINE_MAX + 4 {
            let (read_records, read_refused, position, skipping) = read(content.as_bytes(), buffer_len, behind);
            assert_eq!(read_records, records, "{content:?} by {buffer_len}");
            // How much of a long line is kept depends on how it was read; that it is its beginning does not.
            assert_eq!(read_refused.len(), refused.len(), "{content:?} by {buffer_len}");
            for (kept, line) in read_refused.iter().zip(refused) {
                assert!(line.starts_with(kept.as_str()) && kept.len() > LINE_MAX, "{kept:?} of {line:?}");
            }
            assert_eq!((&content[position as usize..], skipping), (rest, false), "{content:?} by {buffer_len}");
        }
    }

    #[test]
    fn lines_are_taken_whole_whatever_the_buffer() {
        check("", Behind::More, &[], &[], "");
        check("a\nbb\n\nccc\n", Behind::More, &["a", "bb", "", "ccc"], &[], "");
        check("a\r\nb\rb\r\n\r\n", Behind::More, &["a", "b\rb", ""], &[], "");
        check("a\npart", Behind::More, &["a"], &[], "part");
        check("a\npart", Behind::Nothing, &["a", "part"], &[], "");
        check("a\r\npart\r", Behind::Nothing, &["a", "part"], &[], "");
        check("12345678\n12345678\r\n", Behind::More, &["12345678", "12345678"], &[], "");
    }

    #[test]
    fn long_lines_are_refused_once_and_passed_over() {
        let long = "123456789";
        let longer = "1234567890".repeat(20);
        check(&format!("{long}\nb\n"), Behind::More, &["b"], &[long], "");
        check(&format!("a\n{longer}\nb\n"), Behind::More, &["a", "b"], &[&longer], "");
        check(&format!("a\n{longer}\r\n{longer}\r\nb"), Behind::More, &["a"], &[&longer, &longer], "b");
        check(&format!("a\n{longer}"), Behind::Nothing, &["a"], &[&longer], "");
    }

    #[test]
    fn a_long_line_without_end_is_skipped_as_it_grows() {
        let (records, refused, position, skipping) = read(&[b'x'; 100], 16, Behind::More);
        assert_eq!((records.len(), refused.len(), position, skipping), (0, 1, 100, true));
    }

    #[test]
    fn an_entry_of_refusals_is_bounded() {
        let (_, refused, position, _) = read("123456789\n".repeat(2_500).as_bytes(), 1 << 20, Behind::More);
        assert_eq!((refused.len(), position), (2_500, 25_000));
    }
}
