//! A Postgres that hangs: connections stay open and nothing passes. Every call ends before its caller gives up, and the
//! answer names the cause.

use super::{FULLY_CONSISTENT, Scene, assert_every_method_is_unavailable, check, sample_calls};
use crate::harness::raw::{self, Answer, Call};
use crate::replica::until;
use prost::Message;
use roster::authz::rules::Method;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::grpc::pb::stream_checks_response::Outcome;
use sqlx::AssertSqlSafe;
use std::time::Duration;
use tonic::Code;
use tonic_types::StatusExt;

impl Scene {
    /// Lets nothing pass any more, and waits until memory is too old to answer.
    async fn hang(&self) {
        self.proxy.swallow_all();
        let age = || self.server.roster.replica().statistics().age;
        until("the lease runs out", async || age().is_none_or(|age| age > Duration::from_secs(2))).await;
    }

    async fn run(&self, statement: String) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.direct.pool).await.unwrap();
    }

    /// Calls a method with this `grpc-timeout`, as an operator.
    async fn call(&self, path: &str, message: &[u8], timeout: &str) -> Answer {
        let token = self.server.service_token("root", &[Scope::Operator]);
        self.server.send(Call::grpc(path, message).bearer(&token).with("grpc-timeout", timeout)).await
    }
}

/// Asserts that an answer names the datastore as the cause, and that nothing was changed.
fn assert_names_the_datastore(what: &str, answer: &Answer) {
    let status = answer.status().unwrap_or_else(|| panic!("{what}: {answer:?}"));
    assert_eq!(answer.reason.as_deref(), Some("DATASTORE_UNAVAILABLE"), "{what}: {status:?}");
    // It does not answer, or cannot be reached.
    assert!(status.message().starts_with("the datastore "), "{what}: {status:?}");
    assert!(status.message().contains("nothing was changed"), "{what}: {status:?}");
    assert!(status.get_details_retry_info().is_some(), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_unavailable_while_postgres_hangs() {
    let scene = Scene::new().await;
    scene.hang().await;
    assert_every_method_is_unavailable(&scene.server, &scene.organization).await;
}

/// The callers have no deadline of their own here: an answer behind the deadline would be `DEADLINE_EXCEEDED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_within_its_deadline_while_postgres_hangs() {
    let scene = Scene::new().await;
    scene.hang().await;
    let calls = sample_calls(&scene.server, &scene.organization);
    let unary = |method: &&Method| !method.streaming.any();
    let answers = calls.into_iter().filter(|(method, ..)| unary(method)).map(async |(method, token, message)| {
        let call = Call::grpc(method.path, &message).bearer(&token).with("grpc-timeout", "1500m");
        (method.path, scene.server.send(call).await)
    });
    for (path, answer) in futures_util::future::join_all(answers).await {
        assert_names_the_datastore(path, &answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_wait_for_two_seconds_at_most() {
    let scene = Scene::new().await;
    let check = check(&scene.organization, "ada", FULLY_CONSISTENT);
    // The connection was just used, so nothing but the wait for its answer takes time.
    scene.server.operator().checks.check_membership(check.clone()).await.unwrap();
    scene.proxy.swallow_all();
    let item =
        pb::CheckItem { organization: scene.organization.clone(), user_id: "ada".to_owned(), ..Default::default() };
    let (items, consistency) = (vec![item; 20], check.consistency.clone());
    let batch = pb::BatchCheckMembershipRequest { items, consistency }.encode_to_vec();
    // One of them in the pipeline, because of its header.
    let token = scene.server.service_token("root", &[Scope::Operator]);
    let (path, batch_path) =
        (raw::path("CheckService/CheckMembership"), raw::path("CheckService/BatchCheckMembership"));
    let message = check.encode_to_vec();
    let named = Call::grpc(&path, &message).bearer(&token).with("grpc-timeout", "15S").with("x-request-id", "one");
    let question = pb::StreamChecksRequest {
        organization: scene.organization.clone(),
        user_id: "ada".to_owned(),
        consistency: check.consistency,
        ..Default::default()
    };
    let (question, stream_path) = (question.encode_to_vec(), raw::path("CheckService/StreamChecks"));
    let (fast, named, batch, stream) = tokio::join!(
        scene.call(&path, &message, "15S"),
        scene.server.send(named),
        scene.call(&batch_path, &batch, "15S"),
        scene.call(&stream_path, &question, "15S"),
    );
    for (what, answer) in [("the fast path", fast), ("the pipeline", named), ("a batch", batch)] {
        assert_names_the_datastore(what, &answer);
        assert!(answer.status().unwrap().message().contains("within 2000 ms"), "{what}: {answer:?}");
    }
    // In a stream it is the answer to the question.
    let outcome = pb::StreamChecksResponse::decode(stream.message()).unwrap().outcome.unwrap();
    let Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code, i32::from(Code::Unavailable), "{error:?}");
    assert!(error.message.contains("within 2000 ms"), "{error:?}");
}

/// Adds this user while a lock keeps the write waiting, and lets the proxy swallow everything before the write gets the
/// lock. `lock` and `unlock` are statements of one session.
async fn add_behind_lock(scene: &Scene, user: &str, lock: &str, unlock: &str) -> Answer {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'roster'";
    let mut session = scene.direct.pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(lock.to_owned())).execute(&mut *session).await.unwrap();
    let (path, message) = raw::add(&scene.organization, user, "");
    let swallowed = async {
        until("the write waits for the lock", async || scene.direct.count(WAITING).await > 0).await;
        scene.proxy.swallow_all();
        sqlx::raw_sql(AssertSqlSafe(unlock.to_owned())).execute(&mut *session).await.unwrap();
    };
    tokio::join!(scene.call(&path, &message, "3S"), swallowed).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_not_committed_when_postgres_hangs_is_never_committed() {
    let scene = Scene::new().await;
    let answer = add_behind_lock(&scene, "grace", "BEGIN; SELECT FROM organizations FOR UPDATE", "ROLLBACK").await;
    assert_names_the_datastore("a write", &answer);
    // What Postgres has sent in the time arrives at the server now.
    scene.proxy.resume();
    scene.server.until_serving().await;
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()";
    until("the transaction has ended", async || scene.direct.count(open).await == 0).await;
    assert_eq!(scene.direct.count("SELECT count(*) FROM memberships WHERE user_id = 'grace'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_commit_is_swallowed_has_an_unknown_outcome() {
    let scene = Scene::new().await;
    let trigger = "
        CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER wait_for_lock AFTER INSERT ON memberships DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.user_id = 'grace') EXECUTE FUNCTION wait_for_lock()";
    scene.run(trigger.to_owned()).await;
    let answer = add_behind_lock(&scene, "grace", "SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)").await;
    assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"), "{answer:?}");
    let message = answer.status().unwrap().message().to_owned();
    assert!(message.contains("is not known"), "{message}");
    // It did happen.
    let added = "SELECT count(*) FROM memberships WHERE user_id = 'grace'";
    until("the commit ends", async || scene.direct.count(added).await == 1).await;
}
