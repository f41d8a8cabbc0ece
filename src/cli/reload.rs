//! Reads the settings of `roster serve` again while the server runs: at a SIGHUP, and when a file changes.
//!
//! A state of the settings with a mistake changes nothing. Settings that only take effect at the start are named in the
//! log when they change.

use crate::authn::Authenticator;
use crate::clock::Clock;
use crate::config::{Environment, FixedSettings, Flags, Mistakes, Settings, UnknownVariables};
use crate::server::expected_model::ExpectedModel;
use crate::server::tls::ServerTls;
use crate::telemetry::LogFilter;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time between two looks at the files. A look takes a system call for each file.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where the settings come from.
#[derive(Clone)]
pub(super) struct SettingsSource {
    pub(super) flags: Flags,
    pub(super) environment: Environment,
}

impl SettingsSource {
    pub(super) fn read(&self) -> Result<Settings, Mistakes> {
        Settings::read(&self.flags, &self.environment, Clock::system(), UnknownVariables::Warn)
    }
}

/// What a reload takes over.
pub(super) struct Reloader {
    source: SettingsSource,
    authenticator: Authenticator,
    tls: Option<ServerTls>,
    expected_model: ExpectedModel,
    log: LogFilter,
    log_filter: String,
    warnings: Vec<String>,
    /// The settings in effect that a reload does not take over, and the names of those that differ now.
    fixed: FixedSettings,
    differing: Vec<&'static str>,
    files: FileStates,
    /// Whether every file can be read again: a pipe cannot, and a read of one may never end.
    is_repeatable: bool,
    /// Whether the settings are read at the next look, also if no file has changed.
    must_read: bool,
    /// The mistakes of the last reading.
    mistakes: Option<String>,
}

impl Reloader {
    /// For these settings, which were just read from the source.
    pub(super) fn new(source: SettingsSource, settings: &Settings, log: LogFilter) -> Self {
        Self {
            source,
            authenticator: settings.authenticator.clone(),
            tls: settings.server.tls.clone(),
            expected_model: settings.server.expected_model.clone(),
            log,
            log_filter: settings.log.filter.clone(),
            warnings: settings.warnings.clone(),
            fixed: settings.fixed.clone(),
            differing: Vec::new(),
            files: FileStates::of(&settings.files),
            is_repeatable: settings.files.iter().all(|file| file.is_file()),
            // The states are newer than what was read.
            must_read: true,
            mistakes: None,
        }
    }

    /// Reloads until this future is dropped.
    pub(super) async fn run(mut self, hangup: Arc<Notify>) -> Infallible {
        loop {
            let is_hangup = timeout(INTERVAL, hangup.notified()).await.is_ok();
            if !self.is_repeatable {
                if is_hangup {
                    tracing::warn!("SIGHUP has no effect: a file of the settings is a pipe or a device");
                }
                continue;
            }
            if is_hangup {
                tracing::info!("reading the settings again after SIGHUP");
            }
            let (source, known, is_due) = (self.source.clone(), self.files.clone(), is_hangup || self.must_read);
            // On another thread: a file system may not answer.
            let read = spawn_blocking(move || {
                // Before the files are read: a change while they are read is found at the next look.
                let files = known.now();
                (is_due || files != known).then(|| (source.read(), files))
            });
            // A panic in a parser leaves the settings as they are.
            let Ok(Some((settings, files))) = read.await else { continue };
            self.files = files;
            match settings {
                Ok(settings) => self.take_over(settings, is_hangup),
                Err(Mistakes(mistakes)) => self.keep(mistakes.join("; "), is_hangup),
            }
        }
    }

    /// Notes that the settings cannot be read. A file that they name may arrive later than they, so they are read again at
    /// the next look.
    fn keep(&mut self, mistakes: String, is_hangup: bool) {
        self.must_read = true;
        if is_hangup || self.mistakes.as_ref() != Some(&mistakes) {
            tracing::error!(mistakes, "cannot reload the settings: the former ones stay in effect");
        }
        self.mistakes = Some(mistakes);
    }

