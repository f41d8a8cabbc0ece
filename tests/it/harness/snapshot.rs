//! A snapshot of a database, to detect and to undo the changes of a call.

use super::Database;
use sqlx::AssertSqlSafe;

/// All rows of all tables except `datastore`. Restoring the log loses writes; the follower detects that and records it
/// in `datastore`.
pub struct Snapshot {
    database: Database,
    /// The tables, each with the list of its columns that are not generated.
    tables: Vec<(String, String)>,
    rows: Vec<(String, String)>,
}

impl Snapshot {
    /// Takes a snapshot. Each database can have one.
    pub async fn take(database: &Database) -> Self {
        let names = "SELECT relname::text, string_agg(quote_ident(attname), ', ' ORDER BY attnum)
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
              AND relname NOT IN ('_sqlx_migrations', 'datastore')
              AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
            GROUP BY relname ORDER BY relname";
        let tables: Vec<(String, String)> = sqlx::query_as(names).fetch_all(&database.pool).await.unwrap();
        let copies: Vec<String> =
            tables.iter().map(|(table, _)| format!("CREATE TABLE saved.{table} AS TABLE public.{table}")).collect();
        let keep = format!("BEGIN; CREATE SCHEMA saved; {}; COMMIT", copies.join("; "));
        sqlx::raw_sql(AssertSqlSafe(keep)).execute(&database.pool).await.unwrap();
        let mut snapshot = Self { database: database.clone(), tables, rows: Vec::new() };
        snapshot.rows = snapshot.current().await;
        snapshot
    }

    async fn current(&self) -> Vec<(String, String)> {
        let selects: Vec<String> =
            self.tables.iter().map(|(table, _)| format!("SELECT '{table}', t::text FROM public.{table} t")).collect();
        let all = selects.join(" UNION ALL ");
        let mut rows: Vec<_> = sqlx::query_as(AssertSqlSafe(all)).fetch_all(&self.database.pool).await.unwrap();
        rows.sort();
        rows
    }

    /// The removed rows with `-` and the new rows with `+`, as text. Empty if nothing changed.
    pub async fn changes(&self) -> Vec<String> {
        let current = self.current().await;
        let removed = self.rows.iter().filter(|row| current.binary_search(row).is_err());
        let new = current.iter().filter(|row| self.rows.binary_search(row).is_err());
        let line = |sign: char| move |(table, row): &(String, String)| format!("{sign}{table}{row}");
        removed.map(line('-')).chain(new.map(line('+'))).collect()
    }

    /// Restores all rows.
    pub async fn restore(&self) {
        let undo = self.tables.iter().map(|(table, columns)| {
            format!(
                "DELETE FROM public.{table} t WHERE t::text NOT IN (SELECT k::text FROM saved.{table} k);
                 INSERT INTO public.{table} ({columns}) SELECT {columns} FROM saved.{table} k
                 WHERE k::text NOT IN (SELECT t::text FROM public.{table} t)"
            )
        });
        // In the role of a replication worker, for which Postgres does not check foreign keys between the statements.
        let undo = undo.collect::<Vec<_>>().join("; ");
        let undo = format!("BEGIN; SET LOCAL session_replication_role = replica; {undo}; COMMIT");
        sqlx::raw_sql(AssertSqlSafe(undo)).execute(&self.database.pool).await.unwrap();
        assert_eq!(self.changes().await, Vec::<String>::new());
    }
}
