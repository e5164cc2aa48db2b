//! What a lane has sent and not yet seen acknowledged, and what has been acknowledged but not yet committed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::deliver::Progress;
use crate::link::Error;
use crate::record::Seq;

#[derive(Debug)]
struct Sent {
    seq: Seq,
    record_count: u32,
    len: usize,
}

#[derive(Debug)]
pub(super) struct Window {
    max_bytes: usize,
    unacked: VecDeque<Sent>,
    unacked_bytes: usize,
    /// Highest seq central may acknowledge: sent, or said by central itself when the lane opened.
    high: Seq,
    /// Acknowledged since the last commit: next seq and records.
    settled: Option<(Seq, u64)>,
}

impl Window {
    /// `last` is what central had when the lane opened.
    pub(super) fn new(max_bytes: usize, last: Seq) -> Window {
        Window { max_bytes, unacked: VecDeque::new(), unacked_bytes: 0, high: last, settled: None }
    }

    /// Whether a block of `len` bytes may be sent now. One block may always be under way, however large.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.unacked.is_empty() || self.unacked_bytes + len <= self.max_bytes
    }

    pub(super) fn has_room(&self) -> bool {
        self.unacked.is_empty() || self.unacked_bytes < self.max_bytes
    }

    pub(super) fn sent(&mut self, seq: Seq, record_count: u32, len: usize) {
        self.unacked.push_back(Sent { seq, record_count, len });
        self.unacked_bytes += len;
        self.high = self.high.max(seq);
    }

    /// Takes central's word that all up to `seq` is durable. Fails where that was never sent.
    pub(super) fn acknowledge(&mut self, seq: Seq) -> Result<(), Error> {
        if seq > self.high {
            let reason = format!("central acknowledged block {seq}, the last one sent is {}", self.high);
            return Err(Error::Protocol { reason });
        }
        while let Some(sent) = self.unacked.pop_front_if(|sent| sent.seq <= seq) {
            self.unacked_bytes -= sent.len;
            let records = self.settled.map_or(0, |(_, records)| records);
            self.settled = Some((sent.seq + 1, records + u64::from(sent.record_count)));
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unacked.is_empty()
    }

    pub(super) fn has_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// What to commit; the window forgets it.
    pub(super) fn take_settled(&mut self, state: &Bytes) -> Option<Progress> {
        let (next, delivered) = self.settled.take()?;
        Some(Progress { next, state: state.clone(), delivered, dead: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_settle_what_was_sent_and_nothing_else() {
        let mut window = Window::new(100, 4);
        assert!(window.fits(1_000), "one block may always go");
        window.sent(5, 10, 60);
        window.sent(7, 20, 30);
        assert!(window.has_room() && window.fits(10) && !window.fits(11));
        window.acknowledge(4).unwrap();
        assert!(!window.has_settled());
        window.acknowledge(6).unwrap();
        window.acknowledge(7).unwrap();
        assert!(window.is_empty());
        let progress = window.take_settled(&Bytes::from_static(b"state")).unwrap();
        assert_eq!((progress.next, progress.delivered, &progress.state[..]), (8, 30, &b"state"[..]));
        assert!(window.take_settled(&Bytes::new()).is_none(), "settled once");
        assert!(window.acknowledge(8).is_err(), "never sent");
    }
}
