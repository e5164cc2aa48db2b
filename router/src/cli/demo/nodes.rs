//! The demo's two processes: their certificates, configurations, lives and logs.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::super::ledger;
use super::{Input, LOOK_EVERY, plugin};
use crate::fleet::ledger::Ledger;

const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(40);
const PROTO: &str = include_str!("../../../../config/proto/demo/v1/playback.proto");
const TAIL_LINES: usize = 20;

pub(super) struct Nodes {
    central: Node,
    edge: Node,
}

struct Node {
    name: &'static str,
    admin: String,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Nodes {
    /// Makes certificates and configurations.
    pub(super) fn prepare(directory: &Path, input: &Input, plugins: &Path) -> anyhow::Result<Nodes> {
        for folder in ["proto/demo/v1", "logs"] {
            std::fs::create_dir_all(directory.join(folder)).context("create folders")?;
        }
        std::fs::write(directory.join("proto/demo/v1/playback.proto"), PROTO).context("write schema")?;
        let pki = directory.join("pki");
        if !pki.exists() {
            let pki = pki.to_string_lossy().into_owned();
            sluice(&["pki", "init", "--dir", &pki, "--name", "localhost"])?;
            sluice(&["pki", "agent", "edge-1", "--dir", &pki])?;
        }
        let link = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let admin = |i: usize| anyhow::Ok(format!("127.0.0.1:{}", ports[i].local_addr()?.port()));
        let (central, edge) = (admin(0)?, admin(1)?);
        Ok(Nodes {
            central: Node::prepare(directory, "central", central_yaml(directory, input, plugins, link)?, central)?,
            edge: Node::prepare(directory, "edge", edge_yaml(directory, input, link), edge)?,
        })
    }

    /// Starts both and waits until they can work. `detached` ones outlive this process.
    pub(super) fn start(&mut self, detached: bool) -> anyhow::Result<()> {
        for node in [&mut self.central, &mut self.edge] {
            node.start(detached)?;
        }
        let end = Instant::now() + READY_MAX;
        for node in [&mut self.central, &mut self.edge] {
            while ledger::fetch(&node.admin).is_err() {
                ensure!(Instant::now() < end, "{} is not ready after {READY_MAX:?}:\n{}", node.name, node.log_tail());
                node.check_alive()?;
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    pub(super) fn edge_ledger(&self) -> anyhow::Result<Ledger> {
        ledger::fetch(&self.edge.admin).context("ask the edge for its ledger")
    }

    pub(super) fn central_ledger(&self) -> anyhow::Result<Ledger> {
        ledger::fetch(&self.central.admin).context("ask central for its ledger")
    }

    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.central.check_alive()?;
        self.edge.check_alive()
    }

    /// SIGTERM to both: they drain and end by themselves.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        for node in [&mut self.edge, &mut self.central] {
            node.stop()?;
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) {
        for child in [&mut self.edge.child, &mut self.central.child].into_iter().flatten() {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }

    pub(super) fn how_to_stop(&self) -> String {
        let pids = [&self.edge.child, &self.central.child].into_iter().flatten().map(|child| child.id().to_string());
        let pids = pids.collect::<Vec<_>>().join(" ");
        let (edge, central) = (&self.edge, &self.central);
        format!(
            "both are still running; stop them with: kill {pids}\n  edge:    sluice ledger --admin {}   log {}\n  central: sluice ledger --admin {}   log {}",
            edge.admin,
            edge.log.display(),
            central.admin,
            central.log.display()
        )
    }

    pub(super) fn log_tails(&self) -> String {
        [&self.central, &self.edge].map(|node| format!("--- {}\n{}", node.name, node.log_tail())).join("\n")
    }
}

impl Node {
    fn prepare(directory: &Path, name: &'static str, yaml: String, admin: String) -> anyhow::Result<Node> {
        let config = directory.join(format!("{name}.yaml"));
        let yaml = format!("{yaml}admin: {{ listen: \"{admin}\" }}\n");
        std::fs::write(&config, yaml).with_context(|| format!("write {}", config.display()))?;
        Ok(Node { name, admin, config, log: directory.join(format!("{name}.log")), child: None })
    }

    fn start(&mut self, detached: bool) -> anyhow::Result<()> {
        let log = File::create(&self.log).with_context(|| format!("create {}", self.log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(["run", "-c"]).arg(&self.config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if detached {
            command.process_group(0);
        }
        self.child = Some(command.spawn().with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().context("run kill")?;
        ensure!(sent.success(), "send SIGTERM to {}", self.name);
        let end = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}:\n{}", self.name, self.log_tail());
                return Ok(());
            }
            ensure!(Instant::now() < end, "{} did not stop within {STOP_MAX:?}", self.name);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

fn sluice(arguments: &[&str]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program).args(arguments).output().context("run this program")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sluice {}: {}\n{text}", arguments.join(" "), output.status);
    Ok(())
}

fn stream_yaml(input: &Input) -> &'static str {
    match input {
        Input::Generated => "message: demo.v1.PlaybackEvent",
        Input::File(_) => "message: sluice.v1.LogLine",
    }
}

fn edge_yaml(directory: &Path, input: &Input, link: u16) -> String {
    let at = directory.display();
    let (include, format) = match input {
        Input::Generated => (format!("{at}/logs/player.log*"), "json"),
        Input::File(path) => (path.display().to_string(), "line"),
    };
    let (stream, message) = (input.stream(), stream_yaml(input));
    format!(
        r#"role: edge
agent: edge-1
data: "{at}/edge"
schemas: {{ proto_roots: ["{at}/proto"] }}
sources:
  files:
    log: {{ stream: {stream}, include: ["{include}"], format: {format}, poll: 100ms }}
streams:
  {stream}: {{ {message} }}
link:
  centrals: ["localhost:{link}"]
  ca_certificate: "{at}/pki/ca.pem"
  certificate: "{at}/pki/edge-1.pem"
  private_key: "{at}/pki/edge-1.key"
"#
    )
}

fn central_yaml(directory: &Path, input: &Input, plugins: &Path, link: u16) -> anyhow::Result<String> {
    let at = directory.display();
    let path = |name| anyhow::Ok(plugin(plugins, name)?.display().to_string());
    let (filter, redact, dedup) = (path("filter")?, path("redact")?, path("dedup-key")?);
    let (stream, message) = (input.stream(), stream_yaml(input));
    let processing = match input {
        Input::Generated => format!(
            r#"    transforms:
      - {{ name: filter, path: "{filter}", config: {{ drop: [{{ field: action, equals: [6] }}] }} }}
      - {{ name: redact, path: "{redact}", config: {{ fields: [email, client_ip], patterns: [card, email] }} }}
    dedup:
      plugin: {{ name: dedup-key, path: "{dedup}", config: {{ fields: [event_id] }} }}
      window: 24h
"#
        ),
        // A line is itself wherever it stands: only the same place of the same file is a repetition.
        Input::File(_) => format!(
            r#"    transforms:
      - {{ name: redact, path: "{redact}", config: {{ patterns: [card, email] }} }}
    dedup:
      plugin: {{ name: dedup-key, path: "{dedup}", config: {{ fields: [path, position] }} }}
      window: 24h
"#
        ),
    };
    Ok(format!(
        r#"role: central
agent: central-1
data: "{at}/central"
schemas: {{ proto_roots: ["{at}/proto"] }}
sources:
  link:
    listen: "127.0.0.1:{link}"
    ca_certificate: "{at}/pki/ca.pem"
    certificate: "{at}/pki/central.pem"
    private_key: "{at}/pki/central.key"
streams:
  {stream}:
    {message}
{processing}    sinks: [archive]
sinks:
  archive: {{ parquet: {{ directory: "{at}/parquet", file_max: 64MiB, file_max_age: 2s }} }}
"#
    ))
}
