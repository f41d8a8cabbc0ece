//! The search of `ListOrganizations`, and the folded names that it uses.

mod encodings;
mod folding;
mod locales;
mod plans;

use crate::harness::Database;
use crate::harness::server::Clients;
use roster::grpc::pb;
use sqlx::AssertSqlSafe;

/// The names of the organizations that a search finds, in the order of the list, read in pages of this size.
async fn search_paged(operator: &mut Clients, text: &str, page_size: i32) -> Vec<String> {
    let mut names = Vec::new();
    let mut request = pb::ListOrganizationsRequest { search: text.to_owned(), page_size, ..Default::default() };
    loop {
        let page = operator.organizations.list_organizations(request.clone()).await.unwrap().into_inner();
        let is_last = page.next_page_token.is_empty();
        assert!(is_last || page.organizations.len() == usize::try_from(page_size).unwrap(), "a page has gaps");
        names.extend(page.organizations.into_iter().map(|organization| organization.name));
        if is_last {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

/// The names of the organizations that a search finds, in the order of the list.
async fn search(operator: &mut Clients, text: &str) -> Vec<String> {
    search_paged(operator, text, 1_000).await
}

/// Runs a statement.
async fn run(database: &Database, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&database.pool).await.unwrap();
}

/// The number of names that must be folded.
async fn stale(database: &Database) -> i64 {
    database.count("SELECT count(*) FROM organizations WHERE folded_revision IS DISTINCT FROM row_revision").await
}
