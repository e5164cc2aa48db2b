//! BigQuery, through the Storage Write API: every record once.
//!
//! A lane owns one committed write stream of its table. Each append goes to an explicit offset of that stream, and
//! what it holds is journaled *before* it is sent (see [`state`]), so after a crash the same rows go to the same
//! offset and the server itself tells the repetition. On an answer, cursor, offset and dead letters move in one commit,
//! which also announces the next append, so an append costs one commit.
//!
//! | answer | what it means here |
//! |---|---|
//! | offset as sent; ALREADY_EXISTS for an append that was sent before | delivered |
//! | row errors | those rows are dead letters, durable with the state that leaves them out; the rest again, same offset |
//! | OUT_OF_RANGE | once: again from the journaled state; twice: stop, since rows the server acknowledged are gone |
//! | too large, INVALID_ARGUMENT as a whole | in halves; a single row is a dead letter, unless nothing was ever accepted |
//! | column unknown, rights or table missing | paused, nothing is given up, the operator is told once |
//! | stream finalized or gone | its final row count says whether the append in doubt is in it; then a new stream |
//! | all else, a cut connection, no answer | the same append again |
//!
//! Limits: one append in flight for each stream of records. Where a write stream has expired together with its row
//! count, the append in doubt is sent again and may be there twice: that is logged with the number of rows.

mod act;
mod answer;
mod append;
mod auth;
mod client;
mod state;
mod table;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::writer::Writer;
use super::{Error, Feed, Sink};
use crate::tasks::Stop;

/// Time that an append in flight gets to finish after the node was asked to stop. What is cut off then is in doubt in
/// the journal and is settled at the next start.
const STOP_GRACE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub enum Auth {
    /// No credentials: an emulator.
    None,
    /// Application default credentials.
    Default,
    ServiceAccountKey {
        path: std::path::PathBuf,
    },
    /// The metadata server (workload identity).
    Metadata,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub project: String,
    pub dataset: String,
    /// Table; `{stream}` is replaced by the stream's name.
    pub table: String,
    pub auth: Auth,
    /// REST endpoint; absent = Google's.
    pub rest_url: Option<String>,
    /// gRPC endpoint; `http://` = plaintext; absent = Google's.
    pub grpc_url: Option<String>,
    /// Bytes of rows in one append.
    pub request_max_bytes: usize,
    pub timeout: Duration,
    pub retry_max: Duration,
}

/// Delivers streams to tables of one dataset.
#[derive(Debug)]
pub struct BigQuerySink {
    name: Arc<str>,
    settings: Settings,
}

impl BigQuerySink {
    /// Fails where the settings cannot be used at all; nothing is connected yet.
    pub fn new(name: Arc<str>, settings: Settings) -> Result<BigQuerySink, Error> {
        let stopped = |reason| Error::Stopped { sink: name.clone(), stream: "*".into(), reason };
        for (key, value) in [("project", &settings.project), ("dataset", &settings.dataset), ("table", &settings.table)]
        {
            if value.is_empty() || value.contains('/') {
                return Err(stopped(format!("use {key} {value:?}: it is no name")));
            }
        }
        client::endpoint(&settings).map_err(stopped)?;
        Ok(BigQuerySink { name, settings })
    }
}

impl Sink for BigQuerySink {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed, stop: Stop) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let grace = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            let work = async {
                let mut writer = Writer::open(&self.name, &self.settings, feed, &stop)?;
                writer.run().await
            };
            tokio::select! {
                biased;
                ended = work => ended,
                () = grace => Ok(()),
            }
        })
    }
}
