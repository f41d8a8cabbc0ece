//! The meaning of a failure of the datastore: one that refuses service is unavailable, a commit without an answer has an
//! unknown outcome, and the log has the cause once.

use super::{assert_recovers, assert_unavailable, check, fully_consistent, named, unavailable};
use crate::harness::cluster::TestCluster;
use crate::harness::program::Serve;
use crate::harness::{Database, Server, add, is_member};
use crate::replica::until;
use roster::grpc::pb;
use roster::replica::ReplicaStatistics;
use roster::service::ReplicaSettings;
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

const ROLE: &str = "app";
const SERVE_STALE: Duration = Duration::from_mins(5);

/// A private Postgres whose role `app` owns the database and has a password, a server in this process and one in a
/// program of its own.
struct Scene {
    cluster: TestCluster,
    server: Server,
    program: Serve,
    organization: String,
}

impl Scene {
    async fn new() -> Self {
        let cluster = TestCluster::with_schema().await;
        cluster.create_owner(ROLE, "secret", "").await;
        cluster.set_access("local all all scram-sha-256").await;
        let database = Database { url: cluster.url_of(ROLE, "secret"), ..cluster.database() };
        let program = Serve::start(&database.url, "").await;
        let settings = ReplicaSettings { serve_stale: Some(SERVE_STALE), ..ReplicaSettings::default() };
        let server = Server::with_replica_over(database, settings).await;
        let organization = server.user("ada").create("Acme").await;
        server.roster.replica().loaded().await;
        server.roster.replica().caught_up().await;
        program.until(ServingStatus::Serving).await;
        Self { cluster, server, program, organization }
    }

    fn statistics(&self) -> ReplicaStatistics {
        self.server.roster.replica().statistics()
    }

