//! The JSON form of a log line.

use crate::error_causes::with_causes;
use serde_json::{Map, Number, Value};
use std::error::Error;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope, SpanRef};

/// One JSON object for each line: the time, the level, the fields of the event, its target, and the spans around it
/// from the outermost on, the innermost also alone as `span`.
///
/// The library's own form has only the outermost text of an error, and integers of 128 bits as text.
pub(super) struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut values = EventValues { target: event.metadata().target().to_owned(), fields: Vec::new() };
        event.record(&mut values);
        let spans: Vec<Value> =
            context.event_scope().into_iter().flat_map(Scope::from_root).map(|span| span_value(&span)).collect();
        write!(writer, "{{\"timestamp\":{},\"level\":\"{}\"", Value::from(time), event.metadata().level())?;
        for (name, value) in values.fields {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        write!(writer, ",\"target\":{}", Value::from(values.target))?;
        if let Some(innermost) = spans.last() {
            write!(writer, ",\"span\":{innermost},\"spans\":{}", Value::from(spans.as_slice()))?;
        }
        writeln!(writer, "}}")
    }
}

/// The name and the fields of a span.
fn span_value<S: for<'lookup> LookupSpan<'lookup>>(span: &SpanRef<'_, S>) -> Value {
    let extensions = span.extensions();
    let fields = extensions.get::<FormattedFields<JsonFields>>().map_or("", |fields| fields.fields.as_str());
    // Empty for a span without fields.
    let mut fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
    fields.insert("name".to_owned(), span.name().into());
    fields.into()
}

/// The fields of an event, in their order.
struct EventValues {
    target: String,
    fields: Vec<(&'static str, Value)>,
}

impl EventValues {
    fn push(&mut self, field: &Field, value: impl Into<Value>) {
        // A line of the crate `log` has its own target in a field, and its place in the source in others.
        match field.name().strip_prefix("log.") {
            Some("target") => value.into().as_str().unwrap_or_default().clone_into(&mut self.target),
            Some(_) => {}
            None => self.fields.push((field.name(), value.into())),
        }
    }
}

impl Visit for EventValues {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, Number::from_i128(value).map_or_else(|| value.to_string().into(), Value::from));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, Number::from_u128(value).map_or_else(|| value.to_string().into(), Value::from));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.push(field, with_causes(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Debug, thiserror::Error)]
    #[error("the datastore rejected a statement")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("error returned from database: {0}")]
    struct Middle(#[source] std::io::Error);

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(JsonLines);
        tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), log);
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_error_has_all_its_causes_once() {
        let error = Outer(Middle(std::io::Error::other("relation \"a\"\nis gone")));
        let lines = lines(|| tracing::warn!(error = &error as &dyn Error, "a poll failed"));
        let expected = "the datastore rejected a statement: error returned from database: relation \"a\"\nis gone";
        assert_eq!(
            (lines.len(), &lines[0]["error"], &lines[0]["message"]),
            (1, &expected.into(), &"a poll failed".into())
        );
        assert_eq!((&lines[0]["level"], &lines[0]["target"]), (&"WARN".into(), &module_path!().into()));
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{lines:?}");
    }

    #[test]
    fn numbers_and_booleans_are_not_texts() {
        let micros = std::time::Duration::from_millis(3).as_micros();
        let lines = lines(|| {
            tracing::info_span!("rpc", request_id = "a", path = "/b").in_scope(|| {
                tracing::info_span!("bare").in_scope(|| {
                    tracing::info!(
                        micros,
                        negative = -1_i128,
                        huge = u128::MAX,
                        code = 5,
                        ratio = 0.5,
                        ok = true,
                        "answered"
                    );
                });
            });
        });
        let line = &lines[0];
        assert_eq!(
            (line["micros"].as_u64(), line["negative"].as_i64(), line["code"].as_i64()),
            (Some(3000), Some(-1), Some(5))
        );
        assert_eq!((line["ratio"].as_f64(), line["ok"].as_bool()), (Some(0.5), Some(true)));
        assert_eq!(line["huge"], u128::MAX.to_string());
        assert_eq!(line["span"], serde_json::json!({"name": "bare"}));
        assert_eq!(line["spans"][0], serde_json::json!({"name": "rpc", "request_id": "a", "path": "/b"}));
    }
}
