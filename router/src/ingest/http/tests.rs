//! Real requests over loopback.

use std::io::Write as _;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::ingest::gather;
use crate::ingest::tests::{journal, log_line, records, text};
use crate::record::FramesBuilder;

const DEADLINE: Duration = Duration::from_secs(30);
const RECORDS: &str = "/v1/streams/s/records";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

struct Bench {
    address: SocketAddr,
    journal: Journal,
    tasks: Tasks,
    in_flight: Arc<Semaphore>,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(|_, _| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings, &mut Patience)) -> Bench {
        let (journal, directory) = journal();
        let mut settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            body_max_bytes: 100_000,
            in_flight_max_bytes: 1_000_000,
            gather: gather::Settings { block_max_bytes: 10_000, block_max_age: Duration::from_millis(1) },
        };
        let mut patience = PATIENCE;
        change(&mut settings, &mut patience);
        let tasks = Tasks::new();
        let streams = BTreeMap::from([("s".into(), log_line()), ("t".into(), log_line())]);
        let listener = TcpListener::bind(settings.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service::start(&settings, streams, (journal.clone(), Clock::system()), patience, &tasks);
        let in_flight = Arc::clone(&service.in_flight);
        tasks.spawn("test-accept", accept(listener, Arc::new(service), tasks.clone()));
        Bench { address, journal, tasks, in_flight, _directory: directory }
    }

    /// Sends a request on a connection of its own.
    async fn send<B>(&self, request: Request<B>) -> (StatusCode, HeaderMap, Value)
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let socket = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(socket).await.unwrap();
        Tasks::new().spawn("test-client", connection);
        let response = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
        read(response).await
    }

    async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (StatusCode, HeaderMap, Value) {
        self.send(post(path, headers, Full::new(body.into()))).await
    }

    async fn check(&self, headers: &[(&str, &str)], body: impl Into<Bytes>, status: u16, expected: Value) {
        let (code, _, answer) = self.post(RECORDS, headers, body).await;
        assert_eq!((code.as_u16(), answer), (status, expected));
    }

    fn lines(&self, stream: &str) -> Vec<String> {
        records(&self.journal, stream).iter().map(|record| text(record, "line")).collect()
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> (StatusCode, HeaderMap, Value) {
    let (head, body) = response.into_parts();
    let body = timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
    (head.status, head.headers, serde_json::from_slice(&body).unwrap())
}

fn post<B>(path: &str, headers: &[(&str, &str)], body: B) -> Request<B> {
    let mut request = Request::post(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn line(text: &str) -> String {
    format!("{{\"line\":\"{text}\"}}\n")
}

fn frames(lines: &[&str]) -> Bytes {
    let mut frames = FramesBuilder::default();
    for line in lines {
        let mut message = Vec::new();
        crate::schema::json::from_json(&log_line(), format!("{{\"line\":\"{line}\"}}").as_bytes(), &mut message)
            .unwrap();
        frames.push(&message);
    }
    frames.finish().bytes().clone()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn records_of_every_kind_are_durable_when_the_answer_comes() {
    let bench = Bench::new().await;
    let body = line("1") + "\r\n" + &line("2").replace('\n', "\r\n") + "{\"line\":\"3\"}";
    bench.check(&[NDJSON], body, 200, json!({"accepted": 3})).await;
    assert_eq!(bench.lines("s"), ["1", "2", "3"]);
    bench.check(&[("content-type", "Application/JSON; charset=utf-8")], line("4"), 200, json!({"accepted": 1})).await;
    bench.check(&[PROTOBUF], frames(&["5", "6"]), 200, json!({"accepted": 2})).await;
    bench
        .check(&[("content-type", "application/x-protobuf-delimited")], frames(&["7"]), 200, json!({"accepted": 1}))
        .await;
    bench.check(&[NDJSON, ("content-encoding", "gzip")], gzip(line("8").as_bytes()), 200, json!({"accepted": 1})).await;
    let zstd = zstd::bulk::compress(line("9").as_bytes(), 3).unwrap();
    bench.check(&[NDJSON, ("content-encoding", "zstd")], zstd, 200, json!({"accepted": 1})).await;
    assert_eq!(bench.lines("s"), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    bench.check(&[NDJSON], "\n\n", 200, json!({"accepted": 0})).await;
    let (_, _, answer) = bench.post("/v1/streams/t/records", &[NDJSON], line("10")).await;
    assert_eq!((answer, bench.lines("t")), (json!({"accepted": 1}), vec!["10".into()]));
}

#[tokio::test]
async fn http2_is_spoken_as_well() {
    let bench = Bench::new().await;
    let socket = TokioIo::new(TcpStream::connect(bench.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), socket).await.unwrap();
    Tasks::new().spawn("test-client", connection);
    let path = format!("http://test{RECORDS}");
    let requests =
        (0..20).map(|i| sender.send_request(post(&path, &[NDJSON], Full::new(Bytes::from(line(&i.to_string()))))));
    for response in futures_util::future::join_all(requests).await {
        let (status, _, answer) = read(response.unwrap()).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({"accepted": 1})));
    }
    assert_eq!(bench.lines("s").len(), 20);
}

#[tokio::test]
async fn refused_records_are_named_and_the_rest_is_kept() {
    let bench = Bench::new().await;
    let body = line("1") + "nonsense\n\n{\"line\":[]}\n" + &line("2");
    let (status, _, answer) = bench.post(RECORDS, &[NDJSON], body).await;
    assert_eq!(
        (status, &answer["accepted"], &answer["refused_count"]),
        (StatusCode::BAD_REQUEST, &json!(2), &json!(2))
    );
    let indexes: Vec<&Value> = answer["refused"].as_array().unwrap().iter().map(|refused| &refused["index"]).collect();
    assert_eq!(indexes, [&json!(1), &json!(2)]);
    assert!(answer["refused"][0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(bench.lines("s"), ["1", "2"]);
    let letters = bench.journal.dead_letters(Some("s"), 9).unwrap();
    assert_eq!(
        letters.iter().map(|letter| &letter.bytes[..]).collect::<Vec<_>>(),
        [&b"nonsense"[..], b"{\"line\":[]}"]
    );
}

#[tokio::test]
async fn broken_frames_cost_what_is_behind_the_break() {
    let bench = Bench::new().await;
    let mut body = frames(&["1"]).to_vec();
    // Field 1, a text that is longer than its message: no message. The frame is whole.
    body.extend_from_slice(&[2, 0x0a, 9]);
    body.extend_from_slice(&frames(&["2"]));
    let at = body.len();
    body.extend_from_slice(&[200, 1, 2, 3]);
    let (status, _, answer) = bench.post(RECORDS, &[PROTOBUF], body).await;
    assert_eq!(
        (status, &answer["accepted"], &answer["refused_count"]),
        (StatusCode::BAD_REQUEST, &json!(2), &json!(2))
    );
    assert_eq!(answer["refused"][0]["index"], 1);
    let reason = format!("length at byte {at} is cut short or points past the end of the body");
    assert_eq!(answer["refused"][1], json!({"index": 3, "reason": reason}));
    assert_eq!(bench.lines("s"), ["1", "2"]);
    assert_eq!(bench.journal.dead_letters(Some("s"), 9).unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_of_nothing_but_junk_is_bounded() {
    let bench = Bench::new().await;
    let (status, _, answer) = bench.post(RECORDS, &[NDJSON], "x\n".repeat(5_000)).await;
    assert_eq!((status, &answer["refused_count"]), (StatusCode::BAD_REQUEST, &json!(1_000)));
    assert_eq!((answer["refused"].as_array().unwrap().len(), &answer["unread_from"]), (100, &json!(1_000)));
    assert_eq!(bench.journal.counts("s").unwrap().refused, 1_000);
}

#[tokio::test]
async fn what_cannot_be_taken_is_told_why() {
    let bench = Bench::new().await;
    let check = async |path: &str, headers: &[(&str, &str)], body: &[u8], status: u16, part: &str| {
        let (code, _, answer) = bench.post(path, headers, body.to_vec()).await;
        let error = answer["error"].as_str().unwrap();
        assert!(code.as_u16() == status && error.contains(part), "{path} {headers:?}: {code} {error}");
    };
    check("/", &[NDJSON], b"", 404, "POST /v1/streams/{stream}/records").await;
    check("/v1/streams//records", &[NDJSON], b"", 404, "nothing is here").await;
    check("/v1/streams/a/b/records", &[NDJSON], b"", 404, "nothing is here").await;
    check("/v1/streams/u/records", &[NDJSON], b"", 404, r#"stream "u" is not known here; known: s, t"#).await;
    check(RECORDS, &[], b"", 415, "allowed: application/x-protobuf, ").await;
    check(RECORDS, &[("content-type", "text/plain")], b"", 415, "text/plain").await;
    check(RECORDS, &[NDJSON, ("content-encoding", "br")], b"", 415, "allowed: gzip, zstd").await;
    check(RECORDS, &[NDJSON], &[b' '; 100_001], 413, "100000 bytes").await;
    check(RECORDS, &[NDJSON, ("content-encoding", "gzip")], b"junk", 400, "gzip: ").await;
    check(RECORDS, &[NDJSON, ("content-encoding", "zstd")], b"junk", 400, "zstd: ").await;
    let bomb = vec![b' '; 200_000];
    check(RECORDS, &[NDJSON, ("content-encoding", "gzip")], &gzip(&bomb), 413, "decompressed").await;
    let bomb = zstd::bulk::compress(&bomb, 1).unwrap();
    check(RECORDS, &[NDJSON, ("content-encoding", "zstd")], &bomb, 413, "decompressed").await;
    let cut = &gzip(line("1").as_bytes())[..20];
    check(RECORDS, &[NDJSON, ("content-encoding", "gzip")], cut, 400, "gzip: ").await;
    assert!(bench.lines("s").is_empty());
    let get = Request::get(RECORDS).header("host", "test").body(Full::new(Bytes::new())).unwrap();
    let (status, headers, _) = bench.send(get).await;
    assert_eq!((status, headers.get("allow").unwrap().as_bytes()), (StatusCode::METHOD_NOT_ALLOWED, &b"POST"[..]));
}

#[tokio::test]
async fn a_chunked_body_is_bounded_as_it_comes() {
    let bench = Bench::new().await;
    let chunks = |count: usize| {
        let chunk = || Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![b' '; 10_000])));
        StreamBody::new(futures_util::stream::iter((0..count).map(move |_| chunk())))
    };
    let (status, _, _) = bench.send(post(RECORDS, &[NDJSON], chunks(10))).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, _) = bench.send(post(RECORDS, &[NDJSON], chunks(11))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

/// Writes `request` as it is and returns what comes back until the connection is closed.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(DEADLINE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_without_length_is_asked_for_it() {
    let bench = Bench::new().await;
    let request =
        format!("POST {RECORDS} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
    let answer = raw(bench.address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 411 "), "{answer}");
}

#[tokio::test]
async fn clients_that_take_their_time_are_let_go() {
    let short = Duration::from_millis(50);
    let bench = Bench::with(|_, patience| {
        (patience.headers, patience.pause, patience.idle) = (short, short, 2 * short);
    })
    .await;
    let head = format!("POST {RECORDS} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n");
    for (request, expected) in [
        // Nothing at all; what may become HTTP/2; half a head; half a body.
        ("", ""),
        ("PRI * HT", ""),
        (&head, ""),
        (&format!("{head}content-length: 10\r\n\r\n{{"), "HTTP/1.1 408 "),
    ] {
        let answer = raw(bench.address, request).await;
        assert!(answer.starts_with(expected), "{request}: {answer}");
    }
    bench.check(&[NDJSON], line("1"), 200, json!({"accepted": 1})).await;
}

#[tokio::test]
async fn too_much_in_flight_is_sent_away_for_a_while() {
    let bench = Bench::with(|settings, _| settings.in_flight_max_bytes = 100_000).await;
    let (chunks, body) = mpsc::channel(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let large = post(RECORDS, &[NDJSON, ("content-length", "99990")], body);
    let first = bench.send(large);
    let mut first = std::pin::pin!(first);
    let chunk = |text: String| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(text)));
    chunks.send(chunk(line("first"))).await.unwrap();
    let refused = async {
        while bench.in_flight.available_permits() > 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.post(RECORDS, &[NDJSON], line("other")).await
    };
    let (status, headers, _) = tokio::select! {
        refused = timeout(DEADLINE, refused) => refused.unwrap(),
        answer = &mut first => panic!("{answer:?}"),
    };
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers.get("retry-after").unwrap(), "1");
    let rest = " ".repeat(99_990 - line("first").len());
    let rest = async {
        chunks.send(chunk(rest)).await.unwrap();
        drop(chunks);
    };
    let ((status, _, answer), ()) = tokio::join!(first, rest);
    assert_eq!((status, answer), (StatusCode::OK, json!({"accepted": 1})));
    // What it held is free again.
    bench.check(&[NDJSON], line("last"), 200, json!({"accepted": 1})).await;
    assert_eq!(bench.lines("s"), ["first", "last"]);
}

#[tokio::test]
async fn answers_come_with_the_block_and_stopping_answers_all() {
    let bench = Bench::with(|settings, patience| {
        settings.gather.block_max_age = Duration::from_secs(3600);
        patience.durable = Duration::from_secs(3600);
    })
    .await;
    // Three of these are a block, which the fourth closes and has to wait for a block of its own.
    let body = line(&"x".repeat(3_000));
    let requests = (0..4).map(|_| bench.post(RECORDS, &[NDJSON], body.clone()));
    let mut requests: futures_util::stream::FuturesUnordered<_> = requests.collect();
    for _ in 0..3 {
        let (status, _, _) = timeout(DEADLINE, requests.next()).await.unwrap().unwrap();
        assert_eq!((status, bench.lines("s").len()), (StatusCode::OK, 3));
    }
    assert!(requests.next().now_or_never().is_none());
    bench.tasks.stop().cancel();
    let (status, _, _) = timeout(DEADLINE, requests.next()).await.unwrap().unwrap();
    assert_eq!((status, bench.lines("s").len()), (StatusCode::OK, 4));
    assert!(bench.tasks.shut_down(DEADLINE).await);
    assert!(TcpStream::connect(bench.address).await.is_err());
}

/// A service without a listener.
fn service(journal: &Journal, tasks: &Tasks, patience: Patience) -> Service {
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        body_max_bytes: 1_000,
        in_flight_max_bytes: 1_000,
        gather: gather::Settings { block_max_bytes: 10_000, block_max_age: Duration::from_secs(3600) },
    };
    let streams = BTreeMap::from([("s".into(), log_line())]);
    Service::start(&settings, streams, (journal.clone(), Clock::system()), patience, tasks)
}

async fn ask(service: &Service) -> (u16, String) {
    let length = line("1").len().to_string();
    let request = post(RECORDS, &[NDJSON, ("content-length", &length)], Full::new(Bytes::from(line("1"))));
    let response = service.answer(request).await.into_response();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_late_journal_is_told_and_keeps_the_memory_until_it_is_done() {
    let (journal, _directory) = journal();
    let tasks = Tasks::new();
    let service = service(&journal, &tasks, Patience { durable: Duration::from_millis(20), ..PATIENCE });
    let (status, body) = ask(&service).await;
    assert!(status == 503 && body.contains("may yet become so"), "{status} {body}");
    assert_eq!(service.in_flight.available_permits(), 1_000 - line("1").len());
    let in_flight = Arc::clone(&service.in_flight);
    drop(service);
    assert!(tasks.shut_down(DEADLINE).await);
    assert_eq!((in_flight.available_permits(), records(&journal, "s").len()), (1_000, 1));
}

#[tokio::test]
async fn a_stopping_node_and_a_dead_gatherer_are_told() {
    let (journal, _directory) = journal();
    let tasks = Tasks::new();
    let mut service = service(&journal, &tasks, PATIENCE);
    let origin = service.inputs.values().next().unwrap().origin.clone();
    let settings = gather::Settings { block_max_bytes: 1, block_max_age: Duration::ZERO };
    let (feeder, gatherer) = Gatherer::new(origin.clone(), settings, journal.clone());
    drop(gatherer);
    service.inputs.insert("s".into(), Input { origin, feeder });
    let (status, body) = ask(&service).await;
    assert!(status == 503 && body.contains("journal stopped"), "{status} {body}");
    tasks.stop().cancel();
    let (status, body) = ask(&service).await;
    assert!(status == 503 && body.contains("node is stopping"), "{status} {body}");
    assert_eq!(service.in_flight.available_permits(), 1_000);
    assert!(records(&journal, "s").is_empty());
}
