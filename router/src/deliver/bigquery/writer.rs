//! The loop of one stream: next append, journal it, send it, act on the answer.
//!
//! Always: no append is sent whose rows, offset and write stream are not in the journaled state; and every decision
//! about an append (rows removed, halves, another write stream) is journaled before it is acted on. So a crash between
//! any two steps leads back to a step that can be made again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::act::Next;
use super::answer::Fault;
use super::append::{self, Encoded, Extent, Job};
use super::client::{Client, Connection, Target};
use super::state::{Append, Place, State};
use super::table::{TableName, Tables};
use crate::deliver::outage::Outage;
use crate::deliver::retry::Backoff;
use crate::deliver::{Error, Feed};
use crate::record::{DeadLetter, Fingerprint, Rows, Seq};
use crate::schema::Schema;
use crate::schema::bigquery::Table;
use crate::tasks::{self, Stop};

/// First delay after a failure; never more than the configured longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Schemas whose plans are kept; more than one is in use only while a new version spreads.
const PLANS_MAX: usize = 8;

pub(super) struct Writer<'a> {
    pub(super) sink: Arc<str>,
    pub(super) stage: Arc<str>,
    pub(super) settings: &'a Settings,
    pub(super) feed: &'a mut dyn Feed,
    pub(super) stop: &'a Stop,
    pub(super) outage: Outage,
    pub(super) backoff: Backoff,
    pub(super) name: TableName,
    pub(super) remote: Option<Remote>,
    pub(super) connection: Option<Connection>,
    plans: HashMap<Fingerprint, Arc<Table>>,
    /// OUT_OF_RANGE answers since the last success.
    pub(super) rewinds: u32,
    pub(super) state: State,
    /// Block of the first row not yet delivered; the row is in the state.
    pub(super) next: Seq,
    /// Pulled and not yet delivered, in order.
    pub(super) blocks: VecDeque<Arc<Rows>>,
    has_ended: bool,
    /// Since the last commit.
    pub(super) unsaved: Unsaved,
}

/// What the journal does not know yet.
#[derive(Default)]
pub(super) struct Unsaved {
    pub(super) is_some: bool,
    pub(super) delivered: u64,
    pub(super) dead: Vec<DeadLetter>,
}

pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) tables: Tables,
}

