//! The Parquet sink over a lane in memory: what it makes visible, and that crashes between any two of its steps lose
//! nothing and repeat nothing.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use sluice::deliver::parquet::{ParquetSink, Settings};
use sluice::deliver::{Cursor, Error, Feed, Progress, Sink as _};
use sluice::journal::Block;
use sluice::record::{DeadLetter, Origin, RecordIds, Row, Rows, Seq};
use sluice::schema::Schema;
use sluice::tasks::Stop;
use tempfile::TempDir;

const DAY_NANOS: u64 = 86_400_000_000_000;
/// 2026-01-10, noon.
const RECEIVED_NANOS: u64 = 1_768_046_400_000_000_000;
const DEADLINE: Duration = Duration::from_secs(30);

/// What outlives a crash: the lane, and what was committed.
#[derive(Default)]
struct Lane {
    blocks: Vec<Rows>,
    cursor: Cursor,
    delivered: u64,
    dead: Vec<DeadLetter>,
    commits: usize,
    crash: Option<Crash>,
}

/// Ends the sink at its `at`th commit, before or after that is durable.
#[derive(Clone, Copy)]
struct Crash {
    at: usize,
    is_committed: bool,
}

struct MemoryFeed {
    stream: Arc<str>,
    lane: Arc<Mutex<Lane>>,
    read: Seq,
    stop: Stop,
    /// Whether the lane's end is the node's end; else the feed waits there.
    ends: bool,
}

impl MemoryFeed {
    fn new(lane: &Arc<Mutex<Lane>>, ends: bool) -> MemoryFeed {
        let read = lane.lock().unwrap().cursor.next;
        MemoryFeed { stream: "playback".into(), lane: lane.clone(), read, stop: Stop::new(), ends }
    }
}

impl Feed for MemoryFeed {
    fn stream(&self) -> &Arc<str> {
        &self.stream
    }

    fn cursor(&self) -> Cursor {
        self.lane.lock().unwrap().cursor.clone()
    }

    fn next(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, Error>> {
        Box::pin(async move {
            loop {
                let mut taken: Vec<Rows> = Vec::new();
                for rows in self.lane.lock().unwrap().blocks.iter().filter(|rows| rows.seq >= self.read) {
                    let len: usize = taken.iter().map(Rows::len_bytes).sum();
                    if !taken.is_empty() && len + rows.len_bytes() > max_bytes {
                        break;
                    }
                    taken.push(rows.clone());
                }
                if let Some(last) = taken.last() {
                    self.read = last.seq + 1;
                    return Ok(Some(taken));
                }
                if self.ends || self.stop.is_cancelled() {
                    return Ok(None);
                }
                let _ = tokio::time::timeout(Duration::from_millis(5), self.stop.cancelled()).await;
            }
        })
    }

    fn next_blocks(&mut self, _: usize) -> BoxFuture<'_, Result<Option<Vec<(Seq, Block)>>, Error>> {
        Box::pin(async { Ok(None) })
    }

    fn is_ready(&self) -> bool {
        self.lane.lock().unwrap().blocks.iter().any(|rows| rows.seq >= self.read)
    }

    fn rewind(&mut self, seq: Seq) {
        self.read = seq;
    }

    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut lane = self.lane.lock().unwrap();
            let commit = lane.commits;
            lane.commits += 1;
            let crash = lane.crash.filter(|crash| crash.at == commit);
            if crash.is_none_or(|crash| crash.is_committed) {
                assert!(progress.next >= lane.cursor.next, "the cursor never goes back");
                lane.cursor = Cursor { next: progress.next, state: progress.state };
                lane.delivered += progress.delivered;
                lane.dead.extend(progress.dead);
            }
            let crashed = || Error::Process { stream: "playback".into(), reason: "crash".into() };
            crash.map_or(Ok(()), |_| Err(crashed()))
        })
    }
}

fn schema(proto: &str, message: &str) -> Arc<Schema> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("t.proto"), proto).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut compiler = protox::Compiler::new([folder.path(), &ours]).unwrap();
    // Encoded by the compiler: prost's own types would drop options they do not know.
    let set = compiler.include_imports(true).open_file("t.proto").unwrap().encode_file_descriptor_set();
    let pool = DescriptorPool::decode(&set[..]).unwrap();
    Arc::new(Schema::new(pool.get_message_by_name(message).unwrap()))
}

