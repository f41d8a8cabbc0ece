//! Names that an older release wrote: the search finds them, and `roster migrate` and housekeeping fold them.

use super::{run, search, search_paged, stale};
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server, organization};
use futures_util::future::join_all;
use roster::domain::folding::fold;
use roster::grpc::pb;
use roster::server::ServerSettings;
use roster::service::housekeeping::TidyReport;
use sqlx::Connection;

/// The write of release 0.2.0 to the row of a new organization, with values in place of the parameters.
const INSERT_0_2_0: &str = "
    INSERT INTO organizations AS o (bucket, id, slug, name, kind, attributes, state, deactivated_by_operator,
                                    owner_id, revision, row_revision, create_time, update_time)
    VALUES (7, '07000000-0000-4000-8000-000000000001', 'oelmuehle', 'Ölmühle', 'organization', '{}', 'ACTIVE', false,
            'ada', 1, 1, clock_timestamp(), clock_timestamp());
    INSERT INTO memberships
    VALUES (7, '07000000-0000-4000-8000-000000000001', 'ada', 'admin', '{}', 1, now(), now())";

/// The write of release 0.2.0 to the row of an organization that it renames, with values in place of the parameters.
const UPDATE_0_2_0: &str = "
    UPDATE organizations o
    SET slug = 'strasse', name = 'Ärger', attributes = '{}', state = 'ACTIVE', deactivated_by_operator = false,
        owner_id = 'ada', revision = 2, row_revision = 2, update_time = clock_timestamp(), delete_time = NULL,
        purge_time = NULL
    WHERE slug = 'strasse'";

/// What filling in folded names must not change.
const UNCHANGED: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT (to_jsonb(o) - 'folded_name' - 'folded_revision')::text AS line FROM organizations o
        UNION ALL SELECT e::text FROM events e
        UNION ALL SELECT l::text FROM log l
        UNION ALL SELECT h::text FROM log_heads h) lines";

async fn unchanged_part(database: &Database) -> String {
    sqlx::query_scalar(UNCHANGED).fetch_one(&database.pool).await.unwrap()
}

/// Asserts that every folded name is that of its name.
async fn assert_folded(database: &Database) {
    let names: Vec<(String, Option<String>, Option<bool>)> =
        sqlx::query_as("SELECT name, folded_name, folded_revision = row_revision FROM organizations")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    for (name, folded, is_current) in names {
        assert_eq!((folded.as_deref(), is_current), (Some(fold(&name).as_str()), Some(true)), "{name}");
    }
}

/// A database with this number of organizations whose names are not folded: `Straße` and a number of six digits.
async fn unfolded(number: u32) -> Database {
    let database = Database::new().await;
    let made = format!(
        "SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS numbered, n
         FROM generate_series(1, {number}) n"
    );
    let id = "(lpad(to_hex(n % 256), 2, '0') || substr(numbered::text, 3))::uuid";
    Bulk {
        users: "SELECT 'ada' AS id",
        organizations: &format!("SELECT {id} AS id, 'org-' || n AS slug, 'ada' AS owner FROM ({made}) made"),
        memberships: &format!("SELECT {id} AS id, 'ada' AS user_id FROM ({made}) made"),
    }
    .insert(&database)
    .await;
    run(&database, "UPDATE organizations SET name = 'Straße ' || lpad(substr(slug, 5), 6, '0')").await;
    assert_eq!(stale(&database).await, i64::from(number));
    database
}

#[tokio::test]
async fn a_search_is_right_after_writes_of_an_older_release_and_housekeeping_folds_them() {
    let server = Server::start().await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    for name in ["Straße", "Ölfeld"] {
        ada.create(name).await;
    }
    assert_eq!(stale(&server.database).await, 0);
    run(&server.database, INSERT_0_2_0).await;
    run(&server.database, UPDATE_0_2_0).await;
    assert_eq!(stale(&server.database).await, 2);
    let mut found = Vec::new();
    for round in 0..2 {
        for text in ["ÄRGER", "ölm", "öl", "Straß", "MÜH", "strasse"] {
            found.push((round, text, search(&mut operator, text).await));
        }
        if round == 0 {
            let before = unchanged_part(&server.database).await;
            assert_eq!(server.roster.tidy().await.unwrap(), TidyReport { names: 2, ..TidyReport::default() });
            assert_eq!(unchanged_part(&server.database).await, before);
            assert_folded(&server.database).await;
            assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
        }
    }
    let (before, after) = found.split_at(6);
    let names = |names: &[(i32, &str, Vec<String>)]| names.iter().map(|(.., names)| names.clone()).collect::<Vec<_>>();
    let expected: [&[&str]; 6] =
        [&["Ärger"], &["Ölmühle"], &["Ölfeld", "Ölmühle"], &["Ärger"], &["Ölmühle"], &["Ärger"]];
    assert_eq!(names(before), expected, "the slug of Ärger is still strasse");
    assert_eq!(names(after), expected);
}

