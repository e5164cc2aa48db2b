//! Both ends over loopback: certificates, a central on the journal, an edge on a feed in memory, and a raw edge that can
//! say what it likes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser as _;
use futures_util::future::BoxFuture;
use quinn::SendStream;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::cli::pki;
use crate::clock::Clock;
use crate::deliver::link::{Agent, Link, SchemaSource};
use crate::deliver::{self, Cursor, Feed, Progress, Sink as _};
use crate::ingest::link::{LinkSource, StreamFilter};
use crate::journal::{self, Block, Journal};
use crate::link::frame::{self, Frame, FrameReader};
use crate::link::message::{Hello, LaneOpen, LaneReady, Welcome};
use crate::link::{Error, PROTOCOL_MAJOR, tls};
use crate::record::{Fingerprint, FramesBuilder, Origin, Rows, Seq};
use crate::schema;
use crate::schema::registry::Registry;
use crate::tasks::Tasks;

pub(super) const EPOCH: u64 = 77;
pub(super) const KNOWN: Fingerprint = Fingerprint([7; 16]);
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Fails the test instead of hanging.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// xorshift64: the same run for the same seed.
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A certificate authority in a directory of its own.
pub(super) struct Pki(TempDir);

#[derive(clap::Parser)]
struct PkiCommand {
    #[command(flatten)]
    args: pki::Args,
}

impl Pki {
    pub(super) fn new(agents: &[&str]) -> Pki {
        let pki = Pki(tempfile::tempdir().unwrap());
        pki.run(&["init"]);
        agents.iter().for_each(|agent| pki.run(&["agent", agent]));
        pki
    }

    pub(super) fn run(&self, arguments: &[&str]) {
        let directory = ["--dir", self.0.path().to_str().unwrap()];
        let command = ["pki"].iter().chain(arguments).chain(&directory);
        pki::run(PkiCommand::parse_from(command).args).unwrap();
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(super) fn client(&self, agent: &str) -> quinn::ClientConfig {
        let [ca, certificate, key] = ["ca.pem", &format!("{agent}.pem"), &format!("{agent}.key")].map(|f| self.path(f));
        let files = tls::Files { ca_certificate: &ca, certificate: &certificate, private_key: &key };
        tls::client(&files, Duration::from_secs(1)).unwrap()
    }
}

/// A central: one journal, on which its link source can be stopped and started again.
pub(super) struct Central {
    pub(super) journal: Journal,
    pub(super) address: SocketAddr,
    streams: Arc<Mutex<Vec<String>>>,
    registry: Registry,
    tasks: Tasks,
    running: JoinHandle<()>,
    _directory: TempDir,
}

impl Central {
    pub(super) async fn start(pki: &Pki, streams: &[&str]) -> Central {
        Central::start_with(pki, streams, Registry::load(&schema::Settings::default()).unwrap(), 1 << 30).await
    }

    pub(super) async fn start_with(pki: &Pki, streams: &[&str], registry: Registry, max_bytes: u64) -> Central {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(journal_settings(directory.path(), max_bytes), Clock::system()).unwrap();
        journal.put_schema(KNOWN, "test.Known", Bytes::new()).await.unwrap();
        let streams = Arc::new(Mutex::new(streams.iter().map(|&stream| stream.to_owned()).collect()));
        let (tasks, address, running) = serve(pki, &journal, &registry, &streams);
        Central { journal, address, streams, registry, tasks, running, _directory: directory }
    }

    pub(super) fn carry(&self, stream: &str) {
        self.streams.lock().unwrap().push(stream.to_owned());
    }

    /// Stops the link source; the journal stays.
    pub(super) async fn stop(&mut self) {
        assert!(self.tasks.shut_down(DEADLINE).await, "a task outlives the shutdown");
        within("central stops", &mut self.running).await.unwrap();
    }

    /// Starts the link source again, at another address.
    pub(super) fn start_again(&mut self, pki: &Pki) {
        (self.tasks, self.address, self.running) = serve(pki, &self.journal, &self.registry, &self.streams);
    }

