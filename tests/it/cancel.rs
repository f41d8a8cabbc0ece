//! Cancelled calls: every method, cancelled at fifty points in time, and the fault in sqlx that makes these tests
//! necessary.

use crate::harness::Database;
use crate::harness::samples::{Fixture, SampleCaller, Target, Write, call, sample};
use h2::client::SendRequest;
use prost::bytes::{BufMut, Bytes, BytesMut};
use roster::authz::rules::{METHODS, Method};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::pool::Pool;
use sqlx::{Connection, PgConnection};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const POINTS: u32 = 50;

/// How a caller hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HangUp {
    /// The client's future is dropped.
    Drop,
    /// The stream is reset, from a client of h2 itself.
    Reset,
    /// The whole connection is torn down.
    Disconnect,
}

/// Waits without sleeping, to the microsecond. A timer counts in milliseconds, and a whole call takes only a few of them.
async fn spin(delay: Duration) {
    let start = Instant::now();
    while start.elapsed() < delay {
        tokio::task::yield_now().await;
    }
}

/// A client of h2 itself, with one connection.
struct RawClient {
    send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl RawClient {
    async fn connect(stage: &Fixture) -> Self {
        let stream = TcpStream::connect(stage.server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { send, connection }
    }

    /// Sends a call and hangs up after the delay. Returns whether the answer had begun before.
    async fn hang_up(
        self,
        stage: &Fixture,
        method: &Method,
        who: SampleCaller,
        message: &[u8],
        how: HangUp,
        delay: Duration,
    ) -> bool {
        let request = http::Request::post(format!("http://{}{}", stage.server.address, method.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", stage.token(who)))
            .body(())
            .unwrap();
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(message);
        let mut send = self.send.ready().await.unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        body.send_data(frame.freeze(), true).unwrap();
        let answered = tokio::select! {
            biased;
            _ = answer => true,
            () = spin(delay) => false,
        };
        match how {
            HangUp::Disconnect => self.connection.abort(),
            HangUp::Reset | HangUp::Drop => body.send_reset(h2::Reason::CANCEL),
        }
        answered
    }
}

/// The outcomes of one method's cancellations.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    /// The caller hung up before the answer.
    cancelled: u32,
    /// The cancelled writes that were found in the database right afterwards.
    happened: u32,
}

/// The number of events that a request has left, read in one statement so that half a write would show.
async fn events_of(stage: &Fixture, write: &Write) -> i64 {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM events WHERE request_id = $1::uuid)
              + (SELECT count(*) FROM user_events WHERE request_id = $1::uuid)
              + (SELECT count(*) FROM access_model_revisions WHERE request_id = $1::uuid)",
    )
    .bind(&write.request_id)
    .fetch_one(&stage.database().pool)
    .await
    .unwrap()
}

fn request(method: &Method, place: &Target, write: &Write) -> (SampleCaller, Vec<u8>) {
    sample(method, place, write).unwrap_or_else(|| panic!("{} has no sample request", method.path))
}

/// The median time of a method's uncancelled call, and the number of its events.
async fn measure(stage: &Fixture, method: &Method) -> (Duration, i64) {
    let mut times = Vec::new();
    let mut events = 0;
    for place in stage.targets(method, 7).await {
        let write = Write::fresh();
        let (who, message) = request(method, &place, &write);
        let start = Instant::now();
        stage.call(method, (who, message)).await.unwrap_or_else(|status| panic!("{}: {status:?}", method.path));
        times.push(start.elapsed());
        events = events_of(stage, &write).await;
        assert_eq!(method.write, events > 0, "{}: a sample write changes something, a read nothing", method.path);
    }
    times.sort_unstable();
    (times[times.len() / 2], events)
}

async fn cancel_at(stage: &Fixture, method: &Method, place: &Target, how: HangUp, delay: Duration, all: i64) -> Tally {
    let write = Write::fresh();
    let (who, message) = request(method, place, &write);
    let answered = if how == HangUp::Drop {
        tokio::select! {
            biased;
            answer = call(stage.server.channel(), stage.token(who), method.path, message.clone()) => answer.is_ok(),
            () = spin(delay) => false,
        }
    } else {
        RawClient::connect(stage).await.hang_up(stage, method, who, &message, how, delay).await
    };
    if !method.write {
        return Tally { cancelled: u32::from(!answered), happened: 0 };
    }
    let found = events_of(stage, &write).await;
    assert!(found == 0 || found == all, "{}: {found} of {all} events: half a write", method.path);
    assert!(!answered || found == all, "{}: answered and not written", method.path);
    // A caller that does not know the outcome repeats the request. After that the write has happened exactly once.
    let again = call(stage.server.channel(), stage.token(who), method.path, message).await;
    assert!(again.is_ok(), "{} after {how:?} at {delay:?}: {again:?}", method.path);
    assert_eq!(events_of(stage, &write).await, all, "{} after {how:?} at {delay:?}", method.path);
    Tally { cancelled: u32::from(!answered), happened: u32::from(!answered && found == all) }
}

async fn cancel_each(which: impl Fn(&Method) -> bool) -> Tally {
    let stage = Fixture::new().await;
    let mut total = Tally::default();
    for method in METHODS.iter().filter(|method| which(method)) {
        let (median, events) = measure(&stage, method).await;
        let places = stage.targets(method, usize::try_from(POINTS).unwrap()).await;
        let mut cancelled = 0;
        for (point, place) in (0..POINTS).zip(&places) {
            let how = [HangUp::Drop, HangUp::Reset, HangUp::Disconnect][usize::try_from(point % 3).unwrap()];
            // From zero to a fifth more than the call takes.
            let delay = median * 6 * point / (5 * (POINTS - 1));
            let tally = cancel_at(&stage, method, place, how, delay, events).await;
            cancelled += tally.cancelled;
            total.happened += tally.happened;
        }
        assert!(cancelled > 0, "{}: no call was cancelled", method.path);
        total.cancelled += cancelled;
        stage.database().assert_no_open_transactions().await;
        stage.database().assert_invariants().await;
        assert_eq!(connections_in_a_transaction(stage.server.roster.pool(), 16).await, 0, "{}", method.path);
    }
    total
}

/// Borrows every connection of the pool and counts those that are inside a transaction. Postgres accepts a SAVEPOINT only
/// there.
async fn connections_in_a_transaction(pool: &Pool, connections: usize) -> usize {
    let mut borrowed = Vec::new();
    for _ in 0..connections {
        borrowed.push(pool.acquire().await.unwrap());
    }
    let mut inside = 0;
    for connection in &mut borrowed {
        inside += usize::from(is_in_a_transaction(connection).await);
    }
    inside
}

pub async fn is_in_a_transaction(connection: &mut PgConnection) -> bool {
    match sqlx::query("SAVEPOINT probe").execute(&mut *connection).await {
        Ok(_) => {
            sqlx::query("ROLLBACK").execute(connection).await.unwrap();
            true
        }
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            assert_eq!(code.as_deref(), Some("25P01"), "{error}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_cancelled_at_fifty_points_leave_nothing_open() {
    let tally = Box::pin(cancel_each(|method| !method.write)).await;
    assert!(tally.cancelled > POINTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_organizations_cancelled_at_fifty_points_happen_once_or_not_at_all() {
    let tally = Box::pin(cancel_each(|method| method.write && method.service == "roster.v1.OrganizationService")).await;
    // Both outcomes occur: writes that had not happened, and writes that had happened although their caller saw no answer.
    assert!(0 < tally.happened && tally.happened < tally.cancelled, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_writes_cancelled_at_fifty_points_happen_once_or_not_at_all() {
    const SEPARATE: [&str; 2] = ["roster.v1.OrganizationService", "roster.v1.AccessModelService"];
    let tally = Box::pin(cancel_each(|method| method.write && !SEPARATE.contains(&method.service))).await;
    assert!(0 < tally.happened && tally.happened < tally.cancelled, "{tally:?}");
}

/// Without `EnableRoles`, which changes something once in the life of a datastore.
#[tokio::test]
async fn cancelled_changes_of_the_access_model_happen_wholly_or_not_at_all() {
    let tally = Box::pin(cancel_each(|method| method.name == "ApplyAccessModel")).await;
    assert!(tally.cancelled > 0, "{tally:?}");
}

/// Drops a BEGIN after this number of polls.
async fn drop_begin(connection: &mut PgConnection, polls: usize) {
    let mut begin = Box::pin(connection.begin());
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        if begin.as_mut().poll(context).is_ready() || polled > polls { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The reason why the pool rolls back connections on return, and why a write runs in a separate task.
#[tokio::test]
async fn a_dropped_begin_leaves_a_transaction_open_in_sqlx_but_not_in_the_pool() {
    let database = Database::new().await;
    let bare = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(&database.url).await.unwrap();
    let pool = Pool::new(DatastoreUrl::parse(&database.url).unwrap(), 1);
    // The outcome depends on the poll at which the BEGIN is dropped. The numbers of polls are tried in turn until enough
    // connections are left in a transaction. On a busy machine the answer has often arrived before the first poll, and it
    // takes many attempts.
    let (mut tried, mut inside) = (0, 0);
    while inside < 5 && tried < 20_000 {
        drop_begin(&mut bare.acquire().await.unwrap(), tried % 6).await;
        inside += usize::from(is_in_a_transaction(&mut bare.acquire().await.unwrap()).await);
        tried += 1;
    }
    assert!(inside > 0, "sqlx no longer leaves a dropped BEGIN open: the rollback on return can be removed");
    for round in 0..(2 * tried).min(1_200) {
        drop_begin(&mut pool.acquire().await.unwrap(), round % 6).await;
        let mut next = pool.acquire().await.unwrap();
        assert!(!is_in_a_transaction(&mut next).await, "the next borrower got an open transaction");
        // Every second connection is returned as clean.
        next.finish(Ok::<_, sqlx::Error>(())).unwrap();
    }
}