    /// Injects a fault that concerns new sessions, and ends the present ones. While the fault lasts, every call is
    /// refused as unavailable or answered from memory, and the log has the cause a few times. Then removes the fault.
    async fn refuse_sessions(&mut self, cause: &str, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
        let before = self.program.log().len();
        begin().await;
        self.cluster.end_sessions(ROLE).await;
        self.server.until(ServingStatus::NotServing).await;
        self.program.until(ServingStatus::NotServing).await;
        let mut operator = self.server.operator();
        let organization = &self.organization;
        assert_unavailable(cause, operator.organizations.add_member(add(organization, "grace", "member")).await);
        let request = pb::ListMembersRequest { organization: organization.clone(), ..Default::default() };
        assert_unavailable(cause, operator.organizations.list_members(request).await);
        let question = check(organization, "ada", fully_consistent());
        assert_unavailable(cause, operator.checks.check_membership(question.clone()).await);
        // Without a requirement, memory answers, and says that it is stale.
        until("the lease runs out", async || self.statistics().age.is_none_or(|age| age > Duration::from_secs(1)))
            .await;
        let answer = operator.checks.check_membership(is_member(organization, "ada")).await;
        let answer = answer.unwrap_or_else(|status| panic!("{cause}: {status:?}")).into_inner().result.unwrap();
        assert!(answer.allowed && answer.source() == pb::CheckSource::StaleMemory, "{cause}: {answer:?}");
        for _ in 0..100 {
            assert_unavailable(cause, self.program.clients.checks.check_membership(question.clone()).await);
        }
        let log = self.program.log().split_off(before);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(cause)).collect();
        assert!((1..=3).contains(&lines.len()), "{} lines with the cause {cause:?}: {log}", lines.len());
        assert!(!log.contains("secret") && !log.contains("incident"), "{log}");
        end().await;
        assert_recovers(&self.server).await;
        self.program.until(ServingStatus::Serving).await;
        assert!(self.server.operator().is_member(&self.organization, "ada").await);
    }

    async fn refuse_sessions_by(&mut self, cause: &str, begin: &str, end: &str) {
        let url = self.cluster.url("postgres");
        let run = async |statement: &str| {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
        };
        self.refuse_sessions(cause, async || run(begin).await, async || run(end).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_connect_makes_the_datastore_unavailable() {
    let mut scene = Scene::new().await;
    for (cause, begin, end) in [
        ("password authentication failed", "ALTER ROLE app PASSWORD 'other'", "ALTER ROLE app PASSWORD 'secret'"),
        (
            "password authentication failed",
            "ALTER ROLE app VALID UNTIL '2001-01-01'",
            "ALTER ROLE app VALID UNTIL 'infinity'",
        ),
        ("not permitted to log in", "ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"),
        ("too many connections for role", "ALTER ROLE app CONNECTION LIMIT 0", "ALTER ROLE app CONNECTION LIMIT -1"),
        (
            "permission denied for database",
            "REVOKE CONNECT ON DATABASE roster FROM public, app",
            "GRANT CONNECT ON DATABASE roster TO public, app",
        ),
    ] {
        scene.refuse_sessions_by(cause, begin, end).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_connections_makes_the_datastore_unavailable() {
    let mut scene = Scene::new().await;
    for (cause, begin, end) in [
        (
            "too many connections for database",
            "ALTER DATABASE roster CONNECTION LIMIT 0",
            "ALTER DATABASE roster CONNECTION LIMIT -1",
        ),
        (
            "is not currently accepting connections",
            "ALTER DATABASE roster ALLOW_CONNECTIONS false",
            "ALTER DATABASE roster ALLOW_CONNECTIONS true",
        ),
    ] {
        scene.refuse_sessions_by(cause, begin, end).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_rejects_the_host_makes_the_datastore_unavailable() {
    let mut scene = Scene::new().await;
    let data = scene.cluster.data().join("pg_hba.conf");
    let url = scene.cluster.url("postgres");
    let set = async |rule: &str| {
        std::fs::write(&data, format!("local all postgres trust\n{rule}\n")).unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await.unwrap();
    };
    let rejected = async || set("local all all reject").await;
    scene.refuse_sessions("pg_hba.conf rejects", rejected, async || set("local all all scram-sha-256").await).await;
    // Another method than the client has a password for.
    let missing = async || set("").await;
    scene.refuse_sessions("no pg_hba.conf entry", missing, async || set("local all all scram-sha-256").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_connections_make_the_datastore_unavailable() {
    let cluster = TestCluster::with_schema_and(&[("max_connections", "16")]).await;
    cluster.create_owner(ROLE, "secret", "").await;
    cluster.create_owner("hog", "secret", "").await;
    cluster.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO app").await;
    let mut hogs = Vec::new();
    let refused = loop {
        match PgConnection::connect(&cluster.url_of("hog", "secret")).await {
            Ok(connection) => hogs.push(connection),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "53300");
    let url = cluster.url_of(ROLE, "secret");
    let mut program = Serve::start(&url, "").await;
    let server = Server::launch(Database { url, ..cluster.database() }, Default::default()).await;
    for _ in 0..20 {
        let answer = server.operator().checks.check_membership(check("acme", "ada", fully_consistent())).await;
        assert_unavailable("a check", answer);
        let answer = server.operator().organizations.create_organization(crate::harness::organization("Acme")).await;
        assert_unavailable("a write", answer);
    }
    program.until(ServingStatus::NotServing).await;
    let cause = "too many clients already";
    until("the log has the cause", async || program.log().contains(cause)).await;
    for _ in 0..50 {
        let answer = program.clients.checks.check_membership(check("acme", "ada", fully_consistent())).await;
        assert_unavailable("a check", answer);
    }
    let log = program.log();
    assert!((1..=3).contains(&log.matches(cause).count()), "{log}");
    drop(hogs);
    assert_recovers(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_missing_makes_the_datastore_unavailable() {
    let mut scene = Scene::new().await;
    let url = scene.cluster.url("postgres");
    let run = async |statements: &'static [&'static str]| {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&mut connection).await.unwrap();
        }
    };
    // A database with sessions cannot be renamed.
    let begin = async || {
        run(&[
            "ALTER DATABASE roster ALLOW_CONNECTIONS false",
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = 'roster'",
            "ALTER DATABASE roster RENAME TO gone",
        ])
        .await;
    };
    let end = async || {
        run(&["ALTER DATABASE gone RENAME TO roster", "ALTER DATABASE roster ALLOW_CONNECTIONS true"]).await;
    };
    scene.refuse_sessions("database \"roster\" does not exist", begin, end).await;
}

/// The error of adding a user, after a trigger has raised this SQLSTATE for it: for `now-…` in the statement, for
/// `end-…` in the commit.
async fn add_with_error(server: &Server, organization: &str, user: &str) -> Result<pb::AddMemberResponse, Status> {
    Ok(server.operator().organizations.add_member(add(organization, user, "member")).await?.into_inner())
}

/// A server over a database whose triggers raise errors.
async fn with_triggers() -> (Server, String) {
    const TRIGGERS: &str = "
        CREATE FUNCTION raise_error() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'raised by the test' USING ERRCODE = upper(split_part(NEW.user_id, '-', 2));
        END $$;
        CREATE TRIGGER now_error BEFORE INSERT ON memberships
            FOR EACH ROW WHEN (NEW.user_id LIKE 'now-%') EXECUTE FUNCTION raise_error();
        CREATE CONSTRAINT TRIGGER end_error AFTER INSERT ON memberships DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.user_id LIKE 'end-%') EXECUTE FUNCTION raise_error()";
    let server = Server::start().await;
    let organization = server.user("ada").create("Acme").await;
    sqlx::raw_sql(TRIGGERS).execute(&server.database.pool).await.unwrap();
    (server, organization)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_error_of_a_statement_has_one_meaning() {
    let (server, organization) = with_triggers().await;
    let internal = (Code::Internal, "INTERNAL".to_owned());
    for (code, meaning) in [
        // disk_full, out_of_memory, configuration_limit_exceeded, io_error, insufficient_privilege
        ("53100", unavailable()),
        ("53200", unavailable()),
        ("53400", unavailable()),
        ("58030", unavailable()),
        ("42501", unavailable()),
        // read_only_sql_transaction, admin_shutdown, connection_failure
        ("25006", unavailable()),
        ("57p01", unavailable()),
        ("08006", unavailable()),
        // invalid_password, invalid_authorization_specification
        ("28p01", unavailable()),
        ("28000", unavailable()),
        // raise_exception, division_by_zero
        ("p0001", internal.clone()),
        ("22012", internal.clone()),
    ] {
        let user = format!("now-{code}-1");
        let status = add_with_error(&server, &organization, &user).await.unwrap_err();
        assert_eq!(named(&status), meaning, "{code}: {status:?}");
    }
    super::assert_all_succeed(&server, &organization).await;
    server.database.assert_no_open_transactions().await;
    assert_eq!(server.database.count("SELECT count(*) FROM memberships WHERE user_id LIKE 'now-%'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_has_an_unknown_outcome() {
    let (server, organization) = with_triggers().await;
    for code in ["xx000", "xx001", "58030", "53100", "53200", "08006", "57p01", "25006", "42501", "p0001", "22012"] {
        let user = format!("end-{code}-1");
        let status = add_with_error(&server, &organization, &user).await.unwrap_err();
        assert_eq!(named(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned()), "{code}: {status:?}");
        assert!(status.message().contains("repeat it with the same request_id"), "{code}: {}", status.message());
    }
    // These say that the transaction was rolled back.
    for code in ["40001", "40p01", "23514", "23505"] {
        let user = format!("end-{code}-1");
        let status = add_with_error(&server, &organization, &user).await.unwrap_err();
        assert_ne!(status.code(), Code::DeadlineExceeded, "{code}: {status:?}");
    }
    super::assert_all_succeed(&server, &organization).await;
    server.database.assert_no_open_transactions().await;
    server.database.assert_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_privilege_makes_the_datastore_unavailable() {
    let scene = Scene::new().await;
    let mut operator = scene.server.operator();
    scene.cluster.execute("REVOKE ALL ON memberships FROM app").await;
    let answer = operator.organizations.add_member(add(&scene.organization, "grace", "member")).await;
    assert_unavailable("a write", answer);
    let answer = operator.checks.check_membership(check(&scene.organization, "ada", fully_consistent())).await;
    assert_unavailable("a check", answer);
    scene.cluster.execute("GRANT ALL ON memberships TO app").await;
    super::assert_all_succeed(&scene.server, &scene.organization).await;
}
