//! Takes a plugin's output only after checking every claim in it against the batch.

use bytes::Bytes;

use super::abi::{DedupOutput, RecordError, TransformOutput};
use super::speech::clean;
use crate::record::{Frames, read_varint};

const KEEP: u8 = 0;
const DROP: u8 = 1;
const REPLACE: u8 = 2;
const SPLIT: u8 = 3;
const FAILED: u8 = 4;

/// A record id has 16 bits for the part.
const PARTS_MAX: u64 = 1 << 16;

/// A record that the plugin refused, or that it could not process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub index: u32,
    pub reason: String,
}

/// A batch that has been through a transform. Its parts fit together: it was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transformed {
    count: u32,
    /// One per record; empty where every record is kept.
    verdicts: Vec<u8>,
    replaced: Bytes,
    /// In order of index, one for each failed record.
    refused: Vec<Refused>,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// As it came.
    Keep,
    Drop,
    Replace(Bytes),
    /// Into these, in order; 1 to 65,536.
    Split(Vec<Bytes>),
    Failed(&'a str),
}

impl Transformed {
    /// True where every record is kept as it came: the input can go on as the output.
    pub fn is_unchanged(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Records of the input.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// One for each record of the input, in order. Messages share the output's buffer.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut replaced = Cursor { frames: &self.replaced, at: 0 };
        let mut refused = self.refused.iter();
        (0..self.count as usize).map(move |index| match self.verdicts.get(index).copied().unwrap_or(KEEP) {
            DROP => Row::Drop,
            REPLACE => Row::Replace(replaced.frame().unwrap_or_default()),
            SPLIT => {
                let count = replaced.varint().unwrap_or_default();
                Row::Split((0..count).map_while(|_| replaced.frame()).collect())
            }
            FAILED => Row::Failed(refused.next().map_or("", |refused| &refused.reason)),
            _ => Row::Keep,
        })
    }

    pub(super) fn check(output: TransformOutput, count: u32) -> Result<Transformed, String> {
        let TransformOutput { mut verdicts, routes, replaced, errors } = output;
        column("verdicts", verdicts.len(), count)?;
        column("routes", routes.len(), count)?;
        if let Some(route) = routes.iter().find(|&&route| route != 0) {
            return Err(format!("it routes to {route}, but its manifest declares no routes"));
        }
        let replaced = Bytes::from(replaced);
        let mut frames = Cursor { frames: &replaced, at: 0 };
        for (index, &verdict) in verdicts.iter().enumerate() {
            let taken = match verdict {
                KEEP | DROP | FAILED => Some(()),
                REPLACE => frames.skip(),
                SPLIT => match frames.varint() {
                    // None would lose a record without a verdict that says so.
                    Some(parts) if parts == 0 || parts > PARTS_MAX => {
                        return Err(format!("it splits record {index} into {parts}, 1 to {PARTS_MAX} are allowed"));
                    }
                    Some(parts) => (0..parts).try_for_each(|_| frames.skip()),
                    None => None,
                },
                verdict => return Err(format!("verdict {verdict} of record {index} is unknown")),
            };
            taken.ok_or_else(|| format!("replacement of record {index} is missing or cut short"))?;
        }
        if frames.at != replaced.len() {
            let extra = replaced.len() - frames.at;
            return Err(format!("{extra} bytes of replacements belong to no record"));
        }
        let failed = |index: usize| verdicts.get(index) == Some(&FAILED);
        let mut refused = check_errors(errors, count)?;
        if let Some(refused) = refused.iter().find(|refused| !failed(refused.index as usize)) {
            return Err(format!("record {} has an error, but its verdict is another", refused.index));
        }
        if refused.len() != verdicts.iter().filter(|&&verdict| verdict == FAILED).count() {
            let given = refused.iter().map(|refused| refused.index).collect::<Vec<_>>();
            let missing = (0..count).filter(|&index| failed(index as usize) && given.binary_search(&index).is_err());
            refused.extend(missing.map(|index| Refused { index, reason: "refused without a reason".into() }));
            refused.sort_by_key(|refused| refused.index);
        }
        if verdicts.iter().all(|&verdict| verdict == KEEP) {
            verdicts.clear();
        }
        Ok(Transformed { count, verdicts, replaced, refused })
    }

    /// One record that the plugin could not process.
    pub(super) fn failed(reason: String) -> Transformed {
        let refused = vec![Refused { index: 0, reason }];
        Transformed { count: 1, verdicts: vec![FAILED], replaced: Bytes::new(), refused }
    }

    /// Puts the results of two parts of a batch together.
    pub(super) fn join(mut self, next: Transformed) -> Transformed {
        if !(self.is_unchanged() && next.is_unchanged()) {
            self.verdicts.resize(self.count as usize, KEEP);
            self.verdicts.extend_from_slice(&next.verdicts);
            self.verdicts.resize(self.count as usize + next.count as usize, KEEP);
        }
        self.replaced = concat(self.replaced, &next.replaced);
        self.refused.extend(shift(next.refused, self.count));
        self.count += next.count;
        self
    }
}

