//! Exports: everything that checks are answered from, and the place in the log from which to follow what changes.
//!
//! Bucket by bucket, each from one snapshot and with the position at which the log of that snapshot ends: from there on
//! the log tells what has changed since, whatever the other buckets did meanwhile.

use super::token::Token;
use super::{Error, Roster};
use crate::domain::ids::{ORGANIZATION_BUCKETS, USER_BUCKETS};
use crate::domain::{Kind, Refusal, UserId, UserState, limits};
use crate::store::export::Snapshot;
use crate::store::pool::{self, Datastore};
use futures_util::TryStreamExt;
use std::future::Future;
use tokio::time::timeout;

pub use crate::store::export::{Head, Row};

/// Whom an export is told to. It may make the export wait, but not for ever.
pub trait Listener: Send {
    /// How listening can end.
    type Error: From<Error> + Send;

    /// Takes a member of the organization before, or the first of the next one.
    fn row(&mut self, row: Row) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes a user who is not active.
    fn user(&mut self, user: UserId, state: UserState) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Roster {
    /// Tells everything, or the organizations of one kind and everything of users. The token covers exactly what was told.
    ///
    /// # Errors
    /// What the listener fails with; `OVERLOADED` if there are too many exports already; `SLOW_READER` if the listener
    /// holds a snapshot for too long; if the datastore does not answer.
    pub async fn export<L: Listener>(&self, kind: Option<&Kind>, listener: &mut L) -> Result<Token, L::Error> {
        let _place = self.exports.try_acquire().map_err(|_| Error::from(Refusal::Overloaded))?;
        let mut token = Token::new(self.present_datastore().await?);
        for bucket in 0..ORGANIZATION_BUCKETS {
            let told = self.export_organizations(bucket, kind, &mut token, listener);
            timeout(limits::EXPORT_BUCKET, told).await.map_err(|_| Error::from(Refusal::SlowReader))??;
        }
        for bucket in 0..USER_BUCKETS {
            let told = self.export_users(bucket, &mut token, listener);
            timeout(limits::EXPORT_BUCKET, told).await.map_err(|_| Error::from(Refusal::SlowReader))??;
        }
        // Of another epoch, what was told is of a history that may no longer be.
        if token.is_of(self.present_datastore().await?) {
            Ok(token)
        } else {
            Err(Error::from(Refusal::CursorExpired).into())
        }
    }

    async fn present_datastore(&self) -> Result<Datastore, Error> {
        Ok(pool::datastore(&mut *self.pool.acquire().await?).await?)
    }

    async fn export_organizations<L: Listener>(
        &self,
        bucket: i16,
        kind: Option<&Kind>,
        token: &mut Token,
        listener: &mut L,
    ) -> Result<(), L::Error> {
        let mut connection = self.pool.acquire().await.map_err(Error::from)?;
        let mut snapshot = Snapshot::begin(&mut connection).await.map_err(Error::from)?;
        token.cover(snapshot.position(bucket).await.map_err(Error::from)?);
        let mut rows = snapshot.organizations(bucket, kind);
        while let Some(row) = rows.try_next().await.map_err(Error::from)? {
            listener.row(row).await?;
        }
        drop(rows);
        Ok(snapshot.end().await.map_err(Error::from)?)
    }

    async fn export_users<L: Listener>(
        &self,
        bucket: i16,
        token: &mut Token,
        listener: &mut L,
    ) -> Result<(), L::Error> {
        let mut connection = self.pool.acquire().await.map_err(Error::from)?;
        let mut snapshot = Snapshot::begin(&mut connection).await.map_err(Error::from)?;
        token.cover_user(snapshot.user_position(bucket).await.map_err(Error::from)?);
        let mut users = snapshot.users(bucket);
        while let Some((user, state)) = users.try_next().await.map_err(Error::from)? {
            listener.user(user, state).await?;
        }
        drop(users);
        Ok(snapshot.end().await.map_err(Error::from)?)
    }
}
