//! The postmaster as a process of the operating system.

use super::{Error, io};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The contents of `postmaster.pid` (format: `pidfile.h` of Postgres).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) socket_directory: PathBuf,
    /// Whether the server accepts connections.
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    /// Reads the file; `None` if it is absent or only partly written.
    pub(super) fn read(data: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(data)).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            pid: lines.first()?.parse().ok().filter(|pid| *pid > 1)?,
            socket_directory: PathBuf::from(lines.get(4).copied().unwrap_or_default()),
            ready: lines.get(7).is_some_and(|status| *status == "ready"),
        })
    }
}

/// A postmaster that this process has started or adopted.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    data: PathBuf,
    /// `None` for an adopted postmaster.
    child: Option<Child>,
}

impl Postmaster {
    pub(super) fn started(child: Child, data: &Path) -> Self {
        // The conversion cannot fail: the operating system's type for process ids is an i32.
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        Self { pid, data: data.to_owned(), child: Some(child) }
    }

    /// Adopts a postmaster that another process has started; `None` if the process id belongs to another program by
    /// now.
    pub(super) fn adopt(pid: i32, data: &Path) -> Option<Self> {
        is_postmaster(pid, data).then(|| Self { pid, data: data.to_owned(), child: None })
    }

    /// Whether the process has exited. For a child this also reaps it.
    pub(super) fn has_exited(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !is_postmaster(self.pid, &self.data),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Signals the postmaster and then every process that it has started. The postmaster is first, so that it starts no
    /// more processes. A signal to the process group would not reach them, because Postgres puts each into a separate
    /// group.
    pub(super) fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        self.signal_children(signal);
    }

    /// Kills every process. The postmaster is suspended first, so that it starts no more processes, and killed last,
    /// because the processes of a dead postmaster are no longer its children.
    pub(super) fn kill_all(&self) {
        self.signal(Signal::SIGSTOP);
        self.signal_children(Signal::SIGKILL);
        self.signal(Signal::SIGKILL);
    }

    fn signal_children(&self, signal: Signal) {
        let mut signalled = Vec::new();
        loop {
            let new: Vec<i32> = children(self.pid).into_iter().filter(|pid| !signalled.contains(pid)).collect();
            if new.is_empty() {
                return;
            }
            for pid in &new {
                send(*pid, signal);
            }
            signalled.extend(new);
        }
    }
}

/// A shell process that stops a server and removes its directories when this process ends, by any signal. It waits for
/// the end of a pipe that this process keeps open. Dropping the watchdog ends the shell without either.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    /// Each line of input is the process id of the server, or empty while there is none.
    const SCRIPT: &str = r#"
        while read -r line; do pid=$line; done
        if [ -n "$pid" ]; then
            kill -QUIT "$pid"
            kill -CONT "$pid"
            for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" && sleep 1; done
        fi
        rm -rf "$@"
    "#;

    pub(super) fn start(directories: &[&Path]) -> Result<Self, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", Self::SCRIPT, "watchdog"]).args(directories);
        // A separate process group, so that Ctrl-C in a terminal does not end it before it has cleaned up.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().map_err(io("run", Path::new("/bin/sh")))?))
    }

    /// Sets the process id of the server to stop; `None` if no server runs.
    pub(super) fn set_pid(&mut self, pid: Option<i32>) {
        if let Some(pipe) = &mut self.0.stdin {
            // It fails only if the shell was killed. The watchdog is only a second safeguard beside `drop`.
            let _ = writeln!(pipe, "{}", pid.map(|pid| pid.to_string()).unwrap_or_default());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Both fail only if the shell has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal. A process that has just exited is not an error.
fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether the process is the postmaster of this data directory. Without `/proc`, only the name of the program is
/// compared.
fn is_postmaster(pid: i32, data: &Path) -> bool {
    if Path::new("/proc/self").exists() {
        // The working directory of a postmaster is its data directory.
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        return cwd.is_ok_and(|cwd| data.canonicalize().is_ok_and(|data| cwd == data));
    }
    ps(&["-p", &pid.to_string(), "-o", "comm="]).trim().ends_with("postgres")
}

/// The processes that this process has started.
fn children(parent: i32) -> Vec<i32> {
    let pairs: Vec<(i32, i32)> = if let Ok(entries) = std::fs::read_dir("/proc") {
        entries.flatten().filter_map(|entry| parent_in_proc(&entry.path())).collect()
    } else {
        ps(&["-A", "-o", "pid=,ppid="])
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
            })
            .collect()
    };
    pairs.into_iter().filter(|(_, parent_of_process)| *parent_of_process == parent).map(|(pid, _)| pid).collect()
}

/// The process id and that of the parent, from `pid (name) state ppid …`. The name may contain any character, including
/// parentheses.
fn parent_in_proc(process: &Path) -> Option<(i32, i32)> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some((pid, after_name.split(' ').nth(1)?.parse().ok()?))
}

/// The output of `ps`, for systems without `/proc`; empty if it fails.
fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
