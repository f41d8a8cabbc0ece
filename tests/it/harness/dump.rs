//! The whole content of a database, for comparison.

use super::Database;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;

impl Database {
    /// Every row of every table, as text. Two dumps are equal if nothing changed between them.
    pub async fn dump(&self) -> BTreeMap<String, Vec<String>> {
        let names = "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition";
        let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&self.pool).await.unwrap();
        assert!(names.iter().any(|name| name == "memberships"), "the dump is missing tables");
        let mut dump = BTreeMap::new();
        for name in names {
            let rows = format!("SELECT t::text FROM {name} t ORDER BY 1");
            let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&self.pool).await.unwrap();
            dump.insert(name, rows);
        }
        dump
    }
}

/// Asserts that two dumps are equal, and names the rows that are not.
#[track_caller]
pub fn assert_same(now: &BTreeMap<String, Vec<String>>, before: &BTreeMap<String, Vec<String>>) {
    for (table, rows) in now {
        let without = |rows: &[String], others: &[String]| {
            rows.iter().filter(|row| !others.contains(row)).cloned().collect::<Vec<_>>()
        };
        let (added, removed) = (without(rows, &before[table]), without(&before[table], rows));
        assert!(rows == &before[table], "{table}: {added:#?} instead of {removed:#?}");
    }
}
