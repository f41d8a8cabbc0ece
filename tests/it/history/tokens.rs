//! Tokens and cursors that name positions which the log does not have: forged ones, and those of another history.

use super::{FROM_MEMORY, FROM_PRIMARY, RawEntry, RawToken, assert_behind, at_least, caught_up, check, export, watch};
use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused, is_member, remove};
use crate::replica::until;
use proptest::test_runner::{Config, TestRunner};
use roster::domain::{BucketPosition, LogMark, OrganizationId};
use roster::grpc::pb;
use roster::replica::consistency_token::ConsistencyToken;
use roster::store::log::tail;
use sqlx::{Connection, PgConnection};
use tonic::Code;
use tonic::codegen::tokio_stream;

const EPOCH: &str = "SELECT epoch::bigint FROM datastore";

/// A server with the organization Acme and its member grace, and the token of her addition. The replica has both.
async fn acme() -> (Server, Clients, String, String) {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    let token = operator.add(&acme, "grace", "member").await;
    caught_up(&server).await;
    assert_eq!(check(&operator, &acme, "grace", &token).await.unwrap(), FROM_MEMORY);
    (server, operator, acme, token)
}

fn bucket(organization: &str) -> i16 {
    OrganizationId::from_uuid(organization.parse().unwrap()).bucket()
}

/// Adds this many rows to the log of a bucket, each a millisecond after the one before, and moves its head.
async fn grow(server: &Server, bucket: i16, rows: i32) {
    let statement = "WITH head AS (
            UPDATE log_heads SET position = position + $2, write_time = write_time + $2 * interval '1 millisecond'
            WHERE bucket = $1 RETURNING position, write_time
        )
        INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, write_time)
        SELECT $1, position - $2 + n, position - $2 + n, gen_random_uuid(), 1, 'account', 'MEMBERSHIP', 'nobody',
               write_time - ($2 - n) * interval '1 millisecond'
        FROM head, generate_series(1, $2) AS n";
    sqlx::query(statement).bind(bucket).bind(rows).execute(&server.database.pool).await.unwrap();
    caught_up(server).await;
}

#[tokio::test]
async fn a_token_beyond_the_head_is_unavailable_until_the_epoch_is_raised() {
    let (server, operator, acme, token) = acme().await;
    for ahead in [1, 1_000_000, i64::MAX / 2] {
        let forged = RawToken::of(&token).with(|RawEntry(_, position, _)| *position += ahead).text();
        // The organization by id, by slug and by a slug that does not exist.
        for organization in [acme.as_str(), "acme", "no-such-slug"] {
            assert_behind(check(&operator, organization, "grace", &forged).await);
        }
        let items =
            vec![pb::CheckItem { organization: acme.clone(), user_id: "grace".to_owned(), ..Default::default() }];
        let batch = pb::BatchCheckMembershipRequest { items, consistency: Some(at_least(&forged)) };
        let answer = operator.checks.clone().batch_check_membership(batch).await;
        assert_refused(answer, Code::Unavailable, "DATASTORE_UNAVAILABLE");
        let question = pb::StreamChecksRequest {
            organization: acme.clone(),
            user_id: "grace".to_owned(),
            consistency: Some(at_least(&forged)),
            ..Default::default()
        };
        let mut answers =
            operator.checks.clone().stream_checks(tokio_stream::once(question)).await.unwrap().into_inner();
        let outcome = answers.message().await.unwrap().unwrap().outcome.unwrap();
        let pb::stream_checks_response::Outcome::Error(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code, i32::from(Code::Unavailable));
    }
    assert_eq!(server.database.count(EPOCH).await, 1);
    let forged = RawToken::of(&token).with(|RawEntry(_, position, _)| *position += 1).text();
    let mut connection = PgConnection::connect(&server.database.url).await.unwrap();
    tail::begin_epoch(&mut connection, 1).await.unwrap();
    let known = || server.roster.replica().datastore_now().map(|datastore| datastore.epoch);
    until("the server knows the epoch", async || known() == Some(2)).await;
    assert_eq!(check(&operator, &acme, "grace", &forged).await.unwrap(), FROM_PRIMARY);
}

