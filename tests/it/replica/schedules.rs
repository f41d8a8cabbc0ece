//! The schedules that break naive logs. In each, transactions change memberships, say so in roster's log, and say so in a
//! naive log as well: a table with a sequence, a time and a transaction id, with a cursor over each. In the schedules in
//! which these lose changes, take them in the wrong order or stand still, they are seen to; roster's copy is right, and in
//! time.

use super::tables;
use crate::harness::{Database, Server, organization};
use roster::domain::change::{ChangeDetail, LogEntry};
use roster::domain::{Kind, OrganizationId, OrganizationRef, Role, UserId};
use roster::grpc::pb;
use roster::postgres::{Binaries, Cluster, Options, Stop};
use roster::server::ServerSettings;
use roster::service::Freshness;
use roster::store::{log, migrations, pool};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long roster's copy may take to be right, whatever is under way: far beyond what it takes, far below for ever.
const SOON: Duration = Duration::from_secs(2);

/// A user in an organization, and the role.
type Copy = BTreeMap<(Uuid, String), String>;

/// A server over a Postgres of its own, organizations in buckets of their own, and a naive log.
struct Stage {
    cluster: Cluster,
    server: Server,
    here: Vec<OrganizationId>,
}

impl Stage {
    async fn new() -> Self {
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("{error}"));
        let options = Options::temporary().with("max_prepared_transactions", "4");
        let cluster = Cluster::start(&binaries, options).await.unwrap_or_else(|error| panic!("{error}"));
        for name in ["roster", "other"] {
            cluster.create_database(name).await.unwrap();
        }
        let url = cluster.url("roster");
        migrations::migrate(&pool::parse_url(&url).unwrap()).await.unwrap();
        let server = Server::over(Database::at(url), ServerSettings::default()).await;
        let naive = "CREATE TABLE naive (
            number bigserial, time timestamptz NOT NULL DEFAULT now(), xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            organization_id uuid NOT NULL, user_id text NOT NULL, role text)";
        sqlx::query(naive).execute(&server.database.pool).await.unwrap();
        let mut here: Vec<OrganizationId> = Vec::new();
        while here.len() < 2 {
            let request = pb::CreateOrganizationRequest { owner_user_id: "ada".to_owned(), ..organization("Here") };
            let made = server.operator().organizations.create_organization(request).await.unwrap().into_inner();
            let id = OrganizationId::from_uuid(Uuid::parse_str(&made.organization.unwrap().id).unwrap());
            if here.iter().all(|other| other.bucket() != id.bucket()) {
                here.push(id);
            }
        }
        // So that they are compared: a user is known from the first mention by way of a server.
        for user in ["eve", "kurt"] {
            server.operator().add(&here[1].to_string(), user, "member").await;
        }
        server.roster.replica().loaded().await;
        Self { cluster, server, here }
    }

    fn database(&self) -> &Database {
        &self.server.database
    }

    async fn begin(&self) -> Writer {
        Writer::begin(&self.database().url).await
    }

    /// A transaction in another database of the same Postgres, which has an id.
    async fn elsewhere(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.cluster.url("other")).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut connection).await.unwrap();
        connection
    }

    /// Asserts that roster's copy is what is committed, at once.
    async fn assert_right(&self) {
        let begun = Instant::now();
        let compared = tables::assert_equal(self.database(), self.server.roster.replica()).await;
        assert!(compared >= 2 && begun.elapsed() < SOON, "{compared} after {:?}", begun.elapsed());
    }

    /// What the naive log is about: the memberships that were written by hand.
    async fn truth(&self) -> Copy {
        let rows = "SELECT organization_id, user_id, role FROM memberships m
            WHERE EXISTS (SELECT FROM naive n WHERE (n.organization_id, n.user_id) = (m.organization_id, m.user_id))";
        let rows: Vec<(Uuid, String, String)> = sqlx::query_as(rows).fetch_all(&self.database().pool).await.unwrap();
        rows.into_iter().map(|(organization, user, role)| ((organization, user), role)).collect()
    }
}

/// A write, step by step.
struct Writer {
    connection: PgConnection,
    lines: Vec<LogEntry>,
}

impl Writer {
    async fn begin(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        Self { connection, lines: Vec::new() }
    }

