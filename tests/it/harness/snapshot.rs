//! Everything in a database, kept: to see that a call changed nothing, and to undo one that did.

use super::Database;
use sqlx::AssertSqlSafe;

/// All rows of all tables, as they were. Not of `datastore`: putting back the log is losing writes, and whoever follows it
/// notices and says so there.
pub struct Snapshot {
    database: Database,
    tables: Vec<String>,
    rows: Vec<(String, String)>,
}

impl Snapshot {
    /// Keeps what is there now. Once for each database.
    pub async fn take(database: &Database) -> Self {
        let named = "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
              AND relname NOT IN ('_sqlx_migrations', 'datastore') ORDER BY relname";
        let tables: Vec<String> = sqlx::query_scalar(named).fetch_all(&database.pool).await.unwrap();
        let copies: Vec<String> =
            tables.iter().map(|table| format!("CREATE TABLE kept.{table} AS TABLE public.{table}")).collect();
        let keep = format!("BEGIN; CREATE SCHEMA kept; {}; COMMIT", copies.join("; "));
        sqlx::raw_sql(AssertSqlSafe(keep)).execute(&database.pool).await.unwrap();
        let mut snapshot = Self { database: database.clone(), tables, rows: Vec::new() };
        snapshot.rows = snapshot.present().await;
        snapshot
    }

    async fn present(&self) -> Vec<(String, String)> {
        let selects: Vec<String> =
            self.tables.iter().map(|table| format!("SELECT '{table}', t::text FROM public.{table} t")).collect();
        let all = selects.join(" UNION ALL ");
        let mut rows: Vec<_> = sqlx::query_as(AssertSqlSafe(all)).fetch_all(&self.database.pool).await.unwrap();
        rows.sort();
        rows
    }

    /// The rows that are no longer there and those that are new, as text; none if nothing was changed.
    pub async fn changes(&self) -> Vec<String> {
        let present = self.present().await;
        let gone = self.rows.iter().filter(|row| present.binary_search(row).is_err());
        let new = present.iter().filter(|row| self.rows.binary_search(row).is_err());
        let tell = |sign: char| move |(table, row): &(String, String)| format!("{sign}{table}{row}");
        gone.map(tell('-')).chain(new.map(tell('+'))).collect()
    }

    /// Puts everything back.
    pub async fn restore(&self) {
        let undo = self.tables.iter().map(|table| {
            format!(
                "DELETE FROM public.{table} t WHERE t::text NOT IN (SELECT k::text FROM kept.{table} k);
                 INSERT INTO public.{table} SELECT * FROM kept.{table} k
                 WHERE k::text NOT IN (SELECT t::text FROM public.{table} t)"
            )
        });
        // As a replica does it, without asking the foreign keys in between.
        let undo = undo.collect::<Vec<_>>().join("; ");
        let undo = format!("BEGIN; SET LOCAL session_replication_role = replica; {undo}; COMMIT");
        sqlx::raw_sql(AssertSqlSafe(undo)).execute(&self.database.pool).await.unwrap();
        assert_eq!(self.changes().await, Vec::<String>::new());
    }
}
