//! The whole road with the real binary: files -> edge -> link -> central -> plugins -> sinks, while processes are killed,
//! the link is cut and a sink is down. Afterwards every id is in every sink exactly once, and the ledger balances.
//!
//! `E2E_SEED` repeats a run; `E2E_LINES` makes it longer (`make e2e LINES=1000000` is the long campaign).

#![allow(clippy::unwrap_used)] // in a test, a panic is how it fails

#[path = "fakes/mod.rs"]
mod fakes;
#[path = "harness/mod.rs"]
mod harness;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fakes::bigquery::BigQuery;
use fakes::elastic::Elastic;
use harness::{Node, Random, free_port, sluice, wait_until, workspace};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;

/// What a test expects to find in the logs because of what it does to the nodes.
/// Whole messages: a warning that blocks were left out or that a peer broke the protocol must fail the test.
const ANNOUNCED: &[&str] = &[
    "link lost central=",
    "link not connected: trying again",
    "lane not forwarded: trying again",
    "link handshake failed",
    "delivery paused, will try again",
];

struct Rig {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    elastic: Elastic,
    /// Present where the stream goes to a warehouse as well.
    warehouse: Option<BigQuery>,
    edge: Node,
    central: Node,
    cable: Cable,
}

impl Rig {
    fn start(with_warehouse: bool) -> Rig {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let elastic = runtime.block_on(Elastic::start());
        let warehouse = with_warehouse.then(|| runtime.block_on(BigQuery::start()));
        let at = directory.path();
        let pki = at.join("pki");
        sluice(&["pki", "init", "--dir", text(&pki), "--name", "localhost"]);
        sluice(&["pki", "agent", "edge-1", "--dir", text(&pki)]);
        std::fs::create_dir(at.join("logs")).expect("log folder");
        let central_port = free_port();
        let cable = Cable::lay(SocketAddr::from(([127, 0, 0, 1], central_port)));
        let central = Node::new(at, "central", &central_yaml(at, central_port, &elastic.url, warehouse.as_ref()));
        let edge = Node::new(at, "edge", &edge_yaml(at, cable.address.port()));
        let mut rig = Rig { directory, runtime, elastic, warehouse, edge, central, cable };
        rig.central.start();
        rig.edge.start();
        rig.central.wait_ready();
        rig.edge.wait_ready();
        rig
    }

    fn logs(&self) -> PathBuf {
        self.directory.path().join("logs")
    }

    /// Waits until nothing is in flight anywhere, then compares every book with what was written.
    fn settle_and_check(&mut self, written: &Written, deadline: Duration) {
        let unique = written.ids.len();
        wait_until(deadline, &format!("{unique} documents"), || self.elastic.documents() >= unique);
        wait_until(deadline, "nothing in flight", || {
            [&self.edge, &self.central].iter().all(|node| node.ledger().is_some_and(|books| in_flight(&books) == 0))
        });
        let edge = self.edge.ledger().expect("edge answers");
        let central = self.central.ledger().expect("central answers");
        for books in [&edge, &central] {
            assert_eq!(books["balanced"], true, "{books:#}");
        }
        let (at_edge, at_central) = (&edge["streams"]["playback"], &central["streams"]["playback"]);
        assert_eq!(at_edge["received"]["edge-1"], written.good, "{edge:#}");
        assert_eq!(at_edge["refused"], written.malformed, "{edge:#}");
        assert_eq!(at_central["received"]["edge-1"], written.good, "{central:#}");
        assert_eq!(at_central["kept"], unique, "{central:#}");
        assert_eq!(at_central["duplicate"], written.good - unique as u64, "{central:#}");
        check_ids("elasticsearch", written, self.elastic_ids());
        if let Some(warehouse) = &self.warehouse {
            check_ids("bigquery", written, warehouse_ids(warehouse));
        }
        assert_eq!(self.central.stop().code(), Some(0), "{}", self.central.log_tail());
        assert_eq!(self.edge.stop().code(), Some(0), "{}", self.edge.log_tail());
        check_ids("parquet", written, parquet_ids(&self.directory.path().join("parquet")));
        for node in [&self.edge, &self.central] {
            assert_eq!(node.unannounced(ANNOUNCED), Vec::<String>::new(), "{}", node.name);
        }
    }