/// A batch's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyed {
    /// One per record; an empty one is never a duplicate.
    pub keys: Frames,
    /// Event time per record, unix seconds; empty = the batch's time of receipt.
    pub times: Vec<u64>,
    /// Window per record, seconds, 0 = the stream's; empty = the stream's for all.
    pub windows: Vec<u32>,
    /// Records without a key for a reason, in order of index; their key is empty.
    pub refused: Vec<Refused>,
}

impl Keyed {
    pub(super) fn check(output: DedupOutput, count: u32) -> Result<Keyed, String> {
        let DedupOutput { keys, times, windows, errors } = output;
        let keys = Frames::check(Bytes::from(keys)).map_err(|error| format!("keys are no frames: {error}"))?;
        if keys.count() != count {
            return Err(format!("{} keys for {count} records", keys.count()));
        }
        column("times", times.len(), count)?;
        column("windows", windows.len(), count)?;
        let refused = check_errors(errors, count)?;
        let mut rest = refused.iter().map(|refused| refused.index as usize).peekable();
        for (index, key) in keys.iter().enumerate() {
            if rest.next_if_eq(&index).is_some() && !key.is_empty() {
                return Err(format!("record {index} has an error and a key"));
            }
        }
        Ok(Keyed { keys, times, windows, refused })
    }

    /// One record that the plugin could not process.
    pub(super) fn failed(reason: String, received_seconds: u64) -> Keyed {
        let keys = Frames::check(Bytes::from_static(&[0])).unwrap_or_default();
        let refused = vec![Refused { index: 0, reason }];
        Keyed { keys, times: vec![received_seconds], windows: vec![0], refused }
    }

    /// Puts the results of two parts of a batch together.
    pub(super) fn join(mut self, next: Keyed, received_seconds: u64) -> Keyed {
        let (count, next_count) = (self.keys.count(), next.keys.count());
        join_column(&mut self.times, count, &next.times, next_count, received_seconds);
        join_column(&mut self.windows, count, &next.windows, next_count, 0);
        self.refused.extend(shift(next.refused, count));
        // Both parts are frames, so their concatenation is.
        self.keys = Frames::check(concat(self.keys.bytes().clone(), next.keys.bytes())).unwrap_or_default();
        self
    }
}

fn column(name: &str, len: usize, count: u32) -> Result<(), String> {
    if len == 0 || len == count as usize { Ok(()) } else { Err(format!("{len} {name} for {count} records")) }
}

fn check_errors(errors: Vec<RecordError>, count: u32) -> Result<Vec<Refused>, String> {
    let refused = |error: RecordError| Refused { index: error.index, reason: clean(&error.message) };
    let mut refused: Vec<_> = errors.into_iter().map(refused).collect();
    refused.sort_by_key(|refused| refused.index);
    if let Some(last) = refused.last().filter(|last| last.index >= count) {
        return Err(format!("error for record {} of {count}", last.index));
    }
    if let Some(pair) = refused.windows(2).find(|pair| pair[0].index == pair[1].index) {
        return Err(format!("two errors for record {}", pair[0].index));
    }
    Ok(refused)
}

fn shift(refused: Vec<Refused>, by: u32) -> impl Iterator<Item = Refused> {
    refused.into_iter().map(move |refused| Refused { index: refused.index + by, ..refused })
}

fn concat(first: Bytes, second: &[u8]) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut joined = Vec::from(first);
    joined.extend_from_slice(second);
    Bytes::from(joined)
}

fn join_column<T: Copy>(first: &mut Vec<T>, count: u32, second: &[T], second_count: u32, default: T) {
    if first.is_empty() && second.is_empty() {
        return;
    }
    first.resize(count as usize, default);
    first.extend_from_slice(second);
    first.resize(count as usize + second_count as usize, default);
}

