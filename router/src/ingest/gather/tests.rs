use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::clock::Clock;
use crate::ingest::parse::Refused;
use crate::ingest::tests::{journal, log_line, records};

const PATIENCE: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3600);

struct Bench {
    origin: Origin,
    journal: Journal,
    feeder: Option<Feeder>,
    stop: Stop,
    running: tokio::task::JoinHandle<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(block_max_bytes: usize, block_max_age: Duration) -> Bench {
        let (journal, directory) = journal();
        let origin = Origin { source: "test".into(), stream: "s".into(), schema: log_line() };
        let settings = Settings { block_max_bytes, block_max_age };
        let (feeder, gatherer) = Gatherer::new(origin.clone(), settings, journal.clone());
        let stop = Stop::new();
        let running = tasks::Tasks::new().spawn("test", gatherer.run(stop.clone()));
        Bench { origin, journal, feeder: Some(feeder), stop, running, _directory: directory }
    }

    async fn feed(&self, entry: Entry) {
        let feeder = self.feeder.as_ref().unwrap();
        timeout(PATIENCE, feeder.room()).await.unwrap().unwrap().put(entry);
    }

    fn entry(&self, records: &[&[u8]]) -> Entry {
        let mut entry = Entry::new(&self.origin, Clock::system().now_nanos());
        records.iter().for_each(|record| entry.push(record).unwrap());
        entry
    }

    /// Feeds an entry and tells when it is durable.
    async fn wait_for(&self, records: &[&[u8]]) -> oneshot::Receiver<()> {
        let mut entry = self.entry(records);
        let (durable, told) = oneshot::channel();
        entry.waiter = Some(Waiter { durable, held: None });
        self.feed(entry).await;
        told
    }

    async fn end(mut self) -> Journal {
        self.feeder = None;
        timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
        self.journal
    }
}

#[tokio::test]
async fn a_block_closes_when_it_is_full() {
    let bench = Bench::new(1_000, NEVER);
    let record = [7; 400];
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(bench.wait_for(&[&record]).await);
    }
    // The third did not fit into the block of the first two, so those are durable, and it is not.
    let third = told.pop().unwrap();
    for told in told {
        timeout(PATIENCE, told).await.unwrap().unwrap();
    }
    assert_eq!(bench.journal.read("s", 1, usize::MAX).unwrap().len(), 1);
    let journal = bench.end().await;
    third.await.unwrap();
    let blocks = journal.read("s", 1, usize::MAX).unwrap();
    assert_eq!(blocks.iter().map(|(_, block)| block.record_count).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn a_block_closes_by_age_without_further_input() {
    let bench = Bench::new(1_000_000, Duration::from_millis(5));
    let told = bench.wait_for(&[b"a", b"b"]).await;
    timeout(PATIENCE, told).await.unwrap().unwrap();
    assert_eq!(records(&bench.journal, "s"), [b"a", b"b"]);
    bench.end().await;
}

#[tokio::test]
async fn stopping_closes_blocks_at_once() {
    let bench = Bench::new(1_000_000, NEVER);
    let first = bench.wait_for(&[b"a"]).await;
    bench.stop.cancel();
    timeout(PATIENCE, first).await.unwrap().unwrap();
    let second = bench.wait_for(&[b"b"]).await;
    timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(records(&bench.end().await, "s"), [b"a", b"b"]);
}

#[tokio::test]
async fn the_end_of_the_feeders_flushes_all() {
    let bench = Bench::new(1_000_000, NEVER);
    bench.feed(bench.entry(&[b"a"])).await;
    let mut last = bench.entry(&[b"b"]);
    last.positions = vec![("p".into(), Bytes::from_static(b"1")), ("p".into(), Bytes::from_static(b"2"))];
    bench.feed(last).await;
    let journal = bench.end().await;
    assert_eq!(records(&journal, "s"), [b"a", b"b"]);
    assert_eq!(journal.position("p").unwrap().unwrap(), "2");
}

#[tokio::test]
async fn positions_and_dead_letters_need_no_record() {
    let bench = Bench::new(1_000_000, Duration::from_millis(1));
    let mut entry = bench.entry(&[]);
    entry.positions.push(("p".into(), Bytes::from_static(b"1")));
    entry.refuse(b"junk", Refused { reason: "is junk".into(), class: "json" });
    let (durable, told) = oneshot::channel();
    entry.waiter = Some(Waiter { durable, held: None });
    bench.feed(entry).await;
    timeout(PATIENCE, told).await.unwrap().unwrap();
    let journal = bench.end().await;
    assert_eq!(journal.position("p").unwrap().unwrap(), "1");
    let letters = journal.dead_letters(Some("s"), 9).unwrap();
    assert_eq!((&letters[0].reason[..], &letters[0].bytes[..]), ("is junk", &b"junk"[..]));
    assert!(records(&journal, "s").is_empty());
}

#[tokio::test]
async fn order_and_sets_hold_for_every_size() {
    for (block_max, sizes) in [(64, 0..200), (1_000, 0..300), (10_000, 900..1_100)] {
        let bench = Bench::new(block_max, Duration::from_millis(3));
        let sizes: Vec<usize> = sizes.collect();
        let expected: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &size)| vec![i as u8; size]).collect();
        for few in expected.chunks(7) {
            bench.feed(bench.entry(&few.iter().map(Vec::as_slice).collect::<Vec<_>>())).await;
        }
        let journal = bench.end().await;
        assert_eq!(records(&journal, "s"), expected, "blocks of {block_max}");
        for (seq, block) in journal.read("s", 1, usize::MAX).unwrap() {
            let single = block.record_count == 1;
            assert!(single || block.raw_len as usize <= block_max, "block {seq} has {} bytes", block.raw_len);
        }
    }
}

