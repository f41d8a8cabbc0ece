//! Exports: everything that checks are answered from, and the place in the log from which to follow what changes.
//!
//! Bucket by bucket, each from one snapshot and with the position at which the log of that snapshot ends: from there on
//! the log tells what has changed since, whatever the other buckets did meanwhile.

use super::consistency_token::ConsistencyToken;
use super::{Roster, ServiceError};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{Kind, Refusal, UserId, UserState};
use crate::service::limits;
use crate::store::datastore::{self, Datastore};
use crate::store::export::ExportSnapshot;
use futures_util::TryStreamExt;
use std::future::Future;
use tokio::time::timeout;

pub use crate::store::export::{ExportHead, ExportRow};

/// Whom an export is told to. It may make the export wait, but not for ever.
pub trait ExportSink: Send {
    /// How listening can end.
    type Error: From<ServiceError> + Send;

    /// Takes a member of the organization before, or the first of the next one.
    fn row(&mut self, row: ExportRow) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes a user who is not active.
    fn user(&mut self, user: UserId, state: UserState) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Roster {
    /// Tells everything, or the organizations of one kind and everything of users. The token covers exactly what was told.
    ///
    /// # Errors
    /// What the listener fails with; `OVERLOADED` if there are too many exports already; `SLOW_READER` if the listener
    /// holds a snapshot for too long; if the datastore does not answer.
    pub async fn export<L: ExportSink>(
        &self,
        kind: Option<&Kind>,
        listener: &mut L,
    ) -> Result<ConsistencyToken, L::Error> {
        let _place = self.exports.try_acquire().map_err(|_| ServiceError::from(Refusal::Overloaded))?;
        let mut token = ConsistencyToken::new(self.present_datastore().await?);
        for bucket in 0..ORGANIZATION_BUCKETS {
            let told = self.export_organizations(bucket, kind, &mut token, listener);
            timeout(limits::EXPORT_BUCKET, told).await.map_err(|_| ServiceError::from(Refusal::SlowReader))??;
        }
        for bucket in 0..USER_BUCKETS {
            let told = self.export_users(bucket, &mut token, listener);
            timeout(limits::EXPORT_BUCKET, told).await.map_err(|_| ServiceError::from(Refusal::SlowReader))??;
        }
        // Of another epoch, what was told is of a history that may no longer be.
        if token.is_of(self.present_datastore().await?) {
            Ok(token)
        } else {
            Err(ServiceError::from(Refusal::CursorExpired).into())
        }
    }

    async fn present_datastore(&self) -> Result<Datastore, ServiceError> {
        Ok(datastore::datastore(&mut *self.pool.acquire().await?).await?)
    }

    async fn export_organizations<L: ExportSink>(
        &self,
        bucket: i16,
        kind: Option<&Kind>,
        token: &mut ConsistencyToken,
        listener: &mut L,
    ) -> Result<(), L::Error> {
        let mut connection = self.pool.acquire().await.map_err(ServiceError::from)?;
        let mut snapshot = ExportSnapshot::begin(&mut connection).await.map_err(ServiceError::from)?;
        token.cover(snapshot.position(bucket).await.map_err(ServiceError::from)?);
        let mut rows = snapshot.organizations(bucket, kind);
        while let Some(row) = rows.try_next().await.map_err(ServiceError::from)? {
            listener.row(row).await?;
        }
        drop(rows);
        Ok(snapshot.end().await.map_err(ServiceError::from)?)
    }

    async fn export_users<L: ExportSink>(
        &self,
        bucket: i16,
        token: &mut ConsistencyToken,
        listener: &mut L,
    ) -> Result<(), L::Error> {
        let mut connection = self.pool.acquire().await.map_err(ServiceError::from)?;
        let mut snapshot = ExportSnapshot::begin(&mut connection).await.map_err(ServiceError::from)?;
        token.cover_user(snapshot.user_position(bucket).await.map_err(ServiceError::from)?);
        let mut users = snapshot.users(bucket);
        while let Some((user, state)) = users.try_next().await.map_err(ServiceError::from)? {
            listener.user(user, state).await?;
        }
        drop(users);
        Ok(snapshot.end().await.map_err(ServiceError::from)?)
    }
}