    pub(super) fn durable_last(&self, agent: &str, stream: &str) -> Seq {
        self.journal.forwarded(agent, EPOCH, stream).unwrap()
    }

    /// All records of a stream, in the order of central's lane.
    pub(super) fn records(&self, stream: &str) -> Vec<String> {
        let blocks = self.journal.read(stream, 1, usize::MAX).unwrap();
        let frames = blocks.iter().map(|(_, block)| block.frames().unwrap());
        let texts = frames.flat_map(|frames| {
            frames.iter().map(|record| String::from_utf8(record.to_vec()).unwrap()).collect::<Vec<_>>()
        });
        texts.collect()
    }
}

fn serve(
    pki: &Pki,
    journal: &Journal,
    registry: &Registry,
    streams: &Arc<Mutex<Vec<String>>>,
) -> (Tasks, SocketAddr, JoinHandle<()>) {
    let settings = crate::ingest::link::Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        ca_certificate: pki.path("ca.pem"),
        certificate: pki.path("central.pem"),
        private_key: pki.path("central.key"),
        connections_max: 16,
    };
    let tasks = Tasks::new();
    let streams = Arc::clone(streams);
    let accepts: StreamFilter = Arc::new(move |stream| streams.lock().unwrap().iter().any(|known| known == stream));
    let bound = LinkSource::bind(&settings, journal.clone(), registry.clone(), accepts, &tasks);
    let (source, address) = bound.unwrap();
    let running = tasks.spawn("link source", source.run());
    (tasks, address, running)
}

fn journal_settings(directory: &Path, max_bytes: u64) -> journal::Settings {
    journal::Settings {
        directory: directory.to_owned(),
        agent: "central".into(),
        engine: journal::Engine::default(),
        max_bytes,
        group_max_delay: Duration::from_millis(1),
        group_max_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        dead_letter_max_bytes: 1 << 20,
    }
}

/// A block as an edge's journal would hold it; its records name it.
pub(super) fn block(agent: &str, stream: &str, seq: Seq, record_count: usize) -> Block {
    block_of(KNOWN, agent, stream, seq, record_count)
}

pub(super) fn block_of(schema: Fingerprint, agent: &str, stream: &str, seq: Seq, record_count: usize) -> Block {
    let mut frames = FramesBuilder::default();
    (0..record_count).for_each(|index| frames.push(record(agent, stream, seq, index).as_bytes()));
    let mut block = Block::new(&Arc::from(stream), schema, &frames.finish(), (seq, seq)).unwrap();
    block.origin = Origin { agent: agent.into(), epoch: EPOCH, seq };
    block
}

fn record(agent: &str, stream: &str, seq: Seq, index: usize) -> String {
    format!("{agent}/{stream}/{seq}/{index}")
}

/// What central must hold after blocks `seqs` of `record_count` records each.
pub(super) fn records(
    agent: &str,
    stream: &str,
    seqs: impl IntoIterator<Item = Seq>,
    record_count: usize,
) -> Vec<String> {
    let seqs = seqs.into_iter();
    seqs.flat_map(|seq| (0..record_count).map(move |index| record(agent, stream, seq, index))).collect()
}

/// A lane in memory: what an edge's journal and its cursor would be. It survives the feeds made from it.
#[derive(Clone, Default)]
pub(super) struct Lane {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    blocks: Vec<(Seq, Block)>,
    cursor: Seq,
    delivered: u64,
    is_ended: bool,
}

impl Lane {
    pub(super) fn new(blocks: impl IntoIterator<Item = Block>) -> Lane {
        let lane = Lane::default();
        lane.inner.lock().unwrap().cursor = 1;
        blocks.into_iter().for_each(|block| lane.push(block));
        lane
    }

    pub(super) fn push(&self, block: Block) {
        self.inner.lock().unwrap().blocks.push((block.origin.seq, block));
        self.changed.notify_waiters();
    }

    /// No more blocks will come: a feed ends when it has given out all there are.
    pub(super) fn end(&self) {
        self.inner.lock().unwrap().is_ended = true;
        self.changed.notify_waiters();
    }

    pub(super) fn cursor(&self) -> Seq {
        self.inner.lock().unwrap().cursor
    }

