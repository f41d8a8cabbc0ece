//! Stop signals of the process.

use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a hangup (SIGHUP) does: the terminal was closed, or an operator wants the settings to be read again.
#[derive(Debug, Clone)]
pub enum Hangup {
    /// It stops the process, unless the process was started with the signal ignored, as by `nohup`.
    Stop,
    /// It is passed on to a reader of the settings. Several at once count as one.
    Notify(Arc<Notify>),
}

/// A cancellation token that the first SIGTERM or SIGINT (Ctrl-C) cancels, and with [`Hangup::Stop`] SIGHUP. A second
/// SIGTERM or SIGINT exits the process at once, with code 1, for an operator who does not want to wait for the drain. A
/// further SIGHUP has no effect, because a closed terminal can send several.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub fn stop_signal(hangup: Hangup) -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A handler would replace the setting of `nohup`.
    let hangups = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    let stop = CancellationToken::new();
    tokio::spawn(handle_hangups(hangups, hangup, stop.clone()));
    let token = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal exits at once");
                token.cancel();
            }
        }
        std::process::exit(1);
    });
    Ok(stop)
}

async fn handle_hangups(hangups: Option<Signal>, hangup: Hangup, stop: CancellationToken) {
    let Some(mut hangups) = hangups else { return };
    while hangups.recv().await.is_some() {
        match &hangup {
            Hangup::Stop => {
                tracing::info!("stopping after a hangup");
                stop.cancel();
            }
            Hangup::Notify(reader) => reader.notify_one(),
        }
    }
}

/// Whether this process ignores SIGHUP. Only Linux can be asked.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is signal 1, SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
