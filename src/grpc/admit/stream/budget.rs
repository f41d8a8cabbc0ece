//! The bytes of large messages that wait in streams to be sent.
//!
//! Every stream has its room for messages of ordinary size: [`STREAM_MESSAGES`](limits::STREAM_MESSAGES) that wait
//! and one that is being sent, each of [`CHUNK_BYTES`](limits::CHUNK_BYTES). The number of streams bounds these, and no
//! stream waits for another one to send them. A message can be larger, because a write is sent whole up to 3 MiB: what it
//! has beyond `CHUNK_BYTES` is charged to the budget from when it is made. So a peer that does not read can delay the large
//! messages of others, for at most the time for slow readers, and nothing else.

use crate::grpc::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of bytes for one connection, and for the whole server. Clones share it.
#[derive(Debug, Clone)]
pub struct StreamBudget {
    server: BudgetPart,
    connection: BudgetPart,
    number: u64,
}

#[derive(Debug, Clone)]
struct BudgetPart {
    bytes: u32,
    free: Arc<Semaphore>,
}

impl BudgetPart {
    fn new(bytes: usize) -> Self {
        // A semaphore has at least this many permits.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { bytes, free: Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS))) }
    }

    /// Waits for this many bytes. A message that is larger than the part waits until it has the whole part.
    async fn charge(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        // An error is impossible: the semaphore is never closed.
        self.free.clone().acquire_many_owned(bytes.min(self.bytes)).await.ok()
    }
}

impl StreamBudget {
    /// The budget of a server, in bytes. Each connection then gets a part by [`Self::connection`].
    #[must_use]
    pub fn server(bytes: usize) -> Self {
        Self { server: BudgetPart::new(bytes), connection: BudgetPart::new(bytes), number: 0 }
    }

    /// The budget of one more connection, in bytes, within the budget of the server.
    #[must_use]
    pub fn connection(&self, bytes: usize) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { server: self.server.clone(), connection: BudgetPart::new(bytes), number }
    }

    /// The number of the connection, which no other connection of the process has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Charges what a message of this many bytes has beyond the room of its stream. Waits while the budget of the
    /// connection or of the server has too little left.
    pub(super) async fn charge(&self, bytes: usize) -> BudgetCharge {
        let bytes = u32::try_from(bytes.saturating_sub(limits::CHUNK_BYTES)).unwrap_or(u32::MAX);
        if bytes == 0 {
            return BudgetCharge::default();
        }
        // The own connection first: a stream that waits for its own connection holds nothing of the server's part.
        let connection = self.connection.charge(bytes).await;
        BudgetCharge { connection, server: self.server.charge(bytes).await }
    }
}

/// The charge of one message, returned when it is dropped.
#[derive(Debug, Default)]
pub(in crate::grpc) struct BudgetCharge {
    connection: Option<OwnedSemaphorePermit>,
    server: Option<OwnedSemaphorePermit>,
}

impl BudgetCharge {
    /// Returns what a message of this many bytes does not need.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let needed = bytes.saturating_sub(limits::CHUNK_BYTES);
        for permit in [&mut self.connection, &mut self.server].into_iter().flatten() {
            // Dropped: the permits are returned.
            let _ = permit.split(permit.num_permits().saturating_sub(needed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const CHUNK: usize = limits::CHUNK_BYTES;

    fn charge(budget: &StreamBudget, beyond: usize) -> Option<BudgetCharge> {
        budget.charge(CHUNK + beyond).now_or_never()
    }

    #[test]
    fn a_message_of_ordinary_size_never_waits() {
        let budget = StreamBudget::server(1_000).connection(100);
        let held = charge(&budget, 100);
        assert!(held.is_some() && charge(&budget, 1).is_none());
        assert!(budget.charge(CHUNK).now_or_never().is_some());
    }

    #[test]
    fn a_connection_uses_its_own_part_only_and_all_connections_share_the_servers() {
        let server = StreamBudget::server(150);
        let [first, second] = [server.connection(100), server.connection(100)];
        assert_ne!(first.number(), second.number());
        let held = charge(&first, 100);
        assert!(held.is_some() && charge(&first, 1).is_none());
        let other = charge(&second, 50);
        assert!(other.is_some() && charge(&second, 1).is_none(), "the server's part is used up");
        drop(held);
        assert!(charge(&second, 50).is_some() && charge(&first, 100).is_some());
    }

    #[test]
    fn a_message_that_turns_out_smaller_returns_the_rest() {
        let budget = StreamBudget::server(1_000).connection(100);
        let mut held = charge(&budget, 100).unwrap();
        held.shrink(CHUNK + 30);
        assert!(charge(&budget, 71).is_none() && charge(&budget, 70).is_some());
        held.shrink(CHUNK + 90);
        assert!(charge(&budget, 71).is_none());
        held.shrink(1);
        assert!(charge(&budget, 100).is_some());
    }

    #[test]
    fn a_message_larger_than_the_budget_waits_for_all_of_it() {
        let budget = StreamBudget::server(1_000).connection(100);
        let small = charge(&budget, 1);
        assert!(charge(&budget, 5_000).is_none());
        drop(small);
        assert!(charge(&budget, 5_000).is_some());
    }
}
