//! A server on its own port, and clients for every kind of caller.

use super::Database;
use roster::authn::api_keys::{self, GeneratedApiKey};
use roster::authn::authenticator::Authenticator;
use roster::authn::mint::{ClaimSet, SigningKey};
use roster::authn::settings::{ApiKeySettings, AuthSettings, Callers, IssuerSettings};
use roster::clock::Clock;
use roster::domain::Scope;
use roster::grpc::pb::access_model_service_client::AccessModelServiceClient;
use roster::grpc::pb::check_service_client::CheckServiceClient;
use roster::grpc::pb::event_service_client::EventServiceClient;
use roster::grpc::pb::invitation_service_client::InvitationServiceClient;
use roster::grpc::pb::organization_service_client::OrganizationServiceClient;
use roster::grpc::pb::role_service_client::RoleServiceClient;
use roster::grpc::pb::user_service_client::UserServiceClient;
use roster::server::{self, ServerParts, ServerSettings};
use roster::service::{InvitationSettings, ReplicaSettings, Roster, UnknownOwners};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::pool::Pool;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "roster";
/// Writes to one row that a test lets wait for each other in Postgres.
const CONTENDING_WRITES: usize = 32;

/// A running server with its database and its signing key. Dropping it stops the server.
pub struct Server {
    pub address: SocketAddr,
    /// The address of the metrics.
    pub metrics: SocketAddr,
    pub database: Database,
    pub roster: Roster,
    pub key: SigningKey,
    /// The authenticator that the server uses.
    pub authenticator: Authenticator,
    channel: Channel,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server over a new database, and waits until it is healthy.
    pub async fn start() -> Self {
        Self::over(Database::new().await, ServerSettings::default()).await
    }

    /// Starts a server over a datastore with another id than the datastores of other tests, and waits until it is
    /// healthy.
    pub async fn of_another_datastore() -> Self {
        let database = Database::new().await;
        sqlx::query("UPDATE datastore SET id = gen_random_uuid()").execute(&database.pool).await.unwrap();
        Self::over(database, ServerSettings::default()).await
    }

    /// Starts a server with mail enabled and without limits on invitations, and waits until it is healthy.
    pub async fn start_generous() -> Self {
        Self::with_invitations(InvitationSettings {
            mail: true,
            pending_per_organization: u32::MAX,
            per_organization_and_day: u32::MAX,
            sends_per_invitation: u32::MAX,
            cooldown: Duration::ZERO,
            mails_per_recipient_and_day: u32::MAX,
            mails_per_sender_to_recipient_and_day: u32::MAX,
            failed_tokens_per_minute: u32::MAX,
        })
        .await
    }

    /// Starts a server over this database, and waits until it is healthy.
    pub async fn over(database: Database, settings: ServerSettings) -> Self {
        let server = Self::launch(database, settings).await;
        server.until_serving().await;
        server
    }

    /// Starts a server with these limits on invitations over a new database, and waits until it is healthy.
    pub async fn with_invitations(invitations: InvitationSettings) -> Self {
        Self::with_invitations_over(Database::new().await, invitations).await
    }

    /// Starts a server with these limits on invitations over this database, and waits until it is healthy.
    pub async fn with_invitations_over(database: Database, invitations: InvitationSettings) -> Self {
        let configure = |roster: Roster| roster.with_invitations(invitations).with_queued_writes(CONTENDING_WRITES);
        let server = Self::launch_as(database, ServerSettings::default(), |_| {}, configure).await;
        server.until_serving().await;
        server
    }

    /// Starts a server whose writes to one row wait for each other in Postgres, and waits until it is healthy.
    pub async fn start_contended() -> Self {
        let database = Database::new().await;
        let url = DatastoreUrl::parse(&database.url).unwrap();
        let roster = Roster::new(Pool::new(url, 32), Clock::system()).with_queued_writes(CONTENDING_WRITES);
        let configure = |_| roster;
        let server = Self::launch_as(database, ServerSettings::default(), |_| {}, configure).await;
        server.until_serving().await;
        server
    }

    /// Starts a server with these settings of the replica over this database, and waits until it is healthy.
    pub async fn with_replica_over(database: Database, replica: ReplicaSettings) -> Self {
        let configure = |roster: Roster| roster.with_replica(replica);
        let server = Self::launch_as(database, ServerSettings::default(), |_| {}, configure).await;
        server.until_serving().await;
        server
    }

    /// Starts a server that treats transfers to unknown users in this way over a new database, and waits until it is healthy.
    pub async fn with_unknown_owners(owners: UnknownOwners) -> Self {
        let configure = |roster: Roster| roster.with_transfer_to_unknown(owners);
        let server = Self::launch_as(Database::new().await, ServerSettings::default(), |_| {}, configure).await;
        server.until_serving().await;
        server
    }