#[tokio::test]
async fn a_token_of_another_row_is_not_believed_whether_memory_or_the_primary_compares() {
    let (server, operator, acme, token) = acme().await;
    let other = RawToken::of(&token).with_other_marks().text();
    // At the head.
    assert_behind(check(&operator, &acme, "grace", &other).await);
    assert_behind(check(&operator, "no-such-slug", "grace", &other).await);
    let another = server.user("ada").create("Another").await;
    assert_behind(check(&operator, &another, "ada", &other).await);
    // Behind the head, with the marks in memory.
    grow(&server, bucket(&acme), 5).await;
    assert_eq!(check(&operator, &acme, "grace", &token).await.unwrap(), FROM_MEMORY);
    assert_behind(check(&operator, &acme, "grace", &other).await);
    // Behind the marks in memory: the primary compares.
    grow(&server, bucket(&acme), 5_000).await;
    assert_eq!(check(&operator, &acme, "grace", &token).await.unwrap(), FROM_PRIMARY);
    assert_behind(check(&operator, &acme, "grace", &other).await);
    assert_behind(check(&operator, "acme", "grace", &other).await);
    // No longer in the log: the token counts as `fully_consistent`.
    let dropped = "DELETE FROM log WHERE bucket = $1 AND position < 100";
    sqlx::query(dropped).bind(bucket(&acme)).execute(&server.database.pool).await.unwrap();
    assert_eq!(check(&operator, &acme, "grace", &token).await.unwrap(), FROM_PRIMARY);
    assert_eq!(check(&operator, &acme, "grace", &other).await.unwrap(), FROM_PRIMARY);
    assert_eq!(server.database.count(EPOCH).await, 1);
    assert_eq!(server.roster.replica().statistics().lost, 0);
}

#[tokio::test]
async fn a_token_at_the_head_of_a_log_whose_rows_were_dropped_is_compared_with_the_head() {
    let (server, operator, acme, token) = acme().await;
    sqlx::query("DELETE FROM log").execute(&server.database.pool).await.unwrap();
    let fresh = Server::over(server.database.clone(), roster::server::ServerSettings::default()).await;
    caught_up(&fresh).await;
    for clients in [&operator, &fresh.operator()] {
        assert_eq!(check(clients, &acme, "grace", &token).await.unwrap(), FROM_MEMORY);
        assert_behind(check(clients, &acme, "grace", &RawToken::of(&token).with_other_marks().text()).await);
    }
}

#[tokio::test]
async fn a_token_of_a_later_epoch_is_not_believed_and_one_of_another_datastore_is_fully_consistent() {
    let (server, operator, acme, token) = acme().await;
    let token = RawToken::of(&token);
    for epoch in [2, i32::MAX] {
        assert_behind(check(&operator, &acme, "grace", &RawToken { epoch, ..token.clone() }.text()).await);
    }
    for epoch in [0, -1, i32::MIN] {
        let earlier = RawToken { epoch, ..token.clone() };
        assert_eq!(check(&operator, &acme, "grace", &earlier.text()).await.unwrap(), FROM_PRIMARY);
    }
    let foreign = RawToken { datastore: [7; 8], epoch: 9, ..token }.with_other_marks();
    assert_eq!(check(&operator, &acme, "grace", &foreign.text()).await.unwrap(), FROM_PRIMARY);
    assert_eq!(server.database.count(EPOCH).await, 1);
}

#[tokio::test]
async fn cursors_beyond_the_head_and_of_another_row_expire_and_those_of_a_present_row_go_on() {
    let (server, operator, acme, _) = acme().await;
    let cursor = RawToken::of(&export(&operator).await);
    let in_bucket = |change: fn(&mut RawEntry)| {
        let bucket = u16::try_from(bucket(&acme)).unwrap();
        cursor
            .clone()
            .with(|entry| {
                if entry.0 == bucket {
                    change(entry);
                }
            })
            .text()
    };
    let ahead = in_bucket(|RawEntry(_, position, _)| *position += 1);
    let other = in_bucket(|RawEntry(_, _, mark)| *mark ^= 0x8000_0000);
    let start = in_bucket(|entry| (entry.1, entry.2) = (0, 0));
    let expired = async |cursor: &str| {
        assert_refused(watch(&operator, cursor).await, Code::OutOfRange, "CURSOR_EXPIRED");
    };
    for rows in [0, 3, 5_000] {
        grow(&server, bucket(&acme), rows).await;
        expired(&ahead).await;
        expired(&other).await;
        assert!(watch(&operator, &cursor.text()).await.is_ok());
        assert!(!watch(&operator, &start).await.unwrap().changes.is_empty());
    }
    // The row after the cursor is there, and the row that the cursor names is not.
    let drop = "DELETE FROM log WHERE bucket = $1 AND position <= 2";
    sqlx::query(drop).bind(bucket(&acme)).execute(&server.database.pool).await.unwrap();
    expired(&start).await;
    assert!(watch(&operator, &cursor.text()).await.is_ok());
    let drop = "DELETE FROM log WHERE bucket = $1 AND position <= 3";
    sqlx::query(drop).bind(bucket(&acme)).execute(&server.database.pool).await.unwrap();
    let head = "SELECT position::bigint FROM log_heads WHERE bucket = 0 OR position > 4 ORDER BY position DESC LIMIT 1";
    assert!(server.database.count(head).await > 5_000);
    expired(&cursor.text()).await;
    assert_eq!(server.database.count(EPOCH).await, 1);
}

