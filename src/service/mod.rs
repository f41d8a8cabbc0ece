//! The use cases: one function for each rpc, one transaction for each write.
//!
//! [`Roster`] is the whole service without its transport. Reads are plain functions. A write is a [`write::Change`]
//! that [`Roster::write`] runs, so that no use case can forget the locks, the second decision, the event, the change
//! log or the request id.

pub mod access_model;
pub mod change_feed;
pub mod checks;
pub mod effective_permissions;
pub mod error;
pub mod events;
pub mod explanations;
pub mod export;
pub mod export_queue;
pub mod housekeeping;
pub mod invitations;
pub mod limits;
pub mod members;
pub mod organizations;
pub mod outbox;
mod permit;
pub mod profiles;
pub mod reads;
pub mod roles;
pub mod users;
pub mod write;

pub use crate::replica::{AnswerSource, Freshness, ReplicaSettings, ReplicaStatistics, consistency_token};
pub use crate::store::row_page::RowPage;
pub use error::{ItemResult, ServiceError};
pub use invitations::InvitationSettings;
pub use invitations::respond::InvitationReference;
pub use members::UnknownOwners;
pub use permit::CallPermit;

use crate::authn::ProfileSources;
use crate::clock::Clock;
use crate::replica::Replica;
use crate::store::pool::Pool;
use export_queue::ExportQueue;
use profiles::KnownUsers;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use write::queue::WriteQueues;

/// The service. Cheap to clone: clones share one state.
#[derive(Debug, Clone)]
pub struct Roster {
    pool: Pool,
    /// One connection for the size of the outbox, which every scrape of the metrics asks for.
    backlog_pool: Pool,
    replica: Replica,
    clock: Clock,
    writes: TaskTracker,
    queues: WriteQueues,
    invitations: Arc<InvitationSettings>,
    mail_due: Arc<Notify>,
    profile_sources: ProfileSources,
    known_users: KnownUsers,
    transfer_to_unknown: UnknownOwners,
    exports: ExportQueue,
    /// Exports have connections of their own, so that they delay no call.
    export_pool: Pool,
    log_retention: Duration,
}

impl Roster {
    /// Creates a service over this datastore. Its writes and its connections belong to the current Tokio runtime, which
    /// must outlive it. Panics outside a runtime.
    #[must_use]
    pub fn new(pool: Pool, clock: Clock) -> Self {
        let replica = Replica::new(pool.clone(), ReplicaSettings::default());
        let export_pool = pool.beside(limits::EXPORT_CONNECTIONS);
        Self {
            backlog_pool: pool.beside(1),
            pool,
            replica,
            clock,
            writes: TaskTracker::new(),
            queues: WriteQueues::new(limits::QUEUE_WRITES),
            invitations: Arc::default(),
            mail_due: Arc::default(),
            profile_sources: ProfileSources::default(),
            known_users: KnownUsers::default(),
            transfer_to_unknown: UnknownOwners::default(),
            exports: ExportQueue::default(),
            export_pool,
            log_retention: limits::LOG_RETENTION,
        }
    }

    /// Sets the quotas for invitations, and whether mail is sent. Default: [`InvitationSettings::default`], without
    /// mail.
    #[must_use]
    pub fn with_invitations(mut self, settings: InvitationSettings) -> Self {
        self.invitations = Arc::new(settings);
        self
    }

    /// Sets what may write the profile of each user. Default: tokens and `PutUser`.
    #[must_use]
    pub fn with_profile_sources(mut self, sources: ProfileSources) -> Self {
        self.profile_sources = sources;
        self
    }

    /// Sets whether ownership may be transferred to a user who is not known. Default: [`UnknownOwners::Allow`].
    #[must_use]
    pub fn with_transfer_to_unknown(mut self, transfer_to_unknown: UnknownOwners) -> Self {
        self.transfer_to_unknown = transfer_to_unknown;
        self
    }

    /// Sets the minimum retention of the change log. Default: seven days.
    #[must_use]
    pub fn with_log_retention(mut self, retention: Duration) -> Self {
        self.log_retention = retention;
        self
    }

    /// Changes the number of writes to one row that have a connection at a time, [`limits::QUEUE_WRITES`] by default.
    #[must_use]
    pub fn with_queued_writes(mut self, at_once: usize) -> Self {
        self.queues = WriteQueues::new(at_once);
        self
    }

    /// Sets the options of the replica. Default: [`ReplicaSettings::default`].
    #[must_use]
    pub fn with_replica(mut self, settings: ReplicaSettings) -> Self {
        self.replica = Replica::new(self.pool.clone(), settings);
        self
    }

    /// Notified when this process has put a mail into the outbox. Mails of other processes are found by polling.
    #[must_use]
    pub fn mail_due(&self) -> &Notify {
        &self.mail_due
    }

    /// The replica, from which checks and authorization decisions are answered.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The pool of connections to Postgres.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The runtime for long tasks: writes, watches and exports. The workers' runtimes stay free for short calls.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        self.pool.runtime()
    }

    /// Waits until every running write has ended, including writes whose callers disconnected. New writes may still
    /// start.
    pub async fn drain(&self) {
        self.writes.close();
        self.writes.wait().await;
    }
}
