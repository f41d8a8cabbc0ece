//! The tower layer in front of services.

#[path = "../../../examples/guard.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod example;

use super::proxy::Proxy;
use super::{copied, settings, soon};
use crate::harness::{Server, remove};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use roster::client::{
    CacheSettings, CallSubject, CheckReason, Client, GuardRejection, MembershipCache, RequirePermission,
};
use roster::domain::{OrganizationRef, Permission, Role, UserId};
use std::convert::Infallible;
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// Whom these services take a request to be from. A real one goes by its session.
fn who(parts: &Parts) -> CallSubject {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let user = UserId::parse(header("user")).map_err(|_| Status::unauthenticated("sign in"))?;
    let organization = OrganizationRef::parse(header("organization"));
    Ok((organization.map_err(|_| Status::invalid_argument("name the organization"))?, user))
}

fn request(organization: &str, user: &str) -> Request<&'static str> {
    Request::builder().header("organization", organization).header("user", user).body("hello").unwrap()
}

/// What is behind the guard.
async fn echo(request: Request<&'static str>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(request.into_body().to_owned()))
}

/// The gRPC status of an answer that has no body.
fn status(answer: &Response<String>) -> Code {
    assert!(answer.body().is_empty());
    Status::from_header_map(answer.headers()).unwrap().code()
}

#[tokio::test]
async fn lets_through_who_may_and_nobody_else() {
    let (server, proxy, cache) = copied().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "admin").await;
    owner.add(&id, "alan", "member").await;
    soon(cache.caught_up()).await;
    let mut guarded = ServiceBuilder::new()
        .layer(RequirePermission::new(&cache, Permission::MembersAdd, who))
        .service(service_fn(echo));
    let mut ask = async |organization: &str, user: &str| {
        guarded.ready().await.unwrap().call(request(organization, user)).await.unwrap()
    };
    assert_eq!(ask("acme", "ada").await.body(), "hello");
    assert_eq!(ask(&id, "grace").await.body(), "hello");
    let stranger = ask("acme", "eve").await;
    assert_eq!(status(&stranger), Code::PermissionDenied);
    // One answer for whoever may not, and for what is not there.
    for (organization, user) in [("acme", "alan"), ("no-such-thing", "ada")] {
        assert_eq!(ask(organization, user).await.headers(), stranger.headers());
    }
    assert_eq!(status(&ask("acme", "").await), Code::Unauthenticated);
    assert_eq!(status(&ask("?", "ada").await), Code::InvalidArgument);

    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    soon(cache.caught_up()).await;
    assert_eq!(status(&ask(&id, "grace").await), Code::PermissionDenied);

    proxy.close(true);
    soon(async { while status_or_ok(&ask("acme", "ada").await) != Code::Unavailable {} }).await;
    proxy.close(false);
    soon(async { while status_or_ok(&ask("acme", "ada").await) != Code::Ok {} }).await;
}

fn status_or_ok(answer: &Response<String>) -> Code {
    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn asks_the_server_until_the_copy_is_there_and_answers_as_it_is_told() {
    let server = Server::start().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "admin").await;
    // The copy's connection gets nothing through; the client's own does.
    let proxy = Proxy::to(server.address).await;
    let client = Client::connect(settings(&server, proxy.address)).await.unwrap();
    proxy.stall_from(1);
    let cache = MembershipCache::start(&client, CacheSettings::default());
    let layer = RequirePermission::role(&cache, Role::OWNER, who).answering(|stopped| {
        let (status, told) = match stopped {
            GuardRejection::Unnamed(status) => (StatusCode::UNAUTHORIZED, status.message().to_owned()),
            GuardRejection::Denied(answer) => (StatusCode::FORBIDDEN, format!("{:?}", answer.reason)),
            GuardRejection::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        };
        Response::builder().status(status).body(told).unwrap()
    });
    let mut guarded = ServiceBuilder::new().layer(layer).service(service_fn(echo));
    for (user, status, body) in [
        ("ada", StatusCode::OK, "hello".to_owned()),
        ("grace", StatusCode::FORBIDDEN, format!("{:?}", CheckReason::RoleTooLow)),
        ("", StatusCode::UNAUTHORIZED, "sign in".to_owned()),
    ] {
        let answer = guarded.ready().await.unwrap().call(request("acme", user)).await.unwrap();
        assert_eq!((answer.status(), answer.body()), (status, &body));
    }
    let statistics = cache.statistics();
    assert_eq!((statistics.from_server, statistics.from_memory), (2, 0), "{statistics:?}");
    proxy.close(true);
    let answer = guarded.ready().await.unwrap().call(request("acme", "ada")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_example_guards_a_service_of_tonic_and_stands_in_the_readme() {
    let server = Server::start().await;
    server.user("ada").create("Acme").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let roster = settings(&server, server.address);
    let serving = tokio::spawn(async move { example::serve(roster, listener).await.unwrap() });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    for (user, code) in [("ada", Code::Ok), ("eve", Code::PermissionDenied), ("", Code::Unauthenticated)] {
        let mut ask = tonic::Request::new(HealthCheckRequest::default());
        ask.metadata_mut().insert("x-user", user.parse().unwrap());
        ask.metadata_mut().insert("x-organization", "acme".parse().unwrap());
        let answer = soon(HealthClient::new(channel.clone()).check(ask)).await;
        assert_eq!(answer.err().map_or(Code::Ok, |status| status.code()), code, "{user}");
    }
    serving.abort();

    let (example, readme) = (include_str!("../../../examples/guard.rs"), include_str!("../../../README.md"));
    let shown = &example[example.find("/// Whom").unwrap()..];
    assert!(readme.contains(&format!("```rust\n{shown}```")), "the readme shows another example");
}
