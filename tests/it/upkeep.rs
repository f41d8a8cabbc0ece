//! Tests of housekeeping and of server reflection.

use crate::harness::{Server, organization};
use crate::invitations::invite;
use roster::grpc::pb;
use roster::service::housekeeping::TidyReport;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::{v1, v1alpha};

#[tokio::test]
async fn a_due_purge_runs_once_across_processes_and_frees_the_slug() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let (acme, kept) = (ada.create("Acme").await, ada.create("Kept").await);
    for organization in [&acme, &kept] {
        let request = pb::DeleteOrganizationRequest { organization: organization.clone(), ..Default::default() };
        ada.organizations.delete_organization(request).await.unwrap();
    }
    sqlx::query("UPDATE organizations SET purge_time = now() - interval '1 second' WHERE slug = 'acme'")
        .execute(&server.database.pool)
        .await
        .unwrap();
    let rounds = futures_util::future::join_all((0..4).map(|_| server.roster.tidy())).await;
    let purged: u64 = rounds.into_iter().map(|round| round.unwrap().purged).sum();
    assert_eq!(purged, 1);
    let actor = "SELECT count(*) FROM events WHERE type = 'organization.purged' AND actor_kind = 'system'";
    assert_eq!(server.database.count(actor).await, 1);
    assert_eq!(server.database.count("SELECT count(*) FROM organizations").await, 1);
    let again = ada.organizations.create_organization(organization("Acme")).await.unwrap().into_inner();
    assert_eq!(again.organization.unwrap().slug, "acme");
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_purge_removes_invitations_tokens_and_mails() {
    let server = Server::start_generous().await;
    let (mut ada, mut operator) = (server.user("ada"), server.operator());
    let (acme, kept) = (ada.create("Acme").await, ada.create("Kept").await);
    for organization in [&acme, &kept] {
        let by_mail = pb::InvitationDelivery::Email.into();
        operator.invitations.create_invitation(invite(organization, "eve@example.com")).await.unwrap();
        let mail = pb::CreateInvitationRequest { delivery: by_mail, ..invite(organization, "kurt@example.com") };
        ada.invitations.create_invitation(mail).await.unwrap();
    }
    let purge = pb::DeleteOrganizationRequest { organization: acme, purge: true, ..Default::default() };
    operator.organizations.delete_organization(purge).await.unwrap();
    for query in [
        "SELECT count(*) - 2 FROM invitations",
        "SELECT count(*) - 1 FROM invitation_tokens",
        "SELECT count(*) - 1 FROM outbox",
    ] {
        assert_eq!(server.database.count(query).await, 0, "{query}");
    }
    server.database.assert_invariants().await;
}

/// Pending organizations: the name, the end of the owner's invitation, its change in SQL, and whether housekeeping purges the
/// organization. One without a change has no owner's invitation.
const PENDING_ORGANIZATIONS: [(&str, &str, Option<&str>, bool); 9] = [
    ("Without an owner", "", None, false),
    (
        "Still invited",
        "",
        Some("update_time = now() - interval '31 days', expire_time = now() + interval '1 day'"),
        false,
    ),
    ("Expired", "", Some("expire_time = now() - interval '29 days'"), false),
    ("Expired longer ago", "", Some("expire_time = now() - interval '31 days'"), true),
    // A server of release 0.3 sets the time of the update when the owner is invited again.
    ("Expired and updated", "", Some("state = 'EXPIRED', expire_time = now() - interval '31 days'"), true),
    ("Declined", "decline", Some("update_time = now() - interval '29 days'"), false),
    ("Declined longer ago", "decline", Some("update_time = now() - interval '31 days'"), true),
    ("Revoked longer ago", "revoke", Some("update_time = now() - interval '31 days'"), true),
    ("Invited as admin only", "", Some("makes_owner = false, expire_time = now() - interval '31 days'"), false),
];

