//! The use cases: one function for each rpc, one transaction for each write.
//!
//! [`Roster`] is the whole service without its wire. Reads are plain functions; a write is a [`write::Change`] that
//! [`Roster::write`] runs, so that no path can forget the locks, the second decision, the event, the log or the
//! request id.

pub mod change_feed;
pub mod checks;
pub mod error;
pub mod events;
pub mod export;
pub mod housekeeping;
pub mod invitations;
pub mod limits;
pub mod members;
pub mod organizations;
pub mod outbox;
mod permit;
pub mod reads;
pub mod users;
pub mod write;

pub use crate::replica::{AnswerSource, Freshness, ReplicaSettings, ReplicaStatistics, consistency_token};
pub use error::ServiceError;
pub use invitations::InvitationSettings;
pub use invitations::respond::InvitationReference;
pub use permit::CallPermit;

use crate::clock::Clock;
use crate::domain::Refusal;
use crate::replica::Replica;
use crate::store::pool::Pool;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

/// The outcome of one item of a batch.
pub type ItemResult<T> = Result<T, Refusal>;

/// The service: what it stands on. Cheap to clone; clones are one service.
#[derive(Debug, Clone)]
pub struct Roster {
    pool: Pool,
    replica: Replica,
    clock: Clock,
    writes: TaskTracker,
    invitations: Arc<InvitationSettings>,
    mail_due: Arc<Notify>,
    exports: Arc<Semaphore>,
    log_retention: Duration,
}

impl Roster {
    /// A service over this datastore. What it does there runs in the runtime that this is called in, which has to be
    /// one and has to outlive it.
    #[must_use]
    pub fn new(pool: PgPool, clock: Clock) -> Self {
        let pool = Pool::new(pool);
        let replica = Replica::new(pool.clone(), ReplicaSettings::default());
        Self {
            pool,
            replica,
            clock,
            writes: TaskTracker::new(),
            invitations: Arc::default(),
            mail_due: Arc::default(),
            exports: Arc::new(Semaphore::new(limits::EXPORTS)),
            log_retention: limits::LOG_RETENTION,
        }
    }

    /// With these limits for invitations, and with or without mail. Without this call: the defaults, and no mail.
    #[must_use]
    pub fn with_invitations(mut self, settings: InvitationSettings) -> Self {
        self.invitations = Arc::new(settings);
        self
    }

    /// With a change log that is kept for so long at least. Without this call: seven days.
    #[must_use]
    pub fn with_log_retention(mut self, retention: Duration) -> Self {
        self.log_retention = retention;
        self
    }

    /// With an index that works like this. Without this call: the defaults.
    #[must_use]
    pub fn with_replica(mut self, settings: ReplicaSettings) -> Self {
        self.replica = Replica::new(self.pool.clone(), settings);
        self
    }

    /// Woken whenever this process has put a mail into the outbox. Other processes' mails are found by asking.
    #[must_use]
    pub fn mail_due(&self) -> &Notify {
        &self.mail_due
    }

    /// The look-up that decisions are made from.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The datastore's pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The runtime for what is long: writes, watches, exports. Those that serve connections are kept free for calls.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        self.pool.runtime()
    }

    /// Waits until every write under way has ended, also those whose callers hung up. New writes may still begin.
    pub async fn drain(&self) {
        self.writes.close();
        self.writes.wait().await;
    }
}
