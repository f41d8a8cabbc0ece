//! Exports: all facts from which checks are answered, and the position in the change log from which to follow changes.
//!
//! An export reads the access model, and then bucket by bucket. Each bucket comes from one snapshot, with the position
//! at which the change log of that snapshot ends. From this position on the log has every later change, whatever
//! happened to the other buckets.

use super::consistency_token::ConsistencyToken;
use super::export_queue::{ExportOrigin, ExportTurn};
use super::{Roster, ServiceError};
use crate::domain::ids::{MODEL_BUCKET, ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{Kind, OrganizationId, Refusal, Role, UserId, UserState};
use crate::service::limits;
use crate::store::datastore::{self, Datastore};
use crate::store::export::ExportSnapshot;
use crate::store::limits::COPY_SILENCE;
use crate::store::{StoreError, access_model, in_time};
use futures_util::TryStreamExt;
use sqlx::PgConnection;
use std::collections::HashMap;
use std::future::Future;
use tokio::time::timeout;

pub use crate::store::access_model::StoredModel;
pub use crate::store::export::{ExportHead, ExportRole};

/// The receiver of an export. It may delay the export, up to [`limits::EXPORT_BUCKET`] for each bucket.
pub trait ExportSink: Send {
    /// The error that ends the export.
    type Error: From<ServiceError> + Send;

    /// Receives the access model, before anything else.
    fn model(&mut self, model: StoredModel) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives the next organization, and the roles that it defines.
    fn organization(
        &mut self,
        head: ExportHead,
        roles: Vec<ExportRole>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives a member of the organization that came last, and the role as stored.
    fn member(&mut self, user: UserId, role: Role) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Called now and then while the export waits for its turn.
    fn waiting(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives a user who is not active.
    fn user(&mut self, user: UserId, state: UserState) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Roster {
    /// Exports everything, or the organizations of one kind and all users, as soon as the origin has a turn. The token
    /// covers exactly what was exported.
    ///
    /// # Errors
    /// The error of the sink; `OVERLOADED` if too many exports of the caller wait; `SLOW_READER` if the sink holds a
    /// snapshot open for too long; `CURSOR_EXPIRED` if the datastore lost writes during the export; if the datastore does
    /// not answer.
    pub async fn export<S: ExportSink>(
        &self,
        origin: &ExportOrigin,
        kind: Option<&Kind>,
        sink: &mut S,
    ) -> Result<ConsistencyToken, S::Error> {
        let mut turn = self.export_turn(origin, sink).await?;
        let mut token = self.replica.token(self.read_datastore().await?);
        let model = self.read_model().await?;
        token.cover(model.at().in_bucket(MODEL_BUCKET));
        sink.model(model).await?;
        for number in 0..ORGANIZATION_BUCKETS + USER_BUCKETS {
            if turn.is_over() {
                // Between two buckets an export holds neither a connection nor a snapshot.
                drop(turn);
                turn = self.export_turn(origin, sink).await?;
            }
            let export = async {
                match number.checked_sub(ORGANIZATION_BUCKETS).filter(|bucket| *bucket >= 0) {
                    Some(bucket) => self.export_users(bucket, &mut token, sink).await,
                    None => self.export_organizations(number, kind, &mut token, sink).await,
                }
            };
            timeout(limits::EXPORT_BUCKET, export).await.map_err(|_| ServiceError::from(Refusal::SlowReader))??;
        }
        // After a change of the epoch, the exported rows may include writes that the datastore has lost.
        if token.is_of(self.read_datastore().await?) {
            Ok(token)
        } else {
            Err(ServiceError::from(Refusal::CursorExpired).into())
        }
    }

    /// Waits for a turn.
    async fn export_turn<S: ExportSink>(&self, origin: &ExportOrigin, sink: &mut S) -> Result<ExportTurn, S::Error> {
        let mut turn = std::pin::pin!(self.exports.turn(origin));
        loop {
            match timeout(limits::EXPORT_HEARTBEAT, &mut turn).await {
                Ok(turn) => return Ok(turn.map_err(ServiceError::from)?),
                Err(_) => sink.waiting().await?,
            }
        }
    }

    async fn read_datastore(&self) -> Result<Datastore, ServiceError> {
        let mut connection = self.export_pool.acquire().await?;
        let outcome = in_time(COPY_SILENCE, datastore::datastore(&mut connection)).await;
        Ok(connection.finish(outcome)?)
    }

    async fn read_model(&self) -> Result<StoredModel, ServiceError> {
        let mut connection = self.export_pool.acquire().await?;
        let outcome = in_time(COPY_SILENCE, access_model::current(&mut connection)).await;
        Ok(connection.finish(outcome)?)
    }

    async fn export_organizations<S: ExportSink>(
        &self,
        bucket: i16,
        kind: Option<&Kind>,
        token: &mut ConsistencyToken,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut connection = self.export_pool.acquire().await.map_err(ServiceError::from)?;
        let outcome = send_organizations(&mut connection, bucket, kind, token, sink).await;
        connection.finish(outcome)
    }

    async fn export_users<S: ExportSink>(
        &self,
        bucket: i16,
        token: &mut ConsistencyToken,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut connection = self.export_pool.acquire().await.map_err(ServiceError::from)?;
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
    let mut roles = roles_of(&mut snapshot, bucket, kind).await?;
    let mut rows = snapshot.organizations(bucket, kind);
    while let Some(row) = next(rows.try_next()).await? {
        if let Some(head) = row.head {
            let roles = roles.remove(&head.id).unwrap_or_default();
            sink.organization(head, roles).await?;
        }
        if let Some((user, role)) = row.member {
            sink.member(user, role).await?;
        }
    }
    drop(rows);
    Ok(snapshot.end().await.map_err(ServiceError::from)?)
}

/// Reads the roles that the organizations of a bucket define. They are kept in memory, as those of every bucket are in
/// the replica.
async fn roles_of(
    snapshot: &mut ExportSnapshot<'_>,
    bucket: i16,
    kind: Option<&Kind>,
) -> Result<HashMap<OrganizationId, Vec<ExportRole>>, ServiceError> {
    let mut roles: HashMap<OrganizationId, Vec<ExportRole>> = HashMap::new();
    let mut rows = snapshot.organization_roles(bucket, kind);
    while let Some(role) = next(rows.try_next()).await? {
        roles.entry(role.organization).or_default().push(role);
    }
    Ok(roles)
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