impl<'a> Writer<'a> {
    pub(super) fn open(
        sink: &Arc<str>,
        settings: &'a Settings,
        feed: &'a mut dyn Feed,
        stop: &'a Stop,
    ) -> Result<Writer<'a>, Error> {
        let cursor = feed.cursor();
        let stream = feed.stream().clone();
        let state = State::decode(&cursor.state).map_err(|reason| Error::Stopped {
            sink: sink.clone(),
            stream: stream.clone(),
            reason,
        })?;
        feed.rewind(cursor.next);
        let seed = xxhash_rust::xxh3::xxh3_64(stream.as_bytes());
        Ok(Writer {
            sink: sink.clone(),
            stage: format!("sink:{sink}").into(),
            outage: Outage::new(sink, &stream),
            backoff: Backoff::new(RETRY_FIRST.min(settings.retry_max), settings.retry_max, seed),
            name: TableName::new(settings, &stream),
            settings,
            feed,
            stop,
            remote: None,
            connection: None,
            plans: HashMap::new(),
            rewinds: 0,
            state,
            next: cursor.next,
            blocks: VecDeque::new(),
            has_ended: false,
            unsaved: Unsaved::default(),
        })
    }

    /// Delivers until the feed ends or the node stops.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        while !self.stop.is_cancelled() {
            let Some(encoded) = self.next_append().await? else { break };
            if let Some(encoded) = encoded {
                self.deliver(encoded).await?;
            }
        }
        self.commit().await
    }

    /// The next append, encoded, with its record in the state; `None` at the end of the feed, and inside where rows
    /// were gone through but none is to be sent.
    async fn next_append(&mut self) -> Result<Option<Option<Encoded>>, Error> {
        if let Some(append) = self.state.in_doubt.first().cloned() {
            return self.same_append(append).await;
        }
        if !self.pull().await? {
            return Ok(None);
        }
        let from = Place { seq: self.next, row: self.state.row };
        let max_bytes = self.settings.request_max_bytes;
        let mut encoded = self.encode(from, Extent::Fill { max_bytes }).await;
        self.unsaved.is_some = true;
        self.unsaved.dead.append(&mut encoded.dead);
        if encoded.rows.is_empty() {
            self.pass(encoded.append.to);
            self.commit().await?;
            return Ok(Some(None));
        }
        encoded.append.offset = self.state.offset;
        self.state.in_doubt.push(encoded.append.clone());
        Ok(Some(Some(encoded)))
    }

    /// An append of the journaled state, encoded again.
    async fn same_append(&mut self, append: Append) -> Result<Option<Option<Encoded>>, Error> {
        while self.blocks.back().is_none_or(|rows| Place { seq: rows.seq + 1, row: 0 } < append.to) {
            if !self.pull_more(self.settings.request_max_bytes).await? {
                break;
            }
        }
        if self.has_ended && self.blocks.is_empty() {
            return Ok(None);
        }
        let extent = Extent::Again { to: append.to, removed: append.removed.clone() };
        let mut encoded = self.encode(append.from, extent).await;
        if encoded.append.count == append.count && encoded.dead.is_empty() {
            encoded.append = append;
            return Ok(Some(Some(encoded)));
        }
        // The rows are not those that were announced: a block was lost, or this program encodes otherwise than the one
        // before. What the server holds decides.
        if append.was_sent {
            tracing::warn!(sink = %self.sink, was = append.count, is = encoded.append.count, "append in doubt has changed");
            self.settle().await?;
            return Ok(Some(None));
        }
        self.unsaved.is_some = true;
        self.unsaved.dead.append(&mut encoded.dead);
        encoded.append.to = append.to;
        if let Some(first) = self.state.in_doubt.first_mut() {
            *first = encoded.append.clone();
        }
        self.state.renumber();
        encoded.append.offset = self.state.offset;
        if encoded.rows.is_empty() {
            self.landed();
            return Ok(Some(None));
        }
        Ok(Some(Some(encoded)))
    }

    /// Makes sure that there is a block with rows, or blocks to pass; false at the end of the feed.
    async fn pull(&mut self) -> Result<bool, Error> {
        let max_bytes = self.settings.request_max_bytes;
        loop {
            let held: usize = self.blocks.iter().map(|rows| rows.len_bytes()).sum();
            if self.has_ended || (!self.blocks.is_empty() && (held >= max_bytes || !self.feed.is_ready())) {
                return Ok(!self.blocks.is_empty());
            }
            self.pull_more(max_bytes.saturating_sub(held).max(1)).await?;
        }
    }

    async fn pull_more(&mut self, max_bytes: usize) -> Result<bool, Error> {
        if !self.feed.is_ready() {
            // What is achieved must not wait for what comes.
            self.commit().await?;
        }
        let pulled = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            pulled = self.feed.next(max_bytes) => pulled?,
        };
        match pulled {
            Some(blocks) => self.blocks.extend(blocks.into_iter().map(Arc::new)),
            None => self.has_ended = true,
        }
        Ok(!self.has_ended)
    }

    async fn encode(&mut self, from: Place, extent: Extent) -> Encoded {
        let blocks: Vec<_> = self.blocks.iter().filter(|rows| rows.seq >= from.seq).cloned().collect();
        let schema = schema_from(&blocks, from);
        let table = self.plan(schema.as_deref());
        let job = Job { blocks, from, extent, table, stage: self.stage.clone() };
        tasks::blocking(move || job.encode()).await
    }

    fn plan(&mut self, schema: Option<&Schema>) -> Arc<Table> {
        let Some(schema) = schema else { return Arc::default() };
        if self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        self.plans.entry(schema.fingerprint).or_insert_with(|| Arc::new(Table::new(schema))).clone()
    }

    /// Sends an append until its answer is known, or until the state says something else than this append.
    async fn deliver(&mut self, mut encoded: Encoded) -> Result<(), Error> {
        let blocks: Vec<_> = self.blocks.iter().cloned().collect();
        let Some(schema) = schema_from(&blocks, encoded.append.from) else { return Ok(()) };
        let table = self.plan(Some(&schema));
        while !self.stop.is_cancelled() {
            if let Err(fault) = self.ensure_stream(&table).await {
                self.wait(fault).await;
                continue;
            }
            self.commit().await?;
            let sent = self.send(&encoded, &schema, &table).await;
            let Err(fault) = sent else {
                self.state.accepted = schema.fingerprint.to_string();
                self.landed();
                return Ok(());
            };
            self.mark_sent();
            if self.act(fault, &encoded, schema.fingerprint).await? == Next::Over {
                return Ok(());
            }
            encoded.append.was_sent = true;
        }
        Ok(())
    }

    async fn send(&mut self, encoded: &Encoded, schema: &Schema, table: &Arc<Table>) -> Result<(), Fault> {
        let Some(remote) = &mut self.remote else { return Err(Fault::Again("not connected".into())) };
        let target = Target { stream: &self.state.stream, schema: schema.fingerprint, table };
        // The copy is what a resend takes its bytes from.
        remote.client.append(&mut self.connection, target, &encoded.append, encoded.rows.clone()).await
    }
}

/// Schema of the first row from `from` on.
fn schema_from(blocks: &[Arc<Rows>], from: Place) -> Option<Arc<Schema>> {
    append::find(blocks, from, 0).map(|(_, rows, _)| rows.schema.clone())
}
