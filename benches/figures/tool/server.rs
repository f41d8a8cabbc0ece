//! A process under measurement, pinned to one core, and the load generator, pinned to the other.

use super::load::{Load, Measurement};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The cores of the server and of the load generator.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";
/// The variable that contains the parameters of a generator.
pub(crate) const LOAD: &str = "ROSTER_BENCH_LOAD";

/// A pinned child process, killed on drop.
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

    /// Starts this program again, in a role.
    pub(crate) fn again(role: &str, core: &str, variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> = [("ROSTER_BENCH_ROLE", role)].into_iter().chain(variables.iter().copied()).collect();
        Self::start(&std::env::current_exe().unwrap(), &[], core, &variables)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The CPU time that the process has used, in microseconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: f64 = after_name.split_whitespace().skip(11).take(2).map(|text| text.parse::<f64>().unwrap()).sum();
        // A tick is a hundredth of a second on every Linux that has this file.
        ticks * 10_000.0
    }

    /// The resident memory of the process, in bytes.
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

/// The figures of one measurement. Times are in microseconds, the use of cores in parts of one core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) cpu: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) server_core: f64,
    pub(crate) load_core: f64,
}

/// Measures a server under load, with the generator on the other core.
pub(crate) fn measure(server: &Process, load: &Load) -> Figures {
    measure_on(server, load, LOAD_CORE)
}

/// Measures a server under load, with the generator on these cores.
pub(crate) fn measure_on(server: &Process, load: &Load, cores: &str) -> Figures {
    measure_by(server, Process::again("load", cores, &[(LOAD, &parameters(load))]))
}

/// Measures a server to which a generator opens connections.
pub(crate) fn measure_handshakes(server: &Process, load: &Load) -> Figures {
    measure_by(server, Process::again("handshakes", LOAD_CORE, &[(LOAD, &parameters(load))]))
}

/// Measures a server under load by another generator, which runs on the other core.
pub(crate) fn measure_with(generator: &Path, server: &Process, load: &Load) -> Figures {
    measure_by(server, Process::start(generator, &[], LOAD_CORE, &[(LOAD, &parameters(load))]))
}

fn parameters(load: &Load) -> String {
    serde_json::to_string(load).unwrap()
}

fn measure_by(server: &Process, mut generator: Process) -> Figures {
    // The generator prints this line after its warm-up, then measures.
    assert_eq!(generator.line(), "warm", "the generator failed");
    let (server_before, load_before) = (server.cpu(), generator.cpu());
    let begin = Instant::now();
    // The CPU time is read at once: the generator ends right after it has printed its results.
    let line = generator.line();
    let elapsed = begin.elapsed().as_secs_f64() * 1e6;
    let (cpu, load_cpu) = (server.cpu() - server_before, generator.cpu() - load_before);
    assert!(!line.is_empty(), "a call was answered wrongly");
    let measurement: Measurement = serde_json::from_str(&line).unwrap();
    Figures {
        rate: measurement.calls / measurement.seconds,
        cpu: cpu / measurement.calls,
        p50: measurement.p50,
        p99: measurement.p99,
        server_core: cpu / elapsed,
        load_core: load_cpu / elapsed,
    }
}

/// Waits until a process listens on the address.
pub(crate) fn until_listening(address: &str) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "no process listens on {address}");
        std::thread::yield_now();
    }
}
