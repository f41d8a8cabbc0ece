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

#[tokio::test]
async fn an_organization_that_cannot_become_active_is_purged() {
    let server = Server::start().await;
    let mut operator = server.operator();
    for (name, email) in [("Waiting", "grace@example.com"), ("Given up", "alan@example.com")] {
        let request = pb::CreateOrganizationRequest {
            owner_email: email.to_owned(),
            owner_delivery: pb::InvitationDelivery::Token.into(),
            ..organization(name)
        };
        operator.organizations.create_organization(request).await.unwrap();
    }
    let expire = "UPDATE invitations SET expire_time = now() WHERE identifier_normal = 'alan@example.com'";
    sqlx::query(expire).execute(&server.database.pool).await.unwrap();
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport::default());
    let age = "UPDATE organizations SET create_time = create_time - interval '31 days'";
    sqlx::query(age).execute(&server.database.pool).await.unwrap();
    assert_eq!(server.roster.tidy().await.unwrap(), TidyReport { purged: 1, ..TidyReport::default() });
    assert_eq!(server.database.count("SELECT count(*) FROM organizations WHERE slug = 'waiting'").await, 1);
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
    let report = TidyReport { expired: 1, invitations: 1, ..TidyReport::default() };
    assert_eq!(server.roster.tidy().await.unwrap(), report);
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
