//! `sluice pki`: a certificate authority of one's own for the link, for those who have none.
//!
//! Files in the directory: `ca.pem` and `ca.key`, which sign; `central.pem` and `central.key`; `NAME.pem` and `NAME.key`
//! per agent. An agent's name stands in its certificate as a DNS name and is the only agent id central accepts from
//! it. Keys are readable by their owner alone. `ca.key` is needed to sign, by no running node: keep it elsewhere.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use crate::clock::Clock;

const CA_DAYS: i64 = 3650;
/// The longest a leaf may live for most TLS stacks.
const LEAF_DAYS: i64 = 825;
/// Clocks of two hosts differ; a certificate is valid from a little before it was made.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// What the central's certificate always names, so that a first try on one machine works.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const CA: &str = "ca";
const CENTRAL: &str = "central";

/// Arguments of `sluice pki`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a certificate authority and the central's certificate
    Init {
        #[command(flatten)]
        place: Place,
        /// DNS name or IP address under which edges reach the central; may be given more than once
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make the central's certificate anew, for other names or before it expires
    Central {
        #[command(flatten)]
        place: Place,
        /// DNS name or IP address under which edges reach the central; may be given more than once
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make an agent's certificate
    Agent {
        /// Agent id, as in the edge's configuration
        name: String,
        /// Name this agent had before: central then takes what is still in its journal under that name
        #[arg(long = "former", value_name = "NAME")]
        former: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Where the files are
    #[arg(long = "dir", value_name = "DIR", default_value = "pki")]
    directory: PathBuf,
    /// Replace files that exist. With `init`, every certificate signed before becomes useless
    #[arg(long)]
    force: bool,
}

/// Runs the command; 0 where the files were made.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    match args.command {
        Command::Init { place, names } => init(&place, &names, &clock)?,
        Command::Central { place, names } => central(&place, &names, &clock)?,
        Command::Agent { name, former, place } => agent(&place, &name, &former, &clock)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(place: &Place, names: &[String], clock: &Clock) -> anyhow::Result<()> {
    check_names(names)?;
    place.check_free(CA)?;
    place.check_free(CENTRAL)?;
    let key = KeyPair::generate().context("make key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, ca_name(&key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS, clock)?;
    let certificate = params.self_signed(&key).context("sign CA certificate")?;
    place.write(CA, &certificate.pem(), &key)?;
    println!("made {}: signs certificates, {CA_DAYS} days", place.path(CA, "pem").display());
    println!("made {}: its key; no node needs it, keep it elsewhere", place.path(CA, "key").display());
    central(place, names, clock)?;
    println!("\nNext, for each edge: sluice pki agent NAME --dir {}", place.directory.display());
    Ok(())
}

/// Differs between authorities, so that a certificate of another one is refused as that, not for a bad signature.
fn ca_name(key: &KeyPair) -> String {
    let digest = Sha256::digest(key.der_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("sluice CA {short}")
}

fn central(place: &Place, names: &[String], clock: &Clock) -> anyhow::Result<()> {
    check_names(names)?;
    let mut all: Vec<String> = names.to_vec();
    all.extend(
        LOCAL_NAMES.iter().filter(|&&local| !names.iter().any(|name| name == local)).map(|&name| name.to_owned()),
    );
    issue(place, CENTRAL, all.clone(), ExtendedKeyUsagePurpose::ServerAuth, clock)?;
    println!("made {}: the central, as {}, {LEAF_DAYS} days", place.path(CENTRAL, "pem").display(), all.join(", "));
    println!("made {}: its key", place.path(CENTRAL, "key").display());
    print_use("central, under its link source", place, CENTRAL);
    Ok(())
}

fn agent(place: &Place, name: &str, former: &[String], clock: &Clock) -> anyhow::Result<()> {
    let names: Vec<String> = std::iter::once(name.to_owned()).chain(former.iter().cloned()).collect();
    names.iter().try_for_each(|name| check_name(name))?;
    ensure!(name != CA && name != CENTRAL, "make agent certificate: the name {name:?} is taken by the files of `init`");
    issue(place, name, names, ExtendedKeyUsagePurpose::ClientAuth, clock)?;
    println!("made {}: agent {name}, {LEAF_DAYS} days", place.path(name, "pem").display());
    println!("made {}: its key", place.path(name, "key").display());
    print_use(&format!("edge {name}, under its link"), place, name);
    Ok(())
}

fn print_use(who: &str, place: &Place, name: &str) {
    println!("\nIn the configuration of {who}:");
    println!("  ca_certificate: {}", place.path(CA, "pem").display());
    println!("  certificate: {}", place.path(name, "pem").display());
    println!("  private_key: {}", place.path(name, "key").display());
}

/// Makes a leaf certificate for `names` and writes it as `file`.
fn issue(
    place: &Place,
    file: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    clock: &Clock,
) -> anyhow::Result<()> {
    place.check_free(file)?;
    let issuer = load_ca(place)?;
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).context("make certificate")?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, LEAF_DAYS, clock)?;
    let key = KeyPair::generate().context("make key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign certificate")?;
    place.write(file, &certificate.pem(), &key)
}

fn load_ca(place: &Place) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let (certificate, key) = (place.path(CA, "pem"), place.path(CA, "key"));
    let read = |path: &Path| {
        let made_by = "`sluice pki init` makes it";
        fs::read_to_string(path).with_context(|| format!("read {} ({made_by})", path.display()))
    };
    let text = read(&certificate)?;
    let key_pair = KeyPair::from_pem(&read(&key)?).with_context(|| format!("read key {}", key.display()))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
        .with_context(|| format!("read certificate {}", certificate.display()))?;
    let parsed = pem.parse_x509().with_context(|| format!("read certificate {}", certificate.display()))?;
    if parsed.public_key().subject_public_key.data != key_pair.der_bytes() {
        bail!("read key {}: it is not the key of {}", key.display(), certificate.display());
    }
    Issuer::from_ca_cert_pem(&text, key_pair).with_context(|| format!("read certificate {}", certificate.display()))
}

fn set_validity(params: &mut CertificateParams, days: i64, clock: &Clock) -> anyhow::Result<()> {
    let seconds = i64::try_from(clock.now_nanos() / 1_000_000_000).context("read the clock")?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).context("read the clock")?;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days);
    Ok(())
}

