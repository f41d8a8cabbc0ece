//! Everything that is logged on the thread of one test, at TRACE, for the test to read.

use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::Dispatch;
use tracing::subscriber::{self, DefaultGuard, NoSubscriber};

/// A log, from [`Log::watch`] to [`Log::end`]. The tasks of a test on one thread are in it.
pub struct Log {
    bytes: Bytes,
    _guard: DefaultGuard,
    /// While there is but one subscriber, tracing takes that of the thread that reaches a log statement first, and the
    /// threads of other tests have none: so there are two.
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

    /// What was logged.
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
