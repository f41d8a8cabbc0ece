//! Bodies: of a response of the fast path or the pipeline, and of a request of which a frame was read.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of a response.
pub(super) enum ResponseBody {
    /// One message in its frame, then the trailers of a success.
    Check(Option<Bytes>),
    /// The body of a response of the pipeline.
    Pipeline(Body),
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            // The trailers end the body: hyper does not poll after them.
            Self::Check(message) => Poll::Ready(Some(Ok(match message.take() {
                Some(message) => Frame::data(message),
                None => Frame::trailers(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])),
            }))),
            Self::Pipeline(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Check(_) => false,
            Self::Pipeline(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Check(_) => SizeHint::default(),
            Self::Pipeline(body) => body.size_hint(),
        }
    }
}

/// A request body of which a frame was read: the frame, then the rest.
pub(super) struct PrefixedBody {
    first: Option<Frame<Bytes>>,
    rest: Incoming,
}

impl PrefixedBody {
    pub(super) fn new(first: Option<Frame<Bytes>>, rest: Incoming) -> Self {
        Self { first, rest }
    }
}

impl hyper::body::Body for PrefixedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
