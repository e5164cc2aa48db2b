//! The journal under SIGKILL: a child appends, decides, advances and thereby trims, and tells over a pipe what was
//! acknowledged; the parent kills it at a random moment, opens the journal and compares. Again and again over the same
//! directory, for both engines.
//!
//! `CRASH_KILLS` (per engine, default 20) and `CRASH_SEED` (default: drawn and printed) choose the campaign.

#![allow(clippy::unwrap_used)] // in a test, a panic is how it fails

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice::clock::Clock;
use sluice::journal::{Advance, Append, Block, Cursor, Decision, DecisionCounts, Engine, Journal, SeenKeys, Settings};
use sluice::record::{Fingerprint, FramesBuilder, Origin};

/// Set in the child: the engine. The directory and the seed follow in their own.
const CHILD: &str = "JOURNAL_CRASH_CHILD";
const CHILD_DIRECTORY: &str = "JOURNAL_CRASH_DIRECTORY";
const CHILD_SEED: &str = "JOURNAL_CRASH_CHILD_SEED";
const STREAMS: [&str; 2] = ["small", "large"];
const SINKS: [&str; 2] = ["a", "b"];
const FORWARDER: &str = "edge";
const FORWARDER_EPOCH: u64 = 7;

/// Numbers that look random and repeat with their seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn settings(directory: &Path, engine: Engine) -> Settings {
    Settings {
        directory: directory.to_owned(),
        agent: "node".into(),
        engine,
        max_bytes: 2 << 30,
        group_max_delay: Duration::from_millis(2),
        group_max_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        dead_letter_max_bytes: 1 << 20,
    }
}

/// No sink is named, so nothing is trimmed.
fn open_untrimmed(directory: &Path, engine: Engine) -> Journal {
    Journal::open(settings(directory, engine), Clock::system()).expect("the journal opens")
}

fn open(directory: &Path, engine: Engine) -> Journal {
    let journal = open_untrimmed(directory, engine);
    for stream in STREAMS {
        journal.set_sinks(stream, &SINKS.map(Arc::from)).unwrap();
    }
    journal
}

/// The content of a block says which it is: whoever reads it back can tell it from every other.
fn content(stream: &str, identity: u64) -> Vec<Vec<u8>> {
    let mut random = Random(identity);
    let (count, len) = match stream {
        "small" => (1 + identity % 3, 100),
        _ => (1 + identity % 5, 30_000),
    };
    let filler = |random: &mut Random| (0..len / 8).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>();
    (0..count).map(|_| [&identity.to_le_bytes()[..], &filler(&mut random)].concat()).collect()
}

fn block(stream: &str, identity: u64) -> Block {
    let mut frames = FramesBuilder::default();
    content(stream, identity).iter().for_each(|record| frames.push(record));
    Block::new(&stream.into(), Fingerprint([0; 16]), &frames.finish(), (1, 1)).unwrap()
}

