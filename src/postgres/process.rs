//! The postmaster as the operating system sees it.

use super::{Error, io};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What `postmaster.pid` says (Postgres, `pidfile.h`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) socket_directory: PathBuf,
    /// Whether it takes connections.
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    /// None where there is no such file, or it is only half written.
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

/// The postmaster: ours by birth, or adopted.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    data: PathBuf,
    child: Option<Child>,
}

impl Postmaster {
    pub(super) fn born(child: Child, data: &Path) -> Self {
        // It fits: the operating system's own type for process ids is an i32.
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        Self { pid, data: data.to_owned(), child: Some(child) }
    }

    /// One that somebody else started, if it is one: a process id may by now belong to another program.
    pub(super) fn adopted(pid: i32, data: &Path) -> Option<Self> {
        is_postmaster(pid, data).then(|| Self { pid, data: data.to_owned(), child: None })
    }

    /// Whether it has ended. A child of ours is buried by asking.
    pub(super) fn ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !is_postmaster(self.pid, &self.data),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Signals it and every process it has started. First itself, so that it starts no more. Postgres puts each of its
    /// processes into a group of its own, so that a signal to the group would not reach them.
    pub(super) fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        let mut reached = Vec::new();
        loop {
            let new: Vec<i32> = children(self.pid).into_iter().filter(|pid| !reached.contains(pid)).collect();
            if new.is_empty() {
                return;
            }
            for pid in &new {
                send(*pid, signal);
            }
            reached.extend(new);
        }
    }
}

/// Ends a server and removes its directories when this process ends, by whatever signal: it waits for the end of a pipe
/// that we hold open. Letting it go does none of that.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    /// Each line names the process that is to end, or none.
    const SCRIPT: &str = r#"
        while read -r line; do pid=$line; done
        if [ -n "$pid" ]; then
            kill -QUIT "$pid"
            kill -CONT "$pid"
            for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" && sleep 1; done
        fi
        rm -rf "$@"
    "#;

    pub(super) fn tie(directories: &[&Path]) -> Result<Self, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", Self::SCRIPT, "leash"]).args(directories);
        // A group of its own, so that Ctrl-C in a terminal does not end it before its work.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().map_err(io("run", Path::new("/bin/sh")))?))
    }

    pub(super) fn hold(&mut self, pid: Option<i32>) {
        if let Some(pipe) = &mut self.0.stdin {
            // It fails only if somebody has killed the shell; the leash is a second line.
            let _ = writeln!(pipe, "{}", pid.map(|pid| pid.to_string()).unwrap_or_default());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that has just ended is no fault.
fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

fn is_postmaster(pid: i32, data: &Path) -> bool {
    if Path::new("/proc/self").exists() {
        // The postmaster's working directory is its data.
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        return cwd.is_ok_and(|cwd| data.canonicalize().is_ok_and(|data| cwd == data));
    }
    ps(&["-p", &pid.to_string(), "-o", "comm="]).trim().ends_with("postgres")
}

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
    pairs.into_iter().filter(|(_, its_parent)| *its_parent == parent).map(|(pid, _)| pid).collect()
}

/// From `pid (name) state ppid …`, where the name may hold anything, brackets too.
fn parent_in_proc(process: &Path) -> Option<(i32, i32)> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some((pid, after_name.split(' ').nth(1)?.parse().ok()?))
}

fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