    /// Changes a membership, and says so in the naive log.
    async fn change(&mut self, here: OrganizationId, user: &str, role: Option<&str>) {
        let lock = "SELECT kind, revision FROM organizations WHERE id = $1 FOR NO KEY UPDATE";
        let (kind, revision): (String, i64) =
            sqlx::query_as(lock).bind(here.as_uuid()).fetch_one(&mut self.connection).await.unwrap();
        for statement in [
            "UPDATE organizations SET revision = $4 WHERE id = $2",
            "DELETE FROM memberships WHERE bucket = $1 AND organization_id = $2 AND user_id = $3",
            "INSERT INTO memberships (bucket, organization_id, user_id, role, attributes, revision, create_time, update_time)
             SELECT $1, $2, $3, $5, '{}', $4, now(), now() WHERE $5 IS NOT NULL",
            "INSERT INTO naive (organization_id, user_id, role) VALUES ($2, $3, $5)",
        ] {
            // Each takes the same five, whichever it needs.
            let all = format!("WITH given AS (SELECT $1::smallint, $2::uuid, $3::text, $4::bigint, $5::text) {statement}");
            let query = sqlx::query(AssertSqlSafe(all)).bind(here.bucket()).bind(here.as_uuid()).bind(user);
            query.bind(revision + 1).bind(role).execute(&mut self.connection).await.unwrap();
        }
        let role = role.map(|role| Role::parse(role).unwrap());
        let entry = ChangeDetail::Membership { user: UserId::parse(user).unwrap(), role };
        let kind = Kind::parse(&kind).unwrap();
        self.lines.push(LogEntry { organization: here, kind, revision: revision + 1, entry });
    }

    /// The last step of a write: roster's log, bucket by bucket.
    async fn log(&mut self) {
        let mut buckets: BTreeMap<i16, Vec<LogEntry>> = BTreeMap::new();
        for line in self.lines.drain(..) {
            buckets.entry(line.organization.bucket()).or_default().push(line);
        }
        for (bucket, lines) in buckets {
            log::append(&mut self.connection, bucket, &lines).await.unwrap();
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

/// A transaction that is too large for one look at the log is seen whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_larger_than_one_look() {
    const MANY: i64 = 5_000;
    let stage = Stage::new().await;
    let (index, here) = (stage.server.roster.replica(), stage.here[0]);
    let named = OrganizationRef::Id(here);
    let revision = || index.now(&named, None, &Freshness::Recent).map(|told| told.organization.unwrap().revision);
    index.caught_up().await;
    let before = revision().unwrap();
    let mut write = stage.begin().await;
    write.change(here, "eve", Some("member")).await;
    let line = write.lines.pop().unwrap();
    for number in 0..MANY {
        let user = UserId::parse(&format!("many-{number}")).unwrap();
        let entry = ChangeDetail::Membership { user, role: Some(Role::MEMBER) };
        write.lines.push(LogEntry { revision: line.revision + number, entry, ..line.clone() });
    }
    let after = before + MANY;
    write.lines.push(LogEntry { revision: after, ..line });
    for rows in [
        "INSERT INTO memberships SELECT bucket, id, 'many-' || n, 'member', '{}', 1, now(), now()
         FROM organizations, generate_series(0, $2 - 1) n WHERE id = $1",
        "UPDATE organizations SET revision = revision - 1 + $2 WHERE id = $1",
    ] {
        let rows = sqlx::query(rows).bind(here.as_uuid()).bind(MANY);
        rows.execute(&mut write.connection).await.unwrap();
    }
    write.commit().await;
    let begun = Instant::now();
    while revision() != Some(after) {
        assert!(revision().is_none_or(|now| now == before || now == after), "half of it: {:?}", revision());
        assert!(begun.elapsed() < 10 * SOON, "it never came");
        tokio::task::yield_now().await;
    }
    stage.assert_right().await;
    assert_eq!(index.statistics().gaps, 0);
}

/// A row of the log is gone before everybody has read it, and the next ones are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_a_hole() {
    let stage = Stage::new().await;
    let here = stage.here[0];
    for (user, gaps) in [("eve", 1), ("kurt", 2)] {
        let mut write = stage.begin().await;
        for role in [Some("admin"), None, Some("member")] {
            write.change(here, user, role).await;
        }
        write.log().await;
        let hole = "DELETE FROM log WHERE bucket = $1
            AND position = (SELECT position - 1 FROM log_heads WHERE bucket = $1)";
        sqlx::query(hole).bind(here.bucket()).execute(&mut write.connection).await.unwrap();
        write.commit().await;
        stage.assert_right().await;
        assert_eq!(stage.server.roster.replica().statistics().gaps, gaps);
    }
}

/// What a follower of the naive log goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The highest number seen.
    Number,
    /// The highest number seen, waiting for each that is missing.
    EveryNumber,
    /// The latest time seen.
    Time,
    /// Transaction ids, as far as no transaction is under way.
    Xid,
}

