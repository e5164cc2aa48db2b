//! Whole sources on real files. Random histories are in `random`.

mod random;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::ingest::gather;
use crate::ingest::tests::{journal, log_line, records, text};
use crate::journal::Append;
use crate::tasks::Tasks;

const DEADLINE: Duration = Duration::from_secs(60);
const LINE_MAX: usize = 64;

/// A folder of logs, a journal, and a source that may be started, stopped and killed.
pub(super) struct Bench {
    pub(super) settings: Settings,
    pub(super) journal: Journal,
    patience: Patience,
    logs: tempfile::TempDir,
    _journal: tempfile::TempDir,
    running: Option<(Stop, JoinHandle<Result<(), Error>>)>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let (journal, journal_directory) = journal();
        let logs = tempfile::tempdir().unwrap();
        let settings = Settings {
            name: "app".into(),
            stream: "s".into(),
            include: vec![format!("{}/*.log", logs.path().display())],
            exclude: vec![],
            format: Format::Line,
            line_max_bytes: LINE_MAX,
            poll: Duration::from_millis(1),
            start_at: StartAt::Beginning,
            gather: gather::Settings { block_max_bytes: 2_000, block_max_age: Duration::from_millis(1) },
        };
        let patience = Patience { finish_after: Duration::from_secs(2), forget_after: FORGET_AFTER };
        Bench { settings, journal, patience, logs, _journal: journal_directory, running: None }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.logs.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        append_to(&self.path(name)).write_all(content.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn source(&self) -> FileSource {
        let mut source = FileSource::new(self.settings.clone(), log_line(), self.journal.clone(), Clock::system());
        source.patience = self.patience;
        source
    }

    pub(super) fn start(&mut self) {
        let stop = Stop::new();
        let running = Tasks::new().spawn("test", self.source().run(stop.clone()));
        assert!(self.running.replace((stop, running)).is_none());
    }

    pub(super) async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
    }

    /// Ends the source wherever it is.
    pub(super) async fn kill(&mut self) {
        let (_, running) = self.running.take().unwrap();
        running.abort();
        assert!(running.await.is_err_and(|error| error.is_cancelled()));
        // What the journal already had in hand is done before this is.
        let schema = log_line();
        self.journal.put_schema(schema.fingerprint, schema.message(), schema.descriptors.clone()).await.unwrap();
    }

    pub(super) fn lines(&self) -> Vec<String> {
        records(&self.journal, "s").iter().map(|record| text(record, "line")).collect()
    }

    pub(super) fn refused(&self) -> Vec<String> {
        let letters = self.journal.dead_letters(Some("s"), usize::MAX).unwrap();
        letters.iter().map(|letter| String::from_utf8(letter.bytes.to_vec()).unwrap()).collect()
    }

    /// Positions of files that are not forgotten.
    fn positions(&self) -> Vec<(Arc<str>, Bytes)> {
        let mut stored = self.journal.positions("file:app:").unwrap();
        stored.retain(|(id, value)| !id.ends_with("started") && !value.is_empty());
        stored
    }

    /// Waits until `condition` holds; `what` it waits for stands in the failure.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Bench) -> bool) {
        let mut end = self.journal.end("s");
        let deadline = Instant::now() + DEADLINE;
        while !condition(self) {
            let running = self.running.as_ref().is_some_and(|(_, running)| !running.is_finished());
            assert!(
                running && Instant::now() < deadline,
                "{what}: {:?} and refused {:?}",
                self.lines(),
                self.refused()
            );
            // Not everything that becomes durable is a block.
            let _changed = tokio::time::timeout(Duration::from_millis(5), end.changed()).await;
        }
    }

    async fn until_lines(&self, expected: &[&str]) {
        self.until(&format!("{expected:?}"), |bench| bench.lines().len() >= expected.len()).await;
        assert_eq!(self.lines(), expected);
    }
}

