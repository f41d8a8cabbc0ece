//! The metrics, and the HTTP endpoint that serves them in the text format of `OpenMetrics`.
//!
//! Each server has its own registry, and the process has none, so that two servers in one test count separately.

use super::shares::{CallClass, ServerShares};
use super::tls::ServerTls;
use crate::authn::{Authenticator, KeyStatistics};
use crate::authz::rules::Method;
use crate::grpc::CHECK;
use crate::server::limits;
use crate::service::{ReplicaStatistics, Roster};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};
use tonic::Code;

/// The upper bounds of the histogram buckets of durations, in seconds: from a check in the replica to the longest
/// deadline.
const BUCKETS: [f64; 12] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    service: &'static str,
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallSeconds {
    service: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedConnection {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedCall {
    reason: &'static str,
    class: &'static str,
}

/// The metrics of one server.
pub struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    durations: Family<CallSeconds, Histogram>,
    /// The series of successful checks. They are looked up once, so that the fast path does not search for its labels.
    checks: (Counter, Histogram),
    connections: Gauge,
    closed_connections: Family<ClosedConnection, Counter>,
    refused_calls: Family<RefusedCall, Counter>,
    mails: Gauge,
    mail_age: Gauge,
    model_differs: Gauge,
    /// The time of the last query for the size of the outbox. Held during the query, so that scrapes at once share one.
    backlog_time: Mutex<Option<Instant>>,
    standard_streams: Gauge,
    streams: Gauge,
    shares: ServerShares,
    roster: Roster,
}

impl Metrics {
    /// Metrics that start at zero. `shares` are the pools of the server, `tls` its certificate.
    #[must_use]
    pub(super) fn new(
        roster: Roster,
        shares: ServerShares,
        authenticator: Authenticator,
        tls: Option<ServerTls>,
    ) -> Self {
        let mut registry = Registry::with_prefix("roster");
        let calls = Family::<Call, Counter>::default();
        registry.register(
            "calls",
            "Completed calls, by method and gRPC status code; a stream when it ends",
            calls.clone(),
        );
        let durations = Family::<CallSeconds, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("call_duration_seconds", "Duration of calls", durations.clone());
        let Method { service, name: method, .. } = *CHECK;
        let checks = (
            calls.get_or_create_owned(&Call { service, method, code: code_name(Code::Ok) }),
            durations.get_or_create_owned(&CallSeconds { service, method }),
        );
        let (connections, mails, mail_age) = (Gauge::default(), Gauge::default(), Gauge::default());
        let model_differs = Gauge::default();
        let help = "Whether the stored access model differs from access_model_file: 1 or 0; -1 if it cannot be read";
        registry.register("access_model_differs", help, model_differs.clone());
        let (closed_connections, refused_calls) = (Family::default(), Family::default());
        registry.register("connections", "Open connections of callers", connections.clone());
        let help = "Connections that the server closed, by reason";
        registry.register("connections_closed", help, closed_connections.clone());
        let help = "Calls that were refused because of a limit, by reason and class of calls";
        registry.register("calls_refused", help, refused_calls.clone());
        let (standard_streams, streams) = (Gauge::default(), Gauge::default());
        registry.register("standard_streams", "Open health watches and reflection streams", standard_streams.clone());
        registry.register("streams", "Open streams", streams.clone());
        registry.register("mails_waiting", "Mails in the outbox; -1 if the query failed", mails.clone());
        registry.register(
            "oldest_mail_seconds",
            "Age of the oldest mail in the outbox; 0 if it is empty",
            mail_age.clone(),
        );
        registry.register_collector(Box::new(ReplicaCollector(roster.clone())));
        registry.register_collector(Box::new(KeyCollector(authenticator)));
        if let Some(tls) = tls {
            registry.register_collector(Box::new(CertificateCollector(tls)));
        }
        let backlog_time = Mutex::default();
        Self {
            registry,
            calls,
            durations,
            checks,
            connections,
            closed_connections,
            refused_calls,
            mails,
            mail_age,
            model_differs,
            backlog_time,
            standard_streams,
            streams,
            shares,
            roster,
        }
    }

    /// Counts a connection of a caller as open.
    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// Counts a connection of a caller as no longer open, whichever side closed it.
    pub fn connection_ended(&self) {
        self.connections.dec();
    }

    /// Counts a connection that the server closes for this reason, a word such as `metrics_limit`. The words are few
    /// and fixed: each is a series.
    pub fn connection_closed(&self, reason: &'static str) {
        self.closed_connections.get_or_create(&ClosedConnection { reason }).inc();
    }

    /// Counts a call of this class that is refused because of a limit. The words are few and fixed: each pair is a
    /// series.
    pub fn call_refused(&self, reason: &'static str, class: &'static str) {
        self.refused_calls.get_or_create(&RefusedCall { reason, class }).inc();
    }

    /// Sets whether the stored access model differs from its file; `None` if it cannot be read.
    pub(super) fn model_differs(&self, differs: Option<bool>) {
        self.model_differs.set(differs.map_or(-1, i64::from));
    }

    /// Counts a call. All unknown methods share one series, so that callers cannot create series.
    pub(super) fn count(&self, method: Option<&'static Method>, code: Code, took: Duration) {
        let (service, method) = method.map_or(("other", "other"), |method| (method.service, method.name));
        let code = code_name(code);
        self.calls.get_or_create(&Call { service, method, code }).inc();
        self.durations.get_or_create(&CallSeconds { service, method }).observe(took.as_secs_f64());
    }

    /// Counts a check that the fast path answered.
    pub(super) fn answered_check(&self, took: Duration) {
        self.checks.0.inc();
        self.checks.1.observe(took.as_secs_f64());
    }

    /// Asks for the size of the outbox, unless it was asked for a moment ago.
    async fn update_backlog(&self) {
        let mut last = self.backlog_time.lock().await;
        if last.is_some_and(|last| last.elapsed() < limits::METRICS_BACKLOG) {
            return;
        }
        match timeout(limits::METRICS_BACKLOG_TIMEOUT, self.roster.outbox_backlog()).await {
            Ok(Ok(backlog)) => {
                self.mails.set(backlog.waiting);
                self.mail_age.set(backlog.oldest_seconds);
            }
            Ok(Err(_)) | Err(_) => {
                self.mails.set(-1);
            }
        }
        *last = Some(Instant::now());
    }

    async fn encode(&self) -> Result<String, std::fmt::Error> {
        self.update_backlog().await;
        for (gauge, class) in [(&self.streams, CallClass::Stream), (&self.standard_streams, CallClass::StandardStream)]
        {
            gauge.set(i64::try_from(self.shares.pool(class).taken()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Exports the expiry of the certificate in use.
#[derive(Debug)]
struct CertificateCollector(ServerTls);

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let expiry = ConstGauge::new(self.0.expires_at());
        let help = "When the TLS certificate of the server expires, in seconds since 1970";
        let name = "tls_certificate_expiry_timestamp_seconds";
        expiry.encode(encoder.encode_descriptor(name, help, None, expiry.metric_type())?)
    }
}

/// Exports the statistics of the replica, which are read at each scrape. Each metric has two names: `roster_replica_…`,
/// and `roster_index_…`, which is deprecated and exported for one release.
#[derive(Debug)]
struct ReplicaCollector(Roster);

impl Collector for ReplicaCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let statistics = self.0.replica().statistics();
        for (name, help, value) in counters(&statistics) {
            encode_twice(&mut encoder, name, help, &ConstCounter::new(value))?;
        }
        for (name, help, value) in gauges(&statistics) {
            encode_twice(&mut encoder, name, help, &ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))?;
        }
        let age = ConstGauge::new(statistics.age.map_or(-1.0, |age| age.as_secs_f64()));
        encode_twice(&mut encoder, "age_seconds", "Staleness of the replica; -1 if it may not answer", &age)
    }
}

/// Exports the state of the keys that come from identity providers, which is read at each scrape.
struct KeyCollector(Authenticator);

impl std::fmt::Debug for KeyCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyCollector")
    }
}

