//! The cluster's nodes: one request, one answer.
//!
//! The client's own pool has neither failover nor a way to skip a node, so there is one transport for each node here
//! and requests take turns; the repetition of a request that failed goes to the next one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, Url};

use super::answer::{self, Item};
use super::{Auth, Settings};

/// Words of a server that end up in a log line or a dead letter.
const REASON_MAX_CHARS: usize = 500;

#[derive(Debug)]
pub(super) struct Nodes {
    transports: Vec<Transport>,
    turn: AtomicUsize,
    timeout: Duration,
}

/// A request's documents, ready to go.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Path of the index's `_bulk`.
    pub(super) path: String,
    pub(super) body: Bytes,
    pub(super) is_gzipped: bool,
    /// Number of documents in `body`.
    pub(super) count: usize,
}

/// What a whole request came to.
#[derive(Debug)]
pub(super) enum Answer {
    AllCreated,
    Items(Vec<Item>),
    /// Too large for the server.
    TooLarge(String),
    /// 400 for the request as a whole.
    Refused(String),
    /// Credentials, rights or the index are missing.
    Paused(String),
    /// Nothing of it was taken; the server is busy or down.
    Unavailable(String),
    /// Some, all or none of it was taken.
    InDoubt(String),
}

impl Nodes {
    pub(super) fn new(settings: &Settings) -> Result<Nodes, String> {
        let transports: Vec<Transport> =
            settings.urls.iter().map(|url| transport(url, &settings.auth)).collect::<Result<_, _>>()?;
        if transports.is_empty() {
            return Err("use a cluster: no url is given".into());
        }
        Ok(Nodes { transports, turn: AtomicUsize::new(0), timeout: settings.timeout })
    }

    pub(super) async fn send(&self, request: &Request) -> Answer {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let transport = &self.transports[turn % self.transports.len()];
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if request.is_gzipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let query = [("filter_path", answer::FILTER_PATH)];
        let body = Some(request.body.clone());
        let sent = transport.send(Method::Post, &request.path, headers, Some(&query), body, Some(self.timeout)).await;
        let (status, body) = match sent {
            Err(error) => return Answer::InDoubt(chain(&error)),
            Ok(response) => (response.status_code().as_u16(), response.bytes().await),
        };
        match body {
            Ok(body) => read(status, &body, request.count),
            Err(error) => Answer::InDoubt(chain(&error)),
        }
    }
}

fn read(status: u16, body: &[u8], sent: usize) -> Answer {
    match status {
        200 if answer::is_all_created(body, sent) => Answer::AllCreated,
        200 => match answer::read(body, sent) {
            Some(items) => Answer::Items(items),
            None => Answer::InDoubt(format!("read answer to {sent} documents: {}", words(status, body))),
        },
        413 => Answer::TooLarge(words(status, body)),
        400 => Answer::Refused(words(status, body)),
        429 | 503 => Answer::Unavailable(words(status, body)),
        // A gateway's answer says nothing about what the node behind it did.
        500..=599 | 408 | 201..=299 => Answer::InDoubt(words(status, body)),
        _ => Answer::Paused(words(status, body)),
    }
}

fn words(status: u16, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(REASON_MAX_CHARS).collect();
    format!("status {status}: {text}")
}

/// An error with all its causes: the client's own text stops at "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn transport(url: &str, auth: &Auth) -> Result<Transport, String> {
    let parsed = Url::parse(url).map_err(|error| format!("read url {url}: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(format!("read url {url}: it has to begin with http:// or https:// and a host"));
    }
    // The environment's proxies are for people, not for a daemon: what it reads stands in its config.
    let builder = TransportBuilder::new(SingleNodeConnectionPool::new(parsed)).disable_proxy();
    let builder = match auth {
        Auth::None => builder,
        Auth::Basic { user, password } => builder.auth(Credentials::Basic(user.clone(), password.clone())),
        Auth::ApiKey { encoded } => {
            // The client panics on a key that is no header value.
            HeaderValue::from_str(encoded).map_err(|_| "read api key: it has characters no key has".to_owned())?;
            builder.auth(Credentials::EncodedApiKey(encoded.clone()))
        }
    };
    builder.build().map_err(|error| format!("prepare connection to {url}: {error}"))
}
