//! A bare tonic service that answers with a message of the same size: the cost of any tonic server.

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use roster::grpc::pb::{CheckMembershipRequest, CheckMembershipResponse, CheckReason, CheckResult, CheckSource};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone)]
struct Echo;

impl UnaryService<CheckMembershipRequest> for Echo {
    type Response = CheckMembershipResponse;
    type Future = Ready<Result<Response<CheckMembershipResponse>, Status>>;

    fn call(&mut self, _: Request<CheckMembershipRequest>) -> Self::Future {
        let result = CheckResult {
            allowed: true,
            reason: CheckReason::Allowed.into(),
            role: "admin".to_owned(),
            revision: 1,
            // The length of a check's consistency token: thirteen bytes and two buckets of ten, in base64.
            consistency_token: "A".repeat(44),
            source: CheckSource::Primary.into(),
        };
        ready(Ok(Response::new(CheckMembershipResponse { result: Some(result) })))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "roster.v1.CheckService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<CheckMembershipResponse, CheckMembershipRequest>::default();
            Ok(Grpc::new(codec).unary(Self, request).await)
        })
    }
}

/// Serves through tonic's server on a free port, and prints the address.
pub(crate) async fn serve_by_tonic() {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    super::print_line(&incoming.local_addr().unwrap().to_string());
    tonic::transport::Server::builder()
        .add_service(Echo)
        .serve_with_incoming(incoming.with_nodelay(Some(true)))
        .await
        .unwrap();
}

/// Serves directly on hyper on a free port, and prints the address. Like roster, it returns the `x-request-id` of a request
/// that has one.
pub(crate) async fn serve_by_hyper() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    super::print_line(&listener.local_addr().unwrap().to_string());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            let codec = ProstCodec::<CheckMembershipResponse, CheckMembershipRequest>::default();
            let name = request.headers().get("x-request-id").cloned();
            let mut response = Grpc::new(codec).unary(Echo, request).await;
            if let Some(name) = name {
                response.headers_mut().insert("x-request-id", name);
            }
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(async move {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // The generator closes the connection at its end.
            let _ = served.await;
        });
    }
}
