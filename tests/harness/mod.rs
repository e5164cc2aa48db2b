//! Runs the real binary in tests: starts, kills and stops nodes, reads their ledger and their log.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_sluice");

/// The workspace's top folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

/// Looks at `condition` until it holds, and fails with `what` at the deadline.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports").port()
}

/// Runs the binary to its end and returns what it printed.
pub fn sluice(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sluice {arguments:?}: {}\n{text}", output.status);
    text
}

/// One node, over as many lives as the test gives it.
pub struct Node {
    pub name: &'static str,
    config: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Node {
    /// `yaml` without the admin section, which is added.
    pub fn new(directory: &Path, name: &'static str, yaml: &str) -> Node {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = directory.join(format!("{name}.yaml"));
        std::fs::write(&config, format!("{yaml}\nadmin: {{ listen: \"{admin}\" }}\n")).expect("config is written");
        Node { name, config, log: directory.join(format!("{name}.log")), admin, child: None }
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("log opens");
        let child = Command::new(BINARY)
            .args(["run", "-c"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    pub fn wait_ready(&mut self) {
        let what = format!("{} to be ready", self.name);
        wait_until(Duration::from_secs(60), &what, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().expect("child is ours")) {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            self.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// SIGKILL: no chance to finish anything.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        let status = child.wait().expect("reaped");
        assert_eq!(status.signal(), Some(9), "{} ended by itself: {status}\n{}", self.name, self.log_tail());
    }

    /// SIGTERM, and the node's own exit.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let mut status = None;
        wait_until(Duration::from_secs(60), "the node to stop", || {
            status = child.try_wait().expect("child is ours");
            status.is_some()
        });
        status.expect("set when the wait ended")
    }

    /// Status and body of a GET at the admin port; nothing while it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Some((status, if chunked { unchunk(body) } else { body.to_owned() }))
    }

    pub fn ledger(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get("/ledger")?.1).ok()
    }

    /// Processor time used so far, user and system.
    pub fn cpu_seconds(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Largest resident memory so far, MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Warnings and errors that the test did not announce.
    pub fn unannounced(&self, announced: &[&str]) -> Vec<String> {
        let text = self.log_text();
        let loud =
            text.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR") || line.contains("panicked"));
        loud.filter(|line| !announced.iter().any(|part| line.contains(part))).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- last lines of {}\n{}", self.name, self.log_tail());
        }
    }
}

fn unchunk(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if len == 0 || len > tail.len() {
            break;
        }
        out.push_str(&tail[..len]);
        rest = tail[len..].trim_start_matches("\r\n");
    }
    out
}

/// Numbers that look random and repeat from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    /// From `E2E_SEED`, or the time; printed, so that a failure can be run again.
    pub fn from_environment() -> Random {
        let given = std::env::var("E2E_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) ^ Instant::now().elapsed().as_nanos() as u64);
        println!("E2E_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
