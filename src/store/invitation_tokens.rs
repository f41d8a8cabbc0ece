//! Tokens of invitations, by their hashes, and what an invitation shows to the one invited.

use super::StoreError;
use super::invitations::{InvitationPageKey, InvitationRow};
use crate::domain::{Attributes, EmailAddress, Invitation, InvitationId, OrganizationId, UserId};
use crate::store::limits;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

/// Gives an invitation a further token, by its hash, and ends the oldest beyond five.
///
/// # Errors
/// If Postgres does not answer.
pub async fn add_token(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
    hash: &[u8; 32],
) -> Result<(), StoreError> {
    // Whoever claims its mails does not hold the organization: two at once would each leave room for one.
    sqlx::query!(
        "SELECT FROM invitations WHERE bucket = $1 AND organization_id = $2 AND id = $3 FOR NO KEY UPDATE",
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
    )
    .fetch_optional(&mut *connection)
    .await?;
    sqlx::query!(
        r#"DELETE FROM invitation_tokens WHERE hash IN (
               SELECT hash FROM invitation_tokens WHERE bucket = $1 AND organization_id = $2 AND invitation_id = $3
               ORDER BY create_time DESC, hash OFFSET $4)"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
        limits::INVITATION_TOKENS - 1,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"INSERT INTO invitation_tokens (hash, bucket, organization_id, invitation_id, create_time)
           VALUES ($4, $1, $2, $3, clock_timestamp())"#,
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid(),
        hash,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends every token of an invitation.
///
/// # Errors
/// If Postgres does not answer.
pub async fn drop_tokens(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM invitation_tokens WHERE bucket = $1 AND organization_id = $2 AND invitation_id = $3",
        organization.bucket(),
        organization.as_uuid(),
        id.as_uuid()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Which invitation a token is of, in whatever state it is.
///
/// # Errors
/// If Postgres does not answer.
pub async fn invitation_of(connection: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<InvitationId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT invitation_id FROM invitation_tokens WHERE hash = $1", hash)
        .fetch_optional(connection)
        .await?;
    Ok(id.map(InvitationId::from_uuid))
}

/// Ends every token of an organization that is gone. After its deletion: who is minting one holds a row that the deletion
/// waits for, and so the token is there to be seen.
///
/// # Errors
/// If Postgres does not answer.
pub async fn drop_all(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM invitation_tokens WHERE bucket = $1 AND organization_id = $2",
        organization.bucket(),
        organization.as_uuid()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An invitation as its token shows it, and what is told of it.
#[derive(Debug, Clone)]
pub struct InvitationPreview {
    /// The invitation.
    pub invitation: Invitation,
    /// What the organization is called.
    pub organization_name: String,
    /// What the inviter is called; none if nobody knows.
    pub inviter_name: Option<String>,
}

struct InvitationPreviewRow {
    organization_id: Uuid,
    id: Uuid,
    identifier: String,
    is_email: bool,
    role: String,
    makes_owner: bool,
    attributes: Json<Attributes>,
    state: Option<String>,
    inviter_kind: String,
    inviter_id: String,
    accepted_by: Option<String>,
    expire_time: OffsetDateTime,
    sends: i32,
    mail_state: Option<String>,
    mail_error: Option<String>,
    create_time: OffsetDateTime,
    update_time: OffsetDateTime,
    name: String,
    inviter_name: Option<String>,
}

impl TryFrom<InvitationPreviewRow> for InvitationPreview {
    type Error = StoreError;
    fn try_from(row: InvitationPreviewRow) -> Result<Self, StoreError> {
        let invitation = InvitationRow {
            organization_id: row.organization_id,
            id: row.id,
            identifier: row.identifier,
            is_email: row.is_email,
            role: row.role,
            makes_owner: row.makes_owner,
            attributes: row.attributes,
            state: row.state,
            inviter_kind: row.inviter_kind,
            inviter_id: row.inviter_id,
            accepted_by: row.accepted_by,
            expire_time: row.expire_time,
            sends: row.sends,
            mail_state: row.mail_state,
            mail_error: row.mail_error,
            create_time: row.create_time,
            update_time: row.update_time,
        };
        Ok(Self { invitation: invitation.try_into()?, organization_name: row.name, inviter_name: row.inviter_name })
    }
}

/// Finds the invitation of a token that is good: pending, or accepted by this very user. One that is not gives no row,
/// whatever is wrong with it: what is left of the difference is one look into an index.
///
/// # Errors
/// If Postgres does not answer.
pub async fn good(
    connection: &mut PgConnection,
    hash: &[u8; 32],
    user: Option<&UserId>,
) -> Result<Option<InvitationPreview>, StoreError> {
    sqlx::query_as!(
        InvitationPreviewRow,
        r#"SELECT i.organization_id, i.id, i.identifier, i.is_email, i.role, i.makes_owner,
                  i.attributes AS "attributes: Json<Attributes>", i.state AS "state?",
                  i.inviter_kind, i.inviter_id, i.accepted_by, i.expire_time, i.sends, i.mail_state, i.mail_error,
                  i.create_time, i.update_time, o.name, u.display_name AS "inviter_name?"
           FROM invitation_tokens t
           JOIN invitations i ON i.bucket = t.bucket AND i.organization_id = t.organization_id AND i.id = t.invitation_id
           JOIN organizations o ON o.bucket = t.bucket AND o.id = t.organization_id
           LEFT JOIN users u ON i.inviter_kind = 'user' AND u.user_bucket = user_bucket_of(i.inviter_id) AND u.id = i.inviter_id
           WHERE t.hash = $1 AND o.delete_time IS NULL
             AND ((i.state = 'PENDING' AND i.expire_time > clock_timestamp()) OR i.accepted_by = $2)"#,
        hash,
        user.map(UserId::as_str),
    )
    .fetch_optional(connection)
    .await?
    .map(InvitationPreview::try_from)
    .transpose()
}

/// Lists the pending invitations to an address, over all organizations that are there and not switched off, the oldest
/// first.
///
/// # Errors
/// If Postgres does not answer.
pub async fn received(
    connection: &mut PgConnection,
    address: &EmailAddress,
    after: Option<InvitationPageKey>,
    limit: i64,
) -> Result<Vec<InvitationPreview>, StoreError> {
    let rows = sqlx::query_as!(
        InvitationPreviewRow,
        r#"SELECT i.organization_id, i.id, i.identifier, i.is_email, i.role, i.makes_owner,
                  i.attributes AS "attributes: Json<Attributes>", i.state AS "state?",
                  i.inviter_kind, i.inviter_id, i.accepted_by, i.expire_time, i.sends, i.mail_state, i.mail_error,
                  i.create_time, i.update_time, o.name, u.display_name AS "inviter_name?"
           FROM invitations i
           JOIN organizations o ON o.bucket = i.bucket AND o.id = i.organization_id
           LEFT JOIN users u ON i.inviter_kind = 'user' AND u.user_bucket = user_bucket_of(i.inviter_id) AND u.id = i.inviter_id
           WHERE i.identifier_normal = $1 AND i.is_email AND i.state = 'PENDING' AND i.expire_time > clock_timestamp()
             AND o.delete_time IS NULL AND o.state <> 'INACTIVE'
             AND (i.create_time, i.id) > (coalesce($2, '-infinity'::timestamptz),
                                          coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid))
           ORDER BY i.create_time, i.id
           LIMIT $4"#,
        address.normal(),
        after.map(|after| after.create_time),
        after.map(|after| after.id.as_uuid()),
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(InvitationPreview::try_from).collect()
}
