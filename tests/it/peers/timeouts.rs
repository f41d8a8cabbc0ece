//! Callers that time out together: they end no other call of their connection.

use crate::harness::program::Serve;
use crate::harness::{Database, Server, is_member};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use roster::domain::Scope;
use roster::grpc::pb::check_service_client::CheckServiceClient;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A check of a stranger with this deadline. Returns the code.
async fn check(channel: &Channel, token: &str, deadline: Duration) -> Code {
    let mut request = Request::new(is_member("acme", "ada"));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.set_timeout(deadline);
    let answer = CheckServiceClient::new(channel.clone()).check_membership(request).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// The client library reports its own timeout as `CANCELLED`.
fn is_timeout(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::DeadlineExceeded)
}

#[tokio::test]
async fn callers_that_time_out_while_the_server_stands_still_end_no_other_call() {
    let database = Database::new().await;
    let mut serve = Serve::start(&database.url, "").await;
    serve.until(ServingStatus::Serving).await;
    let mut watch = HealthClient::new(serve.channel.clone()).watch(HealthCheckRequest::default()).await.unwrap();
    let watch = watch.get_mut();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    serve.signal(Signal::SIGSTOP);
    let patient = check(&serve.channel, &serve.key, Duration::from_mins(1));
    let (channel, key) = (&serve.channel, &serve.key);
    let hasty = async {
        let codes = join_all((0..40).map(|_| async move {
            let mut codes = Vec::new();
            for _ in 0..3 {
                codes.push(check(channel, key, Duration::from_millis(100)).await);
            }
            codes
        }));
        let codes: Vec<Code> = codes.await.concat();
        assert!(codes.iter().all(|code| is_timeout(*code)), "{codes:?}");
        serve.signal(Signal::SIGCONT);
    };
    let (patient, ()) = tokio::join!(patient, hasty);
    assert_eq!(patient, Code::Ok);
    // The watch is open on the same connection: it reports the stop.
    serve.signal(Signal::SIGTERM);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    serve.kill().await;
}

#[tokio::test]
async fn deadlines_of_a_millisecond_end_no_other_call() {
    let server = Server::start().await;
    let token = server.service_token("backend", &[Scope::Check]);
    let channel = server.connect().await;
    let mut watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap();
    let watch = watch.get_mut();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (channel, token) = (&channel, &token);
    let hasty = join_all((0..16).map(|_| async move {
        for _ in 0..300 {
            let code = check(channel, token, Duration::from_millis(1)).await;
            assert!(code == Code::Ok || is_timeout(code), "{code:?}");
        }
    }));
    let patient = async {
        for _ in 0..50 {
            assert_eq!(check(channel, token, Duration::from_mins(1)).await, Code::Ok);
        }
    };
    tokio::join!(hasty, patient);
    server.begin_stop();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}