    /// Starts a server whose pool has this many connections over a new database, and waits until it is healthy.
    pub async fn with_connections(connections: u32) -> Self {
        let database = Database::new().await;
        let url = DatastoreUrl::parse(&database.url).unwrap();
        let configure = |_| Roster::new(Pool::new(url, connections), Clock::system());
        let server = Self::launch_as(database, ServerSettings::default(), |_| {}, configure).await;
        server.until_serving().await;
        server
    }

    /// Starts a server over this database, without waiting until it is healthy.
    pub async fn launch(database: Database, settings: ServerSettings) -> Self {
        Self::launch_with(database, settings, |_| {}).await
    }

    /// Starts a server with changed settings of the authentication, without waiting until it is healthy.
    pub async fn launch_with(
        database: Database,
        settings: ServerSettings,
        change: impl FnOnce(&mut AuthSettings),
    ) -> Self {
        Self::launch_as(database, settings, change, |roster| roster).await
    }

    async fn launch_as(
        database: Database,
        settings: ServerSettings,
        change: impl FnOnce(&mut AuthSettings),
        configure: impl FnOnce(Roster) -> Roster,
    ) -> Self {
        let key = SigningKey::generate();
        let mut auth = auth_settings(write_jwks(&key));
        change(&mut auth);
        let authenticator = Authenticator::new(&auth, Clock::system()).unwrap_or_else(|faults| panic!("{faults:?}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = metrics_listener.local_addr().unwrap();
        let roster =
            configure(Roster::new(Pool::new(DatastoreUrl::parse(&database.url).unwrap(), 16), Clock::system()));
        let stop = CancellationToken::new();
        let parts = ServerParts {
            listener: listener.into(),
            settings,
            roster: roster.clone(),
            authenticator: authenticator.clone(),
            mailer: None,
            metrics: Some(metrics_listener),
        };
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { server::serve(parts, stop).await.unwrap() }
        });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { address, metrics, database, roster, key, authenticator, channel, stop, running: Some(running) }
    }

    /// Waits until the health service reports SERVING.
    pub async fn until_serving(&self) {
        self.until(ServingStatus::Serving).await;
    }

    /// Waits until the health service reports this status.
    pub async fn until(&self, wanted: ServingStatus) {
        let mut health = HealthClient::new(self.channel.clone());
        let reported = async {
            let request = HealthCheckRequest::default();
            let mut watch = health.watch(request).await.unwrap().into_inner();
            while let Some(answer) = watch.message().await.unwrap() {
                if answer.status() == wanted {
                    return;
                }
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(20), reported).await.is_ok(),
            "the health service never reported {wanted:?}"
        );
    }

    /// Begins a graceful stop.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the server, and waits until it has stopped.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Replaces the connection that the clients share.
    pub fn use_channel(&mut self, channel: Channel) {
        self.channel = channel;
    }

