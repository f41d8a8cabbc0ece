//! Invitation tokens, stored as hashes, and the previews that recipients see of their invitations.

use super::StoreError;
use super::invitations::{InvitationPageKey, InvitationRow, invitation_query};
use crate::domain::{Attributes, EmailAddress, Invitation, InvitationId, OrganizationId, RoleName, UserId};
use crate::store::limits;
use crate::store::row_page::RowPage;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

/// Adds a token to an invitation, by its hash. Ends its oldest tokens beyond [`limits::INVITATION_TOKENS`].
///
/// # Errors
/// If Postgres does not answer.
pub async fn add_token(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
    hash: &[u8; 32],
) -> Result<(), StoreError> {
    // The mail worker adds tokens without the lock of the organization. Without this lock on the invitation, two
    // concurrent calls would each make room for only one token.
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

/// Finds the invitation of a token, in any state.
///
/// # Errors
/// If Postgres does not answer.
pub async fn invitation_of(connection: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<InvitationId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT invitation_id FROM invitation_tokens WHERE hash = $1", hash)
        .fetch_optional(connection)
        .await?;
    Ok(id.map(InvitationId::from_uuid))
}

/// Ends every token of a purged organization. Call it after the row of the organization was deleted: a transaction that
/// is adding a token locks the row of its invitation, the deletion waits for that lock, and so this sees the token.
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

/// An invitation with the names that its recipient sees.
#[derive(Debug, Clone)]
pub struct InvitationPreview {
    /// The invitation of the token.
    pub invitation: Invitation,
    /// The slug of the organization.
    pub organization_slug: String,
    /// The kind of the organization.
    pub organization_kind: String,
    /// The name of the organization.
    pub organization_name: String,
    /// The display name of the inviter; `None` if it is not a user or the user has none.
    pub inviter_name: Option<String>,
    /// The present role of the user who asks, if the user is a member already: accepting does not change it.
    pub member_role: Option<RoleName>,
}

struct InvitationPreviewRow {
    organization_id: Uuid,
    id: Uuid,
    identifier: String,
    is_email: bool,
    recipient_erased: bool,
    role: String,
    makes_owner: bool,
    attributes: Json<Attributes>,
    locale: Option<String>,
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
    slug: String,
    kind: String,
    name: String,
    inviter_name: Option<String>,
    member_role: Option<String>,
    has_next: Option<bool>,
}

/// A statement that returns [`InvitationPreviewRow`]s: the FROM clause up to the invitation `i`, the text after the
/// joins with its organization `o`, its inviter `u` and the membership of the user `$2`, the arguments.
macro_rules! preview_query {
    ($from:literal, $after:literal, $($argument:tt)*) => {
        invitation_query!(
            stored InvitationPreviewRow,
            "SELECT",
            r#", o.slug, o.kind, o.name, u.display_name AS "inviter_name?",
               CASE WHEN m.user_id = o.owner_id THEN 'owner' ELSE coalesce(r.replaced_by, d.replaced_by, m.role) END
                   AS "member_role?" "#
                $from
                " JOIN organizations o ON o.bucket = i.bucket AND o.id = i.organization_id
                  LEFT JOIN memberships m
                      ON m.bucket = i.bucket AND m.organization_id = i.organization_id AND m.user_id = $2
                  LEFT JOIN deployment_roles d ON d.name = m.deployment_role
                  LEFT JOIN organization_roles r ON r.bucket = m.bucket
                      AND r.organization_id = m.organization_id AND r.name = m.organization_role
                  LEFT JOIN users u ON i.inviter_kind = 'user'
                      AND u.user_bucket = user_bucket_of(i.inviter_id) AND u.id = i.inviter_id "
                $after,
            $($argument)*
        )
    };
}

impl From<InvitationPreviewRow> for InvitationPreview {
    fn from(row: InvitationPreviewRow) -> Self {
        let invitation = InvitationRow {
            organization_id: row.organization_id,
            id: row.id,
            identifier: row.identifier,
            is_email: row.is_email,
            recipient_erased: row.recipient_erased,
            role: row.role,
            makes_owner: row.makes_owner,
            attributes: row.attributes,
            locale: row.locale,
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
            has_next: row.has_next,
        };
        Self {
            invitation: invitation.into(),
            organization_slug: row.slug,
            organization_kind: row.kind,
            organization_name: row.name,
            inviter_name: row.inviter_name,
            member_role: row.member_role.as_deref().map(RoleName::from_stored),
        }
    }
}

/// Finds the invitation of a valid token: one that is pending, or that this user has accepted. Returns `None` for any
/// other token, whatever is wrong with it, and for a pending invitation to own an organization that has an owner. The
/// only difference left in timing is one index lookup.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find_valid(
    connection: &mut PgConnection,
    hash: &[u8; 32],
    user: Option<&UserId>,
) -> Result<Option<InvitationPreview>, StoreError> {
    Ok(preview_query!(
        "FROM invitation_tokens t
         JOIN invitations i ON i.bucket = t.bucket AND i.organization_id = t.organization_id AND i.id = t.invitation_id",
        "WHERE t.hash = $1 AND o.delete_time IS NULL
           AND ((i.state = 'PENDING' AND i.expire_time > clock_timestamp()
                 AND (o.owner_id IS NULL OR NOT i.makes_owner)) OR i.accepted_by = $2)",
        hash,
        user.map(UserId::as_str),
    )
    .fetch_optional(connection)
    .await?
    .map(InvitationPreview::from))
}

