//! Slugs. Their own table makes them unique over the organizations of all buckets.

use super::StoreError;
use crate::domain::{OrganizationId, Slug};
use sqlx::PgConnection;

/// Claims a slug for an organization; false if it is taken. Waits while another open transaction has claimed it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn claim(connection: &mut PgConnection, slug: &Slug, id: OrganizationId) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "INSERT INTO slugs (slug, bucket, organization_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        slug.as_str(),
        id.bucket(),
        id.as_uuid(),
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Releases a slug of an organization.
///
/// # Errors
/// If Postgres does not answer.
pub async fn release(connection: &mut PgConnection, slug: &Slug, id: OrganizationId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM slugs WHERE slug = $1 AND organization_id = $2", slug.as_str(), id.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}

/// The index of the first candidate that is free; `None` if all are taken. Another transaction may claim it first.
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
