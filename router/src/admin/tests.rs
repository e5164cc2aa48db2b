use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::fleet::ledger::{SinkLedger, StreamLedger};

/// What a test makes the node say.
struct Said {
    live: Result<(), String>,
    ready: Mutex<Result<(), Vec<String>>>,
    ledger: Result<Ledger, String>,
}

impl Status for Said {
    fn live(&self) -> Result<(), String> {
        self.live.clone()
    }
    fn ready(&self) -> Result<(), Vec<String>> {
        self.ready.lock().unwrap().clone()
    }
    fn ledger(&self) -> Result<Ledger, String> {
        self.ledger.clone()
    }

    fn dead_letters(&self, stream: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, String> {
        let letter = |text: &'static [u8], id| DeadLetter {
            stream: stream.unwrap_or("all").into(),
            stage: "parse".into(),
            reason: "no JSON".to_owned(),
            id,
            schema: None,
            received_nanos: 1_790_000_000_000_000_000,
            bytes: Bytes::from_static(text),
        };
        let id = crate::record::RecordId([1; 16]);
        Ok(vec![letter(b"{cut", None), letter(&[0xff, 1], Some(id))].into_iter().take(limit).collect())
    }
}

fn well() -> Said {
    Said { live: Ok(()), ready: Mutex::new(Ok(())), ledger: Ok(ledger()) }
}

fn ledger() -> Ledger {
    let books = SinkLedger { delivered: 7, dead: 1, in_flight: 1, skipped: 0 };
    let stream = StreamLedger {
        received: [("edge-1".to_owned(), 9)].into(),
        kept: 9,
        sinks: [("archive".to_owned(), books)].into(),
        ..StreamLedger::default()
    };
    let streams = [("playback".to_owned(), stream)].into();
    Ledger { agent: "central-1".to_owned(), role: "central".to_owned(), streams, ..Ledger::default() }.close()
}

async fn start(said: Said) -> (SocketAddr, Arc<Said>, Tasks) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        crate::telemetry::LINK_CONNECTED.set(1.0, &[]);
    });
    let (said, tasks) = (Arc::new(said), Tasks::new());
    let settings = Settings { listen: ([127, 0, 0, 1], 0).into() };
    let bound = serve(&settings, said.clone(), handle, &tasks).await.unwrap();
    assert_ne!(bound.port(), 0);
    (bound, said, tasks)
}

/// Sends raw bytes; returns status, lowercase head and body. The server closes the connection.
async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
}

#[tokio::test]
async fn a_node_that_is_well_says_so() {
    let (address, _, tasks) = start(well()).await;
    let (status, head, body) = get(address, "/livez").await;
    assert_eq!((status, body.as_str()), (200, "{\"live\":true}\n"));
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(get(address, "/readyz?verbose").await.0, 200);
    let (status, head, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("sluice_link_connected 1\n"), "{body}");
    let (status, _, body) = get(address, "/ledger").await;
    assert_eq!((status, serde_json::from_str::<Ledger>(&body).unwrap()), (200, ledger()));
    assert!(tasks.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_node_that_is_not_well_says_why() {
    let said = Said {
        live: Err("journal failed: no space".to_owned()),
        ready: Mutex::new(Err(vec!["journal failed: no space".to_owned(), "stopping".to_owned()])),
        ledger: Err("read journal".to_owned()),
    };
    let (address, said, _tasks) = start(said).await;
    let body = "{\"live\":false,\"reasons\":[\"journal failed: no space\"]}\n";
    assert_eq!(get(address, "/livez").await.0, 503);
    assert_eq!(get(address, "/livez").await.2, body);
    let (status, _, body) = get(address, "/readyz").await;
    let expected = "{\"ready\":false,\"reasons\":[\"journal failed: no space\",\"stopping\"]}\n";
    assert_eq!((status, body.as_str()), (503, expected));
    assert_eq!(get(address, "/ledger").await.0, 500);
    *said.ready.lock().unwrap() = Ok(());
    assert_eq!(get(address, "/readyz").await.0, 200, "asked anew for every request");
}

#[tokio::test]
async fn other_methods_paths_and_noise_are_refused() {
    let (address, _, _tasks) = start(well()).await;
    for (request, status) in [
        ("HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        ("HEAD /nothing HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ("GET /livez/ HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ("POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx", 405),
        ("DELETE /ledger HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        ("POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
        ("noise\r\n\r\n", 400),
    ] {
        let (answered, head, body) = ask(address, request).await;
        assert_eq!(answered, status, "{request}");
        assert_eq!(head.contains("allow: get, head"), status == 405, "{request}: {head}");
        if request.starts_with("HEAD") {
            assert_eq!(body, "", "{request}");
            assert!(head.contains("content-length: ") && !head.contains("content-length: 0"), "{request}: {head}");
        }
    }
}

#[tokio::test]
async fn idle_connections_neither_starve_others_nor_outlive_the_node() {
    let (address, _, tasks) = start(well()).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX - 1 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get(address, "/livez").await.0, 200);
    for _ in 0..8 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    // Every place is taken now; the idle ones are sent away after their time for headers.
    assert_eq!(get(address, "/livez").await.0, 200);
    idle.push(TcpStream::connect(address).await.unwrap());
    assert!(tasks.shut_down(Duration::from_secs(5)).await, "open connections are cut");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (address, said, tasks) = start(well()).await;
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let error = serve(&Settings { listen: address }, said, handle, &tasks).await.unwrap_err();
    assert_eq!(error.to_string(), format!("listen on {address} (admin.listen)"));
}

#[tokio::test]
async fn dead_letters_are_listed_with_reason_and_content() {
    let (address, _, _tasks) = start(well()).await;
    let (status, _, body) = get(address, "/dead?stream=playback&limit=5").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({ "dead_letters": [
        { "stream": "playback", "stage": "parse", "reason": "no JSON", "received_at": "2026-09-21T14:13:20Z",
          "length": 4, "text": "{cut" },
        { "stream": "playback", "stage": "parse", "reason": "no JSON", "received_at": "2026-09-21T14:13:20Z",
          "length": 2, "id": "AQEBAQEBAQEBAQEBAQEBAQ", "base64": "/wE=" },
    ] });
    assert_eq!((status, body), (200, expected));
    assert_eq!(get(address, "/dead?limit=many").await.0, 400);
    let hidden = dead::to_json(&well().dead_letters(None, 1).unwrap()[0], false);
    assert_eq!(hidden.get("text"), None, "not for clients of other hosts");
}
