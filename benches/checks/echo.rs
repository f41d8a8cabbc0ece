//! A bare tonic service that answers with a message of the same size and does nothing else: what any tonic server pays.

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
            // As long as the token of a check: thirteen bytes and two buckets of ten, in base64.
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

/// Serves on a port of its own, and says which.
pub(crate) async fn serve() {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    super::say(&incoming.local_addr().unwrap().to_string());
    tonic::transport::Server::builder()
        .add_service(Echo)
        .serve_with_incoming(incoming.with_nodelay(Some(true)))
        .await
        .unwrap();
}
