//! A data directory, and the Postgres server that runs in it.

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

/// Time limit of a start. It is long because Postgres replays its write-ahead log after a crash.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Time limit of a stop; then the processes are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of polls while the start or the stop of a server is awaited.
const POLL_EVERY: Duration = Duration::from_millis(5);
/// Number of lines at the end of the log that an error contains.
const TAIL_LINES: usize = 5;

/// The data directory and the settings of a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    data: PathBuf,
    temporary: bool,
    settings: Vec<(String, String)>,
}

impl Options {
    /// A permanent data directory. It is created if it does not exist.
    pub fn kept(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), temporary: false, settings: Vec::new() }
    }

    /// A new data directory for a test. It is removed, and the server stopped, when the [`Cluster`] is dropped, and
    /// also when this process ends without dropping it. A crash of Postgres loses no data; a crash of the machine may.
    #[must_use]
    pub fn temporary() -> Self {
        let data = std::env::temp_dir().join(format!("roster-{}", random::uuid().simple()));
        let options = Self { data, temporary: true, settings: Vec::new() };
        options.with("fsync", "off").with("full_page_writes", "off")
    }

    /// Adds a Postgres setting, for example `max_connections`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The data directory, which need not exist yet.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// The shutdown mode, as of `pg_ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits until all clients have disconnected.
    Smart,
    /// Stops at once and rolls back open transactions.
    Fast,
    /// Stops at once, without a checkpoint, as in a crash.
    Immediate,
    /// Kills every process of the server.
    Kill,
}

/// A private Postgres server. Dropping it stops the server.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    options: Options,
    account: Option<Account>,
    socket_directory: PathBuf,
    postmaster: Option<Postmaster>,
    /// Cleans up a temporary cluster if this process is killed; `None` for a permanent one.
    watchdog: Option<Watchdog>,
}