/// Walks replacement frames, which counts of parts are mixed into.
struct Cursor<'a> {
    frames: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Option<u64> {
        let (value, next) = read_varint(self.frames, self.at)?;
        self.at = next;
        Some(value)
    }

    fn range(&mut self) -> Option<std::ops::Range<usize>> {
        let len = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(len).filter(|&end| end <= self.frames.len())?;
        let start = std::mem::replace(&mut self.at, end);
        Some(start..end)
    }

    fn skip(&mut self) -> Option<()> {
        self.range().map(drop)
    }

    fn frame(&mut self) -> Option<Bytes> {
        let range = self.range()?;
        Some(self.frames.slice(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(verdicts: &[u8], replaced: &[u8], errors: &[u32]) -> TransformOutput {
        let errors = errors.iter().map(|&index| RecordError { index, message: format!("e{index}") }).collect();
        TransformOutput { verdicts: verdicts.to_vec(), routes: Vec::new(), replaced: replaced.to_vec(), errors }
    }

    #[test]
    fn rows_are_what_the_plugin_said() {
        let checked = Transformed::check(output(&[0, 1, 2, 3, 4, 4], b"\x02ab\x02\x01x\x00", &[5]), 6).unwrap();
        let rows: Vec<_> = checked.rows().collect();
        let split = vec![Bytes::from_static(b"x"), Bytes::new()];
        let expected = [
            Row::Keep,
            Row::Drop,
            Row::Replace(Bytes::from_static(b"ab")),
            Row::Split(split),
            Row::Failed("refused without a reason"),
            Row::Failed("e5"),
        ];
        assert_eq!(rows, expected);
        for unchanged in [&[][..], &[0, 0]] {
            let checked = Transformed::check(output(unchanged, &[], &[]), 2).unwrap();
            assert!(checked.is_unchanged());
            assert_eq!(checked.rows().collect::<Vec<_>>(), [Row::Keep, Row::Keep]);
        }
    }

    #[test]
    fn false_claims_are_refused() {
        let check = |output: TransformOutput, expected: &str| {
            let error = Transformed::check(output, 2).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(output(&[0], &[], &[]), "1 verdicts for 2 records");
        check(output(&[0; 3], &[], &[]), "3 verdicts");
        check(output(&[0, 9], &[], &[]), "verdict 9 of record 1");
        check(output(&[2, 2], b"\x01a", &[]), "replacement of record 1 is missing");
        check(output(&[2, 0], b"\x05a", &[]), "replacement of record 0 is missing");
        check(output(&[2, 0], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a", &[]), "replacement of record 0");
        check(output(&[3, 0], b"\x03\x01a", &[]), "replacement of record 0");
        check(output(&[3, 0], b"\xff\xff\xff\xff\x0f", &[]), "into 4294967295, 1 to 65536");
        check(output(&[3, 0], b"\x00", &[]), "into 0, 1 to 65536");
        check(output(&[0, 0], b"\x01a", &[]), "2 bytes of replacements");
        check(output(&[], b"\x01a", &[]), "2 bytes of replacements");
        check(output(&[0, 4], &[], &[0]), "record 0 has an error");
        check(output(&[], &[], &[0]), "record 0 has an error");
        check(output(&[4, 4], &[], &[0, 2]), "error for record 2 of 2");
        check(output(&[4, 4], &[], &[1, 1]), "two errors for record 1");
        let routed = TransformOutput { routes: vec![0, 3], ..output(&[], &[], &[]) };
        check(routed, "routes to 3");
    }

    #[test]
    fn false_claims_about_keys_are_refused() {
        let output = |keys: &[u8], times: &[u64], windows: &[u32], errors: &[u32]| DedupOutput {
            keys: keys.to_vec(),
            times: times.to_vec(),
            windows: windows.to_vec(),
            errors: errors.iter().map(|&index| RecordError { index, message: String::new() }).collect(),
        };
        let check = |output: DedupOutput, expected: &str| {
            let error = Keyed::check(output, 2).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(output(b"\x01a", &[], &[], &[]), "1 keys for 2 records");
        check(output(b"\x01a\x09b", &[], &[], &[]), "keys are no frames");
        check(output(b"\x01a\x00", &[1], &[], &[]), "1 times for 2");
        check(output(b"\x01a\x00", &[], &[1; 3], &[]), "3 windows for 2");
        check(output(b"\x01a\x00", &[], &[], &[0]), "record 0 has an error and a key");
        check(output(b"\x01a\x00", &[], &[], &[2]), "error for record 2");
        assert!(Keyed::check(output(b"\x01a\x00", &[1, 2], &[0, 9], &[1]), 2).is_ok());
    }

    #[test]
    fn parts_join_in_order() {
        let kept = |count| Transformed::check(output(&[], &[], &[]), count).unwrap();
        let whole = Transformed::check(output(&[2, 1], b"\x01a", &[]), 2).unwrap();
        let joined = kept(2).join(whole.clone()).join(Transformed::failed("boom".into())).join(kept(1)).join(whole);
        let a = Row::Replace(Bytes::from_static(b"a"));
        let expected = [Row::Keep, Row::Keep, a.clone(), Row::Drop, Row::Failed("boom"), Row::Keep, a, Row::Drop];
        assert_eq!(joined.rows().collect::<Vec<_>>(), expected);
        assert_eq!(joined.refused(), [Refused { index: 4, reason: "boom".into() }]);
        assert!(kept(2).join(kept(3)).is_unchanged());
        let keys = |bytes: &'static [u8]| Frames::check(Bytes::from_static(bytes)).unwrap();
        let part = Keyed { keys: keys(b"\x01a\x01b"), ..Keyed::default() };
        let joined = part.clone().join(Keyed::failed("boom".into(), 7), 7).join(part, 7);
        let expected = Keyed {
            keys: keys(b"\x01a\x01b\x00\x01a\x01b"),
            times: vec![7; 5],
            windows: vec![0; 5],
            refused: vec![Refused { index: 2, reason: "boom".into() }],
        };
        assert_eq!(joined, expected);
    }
}