pub(super) fn append_to(path: &std::path::Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

#[tokio::test]
async fn lines_are_read_as_they_are_written() {
    let mut bench = Bench::new();
    bench.start();
    bench.write("a.log", "one\ntwo\r\npar");
    bench.until_lines(&["one", "two"]).await;
    bench.write("a.log", "tial\n");
    bench.until_lines(&["one", "two", "partial"]).await;
    let record = records(&bench.journal, "s").pop().unwrap();
    let path = bench.path("a.log");
    assert_eq!((text(&record, "path"), text(&record, "position")), (path.display().to_string(), "9".into()));
    bench.write("b.log", "other file\n");
    bench.until_lines(&["one", "two", "partial", "other file"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn reading_resumes_at_every_byte() {
    let long = "x".repeat(LINE_MAX + 20);
    let content = format!("one\r\n\ntwo\n{long}\r\nthree\n");
    for cut in 0..=content.len() {
        let mut bench = Bench::new();
        bench.start();
        bench.write("a.log", &content[..cut]);
        // A CR that may still be followed by LF, and a line that may still turn out to be too long, wait.
        let lines = content[..cut].matches('\n').count() - usize::from(cut > content.len() - 8);
        let refused = usize::from(cut >= 10 + LINE_MAX + 2);
        bench.until("what is there", |bench| bench.lines().len() >= lines && bench.refused().len() >= refused).await;
        bench.kill().await;
        bench.write("a.log", &content[cut..]);
        bench.start();
        bench.until("the rest", |bench| bench.lines().len() >= 4).await;
        bench.stop().await;
        assert_eq!(bench.lines(), ["one", "", "two", "three"], "cut at {cut}");
        let refused = bench.refused();
        assert!(refused.len() == 1 && long.starts_with(refused[0].trim_end()), "cut at {cut}: {refused:?}");
    }
}

#[tokio::test]
async fn a_renamed_file_is_read_to_its_end_and_the_new_one_after_it() {
    let mut bench = Bench::new();
    bench.start();
    let mut writer = append_to(&bench.path("a.log"));
    writer.write_all(b"1\n2\npar").unwrap();
    bench.until_lines(&["1", "2"]).await;
    bench.rename("a.log", "a.log.1");
    // The writer has not noticed yet.
    writer.write_all(b"tial\n3\n").unwrap();
    bench.write("a.log", "4\n");
    bench.until_lines(&["1", "2", "partial", "3", "4"]).await;
    bench.rename("a.log.1", "a.log.2");
    bench.rename("a.log", "a.log.1");
    bench.write("a.log", "5\n");
    writer.write_all(b"late\n").unwrap();
    bench.until("both", |bench| bench.lines().len() >= 7).await;
    let mut last = bench.lines().split_off(5);
    last.sort();
    assert_eq!(last, ["5", "late"]);
    bench.stop().await;
}

#[tokio::test]
async fn files_renamed_while_the_source_was_down_are_finished() {
    let mut bench = Bench::new();
    bench.start();
    bench.write("a.log", "1\n2\n");
    bench.until_lines(&["1", "2"]).await;
    bench.kill().await;
    bench.write("a.log", "3\n");
    bench.rename("a.log", "a.log.1");
    bench.write("a.log.1", "4\n");
    bench.write("a.log", "5\n");
    bench.start();
    bench.until_lines(&["1", "2", "3", "4", "5"]).await;
    bench.write("a.log.1", "6\n");
    bench.until_lines(&["1", "2", "3", "4", "5", "6"]).await;
    bench.stop().await;
    bench.start();
    bench.write("a.log", "7\n");
    bench.until_lines(&["1", "2", "3", "4", "5", "6", "7"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn names_that_the_patterns_take_as_well_change_nothing() {
    let mut bench = Bench::new();
    bench.settings.include[0].push('*');
    bench.start();
    bench.write("a.log", "1\n");
    bench.until_lines(&["1"]).await;
    for i in 2..6 {
        for old in (1..i - 1).rev() {
            bench.rename(&format!("a.log.{old}"), &format!("a.log.{}", old + 1));
        }
        bench.rename("a.log", "a.log.1");
        bench.write("a.log", &format!("{i}\n"));
        bench.until("next", |bench| bench.lines().len() >= i).await;
    }
    bench.stop().await;
    bench.start();
    bench.write("a.log", "6\n");
    bench.until_lines(&["1", "2", "3", "4", "5", "6"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn an_emptied_file_is_read_from_its_beginning() {
    for new in ["n\n", "new line that is longer than all before\nand another\n"] {
        for down in [false, true] {
            let mut bench = Bench::new();
            bench.start();
            bench.write("a.log", "1\n2\n3\n");
            bench.until_lines(&["1", "2", "3"]).await;
            if down {
                bench.kill().await;
            }
            fs::copy(bench.path("a.log"), bench.path("a.log.1")).unwrap();
            fs::write(bench.path("a.log"), "").unwrap();
            bench.write("a.log", new);
            if down {
                bench.start();
            }
            let expected: Vec<&str> = ["1", "2", "3"].into_iter().chain(new.lines()).collect();
            bench.until_lines(&expected).await;
            bench.stop().await;
        }
    }
}

#[tokio::test]
async fn the_last_line_of_a_deleted_file_is_taken_and_the_file_forgotten() {
    let mut bench = Bench::new();
    bench.patience.finish_after = Duration::from_millis(30);
    bench.start();
    bench.write("a.log", "1\nlast");
    bench.until_lines(&["1"]).await;
    assert_eq!(bench.positions().len(), 1);
    fs::remove_file(bench.path("a.log")).unwrap();
    bench.until_lines(&["1", "last"]).await;
    bench.until("forgotten", |bench| bench.positions().is_empty()).await;
    bench.write("b.log", "2\n");
    bench.until_lines(&["1", "last", "2"]).await;
    // The number of the forgotten file serves again.
    assert_eq!(&*bench.positions()[0].0, "file:app:0");
    bench.stop().await;
    bench.start();
    bench.write("b.log", "3\n");
    bench.until_lines(&["1", "last", "2", "3"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_renamed_file_is_forgotten_after_its_time() {
    let mut bench = Bench::new();
    bench.patience = Patience { finish_after: Duration::from_millis(10), forget_after: Duration::from_millis(60) };
    bench.start();
    bench.write("a.log", "1\nlast");
    bench.until_lines(&["1"]).await;
    bench.rename("a.log", "a.log.1");
    bench.until_lines(&["1", "last"]).await;
    bench.until("forgotten", |bench| bench.positions().is_empty()).await;
    bench.stop().await;
}

#[tokio::test]
async fn what_was_there_at_the_first_start_may_be_left_out() {
    let mut bench = Bench::new();
    bench.settings.start_at = StartAt::End;
    bench.write("a.log", "old\nold too, and unfini");
    bench.start();
    bench.until("marked", |bench| bench.positions().len() == 1).await;
    bench.kill().await;
    bench.write("a.log", "shed\n1\n");
    bench.write("b.log", "2\n");
    bench.start();
    bench.until_lines(&["1", "2"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_first_start_without_files_is_a_start() {
    let mut bench = Bench::new();
    bench.settings.start_at = StartAt::End;
    bench.start();
    bench.until("marked", |bench| bench.journal.position("file:app:started").unwrap().is_some()).await;
    bench.kill().await;
    bench.write("a.log", "1\n");
    bench.start();
    bench.until_lines(&["1"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_holds_up_no_other() {
    let mut bench = Bench::new();
    // Reads of its first bytes fail, for root as well.
    std::os::unix::fs::symlink("/proc/self/mem", bench.path("a.log")).unwrap();
    bench.start();
    bench.write("b.log", "1\n");
    bench.until_lines(&["1"]).await;
    bench.write("b.log", "2\n");
    bench.until_lines(&["1", "2"]).await;
    // Once it can be read, it is.
    fs::remove_file(bench.path("a.log")).unwrap();
    bench.write("a.log", "3\n");
    bench.until_lines(&["1", "2", "3"]).await;
    bench.stop().await;
}

#[tokio::test]
async fn hundreds_of_files_are_read() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..400).map(|i| format!("{i:03}.log")).collect();
    names.iter().for_each(|name| bench.write(name, "a\nb\n"));
    bench.start();
    bench.until("first lines", |bench| bench.journal.counts("s").unwrap().undecided_records >= 800).await;
    names.iter().for_each(|name| bench.write(name, "c\n"));
    bench.until("more lines", |bench| bench.journal.counts("s").unwrap().undecided_records >= 1_200).await;
    bench.stop().await;
    let mut lines = bench.lines();
    lines.sort();
    let expected: Vec<&str> = ["a", "b", "c"].into_iter().flat_map(|line| std::iter::repeat_n(line, 400)).collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn what_does_not_parse_is_a_dead_letter() {
    let mut bench = Bench::new();
    bench.settings.format = Format::Json;
    bench.start();
    bench.write("a.log", "{\"line\":\"1\"}\nnonsense\n\n{\"line\":7}\n{\"line\":\"2\"}\n");
    bench.until("all", |bench| bench.lines().len() == 2 && bench.refused().len() == 2).await;
    bench.stop().await;
    assert_eq!(
        (bench.lines(), bench.refused()),
        (vec!["1".into(), "2".into()], vec!["nonsense".into(), "{\"line\":7}".into()])
    );
    let letters = bench.journal.dead_letters(Some("s"), 9).unwrap();
    assert!(letters.iter().all(|letter| &*letter.stage == "parse" && !letter.reason.is_empty()));
}

#[tokio::test]
async fn a_device_that_got_another_number_is_no_other_device() {
    let mut bench = Bench::new();
    bench.start();
    bench.write("a.log", "1\n2\n");
    bench.until_lines(&["1", "2"]).await;
    bench.stop().await;
    let (id, value) = bench.positions().remove(0);
    let mut moved: serde_json::Value = serde_json::from_slice(&value).unwrap();
    moved["id"]["device"] = 12345.into();
    let positions = vec![(id, Bytes::from(moved.to_string()))];
    bench.journal.append(Append { positions, ..Append::default() }).await.unwrap();
    bench.start();
    bench.write("a.log", "3\n");
    bench.until_lines(&["1", "2", "3"]).await;
    bench.stop().await;
    assert_eq!(bench.positions().len(), 1);
}

#[tokio::test]
async fn a_position_of_another_version_is_refused() {
    let mut bench = Bench::new();
    let positions = vec![("file:app:3".into(), Bytes::from_static(br#"{"version":9}"#))];
    bench.journal.append(Append { positions, ..Append::default() }).await.unwrap();
    let error = bench.source().run(Stop::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "read position file:app:3 of a file: version 9, this build reads 1");
    bench.settings.include.push("/a/***".into());
    let error = FileSource { settings: Settings { name: "other".into(), ..bench.settings.clone() }, ..bench.source() };
    let error = error.run(Stop::new()).await.unwrap_err();
    assert_eq!(error.to_string(), r#"read pattern "/a/***" of file source other"#);
}