/// A feed that has read part of the log ends if the log becomes another one below it.
#[tokio::test]
async fn a_feed_does_not_go_over_into_another_history() {
    let (server, mut operator, acme, _) = acme().await;
    let cursor = ConsistencyToken::decode(&export(&operator).await).unwrap();
    operator.add(&acme, "alan", "member").await;
    operator.organizations.remove_member(remove(&acme, "alan")).await.unwrap();
    let replace =
        "UPDATE log SET write_time = write_time + interval '1 microsecond' WHERE bucket = $1 AND position = $2";
    let at = cursor.positions().find(|at| at.bucket == bucket(&acme)).unwrap();
    for change in [false, true] {
        let mut feed = server.roster.follow(Some(&cursor), std::iter::once(at.bucket)).await.unwrap();
        assert!(feed.is_behind());
        if change {
            sqlx::query(replace).bind(at.bucket).bind(at.position).execute(&server.database.pool).await.unwrap();
            assert!(feed.catch_up().await.unwrap_err().to_string().contains("export"));
        } else {
            assert_eq!(feed.catch_up().await.unwrap().unwrap().len(), 2);
        }
    }
}

#[tokio::test]
async fn an_own_acknowledged_write_with_another_row_begins_a_new_epoch() {
    let (server, _, acme, token) = acme().await;
    let token = ConsistencyToken::decode(&token).unwrap();
    let at = token.positions().find(|at| at.bucket == bucket(&acme)).unwrap();
    let record = |position, bits| {
        let mut forged = server.roster.replica().token(server.roster.replica().datastore_now().unwrap());
        forged.cover(BucketPosition { position, mark: LogMark::from_bits(bits), ..at });
        server.roster.replica().record_commit(&forged);
    };
    grow_once(&server, at.bucket).await;
    caught_up(&server).await;
    record(at.position, at.mark.bits());
    caught_up(&server).await;
    assert_eq!(server.roster.replica().statistics().lost, 0);
    record(at.position + 1, 1);
    until("the server notices the loss", async || server.roster.replica().statistics().lost == 1).await;
    let known = || server.roster.replica().datastore_now().map(|datastore| datastore.epoch);
    until("the epoch is raised", async || known() == Some(2)).await;
    caught_up(&server).await;
    assert_eq!(server.database.count(EPOCH).await, 2);
    assert_eq!(server.roster.replica().statistics().lost, 1);
}

#[tokio::test]
async fn an_answer_without_an_own_acknowledged_write_is_unavailable() {
    let (server, operator, acme, token) = acme().await;
    let other = loop {
        let other = server.user("ada").create("Other").await;
        if bucket(&other) != bucket(&acme) {
            break other;
        }
    };
    caught_up(&server).await;
    let decoded = ConsistencyToken::decode(&token).unwrap();
    let at = decoded.positions().find(|at| at.bucket == bucket(&acme)).unwrap();
    // No poll finds that the write is missing.
    let mut blocker = PgConnection::connect(&server.database.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    let mut forged = server.roster.replica().token(server.roster.replica().datastore_now().unwrap());
    forged.cover(BucketPosition { position: at.position + 1, ..at });
    server.roster.replica().record_commit(&forged);
    let full = Some(pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) });
    for consistency in [None, full, Some(at_least(&token))] {
        for organization in [acme.as_str(), "acme"] {
            let consistency = consistency.clone();
            let request = pb::CheckMembershipRequest { consistency, ..is_member(organization, "grace") };
            let answer = operator.checks.clone().check_membership(request).await;
            assert_refused(answer, Code::Unavailable, "DATASTORE_UNAVAILABLE");
        }
    }
    assert!(operator.clone().is_member(&other, "ada").await, "a bucket without the write");
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    until("the server notices the loss", async || server.roster.replica().statistics().lost == 1).await;
    caught_up(&server).await;
    assert!(operator.clone().is_member(&acme, "grace").await);
}

