//! A lane in memory. What was committed outlives the feed, as the journal outlives a process, so a test can drop a
//! sink at any moment and start another one on a new feed of the same lane.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluice::deliver::{Cursor, Error, Feed, Progress};
use sluice::journal::Block;
use sluice::record::{DeadLetter, Origin, RecordIds, Row, Rows, Seq};
use sluice::schema::Schema;

/// The lane and what sinks have committed. Clones share it.
#[derive(Clone)]
pub struct Lane {
    stream: Arc<str>,
    blocks: Arc<Vec<Rows>>,
    committed: Arc<Mutex<Committed>>,
    /// A commit takes this long, like an fsync; a crash can fall into it.
    pub commit_delay: Duration,
}

#[derive(Clone, Default)]
pub struct Committed {
    pub cursor: Cursor,
    pub delivered: u64,
    pub dead: Vec<DeadLetter>,
    pub commits: u64,
}

impl Lane {
    pub fn new(stream: &str, blocks: Vec<Rows>) -> Lane {
        let committed = Committed { cursor: Cursor { next: 1, state: Bytes::new() }, ..Committed::default() };
        Lane {
            stream: stream.into(),
            blocks: Arc::new(blocks),
            committed: Arc::new(Mutex::new(committed)),
            commit_delay: Duration::ZERO,
        }
    }

    /// Records of all blocks.
    pub fn offered(&self) -> u64 {
        self.blocks.iter().map(|rows| rows.records.len() as u64).sum()
    }

    pub fn blocks(&self) -> &[Rows] {
        &self.blocks
    }

    pub fn committed(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap()
    }

    /// Whether the cursor has passed every block.
    pub fn is_done(&self) -> bool {
        self.committed().cursor.next > self.blocks.last().map_or(0, |rows| rows.seq)
    }

    /// Opens the lane at the committed cursor. The feed ends behind the last block.
    pub fn feed(&self) -> LaneFeed {
        LaneFeed { next: self.committed().cursor.next, lane: self.clone() }
    }
}

pub struct LaneFeed {
    lane: Lane,
    next: Seq,
}

impl Feed for LaneFeed {
    fn stream(&self) -> &Arc<str> {
        &self.lane.stream
    }

    fn cursor(&self) -> Cursor {
        self.lane.committed().cursor.clone()
    }

    fn next(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, Error>> {
        let mut pulled = Vec::new();
        let mut len = 0;
        for rows in self.lane.blocks.iter().filter(|rows| rows.seq >= self.next) {
            if !pulled.is_empty() && len + rows.len_bytes() > max_bytes {
                break;
            }
            len += rows.len_bytes();
            pulled.push(rows.clone());
        }
        let Some(last) = pulled.last() else { return async { Ok(None) }.boxed() };
        self.next = last.seq + 1;
        async { Ok(Some(pulled)) }.boxed()
    }

    fn next_blocks(&mut self, _max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<(Seq, Block)>>, Error>> {
        async { Ok(None) }.boxed()
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn rewind(&mut self, seq: Seq) {
        self.next = seq;
    }

    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            if !self.lane.commit_delay.is_zero() {
                tokio::time::sleep(self.lane.commit_delay).await;
            }
            let mut committed = self.lane.committed();
            assert!(progress.next >= committed.cursor.next, "a cursor never goes back");
            committed.cursor = Cursor { next: progress.next, state: progress.state };
            committed.delivered += progress.delivered;
            committed.dead.extend(progress.dead);
            committed.commits += 1;
            Ok(())
        }
        .boxed()
    }
}

/// Blocks of one stream: `messages[i]` become the records of block i + 1.
pub fn blocks(stream: &str, schema: &Arc<Schema>, messages: Vec<Vec<Vec<u8>>>) -> Vec<Rows> {
    let received_nanos = 1_790_000_000_000_000_000;
    let block = |(index, messages): (usize, Vec<Vec<u8>>)| {
        let seq = index as Seq + 1;
        let ids = RecordIds::new(stream, &Origin { agent: "edge-1".into(), epoch: 7, seq }, received_nanos);
        let records: Vec<Row> = (0..).zip(messages).map(|(i, m)| Row { id: ids.id(i, 0), message: m.into() }).collect();
        Rows {
            stream: stream.into(),
            seq,
            schema: schema.clone(),
            agent: "edge-1".into(),
            received_nanos,
            received_count: records.len() as u32,
            records,
        }
    };
    messages.into_iter().enumerate().map(block).collect()
}

/// Compiles one `.proto` file of the given text.
pub fn schema(source: &str, message: &str) -> Arc<Schema> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.proto"), source).unwrap();
    let set = protox::compile(["test.proto"], [dir.path()]).unwrap();
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).unwrap();
    Arc::new(Schema::new(pool.get_message_by_name(message).unwrap()))
}
