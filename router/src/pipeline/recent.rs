//! The last rows a lane decided, kept in memory so that sinks which keep up need not read them back.

use std::collections::VecDeque;

use crate::record::{Rows, Seq};

/// Bounded by bytes of messages; the oldest go first.
pub(super) struct Recent {
    rows: VecDeque<(Rows, usize)>,
    len_bytes: usize,
    max_bytes: usize,
}

impl Recent {
    pub(super) fn new(max_bytes: usize) -> Recent {
        Recent { rows: VecDeque::new(), len_bytes: 0, max_bytes }
    }

    pub(super) fn push(&mut self, rows: Rows) {
        // A row costs its handle too: small messages must not fill memory uncounted.
        let len = rows.len_bytes() + rows.records.len() * size_of::<crate::record::Row>();
        self.len_bytes += len;
        self.rows.push_back((rows, len));
        while self.len_bytes > self.max_bytes && self.rows.len() > 1 {
            if let Some((_, len)) = self.rows.pop_front() {
                self.len_bytes -= len;
            }
        }
    }

    /// Rows from `next` on, up to about `max_bytes`; empty where `next` is no longer here.
    pub(super) fn from(&self, next: Seq, max_bytes: usize) -> Vec<Rows> {
        if self.rows.front().is_none_or(|(rows, _)| rows.seq > next) {
            return Vec::new();
        }
        let start = self.rows.partition_point(|(rows, _)| rows.seq < next);
        let mut len_bytes = 0;
        let ready = self.rows.range(start..).take_while(|(_, len)| {
            let first = len_bytes == 0;
            len_bytes += len;
            first || len_bytes <= max_bytes
        });
        ready.map(|(rows, _)| rows.clone()).collect()
    }

    /// Forgets what every sink has passed.
    pub(super) fn passed(&mut self, next: Seq) {
        while self.rows.front().is_some_and(|(rows, _)| rows.seq < next) {
            if let Some((_, len)) = self.rows.pop_front() {
                self.len_bytes -= len;
            }
        }
    }
}
