//! The latency of reads and answers in an organization with ten thousand pending invitations, compared with one that
//! has a hundred.

use super::{Fixture, accept, invite, preview};
use roster::grpc::pb;
use std::time::{Duration, Instant};

/// The number of calls of each kind to each organization.
const CALLS: usize = 60;
/// The maximum ratio of the latencies: far above the noise, far below the factor of 100 of a cost in proportion to the
/// number of invitations.
const TOLERANCE: f64 = 1.5;

/// The lower quartile in seconds: other load on the machine only ever adds to a latency.
fn lower_quartile(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 4].as_secs_f64()
}

/// Inserts pending invitations into an organization, each with a token.
async fn fill(fixture: &Fixture, organization: &str, number: usize) {
    fixture
        .sql(&format!(
            "WITH made AS (
                 INSERT INTO invitations (bucket, organization_id, id, identifier, identifier_normal, is_email, role,
                     makes_owner, attributes, state, inviter_kind, inviter_id, expire_time, sends, send_time, create_time,
                     update_time)
                 SELECT o.bucket, o.id, gen_random_uuid(), n || '@filled.example', n || '@filled.example', true, 'member',
                     false, '{{}}', 'PENDING', 'service', 'backend', clock_timestamp() + interval '7 days', 1,
                     clock_timestamp(), clock_timestamp(), clock_timestamp()
                 FROM organizations o, generate_series(1, {number}) n WHERE o.id = '{organization}'
                 RETURNING bucket, organization_id, id)
             INSERT INTO invitation_tokens (hash, bucket, organization_id, invitation_id, create_time)
             SELECT sha256(id::text::bytea), bucket, organization_id, id, clock_timestamp() FROM made"
        ))
        .await;
}

#[tokio::test]
async fn latency_does_not_grow_with_the_number_of_pending_invitations() {
    let fixture = Fixture::new().await;
    let small = fixture.acme.clone();
    let large = fixture.ada.clone().create("Large").await;
    fill(&fixture, &small, 100).await;
    fill(&fixture, &large, 10_000).await;
    sqlx::raw_sql("ANALYZE").execute(&fixture.server.database.pool).await.unwrap();

    let mut times: [[Vec<Duration>; 3]; 2] = Default::default();
    for number in 0..CALLS {
        let mut person = fixture.server.user_with_email(&format!("person-{number}"));
        // Each organization comes first equally often.
        for size in [number % 2, 1 - number % 2] {
            let organization = [&small, &large][size];
            let request = pb::ListInvitationsRequest { organization: organization.clone(), ..Default::default() };
            let start = Instant::now();
            let page = fixture.ada.clone().invitations.list_invitations(request).await.unwrap().into_inner();
            times[size][0].push(start.elapsed());
            assert_eq!(page.invitations.len(), 50);

            let invitation = fixture.create(invite(organization, &format!("person-{number}@example.com"))).await;
            // The first call, which prepares statements and stores the caller's profile, is not measured.
            person.invitations.preview_invitation(preview(&invitation.token)).await.unwrap();
            let start = Instant::now();
            person.invitations.preview_invitation(preview(&invitation.token)).await.unwrap();
            times[size][1].push(start.elapsed());

            let start = Instant::now();
            person.invitations.accept_invitation(accept(&invitation.token)).await.unwrap();
            times[size][2].push(start.elapsed());
        }
    }
    let [of_small, of_large] = times;
    for ((what, small), large) in ["list", "preview", "accept"].into_iter().zip(of_small).zip(of_large) {
        let (small, large) = (lower_quartile(small), lower_quartile(large));
        assert!(large <= small * TOLERANCE, "{what}: {:.2} ms of 100, {:.2} ms of 10 000", small * 1e3, large * 1e3);
        super::figure(&format!("{what}: {:.2} ms of 100, {:.2} ms of 10 000", small * 1e3, large * 1e3));
    }
}
