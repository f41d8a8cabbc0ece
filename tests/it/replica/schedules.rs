//! Schedules that break naive change logs. In each, transactions change memberships and append to roster's log and to a
//! naive log: a table with a sequence, a time and a transaction id, and one follower with a cursor over each. The tests
//! assert that the naive followers lose changes, apply them in the wrong order or stop, and that roster's replica is
//! correct within [`CATCH_UP_TIMEOUT`].

use super::tables;
use crate::harness::{Database, Server, organization};
use roster::domain::change::{ChangeDetail, LogEntry};
use roster::domain::{Kind, OrganizationId, OrganizationRef, Role, UserId};
use roster::grpc::pb;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::server::ServerSettings;
use roster::service::Freshness;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::{log, migrations};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time in which roster's replica must be correct, whatever transactions are open: far longer than it takes.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// The role of each user in each organization.
type Roles = BTreeMap<(Uuid, String), String>;

/// A server with a separate Postgres cluster, organizations in different buckets, and a naive log.
struct Setup {
    cluster: Cluster,
    server: Server,
    organizations: Vec<OrganizationId>,
}

impl Setup {
    async fn new() -> Self {
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::temporary().with("max_prepared_transactions", "4");
        let cluster = Cluster::start(&binaries, options).await.unwrap_or_else(|error| panic!("{error}"));
        for name in ["roster", "other"] {
            cluster.create_database(name).await.unwrap();
        }
        let url = cluster.url("roster");
        migrations::migrate(&DatastoreUrl::parse(&url).unwrap()).await.unwrap();
        let server = Server::over(Database::at(url), ServerSettings::default()).await;
        let naive = "CREATE TABLE naive (
            number bigserial, time timestamptz NOT NULL DEFAULT now(), xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            organization_id uuid NOT NULL, user_id text NOT NULL, role text)";
        sqlx::query(naive).execute(&server.database.pool).await.unwrap();
        let mut organizations: Vec<OrganizationId> = Vec::new();
        while organizations.len() < 2 {
            let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Acme") };
            let response = server.operator().organizations.create_organization(request).await.unwrap().into_inner();
            let id = OrganizationId::from_uuid(Uuid::parse_str(&response.organization.unwrap().id).unwrap());
            if organizations.iter().all(|other| other.bucket() != id.bucket()) {
                organizations.push(id);
            }
        }
        // The comparison covers known users only: a user is known after the first mention through a server.
        for user in ["eve", "kurt"] {
            server.operator().add(&organizations[1].to_string(), user, "member").await;
        }
        server.roster.replica().loaded().await;
        Self { cluster, server, organizations }
    }

    fn database(&self) -> &Database {
        &self.server.database
    }

    async fn begin(&self) -> Writer {
        Writer::begin(&self.database().url).await
    }

    /// A transaction with an id in another database of the same cluster.
    async fn foreign_transaction(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.cluster.url("other")).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut connection).await.unwrap();
        connection
    }

    /// Asserts that roster's replica equals the committed state within the timeout.
    async fn assert_replica_correct(&self) {
        let start = Instant::now();
        let compared = tables::assert_equal(self.database(), self.server.roster.replica()).await;
        assert!(compared >= 2 && start.elapsed() < CATCH_UP_TIMEOUT, "{compared} after {:?}", start.elapsed());
    }

    /// The committed memberships that the naive log covers.
    async fn expected(&self) -> Roles {
        let rows = "SELECT organization_id, user_id, role FROM memberships m
            WHERE EXISTS (SELECT FROM naive n WHERE (n.organization_id, n.user_id) = (m.organization_id, m.user_id))";
        let rows: Vec<(Uuid, String, String)> = sqlx::query_as(rows).fetch_all(&self.database().pool).await.unwrap();
        rows.into_iter().map(|(organization, user, role)| ((organization, user), role)).collect()
    }
}

/// A write transaction whose steps the test controls.
struct Writer {
    connection: PgConnection,
    entries: Vec<LogEntry>,
}

impl Writer {
    async fn begin(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        Self { connection, entries: Vec::new() }
    }