/// Lists the pending invitations to an address of this user, the oldest first, over all organizations that are neither
/// deleted nor inactive. An organization without an owner has invitations of its future owner only, and one with an owner
/// has none of them.
///
/// # Errors
/// If Postgres does not answer.
pub async fn received(
    connection: &mut PgConnection,
    address: &EmailAddress,
    user: &UserId,
    after: Option<InvitationPageKey>,
    limit: i64,
) -> Result<RowPage<InvitationPreview>, StoreError> {
    let rows = invitation_query!(
        listed InvitationPreviewRow,
        "SELECT",
        r#", i.slug AS "slug!", i.kind AS "kind!", i.name AS "name!", u.display_name AS "inviter_name?",
           CASE WHEN m.user_id = i.owner_id THEN 'owner' ELSE coalesce(r.replaced_by, d.replaced_by, m.role) END
               AS "member_role?"
         FROM (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.create_time, p.id) AS has_next
                     FROM (
                         SELECT found.*, o.slug, o.kind, o.name, o.owner_id FROM invitations found
                         JOIN organizations o ON o.bucket = found.bucket AND o.id = found.organization_id
                         WHERE found.identifier_normal = $1 AND found.is_email AND found.state = 'PENDING'
                           AND found.expire_time > clock_timestamp()
                           AND o.delete_time IS NULL AND o.state <> 'INACTIVE'
                           AND (o.owner_id IS NULL) = found.makes_owner
                           AND (found.create_time, found.id) > (
                               coalesce($2, '-infinity'::timestamptz),
                               coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid))
                         ORDER BY found.create_time, found.id
                         LIMIT $4) p
                     WINDOW before AS (ORDER BY p.create_time, p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $5
                 WINDOW before AS (ORDER BY s.create_time, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $6) i
         LEFT JOIN memberships m ON m.bucket = i.bucket AND m.organization_id = i.organization_id AND m.user_id = $7
         LEFT JOIN deployment_roles d ON d.name = m.deployment_role
         LEFT JOIN organization_roles r
             ON r.bucket = m.bucket AND r.organization_id = m.organization_id AND r.name = m.organization_role
         LEFT JOIN users u ON i.inviter_kind = 'user'
             AND u.user_bucket = user_bucket_of(i.inviter_id) AND u.id = i.inviter_id
         ORDER BY i.create_time, i.id"#,
        address.normal(),
        after.map(|after| after.create_time),
        after.map(|after| after.id.as_uuid()),
        limit,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
        user.as_str(),
    )
    .fetch_all(connection)
    .await?;
    Ok(RowPage::new(rows, |row| row.has_next, InvitationPreview::from))
}
