//! TLS for both ends: TLS 1.3 only, certificates on both sides, from PEM files.
//!
//! Every file is read and checked when the node starts, and an error names the file and what is wrong with it, because
//! "handshake failed" in a log at night helps nobody. Sessions are not resumed: a certificate is checked anew on each
//! connection, and a link connects rarely.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::{ALPN, Error, LANES_MAX, RECEIVE_BUFFERS, STREAM_WINDOW};
use crate::clock::Clock;

/// Central ends a connection that was silent for this long. Edges send keep-alives far more often.
const SERVER_IDLE: Duration = Duration::from_secs(120);
/// Longest keep-alive interval, so that three fit into `SERVER_IDLE`.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(40);
/// Acks and greetings to an edge.
const CLIENT_STREAM_WINDOW: u32 = 64 << 10;
const CLIENT_RECEIVE_WINDOW: u32 = 4 << 20;
/// Bytes an edge has on the wire, over all lanes.
const CLIENT_SEND_WINDOW: u64 = 32 << 20;

/// PEM files of one end.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Who may have signed the other end's certificate.
    pub ca_certificate: &'a Path,
    /// This end's chain, leaf first.
    pub certificate: &'a Path,
    pub private_key: &'a Path,
}

/// The edge's end. `keep_alive` is the interval; three missed ones end the connection.
pub fn client(files: &Files<'_>, keep_alive: Duration) -> Result<quinn::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = identity(files)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto)?
        .with_root_certificates(roots(files.ca_certificate)?)
        .with_client_auth_cert(chain, key)
        .map_err(|source| key_error(files, source))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();

    let keep_alive = keep_alive.min(KEEP_ALIVE_MAX);
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(Some(idle(keep_alive * 3)?))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(CLIENT_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CLIENT_RECEIVE_WINDOW))
        .send_window(CLIENT_SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(crypto)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Central's end, for at most `connections_max` edges.
pub fn server(files: &Files<'_>, connections_max: usize) -> Result<quinn::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = identity(files)?;
    let verifier = client_verifier(files.ca_certificate, &provider)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| key_error(files, source))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;

    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle(SERVER_IDLE)?))
        .max_concurrent_bidi_streams(VarInt::from_u32(LANES_MAX + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(receive_window(connections_max)))
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(crypto)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// One connection's share of [`RECEIVE_BUFFERS`]: what one lane fills at least, what 32 lanes fill at most.
fn receive_window(connections_max: usize) -> u32 {
    let share = RECEIVE_BUFFERS / (connections_max.max(1) as u64);
    share.clamp(u64::from(STREAM_WINDOW), u64::from(STREAM_WINDOW) * 32) as u32
}

/// DNS names in a certificate's SAN extension: the agents it may speak for.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect())
}

fn client_verifier(
    ca: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), Arc::clone(provider))
        .build()
        .map_err(|error| file_error("CA certificate", ca, error.to_string()))
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    const WHAT: &str = "CA certificate";
    let mut store = RootCertStore::empty();
    for certificate in certificates(WHAT, path)? {
        check_validity(WHAT, path, &certificate)?;
        store.add(certificate).map_err(|error| file_error(WHAT, path, error.to_string()))?;
    }
    Ok(store)
}