    /// Changes a membership and appends the change to the naive log.
    async fn change(&mut self, organization: OrganizationId, user: &str, role: Option<&str>) {
        let lock = "SELECT kind, revision FROM organizations WHERE id = $1 FOR NO KEY UPDATE";
        let (kind, revision): (String, i64) =
            sqlx::query_as(lock).bind(organization.as_uuid()).fetch_one(&mut self.connection).await.unwrap();
        for statement in [
            "UPDATE organizations SET revision = $4 WHERE id = $2",
            "DELETE FROM memberships WHERE bucket = $1 AND organization_id = $2 AND user_id = $3",
            "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
             SELECT $1, $2, $3, $5, '{}', $4, now(), now() WHERE $5 IS NOT NULL",
            "INSERT INTO naive (organization_id, user_id, role) VALUES ($2, $3, $5)",
        ] {
            // Every statement gets the same five parameters, whether it uses them or not.
            let all = format!("WITH input AS (SELECT $1::smallint, $2::uuid, $3::text, $4::bigint, $5::text) {statement}");
            let query = sqlx::query(AssertSqlSafe(all)).bind(organization.bucket()).bind(organization.as_uuid()).bind(user);
            query.bind(revision + 1).bind(role).execute(&mut self.connection).await.unwrap();
        }
        let role = role.map(Role::read);
        let detail = ChangeDetail::Membership { user: UserId::parse(user).unwrap(), role };
        let kind = Kind::parse(&kind).unwrap();
        self.entries.push(LogEntry { organization, kind, revision: revision + 1, detail });
    }

    /// Appends the entries to roster's log, bucket by bucket: the last step before the commit.
    async fn log(&mut self) {
        let mut buckets: BTreeMap<i16, Vec<LogEntry>> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            buckets.entry(entry.organization.bucket()).or_default().push(entry);
        }
        for (bucket, entries) in buckets {
            log::append(&mut self.connection, bucket, &entries).await.unwrap();
        }
    }

    async fn commit(mut self) {
        self.log().await;
        sqlx::query("COMMIT").execute(&mut self.connection).await.unwrap();
    }

    async fn roll_back(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.connection).await.unwrap();
    }
}

/// A transaction that exceeds the row limit of a poll becomes visible as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_a_poll_is_applied_as_a_whole() {
    const MANY: i64 = 5_000;
    let setup = Setup::new().await;
    let (replica, organization) = (setup.server.roster.replica(), setup.organizations[0]);
    let reference = OrganizationRef::Id(organization);
    let standing = || replica.standing_now(&reference, None, &Freshness::Recent);
    let revision = || standing().map(|standing| standing.organization.unwrap().revision);
    replica.caught_up().await;
    let before = revision().unwrap();
    let mut write = setup.begin().await;
    write.change(organization, "eve", Some("member")).await;
    let template = write.entries.pop().unwrap();
    for number in 0..MANY {
        let user = UserId::parse(&format!("many-{number}")).unwrap();
        let detail = ChangeDetail::Membership { user, role: Some(Role::MEMBER) };
        write.entries.push(LogEntry { revision: template.revision + number, detail, ..template.clone() });
    }
    let after = before + MANY;
    write.entries.push(LogEntry { revision: after, ..template });
    for rows in [
        "INSERT INTO memberships SELECT bucket, id, 'many-' || n, 'member', '{}', 1, now(), now()
         FROM organizations, generate_series(0, $2 - 1) n WHERE id = $1",
        "UPDATE organizations SET revision = revision - 1 + $2 WHERE id = $1",
    ] {
        let rows = sqlx::query(rows).bind(organization.as_uuid()).bind(MANY);
        rows.execute(&mut write.connection).await.unwrap();
    }
    write.commit().await;
    let start = Instant::now();
    while revision() != Some(after) {
        assert!(
            revision().is_none_or(|now| now == before || now == after),
            "a part of the transaction is visible: {:?}",
            revision()
        );
        assert!(start.elapsed() < 10 * CATCH_UP_TIMEOUT, "the transaction did not become visible in time");
        tokio::task::yield_now().await;
    }
    setup.assert_replica_correct().await;
    assert_eq!(replica.statistics().gaps, 0);
}

/// A row of the log is deleted before the follower has read it; later rows are present.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_log_reloads_the_bucket() {
    let setup = Setup::new().await;
    let organization = setup.organizations[0];
    for (user, gaps) in [("eve", 1), ("kurt", 2)] {
        let mut write = setup.begin().await;
        for role in [Some("admin"), None, Some("member")] {
            write.change(organization, user, role).await;
        }
        write.log().await;
        let gap = "DELETE FROM log WHERE bucket = $1
            AND position = (SELECT position - 1 FROM log_heads WHERE bucket = $1)";
        sqlx::query(gap).bind(organization.bucket()).execute(&mut write.connection).await.unwrap();
        write.commit().await;
        setup.assert_replica_correct().await;
        assert_eq!(setup.server.roster.replica().statistics().gaps, gaps);
    }
}