const ALL: [By; 4] = [By::Number, By::EveryNumber, By::Time, By::Xid];

/// A follower of the naive log.
struct Naive {
    by: By,
    /// The cursor, as text.
    at: String,
    copy: Copy,
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
        let start = |by| if by == By::Time { "epoch" } else { "0" }.to_owned();
        ALL.into_iter().map(|by| Self { by, at: start(by), copy: Copy::new() }).collect()
    }

    /// Reads what is new by its cursor.
    async fn poll(&mut self, database: &Database) {
        let statement = match self.by {
            By::Number | By::EveryNumber => {
                "SELECT *, number::text AS cursor FROM naive WHERE number > $1::bigint ORDER BY number"
            }
            By::Time => "SELECT *, time::text AS cursor FROM naive WHERE time > $1::timestamptz ORDER BY time, number",
            By::Xid => {
                "SELECT *, xid::text AS cursor FROM naive
                 WHERE xid > $1::xid8 AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, number"
            }
        };
        let rows: Vec<Row> = sqlx::query_as(statement).bind(&self.at).fetch_all(&database.pool).await.unwrap();
        for row in rows {
            if self.by == By::EveryNumber && row.number != self.at.parse::<i64>().unwrap() + 1 {
                break;
            }
            self.at = row.cursor;
            let key = (row.organization_id, row.user_id);
            match row.role {
                Some(role) => self.copy.insert(key, role),
                None => self.copy.remove(&key),
            };
        }
    }
}

/// Lets all naive followers read, and asserts that exactly these are then right.
#[track_caller]
fn right(naive: &[Naive], truth: &Copy) -> Vec<By> {
    naive.iter().filter(|naive| naive.copy == *truth).map(|naive| naive.by).collect()
}