    fn elastic_ids(&self) -> HashMap<String, u32> {
        let store = self.elastic.store();
        assert_eq!(store.violations, Vec::<String>::new());
        let mut ids = HashMap::new();
        for document in store.documents.values().flat_map(HashMap::values) {
            let id = document["event_id"].as_str().expect("every document has its id");
            *ids.entry(id.to_owned()).or_default() += 1;
            let told = document.to_string();
            assert!(!told.contains("@example.com"), "personal data got through: {told}");
        }
        ids
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn in_flight(books: &serde_json::Value) -> u64 {
    let streams = books["streams"].as_object().into_iter().flat_map(|streams| streams.values());
    let waiting = streams.map(|stream| {
        let sinks = stream["sinks"].as_object().into_iter().flat_map(|sinks| sinks.values());
        stream["undecided"].as_u64().unwrap_or(1)
            + sinks.map(|sink| sink["in_flight"].as_u64().unwrap_or(1)).sum::<u64>()
    });
    waiting.sum()
}

/// Missing, repeated and unknown ids, apart.
fn check_ids(sink: &str, written: &Written, found: HashMap<String, u32>) {
    let missing: Vec<_> = written.ids.iter().filter(|id| !found.contains_key(*id)).take(5).collect();
    let repeated: Vec<_> = found.iter().filter(|(_, count)| **count > 1).take(5).collect();
    let unknown: Vec<_> = found.keys().filter(|id| !written.ids.contains(*id)).take(5).collect();
    assert!(
        missing.is_empty() && repeated.is_empty() && unknown.is_empty() && found.len() == written.ids.len(),
        "{sink}: {} ids of {}; missing {missing:?}, repeated {repeated:?}, unknown {unknown:?}",
        found.len(),
        written.ids.len()
    );
}

fn parquet_ids(directory: &Path) -> HashMap<String, u32> {
    let mut ids = HashMap::new();
    let pattern = format!("{}/**/*.parquet", directory.display());
    for path in glob::glob(&pattern).expect("a pattern").flatten() {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        assert!(!hidden, "unfinished file left behind: {}", path.display());
        let reader = SerializedFileReader::new(File::open(&path).expect("file opens")).expect("a Parquet file");
        let schema = reader.metadata().file_metadata().schema_descr().root_schema();
        let column = schema.get_fields().iter().position(|field| field.name() == "event_id").expect("a column of ids");
        for row in reader.get_row_iter(None).expect("rows") {
            let id = row.expect("a row").get_string(column).expect("an id").clone();
            *ids.entry(id).or_default() += 1;
        }
    }
    ids
}

fn warehouse_ids(warehouse: &BigQuery) -> HashMap<String, u32> {
    let store = warehouse.store();
    assert_eq!(store.violations, Vec::<String>::new());
    let mut ids = HashMap::new();
    for row in store.rows.values().flat_map(HashMap::values).flatten() {
        let id = row["event_id"].as_str().expect("every row has its id");
        *ids.entry(id.to_owned()).or_default() += 1;
    }
    ids
}

fn edge_yaml(at: &Path, link_port: u16) -> String {
    let (at, proto) = (at.display(), workspace().join("config/proto"));
    format!(
        r#"role: edge
agent: edge-1
data: {at}/edge-data
schemas: {{ proto_roots: ["{proto}"] }}
sources:
  files:
    player: {{ stream: playback, include: ["{at}/logs/player.log*"], format: json, poll: 50ms, gather: {{ block_max_age: 200ms }} }}
streams:
  playback: {{ message: demo.v1.PlaybackEvent }}
link:
  centrals: ["localhost:{link_port}"]
  ca_certificate: {at}/pki/ca.pem
  certificate: {at}/pki/edge-1.pem
  private_key: {at}/pki/edge-1.key
  retry_max: 500ms
"#,
        proto = proto.display()
    )
}

fn central_yaml(at: &Path, link_port: u16, elastic: &str, warehouse: Option<&BigQuery>) -> String {
    let (at, proto, plugins) = (at.display(), workspace().join("config/proto"), workspace().join("target/plugins"));
    let warehouse_sink = warehouse.map_or(String::new(), |fake| {
        let (rest, grpc) = (&fake.rest_url, &fake.grpc_url);
        format!(
            r#"  warehouse: {{ bigquery: {{ project: p, dataset: d, auth: none, rest_url: "{rest}", grpc_url: "{grpc}", timeout: 5s, retry_max: 500ms }} }}"#
        )
    });
    let sinks = if warehouse.is_some() { "archive, search, warehouse" } else { "archive, search" };
    format!(
        r#"role: central
agent: central-1
data: {at}/central-data
schemas: {{ proto_roots: ["{proto}"] }}
sources:
  link:
    listen: "127.0.0.1:{link_port}"
    ca_certificate: {at}/pki/ca.pem
    certificate: {at}/pki/central.pem
    private_key: {at}/pki/central.key
streams:
  playback:
    message: demo.v1.PlaybackEvent
    transforms:
      - {{ name: redact, path: "{plugins}/redact.wasm", config: {{ fields: [email, client_ip], patterns: [card, email] }} }}
    dedup:
      plugin: {{ name: dedup-key, path: "{plugins}/dedup-key.wasm", config: {{ fields: [event_id] }} }}
      window: 24h
    sinks: [{sinks}]
sinks:
  archive: {{ parquet: {{ directory: {at}/parquet, file_max: 8MiB, file_max_age: 500ms }} }}
  search: {{ elasticsearch: {{ urls: ["{elastic}"], index: "logs-{{stream}}", timeout: 5s, retry_max: 500ms }} }}
{warehouse_sink}
"#,
        proto = proto.display(),
        plugins = plugins.display()
    )
}

/// What the writer put into the log.
#[derive(Default)]
struct Written {
    ids: BTreeSet<String>,
    /// Lines that parse, repeated ids included.
    good: u64,
    malformed: u64,
}

/// Writes playback events, some repeated, some malformed, and rotates the log by renaming it.
struct Writer {
    folder: PathBuf,
    file: File,
    rotations: u32,
    lines_in_file: u32,
    written: Written,
}

impl Writer {
    fn new(folder: PathBuf) -> Writer {
        let file = File::create(folder.join("player.log")).expect("log opens");
        Writer { folder, file, rotations: 0, lines_in_file: 0, written: Written::default() }
    }

    fn write(&mut self, lines: u64, random: &mut Random) {
        let mut chunk = String::with_capacity(lines as usize * 320);
        for _ in 0..lines {
            self.line(random, &mut chunk);
            self.lines_in_file += 1;
            if self.lines_in_file >= 20_000 {
                self.flush(&mut chunk);
                self.rotate();
            }
        }
        self.flush(&mut chunk);
    }

    fn line(&mut self, random: &mut Random, out: &mut String) {
        use std::fmt::Write as _;
        let number = self.written.good;
        if random.below(200) == 0 {
            self.written.malformed += 1;
            out.push_str("{\"event_id\": \"cut off\n");
            return;
        }
        let repeats = number > 10 && random.below(10) == 0;
        let id = if repeats { random.below(number) } else { number };
        let second = number / 1000 % 60;
        let _ = writeln!(
            out,
            r#"{{"event_id":"e-{id}","time":"2026-11-23T10:00:{second:02}.125Z","user_id":"u-{user}","session_id":"s-{user}","video_id":"v-{video}","action":"ACTION_PLAY","position_ms":{position},"bitrate_kbps":4500,"device":"tv","app_version":"7.12.1","country":"KR","email":"user{user}@example.com","client_ip":"10.1.2.3","message":"ok"}}"#,
            user = id % 5000,
            video = id % 300,
            position = id % 100_000,
        );
        self.written.ids.insert(format!("e-{id}"));
        self.written.good += 1;
    }

    fn flush(&mut self, chunk: &mut String) {
        self.file.write_all(chunk.as_bytes()).expect("log is written");
        chunk.clear();
    }

    /// Names that the source's pattern does not match, as logrotate makes them.
    fn rotate(&mut self) {
        self.rotations += 1;
        let current = self.folder.join("player.log");
        std::fs::rename(&current, self.folder.join(format!("player.log.{}", self.rotations))).expect("rotated");
        self.file = File::create(current).expect("log opens");
        self.lines_in_file = 0;
    }
}

/// UDP between edge and central that can be cut.
struct Cable {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Cable {
    fn lay(central: SocketAddr) -> Cable {
        let outside = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let address = outside.local_addr().expect("bound");
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        std::thread::Builder::new()
            .name("cable".into())
            .spawn(move || {
                // A peer for each edge life: a new source port is a new connection to central.
                let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
                let mut datagram = [0; 65_535];
                while let Ok((len, from)) = outside.recv_from(&mut datagram) {
                    if cut.load(Ordering::Relaxed) {
                        continue;
                    }
                    let peer = peers.entry(from).or_insert_with(|| {
                        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("loopback"));
                        let (back, outside, cut) =
                            (Arc::clone(&inside), outside.try_clone().expect("clones"), Arc::clone(&cut));
                        let relay = move || {
                            let mut datagram = [0; 65_535];
                            loop {
                                match back.recv_from(&mut datagram) {
                                    Ok((len, _)) if !cut.load(Ordering::Relaxed) => {
                                        let _ = outside.send_to(&datagram[..len], from);
                                    }
                                    // Refused while central is down: the next datagram may get through.
                                    Ok(_) | Err(_) => {}
                                }
                            }
                        };
                        std::thread::Builder::new().name("cable back".into()).spawn(relay).expect("thread");
                        inside
                    });
                    let _ = peer.send_to(&datagram[..len], central);
                }
            })
            .expect("thread");
        Cable { address, is_cut }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

fn lines(default: u64) -> u64 {
    std::env::var("E2E_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(default)
}

/// Lets the nodes work for a random moment.
fn a_while(random: &mut Random, max_ms: u64) {
    let end = Instant::now() + Duration::from_millis(random.below(max_ms));
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(rest);
    }
}

#[test]
fn every_record_arrives_once_though_both_nodes_are_killed_three_times() {
    let mut random = Random::from_environment();
    let mut rig = Rig::start(true);
    let mut writer = Writer::new(rig.logs());
    let chunk = lines(60_000) / 8;
    // Edge, central, and both at once, in three rounds.
    for kill in [1, 2, 3, 0, 3, 1, 2, 0] {
        writer.write(chunk, &mut random);
        a_while(&mut random, 600);
        if kill & 1 != 0 {
            rig.edge.kill();
        }
        if kill & 2 != 0 {
            rig.central.kill();
            rig.central.start();
        }
        if kill & 1 != 0 {
            writer.write(chunk / 10, &mut random);
            rig.edge.start();
        }
    }
    rig.edge.wait_ready();
    rig.central.wait_ready();
    rig.settle_and_check(&writer.written, Duration::from_secs(300));
}

#[test]
fn a_cut_link_and_a_sink_that_is_down_cost_only_time() {
    let mut random = Random::from_environment();
    let mut rig = Rig::start(true);
    let mut writer = Writer::new(rig.logs());
    let chunk = lines(40_000) / 4;
    writer.write(chunk, &mut random);
    wait_until(Duration::from_secs(60), "the first documents", || rig.elastic.documents() > 0);

    rig.cable.cut();
    writer.write(chunk, &mut random);
    let received =
        |node: &Node| node.ledger().and_then(|books| books["streams"]["playback"]["received"]["edge-1"].as_u64());
    wait_until(Duration::from_secs(60), "the edge to journal what it cannot send", || {
        received(&rig.edge) == Some(writer.written.good)
    });
    rig.cable.mend();

    rig.runtime.block_on(rig.elastic.stop());
    writer.write(chunk, &mut random);
    wait_until(Duration::from_secs(120), "the archive to go on while search is down", || {
        let books = rig.central.ledger();
        books.is_some_and(|books| {
            let stream = &books["streams"]["playback"];
            stream["received"]["edge-1"] == writer.written.good && stream["sinks"]["archive"]["in_flight"] == 0
        })
    });
    rig.central.kill();
    rig.central.start();
    rig.runtime.block_on(rig.elastic.resume());
    writer.write(chunk, &mut random);
    rig.central.wait_ready();
    rig.settle_and_check(&writer.written, Duration::from_secs(180));
}

/// The measured run: no kills, and what it cost. Prints figures, asserts only completeness.
#[test]
fn a_run_without_faults_is_complete_and_says_what_it_cost() {
    let mut random = Random::from_environment();
    let mut rig = Rig::start(false);
    let mut writer = Writer::new(rig.logs());
    let count = lines(50_000);
    let started = Instant::now();
    writer.write(count, &mut random);
    let unique = writer.written.ids.len();
    wait_until(Duration::from_secs(600), "all documents", || rig.elastic.documents() >= unique);
    let seconds = started.elapsed().as_secs_f64();
    let bytes: u64 = std::fs::read_dir(rig.logs())
        .expect("log folder")
        .flatten()
        .filter_map(|f| f.metadata().ok())
        .map(|m| m.len())
        .sum();
    let megabytes = bytes as f64 / 1e6;
    println!(
        "{count} lines, {megabytes:.0} MB in {seconds:.1} s: {:.1} MB/s; CPU seconds: edge {:.1}, central {:.1}; peak memory MiB: edge {}, central {}",
        megabytes / seconds,
        rig.edge.cpu_seconds(),
        rig.central.cpu_seconds(),
        rig.edge.peak_memory_mib(),
        rig.central.peak_memory_mib(),
    );
    rig.settle_and_check(&writer.written, Duration::from_secs(60));
}