/// Reads the identity and checks that nothing else came with it.
fn identity(block: &Block) -> u64 {
    let frames = block.frames().expect("the block is intact");
    let records: Vec<&[u8]> = frames.iter().collect();
    let identity = u64::from_le_bytes(records[0][..8].try_into().unwrap());
    assert_eq!(records, content(&block.stream, identity), "the block is not what was appended");
    identity
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

// ---- the child ----

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    // Its own prefix: the test harness writes to the same pipe.
    writeln!(out, "\n@ {line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Works until it is killed.
fn child(engine: Engine, directory: &Path, seed: u64) {
    runtime().block_on(async {
        let journal = open(directory, engine);
        let workers = STREAMS.iter().enumerate().map(|(place, stream)| {
            let random = Random(seed ^ ((place as u64) << 32));
            let journal = journal.clone();
            async move { tokio::join!(append(&journal, stream, random), deliver(&journal, stream, seed)) }
        });
        futures_util::future::join_all(workers).await;
    });
}

/// Appends local and forwarded blocks, and resends some of the forwarded ones.
async fn append(journal: &Journal, stream: &str, mut random: Random) {
    let source: Arc<str> = format!("source:{stream}").into();
    loop {
        let mut sent = Vec::new();
        let mut append = Append::default();
        let forwarded = journal.forwarded(FORWARDER, FORWARDER_EPOCH, stream).unwrap();
        let mut next_forwarded = forwarded + 1 - random.below(2).min(forwarded);
        for _ in 0..1 + random.below(4) {
            let identity = random.next();
            let mut block = block(stream, identity);
            if random.below(3) == 0 {
                block.origin = Origin { agent: FORWARDER.into(), epoch: FORWARDER_EPOCH, seq: next_forwarded };
                next_forwarded += 1;
            }
            sent.push((identity, block.origin.seq));
            append.blocks.push(block);
        }
        let position = random.next();
        append.positions.push((Arc::clone(&source), Bytes::copy_from_slice(&position.to_le_bytes())));
        tell(&format!("trying {stream} {position}"));
        let seqs = journal.append(append).await.unwrap();
        let list: Vec<String> = seqs.iter().zip(sent).map(|(seq, (id, from))| format!("{seq}:{id}:{from}")).collect();
        tell(&format!("appended {stream} {position} {}", list.join(" ")));
    }
}

/// Decides about every block and moves both cursors behind it.
async fn deliver(journal: &Journal, stream: &str, seed: u64) {
    let mut random = Random(seed ^ 0xde11);
    let mut end = journal.end(stream);
    loop {
        let from = journal.counts(stream).unwrap().next_undecided;
        let blocks = journal.read(stream, from, 500_000).unwrap();
        if blocks.is_empty() {
            end.changed().await.unwrap();
            continue;
        }
        let decisions: Vec<Decision> = blocks.iter().map(|(seq, block)| decision(stream, *seq, block)).collect();
        let last = blocks.last().map_or(from, |(seq, _)| *seq);
        journal.decide(decisions).await.unwrap();
        tell(&format!("decided {stream} {last}"));
        for sink in SINKS {
            // One lags behind the other now and then.
            if random.below(3) == 0 {
                continue;
            }
            let cursor = journal.cursor(sink, stream).unwrap();
            let next = cursor.next.max(last + 1 - random.below(2));
            let state = Bytes::copy_from_slice(&next.to_le_bytes());
            let delivered = next - cursor.next;
            let (sink_name, stream_name) = (sink.into(), stream.into());
            let advance = Advance { sink: sink_name, stream: stream_name, next, state, delivered, dead: Vec::new() };
            journal.advance(advance).await.unwrap();
            tell(&format!("advanced {stream} {sink} {next}"));
        }
        if random.below(20) == 0 {
            journal.expire_seen(stream, last.saturating_sub(200)).await.unwrap();
        }
    }
}

/// A pure function of the block, so a verdict that flipped shows.
fn decision(stream: &str, seq: u64, block: &Block) -> Decision {
    let identity = identity(block);
    let records = u64::from(block.record_count);
    Decision {
        stream: stream.into(),
        seq,
        verdicts: Bytes::copy_from_slice(&identity.to_le_bytes()),
        seen: vec![SeenKeys { bucket_start_seconds: seq, entries: Bytes::from(vec![1; 20]) }],
        dead: Vec::new(),
        counts: DecisionCounts { kept: records, ..DecisionCounts::default() },
    }
}

// ---- the parent ----

/// What the children were told, of one lane.
#[derive(Default)]
struct Lane {
    /// Acknowledged blocks: identity and the seq they were forwarded under.
    blocks: BTreeMap<u64, (u64, u64)>,
    /// Positions of appends that may or may not have become durable, the last acknowledged first.
    positions: Vec<u64>,
    decided: u64,
    cursors: BTreeMap<String, u64>,
    /// First block that was left at the last look: nothing below ever comes back.
    first: u64,
}

type Lanes = BTreeMap<String, Lane>;

fn hear(lanes: &mut Lanes, line: &str) {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("a whole line").to_owned();
    let (what, lane) = (word(), lanes.entry(word()).or_default());
    match &*what {
        "trying" => lane.positions.push(word().parse().unwrap()),
        "appended" => {
            lane.positions = vec![word().parse().unwrap()];
            for block in words {
                let parts: Vec<u64> = block.split(':').map(|part| part.parse().unwrap()).collect();
                if parts[0] > 0 {
                    lane.blocks.insert(parts[0], (parts[1], parts[2]));
                }
            }
        }
        "decided" => lane.decided = word().parse().unwrap(),
        "advanced" => {
            lane.cursors.insert(word(), word().parse().unwrap());
        }
        other => panic!("the child said {other}"),
    }
}

/// Runs a child, listens, and kills it after a random time.
fn run_and_kill(engine: Engine, directory: &Path, random: &mut Random, lanes: &mut Lanes) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["the_child", "--exact", "--nocapture"])
        .env(CHILD, format!("{engine:?}"))
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_SEED, random.next().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    // Counted in what it says rather than in time, then some time more, so that every phase of a commit is hit; some are
    // killed while they open.
    let lines = if random.below(5) == 0 { 0 } else { 1 + random.below(300) };
    let after = Duration::from_micros(random.below(20_000));
    let child = std::sync::Mutex::new(child);
    let kill = || {
        std::thread::sleep(after);
        child.lock().unwrap().kill().unwrap();
    };
    std::thread::scope(|scope| {
        let mut heard = 0;
        let mut is_killed = lines == 0;
        if is_killed {
            scope.spawn(kill);
        }
        for line in out.lines().map_while(Result::ok) {
            let Some(line) = line.strip_prefix("@ ") else { continue };
            hear(lanes, line);
            heard += 1;
            if heard >= lines && !is_killed {
                is_killed = true;
                scope.spawn(kill);
            }
        }
    });
    let status = child.into_inner().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
}

