//! The change log in days: what is made ahead, what is dropped, and who is in whose way.

use crate::harness::{Database, Server};
use roster::server::ServerSettings;
use roster::service::housekeeping::TidyReport;
use roster::store::log::partitions::{self, PartitionedTable};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often something is tried that gives way to whoever reads the log just then, as the servers themselves do.
const ROUNDS: usize = 10;

/// Tidies until so much was done in all, and tells what was.
async fn tidy_until(server: &Server, done: impl Fn(&TidyReport) -> bool) -> TidyReport {
    let mut all = TidyReport::default();
    for _ in 0..ROUNDS {
        let tidied = server.roster.tidy().await.unwrap();
        all.log_days += tidied.log_days;
        all.log_rows += tidied.log_rows;
        if done(&all) {
            break;
        }
    }
    all
}

/// The partitions of both logs, by name.
async fn partitions_of(database: &Database) -> Vec<String> {
    let names = "SELECT inhrelid::regclass::text FROM pg_inherits
        WHERE inhparent IN ('log'::regclass, 'user_log'::regclass) ORDER BY 1";
    sqlx::query_scalar(names).fetch_all(&database.pool).await.unwrap()
}

async fn run(database: &Database, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&database.pool).await.unwrap();
}

/// Makes everything in the logs ten days older than it is, with the days of that time.
async fn age(database: &Database) {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let now = partitions::now(&mut connection).await.unwrap();
    for log in PartitionedTable::ALL {
        for days in [9, 10, 11] {
            let day = (now - Duration::from_hours(24 * days)).date();
            let mut made = false;
            for _ in 0..ROUNDS {
                made = made || partitions::make(&mut connection, log, day).await.unwrap();
            }
            assert!(made, "{log:?} of {day}");
        }
    }
    for log in ["log", "user_log"] {
        let back = "write_time = write_time - interval '10 days'";
        run(database, &format!("UPDATE {log} SET {back}; UPDATE {log}_heads SET {back}")).await;
    }
}

/// Switches a user off and on, so that the users' log has lines too.
async fn switch(server: &Server, user: &str) {
    use roster::grpc::pb;
    let mut operator = server.operator();
    let user_id = user.to_owned();
    let off = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
    operator.users.deactivate_user(off).await.unwrap();
    let on = pb::ReactivateUserRequest { user_id, ..Default::default() };
    operator.users.reactivate_user(on).await.unwrap();
}

#[tokio::test]
async fn old_days_are_dropped_once_by_however_many_while_writes_go_on_and_who_was_away_sees_a_hole() {
    let server = Server::start().await;
    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    let database = &server.database;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    switch(&server, "grace").await;
    let kept = partitions_of(database).await;
    age(database).await;
    assert_eq!(partitions_of(database).await.len(), kept.len() + 6);
    // Somebody has followed the log so far, and goes away.
    let cursor = "SELECT count(*) FROM log WHERE position = 2 AND write_time < now() - interval '9 days'";
    assert_eq!(database.count(cursor).await, 1);

    let over = AtomicBool::new(false);
    let writes = async {
        let mut written = 0;
        // At least one after the last round.
        while !over.load(Ordering::Relaxed) || written == 0 {
            written += 1;
            ada.add(&acme, &format!("member-{written}"), "member").await;
        }
        written
    };
    let rounds = async {
        let all = (0..4).flat_map(|_| [server.roster.tidy(), other.roster.tidy()]);
        let done = futures_util::future::join_all(all).await;
        over.store(true, Ordering::Relaxed);
        done.into_iter().map(|round| round.unwrap().log_days).sum::<u64>()
    };
    let (written, mut dropped) = tokio::join!(writes, rounds);
    // A round that found a writer in its way has left the rest to the next one.
    dropped += tidy_until(&server, |all| all.log_days + dropped == 6).await.log_days;
    assert_eq!(dropped, 6);
    assert_eq!(partitions_of(database).await, kept);
    let new = database.count("SELECT count(*) FROM log").await;
    assert_eq!(new, written);
    // The line behind the cursor is not there, although the head says that there are more: no silence, but a hole.
    let behind = "SELECT count(*) FROM log l JOIN log_heads h USING (bucket) WHERE h.position > 2 AND l.position = 3";
    assert_eq!(database.count(behind).await, 0);
    let head = "SELECT count(*) FROM log_heads WHERE position > 3";
    assert_eq!(database.count(head).await, 1);
}

#[tokio::test]
async fn a_long_reader_keeps_a_day_from_being_dropped_and_nobody_from_writing() {
    let server = Server::start().await;
    let database = &server.database;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    age(database).await;
    let all = partitions_of(database).await;
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM log").fetch_one(&mut *reading).await.unwrap();
    let tidy = async {
        // Nobody reads the users' log for long.
        let tidied = tidy_until(&server, |all| all.log_days == 3).await;
        assert_eq!(tidied, TidyReport { log_days: 3, ..TidyReport::default() });
    };
    let write = ada.add(&acme, "grace", "member");
    tokio::join!(tidy, write);
    assert_eq!(partitions_of(database).await.len(), all.len() - 3);
    // However often it is tried.
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
    reading.commit().await.unwrap();
    assert_eq!(tidy_until(&server, |all| all.log_days == 3).await, TidyReport { log_days: 3, ..TidyReport::default() });
}