fn plain() -> Arc<Schema> {
    schema("syntax = \"proto3\"; package t; message Event { string name = 1; int64 number = 2; }", "t.Event")
}

fn event(schema: &Schema, name: &str, number: i64) -> Bytes {
    let mut message = DynamicMessage::new(schema.descriptor.clone());
    message.set_field_by_name("name", prost_reflect::Value::String(name.into()));
    message.set_field_by_name("number", prost_reflect::Value::I64(number));
    message.encode_to_vec().into()
}

fn block(seq: Seq, schema: &Arc<Schema>, received_nanos: u64, messages: Vec<Bytes>) -> Rows {
    let origin = Origin { agent: "edge-1".into(), epoch: 7, seq };
    let ids = RecordIds::new("playback", &origin, received_nanos);
    let received_count = messages.len() as u32;
    let records = messages.into_iter().zip(0..).map(|(message, index)| Row { id: ids.id(index, 0), message }).collect();
    Rows {
        stream: "playback".into(),
        seq,
        schema: schema.clone(),
        agent: "edge-1".into(),
        received_nanos,
        records,
        received_count,
    }
}

/// Twelve blocks over three days; some are empty, one has a record that is no message.
fn lane() -> Arc<Mutex<Lane>> {
    let schema = plain();
    let blocks = (1..=12).map(|seq| {
        let mut messages: Vec<Bytes> =
            (0..if seq % 5 == 0 { 0 } else { 40 }).map(|n| event(&schema, &format!("event-{n}"), n)).collect();
        if seq == 7 {
            messages.insert(3, Bytes::from_static(&[0x0a, 0xff]));
        }
        block(seq, &schema, RECEIVED_NANOS + seq % 3 * DAY_NANOS, messages)
    });
    let cursor = Cursor { next: 1, state: Bytes::new() };
    Arc::new(Mutex::new(Lane { blocks: blocks.collect(), cursor, ..Lane::default() }))
}

fn settings(directory: &Path) -> Settings {
    Settings { directory: directory.to_owned(), file_max_bytes: 1_000, file_max_age: Duration::from_secs(3_600) }
}

async fn run(settings: Settings, mut feed: MemoryFeed) -> Result<(), Error> {
    let stop = feed.stop.clone();
    let mut sink = ParquetSink::new("archive".into(), settings);
    tokio::time::timeout(DEADLINE, sink.run(&mut feed, stop)).await.expect("sink ends in time")
}

/// All files below, hidden ones too.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

fn hidden(directory: &Path) -> Vec<PathBuf> {
    files(directory).into_iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
}

/// How often each id is visible, and in which day's folder.
fn visible(directory: &Path) -> BTreeMap<String, Vec<String>> {
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let hidden = hidden(directory);
    for path in files(directory).iter().filter(|path| !hidden.contains(path)) {
        let day = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let (_, id) = row.get_column_iter().find(|(name, _)| *name == "_id").unwrap();
            let parquet::record::Field::Str(id) = id else { panic!("_id is {id}") };
            ids.entry(id.clone()).or_default().push(day.clone());
        }
    }
    ids
}

/// Each good record of the lane is visible exactly once in the folder of its day, the bad one is a dead letter, once.
#[track_caller]
fn check_complete(lane: &Arc<Mutex<Lane>>, directory: &Path) {
    let lane = lane.lock().unwrap();
    let mut expected = BTreeMap::new();
    for rows in &lane.blocks {
        for row in rows.records.iter().filter(|row| row.message.as_ref() != [0x0a, 0xff]) {
            let day = 10 + rows.seq % 3;
            expected.insert(row.id.to_string(), vec![format!("date=2026-01-{day}")]);
        }
    }
    assert_eq!(visible(directory), expected);
    assert_eq!(hidden(directory), Vec::<PathBuf>::new());
    assert_eq!((lane.cursor.next, lane.cursor.state.len()), (13, 0));
    assert_eq!(lane.delivered as usize, expected.len());
    let dead: Vec<_> = lane.dead.iter().map(|dead| (&*dead.stage, &*dead.reason, dead.bytes.as_ref())).collect();
    assert_eq!(dead, [("sink:archive", "field number 1 is cut short", &[0x0a, 0xff][..])]);
}

