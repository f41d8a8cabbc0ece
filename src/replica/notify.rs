//! Notifications of writes between processes: with them the replica is milliseconds old rather than a quarter of a
//! second.
//!
//! A notification is only a hint. A process that misses one polls the log anyway, a little later.

use super::ReplicaState;
use crate::replica::limits;
use crate::store::log::tail;
use crate::store::{StoreError, pool};
use std::sync::atomic::Ordering;
use tokio::time::timeout;

/// Wakes the follower when another process has written. Reconnects after errors and never returns.
pub(super) async fn listen(shared: &ReplicaState) {
    loop {
        if let Err(error) = listen_once(shared).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "listening for writes failed, retrying");
        }
        shared.counters.listens.fetch_add(1, Ordering::Relaxed);
        // Notifications sent while the connection was down are lost.
        shared.wake_follower.notify_one();
        tokio::time::sleep(limits::FOLLOW_PAUSE).await;
    }
}

async fn listen_once(shared: &ReplicaState) -> Result<(), StoreError> {
    let mut listener = shared.replica_pool.listen(tail::CHANNEL).await?;
    loop {
        match timeout(limits::LISTEN_SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                if notification.payload() != shared.name {
                    shared.wake_follower.notify_one();
                }
            }
            // The connection broke, and notifications sent while it was down are lost.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            // A connection that the network has dropped silently is silent too.
            Err(_) => pool::check_listener(&mut listener).await?,
        }
    }
}

/// Notifies other processes of this one's writes: once for all commits since the last notification. Never returns.
pub(super) async fn announce(shared: &ReplicaState) {
    loop {
        shared.wake_announcer.notified().await;
        let notification = async {
            let mut connection = shared.replica_pool.acquire().await?;
            let outcome = tail::notify(&mut connection, &shared.name).await;
            connection.finish(outcome)
        };
        match timeout(limits::POLL_TIMEOUT, notification).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "notifying other processes of a write failed"
                );
            }
            Err(_) => tracing::debug!("notifying other processes of a write timed out"),
        }
        tokio::time::sleep(limits::NOTIFY_SPACING).await;
    }
}
