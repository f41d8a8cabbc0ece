//! Races for slugs.

use super::{Cast, Held, Outcomes, Sides, call, run};
use crate::harness::organization;
use roster::grpc::pb;

fn named(name: &str, slug: &str) -> pb::CreateOrganizationRequest {
    pb::CreateOrganizationRequest { slug: slug.to_owned(), ..organization(name) }
}

fn rename(organization: &str, slug: &str) -> pb::UpdateOrganizationRequest {
    pb::UpdateOrganizationRequest { organization: organization.to_owned(), slug: slug.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_slugs_given() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "SLUG_TAKEN"], 2), (["SLUG_TAKEN", "OK"], 2));
    run(&cast.server, outcomes, async |number| {
        let slug = format!("slug-{number}");
        let by_ada = call!(cast.ada.organizations.create_organization(named("One", &slug)));
        let by_grace = call!(cast.grace.organizations.create_organization(named("Two", &slug)));
        Sides { calls: [by_ada, by_grace], held: Held::Slug(slug) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_slugs_made_from_one_name() {
    let cast = Cast::new().await;
    run(&cast.server, Outcomes::of((["OK", "OK"], 4), (["OK", "OK"], 4)), async |number| {
        let name = format!("name {number}");
        let by_ada = call!(cast.ada.organizations.create_organization(organization(&name)));
        let by_grace = call!(cast.grace.organizations.create_organization(organization(&name)));
        Sides { calls: [by_ada, by_grace], held: Held::Slug(format!("name-{number}")) }
    })
    .await;
    // Who loses the race gets the next number, not a random slug.
    let slugs: Vec<String> =
        sqlx::query_scalar("SELECT slug FROM slugs").fetch_all(&cast.server.database.pool).await.unwrap();
    for number in 0..slugs.len() / 2 {
        for slug in [format!("name-{number}"), format!("name-{number}-2")] {
            assert!(slugs.contains(&slug), "{slug} is not among {slugs:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_organizations_renamed_to_one_slug() {
    let cast = Cast::new().await;
    let outcomes = Outcomes::of((["OK", "SLUG_TAKEN"], 1), (["SLUG_TAKEN", "OK"], 1));
    run(&cast.server, outcomes, async |number| {
        let slug = format!("wanted-{number}");
        let (one, two) = (cast.ada.clone().create("One").await, cast.ada.clone().create("Two").await);
        let one = call!(cast.ada.organizations.update_organization(rename(&one, &slug)));
        let two = call!(cast.ada.organizations.update_organization(rename(&two, &slug)));
        Sides { calls: [one, two], held: Held::Slug(slug) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slugs_that_others_are_giving_back() {
    let cast = Cast::new().await;
    let pair = async |number: usize, what: &str| {
        let slugs = [format!("{what}-a-{number}"), format!("{what}-b-{number}")];
        for slug in &slugs {
            cast.ada.clone().organizations.create_organization(named("Pair", slug)).await.unwrap();
        }
        slugs
    };
    // Each wants the other's: neither gets it, for neither is free, and nobody waits for ever.
    let swapped = (["SLUG_TAKEN", "SLUG_TAKEN"], 0);
    run(&cast.server, Outcomes::of(swapped, swapped), async |number| {
        let [a, b] = pair(number, "swap").await;
        let one = call!(cast.ada.organizations.update_organization(rename(&a, &b)));
        let two = call!(cast.ada.organizations.update_organization(rename(&b, &a)));
        Sides { calls: [one, two], held: Held::Nothing }
    })
    .await;
    // One wants what the other gives up. (An organization that is renamed away before the other is let in is not found
    // by its old slug, so they are named by what does not change.)
    let outcomes = Outcomes::of((["OK", "OK"], 2), (["OK", "SLUG_TAKEN"], 1));
    run(&cast.server, outcomes, async |number| {
        let [a, b] = pair(number, "chain").await;
        let away = call!(cast.ada.organizations.update_organization(rename(&a, &format!("away-{number}"))));
        let into = call!(cast.ada.organizations.update_organization(rename(&b, &a)));
        Sides { calls: [away, into], held: Held::Nothing }
    })
    .await;
    // A purge gives a slug back too.
    let outcomes = Outcomes::of((["OK", "OK"], 3), (["OK", "SLUG_TAKEN"], 1));
    run(&cast.server, outcomes, async |number| {
        let [a, _] = pair(number, "purge").await;
        let purge = pb::DeleteOrganizationRequest { organization: a.clone(), purge: true, ..Default::default() };
        let purge = call!(cast.operator.organizations.delete_organization(purge));
        let create = call!(cast.grace.organizations.create_organization(named("Next", &a)));
        Sides { calls: [purge, create], held: Held::Nothing }
    })
    .await;
}
