//! Admin commands and starts that must fail, run as an operator runs them.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::harness::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; None after a signal.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its output as JSON. Fails the test when the command failed.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that it failed with exit code 1 and one line on stderr, and gives that line.
    pub fn refusal(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        let said: Vec<_> = self.err.lines().filter(|line| !line.starts_with('{')).collect();
        let [line] = said[..] else { panic!("not one line: {self:?}") };
        line.strip_prefix("patchbay: ").unwrap_or_else(|| panic!("{line:?}"))
    }
}

/// Runs `patchbay` with these arguments on a server's data dir, whether it runs or not.
pub async fn patchbay(server: &Server, args: &[&str]) -> Ran {
    patchbay_with(server, args, "").await
}

/// The same with something on stdin.
pub async fn patchbay_with(server: &Server, args: &[&str], stdin: &str) -> Ran {
    let mut command = server.command();
    command.args(args);
    run(command, stdin).await
}

/// Runs any command to its end.
pub async fn run(mut command: Command, stdin: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let pid = child.id();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let Ok(output) = tokio::time::timeout(PATIENCE, output).await else {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("{shown} has not ended after {PATIENCE:?}");
    };
    let Output { status, stdout, stderr } = output.unwrap().unwrap();
    Ran { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}
