use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::model::Model;
use super::store::{self, Batch, Store};
use super::*;
use crate::clock::Clock;
use crate::record::{Fingerprint, FramesBuilder, Origin, RecordId};

const ENGINES: [Engine; 2] = [Engine::Sled, Engine::Redb];
const DEADLINE: Duration = Duration::from_secs(60);

fn settings(directory: &Path, engine: Engine) -> Settings {
    Settings {
        directory: directory.to_owned(),
        agent: "here".into(),
        engine,
        max_bytes: 1 << 30,
        group_max_delay: Duration::from_millis(5),
        group_max_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        dead_letter_max_bytes: 1 << 20,
    }
}

fn open(directory: &Path, engine: Engine) -> Journal {
    Journal::open(settings(directory, engine), Clock::system()).unwrap()
}

/// Numbers that look random and repeat with their seed (xorshift).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Bytes that do not compress.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

fn block_of(stream: &str, records: &[Vec<u8>]) -> Block {
    let mut frames = FramesBuilder::default();
    records.iter().for_each(|record| frames.push(record));
    Block::new(&stream.into(), Fingerprint([1; 16]), &frames.finish(), (1, 2)).unwrap()
}

fn block(stream: &str, records: usize) -> Block {
    block_of(stream, &vec![b"a record".to_vec(); records])
}

fn forwarded(stream: &str, agent: &str, seq: Seq) -> Block {
    let mut block = block(stream, 2);
    block.origin = Origin { agent: agent.into(), epoch: 9, seq };
    block
}

fn blocks(blocks: Vec<Block>) -> Append {
    Append { blocks, ..Append::default() }
}

fn advance(sink: &str, stream: &str, next: Seq) -> Advance {
    let (state, dead) = (Bytes::from_static(b"state"), Vec::new());
    Advance { sink: sink.into(), stream: stream.into(), next, state, delivered: 1, dead }
}

fn decision(stream: &str, seq: Seq, records: u64) -> Decision {
    Decision {
        stream: stream.into(),
        seq,
        verdicts: Bytes::from(vec![0; records as usize]),
        seen: vec![SeenKeys { bucket_start_seconds: 60 * seq, entries: Bytes::from(vec![seq as u8; 20]) }],
        dead: Vec::new(),
        counts: DecisionCounts { kept: records, ..DecisionCounts::default() },
    }
}

fn letter(stream: &str, len: usize) -> DeadLetter {
    DeadLetter {
        stream: stream.into(),
        stage: "parse".into(),
        reason: "no".into(),
        id: Some(RecordId([4; 16])),
        schema: None,
        received_nanos: 5,
        bytes: Bytes::from(vec![7; len]),
    }
}

fn read_all(journal: &Journal, stream: &str) -> Vec<(Seq, Block)> {
    let mut all = Vec::new();
    loop {
        let from = all.last().map_or(0, |(seq, _): &(Seq, Block)| *seq + 1);
        let some = journal.read(stream, from, 100_000).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Waits until `condition` holds, or fails.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("waited too long for: {what}"));
}

/// Runs a test over each engine in a directory of its own.
fn over_engines<F: Future<Output = ()>>(test: impl Fn(Engine, std::path::PathBuf) -> F) {
    for engine in ENGINES {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(test(engine, directory.path().join("journal")));
    }
}