    pub(super) fn delivered(&self) -> u64 {
        self.inner.lock().unwrap().delivered
    }

    /// As if the process had died before its last commits were durable.
    pub(super) fn forget_commits(&self, cursor: Seq, delivered: u64) {
        let mut inner = self.inner.lock().unwrap();
        (inner.cursor, inner.delivered) = (cursor, delivered);
    }

    pub(super) fn feed(&self, stream: &str) -> LaneFeed {
        LaneFeed { stream: stream.into(), lane: self.clone(), next: self.cursor() }
    }
}

pub(super) struct LaneFeed {
    stream: Arc<str>,
    lane: Lane,
    next: Seq,
}

impl LaneFeed {
    fn take(&mut self, max_bytes: usize) -> Option<Option<Vec<(Seq, Block)>>> {
        let inner = self.lane.inner.lock().unwrap();
        let mut len = 0;
        let from = inner.blocks.iter().skip_while(|(seq, _)| *seq < self.next);
        let taken: Vec<_> = from
            .take_while(|(_, block)| {
                let fits = len == 0 || len + block.stored_len() <= max_bytes;
                len += block.stored_len();
                fits
            })
            .cloned()
            .collect();
        match taken.last() {
            Some((last, _)) => {
                self.next = last + 1;
                Some(Some(taken))
            }
            None => inner.is_ended.then_some(None),
        }
    }
}

impl Feed for LaneFeed {
    fn stream(&self) -> &Arc<str> {
        &self.stream
    }

    fn cursor(&self) -> Cursor {
        Cursor { next: self.lane.cursor(), state: Bytes::new() }
    }

    fn next(&mut self, _max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, deliver::Error>> {
        unreachable!("the link asks for blocks")
    }

    fn next_blocks(&mut self, max_bytes: usize) -> BoxFuture<'_, Result<Option<Vec<(Seq, Block)>>, deliver::Error>> {
        Box::pin(async move {
            let changed = Arc::clone(&self.lane.changed);
            loop {
                let mut notified = std::pin::pin!(changed.notified());
                notified.as_mut().enable();
                if let Some(taken) = self.take(max_bytes) {
                    return Ok(taken);
                }
                notified.await;
            }
        })
    }

    fn is_ready(&self) -> bool {
        self.lane.inner.lock().unwrap().blocks.last().is_some_and(|(seq, _)| *seq >= self.next)
    }

    fn rewind(&mut self, seq: Seq) {
        self.next = seq;
    }

    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), deliver::Error>> {
        let mut inner = self.lane.inner.lock().unwrap();
        assert!(progress.next > inner.cursor, "cursor goes from {} to {}", inner.cursor, progress.next);
        inner.cursor = progress.next;
        inner.delivered += progress.delivered;
        Box::pin(async { Ok(()) })
    }
}

/// An edge: a link and the sinks of its lanes.
pub(super) struct Edge {
    tasks: Tasks,
    pub(super) link: Link,
    pub(super) sinks: Vec<JoinHandle<Result<(), deliver::Error>>>,
}

impl Edge {
    pub(super) fn start(pki: &Pki, agent: &str, centrals: &[SocketAddr]) -> Edge {
        Edge::start_with(pki, agent, centrals, Arc::new(|_| None))
    }

    pub(super) fn start_with(pki: &Pki, agent: &str, centrals: &[SocketAddr], schemas: SchemaSource) -> Edge {
        let settings = crate::deliver::link::Settings {
            centrals: centrals.iter().map(|central| central.to_string()).collect(),
            ca_certificate: pki.path("ca.pem"),
            certificate: pki.path(&format!("{agent}.pem")),
            private_key: pki.path(&format!("{agent}.key")),
            in_flight_max_bytes: 64 << 10,
            connect_timeout: Duration::from_millis(1_000),
            keep_alive: Duration::from_millis(150),
            retry_max: Duration::from_millis(300),
        };
        let tasks = Tasks::new();
        let agent = Agent { id: agent.into(), epoch: EPOCH, streams: vec!["playback".into()] };
        let link = Link::start(settings, agent, schemas, &tasks).unwrap();
        Edge { tasks, link, sinks: Vec::new() }
    }

