//! A backend that forwards a call only if roster allows it. The guard stands in front of the health service, which
//! every project with tonic has; replace it by your own service.

use http::request::Parts;
use roster::client::{
    CacheSettings, CallSubject, Check, Client, ClientSettings, MembershipCache, RequirePermission, TokenSource,
};
use roster::domain::{OrganizationRef, Permission, UserId};
use std::error::Error;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::codegen::tokio_stream::wrappers::TcpListenerStream;
use tonic::service::LayerExt;
use tonic::transport::Server;
use tower::ServiceBuilder;

/// The user and the organization of a call. A real backend takes the user from data that it has verified, such as a
/// session or a bearer token, never from a plain header.
fn subject(parts: &Parts) -> CallSubject {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let user = UserId::parse(header("x-user")).map_err(|_| Status::unauthenticated("sign in"))?;
    let organization = OrganizationRef::parse(header("x-organization"));
    Ok((organization.map_err(|_| Status::invalid_argument("name an organization"))?, user))
}

pub(crate) async fn serve(roster: ClientSettings, check: Check, listener: TcpListener) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(roster).await?;
    // A replica of all memberships in this process. When it is not fresh enough, the server answers.
    let cache = MembershipCache::start(&client, CacheSettings::default());

    // Check in your own code …
    let answer = cache.check(&check).await?;
    tracing::info!(allowed = answer.is_allowed(), reason = ?answer.reason, "may the user add members?");

    // … or put a guard in front of a service.
    let (_reporter, service) = tonic_health::server::health_reporter();
    let guarded = ServiceBuilder::new()
        .layer(RequirePermission::new(&cache, Permission::ORGANIZATION_UPDATE, subject))
        .named_layer(service);
    // Reflection is not guarded: with it, grpcurl knows the messages of the service.
    let protos = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let reflection = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(protos);
    let server = Server::builder().add_service(guarded).add_service(reflection.build_v1()?);
    server.serve_with_incoming(TcpListenerStream::new(listener)).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [organization, user] = &arguments[..] else { return Err("usage: guard ORGANIZATION USER".into()) };
    let check = Check::permission(organization, user, Permission::MEMBERS_ADD)?;
    // A bearer token with the scope `check`, or an API key. `TokenSource::from_fn` supports tokens that expire.
    let token = TokenSource::fixed(&std::env::var("SERVICE")?)?;
    let roster = ClientSettings::new("http://127.0.0.1:50051")?.with_token(token);
    serve(roster, check, TcpListener::bind("127.0.0.1:50060").await?).await
}
