//! JSON's tokens, read from bytes that were checked to be UTF-8.
//!
//! The reader of a schema decides what may come next, so there is no token type: it peeks at a byte and asks for the
//! string, number or word it expects. Nothing is allocated but for strings with escapes, which go to a scratch buffer.

use super::super::check::Fault;

pub(super) type Read<T> = Result<T, Box<Fault>>;

/// How deep values that no field takes may nest. They are passed over by recursion.
const MAX_SKIP_DEPTH: usize = 128;

pub(super) struct Lexer<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

/// Bytes of strings with escapes. Most strings have none and are read where they lie.
#[derive(Default)]
pub(super) struct Scratch(Vec<u8>);

impl<'a> Lexer<'a> {
    pub fn fault<T>(&self, reason: impl Into<String>) -> Read<T> {
        Err(Fault::new(self.at, reason))
    }

    /// The first byte of the next token; 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    #[inline]
    pub fn expect(&mut self, byte: u8, what: &str) -> Read<()> {
        if self.take(byte) { Ok(()) } else { self.unexpected(what) }
    }

    pub fn unexpected<T>(&mut self, what: &str) -> Read<T> {
        match self.peek() {
            0 if self.at >= self.bytes.len() => self.fault(format!("expected {what}, found the end")),
            b'"' => self.fault(format!("expected {what}, found a string")),
            b'{' => self.fault(format!("expected {what}, found an object")),
            b'[' => self.fault(format!("expected {what}, found a list")),
            b't' | b'f' => self.fault(format!("expected {what}, found true or false")),
            b'n' => self.fault(format!("expected {what}, found null")),
            b'-' | b'0'..=b'9' => self.fault(format!("expected {what}, found a number")),
            byte => self.fault(format!("expected {what}, found {:?}", char::from(byte))),
        }
    }

    /// Takes `null`, `true` or `false` if it is next.
    #[inline]
    pub fn word(&mut self, word: &[u8]) -> bool {
        self.peek();
        let found = self.bytes[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Whether an object or list goes on behind an element, whose `first` is still to come: takes the comma, or `end`.
    #[inline]
    pub fn more(&mut self, end: u8, first: &mut bool) -> Read<bool> {
        if self.take(end) {
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',', if end == b'}' { "',' or '}'" } else { "',' or ']'" })?;
        }
        Ok(true)
    }

    /// A key and its colon.
    #[inline]
    pub fn key<'s>(&mut self, scratch: &'s mut Scratch) -> Read<&'s [u8]>
    where
        'a: 's,
    {
        if self.peek() != b'"' {
            return self.unexpected("a key in quotes");
        }
        let key = self.string(scratch)?;
        self.expect(b':', "':'")?;
        Ok(key)
    }

    /// A string's content without escapes.
    #[inline]
    pub fn string<'s>(&mut self, scratch: &'s mut Scratch) -> Read<&'s [u8]>
    where
        'a: 's,
    {
        if self.peek() != b'"' {
            return self.unexpected("a string");
        }
        let start = self.at + 1;
        let end = start + plain_len(&self.bytes[start..]);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(&self.bytes[start..end]);
        }
        scratch.0.clear();
        self.at = start;
        self.escaped(&mut scratch.0)?;
        Ok(&scratch.0)
    }

    fn escaped(&mut self, out: &mut Vec<u8>) -> Read<()> {
        loop {
            let len = plain_len(&self.bytes[self.at..]);
            out.extend_from_slice(&self.bytes[self.at..self.at + len]);
            self.at += len;
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(out)?,
                Some(_) => return self.fault("control character in a string"),
                None => return self.fault("string does not end"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let plain = match self.bytes.get(self.at + 1) {
            Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let unit = self.unit(self.at)?;
                let (code, len) = match unit {
                    0xd800..=0xdbff => match self.unit(self.at + 6) {
                        Ok(low @ 0xdc00..=0xdfff) => (0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00), 12),
                        _ => return self.fault("surrogate stands alone"),
                    },
                    _ => (unit, 6),
                };
                let Some(char) = char::from_u32(code) else { return self.fault("surrogate stands alone") };
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                self.at += len;
                return Ok(());
            }
            _ => return self.fault("no such escape"),
        };
        out.push(plain);
        self.at += 2;
        Ok(())
    }

    /// The four digits of the `\u` at `at`.
    fn unit(&self, at: usize) -> Read<u32> {
        let digits = self.bytes.get(at..at + 6).filter(|digits| digits.starts_with(b"\\u"));
        let value =
            |digits: &[u8]| digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?));
        match digits.and_then(|digits| value(&digits[2..])) {
            Some(unit) => Ok(unit),
            None => self.fault("\\u without four hexadecimal digits"),
        }
    }

    /// The text of a number.
    #[inline]
    pub fn number(&mut self) -> Read<&'a [u8]> {
        self.peek();
        let len = super::number::len(&self.bytes[self.at..]);
        if len == 0 {
            return match self.peek() {
                b'-' | b'0'..=b'9' => self.fault("number is cut short"),
                _ => self.unexpected("a number"),
            };
        }
        let text = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(text)
    }

    /// Passes over one value of any kind.
    pub fn skip(&mut self, scratch: &mut Scratch, depth: usize) -> Read<()> {
        if depth > MAX_SKIP_DEPTH {
            return self.fault(format!("values nest more than {MAX_SKIP_DEPTH} deep"));
        }
        let mut first = true;
        match self.peek() {
            b'"' => drop(self.string(scratch)?),
            b'{' => {
                self.at += 1;
                while self.more(b'}', &mut first)? {
                    self.key(scratch)?;
                    self.skip(scratch, depth + 1)?;
                }
            }
            b'[' => {
                self.at += 1;
                while self.more(b']', &mut first)? {
                    self.skip(scratch, depth + 1)?;
                }
            }
            b'-' | b'0'..=b'9' => drop(self.number()?),
            _ if self.word(b"null") || self.word(b"true") || self.word(b"false") => {}
            _ => return self.unexpected("a value"),
        }
        Ok(())
    }
}

/// How many bytes from the start need no look: up to a quote, a backslash or a control character. Eight at a time: a
/// subtraction borrows from the top bit of exactly the bytes below a bound, and only ever disturbs bytes further up.
#[inline]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let slashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quotes | slashes | controls) & TOPS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tail = bytes[at..].iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    tail.map_or(bytes.len(), |tail| at + tail)
}
