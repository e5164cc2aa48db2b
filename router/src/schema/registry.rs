//! All schemas a node knows.
//!
//! What the node's own files define is compiled at start; what other nodes bring is learned while it runs. Both are
//! found by fingerprint, so several versions of one message live side by side. A schema has descriptors of its own, cut
//! to the files it needs, however it came: the same fingerprint behaves the same on every node.
//!
//! Bounded: at most [`MAX_LEARNED`] learned schemas of [`MAX_LEARNED_LEN`] bytes together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost_reflect::DescriptorPool;

use super::{Error, Schema, Settings, closure, compile};
use crate::record::Fingerprint;

/// Schemas that other nodes may bring before this one refuses more. A fleet has tens.
pub const MAX_LEARNED: usize = 4096;
/// Bytes of their descriptor sets together.
pub const MAX_LEARNED_LEN: usize = 64 << 20;

/// Clones share the same schemas.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The proto roots, then each descriptor set. The first that defines a message counts.
    pools: Vec<DescriptorPool>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_fingerprint: HashMap<Fingerprint, Arc<Schema>>,
    /// Current version by message name: the node's own, else the one that was learned last.
    current: HashMap<String, Arc<Schema>>,
    learned_count: usize,
    learned_len: usize,
}

impl Registry {
    /// Compiles the proto roots and loads the descriptor sets; `sluice.v1.LogLine` is always known.
    /// Fails with every broken file as `file:line:column: reason`, a line each.
    pub fn load(settings: &Settings) -> Result<Registry, Error> {
        let mut pools = vec![compile::compile(&settings.proto_roots)?];
        for path in &settings.descriptor_sets {
            let refused = |reason: String| Error::Load { place: path.display().to_string(), reason };
            let set = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
            pools.push(closure::pool(&set).map_err(refused)?);
        }
        Ok(Registry { inner: Arc::new(Inner { pools, known: Mutex::default() }) })
    }

    /// Current version of a message: this node's own, else the last one learned.
    pub fn message(&self, name: &str) -> Result<Arc<Schema>, Error> {
        if let Some(schema) = self.known().current.get(name) {
            return Ok(schema.clone());
        }
        let own = self.inner.pools.iter().find_map(|pool| pool.get_message_by_name(name));
        let Some(descriptor) = own else { return Err(Error::Unknown { message: name.into() }) };
        let schema = Arc::new(Schema::new(descriptor));
        if !schema.options().problems.is_empty() {
            let reason = schema.options().problems.join("\n");
            return Err(Error::Load { place: format!("options of {name}"), reason });
        }
        let mut known = self.known();
        let schema = known.by_fingerprint.entry(schema.fingerprint).or_insert(schema).clone();
        known.current.insert(name.to_owned(), schema.clone());
        Ok(schema)
    }

    /// Names of all messages that this node's own files define, sorted; those of Google's files left out.
    pub fn messages(&self) -> Vec<String> {
        let messages = self.inner.pools.iter().flat_map(|pool| pool.all_messages());
        let own = messages.filter(|message| !message.is_map_entry() && message.package_name() != "google.protobuf");
        let mut names: Vec<String> = own.map(|message| message.full_name().to_owned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Any version that was asked for by name or learned.
    pub fn by_fingerprint(&self, fingerprint: Fingerprint) -> Option<Arc<Schema>> {
        self.known().by_fingerprint.get(&fingerprint).cloned()
    }

    /// Learns a version from its descriptor set; fails where the set does not have the fingerprint it came with.
    pub fn add(&self, fingerprint: Fingerprint, message: &str, descriptors: &[u8]) -> Result<Arc<Schema>, Error> {
        if let Some(schema) = self.by_fingerprint(fingerprint) {
            return if schema.message() == message {
                Ok(schema)
            } else {
                Err(Error::Unknown { message: message.into() })
            };
        }
        // Read outside the lock: it takes milliseconds, and batches look schemas up meanwhile.
        let schema = Arc::new(closure::decode(fingerprint, message, descriptors)?);
        let is_own = self.inner.pools.iter().any(|pool| pool.get_message_by_name(message).is_some());
        let mut known = self.known();
        if known.learned_count >= MAX_LEARNED || known.learned_len + descriptors.len() > MAX_LEARNED_LEN {
            let reason = format!("{} schemas were learned already, which is the limit", known.learned_count);
            return Err(Error::Load { place: format!("descriptors of {message}"), reason });
        }
        if let Some(first) = known.by_fingerprint.get(&fingerprint) {
            return Ok(first.clone());
        }
        known.learned_count += 1;
        known.learned_len += descriptors.len();
        known.by_fingerprint.insert(fingerprint, schema.clone());
        if !is_own {
            known.current.insert(message.to_owned(), schema.clone());
        }
        Ok(schema)
    }

    /// Every change under the lock is whole, so a panic elsewhere leaves nothing half done.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("known", &self.known().by_fingerprint.len()).finish_non_exhaustive()
    }
}