impl Collector for KeyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let statistics = self.0.key_statistics();
        let help = "Time since the keys of an issuer were fetched, by issuer; -1 before the first time";
        let mut ages = encoder.encode_descriptor("issuer_keys_age_seconds", help, None, MetricType::Gauge)?;
        for KeyStatistics { issuer, age, .. } in &statistics {
            let age = age.map_or(-1, |age| i64::try_from(age).unwrap_or(i64::MAX));
            ConstGauge::new(age).encode(ages.encode_family(&[("issuer", issuer.as_str())])?)?;
        }
        let help = "Fetches of the keys of an issuer that failed, by issuer";
        let mut failures = encoder.encode_descriptor("issuer_keys_failed_fetches", help, None, MetricType::Counter)?;
        for KeyStatistics { issuer, failed_fetches, .. } in &statistics {
            ConstCounter::new(*failed_fetches).encode(failures.encode_family(&[("issuer", issuer.as_str())])?)?;
        }
        Ok(())
    }
}

fn counters(statistics: &ReplicaStatistics) -> [(&'static str, &'static str, u64); 11] {
    [
        ("memory_answers", "Questions answered from the replica", statistics.memory_answers),
        ("primary_answers", "Questions answered by the primary", statistics.primary_answers),
        (
            "stale_answers",
            "Questions answered from a stale replica while the primary was unavailable",
            statistics.stale_answers,
        ),
        ("polls", "Polls of the change log that were applied in full", statistics.polls),
        ("failed_polls", "Polls of the change log that failed", statistics.failed_polls),
        ("lines", "Rows of the change log that were applied", statistics.lines),
        ("loads", "Loads of a bucket", statistics.loads),
        ("failed_loads", "Loads that failed", statistics.failed_loads),
        ("gaps", "Buckets reloaded because of a gap in the change log", statistics.gaps),
        ("lost_writes", "Reloads of every bucket because the primary had lost writes", statistics.lost),
        ("listens", "Times that listening for notifications of writes was restarted", statistics.listens),
    ]
}

