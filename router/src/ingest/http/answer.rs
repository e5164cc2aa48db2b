//! What clients are told.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// Refused records that an answer names.
pub(super) const REASONS_MAX: usize = 100;

/// The answer to one request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The records were looked at, and the outcome is durable.
    Taken(Outcome),
    Problem(Problem),
}

/// What became of a request's records.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outcome {
    pub(super) accepted: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) refused_count: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<Refused>,
    /// Record from which on none was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unread_from: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refused {
    pub(super) index: u64,
    pub(super) reason: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Why a request's records were not looked at, or nobody knows whether they are durable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("nothing is here: records go to POST /v1/streams/{{stream}}/records")]
    Path,
    #[error("stream {name:?} is not known here; known: {known}")]
    Stream { name: String, known: String },
    #[error("records are sent by POST")]
    Method,
    #[error("body did not come within {seconds} s: nothing was kept")]
    Slow { seconds: u64 },
    #[error("length is missing: send Content-Length or Transfer-Encoding: chunked")]
    Length,
    #[error("body is larger than {max} bytes, decompressed: send fewer records at a time")]
    Large { max: usize },
    #[error(
        "Content-Type {found:?} is not understood; allowed: application/x-protobuf, application/x-protobuf-delimited, \
         application/x-ndjson, application/json"
    )]
    MediaType { found: String },
    #[error("Content-Encoding {found:?} is not understood; allowed: gzip, zstd, identity")]
    Encoding { found: String },
    #[error("body cannot be read: {reason}: nothing was kept")]
    Body { reason: String },
    #[error("too much is in flight: nothing was kept")]
    Busy,
    #[error("journal is full: nothing was kept")]
    Full,
    #[error("node is stopping: nothing was kept")]
    Stopping,
    #[error("journal stopped: the records may not be durable")]
    Failed,
    #[error("records are not durable after {seconds} s, and may yet become so")]
    Late { seconds: u64 },
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Problem::Path | Problem::Stream { .. } => StatusCode::NOT_FOUND,
            Problem::Method => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Slow { .. } => StatusCode::REQUEST_TIMEOUT,
            Problem::Length => StatusCode::LENGTH_REQUIRED,
            Problem::Large { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::MediaType { .. } | Problem::Encoding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::Body { .. } => StatusCode::BAD_REQUEST,
            Problem::Busy | Problem::Full => StatusCode::TOO_MANY_REQUESTS,
            Problem::Stopping | Problem::Failed | Problem::Late { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which the same request may succeed here.
    fn retry_after(&self) -> Option<u16> {
        match self {
            Problem::Busy => Some(1),
            // Sinks make room, and that takes them a while.
            Problem::Full | Problem::Late { .. } | Problem::Stopping => Some(5),
            Problem::Path
            | Problem::Stream { .. }
            | Problem::Method
            | Problem::Slow { .. }
            | Problem::Length
            | Problem::Large { .. }
            | Problem::MediaType { .. }
            | Problem::Encoding { .. }
            | Problem::Body { .. }
            | Problem::Failed => None,
        }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl Answer {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Answer::Taken(outcome) => {
                let all = outcome.refused_count == 0 && outcome.unread_from.is_none();
                json(if all { StatusCode::OK } else { StatusCode::BAD_REQUEST }, &outcome)
            }
            Answer::Problem(problem) => {
                let mut response = json(problem.status(), &ErrorBody { error: problem.to_string() });
                let headers = response.headers_mut();
                if let Some(seconds) = problem.retry_after() {
                    headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                if problem == Problem::Method {
                    headers.insert(ALLOW, HeaderValue::from_static("POST"));
                }
                response
            }
        }
    }
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Full<Bytes>> {
    // Numbers and text: nothing in it can fail to become JSON.
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
