//! Answers from memory and from the primary: mixed batches, and replicas that do not fit into memory.

use super::until;
use crate::harness::bulk::Bulk;
use crate::harness::{Database, Server};
use roster::domain::{OrganizationRef, Standing, UserId};
use roster::grpc::pb;
use roster::replica::{AnswerBatch, Replica};
use roster::service::{AnswerSource, Freshness, ReplicaSettings};
use roster::store::datastore_url::DatastoreUrl;
use roster::store::pool::Pool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

async fn check(replica: &Replica, names: &[&str]) -> AnswerBatch<Standing> {
    let ada = UserId::parse("ada").unwrap();
    let references: Vec<OrganizationRef> = names.iter().map(|name| OrganizationRef::parse(name).unwrap()).collect();
    let questions: Vec<_> = references.iter().map(|organization| (organization, Some(&ada))).collect();
    replica.answers(&questions, &Freshness::Recent).await.unwrap()
}

/// A loaded replica that no longer follows the log. Its large maximum staleness keeps it answering.
async fn frozen(database: &Database) -> Replica {
    let settings = ReplicaSettings { max_staleness: Duration::from_hours(1), ..ReplicaSettings::default() };
    let replica = Replica::new(Pool::new(DatastoreUrl::parse(&database.url).unwrap(), 4), settings);
    let stop = CancellationToken::new();
    let follower = tokio::spawn(replica.follow(stop.clone()));
    replica.loaded().await;
    stop.cancel();
    follower.await.unwrap();
    replica
}

#[tokio::test]
async fn an_unknown_slug_does_not_send_the_whole_batch_to_the_primary() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let replica = frozen(&server.database).await;
    let answers = check(&replica, &[&acme, "unknown", "acme"]).await;
    assert_eq!(answers.sources, [AnswerSource::Memory, AnswerSource::Primary, AnswerSource::Memory]);
    assert!(answers.answers[1].organization.is_none());
    assert_eq!(answers.answers[0].organization, answers.answers[2].organization);
}

#[tokio::test]
async fn an_organization_named_by_id_and_by_slug_is_answered_from_one_state() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let (acme, other) = (ada.create("Acme").await, ada.create("Other").await);
    let replica = frozen(&server.database).await;
    let request = pb::UpdateOrganizationRequest {
        organization: acme.clone(),
        slug: "apex".to_owned(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["slug".to_owned()] }),
        ..Default::default()
    };
    ada.organizations.update_organization(request).await.unwrap();
    // The replica does not have the new slug and still answers by id.
    assert_eq!(check(&replica, &[&acme, &other]).await.sources, [AnswerSource::Memory; 2]);
    let answers = check(&replica, &[&acme, "apex", &other]).await;
    assert_eq!(answers.sources, [AnswerSource::Primary; 3]);
    assert!(answers.answers[0].organization.is_some());
    assert_eq!(answers.answers[0].organization, answers.answers[1].organization);
}

/// Creates organizations of `ada`, in buckets 1 and up, and one in bucket 0 with this many members.
async fn fill(database: &Database, organizations: usize, members: usize) {
    let id = "(lpad(to_hex(n), 2, '0') || '000000-0000-4000-8000-000000000000')::uuid";
    let owned =
        format!("SELECT {id} AS id, 'acme-' || n AS slug, 'ada' AS owner FROM generate_series(0, {organizations}) n");
    let others = format!("SELECT 'user-' || m AS user_id FROM generate_series(1, {members}) m");
    Bulk {
        users: &format!("SELECT 'ada' AS id UNION ALL {others}"),
        organizations: &owned,
        memberships: &format!(
            "SELECT id, owner AS user_id FROM ({owned}) owned
             UNION ALL SELECT {id}, user_id FROM (SELECT 0 AS n) first, ({others}) others"
        ),
    }
    .insert(database)
    .await;
}

/// The large organization, and the last of the small ones.
const LARGE: &str = "00000000-0000-4000-8000-000000000000";
const SMALL: &str = "28000000-0000-4000-8000-000000000000";

/// A server with a memory limit, a large organization and forty small ones. Returns the sources of the answers about
/// the large organization and about the last of the small ones.
async fn limited(memory_bytes: usize) -> (Server, [AnswerSource; 2]) {
    let database = Database::new().await;
    fill(&database, 40, 2_000).await;
    let server =
        Server::with_replica_over(database, ReplicaSettings { memory_bytes, ..ReplicaSettings::default() }).await;
    server.roster.replica().loaded().await;
    let sources = [source(&server, LARGE).await, source(&server, SMALL).await];
    (server, sources)
}

async fn source(server: &Server, name: &str) -> AnswerSource {
    check(server.roster.replica(), &[name]).await.sources[0]
}

async fn purge_large(server: &Server) {
    let purge = pb::DeleteOrganizationRequest { organization: LARGE.to_owned(), purge: true, ..Default::default() };
    server.operator().organizations.delete_organization(purge).await.unwrap();
}

#[tokio::test]
async fn omitted_buckets_are_loaded_once_memory_is_free() {
    // The large organization takes about 46 kB, each small one a quarter of a kB.
    let (server, sources) = limited(48_000).await;
    assert_eq!(sources, [AnswerSource::Memory, AnswerSource::Primary]);
    purge_large(&server).await;
    until("the small organizations are in memory", async || source(&server, SMALL).await == AnswerSource::Memory).await;
}

#[tokio::test]
async fn a_bucket_that_was_too_large_is_loaded_after_a_purge() {
    // Memory for all but the large organization.
    let (server, sources) = limited(30_000).await;
    assert_eq!(sources, [AnswerSource::Primary, AnswerSource::Memory]);
    purge_large(&server).await;
    until("the bucket is in memory", async || source(&server, LARGE).await == AnswerSource::Memory).await;
}
