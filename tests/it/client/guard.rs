//! The tower layer in front of services.

#[path = "../../../examples/guard.rs"]
#[expect(dead_code, reason = "main is not called here")]
mod example;

use super::{cached, settings, soon};
use crate::harness::log::Log;
use crate::harness::proxy::Proxy;
use crate::harness::{Server, remove};
use crate::roles::apply;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use roster::client::{
    CacheSettings, CallSubject, Check, CheckReason, Client, GuardRejection, MembershipCache, RequirePermission,
};
use roster::domain::{OrganizationRef, Permission, RoleName, UserId};
use serde_json::json;
use std::convert::Infallible;
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// The subject of a request, from plain headers. A real backend uses verified data.
fn subject(parts: &Parts) -> CallSubject {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let user = UserId::parse(header("user")).map_err(|_| Status::unauthenticated("sign in"))?;
    let organization = OrganizationRef::parse(header("organization"));
    Ok((organization.map_err(|_| Status::invalid_argument("name the organization"))?, user))
}

fn request(organization: &str, user: &str) -> Request<&'static str> {
    Request::builder().header("organization", organization).header("user", user).body("hello").unwrap()
}

/// The service behind the guard.
async fn echo(request: Request<&'static str>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(request.into_body().to_owned()))
}

/// The gRPC status of a response without a body.
fn status(response: &Response<String>) -> Code {
    assert!(response.body().is_empty());
    Status::from_header_map(response.headers()).unwrap().code()
}

#[tokio::test]
async fn only_permitted_requests_reach_the_service() {
    let (server, proxy, cache) = cached().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "admin").await;
    owner.add(&id, "alan", "member").await;
    soon(cache.caught_up()).await;
    let mut guarded = ServiceBuilder::new()
        .layer(RequirePermission::new(&cache, Permission::MEMBERS_ADD, subject))
        .service(service_fn(echo));
    let mut call = async |organization: &str, user: &str| {
        guarded.ready().await.unwrap().call(request(organization, user)).await.unwrap()
    };
    assert_eq!(call("acme", "ada").await.body(), "hello");
    assert_eq!(call(&id, "grace").await.body(), "hello");
    let denied = call("acme", "eve").await;
    assert_eq!(status(&denied), Code::PermissionDenied);
    // Denied users and unknown organizations get the same response.
    for (organization, user) in [("acme", "alan"), ("no-such-thing", "ada")] {
        assert_eq!(call(organization, user).await.headers(), denied.headers());
    }
    assert_eq!(status(&call("acme", "").await), Code::Unauthenticated);
    assert_eq!(status(&call("?", "ada").await), Code::InvalidArgument);

    owner.organizations.remove_member(remove(&id, "grace")).await.unwrap();
    soon(cache.caught_up()).await;
    assert_eq!(status(&call(&id, "grace").await), Code::PermissionDenied);

    proxy.close(true);
    soon(async { while status_or_ok(&call("acme", "ada").await) != Code::Unavailable {} }).await;
    proxy.close(false);
    soon(async { while status_or_ok(&call("acme", "ada").await) != Code::Ok {} }).await;
}

#[tokio::test]
async fn the_guard_asks_for_permissions_and_roles_of_the_application() {
    let (server, _proxy, cache) = cached().await;
    let mut operator = server.operator();
    let model = json!({
        "permissions": [{ "name": "shop.refund" }],
        "roles": [{ "name": "cashier", "permissions": ["shop.refund"] }],
    });
    let id = server.user("ada").create("Acme").await;
    let refund = RequirePermission::new(&cache, Permission::new("shop.refund").unwrap(), subject);
    let mut refund = ServiceBuilder::new().layer(refund).service(service_fn(echo));
    let mut is_allowed = async |user: &str| {
        let response = refund.ready().await.unwrap().call(request("acme", user)).await.unwrap();
        status_or_ok(&response)
    };
    // The program may be ahead of the model: not even the owner has what nothing declares.
    assert_eq!(is_allowed("ada").await, Code::Unavailable);
    operator.models.apply_access_model(apply(model)).await.unwrap();
    for (user, role) in [("grace", "cashier"), ("joan", "admin")] {
        operator.add(&id, user, role).await;
    }
    soon(cache.caught_up()).await;
    let from_server = cache.statistics().from_server;
    for (user, code) in [("ada", Code::Ok), ("grace", Code::Ok), ("joan", Code::PermissionDenied)] {
        assert_eq!(is_allowed(user).await, code, "{user}");
    }
    let cashier = RequirePermission::role(&cache, RoleName::parse("cashier").unwrap(), subject);
    let mut cashier = ServiceBuilder::new().layer(cashier).service(service_fn(echo));
    for (user, code) in [("grace", Code::Ok), ("joan", Code::PermissionDenied), ("eve", Code::PermissionDenied)] {
        let response = cashier.ready().await.unwrap().call(request("acme", user)).await.unwrap();
        assert_eq!(status_or_ok(&response), code, "{user}");
    }
    assert_eq!(cache.statistics().from_server, from_server);
}

fn status_or_ok(response: &Response<String>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn the_server_answers_before_the_export_and_responses_are_customizable() {
    let server = Server::start().await;
    let mut owner = server.user("ada");
    let id = owner.create("Acme").await;
    owner.add(&id, "grace", "admin").await;
    // The follower's connection is stalled; the client's is not.
    let proxy = Proxy::to(server.address).await;
    let client = Client::connect(settings(&server, proxy.address)).await.unwrap();
    proxy.stall_from(1);
    let cache = MembershipCache::start(&client, CacheSettings::default());
    let layer = RequirePermission::role(&cache, RoleName::OWNER, subject).answering(|rejection| {
        let (status, body) = match rejection {
            GuardRejection::Unnamed(status) => (StatusCode::UNAUTHORIZED, status.message().to_owned()),
            GuardRejection::Denied(answer) => (StatusCode::FORBIDDEN, format!("{:?}", answer.reason)),
            GuardRejection::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        };
        Response::builder().status(status).body(body).unwrap()
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
async fn the_example_guards_a_service_and_equals_the_documents() {
    let server = Server::start().await;
    server.user("ada").create("Acme").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let roster = settings(&server, server.address);
    let check = Check::permission("acme", "ada", Permission::MEMBERS_ADD).unwrap();
    let log = Log::watch();
    let task = tokio::spawn(async move { example::serve(roster, check, listener).await.unwrap() });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    for (user, code) in [("ada", Code::Ok), ("eve", Code::PermissionDenied), ("", Code::Unauthenticated)] {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.metadata_mut().insert("x-user", user.parse().unwrap());
        request.metadata_mut().insert("x-organization", "acme".parse().unwrap());
        let answer = soon(HealthClient::new(channel.clone()).check(request)).await;
        assert_eq!(answer.err().map_or(Code::Ok, |status| status.code()), code, "{user}");
    }
    // grpcurl finds the messages of the service by reflection, which needs no user.
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon(answers.message()).await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    task.abort();
    let log = log.end();
    assert!(log.contains("may the user add members? allowed=true"), "{log}");

    let (example, page) = (include_str!("../../../examples/guard.rs"), include_str!("../../../docs/clients.md"));
    let excerpt = &example[example.find("/// The user and the organization").unwrap()..];
    assert!(page.contains(&format!("```rust\n{excerpt}```")), "docs/clients.md differs from examples/guard.rs");
}
