//! Random histories: logs are written, rotated, emptied, while the source is stopped, killed and started again. However
//! that falls, every line is there once, and those of one log in the order in which they were written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;

use super::{Bench, LINE_MAX, append_to};

/// xorshift: the histories of a seed are the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A writer and its file.
struct Log {
    name: String,
    file: Option<File>,
    /// Counts files that had this name.
    generation: u32,
    /// A line begun.
    partial: String,
    /// Lines written to the file that has the name now.
    written: usize,
    /// Lines that are to come, in order.
    expected: Vec<String>,
    /// Last lines of rotated files, which never got their end: they come when the file is given up.
    unended: Vec<String>,
    rotated_while_down: bool,
}

struct History {
    bench: Bench,
    dice: Dice,
    logs: Vec<Log>,
    up: bool,
    lines: u32,
    refused: usize,
}

impl History {
    fn new(seed: u64) -> History {
        let log = |name: &str| Log {
            name: name.into(),
            file: None,
            generation: 0,
            partial: String::new(),
            written: 0,
            expected: Vec::new(),
            unended: Vec::new(),
            rotated_while_down: false,
        };
        let mut bench = Bench::new();
        bench.start();
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        History { bench, dice, logs: vec![log("a.log"), log("b.log")], up: true, lines: 0, refused: 0 }
    }

    fn line(&mut self, log: usize) -> String {
        self.lines += 1;
        let Log { name, generation, .. } = &self.logs[log];
        let mut line = format!("{name}-{generation}-{}", self.lines);
        let len = match self.dice.below(12) {
            0 => LINE_MAX + 1 + self.dice.below(3 * LINE_MAX as u64) as usize,
            1 => LINE_MAX,
            _ => self.dice.below(LINE_MAX as u64) as usize,
        };
        while line.len() < len {
            line.push('.');
        }
        line
    }

    fn write(&mut self, log: usize, content: &str) {
        let path = self.bench.path(&self.logs[log].name);
        let file = self.logs[log].file.get_or_insert_with(|| append_to(&path));
        file.write_all(content.as_bytes()).unwrap();
    }

    /// Writes the rest of a line begun, or whole lines, and perhaps the beginning of one.
    fn write_lines(&mut self, log: usize) {
        let mut content = String::new();
        for _ in 0..self.dice.below(6) {
            let begun = std::mem::take(&mut self.logs[log].partial);
            let line = if begun.is_empty() { self.line(log) } else { begun.clone() + "+" };
            content.push_str(&line[begun.len()..]);
            content.push_str(if self.dice.below(4) == 0 { "\r\n" } else { "\n" });
            if line.len() > LINE_MAX {
                self.refused += 1;
            } else {
                self.logs[log].expected.push(line);
                self.logs[log].written += 1;
            }
        }
        if self.logs[log].partial.is_empty() && self.dice.below(3) == 0 {
            let line = self.line(log);
            content.push_str(&line);
            self.logs[log].partial = line;
        }
        self.write(log, &content);
    }

    /// Whether the source knows the file, so that it finds it again under another name.
    fn is_known(&self, log: usize) -> bool {
        let mark = format!("{}-{}-", self.logs[log].name, self.logs[log].generation);
        self.bench.lines().iter().any(|line| line.starts_with(&mark))
    }

    async fn rotate(&mut self, log: usize) {
        if self.logs[log].written == 0 {
            return;
        }
        if self.up {
            self.bench.until("file is known", |_| self.is_known(log)).await;
        } else if self.logs[log].rotated_while_down || !self.is_known(log) {
            return;
        }
        let name = self.logs[log].name.clone();
        let generation = self.logs[log].generation;
        fs::rename(self.bench.path(&name), self.bench.path(&format!("{name}.{generation}"))).unwrap();
        self.logs[log].rotated_while_down = !self.up;
        if self.dice.below(2) == 0 {
            // The writer goes on for a moment.
            self.write_lines(log);
        }
        let unended = std::mem::take(&mut self.logs[log].partial);
        if unended.len() > LINE_MAX {
            self.refused += 1;
        } else if !unended.is_empty() {
            self.logs[log].unended.push(unended);
        }
        self.logs[log].file = None;
        self.logs[log].generation += 1;
        self.logs[log].written = 0;
    }

