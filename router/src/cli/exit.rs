//! Exit codes, a promise to scripts and service managers.

use std::process::ExitCode;

use crate::config;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Something failed while running.
    Failed = 1,
    /// The command line is wrong (from clap).
    Usage = 2,
    /// The configuration is wrong: starting again without a change is useless.
    Config = 3,
    /// The node could not start: port taken, journal in use or damaged, certificate unusable.
    Start = 4,
    /// The node stopped before all work was done. Nothing is lost: what was not delivered is in the journal.
    Drain = 5,
}

/// For `--help`.
pub(super) const TABLE: &str = "\
Exit codes:
  0  done
  1  failed while running
  2  the command line is wrong
  3  the configuration, or a file it names, is wrong
  4  the node could not start (port, journal, certificates)
  5  the drain deadline passed; what was not delivered is kept in the journal";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Context for errors before a node is up: `error.context(StartFailed { role: "edge" })` makes them exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("start {role}")]
pub struct StartFailed {
    pub role: &'static str,
}

/// The code for an error that reached the top.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<config::Error>().is_some() || error.downcast_ref::<ConfigRefused>().is_some() {
        Exit::Config
    } else if error.downcast_ref::<StartFailed>().is_some() {
        Exit::Start
    } else {
        Exit::Failed
    }
}

/// Context for what `check` finds beyond the configuration file itself.
#[derive(Debug, thiserror::Error)]
#[error("check {file}")]
pub(super) struct ConfigRefused {
    pub file: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn errors_have_their_codes_and_read_as_a_chain() {
        let cause = || anyhow::anyhow!("port taken");
        assert_eq!(of(&cause()), Exit::Failed);
        let started = Err::<(), _>(cause()).context("open link").context(StartFailed { role: "edge" }).unwrap_err();
        assert_eq!(
            (of(&started), format!("{started:#}")),
            (Exit::Start, "start edge: open link: port taken".to_owned())
        );
        let refused = Err::<(), _>(cause()).context(ConfigRefused { file: "a.yaml".to_owned() }).unwrap_err();
        assert_eq!(of(&refused), Exit::Config);
        let unread = config::load(std::path::Path::new("no/such.yaml")).map(drop).unwrap_err();
        assert_eq!(of(&unread.into()), Exit::Config);
    }

    #[test]
    fn help_names_every_code() {
        let codes = [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Config, Exit::Start, Exit::Drain];
        assert_eq!(TABLE.lines().count(), codes.len() + 1);
        for (line, code) in TABLE.lines().skip(1).zip(codes) {
            assert!(line.starts_with(&format!("  {}  ", code as u8)), "{line}");
        }
    }
}
