//! Answers of writes, as they are stored for a repeated request: without the profiles of users and the recipients of
//! invitations, which are read again when the answer is repeated. So they are erased with the user.

use super::WriteResult;
use crate::domain::{Invitation, InvitationId, Member, Organization, Refusal, User, UserId, ValueKind};
use crate::service::{ItemResult, ServiceError};
use crate::store::requests::StoredAnswer;
use crate::store::{StoreError, invitations, users};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;

/// The answer of a write.
pub trait WriteAnswer: Serialize + DeserializeOwned + Send + 'static {
    /// The users in the answer. Their serialized forms have no address and no display name.
    fn users(&mut self) -> Vec<&mut User> {
        Vec::new()
    }

    /// The invitations in the answer, all of one organization. Their serialized forms have no recipient.
    fn invitations(&mut self) -> Vec<&mut Invitation> {
        Vec::new()
    }
}

impl WriteAnswer for () {}
impl WriteAnswer for bool {}
impl WriteAnswer for usize {}
impl WriteAnswer for Organization {}

impl WriteAnswer for User {
    fn users(&mut self) -> Vec<&mut User> {
        vec![self]
    }
}

impl WriteAnswer for Member {
    fn users(&mut self) -> Vec<&mut User> {
        vec![&mut self.user]
    }
}

impl WriteAnswer for Invitation {
    fn invitations(&mut self) -> Vec<&mut Invitation> {
        vec![self]
    }
}

impl<T: WriteAnswer> WriteAnswer for Vec<ItemResult<T>> {
    fn users(&mut self) -> Vec<&mut User> {
        self.iter_mut().flatten().flat_map(T::users).collect()
    }

    fn invitations(&mut self) -> Vec<&mut Invitation> {
        self.iter_mut().flatten().flat_map(T::invitations).collect()
    }
}

/// Restores a stored answer, to repeat it.
///
/// # Errors
/// `VALUE_UNKNOWN` if a newer program stored the answer and this one cannot read it; if Postgres does not answer.
pub(super) async fn restore<T: WriteAnswer>(
    connection: &mut PgConnection,
    stored: StoredAnswer,
) -> Result<WriteResult<T>, ServiceError> {
    let mut written: WriteResult<T> = serde_json::from_value(stored.answer).map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "a stored answer is not readable");
        Refusal::ValueUnknown { value: ValueKind::Answer }
    })?;
    restore_profiles(connection, written.answer.users()).await?;
    restore_recipients(connection, written.answer.invitations()).await?;
    Ok(written)
}

/// Sets the present profile of each user, which an erased one does not have.
async fn restore_profiles(connection: &mut PgConnection, users: Vec<&mut User>) -> Result<(), StoreError> {
    if users.is_empty() {
        return Ok(());
    }
    let ids: Vec<UserId> = users.iter().map(|user| user.id.clone()).collect();
    let present = users::get_all(connection, &ids).await?;
    for user in users {
        let present = present.get(&user.id);
        user.email = present.and_then(|present| present.email.clone());
        user.email_verified = present.is_some_and(|present| present.email_verified);
        user.display_name = present.and_then(|present| present.display_name.clone());
    }
    Ok(())
}

/// Sets the recipient of each invitation, which is gone if it was erased or the invitation was deleted.
async fn restore_recipients(connection: &mut PgConnection, invited: Vec<&mut Invitation>) -> Result<(), StoreError> {
    let Some(organization) = invited.first().map(|invitation| invitation.organization) else { return Ok(()) };
    let ids: Vec<InvitationId> = invited.iter().map(|invitation| invitation.id).collect();
    let mut recipients = invitations::recipients(connection, organization, &ids).await?;
    for invitation in invited {
        invitation.recipient = recipients.remove(&invitation.id);
    }
    Ok(())
}
