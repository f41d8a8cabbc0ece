//! Slugs: unique over all organizations, so a table of their own.

use super::StoreError;
use crate::domain::{OrganizationId, Slug};
use sqlx::PgConnection;

/// Claims a slug; false if it is taken. Waits for a transaction that has claimed it and not yet ended.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(connection: &mut PgConnection, slug: &Slug, id: OrganizationId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "INSERT INTO slugs (slug, bucket, organization_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        slug.as_str(),
        id.bucket(),
        id.as_uuid(),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a slug back.
///
/// # Errors
/// If Postgres does not answer.
pub async fn release(connection: &mut PgConnection, slug: &Slug, id: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM slugs WHERE slug = $1 AND organization_id = $2", slug.as_str(), id.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}

/// The first of these that nobody has; it may be gone before it is claimed.
///
/// # Errors
/// If Postgres does not answer.
pub async fn first_free(connection: &mut PgConnection, candidates: &[Slug]) -> Result<Option<usize>, StoreError> {
    let texts: Vec<String> = candidates.iter().map(|slug| slug.as_str().to_owned()).collect();
    let number = sqlx::query_scalar!(
        r#"SELECT q.number AS "number!" FROM unnest($1::text[]) WITH ORDINALITY AS q (slug, number)
           WHERE NOT EXISTS (SELECT FROM slugs s WHERE s.slug = q.slug) ORDER BY q.number LIMIT 1"#,
        &texts
    )
    .fetch_optional(connection)
    .await?;
    Ok(number.and_then(|number| usize::try_from(number - 1).ok()))
}
