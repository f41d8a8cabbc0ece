//! The causes for which the HTTP/2 library refuses a request before the server sees it.
//!
//! The library reports the cause in an event at DEBUG and nowhere else. [`layer`] keeps the latest cause of each thread, and
//! the connection, which runs the library on the same thread, takes it.

use std::cell::Cell;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The target of the events about malformed headers.
const MALFORMED_TARGET: &str = "h2::server";
/// How the message of such an event begins.
const MALFORMED: &str = "malformed headers: ";
/// The target of the events about headers that are too large.
const TOO_LARGE_TARGET: &str = "h2::proto::streams::recv";
/// How the message of such an event begins.
const TOO_LARGE: &str = "stream error REQUEST_HEADER_FIELDS_TOO_LARGE";

thread_local! {
    static LATEST: Cell<Option<String>> = const { Cell::new(None) };
}

/// Returns the layer that notes causes. It takes only the events of the library that can have one.
#[must_use]
pub fn layer<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> {
    let events = filter_fn(|metadata| !metadata.is_span());
    let targets = [MALFORMED_TARGET, TOO_LARGE_TARGET].map(|target| (target, Level::DEBUG));
    CauseLayer.with_filter(Targets::from_iter(targets).and(events))
}

/// Takes the latest cause that was noted on this thread: what is malformed in the headers of a request, or that they are
/// too large. It contains bytes of the peer, which the library has escaped, and it has no limit.
#[must_use]
pub fn take() -> Option<String> {
    LATEST.take()
}

struct CauseLayer;

impl<S: Subscriber> Layer<S> for CauseLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = EventMessage(None);
        event.record(&mut message);
        let message = message.0.unwrap_or_default();
        if let Some(cause) = message.strip_prefix(MALFORMED) {
            LATEST.set(Some(cause.to_owned()));
        } else if message.starts_with(TOO_LARGE) {
            LATEST.set(Some("larger than the server accepts (status 431)".to_owned()));
        }
    }
}

/// The message of an event.
struct EventMessage(Option<String>);

impl Visit for EventMessage {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}
