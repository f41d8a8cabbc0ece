//! The daily partitions of the change log: created ahead, dropped after the retention time, and the locks that this takes.

use crate::harness::{Database, Server};
use roster::server::ServerSettings;
use roster::service::housekeeping::TidyReport;
use roster::store::log::partitions::{self, PartitionedTable};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Attempts at an operation that gives up while another connection reads the log, as the servers' followers do.
const ROUNDS: usize = 10;

/// Runs housekeeping until the sum of its reports satisfies the condition, and returns the sum.
async fn tidy_until(server: &Server, done: impl Fn(&TidyReport) -> bool) -> TidyReport {
    let mut all = TidyReport::default();
    for _ in 0..ROUNDS {
        let report = server.roster.tidy().await.unwrap();
        all.log_days += report.log_days;
        all.log_rows += report.log_rows;
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

/// Makes every entry of the logs ten days older, with the partitions of those days.
async fn age(database: &Database) {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let now = partitions::now(&mut connection).await.unwrap();
    for log in PartitionedTable::ALL {
        for days in [9, 10, 11] {
            let day = (now - Duration::from_hours(24 * days)).date();
            let mut is_made = false;
            for _ in 0..ROUNDS {
                is_made = is_made || partitions::make(&mut connection, log, day).await.unwrap();
            }
            assert!(is_made, "{log:?} of {day}");
        }
    }
    for log in ["log", "user_log"] {
        let shift = "write_time = write_time - interval '10 days'";
        run(database, &format!("UPDATE {log} SET {shift}; UPDATE {log}_heads SET {shift}")).await;
    }
}

/// Deactivates and reactivates a user, so that the users' log has entries too.
async fn toggle(server: &Server, user: &str) {
    use roster::grpc::pb;
    let mut operator = server.operator();
    let user_id = user.to_owned();
    let off = pb::DeactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
    operator.users.deactivate_user(off).await.unwrap();
    let on = pb::ReactivateUserRequest { user_id, ..Default::default() };
    operator.users.reactivate_user(on).await.unwrap();
}

#[tokio::test]
async fn old_partitions_are_dropped_once_by_concurrent_servers_and_a_late_follower_sees_a_gap() {
    let server = Server::start().await;
    let other = Server::over(server.database.clone(), ServerSettings::default()).await;
    let database = &server.database;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    toggle(&server, "grace").await;
    let recent = partitions_of(database).await;
    age(database).await;
    assert_eq!(partitions_of(database).await.len(), recent.len() + 6);
    // A follower has read the log up to position 2 and stops.
    let cursor = "SELECT count(*) FROM log WHERE position = 2 AND write_time < now() - interval '9 days'";
    assert_eq!(database.count(cursor).await, 1);

    let is_over = AtomicBool::new(false);
    let writes = async {
        let mut written = 0;
        // At least one write after the last round.
        while !is_over.load(Ordering::Relaxed) || written == 0 {
            written += 1;
            ada.add(&acme, &format!("member-{written}"), "member").await;
        }
        written
    };
    let rounds = async {
        let all = (0..4).flat_map(|_| [server.roster.tidy(), other.roster.tidy()]);
        let reports = futures_util::future::join_all(all).await;
        is_over.store(true, Ordering::Relaxed);
        reports.into_iter().map(|report| report.unwrap().log_days).sum::<u64>()
    };
    let (written, mut dropped) = tokio::join!(writes, rounds);
    // A round that could not get the lock because of a writer leaves the rest to the next round.
    dropped += tidy_until(&server, |all| all.log_days + dropped == 6).await.log_days;
    assert_eq!(dropped, 6);
    assert_eq!(partitions_of(database).await, recent);
    let new = database.count("SELECT count(*) FROM log").await;
    assert_eq!(new, written);
    // The entry after the cursor is missing although the head is beyond it: the follower detects a gap.
    let after_cursor =
        "SELECT count(*) FROM log l JOIN log_heads h USING (bucket) WHERE h.position > 2 AND l.position = 3";
    assert_eq!(database.count(after_cursor).await, 0);
    let head = "SELECT count(*) FROM log_heads WHERE position > 3";
    assert_eq!(database.count(head).await, 1);
}

#[tokio::test]
async fn a_long_read_delays_the_drop_of_a_partition_but_no_write() {
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
        // The users' log has no such reader.
        let report = tidy_until(&server, |all| all.log_days == 3).await;
        assert_eq!(report, TidyReport { log_days: 3, ..TidyReport::default() });
    };
    let write = ada.add(&acme, "grace", "member");
    tokio::join!(tidy, write);
    assert_eq!(partitions_of(database).await.len(), all.len() - 3);
    // Another attempt drops nothing either.
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
    reading.commit().await.unwrap();
    assert_eq!(tidy_until(&server, |all| all.log_days == 3).await, TidyReport { log_days: 3, ..TidyReport::default() });
}

#[tokio::test]
async fn without_daily_partitions_the_default_partition_takes_entries_and_is_pruned_by_time() {
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
    toggle(&server, "grace").await;
    let counts = "SELECT (SELECT count(*) FROM log_default) * 10 + (SELECT count(*) FROM user_log_default)";
    assert_eq!(database.count(counts).await, 32);

    // The default partition keeps the day whose entries it already has; the other days get partitions.
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
    // Once the default partition has no entry of that day, the day gets its partition.
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
async fn a_log_of_many_days_is_read_by_key_and_with_a_known_time_from_one_partition() {
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
    // The pages that a poll touches, and the partitions that it scans. The first execution in a connection, and one after
    // an invalidation of its caches, also reads the catalogue: of several in one connection, the smallest number counts.
    let mut connection = database.pool.acquire().await.unwrap();
    let mut poll = async |since: &str| -> (usize, usize) {
        let query = format!(
            "EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off, SUMMARY off) SELECT * FROM log
             WHERE bucket = 7 AND position > 90 {since} ORDER BY position LIMIT 100"
        );
        let number =
            |word: &str| word.strip_prefix("hit=").or(word.strip_prefix("read=")).map(|n| n.parse::<usize>().unwrap());
        let pages = |line: &String| line.contains("Buffers: shared").then(|| line.split(' ').filter_map(number).sum());
        let mut fewest = (usize::MAX, 0);
        for _ in 0..5 {
            let plan: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(query.as_str())).fetch_all(&mut *connection).await.unwrap();
            let scans = plan.iter().filter(|line| line.contains(" on log_") && !line.contains("Bitmap Index"));
            fewest = fewest.min((plan.iter().find_map(pages).unwrap(), scans.count()));
        }
        fewest
    };
    let (pages, partitions) = poll("").await;
    let all = database.count(
        "SELECT sum(pg_relation_size(inhrelid))::bigint / 8192 FROM pg_inherits WHERE inhparent = 'log'::regclass",
    );
    let all = usize::try_from(all.await).unwrap();
    assert!(partitions >= 7 && pages <= 5 * partitions && pages * 5 < all, "{pages} of {all} pages");
    // A follower that knows the write time of its last entry reads only the days since then.
    let (fewer, recent) = poll("AND write_time > now() - interval '1 minute'").await;
    assert!(recent < partitions && fewer < pages, "{fewer} pages in {recent} partitions");
}

#[tokio::test]
async fn the_migration_to_partitions_keeps_entries_kinds_and_heads() {
    let database = Database::empty().await;
    run(&database, include_str!("../../migrations/0001_storage.sql")).await;
    run(&database, include_str!("../../migrations/0002_invitations.sql")).await;
    let (acme, purged) = ("07000000-0000-4000-8000-000000000000", "07000000-0000-4000-8000-000000000001");
    run(
        &database,
        &format!(
            "INSERT INTO organizations (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator, revision,
                                        row_revision, create_time, update_time)
             VALUES (7, '{acme}', 'acme', 'Acme', 'vendor', '{{}}', 'PENDING', false, 1, 1, now(), now());
             INSERT INTO log (bucket, position, commit_position, organization_id, revision, entry, state, slug, write_time)
             VALUES (7, 1, 1, '{purged}', 9, 'ORGANIZATION', 'PURGED', 'gone', '2026-01-02T03:04:05Z'),
                    (7, 2, 2, '{acme}', 1, 'ORGANIZATION', 'PENDING', 'acme', '2026-01-02T03:04:06Z');
             UPDATE log_heads SET position = 2 WHERE bucket = 7;
             INSERT INTO user_log VALUES (3, 1, 'ada', 2, 'INACTIVE', '2026-01-02T03:04:07Z');
             UPDATE user_log_heads SET position = 1 WHERE user_bucket = 3"
        ),
    )
    .await;
    run(&database, include_str!("../../migrations/0003_log_partitions.sql")).await;
    let entries: Vec<(i64, String, String)> = sqlx::query_as("SELECT position, kind, slug FROM log ORDER BY position")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    let entry = |position, kind: &str, slug: &str| (position, kind.to_owned(), slug.to_owned());
    assert_eq!(entries, [entry(1, "organization", "gone"), entry(2, "vendor", "acme")]);
    let heads = "SELECT
        (SELECT count(*) FROM log_heads h JOIN log l USING (bucket, position, write_time) WHERE position = 2)
        + (SELECT count(*) FROM user_log_heads h JOIN user_log l USING (user_bucket, position, write_time))
        + (SELECT count(*) FROM log_heads WHERE write_time = 'epoch')
        + (SELECT count(*) FROM user_log_heads WHERE write_time = 'epoch')";
    assert_eq!(database.count(heads).await, 1 + 1 + 255 + 31);
}