/// Opens what the kill left and compares it with what was acknowledged.
fn check(engine: Engine, directory: &Path, lanes: &mut Lanes) {
    runtime().block_on(async {
        let journal = open_untrimmed(directory, engine);
        for stream in STREAMS {
            check_lane(&journal, stream, lanes.entry(stream.to_owned()).or_default());
        }
        journal.close().await.unwrap();
    });
}

fn check_lane(journal: &Journal, stream: &str, lane: &mut Lane) {
    let counts = journal.counts(stream).unwrap();
    let cursors: Vec<Cursor> = SINKS.iter().map(|sink| journal.cursor(sink, stream).unwrap()).collect();
    let passed = cursors.iter().map(|cursor| cursor.next).min().unwrap_or(0);
    let mut found: BTreeMap<u64, Block> = BTreeMap::new();
    loop {
        let from = found.last_key_value().map_or(0, |(seq, _)| *seq + 1);
        let blocks = journal.read(stream, from, 1 << 20).unwrap();
        if blocks.is_empty() {
            break;
        }
        found.extend(blocks);
    }
    // What is there, is there without a gap, and starts no earlier than before.
    let first = found.first_key_value().map_or(counts.next.max(1), |(seq, _)| *seq);
    assert_eq!(first + found.len() as u64, counts.next.max(1), "{stream}: a gap");
    assert!(first >= lane.first, "{stream}: trimmed blocks came back: {first} before {}", lane.first);
    assert!(first <= passed.max(1), "{stream}: trimmed {first} before both cursors passed {passed}");
    lane.first = first;
    // What was acknowledged is there, intact, or passed by both cursors.
    for (seq, (acknowledged, from)) in &lane.blocks {
        match found.get(seq) {
            Some(block) => {
                assert_eq!(identity(block), *acknowledged, "{stream} {seq}: another block");
                assert!(*from == 0 || block.origin.seq == *from, "{stream} {seq}: another origin");
            }
            None => assert!(*seq < first, "{stream} {seq}: acknowledged and gone"),
        }
    }
    lane.blocks.retain(|seq, _| *seq >= first);
    check_forwarded(journal, stream, &found);
    check_decisions(journal, stream, lane, &found);
    for (sink, cursor) in SINKS.iter().zip(&cursors) {
        let told = lane.cursors.get(*sink).copied().unwrap_or(1);
        assert!(cursor.next >= told, "{stream}: cursor of {sink} went back from {told} to {}", cursor.next);
        if !cursor.state.is_empty() {
            assert_eq!(cursor.state, cursor.next.to_le_bytes()[..], "{stream}: cursor and state apart");
            assert_eq!(cursor.delivered, cursor.next - 1, "{stream}: cursor and count apart");
        }
    }
    let position = journal.position(&format!("source:{stream}")).unwrap();
    let position = position.map(|bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()));
    match position {
        Some(position) => {
            assert!(lane.positions.contains(&position), "{stream}: a position that was never current");
            lane.positions = vec![position];
        }
        None => assert!(lane.blocks.is_empty() && first == 1, "{stream}: the position is gone"),
    }
}

