//! A bare tonic service that answers with a message of the same size: the cost of any tonic server.

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use roster::grpc::pb::{CheckMembershipRequest, CheckMembershipResponse, CheckReason, CheckResult, CheckSource};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_rustls::TlsAcceptor;
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

/// The variable that names the files with the certificate and the key of the echo with TLS, in PEM, separated by a colon.
pub(crate) const FILES: &str = "ROSTER_BENCH_TLS";

/// Serves directly on hyper on a free port, with TLS if [`FILES`] is set, and prints the address. Like roster, it returns the
/// `x-request-id` of a request that has one.
pub(crate) async fn serve_by_hyper() {
    let tls = std::env::var(FILES).ok().map(|files| acceptor(&files));
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
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let tls = tls.clone();
        // The generator closes the connection at its end.
        tokio::spawn(async move {
            match tls {
                None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    let stream = tls.accept(stream).await.unwrap();
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                }
            }
        });
    }
}

fn acceptor(files: &str) -> TlsAcceptor {
    let (certificate, key) = files.split_once(':').unwrap();
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
