//! Writes a live log of playback events: some repeated, some with personal data, some heartbeats, some malformed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::clock::Clock;

/// Lines the log may be ahead of its reader.
pub(super) const AHEAD_MAX_LINES: u64 = 200_000;
/// The log is rotated when it is this long.
const ROTATE_BYTES: u64 = 8 << 20;
/// Lines written at once.
const CHUNK_LINES: u32 = 2_000;
/// Rotated logs that are kept. By then they have been read.
const KEPT_LOGS: u32 = 50;

/// What lies in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) malformed: u64,
    pub(super) heartbeats: u64,
    /// Lines whose event was written before, heartbeats left out.
    pub(super) repeated: u64,
}

pub(super) struct Generator {
    folder: PathBuf,
    log: File,
    log_bytes: u64,
    rotations: u32,
    /// Events that are neither heartbeats nor repeated.
    events: u64,
    seed: u64,
    written: Written,
    clock: Clock,
}

impl Generator {
    pub(super) fn create(folder: &Path) -> anyhow::Result<Generator> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Generator {
            log: open(folder)?,
            folder: folder.to_owned(),
            log_bytes: 0,
            rotations: 0,
            events: 0,
            seed: 0x5eed,
            written: Written::default(),
            clock: Clock::system(),
        })
    }

    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    pub(super) fn finish(self) -> Written {
        self.written
    }

    pub(super) fn write_some(&mut self) -> anyhow::Result<()> {
        let mut chunk = String::with_capacity(CHUNK_LINES as usize * 340);
        let now_nanos = self.clock.now_nanos();
        for line in 0..CHUNK_LINES {
            self.line(now_nanos + u64::from(line) * 1_000, &mut chunk)?;
        }
        self.log.write_all(chunk.as_bytes()).context("write log")?;
        self.written.lines += u64::from(CHUNK_LINES);
        self.written.bytes += chunk.len() as u64;
        self.log_bytes += chunk.len() as u64;
        if self.log_bytes >= ROTATE_BYTES {
            self.rotate()?;
        }
        Ok(())
    }

    fn line(&mut self, now_nanos: u64, out: &mut String) -> anyhow::Result<()> {
        let draw = self.draw(1000);
        if draw < 5 {
            self.written.malformed += 1;
            out.push_str("{\"event_id\":\"cut in half by a full dis\n");
            return Ok(());
        }
        let is_heartbeat = draw < 105;
        let repeats = !is_heartbeat && self.events > 100 && draw < 155;
        let number = if repeats { self.events - 1 - self.draw(100) } else { self.events };
        let (kind, action) = match is_heartbeat {
            true => ("hb", "ACTION_HEARTBEAT"),
            false => ("ev", ["ACTION_PLAY", "ACTION_PAUSE", "ACTION_SEEK", "ACTION_BUFFER"][number as usize % 4]),
        };
        let id = if is_heartbeat { self.written.heartbeats } else { number };
        match (is_heartbeat, repeats) {
            (true, _) => self.written.heartbeats += 1,
            (false, true) => self.written.repeated += 1,
            (false, false) => self.events += 1,
        }
        let message = match number % 50 {
            0 => "payment with 4111 1111 1111 1111 accepted, receipt to ann@example.com",
            _ => "buffer refilled from edge cache",
        };
        writeln!(
            out,
            r#"{{"event_id":"{kind}-{id}","time":"{time}","user_id":"u-{user}","session_id":"s-{session}","video_id":"v-{video}","action":"{action}","position_ms":{position},"bitrate_kbps":{bitrate},"device":"smart-tv","app_version":"7.12.1","country":"KR","email":"user{user}@example.com","client_ip":"203.0.113.{host}","message":"{message}"}}"#,
            time = time_text(now_nanos)?,
            user = number % 50_000,
            session = number / 20,
            video = number % 3_000,
            position = number * 250 % 7_200_000,
            bitrate = [800, 2_400, 4_500, 8_000][number as usize / 7 % 4],
            host = number % 254 + 1,
        )?;
        Ok(())
    }

    fn rotate(&mut self) -> anyhow::Result<()> {
        self.rotations += 1;
        let old = |number: u32| self.folder.join(format!("player.log.{number}"));
        std::fs::rename(self.folder.join("player.log"), old(self.rotations)).context("rotate log")?;
        if let Some(oldest) = self.rotations.checked_sub(KEPT_LOGS) {
            let _ = std::fs::remove_file(old(oldest)); // gone already is as good
        }
        self.log = open(&self.folder)?;
        self.log_bytes = 0;
        Ok(())
    }

    /// A number below `bound` (xorshift64: it only has to be mixed, and the same in every run).
    fn draw(&mut self, bound: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % bound
    }
}

fn open(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("player.log");
    File::create(&path).with_context(|| format!("create {}", path.display()))
}

fn time_text(nanos: u64) -> anyhow::Result<String> {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos))?;
    Ok(time.format(&time::format_description::well_known::Rfc3339)?)
}
