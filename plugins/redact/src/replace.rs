//! What takes the place of redacted text.

use sha2::{Digest as _, Sha256};
use sluice_plugin::Edit;

use crate::scan::Pattern;

#[derive(Debug)]
pub(crate) enum Replace {
    Mask,
    Hash(Box<Hmac>),
    Drop,
}

impl Replace {
    pub(crate) fn hash(key: &str) -> Replace {
        Replace::Hash(Box::new(Hmac::new(key.as_bytes())))
    }

    /// Replaces a whole field.
    pub(crate) fn whole(&self, value: &[u8], out: &mut Vec<u8>) -> Edit {
        match self {
            Replace::Mask => out.extend_from_slice(b"[redacted]"),
            Replace::Hash(hmac) => push_hash(hmac, "hash", value, out),
            Replace::Drop => return Edit::Remove,
        }
        Edit::Replace
    }

    /// Replaces one match inside a text.
    pub(crate) fn matched(&self, pattern: Pattern, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Replace::Mask => {
                out.push(b'[');
                out.extend_from_slice(pattern.name().as_bytes());
                out.push(b']');
            }
            Replace::Hash(hmac) => push_hash(hmac, pattern.name(), value, out),
            Replace::Drop => {}
        }
    }
}

fn push_hash(hmac: &Hmac, name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(b'[');
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    for byte in &hmac.sign(value)[..16] {
        out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
        out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
    }
    out.push(b']');
}

/// HMAC-SHA256 (RFC 2104) with the key's two blocks hashed once.
#[derive(Clone)]
pub(crate) struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl std::fmt::Debug for Hmac {
    /// The key is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hmac")
    }
}

impl Hmac {
    fn new(key: &[u8]) -> Hmac {
        let mut block = [0u8; 64];
        if key.len() > block.len() {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let keyed = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        Hmac { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    fn sign(&self, message: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(message).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let check = |key: &[u8], message: &[u8], expected: &str| {
            let hex: String = Hmac::new(key).sign(message).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
        };
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }
}