fn check_names(names: &[String]) -> anyhow::Result<()> {
    names.iter().try_for_each(|name| match name.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => check_name(name.strip_prefix("*.").unwrap_or(name)),
    })
}

/// Names become DNS names in certificates, and agents' names are file names too.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !name.is_empty() && name.len() <= 253 && name.chars().all(is_allowed) && !name.starts_with(['.', '-']),
        "make certificate: the name {name:?} must be 1 to 253 of the characters a-z A-Z 0-9 . _ - and start with a \
         letter or digit"
    );
    Ok(())
}

impl Place {
    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }

    fn check_free(&self, name: &str) -> anyhow::Result<()> {
        for path in [self.path(name, "pem"), self.path(name, "key")] {
            ensure!(
                self.force || !path.exists(),
                "write {}: it exists; --force replaces it, and nodes that use the old one need the new",
                path.display()
            );
        }
        Ok(())
    }

    /// Writes a certificate and its key, the key first: a certificate without its key would be of no use.
    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory).with_context(|| format!("make directory {}", self.directory.display()))?;
        replace(&self.path(name, "key"), &key.serialize_pem(), 0o600)?;
        replace(&self.path(name, "pem"), certificate, 0o644)
    }
}

/// Writes beside and renames, so that a file that nodes read is never half there.
fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut name = path.file_name().map(|name| name.to_owned()).unwrap_or_default();
    name.push(".new");
    let beside = path.with_file_name(name);
    let write = || {
        // A leftover of a killed run might have another mode.
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::link::tls;

    fn place(directory: &Path, force: bool) -> Place {
        Place { directory: directory.join("pki"), force }
    }

    fn problem(result: anyhow::Result<()>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn both_ends_accept_what_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path(), false);
        init(&place, &["central.example".to_owned(), "10.1.2.3".to_owned()], &Clock::system()).unwrap();
        agent(&place, "edge-1", &[], &Clock::system()).unwrap();
        let [ca, central, central_key] =
            [(CA, "pem"), (CENTRAL, "pem"), (CENTRAL, "key")].map(|(n, e)| place.path(n, e));
        let files = tls::Files { ca_certificate: &ca, certificate: &central, private_key: &central_key };
        tls::server(&files, 10).unwrap();
        let [edge, edge_key] = ["pem", "key"].map(|extension| place.path("edge-1", extension));
        let files = tls::Files { ca_certificate: &ca, certificate: &edge, private_key: &edge_key };
        tls::client(&files, std::time::Duration::from_secs(5)).unwrap();
        for (name, mode) in [("ca.key", 0o600), ("central.key", 0o600), ("edge-1.key", 0o600), ("ca.pem", 0o644)] {
            let found = fs::metadata(place.directory.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
    }

    #[test]
    fn nothing_is_replaced_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let (asked, forced) = (place(directory.path(), false), place(directory.path(), true));
        init(&asked, &[], &Clock::system()).unwrap();
        agent(&asked, "edge-1", &[], &Clock::system()).unwrap();
        let before = fs::read(asked.path("edge-1", "pem")).unwrap();
        assert!(problem(init(&asked, &[], &Clock::system())).contains("ca.pem: it exists; --force replaces it"));
        assert!(problem(central(&asked, &[], &Clock::system())).contains("central.pem: it exists"));
        assert!(problem(agent(&asked, "edge-1", &[], &Clock::system())).contains("edge-1.pem: it exists"));
        assert_eq!(fs::read(asked.path("edge-1", "pem")).unwrap(), before);
        agent(&forced, "edge-1", &[], &Clock::system()).unwrap();
        assert_ne!(fs::read(asked.path("edge-1", "pem")).unwrap(), before);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path(), false);
        assert!(problem(agent(&place, "edge-1", &[], &Clock::system())).contains("`sluice pki init` makes it"));
        init(&place, &[], &Clock::system()).unwrap();
        assert!(problem(agent(&place, "../edge", &[], &Clock::system())).contains("must be 1 to 253"));
        assert!(problem(agent(&place, "central", &[], &Clock::system())).contains("is taken"));
        let other = KeyPair::generate().unwrap();
        fs::write(place.path(CA, "key"), other.serialize_pem()).unwrap();
        assert!(problem(agent(&place, "edge-1", &[], &Clock::system())).contains("ca.key: it is not the key of"));
    }
}