#[test]
fn what_was_appended_is_there_after_reopening() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        let end = journal.end("s");
        assert_eq!(*end.borrow(), 1);
        let positions = vec![("file:1".into(), Bytes::from_static(b"17"))];
        let refused = vec![letter("s", 3)];
        let append = Append { blocks: vec![block("s", 3), block("t", 1), block("s", 4)], positions, refused };
        assert_eq!(journal.append(append).await.unwrap(), [1, 1, 2]);
        assert_eq!(*end.borrow(), 3);
        let epoch = journal.epoch();
        journal.close().await.unwrap();
        assert!(matches!(journal.read("s", 1, 1), Err(Error::Poisoned { .. })));
        assert!(matches!(journal.append(blocks(vec![block("s", 1)])).await, Err(Error::Poisoned { .. })));

        let journal = open(&directory, engine);
        assert_eq!(journal.epoch(), epoch);
        assert_eq!(*journal.end("s").borrow(), 3);
        let read = read_all(&journal, "s");
        assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read[1].1.origin, Origin { agent: "here".into(), epoch, seq: 2 });
        assert_eq!(read[1].1.frames().unwrap().count(), 4);
        assert_eq!(journal.position("file:1").unwrap().unwrap(), "17");
        assert_eq!(journal.positions("file:").unwrap().len(), 1);
        assert_eq!(journal.positions("files").unwrap(), []);
        let counts = journal.counts("s").unwrap();
        assert_eq!((counts.refused, counts.undecided_records, counts.next, counts.next_undecided), (1, 7, 3, 1));
        assert_eq!(counts.received, BTreeMap::from([("here".into(), 7)]));
        assert_eq!(journal.dead_letters(Some("s"), 9).unwrap(), [letter("s", 3)]);
        assert_eq!(journal.dead_letters(Some("t"), 9).unwrap(), []);
        assert_eq!(journal.streams(), ["s".into(), "t".into()]);
        // A read is bounded, and gives at least one block.
        assert_eq!(journal.read("s", 1, 0).unwrap().len(), 1);
        assert_eq!(journal.read("s", 3, 100).unwrap(), []);
        assert_eq!(journal.read("u", 1, 100).unwrap(), []);
    });
}

#[test]
fn a_resent_block_is_dropped_also_within_one_append() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        let first =
            vec![forwarded("s", "a", 1), forwarded("s", "a", 1), forwarded("s", "a", 3), forwarded("s", "b", 1)];
        assert_eq!(journal.append(blocks(first)).await.unwrap(), [1, 0, 2, 3]);
        let together =
            futures_util::future::join_all((0..8).map(|_| journal.append(blocks(vec![forwarded("s", "a", 4)]))));
        let seqs: Vec<Seq> = together.await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(seqs.iter().filter(|seq| **seq > 0).collect::<Vec<_>>(), [&4]);
        journal.close().await.unwrap();
        let journal = open(&directory, engine);
        assert_eq!(journal.append(blocks(vec![forwarded("s", "a", 4), forwarded("s", "a", 5)])).await.unwrap(), [0, 5]);
        assert_eq!(journal.forwarded("a", 9, "s").unwrap(), 5);
        assert_eq!(journal.forwarded("a", 8, "s").unwrap(), 0);
        let counts = journal.counts("s").unwrap();
        assert_eq!(counts.received, BTreeMap::from([("a".into(), 8), ("b".into(), 2)]));
    });
}

#[test]
fn decisions_are_durable_once_and_in_order() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        journal.append(blocks(vec![block("s", 3), block("s", 2)])).await.unwrap();
        assert_eq!(journal.verdicts("s", 1).unwrap(), None);
        journal.decide(vec![decision("s", 1, 3)]).await.unwrap();
        for (wrong, allowed) in [(1, 2..=2), (3, 2..=2)] {
            match journal.decide(vec![decision("s", wrong, 9)]).await {
                Err(Error::Order { seq, allowed: found, .. }) => assert_eq!((seq, found), (wrong, allowed)),
                other => panic!("{other:?}"),
            }
        }
        journal.decide(vec![decision("s", 2, 2)]).await.unwrap();
        journal.close().await.unwrap();
        let journal = open(&directory, engine);
        assert_eq!(journal.verdicts("s", 1).unwrap().unwrap().len(), 3);
        let counts = journal.counts("s").unwrap();
        assert_eq!((counts.decided.kept, counts.undecided_records, counts.next_undecided), (5, 0, 3));
        let seen = || {
            let mut buckets = Vec::new();
            journal.seen_keys("s", &mut |keys| buckets.push((keys.bucket_start_seconds, keys.entries.len()))).unwrap();
            buckets
        };
        assert_eq!(seen(), [(60, 20), (120, 20)]);
        journal.expire_seen("s", 120).await.unwrap();
        assert_eq!(seen(), [(120, 20)]);
        journal.expire_seen("unknown", 120).await.unwrap();
    });
}

