//! The pool: clean connections are reused, others are rolled back first, and there are never more than allowed.

use crate::cancel::is_in_a_transaction;
use crate::harness::Database;
use roster::store::datastore_url::DatastoreUrl;
use roster::store::pool::{Pool, PooledConnection};
use std::time::Duration;
use tokio::time::timeout;

const QUERY: &str = "SELECT pg_backend_pid()";

fn pool_of(database: &Database, connections: u32) -> Pool {
    Pool::new(DatastoreUrl::parse(&database.url).unwrap(), connections)
}

async fn pid(connection: &mut PooledConnection) -> i32 {
    sqlx::query_scalar(QUERY).fetch_one(&mut **connection).await.unwrap()
}

/// The last statement of a connection.
async fn last_query(database: &Database, pid: i32) -> String {
    let statement = "SELECT query FROM pg_stat_activity WHERE pid = $1";
    sqlx::query_scalar(statement).bind(pid).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn clean_connections_are_reused_and_others_rolled_back() {
    let database = Database::new().await;
    let pool = pool_of(&database, 1);
    let mut first = pool.acquire().await.unwrap();
    let number = pid(&mut first).await;
    first.finish(Ok::<_, sqlx::Error>(())).unwrap();
    let mut second = pool.acquire().await.unwrap();
    assert_eq!(last_query(&database, number).await, QUERY);
    sqlx::query("BEGIN").execute(&mut *second).await.unwrap();
    drop(second);
    // The pool has one connection: the next borrower gets it rolled back.
    let mut third = pool.acquire().await.unwrap();
    assert_eq!(pid(&mut third).await, number);
    assert!(!is_in_a_transaction(&mut third).await);
}

#[tokio::test]
async fn the_limit_holds_and_a_waiting_borrower_gets_the_first_free_connection() {
    let database = Database::new().await;
    let pool = pool_of(&database, 2);
    let (mut one, two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let number = pid(&mut one).await;
    let mut third = Box::pin(pool.acquire());
    let result = timeout(Duration::from_millis(100), &mut third).await;
    assert!(result.is_err(), "a third connection from a pool of two");
    one.finish(Ok::<_, sqlx::Error>(())).unwrap();
    let mut third = third.await.unwrap();
    assert_eq!(pid(&mut third).await, number);
    // Many concurrent borrowers, half of them dropping the connection instead of finishing it.
    third.finish(Ok::<_, sqlx::Error>(())).unwrap();
    drop(two);
    let borrow = |number: u32| {
        let pool = pool.clone();
        async move {
            let mut connection = pool.acquire().await.unwrap();
            pid(&mut connection).await;
            if number.is_multiple_of(2) {
                connection.finish(Ok::<_, sqlx::Error>(())).unwrap();
            } else {
                drop(connection);
            }
        }
    };
    futures_util::future::join_all((0..40).map(borrow)).await;
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'roster'";
    assert!((1..=2).contains(&database.count(open).await));
}

#[tokio::test]
async fn a_connection_that_broke_while_idle_fails_one_borrower_only() {
    let database = Database::new().await;
    let pool = pool_of(&database, 1);
    let mut first = pool.acquire().await.unwrap();
    let number = pid(&mut first).await;
    first.finish(Ok::<_, sqlx::Error>(())).unwrap();
    sqlx::query("SELECT pg_terminate_backend($1, 5000)").bind(number).execute(&database.pool).await.unwrap();
    let mut broken = pool.acquire().await.unwrap();
    assert!(sqlx::query(QUERY).execute(&mut *broken).await.is_err());
    drop(broken);
    let mut next = pool.acquire().await.unwrap();
    assert_ne!(pid(&mut next).await, number);
}
