//! The rows of one block on their way through the plugins.

use std::sync::Arc;

use bytes::Bytes;

use super::plugin::{Row, Transformed};
use super::{Verdicts, slices};
use crate::record::{Frames, FramesBuilder, Verdict};

/// What has become of a row so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Filtered,
    Duplicate,
    /// Place in `RowList::dead`.
    Dead(u32),
}

#[derive(Clone, Copy, Debug)]
struct RowState {
    /// Record of the block it came from.
    index: u32,
    fate: Fate,
}

struct DeadRow {
    index: u32,
    part: u16,
    stage: Arc<str>,
    reason: String,
    bytes: Bytes,
}

/// Rows in order, with the messages of those that pass.
pub(super) struct RowList {
    rows: Vec<RowState>,
    /// Messages of the rows whose fate was `Pass` when the last transform ended, in order.
    passing: Frames,
    /// Which rows those are.
    passing_rows: Vec<u32>,
    dead: Vec<DeadRow>,
    record_count: u32,
}

impl RowList {
    pub(super) fn new(frames: Frames) -> RowList {
        let record_count = frames.count();
        RowList {
            rows: (0..record_count).map(|index| RowState { index, fate: Fate::Pass }).collect(),
            passing_rows: (0..record_count).collect(),
            passing: frames,
            dead: Vec::new(),
            record_count,
        }
    }

    pub(super) fn passing(&self) -> &Frames {
        &self.passing
    }

    /// Takes what a transform made of each passing row. The plugin host has checked that there is one outcome for each.
    pub(super) fn transform(&mut self, stage: &Arc<str>, output: &Transformed) {
        if !output.is_unchanged() {
            self.take(stage, output.rows());
        }
    }

    fn take<'a>(&mut self, stage: &Arc<str>, outcomes: impl Iterator<Item = Row<'a>>) {
        let mut rows = Vec::with_capacity(self.rows.len());
        let mut passing = FramesBuilder::with_capacity(self.passing.bytes().len());
        let mut passing_rows = Vec::with_capacity(self.passing_rows.len());
        let before = std::mem::take(&mut self.passing);
        let mut inputs = slices(&before).zip(outcomes);
        for row in &self.rows {
            if row.fate != Fate::Pass {
                rows.push(*row);
                continue;
            }
            let Some((input, outcome)) = inputs.next() else { break };
            let mut pass = |rows: &mut Vec<RowState>, message: &[u8]| {
                passing_rows.push(rows.len() as u32);
                passing.push(message);
                rows.push(*row);
            };
            match outcome {
                Row::Keep => pass(&mut rows, &input),
                Row::Replace(message) => pass(&mut rows, &message),
                Row::Split(parts) if !parts.is_empty() => parts.iter().for_each(|part| pass(&mut rows, part)),
                Row::Drop | Row::Split(_) => rows.push(RowState { fate: Fate::Filtered, ..*row }),
                Row::Failed(reason) => {
                    rows.push(RowState { fate: Fate::Dead(self.dead.len() as u32), ..*row });
                    self.dead.push(DeadRow {
                        index: row.index,
                        part: 0,
                        stage: Arc::clone(stage),
                        reason: reason.to_owned(),
                        bytes: input,
                    });
                }
            }
        }
        self.rows = rows;
        self.passing = passing.finish();
        self.passing_rows = passing_rows;
    }

    /// Gives each passing row its fate, in order.
    pub(super) fn mark(&mut self, mut fate: impl FnMut() -> Fate) {
        for &row in &self.passing_rows {
            self.rows[row as usize].fate = fate();
        }
    }

    /// Takes over verdicts that were decided before; false, changing nothing, where they are not of these rows.
    pub(super) fn apply(&mut self, verdicts: &Verdicts) -> bool {
        let lost_earlier = self.rows.iter().enumerate().any(|(i, row)| row.fate != Fate::Pass && verdicts.is_kept(i));
        if verdicts.row_count() as usize != self.rows.len() || lost_earlier {
            return false;
        }
        for &row in &self.passing_rows {
            if !verdicts.is_kept(row as usize) {
                self.rows[row as usize].fate = Fate::Duplicate;
            }
        }
        true
    }

    pub(super) fn verdicts(&self) -> impl Iterator<Item = Verdict> + Clone + '_ {
        self.rows.iter().map(|row| match row.fate {
            Fate::Pass => Verdict::Kept,
            Fate::Filtered => Verdict::Filtered,
            Fate::Duplicate => Verdict::Duplicate,
            Fate::Dead(_) => Verdict::Dead,
        })
    }

    /// Rows beyond one per record.
    pub(super) fn split_count(&self) -> u64 {
        self.rows.len() as u64 - u64::from(self.record_count)
    }

    /// Record index, part and message of each row that is kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = (u32, u16, Bytes)> + '_ {
        let mut parts = Parts::default();
        let places: Vec<(u32, u16)> = self.rows.iter().map(|row| (row.index, parts.next(row.index))).collect();
        self.passing_rows.iter().zip(slices(&self.passing)).filter_map(move |(&row, message)| {
            let (index, part) = places[row as usize];
            (self.rows[row as usize].fate == Fate::Pass).then_some((index, part, message))
        })
    }

    /// Hands over the dead rows: record index, part, stage, reason, bytes.
    pub(super) fn take_dead<T>(&mut self, make: impl Fn(u32, u16, Arc<str>, String, Bytes) -> T) -> Vec<T> {
        let mut parts = Parts::default();
        for row in &self.rows {
            let part = parts.next(row.index);
            if let Fate::Dead(dead) = row.fate {
                self.dead[dead as usize].part = part;
            }
        }
        self.dead.drain(..).map(|row| make(row.index, row.part, row.stage, row.reason, row.bytes)).collect()
    }
}