#[tokio::test]
async fn every_record_is_in_one_file_of_its_day() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    run(settings(folder.path()), MemoryFeed::new(&lane, true)).await.unwrap();
    check_complete(&lane, folder.path());
    assert!(lane.lock().unwrap().commits > 4, "the lane takes several cycles");
}

#[tokio::test]
async fn a_crash_at_any_commit_loses_and_repeats_nothing() {
    let probe = (lane(), TempDir::new().unwrap());
    run(settings(probe.1.path()), MemoryFeed::new(&probe.0, true)).await.unwrap();
    let commits = probe.0.lock().unwrap().commits;
    for at in 0..commits {
        for is_committed in [false, true] {
            for renamed in 0..3 {
                let (lane, folder) = (lane(), TempDir::new().unwrap());
                lane.lock().unwrap().crash = Some(Crash { at, is_committed });
                run(settings(folder.path()), MemoryFeed::new(&lane, true)).await.unwrap_err();
                let state = lane.lock().unwrap().cursor.state.clone();
                if !state.is_empty() {
                    rename_some(folder.path(), &state, renamed);
                }
                // The next start finds the files and the journal, and other sizes than the last.
                let larger = Settings { file_max_bytes: 5_000, ..settings(folder.path()) };
                run(larger, MemoryFeed::new(&lane, true)).await.unwrap();
                println!("crash at commit {at}, committed {is_committed}, then {renamed} renames");
                check_complete(&lane, folder.path());
            }
        }
    }
}

/// Does the first `count` of the renames that the state names, as a crash in their midst leaves it.
fn rename_some(directory: &Path, state: &[u8], count: usize) {
    let text = String::from_utf8_lossy(state).into_owned();
    let temporaries: Vec<PathBuf> =
        hidden(directory).into_iter().filter(|path| text.contains(path.to_str().unwrap())).collect();
    let is_all_done = !visible(directory).is_empty() && hidden(directory).is_empty();
    assert!(!temporaries.is_empty() || is_all_done, "the state names its files");
    for temporary in temporaries.iter().take(count) {
        let start = text.find(temporary.to_str().unwrap()).unwrap() + temporary.to_str().unwrap().len();
        let root = directory.to_str().unwrap();
        let target = &text[start + text[start..].find(root).unwrap()..];
        let target = &target[..target.find(".parquet").unwrap() + ".parquet".len()];
        fs::rename(temporary, target).unwrap();
    }
}

#[tokio::test]
async fn journaled_files_that_are_gone_stop_the_sink_and_are_named() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    lane.lock().unwrap().crash = Some(Crash { at: 0, is_committed: true });
    run(settings(folder.path()), MemoryFeed::new(&lane, true)).await.unwrap_err();
    let gone = hidden(folder.path()).remove(0);
    fs::remove_file(&gone).unwrap();
    let error = run(settings(folder.path()), MemoryFeed::new(&lane, true)).await.unwrap_err().to_string();
    assert!(error.starts_with("deliver stream playback to sink archive: file "), "{error}");
    assert!(error.contains(gone.to_str().unwrap()) && error.contains("is gone"), "{error}");
    assert_eq!(lane.lock().unwrap().cursor.next, 1);
}

#[tokio::test]
async fn leftovers_of_dead_writers_go_and_those_of_living_ones_stay() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    let day = folder.path().join("playback/date=2026-01-01");
    fs::create_dir_all(&day).unwrap();
    let (dead, living, foreign) =
        (day.join(".archive-000000-x.tmp"), day.join(".archive-000001-y.tmp"), day.join(".other-000001-y.tmp"));
    [&dead, &living, &foreign].iter().for_each(|path| fs::write(path, b"PAR1").unwrap());
    let lock = fs::File::open(&living).unwrap();
    lock.lock().unwrap();
    run(settings(folder.path()), MemoryFeed::new(&lane, true)).await.unwrap();
    assert_eq!(hidden(folder.path()), [living.clone(), foreign.clone()]);
    drop(lock);
    [living, foreign].iter().for_each(|path| fs::remove_file(path).unwrap());
    check_complete(&lane, folder.path());
}

