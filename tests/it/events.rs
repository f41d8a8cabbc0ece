//! The audit trail, as its readers see it.

use crate::harness::server::{Clients, ISSUER};
use crate::harness::{Server, add, assert_refused, set_role};
use crate::streams::memberships::Memberships;
use crate::streams::soon;
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::Code;

async fn page(reader: &mut Clients, request: pb::ListEventsRequest) -> pb::ListEventsResponse {
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
        let issuer = ISSUER.to_owned();
        Some(pb::Actor { kind: kind.to_owned(), id: id.to_owned(), issuer, via: via.to_owned() })
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

fn of_user(user: &str, page_size: i32, types: &[&str]) -> pb::ListUserEventsRequest {
    let types = types.iter().map(|name| (*name).to_owned()).collect();
    pb::ListUserEventsRequest { user_id: user.to_owned(), types, page_size, ..Default::default() }
}

/// All pages of a list of a user's events.
async fn all_of_user(reader: &mut Clients, mut request: pb::ListUserEventsRequest) -> Vec<pb::Event> {
    let mut events = Vec::new();
    loop {
        let response = reader.events.list_user_events(request.clone()).await.unwrap().into_inner();
        assert!(i32::try_from(response.events.len()).unwrap() <= request.page_size);
        events.extend(response.events);
        if response.next_page_token.is_empty() {
            return events;
        }
        request.page_token = response.next_page_token;
    }
}

/// Deactivates and reactivates a user this many times, with a profile that changes in between.
async fn toggle(operator: &mut Clients, user: &str, times: usize) {
    let user_id = user.to_owned();
    for number in 0..times {
        let reason = format!("number {number}");
        let request = pb::DeactivateUserRequest { user_id: user_id.clone(), reason, ..Default::default() };
        operator.users.deactivate_user(request).await.unwrap();
        let request = pb::ReactivateUserRequest { user_id: user_id.clone(), ..Default::default() };
        operator.users.reactivate_user(request).await.unwrap();
        let display_name = format!("Name {number}");
        let request = pb::PutUserRequest { user_id: user_id.clone(), display_name, ..Default::default() };
        operator.users.put_user(request).await.unwrap();
    }
}

/// The events of users' states that a watch sends from a cursor on, by user.
async fn watched(clients: &Clients, cursor: String, count: usize) -> BTreeMap<String, Vec<pb::Event>> {
    let types = ["user.deactivated", "user.reactivated", "user.deleted"].map(str::to_owned).into();
    let request = pb::WatchEventsRequest { cursor, types, ..Default::default() };
    let mut watch = clients.events.clone().watch_events(request).await.unwrap().into_inner();
    let mut events: BTreeMap<String, Vec<pb::Event>> = BTreeMap::new();
    while events.values().map(Vec::len).sum::<usize>() < count {
        for event in soon(watch.message()).await.unwrap().unwrap().events {
            events.entry(event.user_id.clone()).or_default().push(event);
        }
    }
    events
}

#[tokio::test]
async fn the_pages_of_a_users_events_are_what_a_watch_sends_and_the_changes_of_the_profile() {
    let server = Server::start().await;
    let (mut operator, mut backend) = (server.operator(), server.service(&[Scope::Manage]));
    let (_, cursor) = Memberships::export(&backend, "").await;
    for user in ["grace", "alan", "emmy"] {
        let request = pb::PutUserRequest { user_id: user.to_owned(), ..Default::default() };
        operator.users.put_user(request).await.unwrap();
        toggle(&mut operator, user, 3).await;
    }
    let request = pb::DeleteUserRequest { user_id: "grace".to_owned(), ..Default::default() };
    operator.users.delete_user(request).await.unwrap();

    let watched = watched(&backend, cursor, 3 * 6 + 1).await;
    for (user, mut expected) in watched {
        expected.reverse();
        let states = ["user.deactivated", "user.reactivated", "user.deleted"];
        for page_size in [1, 4, 100] {
            assert_eq!(all_of_user(&mut backend, of_user(&user, page_size, &states)).await, expected);
            let all = all_of_user(&mut operator, of_user(&user, page_size, &[])).await;
            let count = i64::try_from(all.len()).unwrap();
            assert!(all.iter().map(|event| event.revision).eq((1..=count).rev()), "{all:?}");
            assert!(all.iter().all(|event| event.user_id == user && event.organization_id.is_empty()));
            assert!(expected.iter().all(|event| all.contains(event)));
            let updated: Vec<_> = all.iter().filter(|event| event.r#type == "user.updated").collect();
            assert_eq!((updated.len(), all.last().unwrap().r#type.as_str()), (3, "user.created"));
            assert!(!format!("{all:?}").contains("Name"), "an event has a profile");
        }
    }
}

#[tokio::test]
async fn a_list_of_a_users_events_keeps_its_page_token_and_outlasts_the_change_log() {
    let server = Server::start().await;
    let (mut operator, mut ada) = (server.operator(), server.user("ada"));
    let acme = ada.create("Acme").await;
    for user in ["grace", "alan"] {
        let request = pb::PutUserRequest { user_id: user.to_owned(), ..Default::default() };
        operator.users.put_user(request).await.unwrap();
        toggle(&mut operator, user, 1).await;
    }
    let first = of_user("grace", 2, &[]);
    let page_token = operator.events.list_user_events(first.clone()).await.unwrap().into_inner().next_page_token;
    let list = pb::ListEventsRequest { organization: acme, page_size: 1, ..Default::default() };
    let other_list = ada.events.list_events(list.clone()).await.unwrap().into_inner().next_page_token;
    for (token, request) in [
        (&page_token, of_user("alan", 2, &[])),
        (&page_token, of_user("grace", 2, &["user.created"])),
        (&other_list, first.clone()),
    ] {
        let request = pb::ListUserEventsRequest { page_token: token.clone(), ..request };
        assert_refused(operator.events.list_user_events(request).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let foreign = pb::ListEventsRequest { page_token: page_token.clone(), ..list };
    assert_refused(ada.events.list_events(foreign).await, Code::InvalidArgument, "INVALID_REQUEST");

    // New events come before the first page. The retention of the change log concerns watches only.
    toggle(&mut operator, "grace", 1).await;
    sqlx::query("DELETE FROM user_log").execute(&server.database.pool).await.unwrap();
    let rest = all_of_user(&mut operator, pb::ListUserEventsRequest { page_token, ..first }).await;
    assert_eq!(types(&rest), ["user.deactivated", "user.created"]);
    assert_eq!(all_of_user(&mut operator, of_user("grace", 100, &[])).await.len(), 6);

    let unknown = operator.events.list_user_events(of_user("unknown", 0, &[])).await;
    assert_refused(unknown, Code::NotFound, "USER_NOT_FOUND");
    assert_refused(
        server.user("grace").events.list_user_events(of_user("grace", 0, &[])).await,
        Code::PermissionDenied,
        "CALLER_NOT_ALLOWED",
    );
}
