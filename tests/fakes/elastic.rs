//! A cluster that knows `_bulk` alone: `create` by `_id` within one index, as Elasticsearch answers it.
//!
//! Kept across [`Elastic::stop`] and [`Elastic::resume`], which keep the port: a server that is down for a while. A
//! document whose source holds `"poison"` is refused with 400, as a mapping conflict would be.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sluice::tasks::Tasks;
use tokio::net::TcpListener;

use super::rng::Rng;

/// How often each fault strikes: one request (or one item) in so many; 0 = never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Items answered 429, not stored.
    pub throttle_item: u64,
    /// Items answered 503, not stored.
    pub fail_item: u64,
    /// Requests answered 503, 429 or 502, nothing stored.
    pub refuse: u64,
    /// Connections cut before anything was stored.
    pub cut_before: u64,
    /// Connections cut after everything was stored.
    pub cut_after: u64,
    /// Answers that lack an item, or are cut short, after everything was stored.
    pub garble: u64,
    /// Requests that take this long.
    pub slow: u64,
    pub slow_for: Duration,
    /// Larger bodies (after decompression) are answered 413; 0 = no limit.
    pub max_body_bytes: usize,
    /// Whole requests answered with this status until it is taken back.
    pub status: Option<u16>,
    /// Every item answered with this status and error type until it is taken back.
    pub item: Option<(u16, &'static str)>,
}

/// What the cluster holds and has seen.
#[derive(Default)]
pub struct Store {
    /// index -> id -> source.
    pub documents: BTreeMap<String, HashMap<String, serde_json::Value>>,
    /// Answers by status, over all items.
    pub item_answers: BTreeMap<u16, u64>,
    pub requests: u64,
    pub gzipped: u64,
    /// Largest body taken, after decompression.
    pub body_max_bytes: usize,
    /// What the cluster noticed that no correct client does.
    pub violations: Vec<String>,
    pub faults: Faults,
    rng: Option<Rng>,
}

pub struct Elastic {
    pub url: String,
    addr: SocketAddr,
    store: Arc<Mutex<Store>>,
    tasks: Tasks,
}

enum Reply {
    Answer(u16, String),
    Cut,
}

impl Elastic {
    pub async fn start() -> Elastic {
        Elastic::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(addr: SocketAddr) -> Elastic {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let elastic = Elastic { url: format!("http://{addr}"), addr, store: Arc::default(), tasks: Tasks::new() };
        elastic.serve(listener);
        elastic
    }

    /// Closes the port and cuts every connection; what was stored stays.
    pub async fn stop(&mut self) {
        assert!(self.tasks.shut_down(Duration::from_secs(10)).await);
        self.tasks = Tasks::new();
    }

    pub async fn resume(&mut self) {
        self.serve(TcpListener::bind(self.addr).await.unwrap());
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub fn set_faults(&self, faults: Faults, seed: u64) {
        let mut store = self.store();
        store.faults = faults;
        store.rng = Some(Rng::new(seed));
    }

    /// Number of documents in all indices.
    pub fn documents(&self) -> usize {
        self.store().documents.values().map(HashMap::len).sum()
    }

    fn serve(&self, listener: TcpListener) {
        let (store, tasks) = (self.store.clone(), self.tasks.clone());
        self.tasks.spawn("elastic", async move {
            let stop = tasks.stop().clone();
            while let Some(Ok((socket, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (store, stop) = (store.clone(), stop.clone());
                tasks.spawn("elastic connection", async move {
                    let service = service_fn(move |request| handle(store.clone(), request));
                    let serving =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    // A cut connection ends with an error: that is the point.
                    let _ = stop.run_until_cancelled(serving).await;
                });
            }
        });
    }
}

async fn handle(store: Arc<Mutex<Store>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let path = request.uri().path().to_owned();
    let is_gzipped = request.headers().get("content-encoding").is_some_and(|value| value == "gzip");
    let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let Ok(body) = request.into_body().collect().await else { return Err(Cut) };
    let body = body.to_bytes();
    let (reply, delay) = {
        let mut store = store.lock().unwrap();
        store.requests += 1;
        store.gzipped += u64::from(is_gzipped);
        if kind != "application/x-ndjson" && kind != "application/json" {
            store.violations.push(format!("content type {kind:?}"));
        }
        let slow = store.faults.slow;
        let delay = if store.chance(slow) { store.faults.slow_for } else { Duration::ZERO };
        (store.bulk(&path, &unzip(&body, is_gzipped)), delay)
    };
    tokio::time::sleep(delay).await;
    match reply {
        Reply::Cut => Err(Cut),
        Reply::Answer(status, body) => {
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok(response.body(Full::new(Bytes::from(body))).unwrap())
        }
    }
}

fn unzip(body: &[u8], is_gzipped: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match is_gzipped {
        true => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap()),
        false => out.extend_from_slice(body),
    }
    out
}

/// An error of the service makes hyper close the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the test")
    }
}

impl std::error::Error for Cut {}

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Cut {
        match never {}
    }
}