/// Runs the sink on a feed that never ends, until `is_done`, and stops it.
async fn run_until(settings: Settings, lane: &Arc<Mutex<Lane>>, is_done: impl Fn() -> bool) {
    let feed = MemoryFeed::new(lane, false);
    let stop = feed.stop.clone();
    let watch = async {
        let begin = Instant::now();
        while !is_done() {
            assert!(begin.elapsed() < DEADLINE, "condition holds in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(run(settings, feed), watch);
    ran.unwrap();
}

#[tokio::test]
async fn an_old_file_is_finished_though_nothing_more_comes() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    let aging =
        Settings { file_max_bytes: usize::MAX, file_max_age: Duration::from_millis(50), ..settings(folder.path()) };
    run_until(aging, &lane, || lane.lock().unwrap().cursor.next == 13).await;
    check_complete(&lane, folder.path());
    // One cycle, hence one file per day.
    assert_eq!(files(folder.path()).len(), 3);
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    let endless = Settings { file_max_bytes: usize::MAX, ..settings(folder.path()) };
    run_until(endless, &lane, || !hidden(folder.path()).is_empty()).await;
    check_complete(&lane, folder.path());
}

#[tokio::test]
async fn a_broken_disk_holds_the_cursor_and_heals() {
    let (lane, folder) = (lane(), TempDir::new().unwrap());
    let archive = folder.path().join("archive");
    // A file where the directory should be: every write fails.
    fs::write(&archive, b"").unwrap();
    let begin = Instant::now();
    let heal = || {
        if archive.is_file() {
            if begin.elapsed() > Duration::from_millis(150) {
                assert_eq!(lane.lock().unwrap().commits, 0);
                fs::remove_file(&archive).unwrap();
            }
            return false;
        }
        lane.lock().unwrap().cursor.next == 13
    };
    let prompt = Settings { file_max_age: Duration::from_millis(1), ..settings(&archive) };
    run_until(prompt, &lane, heal).await;
    check_complete(&lane, &archive);
}

#[tokio::test]
async fn days_without_end_neither_open_files_without_end_nor_lose_records() {
    let schema = schema(
        "syntax = \"proto3\"; package t; import \"sluice/options.proto\"; import \"google/protobuf/timestamp.proto\";
         message Event { string name = 1; google.protobuf.Timestamp at = 2 [(sluice.field).event_time = true]; }",
        "t.Event",
    );
    let on_day = |day: u64| {
        let mut message = DynamicMessage::new(schema.descriptor.clone());
        let mut at = DynamicMessage::new(schema.descriptor.get_field(2).unwrap().kind().as_message().unwrap().clone());
        at.set_field_by_name("seconds", prost_reflect::Value::I64((day * 86_400) as i64));
        message.set_field_by_name("at", prost_reflect::Value::Message(at));
        Bytes::from(message.encode_to_vec())
    };
    let blocks =
        (1..=3).map(|seq| block(seq, &schema, RECEIVED_NANOS, (0..200).map(|n| on_day(seq * 200 + n)).collect()));
    let cursor = Cursor { next: 1, state: Bytes::new() };
    let lane = Arc::new(Mutex::new(Lane { blocks: blocks.collect(), cursor, ..Lane::default() }));
    let folder = TempDir::new().unwrap();
    let endless = Settings { file_max_bytes: usize::MAX, ..settings(folder.path()) };
    run(endless, MemoryFeed::new(&lane, true)).await.unwrap();
    let visible = visible(folder.path());
    assert_eq!(visible.len(), 600);
    assert!(visible.values().all(|days| days.len() == 1));
    // What a block has beyond the files there may be goes to the day of its arrival.
    let days: BTreeSet<_> = visible.values().flatten().collect();
    assert_eq!(days.len(), 3 * 64 + 1);
    let lane = lane.lock().unwrap();
    assert_eq!((lane.cursor.next, lane.delivered), (4, 600));
}
