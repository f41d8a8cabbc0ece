//! The record of a stream: its line in the log and its place in the metrics, made when the stream has ended.

use super::metrics::{Metrics, code_name};
use crate::authz::rules::Method;
use crate::grpc::admit::stream::StreamEnd;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of a stream's response. When it ends or is dropped, the stream is counted with its code and its duration.
pub(super) struct RecordedBody {
    body: Body,
    record: StreamRecord,
}

/// What is known about a stream before it has ended. Dropping it makes the record.
pub(super) struct StreamRecord {
    pub(super) metrics: Arc<Metrics>,
    pub(super) method: Option<&'static Method>,
    pub(super) start: Instant,
    pub(super) span: Span,
    /// The early end of the stream, which the transport sends in place of the rest of the body.
    pub(super) end: Option<StreamEnd>,
    /// The code in the trailers of the body, once they have come.
    pub(super) code: Option<Code>,
}

impl RecordedBody {
    /// The same body, with a record at its end.
    pub(super) fn with_record(body: Body, record: StreamRecord) -> Body {
        Body::new(Self { body, record })
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let early = self.end.as_ref().and_then(StreamEnd::status).map(Status::code);
        // A stream without an end was cut off: the caller cancelled it, or the connection ended.
        let code = self.code.or(early).unwrap_or(Code::Cancelled);
        self.metrics.count(self.method, code, self.start.elapsed());
        log_answer(&self.span, code, self.start);
    }
}

/// Logs the end of a call.
pub(super) fn log_answer(span: &Span, code: Code, start: Instant) {
    let (status, code) = (code_name(code), i32::from(code));
    span.in_scope(|| tracing::debug!(code, status, micros = start.elapsed().as_micros(), "answered"));
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.code = grpc_code(trailers);
                }
            }
            Some(Err(status)) => self.record.code = Some(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The `grpc-status` in the headers or the trailers of a response.
pub(super) fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