#[test]
fn blocks_go_when_the_last_named_sink_has_passed_and_never_come_back() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        journal.set_sinks("s", &["a".into(), "b".into()]).unwrap();
        journal.append(blocks((0..10).map(|_| block("s", 1)).collect())).await.unwrap();
        journal.advance(advance("old", "s", 2)).await.unwrap();
        journal.advance(advance("a", "s", 9)).await.unwrap();
        journal.advance(advance("b", "s", 4)).await.unwrap();
        let first = |journal: &Journal| read_all(journal, "s").first().map_or(0, |(seq, _)| *seq);
        let next = |sink| journal.cursor(sink, "s").unwrap().next;
        until("blocks 1 to 3 to be trimmed", || first(&journal) == 4 && next("new") == 4).await;
        assert_eq!(next("old"), 4);
        match journal.advance(advance("a", "s", 8)).await {
            Err(Error::Order { allowed, .. }) => assert_eq!(allowed, 9..=11),
            other => panic!("{other:?}"),
        }
        assert!(matches!(journal.advance(advance("a", "s", 12)).await, Err(Error::Order { .. })));
        journal.set_sinks("s", &["a".into()]).unwrap();
        until("blocks up to 8 to be trimmed", || first(&journal) == 9).await;
        journal.close().await.unwrap();
        let journal = open(&directory, engine);
        assert_eq!(first(&journal), 9);
        let cursor = journal.cursor("a", "s").unwrap();
        assert_eq!(cursor, Cursor { next: 9, state: Bytes::from_static(b"state"), delivered: 1, dead: 0 });
        journal.set_sinks("s", &["a".into()]).unwrap();
        journal.advance(advance("a", "s", 11)).await.unwrap();
        until("all blocks to be trimmed", || read_all(&journal, "s").is_empty()).await;
        assert_eq!(journal.append(blocks(vec![block("s", 1)])).await.unwrap(), [11]);
        assert_eq!(journal.counts("s").unwrap().undecided_records, 1);
    });
}

#[test]
fn the_oldest_dead_letters_go_first_and_are_counted() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        for _ in 0..30 {
            let refused = vec![letter("s", 100_000)];
            journal.append(Append { refused, ..Append::default() }).await.unwrap();
        }
        let left = || journal.dead_letters(None, 99).unwrap().len() as u64;
        until("the oldest to be dropped", || left() <= 10 && left() + journal.dead_letters_dropped() == 30).await;
        let left = left();
        assert!(left >= 9, "{left}");
        assert_eq!(journal.counts("s").unwrap().refused, 30);
    });
}

#[test]
fn a_damaged_block_is_moved_aside_and_the_lane_goes_on() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        journal.set_sinks("s", &["a".into()]).unwrap();
        journal.append(blocks((0..3).map(|_| block("s", 5)).collect())).await.unwrap();
        let key = keys::of_block(keys::BLOCK, 0, 2);
        let store = journal.shared.store().unwrap();
        let mut damaged = store.get(&key).unwrap().unwrap().to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let damaged = Bytes::from(damaged);
        let mut batch = Batch::default();
        batch.put(key.clone(), damaged.clone());
        store.apply(batch).unwrap();
        let seqs = || read_all(&journal, "s").iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
        assert_eq!(seqs(), [1, 3]);
        until("the block to be moved", || store.get(&key).unwrap().is_none()).await;
        assert_eq!(store.get(&keys::of_block(keys::QUARANTINE, 0, 2)).unwrap(), Some(damaged));
        until("the counts to be published", || journal.counts("s").unwrap().quarantined == 5).await;
        assert_eq!(journal.counts("s").unwrap().undecided_records, 10);
        assert_eq!(seqs(), [1, 3]);
        journal.decide(vec![decision("s", 1, 5), decision("s", 3, 5)]).await.unwrap();
        journal.advance(advance("a", "s", 4)).await.unwrap();
        until("the rest to be trimmed", || seqs().is_empty()).await;
        assert_eq!(journal.counts("s").unwrap().undecided_records, 0);
    });
}