/// The cursor of a follower of the naive log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// The highest number seen.
    Number,
    /// The highest number seen; the follower waits for missing numbers.
    EveryNumber,
    /// The latest time seen.
    Time,
    /// The highest transaction id below the oldest running transaction.
    Xid,
}

const ALL: [Cursor; 4] = [Cursor::Number, Cursor::EveryNumber, Cursor::Time, Cursor::Xid];

/// A follower of the naive log.
struct Naive {
    cursor: Cursor,
    /// The cursor's value, as text.
    value: String,
    roles: Roles,
}

#[derive(sqlx::FromRow)]
struct Row {
    number: i64,
    organization_id: Uuid,
    user_id: String,
    role: Option<String>,
    cursor: String,
}

impl Naive {
    fn all() -> Vec<Self> {
        let start = |cursor| if cursor == Cursor::Time { "epoch" } else { "0" }.to_owned();
        ALL.into_iter().map(|cursor| Self { cursor, value: start(cursor), roles: Roles::new() }).collect()
    }

    /// Applies the rows after the cursor.
    async fn poll(&mut self, database: &Database) {
        let statement = match self.cursor {
            Cursor::Number | Cursor::EveryNumber => {
                "SELECT *, number::text AS cursor FROM naive WHERE number > $1::bigint ORDER BY number"
            }
            Cursor::Time => {
                "SELECT *, time::text AS cursor FROM naive WHERE time > $1::timestamptz ORDER BY time, number"
            }
            Cursor::Xid => {
                "SELECT *, xid::text AS cursor FROM naive
                 WHERE xid > $1::xid8 AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, number"
            }
        };
        let rows: Vec<Row> = sqlx::query_as(statement).bind(&self.value).fetch_all(&database.pool).await.unwrap();
        for row in rows {
            if self.cursor == Cursor::EveryNumber && row.number != self.value.parse::<i64>().unwrap() + 1 {
                break;
            }
            self.value = row.cursor;
            let key = (row.organization_id, row.user_id);
            match row.role {
                Some(role) => self.roles.insert(key, role),
                None => self.roles.remove(&key),
            };
        }
    }
}

/// The cursors of the naive followers whose roles are correct.
fn correct(naive: &[Naive], expected: &Roles) -> Vec<Cursor> {
    naive.iter().filter(|naive| naive.roles == *expected).map(|naive| naive.cursor).collect()
}

