//! Ten thousand pending invitations in one organization: what is read and answered there takes no longer than where
//! there are a hundred.

use super::{Scene, accept, invite, preview};
use roster::grpc::pb;
use std::time::{Duration, Instant};

/// Calls of each sort to each organization.
const CALLS: usize = 60;
/// How much slower the larger one may be: far above that noise, far below the factor of 100 that work in proportion
/// would cost.
const TOLERANCE: f64 = 1.5;

/// What a call takes when nothing disturbs it: others on the machine only ever add to it.
fn undisturbed(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 4].as_secs_f64()
}

/// Fills an organization with pending invitations, each with a token.
async fn fill(scene: &Scene, organization: &str, number: usize) {
    scene
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
async fn ten_thousand_pending_invitations_cost_no_more_than_a_hundred() {
    let scene = Scene::new().await;
    let small = scene.acme.clone();
    let large = scene.ada.clone().create("Large").await;
    fill(&scene, &small, 100).await;
    fill(&scene, &large, 10_000).await;
    sqlx::raw_sql("ANALYZE").execute(&scene.server.database.pool).await.unwrap();

    let mut times: [[Vec<Duration>; 3]; 2] = Default::default();
    for number in 0..CALLS {
        let mut person = scene.server.user_with_email(&format!("person-{number}"));
        // Each comes first as often as the other.
        for size in [number % 2, 1 - number % 2] {
            let organization = [&small, &large][size];
            let request = pb::ListInvitationsRequest { organization: organization.clone(), ..Default::default() };
            let start = Instant::now();
            let page = scene.ada.clone().invitations.list_invitations(request).await.unwrap().into_inner();
            times[size][0].push(start.elapsed());
            assert_eq!(page.invitations.len(), 50);

            let made = scene.make(invite(organization, &format!("person-{number}@example.com"))).await;
            // What the connection and the caller's profile take the first time is not measured.
            person.invitations.preview_invitation(preview(&made.token)).await.unwrap();
            let start = Instant::now();
            person.invitations.preview_invitation(preview(&made.token)).await.unwrap();
            times[size][1].push(start.elapsed());

            let start = Instant::now();
            person.invitations.accept_invitation(accept(&made.token)).await.unwrap();
            times[size][2].push(start.elapsed());
        }
    }
    let [of_small, of_large] = times;
    for ((what, small), large) in ["list", "preview", "accept"].into_iter().zip(of_small).zip(of_large) {
        let (small, large) = (undisturbed(small), undisturbed(large));
        assert!(large <= small * TOLERANCE, "{what}: {:.2} ms of 100, {:.2} ms of 10 000", small * 1e3, large * 1e3);
        super::figure(&format!("{what}: {:.2} ms of 100, {:.2} ms of 10 000", small * 1e3, large * 1e3));
    }
}
