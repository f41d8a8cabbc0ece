//! One data directory and the server that runs in it.

use super::account::Account;
use super::process::{PidFile, Postmaster, Watchdog};
use super::{Binaries, Error, data, io, socket};
use crate::random;
use nix::sys::signal::Signal;
use sqlx::Postgres;
use sqlx::migrate::MigrateDatabase;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a start may take: after a crash Postgres replays its log first.
const START: Duration = Duration::from_mins(1);
/// How long a stop may take before the processes are killed.
const STOP: Duration = Duration::from_secs(10);
/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(5);
/// How much of the log an error repeats, in lines.
const TAIL: usize = 5;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    data: PathBuf,
    temporary: bool,
    settings: Vec<(String, String)>,
}

impl Options {
    /// Data to be kept, in this directory; it is made if it is not there.
    pub fn kept(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), temporary: false, settings: Vec::new() }
    }

    /// Data for a test, in a directory of their own. They go when the [`Cluster`] is dropped and also when this process
    /// ends without having dropped it, and so does the server. A crash of Postgres loses nothing; one of the machine may.
    #[must_use]
    pub fn temporary() -> Self {
        let data = std::env::temp_dir().join(format!("roster-{}", random::uuid().simple()));
        let options = Self { data, temporary: true, settings: Vec::new() };
        options.with("fsync", "off").with("full_page_writes", "off")
    }

    /// With this Postgres setting, for instance `max_connections`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// How to stop (Postgres, `pg_ctl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// When all clients have gone.
    Smart,
    /// Now, rolling back what is under way.
    Fast,
    /// Now, as in a crash.
    Immediate,
}

/// A Postgres of our own. Dropping it stops it.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    options: Options,
    account: Option<Account>,
    socket_directory: PathBuf,
    postmaster: Option<Postmaster>,
    /// Of a temporary cluster.
    leash: Option<Watchdog>,
}

impl Cluster {
    /// Makes the data directory if there is none, and starts the server, or adopts the one that already runs there
    /// because its roster was killed. When this returns, it takes connections.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn start(binaries: &Binaries, mut options: Options) -> Result<Self, Error> {
        let account = Account::needed()?;
        let named = &options.data;
        let (Some(parent), Some(name)) = (named.parent(), named.file_name()) else {
            return Err(Error::NotData(options.data));
        };
        let parent = std::path::absolute(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
            .map_err(io("find", parent))?;
        std::fs::create_dir_all(&parent).map_err(io("make", &parent))?;
        let parent = parent.canonicalize().map_err(io("find", &parent))?;
        if let Some(account) = &account {
            account.can_enter(&parent)?;
        }
        options.data = parent.join(name);
        let leash = if options.temporary {
            Some(Watchdog::tie(&[&options.data, &data::unfinished(&options.data)])?)
        } else {
            None
        };
        let (binaries, socket_directory) = (binaries.clone(), PathBuf::new());
        let mut cluster = Self { binaries, options, account, socket_directory, postmaster: None, leash };
        let Options { data, temporary, .. } = &cluster.options;
        data::initialize(&cluster.binaries, data, !temporary, cluster.account.as_ref()).await?;
        if !cluster.adopt().await? {
            cluster.launch().await?;
        }
        Ok(cluster)
    }