/// Numbers the rows of one record. A record in more than 65,535 parts repeats the last number's id space; plugins are
/// held to fewer by their output limit.
#[derive(Default)]
struct Parts {
    last: Option<(u32, u16)>,
}

impl Parts {
    fn next(&mut self, index: u32) -> u16 {
        let part = match self.last {
            Some((last, part)) if last == index => part.saturating_add(1),
            _ => 0,
        };
        self.last = Some((index, part));
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(records: &[&str]) -> Frames {
        let mut builder = FramesBuilder::default();
        records.iter().for_each(|record| builder.push(record.as_bytes()));
        builder.finish()
    }

    fn kept(list: &RowList) -> Vec<(u32, u16, String)> {
        list.kept().map(|(i, p, m)| (i, p, String::from_utf8(m.to_vec()).unwrap())).collect()
    }

    fn two_transforms() -> RowList {
        let mut list = RowList::new(frames(&["a", "b", "c", "d"]));
        let split = Row::Split(vec![Bytes::from("b1"), Bytes::from("b2")]);
        list.take(&"plugin:one".into(), [Row::Keep, split, Row::Drop, Row::Failed("bad")].into_iter());
        let replace = Row::Replace(Bytes::from("B2"));
        list.take(&"plugin:two".into(), [Row::Failed("worse"), Row::Keep, replace].into_iter());
        list
    }

    #[test]
    fn rows_keep_their_order_and_place_through_two_transforms() {
        use Verdict::*;
        let mut list = two_transforms();
        assert_eq!(kept(&list), [(1, 0, "b1".into()), (1, 1, "B2".into())]);
        assert_eq!(list.verdicts().collect::<Vec<_>>(), [Dead, Kept, Kept, Filtered, Dead]);
        assert_eq!(list.split_count(), 1);
        let dead = list.take_dead(|index, part, stage, reason, bytes| (index, part, stage.to_string(), reason, bytes));
        assert_eq!(dead[0], (3, 0, "plugin:one".into(), "bad".into(), Bytes::from("d")));
        assert_eq!(dead[1], (0, 0, "plugin:two".into(), "worse".into(), Bytes::from("a")));
    }

    #[test]
    fn stored_verdicts_give_the_same_rows_again() {
        let mut decided = two_transforms();
        let mut first = true;
        decided.mark(|| if std::mem::take(&mut first) { Fate::Duplicate } else { Fate::Pass });
        let verdicts = Verdicts::new(decided.verdicts());
        let mut replayed = two_transforms();
        assert!(replayed.apply(&verdicts));
        assert_eq!(kept(&replayed), kept(&decided));
        let mut changed = RowList::new(frames(&["a", "b"]));
        assert!(!changed.apply(&verdicts), "other rows than were decided");
        assert_eq!(kept(&changed).len(), 2, "nothing is lost");
    }
}