/// Lets all naive followers poll. Returns the cursors of those that are correct afterwards.
async fn poll(setup: &Setup, naive: &mut [Naive]) -> Vec<Cursor> {
    for naive in naive.iter_mut() {
        naive.poll(setup.database()).await;
    }
    correct(naive, &setup.expected().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_is_applied() {
    let setup = Setup::new().await;
    let mut naive = Naive::all();
    let (mut late, mut prompt) = (setup.begin().await, setup.begin().await);
    late.change(setup.organizations[0], "eve", Some("member")).await;
    prompt.change(setup.organizations[1], "kurt", Some("admin")).await;
    prompt.commit().await;
    // While the first is open, the followers that wait for it do not have the second.
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::Number, Cursor::Time]);
    setup.assert_replica_correct().await;
    late.commit().await;
    // The followers that did not wait have missed it.
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::EveryNumber, Cursor::Xid]);
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::EveryNumber, Cursor::Xid]);
    setup.assert_replica_correct().await;

    // The same with the first already in roster's log, but not committed.
    let (mut late, mut prompt) = (setup.begin().await, setup.begin().await);
    late.change(setup.organizations[0], "eve", None).await;
    late.log().await;
    prompt.change(setup.organizations[1], "kurt", None).await;
    prompt.commit().await;
    setup.assert_replica_correct().await;
    late.commit().await;
    setup.assert_replica_correct().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_write_leaves_no_gap() {
    let setup = Setup::new().await;
    let mut naive = Naive::all();
    let (mut aborted, mut committed) = (setup.begin().await, setup.begin().await);
    aborted.change(setup.organizations[0], "eve", Some("admin")).await;
    aborted.log().await;
    committed.change(setup.organizations[1], "kurt", Some("admin")).await;
    committed.commit().await;
    setup.assert_replica_correct().await;
    aborted.roll_back().await;
    // The sequence number is lost: the follower that waits for it to lose nothing never continues.
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::Number, Cursor::Time, Cursor::Xid]);
    let mut next = setup.begin().await;
    next.change(setup.organizations[0], "eve", Some("member")).await;
    next.commit().await;
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::Number, Cursor::Time, Cursor::Xid]);
    setup.assert_replica_correct().await;
    // Roster's log has no gap.
    assert_eq!(setup.server.roster.replica().statistics().gaps, 0);
    let gaps =
        "SELECT count(*) FROM log_heads h WHERE position <> (SELECT count(*) FROM log l WHERE l.bucket = h.bucket)";
    assert_eq!(setup.database().count(gaps).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_began_first_and_commits_last_is_applied_last() {
    let setup = Setup::new().await;
    let mut naive = Naive::all();
    let (mut first, mut second) = (setup.begin().await, setup.begin().await);
    // The transaction that began first reaches the row last, and revokes the role that the other one granted.
    first.change(setup.organizations[0], "kurt", Some("member")).await;
    second.change(setup.organizations[1], "eve", Some("admin")).await;
    second.commit().await;
    setup.assert_replica_correct().await;
    for naive in naive.iter_mut().filter(|naive| naive.cursor == Cursor::Number) {
        naive.poll(setup.database()).await;
    }
    first.change(setup.organizations[1], "eve", None).await;
    first.commit().await;
    // By time and by transaction id the revocation precedes the grant; by number, the late commit is lost.
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::EveryNumber]);
    for naive in &naive {
        let has = |organization: OrganizationId, user: &str| {
            naive.roles.contains_key(&(organization.as_uuid(), user.to_owned()))
        };
        assert_eq!(
            has(setup.organizations[1], "eve"),
            [Cursor::Time, Cursor::Xid].contains(&naive.cursor),
            "{:?}",
            naive.cursor
        );
        assert_eq!(has(setup.organizations[0], "kurt"), naive.cursor != Cursor::Number, "{:?}", naive.cursor);
    }
    setup.assert_replica_correct().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_in_another_database_delays_nothing() {
    let setup = Setup::new().await;
    let mut naive = Naive::all();
    let open = setup.foreign_transaction().await;
    let mut write = setup.begin().await;
    write.change(setup.organizations[0], "eve", Some("member")).await;
    write.commit().await;
    setup.assert_replica_correct().await;
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::Number, Cursor::EveryNumber, Cursor::Time]);
    open.close().await.unwrap();
    super::until("the transaction ends", async || poll(&setup, &mut naive).await == ALL).await;
    setup.assert_replica_correct().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphaned_prepared_transaction_delays_nothing() {
    let mut setup = Setup::new().await;
    let mut naive = Naive::all();
    let mut orphan = setup.foreign_transaction().await;
    sqlx::query("PREPARE TRANSACTION 'orphan'").execute(&mut orphan).await.unwrap();
    orphan.close().await.unwrap();
    for role in [Some("member"), None, Some("admin")] {
        let mut write = setup.begin().await;
        write.change(setup.organizations[0], "eve", role).await;
        write.commit().await;
        setup.assert_replica_correct().await;
        let correct = poll(&setup, &mut naive).await;
        // The follower by transaction id has none of the later changes: it is correct by chance when the role was
        // revoked.
        assert_eq!(correct.contains(&Cursor::Xid), role.is_none());
        assert_eq!(correct.iter().filter(|cursor| **cursor != Cursor::Xid).count(), 3);
    }
    // A restart does not end the prepared transaction.
    setup.cluster.restart(Stop::Fast).await.unwrap();
    setup.server.until_serving().await;
    super::until("Postgres is back", async || sqlx::query("SELECT 1").execute(&setup.database().pool).await.is_ok())
        .await;
    assert_eq!(poll(&setup, &mut naive).await, [Cursor::Number, Cursor::EveryNumber, Cursor::Time]);
    setup.assert_replica_correct().await;
    let mut connection = PgConnection::connect(&setup.cluster.url("other")).await.unwrap();
    sqlx::query("ROLLBACK PREPARED 'orphan'").execute(&mut connection).await.unwrap();
    assert_eq!(poll(&setup, &mut naive).await, ALL);
}
