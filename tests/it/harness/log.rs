//! The log lines of one test's thread, at TRACE.

use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::Dispatch;
use tracing::subscriber::{self, DefaultGuard, NoSubscriber};

/// The log lines from [`Log::watch`] to [`Log::end`]. They include those of the tasks of a single-threaded test.
pub struct Log {
    bytes: Bytes,
    _guard: DefaultGuard,
    /// A second subscriber. With a single one, tracing asks the subscriber of the first thread that reaches a log
    /// statement whether to enable it for the whole process, and the threads of other tests have none.
    _other: Dispatch,
}

impl Log {
    pub fn watch() -> Self {
        let other = Dispatch::new(NoSubscriber::new());
        let bytes = Bytes::default();
        let writer = bytes.clone();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("trace")
            .with_writer(move || writer.clone())
            .finish();
        Self { bytes, _guard: subscriber::set_default(lines), _other: other }
    }

    /// The log lines so far, as text.
    pub fn end(self) -> String {
        String::from_utf8(self.bytes.0.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