#[test]
fn schemas_are_kept() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        let descriptors = Bytes::from(Random::new(1).bytes(300_000));
        journal.put_schema(Fingerprint([2; 16]), "a.B", descriptors.clone()).await.unwrap();
        journal.close().await.unwrap();
        let journal = open(&directory, engine);
        assert_eq!(journal.schemas().unwrap(), [(Fingerprint([2; 16]), "a.B".into(), descriptors)]);
    });
}

#[test]
fn one_process_at_a_time_one_engine_and_one_format() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        let again = Journal::open(settings(&directory, engine), Clock::system());
        assert!(matches!(again, Err(Error::InUse { .. })), "{:?}", again.err());
        journal.close().await.unwrap();

        let other = ENGINES.into_iter().find(|other| *other != engine).unwrap();
        let other = Journal::open(settings(&directory, other), Clock::system());
        assert!(matches!(other, Err(Error::Engine { .. })), "{:?}", other.err());

        for found in [FORMAT_VERSION - 1, FORMAT_VERSION + 1] {
            let store = store::open(&directory, engine, 1 << 20).unwrap();
            let mut batch = Batch::default();
            batch.put(keys::meta("format"), Bytes::copy_from_slice(&found.to_le_bytes()));
            store.apply(batch).unwrap();
            store.flush().unwrap();
            drop(store);
            match Journal::open(settings(&directory, engine), Clock::system()) {
                Err(Error::Format { found: reported, supported, .. }) => {
                    assert_eq!((reported, supported), (found, FORMAT_VERSION));
                }
                other => panic!("{:?}", other.err()),
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_and_what_fits_is_kept_whatever_its_size() {
    over_engines(|engine, directory| async move {
        let journal = open(&directory, engine);
        let mut random = Random::new(3);
        let large = block_of("s", &[random.bytes(BLOCK_MAX_LEN - 4096)]);
        journal.append(blocks(vec![large.clone(), block("s", 1)])).await.unwrap();
        let larger = block_of("s", &[random.bytes(BLOCK_MAX_LEN + 1)]);
        let refused = journal.append(blocks(vec![larger])).await;
        assert!(matches!(refused, Err(Error::Large { .. })), "{refused:?}");
        journal.close().await.unwrap();
        let journal = open(&directory, engine);
        let read = read_all(&journal, "s");
        assert_eq!(read[0].1.frames().unwrap(), large.frames().unwrap());
        assert_eq!(read.len(), 2);
    });
}

/// A store that fails where it is told to.
struct Failing {
    store: Arc<dyn Store>,
    flushes_left: std::sync::atomic::AtomicU32,
}

impl Store for Failing {
    fn get(&self, key: &[u8]) -> std::io::Result<Option<Bytes>> {
        self.store.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], visit: store::Visit<'_>) -> std::io::Result<()> {
        self.store.range(from, to, visit)
    }

    fn apply(&self, batch: Batch) -> std::io::Result<()> {
        self.store.apply(batch)
    }

    fn flush(&self) -> std::io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.flushes_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return Err(std::io::Error::other("no space left on device"));
        }
        self.store.flush()
    }
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_and_nothing_unflushed_is_shown() {
    over_engines(|engine, directory| async move {
        let free = |_: &Path| Ok(u64::MAX);
        let wrap = |store| {
            let flushes_left = 1.into();
            Arc::new(Failing { store, flushes_left }) as Arc<dyn Store>
        };
        let journal = Journal::open_over(settings(&directory, engine), Clock::system(), free, wrap).unwrap();
        let mut failure = journal.failure();
        assert_eq!(journal.append(blocks(vec![block("s", 1)])).await.unwrap(), [1]);
        let group = (0..4).map(|_| journal.append(blocks(vec![block("s", 1)])));
        for outcome in futures_util::future::join_all(group).await {
            assert!(matches!(outcome, Err(Error::Poisoned { .. })), "{outcome:?}");
        }
        let reason = failure.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(&*reason, "no space left on device");
        assert_eq!(read_all(&journal, "s").len(), 1);
        assert_eq!(journal.counts("s").unwrap().next, 2);
        assert_eq!(*journal.end("s").borrow(), 2);
        match journal.advance(advance("a", "s", 1)).await {
            Err(Error::Poisoned { reason: told }) => assert_eq!(told, *reason),
            other => panic!("{other:?}"),
        }
        assert!(journal.close().await.is_err());
        drop(journal);
        let journal = open(&directory, engine);
        let read = read_all(&journal, "s");
        assert!(!read.is_empty(), "the acknowledged block is gone");
        assert_eq!(journal.counts("s").unwrap().undecided_records, read.len() as u64);
    });
}

