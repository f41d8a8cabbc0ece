//! A process under measurement, on a core of its own, and the generator on the other.

use super::load::{Load, Seen};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the server runs, and where the generator does.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

/// A program of ours, pinned. Ends with this.
pub(crate) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(program: &Path, arguments: &[&str], core: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(program).args(arguments).stdout(Stdio::piped());
        command.envs(variables.iter().copied());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("taskset pins processes to cores, and is missing: {error}"));
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// This program again, in a role.
    pub(crate) fn again(role: &str, core: &str, variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> = [("ROSTER_BENCH_ROLE", role)].into_iter().chain(variables.iter().copied()).collect();
        Self::start(&std::env::current_exe().unwrap(), &[], core, &variables)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The processor time that it has used, in microseconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: f64 = after_name.split_whitespace().skip(11).take(2).map(|text| text.parse::<f64>().unwrap()).sum();
        // A tick is a hundredth of a second on every Linux that has this file.
        ticks * 10_000.0
    }

    /// The memory that it has, in bytes.
    pub(crate) fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one measurement has shown. Times in microseconds; cores in parts of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) cpu: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) server_core: f64,
    pub(crate) load_core: f64,
}

/// Loads a server, from the other core.
pub(crate) fn measure(server: &Process, load: &Load) -> Figures {
    measure_on(server, load, LOAD_CORE)
}

/// Loads a server, from these cores.
pub(crate) fn measure_on(server: &Process, load: &Load, cores: &str) -> Figures {
    let told = serde_json::to_string(load).unwrap();
    let mut generator = Process::again("load", cores, &[("ROSTER_BENCH_LOAD", &told)]);
    // It warms up first, then says so, then measures.
    assert_eq!(generator.line(), "warm", "the generator failed");
    let (before, own) = (server.cpu(), generator.cpu());
    let begin = Instant::now();
    // Read while it still is a process: it ends a moment after it has spoken.
    let line = generator.line();
    let elapsed = begin.elapsed().as_secs_f64() * 1e6;
    let (cpu, own) = (server.cpu() - before, generator.cpu() - own);
    assert!(!line.is_empty(), "a call was answered wrongly");
    let seen: Seen = serde_json::from_str(&line).unwrap();
    Figures {
        rate: seen.calls / seen.seconds,
        cpu: cpu / seen.calls,
        p50: seen.p50,
        p99: seen.p99,
        server_core: cpu / elapsed,
        load_core: own / elapsed,
    }
}

/// Waits until somebody listens there.
pub(crate) fn until_listening(address: &str) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "nobody listens");
        std::thread::yield_now();
    }
}