    pub(super) fn forward(&mut self, stream: &str, lane: &Lane) {
        let mut sink = self.link.sink("link".into());
        let (mut feed, stop) = (lane.feed(stream), self.tasks.stop().clone());
        self.sinks.push(self.tasks.spawn("sink", async move { sink.run(&mut feed, stop).await }));
    }

    /// Waits until every sink's feed has ended and all was acknowledged.
    pub(super) async fn finish(&mut self) {
        for sink in self.sinks.drain(..) {
            within("sink ends", sink).await.unwrap().unwrap();
        }
    }

    pub(super) async fn stop(mut self) {
        assert!(self.tasks.shut_down(DEADLINE).await, "a task outlives the shutdown");
        self.finish().await;
    }

    /// Ends everything at once, in the middle of whatever it was doing.
    pub(super) async fn kill(self) {
        self.sinks.iter().for_each(|sink| sink.abort());
        assert!(self.tasks.shut_down(DEADLINE).await, "a task outlives the shutdown");
    }
}

/// An edge without manners: speaks frames by hand.
pub(super) struct RawEdge {
    pub(super) connection: quinn::Connection,
    _control: (SendStream, FrameReader),
    _endpoint: quinn::Endpoint,
}

pub(super) struct RawLane {
    pub(super) send: SendStream,
    pub(super) reader: FrameReader,
}

pub(super) fn hello(agent: &str) -> Hello {
    Hello { major: PROTOCOL_MAJOR, agent: agent.into(), epoch: EPOCH, program: "test".into(), ..Hello::default() }
}

impl RawEdge {
    pub(super) async fn connect(pki: &Pki, agent: &str, central: SocketAddr) -> RawEdge {
        let (edge, welcome) = RawEdge::greet(pki.client(agent), central, hello(agent)).await.unwrap();
        assert!(welcome.accepted, "{}", welcome.refusal);
        edge
    }

    pub(super) async fn greet(
        config: quinn::ClientConfig,
        central: SocketAddr,
        hello: Hello,
    ) -> Result<(RawEdge, Welcome), Error> {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connection = endpoint.connect_with(config, central, "localhost").unwrap().await?;
        let (mut send, recv) = connection.open_bi().await?;
        let mut reader = FrameReader::new(recv);
        frame::write(&mut send, &Frame::Hello(hello)).await?;
        match reader.next().await?.ok_or(Error::Cut)? {
            Frame::Welcome(welcome) => {
                Ok((RawEdge { connection, _control: (send, reader), _endpoint: endpoint }, welcome))
            }
            other => Err(other.unexpected("welcome")),
        }
    }

    /// Opens a lane; returns central's answer.
    pub(super) async fn open(&self, stream: &str) -> Result<(RawLane, Frame), Error> {
        let (mut send, recv) = self.connection.open_bi().await?;
        let mut reader = FrameReader::new(recv);
        frame::write(&mut send, &Frame::LaneOpen(LaneOpen { stream: stream.into(), epoch: EPOCH })).await?;
        let answer = reader.next().await?.ok_or(Error::Cut)?;
        Ok((RawLane { send, reader }, answer))
    }

    /// Opens a lane that central must accept; returns the last durable seq.
    pub(super) async fn ready(&self, stream: &str) -> (RawLane, Seq) {
        match within("lane opens", self.open(stream)).await.unwrap() {
            (lane, Frame::LaneReady(LaneReady { last })) => (lane, last),
            (_, other) => panic!("{other:?}"),
        }
    }
}

impl RawLane {
    pub(super) async fn send(&mut self, block: &Block) -> Result<(), Error> {
        let frame = Frame::Block { seq: block.origin.seq, stored: block.encode() };
        frame::write(&mut self.send, &frame).await
    }

    /// Waits for an ack of `seq` or more.
    pub(super) async fn acked(&mut self, seq: Seq) {
        within("ack", async {
            loop {
                match self.reader.next().await.unwrap() {
                    Some(Frame::Ack(ack)) if ack.seq >= seq => return,
                    Some(Frame::Ack(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
    }
}
