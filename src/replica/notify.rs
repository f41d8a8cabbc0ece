//! Hearing of writes, and telling of them: what makes the copy milliseconds old rather than a quarter of a second.
//!
//! A hint and no more. Whoever misses one looks at the log all the same, a little later.

use super::ReplicaState;
use crate::replica::limits;
use crate::store::log::tail;
use sqlx::postgres::PgListener;
use std::sync::atomic::Ordering;

/// Listens for writes of other processes, for ever.
pub(super) async fn listen(shared: &ReplicaState) {
    loop {
        if let Err(error) = listen_once(shared).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "not listening for writes, for a moment");
        }
        shared.counters.listens.fetch_add(1, Ordering::Relaxed);
        // Whatever was said meanwhile was not heard.
        shared.notify.notify_one();
        tokio::time::sleep(limits::FOLLOW_PAUSE).await;
    }
}

async fn listen_once(shared: &ReplicaState) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(shared.own.connections()).await?;
    listener.listen(tail::CHANNEL).await?;
    // None: the connection broke, and what was said while it was broken is lost.
    while let Some(notification) = listener.try_recv().await? {
        if notification.payload() != shared.name {
            shared.notify.notify_one();
        }
    }
    Ok(())
}

/// Tells other processes of this one's writes, for ever: once for all that were committed since the last time.
pub(super) async fn announce(shared: &ReplicaState) {
    loop {
        shared.wrote.notified().await;
        let told = async {
            let mut connection = shared.own.acquire().await?;
            let outcome = tail::notify(&mut connection, &shared.name).await;
            connection.finish(outcome)
        };
        match tokio::time::timeout(limits::POLL_TIMEOUT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "a write was not told of"),
            Err(_) => tracing::debug!("a write was not told of in time"),
        }
        tokio::time::sleep(limits::NOTIFY_SPACING).await;
    }
}
