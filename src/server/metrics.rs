//! What is counted, and told to whoever scrapes it, in the text format of `OpenMetrics`.
//!
//! A registry for each server and none for the process: two servers in one test count for themselves.

use crate::authz::rules::Method;
use crate::grpc::CHECK;
use crate::server::limits;
use crate::service::Roster;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::Code;

/// The upper ends of the buckets of durations, in seconds: from a check in memory to the longest deadline.
const BUCKETS: [f64; 12] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0];
/// How long the outbox may take to say how it is when somebody asks for metrics.
const OUTBOX: Duration = Duration::from_secs(1);

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

/// A server's metrics.
pub struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    durations: Family<CallSeconds, Histogram>,
    /// Of checks that went well, found once.
    checks: (Counter, Histogram),
    mails: Gauge,
    mail_age: Gauge,
    streams: Gauge,
    places: Arc<Semaphore>,
    /// How many places there are.
    limit: usize,
    roster: Roster,
}

impl Metrics {
    /// Nothing counted yet. Streams take a place each, of so many.
    #[must_use]
    pub fn new(roster: Roster, places: Arc<Semaphore>, limit: usize) -> Self {
        let mut registry = Registry::with_prefix("roster");
        let calls = Family::<Call, Counter>::default();
        registry.register("calls", "Calls answered, by method and gRPC status code", calls.clone());
        let durations = Family::<CallSeconds, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("call_duration_seconds", "How long calls took", durations.clone());
        let Method { service, name: method, .. } = *CHECK;
        let checks = (
            calls.get_or_create_owned(&Call { service, method, code: code_name(Code::Ok) }),
            durations.get_or_create_owned(&CallSeconds { service, method }),
        );
        let (mails, mail_age, streams) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("streams", "Streams that are open", streams.clone());
        registry.register("mails_waiting", "Mails in the outbox; -1 if it could not be asked", mails.clone());
        registry.register(
            "oldest_mail_seconds",
            "Age of the oldest mail in the outbox; 0 if there is none",
            mail_age.clone(),
        );
        registry.register_collector(Box::new(ReplicaCollector(roster.clone())));
        Self { registry, calls, durations, checks, mails, mail_age, streams, places, limit, roster }
    }

    /// Counts a call. What is no method of ours is counted as one thing: callers must not make new series.
    pub(super) fn count(&self, method: Option<&'static Method>, code: Option<Code>, took: Duration) {
        let (service, method) = method.map_or(("other", "other"), |method| (method.service, method.name));
        // A success has its code in the trailers, which come later.
        let code = code_name(code.unwrap_or(Code::Ok));
        self.calls.get_or_create(&Call { service, method, code }).inc();
        self.durations.get_or_create(&CallSeconds { service, method }).observe(took.as_secs_f64());
    }

    /// Counts a check that memory has answered.
    pub(super) fn answered_check(&self, took: Duration) {
        self.checks.0.inc();
        self.checks.1.observe(took.as_secs_f64());
    }

    async fn tell(&self) -> Result<String, std::fmt::Error> {
        match tokio::time::timeout(OUTBOX, self.roster.outbox_backlog()).await {
            Ok(Ok(backlog)) => {
                self.mails.set(backlog.waiting);
                self.mail_age.set(backlog.oldest_seconds);
            }
            Ok(Err(_)) | Err(_) => {
                self.mails.set(-1);
            }
        }
        let open = self.limit.saturating_sub(self.places.available_permits());
        self.streams.set(i64::try_from(open).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Tells what the index has counted, when somebody asks.
#[derive(Debug)]
struct ReplicaCollector(Roster);

impl Collector for ReplicaCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let told = self.0.replica().statistics();
        for (name, help, value) in [
            ("index_memory_answers", "Questions that memory answered", told.memory_answers),
            ("index_primary_answers", "Questions that the datastore answered", told.primary_answers),
            (
                "index_stale_answers",
                "Questions that memory answered too old, the datastore being away",
                told.stale_answers,
            ),
            ("index_polls", "Looks at the change log that were applied in full", told.polls),
            ("index_failed_polls", "Looks at the change log that failed", told.failed_polls),
            ("index_lines", "Rows of the change log that were applied", told.lines),
            ("index_loads", "Buckets that were loaded", told.loads),
            ("index_failed_loads", "Loads that failed", told.failed_loads),
            ("index_gaps", "Buckets loaded anew because the change log had a hole", told.gaps),
            ("index_lost_writes", "How often the datastore had lost writes and all was loaded anew", told.lost),
            ("index_listens", "How often listening for writes began anew", told.listens),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("index_buckets", "Buckets in memory, of 256; the datastore answers for the others", gauge(told.buckets)),
            ("index_memberships", "Memberships in memory", gauge(told.memberships)),
            ("index_bytes", "Bytes that they take", gauge(told.bytes)),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        // Minus one where memory may not answer at all.
        let gauge = ConstGauge::new(told.age.map_or(-1.0, |age| age.as_secs_f64()));
        let help = "How old the copy in memory is; -1 if there is none";
        gauge.encode(encoder.encode_descriptor("index_age_seconds", help, None, gauge.metric_type())?)
    }
}

fn code_name(code: Code) -> &'static str {
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

/// Answers `GET /metrics` on this listener, if there is one, for as long as it is not dropped.
pub(super) async fn serve(listener: Option<TcpListener>, metrics: Arc<Metrics>) {
    let Some(listener) = listener else { return };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            continue;
        };
        let metrics = metrics.clone();
        let service = service_fn(move |request| answer(request, metrics.clone()));
        connections.spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a scrape broke off");
            }
        });
    }
}

async fn answer(request: http::Request<Incoming>, metrics: Arc<Metrics>) -> Result<Response<String>, Infallible> {
    let told = match (request.method(), request.uri().path()) {
        (&http::Method::GET, "/metrics") => metrics.tell().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR),
        _ => Err(StatusCode::NOT_FOUND),
    };
    Ok(match told {
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