/// Forwarded blocks stand once each, in order, up to the seq the journal reports.
fn check_forwarded(journal: &Journal, stream: &str, found: &BTreeMap<u64, Block>) {
    let forwarded = found.values().filter(|block| &*block.origin.agent == FORWARDER);
    let seqs: Vec<u64> = forwarded.map(|block| block.origin.seq).collect();
    assert!(seqs.is_sorted_by(|a, b| a + 1 == *b), "{stream}: forwarded twice or lost: {seqs:?}");
    let last = journal.forwarded(FORWARDER, FORWARDER_EPOCH, stream).unwrap();
    assert!(seqs.last().is_none_or(|seq| *seq == last), "{stream}: forwarded {seqs:?}, reported {last}");
}

fn check_decisions(journal: &Journal, stream: &str, lane: &Lane, found: &BTreeMap<u64, Block>) {
    let counts = journal.counts(stream).unwrap();
    assert!(counts.next_undecided > lane.decided, "{stream}: decision {} is gone", lane.decided);
    let undecided = found.range(counts.next_undecided..).map(|(_, block)| u64::from(block.record_count)).sum::<u64>();
    assert_eq!(counts.undecided_records, undecided, "{stream}: count of undecided records");
    let received: u64 = counts.received.values().sum();
    assert_eq!(received, counts.decided.kept + undecided, "{stream}: received records and what became of them");
    for (seq, block) in found {
        let verdicts = journal.verdicts(stream, *seq).unwrap();
        let expected = (*seq < counts.next_undecided).then(|| identity(block).to_le_bytes());
        assert_eq!(verdicts.as_deref(), expected.as_ref().map(|bytes| &bytes[..]), "{stream} {seq}: verdict");
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn campaign(engine: Engine) {
    let seed = setting("CRASH_SEED")
        .unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 20);
    let kills = setting("CRASH_KILLS").unwrap_or(20);
    println!("{engine:?}: CRASH_SEED={seed} CRASH_KILLS={kills}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut lanes = Lanes::new();
    let mut seen = 0;
    for kill in 0..kills {
        println!("{engine:?}: kill {kill}");
        run_and_kill(engine, directory.path(), &mut random, &mut lanes);
        seen += lanes.values().map(|lane| lane.blocks.len()).sum::<usize>();
        check(engine, directory.path(), &mut lanes);
    }
    assert!(kills < 5 || seen > 0, "no child came as far as to append");
}

#[test]
fn sled_keeps_what_it_acknowledged() {
    campaign(Engine::Sled);
}

#[test]
fn redb_keeps_what_it_acknowledged() {
    campaign(Engine::Redb);
}

/// Not a test by itself: what [`run_and_kill`] runs in another process.
#[test]
fn the_child() {
    let Ok(engine) = std::env::var(CHILD) else { return };
    let engine = if engine == "Redb" { Engine::Redb } else { Engine::Sled };
    let directory = std::env::var(CHILD_DIRECTORY).expect("the parent names the directory");
    child(engine, Path::new(&directory), setting(CHILD_SEED).expect("the parent gives a seed"));
}
