//! Exports: all facts from which checks are answered, and the position in the change log from which to follow changes.
//!
//! An export reads bucket by bucket. Each bucket comes from one snapshot, with the position at which the change log of
//! that snapshot ends. From this position on the log has every later change, whatever happened to the other buckets.

use super::consistency_token::ConsistencyToken;
use super::{Roster, ServiceError};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{Kind, Refusal, UserId, UserState};
use crate::service::limits;
use crate::store::datastore::{self, Datastore};
use crate::store::export::ExportSnapshot;
use crate::store::limits::COPY_SILENCE;
use crate::store::{StoreError, in_time};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use std::future::Future;
use tokio::time::timeout;

pub use crate::store::export::{ExportHead, ExportRow};

/// The receiver of an export. It may delay the export, up to [`limits::EXPORT_BUCKET`] for each bucket.
pub trait ExportSink: Send {
    /// The error that ends the export.
    type Error: From<ServiceError> + Send;

    /// Receives a row of the current organization, or the first row of the next one.
    fn row(&mut self, row: ExportRow) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives a user who is not active.
    fn user(&mut self, user: UserId, state: UserState) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Roster {
    /// Exports everything, or the organizations of one kind and all users. The token covers exactly what was exported.
    ///
    /// # Errors
    /// The error of the sink; `OVERLOADED` if too many exports are running; `SLOW_READER` if the sink holds a snapshot
    /// open for too long; `CURSOR_EXPIRED` if the datastore lost writes during the export; if the datastore does not
    /// answer.
    pub async fn export<S: ExportSink>(&self, kind: Option<&Kind>, sink: &mut S) -> Result<ConsistencyToken, S::Error> {
        let _permit = self.exports.try_acquire().map_err(|_| ServiceError::from(Refusal::Overloaded))?;
        let mut token = self.replica.token(self.read_datastore().await?);
        for bucket in 0..ORGANIZATION_BUCKETS {
            let export = self.export_organizations(bucket, kind, &mut token, sink);
            timeout(limits::EXPORT_BUCKET, export).await.map_err(|_| ServiceError::from(Refusal::SlowReader))??;
        }
        for bucket in 0..USER_BUCKETS {
            let export = self.export_users(bucket, &mut token, sink);
            timeout(limits::EXPORT_BUCKET, export).await.map_err(|_| ServiceError::from(Refusal::SlowReader))??;
        }
        // After a change of the epoch, the exported rows may include writes that the datastore has lost.
        if token.is_of(self.read_datastore().await?) {
            Ok(token)
        } else {
            Err(ServiceError::from(Refusal::CursorExpired).into())
        }
    }

    async fn read_datastore(&self) -> Result<Datastore, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = in_time(COPY_SILENCE, datastore::datastore(&mut connection)).await;
        Ok(connection.finish(outcome)?)
    }

    async fn export_organizations<S: ExportSink>(
        &self,
        bucket: i16,
        kind: Option<&Kind>,
        token: &mut ConsistencyToken,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut connection = self.pool.acquire_read().await.map_err(ServiceError::from)?;
        let outcome = send_organizations(&mut connection, bucket, kind, token, sink).await;
        connection.finish(outcome)
    }

    async fn export_users<S: ExportSink>(
        &self,
        bucket: i16,
        token: &mut ConsistencyToken,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut connection = self.pool.acquire_read().await.map_err(ServiceError::from)?;
        let outcome = send_users(&mut connection, bucket, token, sink).await;
        connection.finish(outcome)
    }
}

async fn send_organizations<S: ExportSink>(
    connection: &mut PgConnection,
    bucket: i16,
    kind: Option<&Kind>,
    token: &mut ConsistencyToken,
    sink: &mut S,
) -> Result<(), S::Error> {
    let mut snapshot = ExportSnapshot::begin(connection).await.map_err(ServiceError::from)?;
    token.cover(snapshot.position(bucket).await.map_err(ServiceError::from)?);
    let mut rows = snapshot.organizations(bucket, kind);
    while let Some(row) = next(rows.try_next()).await? {
        sink.row(row).await?;
    }
    drop(rows);
    Ok(snapshot.end().await.map_err(ServiceError::from)?)
}

async fn send_users<S: ExportSink>(
    connection: &mut PgConnection,
    bucket: i16,
    token: &mut ConsistencyToken,
    sink: &mut S,
) -> Result<(), S::Error> {
    let mut snapshot = ExportSnapshot::begin(connection).await.map_err(ServiceError::from)?;
    token.cover_user(snapshot.user_position(bucket).await.map_err(ServiceError::from)?);
    let mut users = snapshot.users(bucket);
    while let Some((user, state)) = next(users.try_next()).await? {
        sink.user(user, state).await?;
    }
    drop(users);
    Ok(snapshot.end().await.map_err(ServiceError::from)?)
}

/// Waits for the next row, for as long as Postgres may be silent.
async fn next<T>(row: impl Future<Output = Result<Option<T>, StoreError>> + Send) -> Result<Option<T>, ServiceError> {
    Ok(in_time(COPY_SILENCE, row).await?)
}