#[test]
fn a_disk_filled_by_others_slows_sources_and_recovers_by_itself() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static FREE: AtomicU64 = AtomicU64::new(0);
    over_engines(|engine, directory| async move {
        FREE.store(1 << 20, Ordering::SeqCst);
        let free = |_: &Path| Ok(FREE.load(Ordering::SeqCst));
        let settings = settings(&directory, engine);
        let journal = Journal::open_over(settings, Clock::system(), free, |store| store).unwrap();
        let mut append = Box::pin(journal.append(blocks(vec![block("s", 1)])));
        tokio::select! {
            outcome = &mut append => panic!("appended to a full disk: {outcome:?}"),
            () = until("the journal to be full", || journal.is_full()) => {}
        }
        journal.advance(advance("a", "s", 1)).await.unwrap();
        FREE.store(1 << 40, Ordering::SeqCst);
        let seqs = tokio::time::timeout(DEADLINE, append).await.unwrap().unwrap();
        assert_eq!(seqs, [1]);
        assert!(!journal.is_full());
    });
}

#[test]
fn a_full_journal_lets_no_one_in_until_it_is_trimmed_and_wakes_who_waits_when_it_closes() {
    over_engines(|engine, directory| async move {
        let settings = Settings { max_bytes: 128 << 20, ..settings(&directory, engine) };
        let journal = Journal::open(settings, Clock::system()).unwrap();
        journal.set_sinks("s", &["a".into()]).unwrap();
        let mut random = Random::new(7);
        let block = block_of("s", &[random.bytes(1 << 20)]);
        let mut last = 0;
        let mut waiting = loop {
            let mut append = Box::pin(journal.append(blocks(vec![block.clone()])));
            tokio::select! {
                outcome = &mut append => last = outcome.unwrap()[0],
                () = until("the journal to be full", || journal.is_full()) => break append,
            }
        };
        assert!((20..128).contains(&last), "full after {last} MiB");
        // Full holds back neither decisions nor cursors, and those make room.
        journal.decide(vec![decision("s", 1, 1)]).await.unwrap();
        assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
        journal.advance(advance("a", "s", last)).await.unwrap();
        tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap();

        let mut waiting = loop {
            let mut append = Box::pin(journal.append(blocks(vec![block.clone()])));
            tokio::select! {
                outcome = &mut append => { outcome.unwrap(); }
                () = until("the journal to be full again", || journal.is_full()) => break append,
            }
        };
        assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
        journal.close().await.unwrap();
        let outcome = tokio::time::timeout(DEADLINE, waiting).await.unwrap();
        assert!(matches!(outcome, Err(Error::Poisoned { .. })), "{outcome:?}");
    });
}

mod property;
mod soak;