    /// The connection that the clients share.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Opens a new connection.
    pub async fn connect(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// The claims of a valid bearer token for this subject.
    pub fn claims(sub: &str) -> ClaimSet {
        let now = Clock::system().unix_seconds();
        ClaimSet {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: sub.to_owned(),
            exp: now + 3600,
            iat: now,
            scope: None,
            email: None,
            email_verified: None,
            name: None,
        }
    }

    /// Signs a bearer token.
    pub fn mint(&self, claims: &ClaimSet) -> String {
        self.key.mint(claims).unwrap().expose().to_owned()
    }

    /// The bearer token of a service with these scopes.
    pub fn service_token(&self, name: &str, scopes: &[Scope]) -> String {
        let words: Vec<String> = scopes.iter().map(|scope| format!("roster:{}", scope.as_str())).collect();
        self.mint(&ClaimSet { scope: Some(words.join(" ")), ..Self::claims(name) })
    }

    /// Clients of an anonymous caller.
    pub fn anonymous(&self) -> Clients {
        Clients::new(&self.channel, Credential::default())
    }

    /// Clients of a user whose bearer token has no claims except the subject.
    pub fn user(&self, id: &str) -> Clients {
        self.with_token(&self.mint(&Self::claims(id)))
    }

    /// Clients of a user with a verified address `<id>@example.com`.
    pub fn user_with_email(&self, id: &str) -> Clients {
        let email = Some(format!("{id}@example.com"));
        self.with_token(&self.mint(&ClaimSet { email, email_verified: Some(true), ..Self::claims(id) }))
    }

    /// Clients of a user whose bearer token has this address, verified or not.
    pub fn person(&self, id: &str, email: &str, verified: bool) -> Clients {
        let email = Some(email.to_owned());
        self.with_token(&self.mint(&ClaimSet { email, email_verified: Some(verified), ..Self::claims(id) }))
    }

    /// Clients of a service.
    pub fn service(&self, scopes: &[Scope]) -> Clients {
        self.with_token(&self.service_token("backend", scopes))
    }

    /// The credential of a service with these scopes.
    pub fn credential(&self, scopes: &[Scope]) -> Credential {
        Credential { token: Some(self.service_token("backend", scopes)), on_behalf_of: None }
    }

    /// Clients of an operator.
    pub fn operator(&self) -> Clients {
        self.with_token(&self.service_token("root", &[Scope::Operator]))
    }

    /// Clients of a service that acts for a user.
    pub fn on_behalf_of(&self, user: &str) -> Clients {
        let token = self.service_token("backend", &[Scope::ActAs]);
        Clients::new(&self.channel, Credential { token: Some(token), on_behalf_of: Some(user.to_owned()) })
    }

    /// Clients with this bearer token.
    pub fn with_token(&self, token: &str) -> Clients {
        Clients::new(&self.channel, Credential { token: Some(token.to_owned()), on_behalf_of: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The API key of a service that may check.
pub static API_KEY: LazyLock<GeneratedApiKey> = LazyLock::new(api_keys::generate);

/// The settings of the authentication in tests: bearer tokens of one issuer, which may grant every scope, and an API key.
pub fn auth_settings(jwks: PathBuf) -> AuthSettings {
    AuthSettings {
        issuers: vec![IssuerSettings {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.into(),
            jwks_file: Some(jwks),
            scopes: Scope::ALL.to_vec(),
            callers: Some(Callers::People),
            ..IssuerSettings::default()
        }],
        // The key of the harness is one of `roster dev`.
        development_keys: true,
        api_keys: vec![ApiKeySettings {
            name: "keyed".to_owned(),
            scopes: vec![Scope::Check],
            sha256: API_KEY.sha256.clone(),
        }],
        ..AuthSettings::default()
    }
}

/// Writes the public key to a JWKS file, and returns its path.
pub fn write_jwks(key: &SigningKey) -> PathBuf {
    write_key_set(&key.public_jwks())
}

/// Writes the public key to a JWKS file without its id, and returns its path. `roster serve` refuses a key with this id,
/// and a key without one verifies every token.
pub fn write_anonymous_jwks(key: &SigningKey) -> PathBuf {
    let mut set = key.public_jwks();
    set["keys"][0].as_object_mut().unwrap().remove("kid");
    write_key_set(&set)
}

fn write_key_set(set: &serde_json::Value) -> PathBuf {
    static FILES: AtomicU64 = AtomicU64::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("jwks-{}-{number}.json", std::process::id()));
    std::fs::write(&path, set.to_string()).unwrap();
    path
}

/// The credential that a client sends with each call.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    pub token: Option<String>,
    pub on_behalf_of: Option<String>,
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            let value: AsciiMetadataValue = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(user) = &self.on_behalf_of {
            if user.is_ascii() {
                request.metadata_mut().insert("roster-on-behalf-of", user.parse().unwrap());
            } else {
                request
                    .metadata_mut()
                    .insert_bin("roster-on-behalf-of-bin", BinaryMetadataValue::from_bytes(user.as_bytes()));
            }
        }
        Ok(request)
    }
}

pub type AuthenticatedChannel = InterceptedService<Channel, Credential>;

/// One caller's clients for every service.
#[derive(Debug, Clone)]
pub struct Clients {
    pub organizations: OrganizationServiceClient<AuthenticatedChannel>,
    pub invitations: InvitationServiceClient<AuthenticatedChannel>,
    pub users: UserServiceClient<AuthenticatedChannel>,
    pub checks: CheckServiceClient<AuthenticatedChannel>,
    pub events: EventServiceClient<AuthenticatedChannel>,
    pub models: AccessModelServiceClient<AuthenticatedChannel>,
    pub roles: RoleServiceClient<AuthenticatedChannel>,
}

impl Clients {
    /// Clients over this connection with this credential.
    pub fn new(channel: &Channel, credential: Credential) -> Self {
        let channel = InterceptedService::new(channel.clone(), credential);
        Self {
            organizations: OrganizationServiceClient::new(channel.clone()),
            invitations: InvitationServiceClient::new(channel.clone()),
            users: UserServiceClient::new(channel.clone()),
            checks: CheckServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            models: AccessModelServiceClient::new(channel.clone()),
            roles: RoleServiceClient::new(channel),
        }
    }

    /// Creates an organization with this name, and returns its id.
    pub async fn create(&mut self, name: &str) -> String {
        let answer = self.organizations.create_organization(super::organization(name)).await.unwrap();
        answer.into_inner().organization.unwrap().id
    }

    /// Adds a member, and returns the consistency token of the write.
    pub async fn add(&mut self, organization: &str, user: &str, role: &str) -> String {
        let added = self.organizations.add_member(super::add(organization, user, role)).await.unwrap();
        added.into_inner().consistency_token
    }

    /// Checks whether a user is a member.
    pub async fn is_member(&mut self, organization: &str, user: &str) -> bool {
        let answer = self.checks.check_membership(super::is_member(organization, user)).await.unwrap();
        answer.into_inner().result.unwrap().allowed
    }
}
