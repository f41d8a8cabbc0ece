//! The recipients of invitations: read again for stored answers, and erased with their user.

use crate::domain::{EmailAddress, InvitationId, OrganizationId, Recipient, UserId};
use crate::store::StoreError;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Reads the recipients of invitations of an organization. Erased recipients are left out.
///
/// # Errors
/// If Postgres does not answer.
pub async fn recipients(
    connection: &mut PgConnection,
    organization: OrganizationId,
    ids: &[InvitationId],
) -> Result<BTreeMap<InvitationId, Recipient>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let rows = sqlx::query!(
        "SELECT id, identifier, is_email FROM invitations
         WHERE bucket = $1 AND organization_id = $2 AND id = ANY ($3) AND NOT recipient_erased",
        organization.bucket(),
        organization.as_uuid(),
        &ids,
    )
    .fetch_all(connection)
    .await?;
    let recipient = |identifier, is_email| Recipient::from_stored(identifier, is_email);
    Ok(rows.into_iter().map(|row| (InvitationId::from_uuid(row.id), recipient(row.identifier, row.is_email))).collect())
}

/// Finds the organizations with invitations that hold the address, or that the user accepted and whose recipient is not
/// erased, in any state.
///
/// # Errors
/// If Postgres does not answer.
pub async fn inviting(
    connection: &mut PgConnection,
    user: &UserId,
    address: Option<&EmailAddress>,
) -> Result<BTreeSet<OrganizationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT organization_id AS "id!" FROM invitations WHERE accepted_by = $1 AND NOT recipient_erased
           UNION
           SELECT organization_id FROM invitations WHERE identifier_normal = $2 AND is_email AND NOT recipient_erased"#,
        user.as_str(),
        address.map(EmailAddress::normal),
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(OrganizationId::from_uuid).collect())
}

/// Erases the recipients of the invitations of a locked organization that have ended and hold the address, or that the user
/// accepted. A hash with the salt takes the place of each. Without the salt, which is not stored, the hash of an address
/// cannot be found by trying addresses.
///
/// # Errors
/// If Postgres does not answer.
pub async fn erase_recipients(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: &UserId,
    address: Option<&EmailAddress>,
    salt: &[u8; 32],
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"UPDATE invitations
           SET identifier = encode(sha256($5::bytea || convert_to(identifier_normal, 'UTF8')), 'hex'),
               identifier_normal = encode(sha256($5::bytea || convert_to(identifier_normal, 'UTF8')), 'hex'),
               recipient_erased = true, update_time = statement_timestamp()
           WHERE bucket = $1 AND organization_id = $2 AND state <> 'PENDING' AND NOT recipient_erased
             AND (accepted_by = $3 OR (is_email AND identifier_normal = $4))"#,
        organization.bucket(),
        organization.as_uuid(),
        user.as_str(),
        address.map(EmailAddress::normal),
        salt,
    )
    .execute(connection)
    .await?;
    Ok(())
}
