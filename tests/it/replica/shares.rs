//! What memory answers, and what it leaves to the primary: batches of both, and a copy for which there is not room enough.

use super::until;
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server};
use roster::domain::{OrganizationRef, UserId};
use roster::grpc::pb;
use roster::replica::{Replica, StandingBatch};
use roster::service::{AnswerSource, Freshness, ReplicaSettings};
use roster::store::pool::Pool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

async fn ask(index: &Replica, named: &[&str]) -> StandingBatch {
    let ada = UserId::parse("ada").unwrap();
    let named: Vec<OrganizationRef> = named.iter().map(|name| OrganizationRef::parse(name).unwrap()).collect();
    let questions: Vec<_> = named.iter().map(|organization| (organization, &ada)).collect();
    index.standings(&questions, &Freshness::Recent).await.unwrap()
}

/// A copy that is loaded and from then on hears of nothing, and is fresh enough all the same.
async fn deaf(database: &Database) -> Replica {
    let settings = ReplicaSettings { max_staleness: Duration::from_hours(1), ..ReplicaSettings::default() };
    let index = Replica::new(Pool::new(database.pool.clone()), settings);
    let stop = CancellationToken::new();
    let followed = tokio::spawn(index.follow(stop.clone()));
    index.loaded().await;
    stop.cancel();
    followed.await.unwrap();
    index
}

#[tokio::test]
async fn a_name_that_memory_does_not_know_takes_no_others_along() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let index = deaf(&server.database).await;
    let answers = ask(&index, &[&acme, "nobody", "acme"]).await;
    assert_eq!(answers.sources, [AnswerSource::Memory, AnswerSource::Primary, AnswerSource::Memory]);
    assert!(answers.standings[1].organization.is_none());
    assert_eq!(answers.standings[0].organization, answers.standings[2].organization);
}

#[tokio::test]
async fn an_organization_by_two_names_is_seen_in_one_state() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let (acme, other) = (ada.create("Acme").await, ada.create("Other").await);
    let index = deaf(&server.database).await;
    let request = pb::UpdateOrganizationRequest {
        organization: acme.clone(),
        slug: "apex".to_owned(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["slug".to_owned()] }),
        ..Default::default()
    };
    ada.organizations.update_organization(request).await.unwrap();
    // Memory knows nothing of the new name, and still answers by the id.
    assert_eq!(ask(&index, &[&acme, &other]).await.sources, [AnswerSource::Memory; 2]);
    let answers = ask(&index, &[&acme, "apex", &other]).await;
    assert_eq!(answers.sources, [AnswerSource::Primary; 3]);
    assert!(answers.standings[0].organization.is_some());
    assert_eq!(answers.standings[0].organization, answers.standings[1].organization);
}

/// Organizations of `ada`, in buckets 1 and up, and one in bucket 0 with this many members.
async fn fill(database: &Database, organizations: usize, members: usize) {
    let id = "(lpad(to_hex(n), 2, '0') || '000000-0000-4000-8000-000000000000')::uuid";
    let made =
        format!("SELECT {id} AS id, 'acme-' || n AS slug, 'ada' AS owner FROM generate_series(0, {organizations}) n");
    let others = format!("SELECT 'user-' || m AS user_id FROM generate_series(1, {members}) m");
    Bulk {
        users: &format!("SELECT 'ada' AS id UNION ALL {others}"),
        organizations: &made,
        memberships: &format!(
            "SELECT id, owner AS user_id FROM ({made}) owned
             UNION ALL SELECT {id}, user_id FROM (SELECT 0 AS n) first, ({others}) others"
        ),
    }
    .insert(database)
    .await;
}

/// The large one, and the last of the others.
const FIRST: &str = "00000000-0000-4000-8000-000000000000";
const LAST: &str = "28000000-0000-4000-8000-000000000000";

/// A large organization and forty small ones, before a server whose copy may take so many bytes; who answers about the
/// large one and the last of the others.
async fn crowded(memory_bytes: usize) -> (Server, [AnswerSource; 2]) {
    let database = Database::new().await;
    fill(&database, 40, 2_000).await;
    let server =
        Server::with_replica_over(database, ReplicaSettings { memory_bytes, ..ReplicaSettings::default() }).await;
    server.roster.replica().loaded().await;
    let sources = [source(&server, FIRST).await, source(&server, LAST).await];
    (server, sources)
}

async fn source(server: &Server, name: &str) -> AnswerSource {
    ask(server.roster.replica(), &[name]).await.sources[0]
}

async fn purge_the_large_one(server: &Server) {
    let purge = pb::DeleteOrganizationRequest { organization: FIRST.to_owned(), purge: true, ..Default::default() };
    server.operator().organizations.delete_organization(purge).await.unwrap();
}

#[tokio::test]
async fn room_that_becomes_free_is_used() {
    // The large one takes about 46 kB, each of the others a quarter of one.
    let (server, sources) = crowded(48_000).await;
    assert_eq!(sources, [AnswerSource::Memory, AnswerSource::Primary]);
    purge_the_large_one(&server).await;
    until("the others are in memory", async || source(&server, LAST).await == AnswerSource::Memory).await;
}

#[tokio::test]
async fn a_bucket_that_was_too_large_is_tried_again_once_it_holds_less() {
    // Room for all but the large one.
    let (server, sources) = crowded(30_000).await;
    assert_eq!(sources, [AnswerSource::Primary, AnswerSource::Memory]);
    purge_the_large_one(&server).await;
    until("its bucket is in memory", async || source(&server, FIRST).await == AnswerSource::Memory).await;
}
