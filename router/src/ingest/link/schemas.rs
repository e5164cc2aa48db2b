//! Schemas of arriving blocks. A block is appended only when the journal durably holds the schema it names, so that it
//! can still be read after a restart with other `.proto` files.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::journal::Journal;
use crate::link::Error;
use crate::record::Fingerprint;
use crate::schema::registry::Registry;
use crate::tasks;

pub(super) struct Schemas {
    journal: Journal,
    registry: Registry,
    /// In the journal already.
    durable: Mutex<HashSet<Fingerprint>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("schema {fingerprint} is not known here and the edge did not send it")]
    Unknown { fingerprint: Fingerprint },
    #[error("learn schema {message}, {fingerprint}: {reason}")]
    Refused { message: String, fingerprint: Fingerprint, reason: String },
    #[error("keep schema")]
    Journal(#[source] crate::journal::Error),
}

impl Schemas {
    pub(super) fn load(journal: Journal, registry: Registry) -> Result<Schemas, Error> {
        let kept = journal.schemas().map_err(|source| Error::Journal { source })?;
        let durable = kept.into_iter().map(|(fingerprint, _, _)| fingerprint).collect();
        Ok(Schemas { journal, registry, durable: Mutex::new(durable) })
    }

    /// Whether an edge need not send it.
    pub(super) fn knows(&self, fingerprint: Fingerprint) -> bool {
        self.registry.by_fingerprint(fingerprint).is_some()
    }

    /// Makes sure that the schema is known and durable.
    pub(super) async fn ensure(&self, fingerprint: Fingerprint) -> Result<(), SchemaError> {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint) {
            return Ok(());
        }
        let schema = self.registry.by_fingerprint(fingerprint).ok_or(SchemaError::Unknown { fingerprint })?;
        self.keep(fingerprint, schema.message(), schema.descriptors.clone()).await
    }

    /// Learns a version an edge sent. Building its descriptors takes milliseconds, so it happens off the runtime.
    pub(super) async fn learn(
        &self,
        fingerprint: Fingerprint,
        message: String,
        descriptors: Bytes,
    ) -> Result<(), SchemaError> {
        if !self.knows(fingerprint) {
            let registry = self.registry.clone();
            let added = tasks::blocking(move || {
                registry.add(fingerprint, &message, &descriptors).map_err(|error| (message, error.to_string()))
            });
            added.await.map_err(|(message, reason)| SchemaError::Refused { message, fingerprint, reason })?;
        }
        self.ensure(fingerprint).await
    }

    async fn keep(&self, fingerprint: Fingerprint, message: &str, descriptors: Bytes) -> Result<(), SchemaError> {
        self.journal.put_schema(fingerprint, message, descriptors).await.map_err(SchemaError::Journal)?;
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint);
        Ok(())
    }
}
