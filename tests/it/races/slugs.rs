//! Races for slugs.

use super::{ContendedRow, Fixture, Outcomes, Sides, call, run};
use crate::harness::organization;
use roster::grpc::pb;

fn named(name: &str, slug: &str) -> pb::CreateOrganizationRequest {
    pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization(name) }
}

fn rename(organization: &str, slug: &str) -> pb::UpdateOrganizationRequest {
    pb::UpdateOrganizationRequest { organization: organization.to_owned(), slug: slug.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_organizations_created_with_one_slug() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "SLUG_TAKEN"], 2), (["SLUG_TAKEN", "OK"], 2));
    run(&fixture.server, outcomes, async |number| {
        let slug = format!("slug-{number}");
        let by_ada = call!(fixture.ada.organizations.create_organization(named("One", &slug)));
        let by_grace = call!(fixture.grace.organizations.create_organization(named("Two", &slug)));
        Sides { calls: [by_ada, by_grace], row: ContendedRow::Slug(slug) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_slugs_derived_from_one_name() {
    let fixture = Fixture::new().await;
    run(&fixture.server, Outcomes::of((["OK", "OK"], 4), (["OK", "OK"], 4)), async |number| {
        let name = format!("name {number}");
        let by_ada = call!(fixture.ada.organizations.create_organization(organization(&name)));
        let by_grace = call!(fixture.grace.organizations.create_organization(organization(&name)));
        Sides { calls: [by_ada, by_grace], row: ContendedRow::Slug(format!("name-{number}")) }
    })
    .await;
    // The loser of the race gets the next number, not a random slug.
    let slugs: Vec<String> =
        sqlx::query_scalar("SELECT slug FROM slugs").fetch_all(&fixture.server.database.pool).await.unwrap();
    for number in 0..slugs.len() / 2 {
        for slug in [format!("name-{number}"), format!("name-{number}-2")] {
            assert!(slugs.contains(&slug), "{slug} is not among {slugs:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_organizations_renamed_to_one_slug() {
    let fixture = Fixture::new().await;
    let outcomes = Outcomes::of((["OK", "SLUG_TAKEN"], 1), (["SLUG_TAKEN", "OK"], 1));
    run(&fixture.server, outcomes, async |number| {
        let slug = format!("wanted-{number}");
        let (one, two) = (fixture.ada.clone().create("One").await, fixture.ada.clone().create("Two").await);
        let one = call!(fixture.ada.organizations.update_organization(rename(&one, &slug)));
        let two = call!(fixture.ada.organizations.update_organization(rename(&two, &slug)));
        Sides { calls: [one, two], row: ContendedRow::Slug(slug) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slugs_released_by_concurrent_writes() {
    let fixture = Fixture::new().await;
    let pair = async |number: usize, what: &str| {
        let slugs = [format!("{what}-a-{number}"), format!("{what}-b-{number}")];
        for slug in &slugs {
            fixture.ada.clone().organizations.create_organization(named("Pair", slug)).await.unwrap();
        }
        slugs
    };
    // Each side requests the slug of the other. Neither slug is free, so both are refused, and no call waits forever.
    let swapped = (["SLUG_TAKEN", "SLUG_TAKEN"], 0);
    run(&fixture.server, Outcomes::of(swapped, swapped), async |number| {
        let [a, b] = pair(number, "swap").await;
        let one = call!(fixture.ada.organizations.update_organization(rename(&a, &b)));
        let two = call!(fixture.ada.organizations.update_organization(rename(&b, &a)));
        Sides { calls: [one, two], row: ContendedRow::None }
    })
    .await;
    // One side requests the slug that the other releases. (A renamed organization is not found by its old slug, so each
    // side names an organization whose slug the other side does not change.)
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["OK", "SLUG_TAKEN"], 1));
    run(&fixture.server, outcomes, async |number| {
        let [a, b] = pair(number, "chain").await;
        let away = call!(fixture.ada.organizations.update_organization(rename(&a, &format!("away-{number}"))));
        let into = call!(fixture.ada.organizations.update_organization(rename(&b, &a)));
        Sides { calls: [away, into], row: ContendedRow::None }
    })
    .await;
    // A purge releases a slug too.
    let outcomes = Outcomes::of((["OK", "OK"], 3), (["OK", "SLUG_TAKEN"], 1));
    run(&fixture.server, outcomes, async |number| {
        let [a, _] = pair(number, "purge").await;
        let purge = pb::DeleteOrganizationRequest { organization: a.clone(), purge: true, ..Default::default() };
        let purge = call!(fixture.operator.organizations.delete_organization(purge));
        let create = call!(fixture.grace.organizations.create_organization(named("Next", &a)));
        Sides { calls: [purge, create], row: ContendedRow::None }
    })
    .await;
}