    /// copytruncate. What was not read by then would be lost, so that is waited for.
    async fn empty(&mut self, log: usize) {
        if !self.up || !self.logs[log].partial.is_empty() || self.logs[log].file.is_none() {
            return;
        }
        self.catch_up().await;
        let path = self.bench.path(&self.logs[log].name);
        fs::copy(&path, path.with_extension(format!("copy{}", self.logs[log].generation))).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        self.logs[log].generation += 1;
        self.logs[log].written = 0;
    }

    async fn catch_up(&self) {
        let lines: usize = self.logs.iter().map(|log| log.expected.len()).sum();
        let begun = self.logs.iter().map(|log| &log.partial).filter(|partial| partial.len() >= LINE_MAX + 2).count();
        // A rotated file's long last line is refused as soon as it is seen to be long, or with its end.
        let refused = self.refused + begun;
        self.bench
            .until("all that was written", |bench| {
                bench.journal.counts("s").unwrap().undecided_records as usize >= lines
                    && bench.refused().len() >= refused
                    && self.ended(bench) >= lines
            })
            .await;
    }

    /// Lines that came, without those that never got their end.
    fn ended(&self, bench: &Bench) -> usize {
        let unended = |line: &&String| self.logs.iter().any(|log| log.unended.contains(line));
        let lines = bench.lines();
        lines.len() - lines.iter().filter(unended).count()
    }

    async fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            let log = self.dice.below(2) as usize;
            match self.dice.below(20) {
                0 if self.up => {
                    self.bench.kill().await;
                    self.up = false;
                }
                1 if self.up => {
                    self.bench.stop().await;
                    self.up = false;
                }
                0..5 if !self.up => {
                    self.logs.iter_mut().for_each(|log| log.rotated_while_down = false);
                    self.bench.start();
                    self.up = true;
                }
                2 | 3 => self.rotate(log).await,
                4 => self.empty(log).await,
                5 => tokio::time::sleep(std::time::Duration::from_millis(self.dice.below(4))).await,
                _ => self.write_lines(log),
            }
        }
        if !self.up {
            self.bench.start();
        }
    }

    async fn check(mut self, seed: u64) {
        for log in 0..self.logs.len() {
            if !self.logs[log].partial.is_empty() {
                self.logs[log].partial.push('+');
                let line = std::mem::take(&mut self.logs[log].partial);
                self.write(log, "+\n");
                if line.len() > LINE_MAX {
                    self.refused += 1;
                } else {
                    self.logs[log].expected.push(line);
                }
            }
        }
        self.catch_up().await;
        let unended: usize = self.logs.iter().map(|log| log.unended.len()).sum();
        let lines: usize = self.logs.iter().map(|log| log.expected.len()).sum();
        self.bench.until("last lines", |bench| bench.lines().len() >= lines + unended).await;
        self.bench.stop().await;
        assert_eq!(self.bench.refused().len(), self.refused, "refused of seed {seed}");
        let mut came: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut unended = Vec::new();
        for line in self.bench.lines() {
            if self.logs.iter().any(|log| log.unended.contains(&line)) {
                unended.push(line);
                continue;
            }
            let name = line.split('-').next().unwrap_or_default().to_owned();
            came.entry(name).or_default().push(line);
        }
        for log in &self.logs {
            let came = came.remove(&log.name).unwrap_or_default();
            assert_eq!(came, log.expected, "{} of seed {seed}", log.name);
        }
        let mut expected: Vec<String> = self.logs.iter().flat_map(|log| log.unended.clone()).collect();
        expected.sort();
        unended.sort();
        assert_eq!(unended, expected, "last lines of seed {seed}");
        assert!(came.is_empty(), "{came:?} of seed {seed}");
    }
}

#[tokio::test]
async fn every_history_gives_every_line_once_and_in_order() {
    let histories = (0..16).map(|seed| async move {
        let mut history = History::new(seed);
        history.run(150).await;
        history.check(seed).await;
    });
    futures_util::future::join_all(histories).await;
}
