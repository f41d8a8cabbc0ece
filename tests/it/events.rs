//! The audit trail, as its readers see it.

use crate::harness::{Server, add, assert_refused, set_role};
use roster::grpc::pb;
use tonic::Code;

async fn page(reader: &mut crate::harness::server::Clients, request: pb::ListEventsRequest) -> pb::ListEventsResponse {
    reader.events.list_events(request).await.unwrap().into_inner()
}

fn types(events: &[pb::Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

fn text<'s>(object: Option<&'s pb::Event>, key: &str) -> &'s str {
    use prost_types::value::Kind::StringValue;
    match object.and_then(|event| event.new.as_ref()?.fields.get(key)?.kind.as_ref()) {
        Some(StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}

#[tokio::test]
async fn each_event_names_its_actor_type_user_and_reason_newest_first() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    let request_id = roster::random::uuid().to_string();
    let request = pb::AddMemberRequest {
        reason: "she asked".to_owned(),
        request_id: request_id.clone(),
        ..add(&acme, "grace", "member")
    };
    server.on_behalf_of("ada").organizations.add_member(request).await.unwrap();
    server.operator().organizations.update_member(set_role(&acme, "grace", "admin")).await.unwrap();

    let response =
        page(&mut ada, pb::ListEventsRequest { organization: "acme".to_owned(), ..Default::default() }).await;
    let events = &response.events;
    assert_eq!(types(events), ["member.updated", "member.added", "member.added", "organization.created"]);
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [4, 3, 2, 1]);
    assert!(events.iter().all(|event| event.organization_id == acme && event.create_time.is_some()));
    let actor = |kind: &str, id: &str, via: &str| {
        Some(pb::Actor { kind: kind.to_owned(), id: id.to_owned(), via: via.to_owned() })
    };
    assert_eq!(events[0].actor, actor("operator", "root", ""));
    assert_eq!(events[1].actor, actor("user", "ada", "backend"));
    assert_eq!((events[1].user_id.as_str(), events[1].reason.as_str()), ("grace", "she asked"));
    assert_eq!(events[1].request_id, request_id);
    assert_eq!((events[1].old.is_some(), text(events.get(1), "role")), (false, "member"));
    assert_eq!((events[0].old.is_some(), text(events.first(), "role")), (true, "admin"));
    assert_eq!(text(events.get(3), "slug"), "acme");
    assert_eq!((events[3].user_id.as_str(), response.next_page_token.as_str()), ("", ""));
}

#[tokio::test]
async fn pages_continue_where_the_last_one_ended_despite_new_events_and_filters_apply() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    for user in ["grace", "alan", "emmy"] {
        ada.add(&acme, user, "member").await;
    }
    let all = pb::ListEventsRequest { organization: acme.clone(), page_size: 2, ..Default::default() };
    let mut revisions = Vec::new();
    let mut request = all.clone();
    loop {
        let response = page(&mut ada, request.clone()).await;
        revisions.extend(response.events.iter().map(|event| event.revision));
        // A new event comes before the first page, so that later pages do not shift.
        ada.organizations.update_member(set_role(&acme, "grace", "admin")).await.unwrap();
        if response.next_page_token.is_empty() {
            break;
        }
        request.page_token = response.next_page_token;
    }
    assert_eq!(revisions, [5, 4, 3, 2, 1]);

    let filter = |types: &[&str], user: &str| pb::ListEventsRequest {
        types: types.iter().map(|name| (*name).to_owned()).collect(),
        user_id: user.to_owned(),
        ..all.clone()
    };
    let grace = page(&mut ada, filter(&[], "grace")).await;
    assert_eq!((types(&grace.events), grace.next_page_token.as_str()), (vec!["member.updated", "member.added"], ""));
    let both = page(&mut ada, filter(&["member.updated", "organization.created"], "")).await;
    assert_eq!(types(&both.events), ["member.updated", "organization.created"]);
    assert!(page(&mut ada, filter(&["member.removed"], "")).await.events.is_empty());
    assert!(page(&mut ada, filter(&["organization.created"], "grace")).await.events.is_empty());

    // A page token belongs to its request, and contains a revision.
    let token = page(&mut ada, all.clone()).await.next_page_token;
    let beta = ada.create("Beta").await;
    for other in [
        pb::ListEventsRequest { page_token: token.clone(), ..filter(&["member.added"], "") },
        pb::ListEventsRequest { page_token: token.clone(), ..filter(&[], "grace") },
        pb::ListEventsRequest { page_token: token, organization: beta, ..all },
    ] {
        assert_refused(ada.events.list_events(other).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn events_of_a_deleted_organization_stay_readable_for_its_owner_and_of_a_purged_one_for_no_caller() {
    let server = Server::start().await;
    let (mut ada, mut grace, mut operator) = (server.user("ada"), server.user("grace"), server.operator());
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "member").await;
    let delete = pb::DeleteOrganizationRequest { organization: acme.clone(), ..Default::default() };
    ada.organizations.delete_organization(delete.clone()).await.unwrap();
    let request = pb::ListEventsRequest { organization: acme, ..Default::default() };
    for reader in [&mut ada, &mut operator] {
        let response = page(reader, request.clone()).await;
        assert_eq!(
            types(&response.events),
            ["organization.deleted", "member.added", "member.added", "organization.created"]
        );
    }
    assert_refused(grace.events.list_events(request.clone()).await, Code::PermissionDenied, "PERMISSION_DENIED");
    let purge = pb::DeleteOrganizationRequest { purge: true, ..delete };
    operator.organizations.delete_organization(purge).await.unwrap();
    assert_refused(operator.events.list_events(request.clone()).await, Code::NotFound, "ORGANIZATION_NOT_FOUND");
    assert_refused(ada.events.list_events(request).await, Code::PermissionDenied, "PERMISSION_DENIED");
}