    fn take_over(&mut self, settings: Settings, is_hangup: bool) {
        self.mistakes = None;
        // A file whose state is looked at after it was read may have changed in between.
        self.must_read = self.files.follow(&settings.files);
        let warnings = std::mem::replace(&mut self.warnings, settings.warnings);
        let new: Vec<String> = self.warnings.iter().filter(|warning| !warnings.contains(warning)).cloned().collect();
        super::log_warnings(&new);
        let changes = self.authenticator.adopt(&settings.authenticator);
        let mut is_changed = !changes.is_empty();
        for (what, added, removed) in [
            ("issuers", changes.added_issuers, changes.removed_issuers),
            ("API keys", changes.added_api_keys, changes.removed_api_keys),
            ("client certificates of services", changes.added_client_certificates, changes.removed_client_certificates),
        ] {
            if !(added.is_empty() && removed.is_empty()) {
                tracing::info!(?added, ?removed, "reloaded the {what}");
            }
        }
        if !changes.rekeyed_issuers.is_empty() {
            tracing::info!(issuers = ?changes.rekeyed_issuers, "reloaded the keys of issuers");
        }
        is_changed |= self.take_over_tls(settings.server.tls.as_ref());
        if self.expected_model.adopt(&settings.server.expected_model) {
            tracing::info!("reloaded access_model_file");
            is_changed = true;
        }
        if settings.log.filter != self.log_filter {
            self.log_filter = settings.log.filter;
            self.log.set(&self.log_filter);
            tracing::info!(filter = self.log_filter, "reloaded the log filter");
            is_changed = true;
        }
        let differing = changed_names(&self.fixed, &settings.fixed);
        if differing != self.differing {
            is_changed = true;
            if !differing.is_empty() {
                tracing::warn!(settings = ?differing, "changed settings take effect at a restart only");
            }
            self.differing = differing;
        }
        if is_hangup && !is_changed {
            tracing::info!("the settings have not changed");
        }
    }

    /// Takes over the certificate of the server. Returns whether something changed.
    fn take_over_tls(&self, next: Option<&ServerTls>) -> bool {
        match (&self.tls, next) {
            (Some(tls), Some(next)) if tls.adopt(next) => {
                tracing::info!(expires_at = tls.expires_at(), "reloaded the certificate of the server");
                true
            }
            (Some(_), Some(_)) | (None, None) => false,
            (Some(_), None) | (None, Some(_)) => {
                tracing::warn!("TLS is switched on or off at a restart only");
                true
            }
        }
    }
}

/// The names of the settings that differ.
fn changed_names(before: &FixedSettings, after: &FixedSettings) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = before.keys().chain(after.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| before.get(name) != after.get(name));
    names
}

/// The files that are watched, each with its state. Links are followed: Kubernetes changes mounted files by a link.
#[derive(Clone, PartialEq, Eq)]
struct FileStates(BTreeMap<PathBuf, Option<FileState>>);

/// What differs after a change: device, file, size and time of the last change in seconds and nanoseconds.
type FileState = [i128; 5];

impl FileStates {
    fn of(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|file| (file.clone(), state(file))).collect())
    }

    /// The present states of these files.
    fn now(&self) -> Self {
        Self(self.0.keys().map(|file| (file.clone(), state(file))).collect())
    }

    /// Watches these files from now on, and no others. Returns whether some of them are new.
    fn follow(&mut self, files: &[PathBuf]) -> bool {
        let known = std::mem::take(&mut self.0);
        let state_of = |file: &PathBuf| known.get(file).copied().unwrap_or_else(|| state(file));
        self.0 = files.iter().map(|file| (file.clone(), state_of(file))).collect();
        files.iter().any(|file| !known.contains_key(file))
    }
}

/// `None` if the file cannot be looked at.
fn state(file: &PathBuf) -> Option<FileState> {
    let data = fs::metadata(file).ok()?;
    Some([data.dev().into(), data.ino().into(), data.size().into(), data.mtime().into(), data.mtime_nsec().into()])
}