fn gauges(statistics: &ReplicaStatistics) -> [(&'static str, &'static str, u64); 3] {
    [
        ("buckets", "Buckets in memory, of 256; the primary answers for the others", statistics.buckets),
        ("memberships", "Memberships in memory", statistics.memberships),
        ("bytes", "Bytes of memory of the replica, organizations and users included", statistics.bytes),
    ]
}

/// Writes a metric under its name and under its deprecated name.
fn encode_twice(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    let (name, former) = (format!("replica_{name}"), format!("index_{name}"));
    metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)?;
    let help = format!("Deprecated, use roster_{name}. {help}");
    metric.encode(encoder.encode_descriptor(&former, &help, None, metric.metric_type())?)
}

/// The name of a status code, as in the protocol.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Serves `GET /metrics` on this listener until the future is dropped. Without a listener it returns at once.
///
/// A connection serves one request, within a time limit for the request and one for the whole. A connection above the
/// limit is closed at once.
pub(super) async fn serve(listener: Option<TcpListener>, metrics: Arc<Metrics>) {
    let Some(listener) = listener else { return };
    let places = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics.connection_closed("metrics_limit");
            continue;
        };
        let metrics = metrics.clone();
        connections.spawn(async move {
            serve_connection(stream, metrics).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, metrics: Arc<Metrics>) {
    let service = service_fn(|request| answer(request, metrics.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::METRICS_REQUEST)
        .max_buf_size(limits::METRICS_REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits::METRICS_CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            if error.is_timeout() {
                metrics.connection_closed("metrics_timeout");
            }
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection to the metrics endpoint failed");
        }
        Err(_) => metrics.connection_closed("metrics_timeout"),
    }
}

async fn answer(request: http::Request<Incoming>, metrics: Arc<Metrics>) -> Result<Response<String>, Infallible> {
    let metrics = match (request.method(), request.uri().path()) {
        (&http::Method::GET, "/metrics") => metrics.encode().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR),
        _ => Err(StatusCode::NOT_FOUND),
    };
    Ok(match metrics {
        Ok(text) => {
            let mut response = Response::new(text);
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(code) => {
            let mut response = Response::new(String::new());
            *response.status_mut() = code;
            response
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::server::ServerSettings;
    use crate::store::datastore_url::DatastoreUrl;
    use crate::store::pool::Pool;

    fn metrics() -> Result<Metrics, crate::store::datastore_url::InvalidUrl> {
        let roster = Roster::new(Pool::new(DatastoreUrl::parse("postgres:///absent")?, 1), Clock::system());
        let key = r#"[[api_keys]]
            name = "a"
            scopes = ["check"]
            sha256 = "0000000000000000000000000000000000000000000000000000000000000000""#;
        let authenticator = Authenticator::new(&toml::from_str(key).unwrap(), Clock::system()).ok().unwrap();
        Ok(Metrics::new(roster, ServerShares::new(&ServerSettings::default()), authenticator, None))
    }

    #[tokio::test]
    async fn connections_and_refused_calls_are_counted_by_reason() {
        let metrics = metrics().ok().unwrap();
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_ended();
        metrics.connection_closed("address_limit");
        metrics.call_refused("places", "read");
        metrics.call_refused("places", "read");
        let text = metrics.encode().await.unwrap();
        for line in [
            "roster_connections 1",
            r#"roster_connections_closed_total{reason="address_limit"} 1"#,
            r#"roster_calls_refused_total{reason="places",class="read"} 2"#,
            "roster_standard_streams 0",
        ] {
            assert!(text.lines().any(|sample| sample == line), "{line}: {text}");
        }
    }

    #[tokio::test]
    async fn each_metric_of_the_replica_is_also_exported_under_its_deprecated_name()
    -> Result<(), Box<dyn std::error::Error>> {
        let text = metrics()?.encode().await?;
        let samples = |prefix: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix(prefix)).map(ToOwned::to_owned).collect()
        };
        assert_eq!(samples("roster_replica_").len(), 15, "{text}");
        assert_eq!(samples("roster_replica_"), samples("roster_index_"));
        assert!(samples("roster_replica_").contains(&"age_seconds -1.0".to_owned()), "{text}");
        for help in samples("# HELP roster_index_") {
            let (name, help) = help.split_once(' ').unwrap_or_default();
            assert!(help.starts_with(&format!("Deprecated, use roster_replica_{name}. ")), "{help}");
        }
        Ok(())
    }
}
