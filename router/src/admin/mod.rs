//! What is seen from outside, over HTTP on `admin.listen`:
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 `{"live":true}`; 503 with the reason once only a restart can help |
//! | `/readyz` | 200 `{"ready":true}`; 503 with the reasons while starting, stopping or unable to take records |
//! | `/metrics` | every metric, in Prometheus' text format |
//! | `/ledger` | what became of every record (see [`Ledger`]), as JSON |
//! | `/dead?stream=S&limit=N` | dead letters, oldest first, as JSON; what was in them only for clients on this host |
//!
//! The node tells its state through [`Status`]; nothing here knows journal or stages. There is no authentication, and
//! nothing can be changed. Always: one request a connection, so that a connection ends within `CONNECTION_MAX` whatever
//! its client does, and at most `CONNECTIONS_MAX` at once; more wait in the listener's backlog.

mod dead;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::fleet::ledger::Ledger;
use crate::record::DeadLetter;
use crate::tasks::{self, Tasks};

/// Connections served at once: probes, a scraper, an operator or two.
const CONNECTIONS_MAX: usize = 64;
/// A client must have sent its request after this ...
const HEADERS_MAX: Duration = Duration::from_secs(5);
/// ... and have taken its answer after this.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed accept: out of file descriptors, say, which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the recorder folds the samples of histograms, which pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

const PATHS: &str = "/livez, /readyz, /metrics, /ledger, /dead";
/// Dead letters in one answer, unless the request says less.
const DEAD_LETTERS_MAX: usize = 1000;

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {listen} (admin.listen)")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// What the node knows about itself. Called for every request, so it must answer at once.
pub trait Status: Send + Sync {
    /// An error where only a restart can help: the journal failed.
    fn live(&self) -> Result<(), String>;
    /// Every reason why the node cannot take records now.
    fn ready(&self) -> Result<(), Vec<String>>;
    /// May read the journal; runs where blocking is allowed.
    fn ledger(&self) -> Result<Ledger, String>;
    /// The oldest `limit` dead letters of one stream or of all. As `ledger`, may block.
    fn dead_letters(&self, stream: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, String>;
}

#[derive(Clone)]
struct Admin {
    status: Arc<dyn Status>,
    metrics: PrometheusHandle,
}

/// Listens, and answers until `tasks` stop. Returns the bound address, which tells the port where 0 was asked for.
/// Give it tasks of its own that stop last, so that /readyz tells a node that drains from one that is gone.
pub async fn serve(
    settings: &Settings,
    status: Arc<dyn Status>,
    metrics: PrometheusHandle,
    tasks: &Tasks,
) -> Result<SocketAddr, Error> {
    let listen = settings.listen;
    let failed = |source| Error::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tasks.spawn("metrics upkeep", keep_up(metrics.clone(), tasks.clone()));
    tasks.spawn("admin", accept(listener, Admin { status, metrics }, tasks.clone()));
    tracing::info!(listen = %bound, "admin port open");
    Ok(bound)
}

async fn keep_up(metrics: PrometheusHandle, tasks: Tasks) {
    while tokio::time::timeout(UPKEEP, tasks.stop().cancelled()).await.is_err() {
        let metrics = metrics.clone();
        tasks::blocking(move || metrics.run_upkeep()).await;
    }
}

async fn accept(listener: TcpListener, admin: Admin, tasks: Tasks) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stop = tasks.stop().clone();
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, admin.clone(), tasks.clone());
                tasks.spawn("admin connection", async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept of an admin connection refused");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request. A client that goes away or dawdles is nobody's error.
async fn connection(stream: TcpStream, peer: SocketAddr, admin: Admin, tasks: Tasks) {
    let peer_is_local = peer.ip().is_loopback();
    let answer = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(&request, peer_is_local).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        _ = tokio::time::timeout(CONNECTION_MAX, serving) => {}
        () = tasks.stop().cancelled() => {}
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>, peer_is_local: bool) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        if !PATHS.split(", ").any(|known| known == path) {
            return text(StatusCode::NOT_FOUND, format!("not found; there are {PATHS}\n"));
        }
        if method != Method::GET && method != Method::HEAD {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n".to_owned());
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/livez" => match self.status.live() {
                Ok(()) => json(StatusCode::OK, &json!({ "live": true })),
                Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "live": false, "reasons": [reason] })),
            },
            "/readyz" => match self.status.ready() {
                Ok(()) => json(StatusCode::OK, &json!({ "ready": true })),
                Err(reasons) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "reasons": reasons })),
            },
            "/metrics" => {
                let metrics = self.metrics.clone();
                text(StatusCode::OK, tasks::blocking(move || metrics.render()).await)
            }
            "/dead" => self.dead(request.uri().query().unwrap_or_default(), peer_is_local).await,
            _ => self.ledger().await,
        }
    }

    async fn dead(&self, query: &str, peer_is_local: bool) -> Response<Full<Bytes>> {
        let value = |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        let stream = value("stream").map(|(_, stream)| stream.to_owned());
        let limit = match value("limit").map(|(_, limit)| limit.parse::<usize>()) {
            None => DEAD_LETTERS_MAX,
            Some(Ok(limit)) => limit.min(DEAD_LETTERS_MAX),
            Some(Err(_)) => return text(StatusCode::BAD_REQUEST, "limit is not a number\n".to_owned()),
        };
        let status = self.status.clone();
        match tasks::blocking(move || status.dead_letters(stream.as_deref(), limit)).await {
            Ok(letters) => {
                let letters: Vec<Value> = letters.iter().map(|letter| dead::to_json(letter, peer_is_local)).collect();
                json(StatusCode::OK, &json!({ "dead_letters": letters }))
            }
            Err(reason) => json(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "reasons": [reason] })),
        }
    }

    async fn ledger(&self) -> Response<Full<Bytes>> {
        let status = self.status.clone();
        let ledger = tasks::blocking(move || status.ledger()).await;
        match ledger.and_then(|ledger| serde_json::to_value(ledger).map_err(|error| error.to_string())) {
            Ok(ledger) => json(StatusCode::OK, &ledger),
            Err(reason) => json(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "reasons": [reason] })),
        }
    }
}

fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    // The version names Prometheus' text format, and harms no other reader.
    respond(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