/// Creates a pending organization with this name, and its owner's invitation with this end and change.
async fn create_pending(server: &Server, name: &str, end: &str, change: Option<&str>) {
    let mut operator = server.operator();
    let owner_email = change.map(|_| "grace@example.com".to_owned()).unwrap_or_default();
    let owner_delivery = change.map_or(pb::InvitationDelivery::Unspecified, |_| pb::InvitationDelivery::Token).into();
    let request = pb::CreateOrganizationRequest { owner_email, owner_delivery, ..organization(name) };
    let made = operator.organizations.create_organization(request).await.unwrap().into_inner();
    let id = made.organization.unwrap().id;
    // An invitation of another member does not count.
    operator.invitations.create_invitation(invite(&id, "joan@example.com")).await.unwrap();
    match end {
        "decline" => {
            let mut grace = server.user_with_email("grace").invitations;
            grace.decline_invitation(crate::invitations::decline(&made.owner_token)).await.unwrap();
        }
        "revoke" => {
            let invitation = made.owner_invitation.unwrap().invitation_id;
            operator.invitations.revoke_invitation(crate::invitations::revoke(&id, &invitation)).await.unwrap();
        }
        _ => {}
    }
    if let Some(change) = change {
        let change = format!(
            "UPDATE invitations SET {change} WHERE organization_id = '{id}' AND identifier_normal = 'grace@example.com'"
        );
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&server.database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_registration_is_purged_a_month_after_the_last_invitation_of_its_owner_ended() {
    let server = Server::start_generous().await;
    for (name, end, change, _) in PENDING_ORGANIZATIONS {
        create_pending(&server, name, end, change).await;
    }
    let mut kept: Vec<&str> = PENDING_ORGANIZATIONS.iter().filter(|one| !one.3).map(|one| one.0).collect();
    kept.sort_unstable();
    // The time of creation does not count.
    sqlx::query("UPDATE organizations SET create_time = create_time - interval '1 year'")
        .execute(&server.database.pool)
        .await
        .unwrap();
    let rounds = futures_util::future::join_all((0..4).map(|_| server.roster.tidy())).await;
    let purged: u64 = rounds.into_iter().map(|round| round.unwrap().purged).sum();
    assert_eq!(purged, u64::try_from(PENDING_ORGANIZATIONS.len() - kept.len()).unwrap());
    let names = sqlx::query_scalar("SELECT name FROM organizations ORDER BY name");
    let names: Vec<String> = names.fetch_all(&server.database.pool).await.unwrap();
    assert_eq!(names, kept);
    let events = "SELECT count(*) FROM events WHERE type = 'organization.purged' AND actor_kind = 'system'";
    assert_eq!(server.database.count(events).await, i64::try_from(purged).unwrap());
    server.database.assert_invariants().await;
}

#[tokio::test]
async fn stored_responses_are_removed_after_a_day_and_not_before() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    for number in 1..=3 {
        let request = pb::CreateOrganizationRequest {
            request_id: format!("00000000-0000-4000-8000-00000000000{number}"),
            ..organization("Acme")
        };
        ada.organizations.create_organization(request).await.unwrap();
    }
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
    sqlx::query("UPDATE requests SET create_time = now() - interval '25 hours' WHERE request_id::text LIKE '%1'")
        .execute(&server.database.pool)
        .await
        .unwrap();
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport { forgotten: 1, ..TidyReport::default() });
    assert_eq!(server.database.count("SELECT count(*) FROM requests").await, 2);
}

#[tokio::test]
async fn invitations_are_removed_with_their_tokens_ninety_days_after_their_end() {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let mut operator = server.operator();
    for email in ["grace@example.com", "alan@example.com"] {
        operator.invitations.create_invitation(crate::invitations::invite(&acme, email)).await.unwrap();
    }
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
    sqlx::query(
        "UPDATE invitations SET expire_time = now() - interval '91 days', update_time = now() - interval '95 days'
         WHERE identifier_normal = 'alan@example.com'",
    )
    .execute(&server.database.pool)
    .await
    .unwrap();
    // An invitation is removed only when its end is recorded.
    for report in
        [TidyReport { expired: 1, ..TidyReport::default() }, TidyReport { invitations: 1, ..TidyReport::default() }]
    {
        assert_eq!(server.roster.tidy().await.unwrap(), report);
    }
    for kept in ["SELECT count(*) FROM invitations", "SELECT count(*) FROM invitation_tokens"] {
        assert_eq!(server.database.count(kept).await, 1);
    }
    server.database.assert_invariants().await;
}

/// grpcurl decodes error details with the descriptors from reflection. Without these types it prints bytes.
const DESCRIBED: [&str; 6] = [
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
    "google.rpc.RetryInfo",
    "google.rpc.Status",
    "grpc.health.v1.Health",
    "roster.v1.OrganizationService.AddMember",
];

#[tokio::test]
async fn reflection_describes_all_services_and_error_details() {
    let server = Server::start().await;
    let request =
        |message_request| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let mut requests = vec![request(MessageRequest::ListServices(String::new()))];
    requests.extend(DESCRIBED.map(|symbol| request(MessageRequest::FileContainingSymbol(symbol.to_owned()))));
    let mut client = ServerReflectionClient::new(server.channel());
    let requests = futures_util::stream::iter(requests);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let listed = match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("not a list: {other:?}"),
    };
    let listed: Vec<String> = listed;
    for service in ["OrganizationService", "UserService", "CheckService"] {
        assert!(listed.contains(&format!("roster.v1.{service}")), "{service} is not among {listed:?}");
    }
    for symbol in DESCRIBED {
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }

    // Older tools use the older version of the protocol.
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel());
    let requests = futures_util::stream::iter([request]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}
