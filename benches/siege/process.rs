//! A child process, pinned to one core with a priority.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The cores of the server with Postgres, and of the callers with the attacker.
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const CALLER_CORE: &str = "1";

/// The child, killed on drop.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a program. `nice` is added to the niceness of this process; the kernel grants a negative number to root.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&str],
        (core, nice): (&str, i32),
        variables: &[(&str, &str)],
        errors: Stdio,
    ) -> Self {
        let mut command = Command::new("nice");
        // The child is killed with this process.
        command.args(["-n", &nice.to_string(), "setpriv", "--pdeathsig", "KILL", "taskset", "-c", core]);
        command.arg(program).args(arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("nice, setpriv and taskset are needed: {error}"));
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Starts this program again, in a role.
    pub(crate) fn again(role: &str, placement: (&str, i32), variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> = [("ROSTER_SIEGE_ROLE", role)].into_iter().chain(variables.iter().copied()).collect();
        Self::start(&std::env::current_exe().unwrap(), &[], placement, &variables, Stdio::inherit())
    }

    /// The next line of its output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv().expect("a process of the siege has ended")
    }

    /// The next line of its output, if there is one.
    pub(crate) fn poll_line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// The last line of its output so far.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.lines.try_iter().last()
    }

    /// The resident memory of the process, in bytes. `None` if it has ended.
    pub(crate) fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