impl Store {
    fn chance(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.get_or_insert_with(|| Rng::new(1)).is_one_in(one_in)
    }

    fn bulk(&mut self, path: &str, body: &[u8]) -> Reply {
        let faults = self.faults.clone();
        let Some(index) = path.trim_start_matches('/').strip_suffix("_bulk") else {
            return Reply::Answer(405, failure("method_not_allowed", "only _bulk is here"));
        };
        if let Some(status) = faults.status {
            return Reply::Answer(status, failure("scripted", "as the test says"));
        }
        if faults.max_body_bytes > 0 && body.len() > faults.max_body_bytes {
            return Reply::Answer(413, String::new());
        }
        if self.chance(faults.refuse) {
            let status = [503, 429, 502][self.requests as usize % 3];
            return Reply::Answer(status, failure("unavailable", "by chance"));
        }
        if self.chance(faults.cut_before) {
            return Reply::Cut;
        }
        self.body_max_bytes = self.body_max_bytes.max(body.len());
        let items = match self.items(index.trim_end_matches('/'), body) {
            Ok(items) => items,
            Err(reason) => {
                self.violations.push(reason.clone());
                return Reply::Answer(400, failure("illegal_argument_exception", &reason));
            }
        };
        if self.chance(faults.cut_after) {
            return Reply::Cut;
        }
        self.answer(items)
    }

    fn answer(&mut self, mut items: Vec<serde_json::Value>) -> Reply {
        let garble = self.faults.garble;
        let is_garbled = self.chance(garble);
        if is_garbled && self.requests.is_multiple_of(2) {
            items.pop();
        }
        let errors = items.iter().any(|item| item["create"]["error"].is_object());
        let mut text = serde_json::json!({ "errors": errors, "items": items }).to_string();
        if is_garbled && !self.requests.is_multiple_of(2) {
            text.truncate(text.len() / 2);
        }
        Reply::Answer(200, text)
    }

    fn items(&mut self, index: &str, body: &[u8]) -> Result<Vec<serde_json::Value>, String> {
        if body.last() != Some(&b'\n') {
            return Err("the bulk request must be terminated by a newline".into());
        }
        let mut items = Vec::new();
        let mut lines = body[..body.len() - 1].split(|&byte| byte == b'\n');
        while let Some(action) = lines.next() {
            let action: serde_json::Value =
                serde_json::from_slice(action).map_err(|error| format!("action: {error}"))?;
            let create = action.get("create").ok_or("action is not create")?;
            let index = create["_index"].as_str().unwrap_or(index);
            let id = create["_id"].as_str().ok_or("no _id")?;
            if index.is_empty() || id.len() > 512 {
                return Err(format!("index {index:?}, id {id:?}"));
            }
            let source = lines.next().ok_or("no source behind the last action")?;
            let (status, error) = self.create(index, id, source);
            *self.item_answers.entry(status).or_default() += 1;
            items.push(match error {
                None => serde_json::json!({ "create": { "status": status } }),
                Some((kind, reason)) => {
                    serde_json::json!({ "create": { "status": status, "error": { "type": kind, "reason": reason } } })
                }
            });
        }
        Ok(items)
    }

    fn create(&mut self, index: &str, id: &str, source: &[u8]) -> (u16, Option<(&'static str, String)>) {
        let faults = self.faults.clone();
        if let Some((status, kind)) = faults.item {
            return (status, Some((kind, "as the test says".into())));
        }
        if self.chance(faults.throttle_item) {
            return (429, Some(("es_rejected_execution_exception", "queue full".into())));
        }
        if self.chance(faults.fail_item) {
            return (503, Some(("unavailable_shards_exception", "primary is moving".into())));
        }
        let source: serde_json::Value = match serde_json::from_slice(source) {
            Ok(source) => source,
            Err(error) => return (400, Some(("document_parsing_exception", error.to_string()))),
        };
        if !source["@timestamp"].is_string() {
            return (400, Some(("document_parsing_exception", "data stream timestamp field is missing".into())));
        }
        if source.to_string().contains("poison") {
            return (400, Some(("document_parsing_exception", "failed to parse field [n] of type [long]".into())));
        }
        match self.documents.entry(index.to_owned()).or_default().entry(id.to_owned()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                (409, Some(("version_conflict_engine_exception", "document already exists".into())))
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(source);
                (201, None)
            }
        }
    }
}

fn failure(kind: &str, reason: &str) -> String {
    serde_json::json!({ "error": { "type": kind, "reason": reason } }).to_string()
}
