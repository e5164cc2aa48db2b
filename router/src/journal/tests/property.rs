//! The journal and its model under the same random operations, reopened again and again.

use super::*;

/// Seeds that once failed, and some that did not.
const SEEDS: [u64; 3] = [1, 2, 3];
const OPERATIONS: usize = 250;
const STREAMS: [&str; 3] = ["s", "t", "tt"];
const SINKS: [&str; 2] = ["a", "b"];

struct Run {
    engine: Engine,
    directory: std::path::PathBuf,
    random: Random,
    journal: Journal,
    model: Model,
}

#[test]
fn the_journal_behaves_as_its_model() {
    let drawn = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 16;
    for seed in SEEDS.into_iter().chain([drawn]) {
        println!("seed {seed}");
        over_engines(|engine, directory| async move {
            let journal = open(&directory, engine);
            let model = Model { agent: "here".to_owned(), epoch: journal.epoch(), ..Model::default() };
            let mut run = Run { engine, directory, random: Random::new(seed), journal, model };
            run.name_sinks();
            for _ in 0..OPERATIONS {
                run.step().await;
            }
            run.reopen().await;
            run.compare().await;
        });
    }
}

impl Run {
    fn stream(&mut self) -> Arc<str> {
        STREAMS[self.random.below(STREAMS.len() as u64) as usize].into()
    }

    fn name_sinks(&mut self) {
        // The third lane has none, so it keeps everything.
        for stream in &STREAMS[..2] {
            let sinks: Vec<Arc<str>> = SINKS.map(Arc::from).to_vec();
            self.journal.set_sinks(stream, &sinks).unwrap();
            self.model.sinks.insert((*stream).into(), sinks);
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.append().await,
            45..65 => self.decide().await,
            65..85 => self.advance().await,
            85..90 => self.expire().await,
            90..97 => self.compare().await,
            _ => self.reopen().await,
        }
    }

    fn random_block(&mut self) -> Block {
        let stream = self.stream();
        let count = 1 + self.random.below(4);
        // Now and then one that the store has to split.
        let len = if self.random.below(10) == 0 { 100_000 } else { 300 };
        let records: Vec<Vec<u8>> = (0..count).map(|_| self.random.bytes(len)).collect();
        let mut block = block_of(&stream, &records);
        if self.random.below(2) == 0 {
            let agent = ["a1", "a2"][self.random.below(2) as usize].into();
            block.origin = Origin { agent, epoch: self.random.below(2), seq: 1 + self.random.below(40) };
        }
        block
    }