fn identity(files: &Files<'_>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    const WHAT: &str = "certificate";
    let chain = certificates(WHAT, files.certificate)?;
    if let Some(leaf) = chain.first() {
        check_validity(WHAT, files.certificate, leaf)?;
    }
    Ok((chain, private_key(files.private_key)?))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| file_error(what, path, pem_problem(&error)))?;
    if found.is_empty() {
        return Err(file_error(what, path, "no BEGIN CERTIFICATE section in it".to_owned()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    const WHAT: &str = "private key";
    let text = read(WHAT, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound => "no BEGIN PRIVATE KEY section in it".to_owned(),
            other => pem_problem(&other),
        };
        file_error(WHAT, path, problem)
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| file_error(what, path, error.to_string()))
}

fn pem_problem(error: &pem::Error) -> String {
    format!("not a PEM file: {error}")
}

/// Refuses a certificate whose time is over or has not come, saying when that is.
fn check_validity(what: &'static str, path: &Path, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| file_error(what, path, format!("not an X.509 certificate: {error}")))?;
    let now_seconds = (Clock::system().now_nanos() / 1_000_000_000) as i64;
    let validity = parsed.validity();
    if now_seconds > validity.not_after.timestamp() {
        return Err(file_error(what, path, format!("it expired on {}", validity.not_after)));
    }
    if now_seconds < validity.not_before.timestamp() {
        return Err(file_error(what, path, format!("it is not valid before {}", validity.not_before)));
    }
    Ok(())
}

fn key_error(files: &Files<'_>, source: rustls::Error) -> Error {
    match source {
        rustls::Error::InconsistentKeys(_) => {
            let problem = format!("it is not the key of certificate {}", files.certificate.display());
            file_error("private key", files.private_key, problem)
        }
        source => Error::Tls { path: files.private_key.to_owned(), source },
    }
}

fn file_error(what: &'static str, path: &Path, problem: String) -> Error {
    Error::File { what, path: path.to_owned(), problem }
}

fn crypto(error: impl std::fmt::Display) -> Error {
    Error::Crypto { reason: error.to_string() }
}

fn idle(timeout: Duration) -> Result<IdleTimeout, Error> {
    IdleTimeout::try_from(timeout).map_err(crypto)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A directory with a good certificate and key, and one of every kind of bad ones.
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        let certificate = |years: (i32, i32), key: &KeyPair| {
            let mut params = CertificateParams::new(vec!["edge-1".to_owned(), "10.0.0.1".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
            params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
            params.self_signed(key).unwrap().pem()
        };
        let key = KeyPair::generate().unwrap();
        write("good.pem", &certificate((2000, 4000), &key));
        write("good.key", &key.serialize_pem());
        write("other.key", &KeyPair::generate().unwrap().serialize_pem());
        write("expired.pem", &certificate((2000, 2001), &key));
        write("early.pem", &certificate((3999, 4000), &key));
        write("empty.pem", "");
        write("text.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
        write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        directory
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let directory = directory();
        let path = |file: &str| directory.path().join(file);
        let check = |ca: &str, certificate: &str, key: &str, expected: &str| {
            let [ca_certificate, certificate, private_key] = [ca, certificate, key].map(path);
            let files = Files { ca_certificate: &ca_certificate, certificate: &certificate, private_key: &private_key };
            let expected = expected.replace("DIR", &directory.path().display().to_string());
            for found in [
                client(&files, Duration::from_secs(5)).map(drop).map_err(|error| error.chain()),
                server(&files, 10).map(drop).map_err(|error| error.chain()),
            ] {
                match expected.as_str() {
                    "" => assert_eq!(found, Ok(())),
                    expected => assert!(found.as_ref().unwrap_err().starts_with(expected), "{found:?}, not {expected}"),
                }
            }
        };
        check("good.pem", "good.pem", "good.key", "");
        check("none.pem", "good.pem", "good.key", "read CA certificate DIR/none.pem: No such file");
        check("good.pem", "none.pem", "good.key", "read certificate DIR/none.pem: No such file");
        check("good.pem", "good.pem", "none.key", "read private key DIR/none.key: No such file");
        check("empty.pem", "good.pem", "good.key", "read CA certificate DIR/empty.pem: no BEGIN CERTIFICATE section");
        check("good.pem", "good.key", "good.key", "read certificate DIR/good.key: no BEGIN CERTIFICATE section");
        check("good.pem", "good.pem", "good.pem", "read private key DIR/good.pem: no BEGIN PRIVATE KEY section");
        check("good.pem", "text.pem", "good.key", "read certificate DIR/text.pem: not a PEM file: ");
        check("good.pem", "garbage.pem", "good.key", "read certificate DIR/garbage.pem: not an X.509 certificate: ");
        check("good.pem", "expired.pem", "good.key", "read certificate DIR/expired.pem: it expired on Jan  1");
        check("expired.pem", "good.pem", "good.key", "read CA certificate DIR/expired.pem: it expired on");
        check("good.pem", "early.pem", "good.key", "read certificate DIR/early.pem: it is not valid before");
        let wrong = "read private key DIR/other.key: it is not the key of certificate DIR/good.pem";
        check("good.pem", "good.pem", "other.key", wrong);
    }

    #[test]
    fn agents_are_the_dns_names() {
        let directory = directory();
        let chain = certificates("certificate", &directory.path().join("good.pem")).unwrap();
        assert_eq!(dns_names(&chain[0]).unwrap(), ["edge-1"]);
        assert!(dns_names(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }

    #[test]
    fn receive_windows_share_the_buffers() {
        for (connections_max, expected) in [(0, 32 << 20), (1, 32 << 20), (64, 8 << 20), (100_000, 1 << 20)] {
            assert_eq!(receive_window(connections_max), expected, "{connections_max}");
        }
    }
}
