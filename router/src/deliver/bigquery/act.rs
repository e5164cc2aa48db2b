//! What follows from an answer: the state's next step, journaled, and the delays between attempts.

use std::collections::BTreeMap;

use super::answer::{self, Fault};
use super::append::{self, Encoded};
use super::auth::Credentials;
use super::client::Client;
use super::state::{Append, Place};
use super::table::Tables;
use super::writer::{Remote, Writer};
use crate::deliver::{Error, Progress};
use crate::record::Fingerprint;
use crate::schema::bigquery::Table;
use crate::telemetry;

/// Failed attempts that are part of normal operation: idle connections are closed, servers are replaced.
const ATTEMPTS_UNREMARKABLE: u32 = 3;

/// Whether an append is to be sent again as it is.
#[derive(PartialEq, Eq)]
pub(super) enum Next {
    SameAgain,
    Over,
}

impl Writer<'_> {
    /// Does what an answer asks for.
    pub(super) async fn act(&mut self, fault: Fault, encoded: &Encoded, schema: Fingerprint) -> Result<Next, Error> {
        let is_single = encoded.rows.len() == 1;
        match fault {
            Fault::Exists(text) => {
                self.exists(encoded, text)?;
                self.state.accepted = schema.to_string();
            }
            Fault::OutOfRange(text) => {
                self.rewinds += 1;
                if self.rewinds > 1 {
                    return Err(self.stopped(format!("the write stream lacks acknowledged rows: {text}")));
                }
                self.wait(Fault::OutOfRange(text)).await;
                return Ok(Next::SameAgain);
            }
            Fault::Misplaced(text) => return Err(self.stopped(text)),
            Fault::Rows(rows) if !rows.is_empty() && rows.iter().all(|(index, _)| *index < encoded.rows.len()) => {
                self.remove(encoded, &rows);
            }
            Fault::Rows(_) if is_single => self.remove(encoded, &[(0, "refused without a reason".into())]),
            Fault::Rows(_) => self.halve(encoded),
            Fault::TooLarge(text) if is_single => self.remove(encoded, &[(0, text)]),
            Fault::Refused(text) if is_single && self.state.accepted == schema.to_string() => {
                self.remove(encoded, &[(0, text)])
            }
            Fault::TooLarge(_) => self.halve(encoded),
            Fault::Refused(_) if !is_single => self.halve(encoded),
            Fault::StreamLost(text) | Fault::TableMissing(text) => {
                tracing::warn!(sink = %self.sink, stream = self.state.stream, reason = text, "write stream lost");
                self.settle().await?;
                // Without it, a table that ends every stream would be asked for one after the other.
                self.delay().await;
            }
            fault @ (Fault::Refused(_) | Fault::Waiting(_) | Fault::Again(_)) => {
                self.wait(fault).await;
                return Ok(Next::SameAgain);
            }
        }
        self.commit().await?;
        Ok(Next::Over)
    }

    fn exists(&mut self, encoded: &Encoded, text: String) -> Result<(), Error> {
        let end = encoded.append.offset + i64::from(encoded.append.count);
        if !encoded.append.was_sent || answer::expected_offset(&text).is_some_and(|expected| expected < end) {
            return Err(self.stopped(format!("the write stream holds rows this sink did not put there: {text}")));
        }
        self.landed();
        Ok(())
    }

    /// The first append in doubt is in the table, or has no rows left.
    pub(super) fn landed(&mut self) {
        if self.state.in_doubt.is_empty() {
            return;
        }
        let append = self.state.in_doubt.remove(0);
        self.state.offset = append.offset + i64::from(append.count);
        self.unsaved.delivered += u64::from(append.count);
        self.pass(append.to);
        self.backoff.reset();
        self.outage.ended();
        self.rewinds = 0;
    }

    /// Everything before `to` is done with.
    pub(super) fn pass(&mut self, to: Place) {
        self.next = to.seq;
        self.state.row = to.row;
        self.blocks.retain(|rows| rows.seq >= to.seq);
        self.unsaved.is_some = true;
    }

    pub(super) fn mark_sent(&mut self) {
        if let Some(append) = self.state.in_doubt.first_mut() {
            append.was_sent = true;
        }
    }

    /// Takes refused rows out of the first append in doubt; they become dead letters in the same commit.
    fn remove(&mut self, encoded: &Encoded, refused: &[(usize, String)]) {
        let refused: BTreeMap<usize, &String> = refused.iter().map(|(index, reason)| (*index, reason)).collect();
        let blocks: Vec<_> = self.blocks.iter().cloned().collect();
        let Some(append) = self.state.in_doubt.first_mut() else { return };
        for (index, reason) in &refused {
            let number = encoded.numbers[*index];
            if let Some((_, rows, row)) = append::find(&blocks, append.from, number) {
                self.unsaved.dead.push(append::dead_letter(rows, row, &self.stage, (*reason).clone()));
            }
            append.removed.push(number);
        }
        append.removed.sort_unstable();
        append.count -= refused.len() as u32;
        append.was_sent = false;
        let is_empty = append.count == 0;
        self.unsaved.is_some = true;
        if is_empty {
            self.landed();
        }
        self.state.renumber();
        telemetry::DELIVER_RETRIES.add(1, &[("sink", &self.sink), ("reason", "row_errors")]);
    }

    /// Makes two appends of the first one in doubt.
    fn halve(&mut self, encoded: &Encoded) {
        let middle = encoded.rows.len() / 2;
        let blocks: Vec<_> = self.blocks.iter().cloned().collect();
        let Some(number) = encoded.numbers.get(middle).copied() else { return };
        let Some(whole) = self.state.in_doubt.first() else { return };
        let Some((place, ..)) = append::find(&blocks, whole.from, number) else { return };
        let removed_after = whole.removed.iter().filter(|&&removed| removed > number).map(|removed| removed - number);
        let second = Append {
            from: place,
            to: whole.to,
            offset: 0,
            count: whole.count - middle as u32,
            removed: removed_after.collect(),
            was_sent: false,
        };
        let first = Append {
            to: place,
            count: middle as u32,
            removed: whole.removed.iter().copied().filter(|&removed| removed < number).collect(),
            was_sent: false,
            ..whole.clone()
        };
        self.state.in_doubt.splice(0..1, [first, second]);
        self.state.renumber();
        self.unsaved.is_some = true;
        telemetry::DELIVER_RETRIES.add(1, &[("sink", &self.sink), ("reason", "split")]);
    }

    /// Leaves a write stream that takes nothing more, after asking it which appends in doubt it holds.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        while !self.stop.is_cancelled() {
            let finalized = match self.connected().await {
                Ok(()) => self.finalize().await,
                Err(fault) => Err(fault),
            };
            match finalized {
                Ok(count) => self.settle_by(count)?,
                Err(Fault::StreamLost(reason) | Fault::TableMissing(reason)) => {
                    let rows: u32 =
                        self.state.in_doubt.iter().filter(|append| append.was_sent).map(|append| append.count).sum();
                    if rows > 0 {
                        tracing::warn!(sink = %self.sink, stream = self.state.stream, rows, reason, "rows possibly twice");
                    }
                }
                Err(fault) => {
                    self.wait(fault).await;
                    continue;
                }
            }
            self.connection = None;
            self.state.leave_stream();
            self.unsaved.is_some = true;
            return Ok(());
        }
        Ok(())
    }

    async fn finalize(&mut self) -> Result<i64, Fault> {
        match &mut self.remote {
            Some(remote) => remote.client.finalize(&self.state.stream).await,
            None => Err(Fault::Again("not connected".into())),
        }
    }

    /// An append is in the stream as a whole or not at all, so the stream's row count tells which ones are.
    fn settle_by(&mut self, row_count: i64) -> Result<(), Error> {
        if row_count < self.state.offset {
            let acknowledged = self.state.offset;
            tracing::error!(sink = %self.sink, stream = self.state.stream, row_count, acknowledged, "acknowledged rows missing");
        }
        while let Some(append) = self.state.in_doubt.first().filter(|append| append.was_sent) {
            let end = append.offset + i64::from(append.count);
            if row_count > append.offset && row_count < end {
                return Err(self.stopped(format!(
                    "write stream {} ends at row {row_count}, inside the append from {} to {end}",
                    self.state.stream, append.offset
                )));
            }
            if row_count < end {
                break;
            }
            self.landed();
        }
        Ok(())
    }

    /// Makes sure that there is a write stream, and a table behind it.
    pub(super) async fn ensure_stream(&mut self, table: &Table) -> Result<(), Fault> {
        self.connected().await?;
        let Some(remote) = &mut self.remote else { return Err(Fault::Again("not connected".into())) };
        if self.state.stream.is_empty() {
            remote.tables.ensure(&self.name, table).await?;
            self.state.stream = remote.client.create_stream(&self.name.path()).await?;
            self.unsaved.is_some = true;
            tracing::info!(sink = %self.sink, stream = self.state.stream, "write stream created");
        }
        Ok(())
    }

    async fn connected(&mut self) -> Result<(), Fault> {
        if self.remote.is_none() {
            let credentials = Credentials::load(&self.settings.auth).await.map_err(Fault::Waiting)?;
            let client = Client::new(self.settings, credentials.clone()).map_err(Fault::Waiting)?;
            let tables = Tables::new(self.settings, credentials).await.map_err(Fault::Waiting)?;
            self.remote = Some(Remote { client, tables });
        }
        Ok(())
    }

    /// Waits before the next attempt; what is not over after some attempts is reported.
    pub(super) async fn wait(&mut self, fault: Fault) {
        let (class, text) = match fault {
            Fault::Again(text) => ("again", text),
            Fault::Rows(rows) => ("paused", format!("{} rows refused", rows.len())),
            Fault::OutOfRange(text) => ("rewind", text),
            Fault::Exists(text)
            | Fault::TooLarge(text)
            | Fault::Refused(text)
            | Fault::Misplaced(text)
            | Fault::StreamLost(text)
            | Fault::TableMissing(text)
            | Fault::Waiting(text) => ("paused", text),
        };
        telemetry::DELIVER_RETRIES.add(1, &[("sink", &self.sink), ("reason", class)]);
        if class == "paused" || self.backoff.attempt() >= ATTEMPTS_UNREMARKABLE {
            self.outage.began(&text);
        }
        tracing::debug!(sink = %self.sink, reason = text, "append to be tried again");
        self.delay().await;
    }

    async fn delay(&mut self) {
        let delay = self.backoff.next_delay();
        let _ = self.stop.run_until_cancelled(tokio::time::sleep(delay)).await;
    }

    /// Makes what happened since the last commit durable.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        if !self.unsaved.is_some {
            return Ok(());
        }
        let state = self.state.encode().map_err(|reason| self.stopped(reason))?;
        let unsaved = std::mem::take(&mut self.unsaved);
        let progress = Progress { next: self.next, state, delivered: unsaved.delivered, dead: unsaved.dead };
        self.feed.commit(progress).await
    }

    fn stopped(&self, reason: String) -> Error {
        Error::Stopped { sink: self.sink.clone(), stream: self.feed.stream().clone(), reason }
    }
}