    /// One to four appends at a time, so that some share a commit.
    async fn append(&mut self) {
        let mut appends = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let mut append = Append::default();
            for _ in 0..self.random.below(4) {
                append.blocks.push(self.random_block());
            }
            let source = ["file:1", "file:2", "topic:1"][self.random.below(3) as usize].into();
            append.positions.push((source, Bytes::from(self.random.next().to_le_bytes().to_vec())));
            if self.random.below(4) == 0 {
                let stream = self.stream();
                append.refused.push(letter(&stream, self.random.below(100) as usize));
            }
            appends.push(append);
        }
        let waits = appends.iter().cloned().map(|append| self.journal.append(append));
        let found = futures_util::future::join_all(waits).await;
        // They are queued in the order they were polled.
        for (append, found) in appends.into_iter().zip(found) {
            assert_eq!(found.unwrap(), self.model.append(append));
        }
    }

    async fn decide(&mut self) {
        let stream = self.stream();
        let counts = self.model.lane(&stream).clone();
        let count = (counts.next - counts.next_undecided).min(1 + self.random.below(3));
        let mut decisions = Vec::new();
        for seq in counts.next_undecided..counts.next_undecided + count {
            let records = self.model.blocks.get(&(Arc::clone(&stream), seq)).unwrap().record_count;
            let mut decision = decision(&stream, seq, u64::from(records));
            decision.seen = (0..self.random.below(3))
                .map(|_| SeenKeys {
                    bucket_start_seconds: 60 * self.random.below(5),
                    entries: Bytes::from(self.random.bytes(20)),
                })
                .collect();
            decision.counts = DecisionCounts { kept: 1, filtered: 2, duplicate: 3, dead: 4, split: 5 };
            decisions.push(decision);
        }
        decisions.iter().cloned().for_each(|decision| self.model.decide(decision));
        self.journal.decide(decisions).await.unwrap();
    }

    async fn advance(&mut self) {
        let stream = self.stream();
        let sink = SINKS[self.random.below(2) as usize];
        // Sinks of decided lanes get decided blocks only.
        let to = self.model.lane(&stream).next_undecided;
        let at = self.model.cursors.get(&(sink.into(), Arc::clone(&stream))).map_or(1, |cursor| cursor.next);
        let mut advance = advance(sink, &stream, at + self.random.below(to - at + 1));
        advance.state = Bytes::from(self.random.bytes(10));
        if self.random.below(5) == 0 {
            advance.dead.push(letter(&stream, 10));
        }
        self.model.advance(advance.clone());
        self.journal.advance(advance).await.unwrap();
    }

    async fn expire(&mut self) {
        let stream = self.stream();
        let before = 60 * self.random.below(6);
        self.model.expire(&stream, before);
        self.journal.expire_seen(&stream, before).await.unwrap();
    }

    async fn reopen(&mut self) {
        if self.random.below(2) == 0 {
            self.journal.close().await.unwrap();
        }
        // Without closing: the last handle goes.
        let (engine, directory) = (self.engine, self.directory.clone());
        let journal = std::mem::replace(&mut self.journal, open(&directory.join("other"), engine));
        drop(journal);
        self.journal = open(&directory, engine);
        std::fs::remove_dir_all(directory.join("other")).unwrap();
        self.name_sinks();
    }

    async fn compare(&mut self) {
        for stream in STREAMS.map(Arc::<str>::from) {
            self.compare_lane(&stream).await;
        }
        let dead = self.journal.dead_letters(None, usize::MAX).unwrap();
        assert_eq!(dead, self.model.dead);
        for (source, position) in &self.model.positions {
            assert_eq!(self.journal.position(source).unwrap().as_ref(), Some(position));
        }
        for ((agent, epoch, stream), seq) in &self.model.forwarded {
            assert_eq!(self.journal.forwarded(agent, *epoch, stream).unwrap(), *seq);
        }
        for ((sink, stream), cursor) in &self.model.cursors {
            let found = self.journal.cursor(sink, stream).unwrap();
            assert_eq!(found, Cursor { next: cursor.next.max(self.model.passed(stream)), ..cursor.clone() });
        }
    }

    async fn compare_lane(&mut self, stream: &Arc<str>) {
        let Some(counts) = self.model.counts.get(stream) else { return };
        assert_eq!(self.journal.counts(stream).unwrap(), *counts);
        assert_eq!(*self.journal.end(stream).borrow(), counts.next);
        let passed = self.model.passed(stream);
        let first = || read_all(&self.journal, stream).first().map_or(counts.next, |(seq, _)| *seq);
        until("trimming up to the cursors", || first() == passed).await;
        let read = read_all(&self.journal, stream);
        let range = (Arc::clone(stream), passed)..(Arc::clone(stream), Seq::MAX);
        let expected: Vec<(Seq, Block)> =
            self.model.blocks.range(range).map(|((_, seq), block)| (*seq, block.clone())).collect();
        assert_eq!(read, expected);
        for seq in passed..counts.next {
            let verdicts = self.model.verdicts.get(&(Arc::clone(stream), seq)).cloned();
            assert_eq!(self.journal.verdicts(stream, seq).unwrap(), verdicts);
        }
        let mut seen = Vec::new();
        self.journal.seen_keys(stream, &mut |keys| seen.push((keys.bucket_start_seconds, keys.entries))).unwrap();
        let of_stream = self.model.seen.iter().filter(|((of, ..), _)| of == stream);
        let expected: Vec<(u64, Bytes)> = of_stream.map(|((_, bucket, _), keys)| (*bucket, keys.clone())).collect();
        assert_eq!(seen, expected);
    }
}
