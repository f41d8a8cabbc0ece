//! A log that a test can read.

use std::io::Write;
use std::sync::{Arc, Mutex};

/// What was logged, by this thread and at every level, since it was begun.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ends a log's recording when it is dropped.
pub struct Recording {
    _guard: tracing::subscriber::DefaultGuard,
    _other: tracing::Dispatch,
}

impl Log {
    /// Begins to record what this thread logs: a server that was started on it runs on it.
    pub fn record() -> (Self, Recording) {
        // While there is but one subscriber, tracing takes that of the thread that reaches a log statement first, and the
        // threads of other tests have none: so there are two.
        let other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("trace")
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, Recording { _guard: guard, _other: other })
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