/// As from a standby that lags behind.
#[tokio::test]
async fn an_answer_that_is_older_than_the_replica_is_unavailable() {
    let (server, operator, acme, _) = acme().await;
    let mut blocker = PgConnection::connect(&server.database.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE user_log IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    let full = Some(pb::Consistency { requirement: Some(pb::consistency::Requirement::FullyConsistent(true)) });
    for (change, is_refused) in [(-1, true), (1, false)] {
        let statement = "UPDATE log_heads SET position = position + $2 WHERE bucket = $1";
        sqlx::query(statement).bind(bucket(&acme)).bind(change).execute(&server.database.pool).await.unwrap();
        let request = pb::CheckMembershipRequest { consistency: full.clone(), ..is_member(&acme, "grace") };
        let answer = operator.checks.clone().check_membership(request).await;
        if is_refused {
            assert_refused(answer, Code::Unavailable, "DATASTORE_UNAVAILABLE");
        } else {
            assert!(answer.unwrap().into_inner().result.unwrap().allowed);
        }
    }
    sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
    caught_up(&server).await;
    assert_eq!(server.roster.replica().statistics().lost, 0);
}

/// Adds a row to the log of a bucket.
async fn grow_once(server: &Server, bucket: i16) {
    let mut connection = PgConnection::connect(&server.database.url).await.unwrap();
    let statement = "WITH head AS (
            UPDATE log_heads SET position = position + 1, write_time = clock_timestamp() WHERE bucket = $1
            RETURNING position, write_time
        )
        INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, write_time)
        SELECT $1, position, position, gen_random_uuid(), 1, 'account', 'MEMBERSHIP', 'nobody', write_time FROM head";
    sqlx::query(statement).bind(bucket).execute(&mut connection).await.unwrap();
}

/// Whatever a caller sends: no wrong mark is believed, and the epoch stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_and_cursors_are_not_believed_and_never_raise_the_epoch() {
    use proptest::prelude::*;
    let (server, operator, acme, token) = acme().await;
    grow(&server, bucket(&acme), 200).await;
    let own = RawToken::of(&token);
    let cursor = RawToken::of(&export(&operator).await);
    let acme_bucket = u16::try_from(bucket(&acme)).unwrap();
    let head = server.roster.replica().positions()[&bucket(&acme)];
    assert!(head > 200);
    let runtime = tokio::runtime::Handle::current();
    let position = prop_oneof![1..=head, Just(head + 1), any::<i64>().prop_map(|position| position.max(1))];
    let check_all = tokio::task::spawn_blocking({
        let (operator, acme) = (operator.clone(), acme.clone());
        move || {
            let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
            runner
                .run(&(position, any::<u32>(), 1..=2_u8), |(position, mark, form)| {
                    let entries = vec![RawEntry(acme_bucket, position, mark)];
                    let forged = RawToken { form, entries, ..own.clone() };
                    let answer = runtime.block_on(check(&operator, &acme, "grace", &forged.text()));
                    if form == 2 || position > head {
                        // The right mark is guessed with a probability of 2^-32.
                        assert_behind(answer);
                    } else {
                        prop_assert_eq!(answer.unwrap(), FROM_PRIMARY);
                    }
                    let forged = cursor.clone().with(|entry| {
                        if entry.0 == acme_bucket {
                            (entry.1, entry.2) = (position, mark);
                        }
                    });
                    let refused = runtime.block_on(watch(&operator, &forged.text()));
                    assert_refused(refused, Code::OutOfRange, "CURSOR_EXPIRED");
                    Ok(())
                })
                .unwrap();
        }
    });
    check_all.await.unwrap();
    caught_up(&server).await;
    assert_eq!(server.database.count(EPOCH).await, 1);
    assert_eq!(server.roster.replica().statistics().lost, 0);
    let answer = operator.checks.clone().check_membership(is_member(&acme, "grace")).await.unwrap().into_inner();
    assert!(answer.result.unwrap().allowed);
}
