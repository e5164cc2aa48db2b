//! BigQuery as far as the router uses it: the Storage Write API for committed streams over gRPC, and tables over REST.
//!
//! Refused, as the documentation says the real one does: a call without its routing header, an append without offset,
//! at a wrong offset, over the size limit, with a descriptor that is not self-contained or names a column the table
//! lacks, rows that do not decode with that descriptor. An append is taken as a whole or not at all. A row whose JSON
//! holds `poison` gets a row error; one that holds `cursed` makes the whole request INVALID_ARGUMENT, without a list.

mod columns;
mod grpc;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sluice::tasks::Tasks;
use tokio::net::TcpListener;
use tonic::Code;

use self::grpc::Service;
use super::rng::Rng;

/// How often each fault strikes: one append in so many; 0 = never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The call ends with UNAVAILABLE before the rows are taken.
    pub unavailable: u64,
    /// The rows are taken, then the call ends with UNAVAILABLE.
    pub lost_ack: u64,
    /// Answered ABORTED or RESOURCE_EXHAUSTED, nothing taken.
    pub aborted: u64,
    /// The write stream is finalized by somebody, before or after the rows are taken.
    pub finalized: u64,
    /// Answered never; in every second case the rows are taken.
    pub silent: u64,
    /// Answered OUT_OF_RANGE although the offset is right.
    pub out_of_range: u64,
    /// Every append takes this long, half of it before the rows are taken.
    pub latency: Duration,
    /// Of several row errors only the first is listed.
    pub is_partial_list: bool,
    /// Largest AppendRows request; 0 = 10 MiB.
    pub max_request_bytes: usize,
    /// Every call is answered with this until it is taken back.
    pub code: Option<Code>,
}

#[derive(Default)]
pub struct Store {
    /// Full name -> columns as REST says them.
    pub tables: BTreeMap<String, Value>,
    pub streams: BTreeMap<String, WriteStream>,
    /// table -> `_id` -> each copy of the row.
    pub rows: HashMap<String, HashMap<String, Vec<Value>>>,
    /// Answers by kind.
    pub answers: BTreeMap<&'static str, u64>,
    pub connections: u64,
    /// What no correct client does.
    pub violations: Vec<String>,
    pub faults: Faults,
    rng: Option<Rng>,
}

#[derive(Default)]
pub struct WriteStream {
    table: String,
    pub ids: Vec<String>,
    is_finalized: bool,
}

pub struct BigQuery {
    pub rest_url: String,
    pub grpc_url: String,
    store: Arc<Mutex<Store>>,
    tasks: Tasks,
}

impl BigQuery {
    /// Starts both servers; the dataset `d` of project `p` exists.
    pub async fn start() -> BigQuery {
        let rest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = BigQuery {
            rest_url: format!("http://{}", rest.local_addr().unwrap()),
            grpc_url: format!("http://{}", grpc.local_addr().unwrap()),
            store: Arc::default(),
            tasks: Tasks::new(),
        };
        fake.serve_rest(rest);
        let service = Service { store: fake.store.clone() };
        let stop = fake.tasks.stop().clone();
        fake.tasks.spawn("bigquery grpc", async move {
            let incoming = tonic::transport::server::TcpIncoming::from(grpc);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
        });
        fake
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub fn set_faults(&self, faults: Faults, seed: u64) {
        let mut store = self.store();
        store.faults = faults;
        store.rng = Some(Rng::new(seed));
    }

    fn serve_rest(&self, listener: TcpListener) {
        let (store, tasks) = (self.store.clone(), self.tasks.clone());
        self.tasks.spawn("bigquery rest", async move {
            let stop = tasks.stop().clone();
            while let Some(Ok((socket, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (store, stop) = (store.clone(), stop.clone());
                tasks.spawn("bigquery rest connection", async move {
                    let service = service_fn(move |request| rest(store.clone(), request));
                    let io = TokioIo::new(socket);
                    let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                    let _ = stop.run_until_cancelled(serving).await;
                });
            }
        });
    }
}

impl Drop for BigQuery {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

async fn rest(
    store: Arc<Mutex<Store>>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().trim_start_matches('/').to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, answer) = store.lock().unwrap().rest(method.as_str(), &path, &body);
    let response = hyper::Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(answer.to_string()))).unwrap())
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("{reason} (as the fake says)");
    (
        code,
        json!({ "error": { "code": code, "message": message, "errors": [{ "reason": reason, "message": message }] } }),
    )
}

/// For tests that wait for something the fake sees.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    deadline.await.unwrap_or_else(|_| panic!("waited for {what}"));
}
