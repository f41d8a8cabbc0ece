//! Clients of other languages, with the programs that `interop/run.sh` builds: the tests here are run by it.

#![expect(clippy::print_stdout, reason = "what the programs print is the result of a run by hand")]

mod rolling;
mod tls;
mod unix;

use crate::harness::program::PATIENCE;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A program that makes calls with the gRPC library of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Go,
    Java,
    Node,
    Python,
}

/// How a probe connects: the variables of its environment.
#[derive(Debug, Clone, Default)]
struct ProbeSettings(BTreeMap<&'static str, String>);

impl ProbeSettings {
    fn new(address: &str, credential: &str) -> Self {
        Self::default().with("ROSTER_ADDRESS", address).with("SERVICE", credential)
    }

    fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.0.insert(variable, value.into());
        self
    }
}

/// The directory of the programs.
fn installed() -> PathBuf {
    std::env::var_os("ROSTER_INTEROP").expect("interop/run.sh sets ROSTER_INTEROP").into()
}

impl Probe {
    fn command(self, mode: &str, settings: &ProbeSettings) -> Command {
        let (installed, sources) = (installed(), Path::new(env!("CARGO_MANIFEST_DIR")).join("interop"));
        let languages = installed.join("languages");
        let mut command = match self {
            Self::Go => Command::new(installed.join("bin/probe")),
            Self::Java => {
                let classpath = std::fs::read_to_string(languages.join("java/classpath")).unwrap();
                let mut command = Command::new("java");
                command.args(["-cp", &format!("target/classes:{}", classpath.trim()), "Probe"]);
                command.current_dir(languages.join("java"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.arg("probe.js").current_dir(languages.join("node"));
                command
            }
            Self::Python => {
                let mut command = Command::new(installed.join("venv/bin/python"));
                command.arg(sources.join("python/probe.py")).env("PYTHONPATH", installed.join("generated/python"));
                command
            }
        };
        command.arg(mode).envs(&settings.0).kill_on_drop(true).stdin(Stdio::piped());
        command
    }

    /// Makes calls, two hundred a second, and reads a stream until [`Load::end`].
    fn load(self, settings: &ProbeSettings) -> Load {
        let mut command = self.command("load", settings);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let read = lines.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                read.lock().unwrap().push(line);
            }
        });
        Load { probe: self, process, lines, reader }
    }
}

/// A probe that makes calls.
struct Load {
    probe: Probe,
    process: Child,
    /// The lines that it has written: one for each message with events, and at the end one with all counts.
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Load {
    /// Whether its stream has received an event.
    fn has_event(&self) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line == "event")
    }

    /// Ends the calls. Asserts that none failed. Returns the number of calls, of streams and of events.
    async fn end(mut self) -> [u64; 3] {
        drop(self.process.stdin.take());
        let output =
            tokio::time::timeout(PATIENCE, self.process.wait_with_output()).await.expect("the probe runs on").unwrap();
        self.reader.await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let counts = self.lines.lock().unwrap().last().cloned().unwrap_or_default();
        println!("{:?}: {counts}\n{errors}", self.probe);
        let count = |name: &str| -> u64 {
            let value = counts.split_whitespace().find_map(|count| count.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("no {name}: {counts} {errors}")).parse().unwrap()
        };
        assert_eq!(count("failed"), 0, "{:?}: {counts} {errors}", self.probe);
        [count("calls"), count("streams"), count("events")]
    }
}