#[tokio::test]
async fn every_change_of_an_organization_folds_its_name() {
    let server = Server::start().await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    let created = pb::CreateOrganizationRequest { slug: "first".to_owned(), ..organization("Straße") };
    let id = ada.organizations.create_organization(created).await.unwrap().into_inner().organization.unwrap().id;
    let rename =
        pb::UpdateOrganizationRequest { organization: id.clone(), name: "Ärger".to_owned(), ..Default::default() };
    ada.organizations.update_organization(rename).await.unwrap();
    assert_folded(&server.database).await;
    assert_eq!((search(&mut operator, "ÄRGER").await.len(), search(&mut operator, "traß").await.len()), (1, 0));
    let delete = pb::DeleteOrganizationRequest { organization: id.clone(), ..Default::default() };
    ada.organizations.delete_organization(delete).await.unwrap();
    ada.add(&ada.clone().create("Other").await, "grace", "member").await;
    assert_folded(&server.database).await;
    assert_eq!(search(&mut operator, "ÄRGER").await, [] as [&str; 0]);
    let deleted = pb::ListOrganizationsRequest {
        search: "ärg".to_owned(),
        states: vec![pb::OrganizationState::Deleted.into()],
        ..Default::default()
    };
    for _ in 0..2 {
        let page = operator.organizations.list_organizations(deleted.clone()).await.unwrap().into_inner();
        assert_eq!(page.organizations.len(), 1);
        // The second time the name must be folded, and the state is still compared.
        run(&server.database, "UPDATE organizations SET folded_name = NULL, folded_revision = NULL").await;
        assert_eq!(search(&mut operator, "ÄRGER").await, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn the_name_with_the_longest_folding_is_stored() {
    let server = Server::start().await;
    // Its folding has two letters, with five bytes: no other character in normalization form C has more.
    let name = "\u{1f80}".repeat(200);
    server.user("ada").create(&name).await;
    assert_eq!(search(&mut server.operator(), &name).await, [name.as_str()]);
    assert_eq!(search(&mut server.operator(), "\u{1f80}").await, [name.as_str()]);
}

#[tokio::test]
async fn pages_are_complete_while_most_names_are_not_folded() {
    let database = unfolded(2_500).await;
    let server = Server::over(database, ServerSettings::default()).await;
    let mut operator = server.operator();
    let names = |numbers: &[u32]| numbers.iter().map(|number| format!("Straße {number:06}")).collect::<Vec<_>>();
    let matches: Vec<u32> = (1..=2_500).filter(|number| format!("{number:06}").contains("00077")).collect();
    assert_eq!(search_paged(&mut operator, "00077", 2).await, names(&matches));
    assert_eq!(search(&mut operator, "STRASSE 002500").await, names(&[2_500]));
    assert_eq!(search(&mut operator, "nowhere").await, [] as [&str; 0]);
    // Folded rows between the others.
    run(
        &server.database,
        "UPDATE organizations SET folded_name = 'strasse ' || lpad(substr(slug, 5), 6, '0'), folded_revision = 1
         WHERE bucket % 2 = 0",
    )
    .await;
    assert_eq!(search_paged(&mut operator, "00077", 2).await, names(&matches));
    assert_eq!(search_paged(&mut operator, "s", 900).await.len(), 2_500);
}

#[tokio::test]
async fn migrations_fold_all_names_beside_each_other_and_beside_writers() {
    let database = unfolded(3_000).await;
    let server = Server::over(database.clone(), ServerSettings::default()).await;
    let before = unchanged_part(&database).await;
    let mut operator = server.operator();
    let writer = async {
        for number in 1..=100 {
            let request = pb::UpdateOrganizationRequest {
                organization: format!("org-{}", number * 29),
                name: format!("ÄRGER {number}"),
                ..Default::default()
            };
            operator.organizations.update_organization(request).await.unwrap();
        }
    };
    let folding = join_all([database.migrate(), database.migrate(), database.migrate()]);
    let (_, round, ()) = tokio::join!(folding, server.roster.tidy(), writer);
    round.unwrap();
    database.migrate().await;
    assert_eq!(stale(&database).await, 0);
    assert_folded(&database).await;
    assert_eq!(database.count("SELECT count(*) FROM organizations WHERE row_revision > 1").await, 100);
    assert_ne!(unchanged_part(&database).await, before);
    assert_eq!(search(&mut server.operator(), "ärger").await.len(), 100);
}

#[tokio::test]
async fn a_migration_leaves_a_locked_organization_to_the_next_one() {
    let database = unfolded(600).await;
    let before = unchanged_part(&database).await;
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    let mut writer = connection.begin().await.unwrap();
    sqlx::query("SELECT FROM organizations WHERE slug = 'org-5' FOR NO KEY UPDATE")
        .execute(&mut *writer)
        .await
        .unwrap();
    database.migrate().await;
    // The bucket of the locked organization has 5, 261 and 517.
    assert_eq!(stale(&database).await, 3);
    writer.rollback().await.unwrap();
    database.migrate().await;
    assert_eq!(stale(&database).await, 0);
    assert_folded(&database).await;
    assert_eq!(unchanged_part(&database).await, before);
}