impl Cluster {
    /// Creates the data directory if it does not exist, and starts the server. If a server already runs there, because
    /// the roster that started it was killed, adopts it. When this returns, the server accepts connections.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(binaries: &Binaries, mut options: Options) -> Result<Self, Error> {
        let account = Account::needed()?;
        let path = &options.data;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::NotData(options.data));
        };
        let parent = std::path::absolute(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
            .map_err(io("find", parent))?;
        std::fs::create_dir_all(&parent).map_err(io("create", &parent))?;
        let parent = parent.canonicalize().map_err(io("find", &parent))?;
        if let Some(account) = &account {
            account.check_access(&parent)?;
        }
        options.data = parent.join(name);
        let watchdog = if options.temporary {
            Some(Watchdog::start(&[&options.data, &data::unfinished(&options.data)])?)
        } else {
            None
        };
        let (binaries, socket_directory) = (binaries.clone(), PathBuf::new());
        let mut cluster = Self { binaries, options, account, socket_directory, postmaster: None, watchdog };
        let Options { data, temporary, .. } = &cluster.options;
        data::initialize(&cluster.binaries, data, !temporary, cluster.account.as_ref()).await?;
        if !cluster.adopt().await? {
            cluster.launch().await?;
        }
        Ok(cluster)
    }

    /// The URL of a database of this cluster, for sqlx and libpq.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        socket::url(&self.socket_directory, database)
    }

    /// Creates a database, unless it exists.
    ///
    /// # Errors
    /// [`Error::Rejected`].
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let url = self.url(name);
        if !Postgres::database_exists(&url).await? {
            Postgres::create_database(&url).await?;
        }
        Ok(())
    }

    /// The data directory, as an absolute path without symbolic links in its parents.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.options.data
    }

    #[cfg(test)]
    pub(super) fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    /// The path of the log file of the server.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.options.data.join("postgres.log")
    }

    /// The process id of the postmaster; `None` if the server does not run.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.postmaster.as_ref().map(|postmaster| postmaster.pid)
    }

    /// Stops the server, if it runs. Processes that do not stop within [`STOP_TIMEOUT`] are killed. The data are kept.
    pub async fn stop(&mut self, mode: Stop) {
        let Some(postmaster) = &mut self.postmaster else { return };
        postmaster.signal_all(Signal::SIGCONT);
        match mode {
            Stop::Smart => postmaster.signal(Signal::SIGTERM),
            Stop::Fast => postmaster.signal(Signal::SIGINT),
            Stop::Immediate => postmaster.signal(Signal::SIGQUIT),
            Stop::Kill => postmaster.kill_all(),
        }
        let started = Instant::now();
        while !postmaster.has_exited() {
            if started.elapsed() > STOP_TIMEOUT {
                postmaster.kill_all();
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        self.postmaster = None;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.set_pid(None);
        }
    }

    /// Starts the server again after [`Self::stop`], at the same URL.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start_again(&mut self) -> Result<(), Error> {
        if self.postmaster.is_none() { self.launch().await } else { Ok(()) }
    }

    /// Stops the server and starts it again, at the same URL.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn restart(&mut self, mode: Stop) -> Result<(), Error> {
        self.stop(mode).await;
        self.start_again().await
    }

    /// Suspends all processes of the server: connections stay open and get no answer, as from a machine that hangs.
    pub fn pause(&self) {
        if let Some(postmaster) = &self.postmaster {
            postmaster.signal_all(Signal::SIGSTOP);
        }
    }

    /// Resumes the processes after [`Self::pause`].
    pub fn resume(&self) {
        if let Some(postmaster) = &self.postmaster {
            postmaster.signal_all(Signal::SIGCONT);
        }
    }

    /// Adopts a running server, and returns whether there was one. The `postmaster.pid` of a dead server is removed.
    async fn adopt(&mut self) -> Result<bool, Error> {
        let data = &self.options.data;
        let started = Instant::now();
        while let Some(file) = PidFile::read(data) {
            let Some(postmaster) = Postmaster::adopt(file.pid, data) else {
                // Postgres would take any process with this id for a running server, and would not start.
                let path = PidFile::path(data);
                std::fs::remove_file(&path).map_err(io("remove", &path))?;
                return Ok(false);
            };
            if file.ready && socket::accepts_connections(&file.socket_directory).await {
                self.socket_directory = file.socket_directory;
                self.postmaster = Some(postmaster);
                return Ok(true);
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(Error::Unresponsive { pid: file.pid, directory: data.clone() });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(false)
    }

    /// Starts the server and waits until it accepts connections.
    async fn launch(&mut self) -> Result<(), Error> {
        if self.socket_directory.as_os_str().is_empty() {
            self.socket_directory = socket::make_directory(&self.options.data, self.account.as_ref())?;
        }
        let log_path = self.log();
        // A new file, so that no symbolic link is followed: the account of Postgres owns the directory, and roster may
        // be root.
        let _ = std::fs::remove_file(&log_path);
        let log = File::create_new(&log_path).map_err(io("create", &log_path))?;
        let errors = log.try_clone().map_err(io("create", &log_path))?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(&self.options.data).arg("-k").arg(&self.socket_directory);
        command.arg("-p").arg(socket::PORT.to_string()).args(["-c", "listen_addresses="]);
        for (name, value) in &self.options.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        if let Some(account) = &self.account {
            account.drop_to(&mut command);
        }
        // A separate process group: Ctrl-C in a terminal must reach only roster, which then stops Postgres in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
        let program = self.binaries.directory().join("postgres");
        let postmaster = Postmaster::started(command.spawn().map_err(io("run", &program))?, &self.options.data);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.set_pid(Some(postmaster.pid));
        }
        self.postmaster = Some(postmaster);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let data = &self.options.data;
        let started = Instant::now();
        while let Some(postmaster) = &mut self.postmaster {
            let pid = postmaster.pid;
            if postmaster.has_exited() {
                self.postmaster = None;
                let log = self.log();
                return Err(Error::Ended { tail: tail(&log), log });
            }
            let ready = PidFile::read(data).is_some_and(|file| file.pid == pid && file.ready);
            if ready && socket::accepts_connections(&self.socket_directory).await {
                return Ok(());
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(Error::Unresponsive { pid, directory: data.clone() });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watchdog = None;
        if let Some(postmaster) = self.postmaster.take() {
            stop_blocking(postmaster);
        }
        socket::remove_directory(&self.socket_directory);
        if self.options.temporary {
            // If the removal fails, the files stay in the directory for temporary files.
            let _ = std::fs::remove_dir_all(&self.options.data);
            let _ = std::fs::remove_dir_all(data::unfinished(&self.options.data));
        }
    }
}

/// Stops a server without async code, for `drop`.
fn stop_blocking(mut postmaster: Postmaster) {
    postmaster.signal_all(Signal::SIGCONT);
    postmaster.signal(Signal::SIGQUIT);
    let started = Instant::now();
    while !postmaster.has_exited() {
        if started.elapsed() > STOP_TIMEOUT {
            postmaster.kill_all();
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// The last lines of the log, as one line.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" / ")
}