    /// Where a database of this cluster is, as sqlx (and libpq) take it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        socket::url(&self.socket_directory, database)
    }

    /// Makes a database, if there is none of this name.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let url = self.url(name);
        if !Postgres::database_exists(&url).await? {
            Postgres::create_database(&url).await?;
        }
        Ok(())
    }

    /// The data directory, resolved.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.options.data
    }

    #[cfg(test)]
    pub(super) fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    /// Where the server writes what it has to say.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.options.data.join("postgres.log")
    }

    /// The process id of the server, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.postmaster.as_ref().map(|postmaster| postmaster.pid)
    }

    /// Stops the server, if it runs. What does not stop in time is killed. The data stay.
    pub async fn stop(&mut self, how: Stop) {
        let Some(postmaster) = &mut self.postmaster else { return };
        postmaster.signal_all(Signal::SIGCONT);
        postmaster.signal(match how {
            Stop::Smart => Signal::SIGTERM,
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        });
        let started = Instant::now();
        while !postmaster.ended() {
            if started.elapsed() > STOP {
                postmaster.signal_all(Signal::SIGKILL);
            }
            tokio::time::sleep(POLL).await;
        }
        self.postmaster = None;
        if let Some(leash) = &mut self.leash {
            leash.hold(None);
        }
    }

    /// Starts the server again after [`Self::stop`], at the same URL.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn start_again(&mut self) -> Result<(), Error> {
        if self.postmaster.is_none() { self.launch().await } else { Ok(()) }
    }

    /// Stops the server and starts it again, at the same URL.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how).await;
        self.start_again().await
    }

    /// Freezes the server: it keeps its connections and answers nothing, like a machine that hangs.
    pub fn pause(&self) {
        if let Some(postmaster) = &self.postmaster {
            postmaster.signal_all(Signal::SIGSTOP);
        }
    }

    /// Thaws it.
    pub fn resume(&self) {
        if let Some(postmaster) = &self.postmaster {
            postmaster.signal_all(Signal::SIGCONT);
        }
    }

    /// Whether a server was there to adopt. What a dead one has left behind is removed.
    async fn adopt(&mut self) -> Result<bool, Error> {
        let data = &self.options.data;
        let started = Instant::now();
        while let Some(file) = PidFile::read(data) {
            let Some(postmaster) = Postmaster::adopted(file.pid, data) else {
                // Postgres would take any living process of this number for a server.
                let path = PidFile::path(data);
                std::fs::remove_file(&path).map_err(io("remove", &path))?;
                return Ok(false);
            };
            if file.ready && socket::greets(&file.socket_directory).await {
                self.socket_directory = file.socket_directory;
                self.postmaster = Some(postmaster);
                return Ok(true);
            }
            if started.elapsed() > START {
                return Err(Error::Unresponsive { pid: file.pid, directory: data.clone() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(false)
    }

    async fn launch(&mut self) -> Result<(), Error> {
        if self.socket_directory.as_os_str().is_empty() {
            self.socket_directory = socket::make_directory(&self.options.data, self.account.as_ref())?;
        }
        let log_path = self.log();
        // Made anew, never followed: the directory belongs to the account of Postgres, and we may be root.
        let _ = std::fs::remove_file(&log_path);
        let log = File::create_new(&log_path).map_err(io("make", &log_path))?;
        let errors = log.try_clone().map_err(io("make", &log_path))?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(&self.options.data).arg("-k").arg(&self.socket_directory);
        command.arg("-p").arg(socket::PORT.to_string()).args(["-c", "listen_addresses="]);
        for (name, value) in &self.options.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        if let Some(account) = &self.account {
            account.drop_to(&mut command);
        }
        // A group of its own: Ctrl-C in a terminal must reach roster only, which then stops Postgres in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
        let program = self.binaries.directory().join("postgres");
        let postmaster = Postmaster::born(command.spawn().map_err(io("run", &program))?, &self.options.data);
        if let Some(leash) = &mut self.leash {
            leash.hold(Some(postmaster.pid));
        }
        self.postmaster = Some(postmaster);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let data = &self.options.data;
        let started = Instant::now();
        while let Some(postmaster) = &mut self.postmaster {
            let pid = postmaster.pid;
            if postmaster.ended() {
                self.postmaster = None;
                let log = self.log();
                return Err(Error::Ended { tail: tail(&log), log });
            }
            let ready = PidFile::read(data).is_some_and(|file| file.pid == pid && file.ready);
            if ready && socket::greets(&self.socket_directory).await {
                return Ok(());
            }
            if started.elapsed() > START {
                return Err(Error::Unresponsive { pid, directory: data.clone() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.leash = None;
        if let Some(postmaster) = self.postmaster.take() {
            end_at_once(postmaster);
        }
        socket::remove_directory(&self.socket_directory);
        if self.options.temporary {
            // What cannot be removed stays behind in the directory for temporary files.
            let _ = std::fs::remove_dir_all(&self.options.data);
            let _ = std::fs::remove_dir_all(data::unfinished(&self.options.data));
        }
    }
}

/// Stops a server from where nothing can be awaited.
fn end_at_once(mut postmaster: Postmaster) {
    postmaster.signal_all(Signal::SIGCONT);
    postmaster.signal(Signal::SIGQUIT);
    let started = Instant::now();
    while !postmaster.ended() {
        if started.elapsed() > STOP {
            postmaster.signal_all(Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join(" / ")
}
