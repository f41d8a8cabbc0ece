//! The folded names of organizations, by which the search finds them: filled in for rows that an older release wrote.
//!
//! A folded name is valid if `folded_revision` is the `row_revision` of its row, which grows with every change of the
//! row by any release. Filling it in is no change of the organization: revisions and times stay, and no event and no
//! row of the change log is written.

use super::StoreError;
use crate::domain::folding::fold;
use crate::store::limits;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// Creates the index for the search of three and more characters, unless it exists. It needs the extension `pg_trgm`,
/// which is created too, unless it exists. Concurrent processes take turns.
///
/// # Errors
/// If Postgres does not have the extension, or the role may not create it or the index; if Postgres does not answer.
pub async fn create_trigram_index(connection: &mut PgConnection) -> Result<(), StoreError> {
    // The operator class is in the schema of the extension, which need not be in the search path. The write that fills
    // the list of pending entries has to sort them in: a list of 256 KiB delays it by some milliseconds, the default
    // one of 4 MiB by a second. The advisory lock is the one after that of the partitions in `limits`.
    sqlx::query!(
        r#"DO $$
           DECLARE
               operators text;
           BEGIN
               PERFORM pg_advisory_xact_lock(x'00726f7374657202'::bigint);
               CREATE EXTENSION IF NOT EXISTS pg_trgm;
               SELECT format('%I.gin_trgm_ops', n.nspname) INTO STRICT operators
               FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm';
               EXECUTE format('CREATE INDEX IF NOT EXISTS organizations_by_trigram ON organizations
                                   USING gin (folded_name %1$s, slug %1$s)
                                   WITH (gin_pending_list_limit = 256)', operators);
           END
           $$"#
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The buckets of the first `most` organizations whose name must be folded, ascending.
///
/// # Errors
/// If Postgres does not answer.
pub async fn stale_buckets(connection: &mut PgConnection, most: i64) -> Result<Vec<i16>, StoreError> {
    // The order makes Postgres use the index of these rows, which is nearly always empty.
    let buckets = sqlx::query_scalar!(
        r#"SELECT DISTINCT bucket FROM (
               SELECT bucket FROM organizations WHERE folded_revision IS DISTINCT FROM row_revision
               ORDER BY name, id LIMIT $1) stale
           ORDER BY bucket"#,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(buckets)
}

/// Folds the names of a bucket that must be folded, at most `most` of them. Returns the number folded. Several
/// processes may run this at the same time.
///
/// # Errors
/// If Postgres does not answer, or a writer holds an organization for longer than [`limits::FOLD_LOCK_WAIT`].
pub async fn fold_bucket(connection: &mut PgConnection, bucket: i16, most: usize) -> Result<usize, StoreError> {
    let mut folded = 0;
    let mut after = Uuid::nil();
    while folded < most {
        let piece = (most - folded).min(limits::FOLD_NAMES);
        let ids = fold_piece(connection, bucket, after, piece).await?;
        folded += ids.len();
        match ids.last() {
            Some(last) if ids.len() == piece => after = *last,
            _ => break,
        }
    }
    Ok(folded)
}

/// Folds the first names of a bucket after an id, in one transaction. Returns the ids of the organizations, ascending.
async fn fold_piece(
    connection: &mut PgConnection,
    bucket: i16,
    after: Uuid,
    most: usize,
) -> Result<Vec<Uuid>, StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query_scalar!("SELECT set_config('lock_timeout', $1, true)", limits::FOLD_LOCK_WAIT.as_millis().to_string())
        .fetch_one(&mut *transaction)
        .await?;
    // The order of the locks is that of every write, and a row that another process has folded meanwhile is left out.
    let rows = sqlx::query!(
        "SELECT id, name FROM organizations
         WHERE bucket = $1 AND id > $2 AND folded_revision IS DISTINCT FROM row_revision
         ORDER BY id LIMIT $3 FOR NO KEY UPDATE",
        bucket,
        after,
        i64::try_from(most).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *transaction)
    .await?;
    let names: Vec<String> = rows.iter().map(|row| fold(&row.name)).collect();
    let ids: Vec<Uuid> = rows.into_iter().map(|row| row.id).collect();
    sqlx::query!(
        "UPDATE organizations SET folded_name = q.folded_name, folded_revision = row_revision
         FROM unnest($2::uuid[], $3::text[]) AS q (id, folded_name)
         WHERE bucket = $1 AND organizations.id = q.id",
        bucket,
        &ids,
        &names,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(ids)
}

/// Removes the rows that folding has replaced, which every search would read in the index of the names to fold, and
/// updates the statistics by which Postgres chooses the indexes of a search. Outside of a transaction only.
///
/// # Errors
/// If Postgres does not answer.
pub async fn vacuum(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("VACUUM (ANALYZE) organizations").execute(connection).await?;
    Ok(())
}
