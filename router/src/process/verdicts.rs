//! Verdicts of a block's rows as the journal keeps them.
//!
//! Format: row count, kept count (both u32, little-endian), then one byte per row, left out where all are kept. zstd
//! would save little: most blocks are all kept, and a byte per row is under one percent of the row.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::record::Verdict;

/// One verdict per row, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    stored: Bytes,
}

impl Verdicts {
    pub fn new(verdicts: impl Iterator<Item = Verdict> + Clone) -> Verdicts {
        let (rows, kept) = verdicts
            .clone()
            .fold((0u32, 0u32), |(rows, kept), verdict| (rows + 1, kept + u32::from(verdict == Verdict::Kept)));
        let mut stored = BytesMut::with_capacity(8 + rows as usize);
        stored.put_u32_le(rows);
        stored.put_u32_le(kept);
        if kept < rows {
            stored.extend(verdicts.map(|verdict| verdict as u8));
        }
        Verdicts { stored: stored.freeze() }
    }

    /// The journal's bytes, checked; `None` where they are not verdicts.
    pub fn decode(stored: Bytes) -> Option<Verdicts> {
        let verdicts = Verdicts { stored };
        let (rows, kept) = (verdicts.word(0)?, verdicts.word(4)?);
        let body = verdicts.stored.get(8..)?;
        let counted = body.iter().filter(|&&byte| byte == Verdict::Kept as u8).count();
        let whole = body.is_empty() && kept == rows || body.len() == rows as usize && counted == kept as usize;
        (whole && body.iter().all(|&byte| byte <= Verdict::Dead as u8)).then_some(verdicts)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.stored.get(at..at + 4)?.try_into().ok()?))
    }

    pub fn bytes(&self) -> &Bytes {
        &self.stored
    }

    pub fn row_count(&self) -> u32 {
        self.word(0).unwrap_or(0)
    }

    pub fn kept_count(&self) -> u32 {
        self.word(4).unwrap_or(0)
    }

    pub fn is_kept(&self, row: usize) -> bool {
        self.stored.get(8 + row).is_none_or(|&byte| byte == Verdict::Kept as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::*;

    #[test]
    fn what_was_stored_is_read_back() {
        let check = |verdicts: &[Verdict], len: usize| {
            let made = Verdicts::new(verdicts.iter().copied());
            assert_eq!(made.bytes().len(), len);
            let read = Verdicts::decode(made.bytes().clone()).unwrap();
            assert_eq!(read.row_count() as usize, verdicts.len());
            assert_eq!(read.kept_count() as usize, verdicts.iter().filter(|&&v| v == Kept).count());
            let kept: Vec<bool> = (0..verdicts.len()).map(|row| read.is_kept(row)).collect();
            assert_eq!(kept, verdicts.iter().map(|&v| v == Kept).collect::<Vec<_>>());
        };
        check(&[], 8);
        check(&[Kept, Kept, Kept], 8);
        check(&[Kept, Duplicate, Filtered, Dead, Kept], 13);
    }

    #[test]
    fn damage_is_not_read_as_verdicts() {
        let good = Verdicts::new([Kept, Duplicate].into_iter()).bytes().clone();
        for bytes in [&good[..7], &good[..9], &[2, 0, 0, 0, 2, 0, 0, 0, 0, 2], &[2, 0, 0, 0, 1, 0, 0, 0, 0, 9]] {
            assert_eq!(Verdicts::decode(Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }
}