async fn poll(stage: &Stage, naive: &mut [Naive]) -> Vec<By> {
    for naive in naive.iter_mut() {
        naive.poll(stage.database()).await;
    }
    right(naive, &stage.truth().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_comes_late() {
    let stage = Stage::new().await;
    let mut naive = Naive::all();
    let (mut late, mut prompt) = (stage.begin().await, stage.begin().await);
    late.change(stage.here[0], "eve", Some("member")).await;
    prompt.change(stage.here[1], "kurt", Some("admin")).await;
    prompt.commit().await;
    // While the first is under way: who waits for it does not have the second.
    assert_eq!(poll(&stage, &mut naive).await, [By::Number, By::Time]);
    stage.assert_right().await;
    late.commit().await;
    // Who did not wait has passed it by, for ever.
    assert_eq!(poll(&stage, &mut naive).await, [By::EveryNumber, By::Xid]);
    assert_eq!(poll(&stage, &mut naive).await, [By::EveryNumber, By::Xid]);
    stage.assert_right().await;

    // Also where the first has said so in roster's log and not yet committed.
    let (mut late, mut prompt) = (stage.begin().await, stage.begin().await);
    late.change(stage.here[0], "eve", None).await;
    late.log().await;
    prompt.change(stage.here[1], "kurt", None).await;
    prompt.commit().await;
    stage.assert_right().await;
    late.commit().await;
    stage.assert_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_rolled_back() {
    let stage = Stage::new().await;
    let mut naive = Naive::all();
    let (mut undone, mut done) = (stage.begin().await, stage.begin().await);
    undone.change(stage.here[0], "eve", Some("admin")).await;
    undone.log().await;
    done.change(stage.here[1], "kurt", Some("admin")).await;
    done.commit().await;
    stage.assert_right().await;
    undone.roll_back().await;
    // The number is gone: who waits for it, so as to lose nothing, waits for ever.
    assert_eq!(poll(&stage, &mut naive).await, [By::Number, By::Time, By::Xid]);
    let mut next = stage.begin().await;
    next.change(stage.here[0], "eve", Some("member")).await;
    next.commit().await;
    assert_eq!(poll(&stage, &mut naive).await, [By::Number, By::Time, By::Xid]);
    stage.assert_right().await;
    // Roster's log has no hole.
    assert_eq!(stage.server.roster.replica().statistics().gaps, 0);
    let holes =
        "SELECT count(*) FROM log_heads h WHERE position <> (SELECT count(*) FROM log l WHERE l.bucket = h.bucket)";
    assert_eq!(stage.database().count(holes).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_write_one_row_in_crossed_order() {
    let stage = Stage::new().await;
    let mut naive = Naive::all();
    let (mut first, mut second) = (stage.begin().await, stage.begin().await);
    // The first to begin is the second to come to the row, and takes back what the other gave.
    first.change(stage.here[0], "kurt", Some("member")).await;
    second.change(stage.here[1], "eve", Some("admin")).await;
    second.commit().await;
    stage.assert_right().await;
    for naive in naive.iter_mut().filter(|naive| naive.by == By::Number) {
        naive.poll(stage.database()).await;
    }
    first.change(stage.here[1], "eve", None).await;
    first.commit().await;
    // By time and by transaction the revocation comes before the grant; by number, what came late is lost.
    assert_eq!(poll(&stage, &mut naive).await, [By::EveryNumber]);
    for naive in &naive {
        let has = |organization: OrganizationId, user: &str| {
            naive.copy.contains_key(&(organization.as_uuid(), user.to_owned()))
        };
        assert_eq!(has(stage.here[1], "eve"), [By::Time, By::Xid].contains(&naive.by), "{:?}", naive.by);
        assert_eq!(has(stage.here[0], "kurt"), naive.by != By::Number, "{:?}", naive.by);
    }
    stage.assert_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_held_open_in_another_database() {
    let stage = Stage::new().await;
    let mut naive = Naive::all();
    let held = stage.elsewhere().await;
    let mut write = stage.begin().await;
    write.change(stage.here[0], "eve", Some("member")).await;
    write.commit().await;
    stage.assert_right().await;
    assert_eq!(poll(&stage, &mut naive).await, [By::Number, By::EveryNumber, By::Time]);
    held.close().await.unwrap();
    super::until("it ends", async || poll(&stage, &mut naive).await == ALL).await;
    stage.assert_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_is_orphaned() {
    let mut stage = Stage::new().await;
    let mut naive = Naive::all();
    let mut orphan = stage.elsewhere().await;
    sqlx::query("PREPARE TRANSACTION 'orphan'").execute(&mut orphan).await.unwrap();
    orphan.close().await.unwrap();
    for role in [Some("member"), None, Some("admin")] {
        let mut write = stage.begin().await;
        write.change(stage.here[0], "eve", role).await;
        write.commit().await;
        stage.assert_right().await;
        let right = poll(&stage, &mut naive).await;
        // Of what came after it, who waits for every transaction has nothing: right by chance where all was taken back.
        assert_eq!(right.contains(&By::Xid), role.is_none());
        assert_eq!(right.iter().filter(|by| **by != By::Xid).count(), 3);
    }
    // Not even a restart ends it.
    stage.cluster.restart(Stop::Fast).await.unwrap();
    stage.server.until_serving().await;
    super::until("Postgres is back", async || sqlx::query("SELECT 1").execute(&stage.database().pool).await.is_ok())
        .await;
    assert_eq!(poll(&stage, &mut naive).await, [By::Number, By::EveryNumber, By::Time]);
    stage.assert_right().await;
    let mut elsewhere = PgConnection::connect(&stage.cluster.url("other")).await.unwrap();
    sqlx::query("ROLLBACK PREPARED 'orphan'").execute(&mut elsewhere).await.unwrap();
    assert_eq!(poll(&stage, &mut naive).await, ALL);
}