#[tokio::test]
async fn an_entry_larger_than_an_append_is_stored_in_several() {
    let bench = Bench::new(1 << 20, NEVER);
    // Incompressible, so that the stored size is the raw one.
    let mut state = 1u64;
    let expected: Vec<Vec<u8>> = (0..40)
        .map(|_| {
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            })
            .take(500_000)
            .collect()
        })
        .collect();
    let mut entry = bench.entry(&expected.iter().map(Vec::as_slice).collect::<Vec<_>>());
    entry.positions.push(("p".into(), Bytes::from_static(b"1")));
    bench.feed(entry).await;
    let journal = bench.end().await;
    assert_eq!(records(&journal, "s"), expected);
    assert_eq!(journal.position("p").unwrap().unwrap(), "1");
}

#[test]
fn what_one_group_brings_is_cut_in_order() {
    let origin = Origin { source: "test".into(), stream: "s".into(), schema: log_line() };
    let mut group = Group::default();
    let mut entry = Entry::new(&origin, 5);
    (0..6u8).for_each(|i| entry.push(&[i; 100]).unwrap());
    entry.refuse(b"junk", Refused { reason: "is junk".into(), class: "json" });
    entry.positions.push(("p".into(), Bytes::from_static(b"1")));
    group.push(entry);
    let sealed = group.seal(&origin.stream, origin.schema.fingerprint, 150).unwrap();
    let (appends, durable) = sealed.split(300);
    assert_eq!((durable.records, durable.refused.get("json")), (6, Some(&1)));
    assert!(appends.len() > 2, "{} appends", appends.len());
    let positions: Vec<usize> = appends.iter().map(|append| append.positions.len()).collect();
    assert!(positions.ends_with(&[0, 1]), "{positions:?}");
    let blocks: usize = appends.iter().map(|append| append.blocks.len()).sum();
    assert_eq!(blocks, 6);
}

#[test]
fn a_record_no_block_can_hold_is_a_dead_letter() {
    let origin = Origin { source: "test".into(), stream: "s".into(), schema: log_line() };
    let mut entry = Entry::new(&origin, 5);
    entry.push(&vec![1; RECORD_MAX_LEN]).unwrap();
    let reason = entry.push(&vec![2; RECORD_MAX_LEN + 1]).unwrap_err();
    assert_eq!(reason, "record of 4194305 bytes is longer than 4194304");
    assert_eq!((entry.records(), entry.refused()), (1, 1));
    assert_eq!(entry.refused[0].0.bytes.len(), 4096);
    let mut group = Group::default();
    group.push(entry);
    let sealed = group.seal(&origin.stream, origin.schema.fingerprint, 1 << 18).unwrap();
    assert!(sealed.bytes() < APPEND_MAX_BYTES);
}
