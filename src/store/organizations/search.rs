//! The search of organizations by name and slug.

use super::{OrganizationFilter, OrganizationPageKey, OrganizationRow};
use crate::domain::{Attributes, Kind, Organization, OrganizationState, SearchText};
use crate::store::row_page::RowPage;
use crate::store::{StoreError, limits};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::types::Json;
use sqlx::{Execute, Executor, FromRow, PgConnection, Postgres, Row, SqlStr};

/// A statement that Postgres plans for its arguments, every time: sqlx does not keep it prepared. A plan for all
/// arguments would read the whole table, because Postgres cannot know how many names an unknown pattern matches.
struct UnnamedStatement<S>(S);

impl<'q, S: Execute<'q, Postgres>> Execute<'q, Postgres> for UnnamedStatement<S> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// The pattern of LIKE for a text.
fn pattern(search: &SearchText) -> String {
    let text = search.folded().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    if search.matches_anywhere() { format!("%{text}%") } else { format!("{text}%") }
}

/// Reads candidates of a search after `after`, by name, then id: every organization that the filter selects, and
/// others, which the caller sorts out. Fewer than `most` are the last ones, unless the page is cut.
///
/// The other ones are organizations whose name changed since it was folded. All of them are candidates, whatever their
/// kind and state.
///
/// # Errors
/// If Postgres does not answer.
pub async fn search_candidates(
    connection: &mut PgConnection,
    filter: &OrganizationFilter,
    search: &SearchText,
    after: Option<&OrganizationPageKey>,
    most: i64,
) -> Result<RowPage<Organization>, StoreError> {
    // Each of the two parts has an index. The state is compared in a form that Postgres has statistics about, and the
    // second part has no further condition: after a wrong estimate Postgres would read the whole table.
    let statement = organization_query!(
        record
        "SELECT",
        ", o.has_next
         FROM (
             SELECT * FROM (
                 SELECT s.*, sum(octet_length(s.attributes::text)) OVER before AS text_before
                 FROM (
                     SELECT p.*, sum(pg_column_size(p.attributes || '{}')) OVER before AS stored_before,
                            lead(true) OVER (ORDER BY p.name, p.id) AS has_next
                     FROM (
                         SELECT found.* FROM
              ((SELECT bucket, id, name FROM organizations
                WHERE (folded_name LIKE $3 OR slug LIKE $3) AND ($1::text IS NULL OR kind = $1)
                  AND (delete_time IS NULL AND state <> ALL ($2::text[])
                       OR delete_time IS NOT NULL AND 'DELETED' <> ALL ($2::text[]))
                  AND (name, id) > (coalesce($4::text, ''), coalesce($5, '00000000-0000-0000-0000-000000000000'::uuid))
                ORDER BY name, id LIMIT $6)
               UNION
               (SELECT bucket, id, name FROM organizations
                WHERE folded_revision IS DISTINCT FROM row_revision
                  AND (name, id) > (coalesce($4::text, ''), coalesce($5, '00000000-0000-0000-0000-000000000000'::uuid))
                ORDER BY name, id LIMIT $6)
               ORDER BY name, id LIMIT $6) f
         JOIN organizations found ON found.bucket = f.bucket AND found.id = f.id) p
                     WINDOW before AS (ORDER BY p.name, p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) s
                 WHERE coalesce(s.stored_before, 0) < $7
                 WINDOW before AS (ORDER BY s.name, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) t
             WHERE coalesce(t.text_before, 0) < $8) o
         ORDER BY o.name, o.id",
        filter.kind.as_ref().map(Kind::as_str),
        &OrganizationState::names_except(&filter.states),
        pattern(search),
        after.map(|after| after.name.as_str()),
        after.map(|after| after.id.as_uuid()),
        most,
        limits::PAGE_STORED_BYTES,
        limits::PAGE_TEXT_BYTES,
    );
    let records = connection.fetch_all(UnnamedStatement(statement)).await?;
    let is_cut = match records.last() {
        Some(last) => last.try_get::<Option<bool>, _>("has_next")? == Some(true),
        None => false,
    };
    let rows: Result<_, sqlx::Error> = records.iter().map(|row| Ok(OrganizationRow::from_row(row)?.into())).collect();
    Ok(RowPage { rows: rows?, is_cut })
}
