//! The queues of writes: writes that lock the same row wait for each other here, before they take a connection.
//!
//! Without the queues, each of many writes to one organization takes a connection and waits for the row lock with it, until
//! no connection is left for the writes to others. A queue admits [`QUEUE_WRITES`](crate::service::limits::QUEUE_WRITES) writes at a time, in the order
//! of their arrival. The queues are those of one process: writes of other processes are excluded by the row lock alone.
//!
//! A write enters its queues in the order of the locks in the database (the request id first, then one other key) and
//! before its transaction begins. So a write that waits for a queue holds no lock in the database, and writes cannot wait
//! for each other in a circle.

use crate::domain::{OrganizationId, Slug, UserId};
use crate::store::StoreError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// What the writes of one queue lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::service) enum QueueKey {
    /// The row of a request id: the hash of its caller, and the id.
    Request([u8; 32], Uuid),
    /// The row of an organization.
    Organization(OrganizationId),
    /// A slug that is being claimed.
    Slug(Slug),
    /// The row of a user, for a change of this user.
    User(UserId),
    /// The access model.
    Model,
}

/// The queues that writes are in. A queue exists while a write is in it.
#[derive(Debug, Clone)]
pub(in crate::service) struct WriteQueues {
    queues: Arc<Mutex<HashMap<QueueKey, Arc<Semaphore>>>>,
    /// The number of writes that a queue admits at a time.
    at_once: usize,
}

impl WriteQueues {
    /// Queues that admit this number of writes at a time.
    pub(in crate::service) fn new(at_once: usize) -> Self {
        Self { queues: Arc::default(), at_once }
    }

    /// Waits until the queue admits one more write.
    ///
    /// # Errors
    /// [`StoreError::Timeout`] if the queue does not admit the write before the deadline, as for a row lock.
    pub(in crate::service) async fn enter(&self, key: QueueKey, deadline: Instant) -> Result<WritePlace, StoreError> {
        let new = || Arc::new(Semaphore::new(self.at_once));
        let queue = self.lock().entry(key.clone()).or_insert_with(new).clone();
        // Created before the wait: a wait that is given up leaves the queue too.
        let mut place = WritePlace { queues: self.clone(), key, queue: Some(queue.clone()), permit: None };
        let permit = timeout_at(deadline, queue.acquire_owned()).await.map_err(|_| StoreError::Timeout(None))?;
        place.permit = permit.ok();
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueKey, Arc<Semaphore>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a write in a queue, given up on drop.
#[derive(Debug)]
pub(in crate::service) struct WritePlace {
    queues: WriteQueues,
    key: QueueKey,
    /// `None` once the place is given up.
    queue: Option<Arc<Semaphore>>,
    /// `None` while the write waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for WritePlace {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        self.permit = None;
        self.queue = None;
        // References are cloned under the lock only: if the map holds the last one, no other write is in the queue.
        if queues.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test]
    async fn a_queue_admits_two_writes_at_a_time_in_the_order_of_arrival() {
        let queues = WriteQueues::new(2);
        let key = || QueueKey::User(UserId::parse("ada").unwrap());
        let first = queues.enter(key(), soon()).await.unwrap();
        let _second = queues.enter(key(), soon()).await.unwrap();
        let mut third = Box::pin(queues.enter(key(), soon()));
        let mut fourth = Box::pin(queues.enter(key(), soon()));
        let short = Duration::from_millis(1);
        assert!(tokio::time::timeout(short, &mut third).await.is_err());
        assert!(tokio::time::timeout(short, &mut fourth).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(short, &mut fourth).await.is_err(), "the fourth write overtook the third");
        assert!(tokio::time::timeout(short, &mut third).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_wait_ends_at_the_deadline_and_an_empty_queue_is_dropped() {
        let queues = WriteQueues::new(2);
        let key = || QueueKey::Request([7; 32], Uuid::nil());
        let places = [queues.enter(key(), soon()).await.unwrap(), queues.enter(key(), soon()).await.unwrap()];
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(matches!(queues.enter(key(), deadline).await, Err(StoreError::Timeout(None))));
        assert!(Instant::now() >= deadline);
        assert_eq!(queues.lock().len(), 1);
        drop(places);
        assert_eq!(queues.lock().len(), 0);
    }
}
