//! The pool: what is done goes on as it is, what is in doubt is cleaned first, and there are never more than allowed.

use crate::harness::Database;
use crate::replica::until;
use roster::store::pool::{self, Pool, PooledConnection};
use std::time::Duration;
use tokio::time::timeout;

const ASK: &str = "SELECT pg_backend_pid()";

fn pool_of(database: &Database, connections: u32) -> Pool {
    Pool::new(pool::lazy(pool::parse_url(&database.url).unwrap(), connections))
}

async fn pid(connection: &mut PooledConnection) -> i32 {
    sqlx::query_scalar(ASK).fetch_one(&mut **connection).await.unwrap()
}

/// What a connection was last asked.
async fn last_asked(database: &Database, pid: i32) -> String {
    let asked = "SELECT query FROM pg_stat_activity WHERE pid = $1";
    sqlx::query_scalar(asked).bind(pid).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn what_is_done_goes_on_as_it_is_and_what_is_in_doubt_is_rolled_back() {
    let database = Database::new().await;
    let pool = pool_of(&database, 1);
    let mut first = pool.acquire().await.unwrap();
    let number = pid(&mut first).await;
    first.finish(Ok::<_, sqlx::Error>(())).unwrap();
    let second = pool.acquire().await.unwrap();
    assert_eq!(last_asked(&database, number).await, ASK);
    drop(second);
    // There is only one: whoever gets it gets it cleaned.
    let mut third = pool.acquire().await.unwrap();
    assert_eq!(last_asked(&database, number).await, "ROLLBACK");
    assert_eq!(pid(&mut third).await, number);
}

#[tokio::test]
async fn there_are_never_more_than_allowed_and_who_waits_gets_the_first_that_is_free() {
    let database = Database::new().await;
    let pool = pool_of(&database, 2);
    let (mut one, two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let number = pid(&mut one).await;
    let mut third = Box::pin(pool.acquire());
    let free = timeout(Duration::from_millis(100), &mut third).await;
    assert!(free.is_err(), "a third of two");
    one.finish(Ok::<_, sqlx::Error>(())).unwrap();
    let mut third = third.await.unwrap();
    assert_eq!(pid(&mut third).await, number);
    // Done and dropped in turns, by many at once.
    third.finish(Ok::<_, sqlx::Error>(())).unwrap();
    drop(two);
    let borrow = |number: u32| {
        let pool = pool.clone();
        async move {
            let mut lent = pool.acquire().await.unwrap();
            pid(&mut lent).await;
            if number.is_multiple_of(2) { lent.finish(Ok::<_, sqlx::Error>(())).unwrap() } else { drop(lent) }
        }
    };
    futures_util::future::join_all((0..40).map(borrow)).await;
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'roster'";
    assert!((1..=2).contains(&database.count(open).await));
}

#[tokio::test]
async fn a_connection_that_broke_while_nobody_had_it_is_found_out_once() {
    let database = Database::new().await;
    let pool = pool_of(&database, 1);
    let mut first = pool.acquire().await.unwrap();
    let number = pid(&mut first).await;
    first.finish(Ok::<_, sqlx::Error>(())).unwrap();
    sqlx::query("SELECT pg_terminate_backend($1, 5000)").bind(number).execute(&database.pool).await.unwrap();
    let mut broken = pool.acquire().await.unwrap();
    assert!(sqlx::query(ASK).execute(&mut *broken).await.is_err());
    drop(broken);
    let mut next = pool.acquire().await.unwrap();
    assert_ne!(pid(&mut next).await, number);
}

#[tokio::test]
async fn a_pool_that_is_closed_lends_nothing() {
    let database = Database::new().await;
    let pool = pool_of(&database, 2);
    let (mut kept, lent) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    pid(&mut kept).await;
    kept.finish(Ok::<_, sqlx::Error>(())).unwrap();
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    // The other one is still lent, and given back to a pool that is closing.
    until("the pool is closing", async || matches!(pool.acquire().await, Err(sqlx::Error::PoolClosed))).await;
    assert!(!closing.is_finished());
    lent.finish(Ok::<_, sqlx::Error>(())).unwrap();
    timeout(Duration::from_secs(10), closing).await.unwrap().unwrap();
}