#[tokio::test]
async fn without_a_day_the_default_takes_what_is_written_and_is_emptied_by_time() {
    let server = Server::start().await;
    let database = &server.database;
    let mut days = partitions_of(database).await;
    days.retain(|name| !name.ends_with("_default"));
    assert_eq!(days.len(), 6);
    for day in &days {
        run(database, &format!("DROP TABLE {day}")).await;
    }
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    switch(&server, "grace").await;
    let counts = "SELECT (SELECT count(*) FROM log_default) * 10 + (SELECT count(*) FROM user_log_default)";
    assert_eq!(database.count(counts).await, 32);

    // The day that the default has begun stays its own; the other days are made.
    let mut made = Vec::new();
    for _ in 0..ROUNDS {
        assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
        made = partitions_of(database).await;
    }
    assert_eq!(made.len(), 2 + 4, "{made:?}");
    ada.add(&acme, "alan", "member").await;
    assert_eq!(database.count(counts).await, 42);
    database.assert_invariants().await;

    run(
        database,
        "UPDATE log SET write_time = write_time - interval '8 days' WHERE position < 3;
         UPDATE user_log SET write_time = write_time - interval '8 days'",
    )
    .await;
    let rounds = futures_util::future::join_all((0..4).map(|_| server.roster.tidy())).await;
    assert_eq!(rounds.into_iter().map(|round| round.unwrap().log_rows).sum::<u64>(), 4);
    assert_eq!(database.count(counts).await, 20);
    // And when the default has nothing of it any more, the day gets its partition.
    run(database, "DELETE FROM log_default").await;
    let mut again = Vec::new();
    for _ in 0..ROUNDS {
        assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
        again = partitions_of(database).await;
    }
    again.retain(|name| !name.ends_with("_default"));
    assert_eq!(again, days);
}

#[tokio::test]
async fn a_log_of_many_days_is_read_by_its_keys_and_from_a_known_time_in_one_day() {
    let database = Database::new().await;
    age(&database).await;
    run(
        &database,
        "INSERT INTO log (bucket, position, commit_position, organization_id, revision, kind, entry, user_id, write_time)
         SELECT n % 256, n / 256 + 1, n / 256 + 1, gen_random_uuid(), 1, 'account', 'MEMBERSHIP', 'ada',
                now() - interval '10 days' + n * interval '36 seconds'
         FROM generate_series(0, 25000) AS n;
         ANALYZE log",
    )
    .await;
    // The pages that a poll touches, and the partitions that it looks into.
    let poll = async |since: &str| -> (usize, usize) {
        let query = format!(
            "EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off, SUMMARY off) SELECT * FROM log
             WHERE bucket = 7 AND position > 90 {since} ORDER BY position LIMIT 100"
        );
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&database.pool).await.unwrap();
        let pages = |line: &String| line.split_once("Buffers: shared hit=").map(|(_, number)| number.parse().unwrap());
        let scans = plan.iter().filter(|line| line.contains(" on log_") && !line.contains("Bitmap Index"));
        (plan.iter().find_map(pages).unwrap_or(0), scans.count())
    };
    // Once for the catalogue.
    poll("").await;
    let (pages, partitions) = poll("").await;
    let all = database.count(
        "SELECT sum(pg_relation_size(inhrelid))::bigint / 8192 FROM pg_inherits WHERE inhparent = 'log'::regclass",
    );
    let all = usize::try_from(all.await).unwrap();
    assert!(partitions >= 7 && pages <= 5 * partitions && pages * 5 < all, "{pages} of {all} pages");
    // Whoever knows when the last line that they have was written asks only the days since then.
    let (fewer, recent) = poll("AND write_time > now() - interval '1 minute'").await;
    assert!(recent < partitions && fewer < pages, "{fewer} pages in {recent} partitions");
}

#[tokio::test]
async fn a_log_of_before_is_carried_over_with_its_kinds_and_heads() {
    let database = Database::empty().await;
    run(&database, include_str!("../../migrations/0001_storage.sql")).await;
    run(&database, include_str!("../../migrations/0002_invitations.sql")).await;
    let (acme, gone) = ("07000000-0000-4000-8000-000000000000", "07000000-0000-4000-8000-000000000001");
    run(
        &database,
        &format!(
            "INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, revision,
                                        row_revision, create_time, update_time)
             VALUES (7, '{acme}', 'acme', 'Acme', 'vendor', '{{}}', 'PENDING', false, 1, 1, now(), now());
             INSERT INTO log (bucket, position, commit_position, organization_id, revision, entry, state, slug, write_time)
             VALUES (7, 1, 1, '{gone}', 9, 'ORGANIZATION', 'PURGED', 'gone', '2026-01-02T03:04:05Z'),
                    (7, 2, 2, '{acme}', 1, 'ORGANIZATION', 'PENDING', 'acme', '2026-01-02T03:04:06Z');
             UPDATE log_heads SET position = 2 WHERE bucket = 7;
             INSERT INTO user_log VALUES (3, 1, 'ada', 2, 'INACTIVE', '2026-01-02T03:04:07Z');
             UPDATE user_log_heads SET position = 1 WHERE user_bucket = 3"
        ),
    )
    .await;
    run(&database, include_str!("../../migrations/0003_log_partitions.sql")).await;
    let lines: Vec<(i64, String, String)> = sqlx::query_as("SELECT position, kind, slug FROM log ORDER BY position")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    let line = |position, kind: &str, slug: &str| (position, kind.to_owned(), slug.to_owned());
    assert_eq!(lines, [line(1, "organization", "gone"), line(2, "vendor", "acme")]);
    let heads = "SELECT
        (SELECT count(*) FROM log_heads h JOIN log l USING (bucket, position, write_time) WHERE position = 2)
        + (SELECT count(*) FROM user_log_heads h JOIN user_log l USING (user_bucket, position, write_time))
        + (SELECT count(*) FROM log_heads WHERE write_time = 'epoch')
        + (SELECT count(*) FROM user_log_heads WHERE write_time = 'epoch')";
    assert_eq!(database.count(heads).await, 1 + 1 + 255 + 31);
}
