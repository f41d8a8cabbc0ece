//! Stop signals of the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A cancellation token that the first SIGTERM or SIGINT (Ctrl-C) cancels. A second signal exits the process at once,
/// with code 1, for an operator who does not want to wait for the drain.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
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
