//! Exports and watches deliver what this program does not know, and everything beside it.

use super::Fixture;
use crate::harness::server::Clients;
use crate::streams::{Watch, soon};
use pb::memberships_change::Change;
use roster::grpc::pb;
use std::collections::BTreeMap;

/// The parts of an export, joined, and the cursor.
async fn export(clients: &Clients) -> (pb::ExportMembershipsResponse, String) {
    let request = pb::ExportMembershipsRequest::default();
    let mut parts = clients.checks.clone().export_memberships(request).await.unwrap().into_inner();
    let mut all = pb::ExportMembershipsResponse::default();
    while let Some(part) = soon(parts.message()).await.unwrap() {
        all.organizations.extend(part.organizations);
        all.users.extend(part.users);
        all.cursor = part.cursor;
    }
    let cursor = all.cursor.clone();
    (all, cursor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_roles_as_stored_and_unspecified_states() {
    let fixture = Fixture::new().await;
    fixture.roll_forward().await;
    let (all, cursor) = export(&fixture.backend()).await;
    assert!(!cursor.is_empty());
    assert_eq!(all.organizations.len(), 3);
    for exported in &all.organizations {
        let organization = exported.organization.as_ref().unwrap();
        let is_beta = organization.organization_id == fixture.beta;
        let state = if is_beta { pb::OrganizationState::Unspecified } else { pb::OrganizationState::Active };
        assert_eq!((organization.state(), organization.purged, organization.owner_id.as_str()), (state, false, "ada"));
        let roles: BTreeMap<&str, &str> =
            exported.members.iter().map(|member| (member.user_id.as_str(), member.role.as_str())).collect();
        let eve = if organization.organization_id == fixture.acme { "auditor" } else { "member" };
        let expected = [("ada", "admin"), ("alan", "member"), ("eve", eve), ("grace", "admin"), ("joan", "member")];
        assert_eq!(roles, BTreeMap::from(expected));
    }
    let users: Vec<_> = all.users.iter().map(|user| (user.user_id.as_str(), user.state())).collect();
    assert_eq!(users, [("joan", pb::UserState::Unspecified)]);
}

/// The changes of a watch from a cursor, up to now.
async fn changes(watch: &mut Watch) -> Vec<pb::MembershipsChange> {
    watch.until(7).await.into_iter().flat_map(|message| message.changes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_memberships_delivers_every_change_live_and_from_the_log() {
    let fixture = Fixture::new().await;
    let clients = fixture.backend();
    fixture.caught_up().await;
    let (_, cursor) = export(&clients).await;
    let mut live = Watch::from(&clients, &cursor).await;
    live.until(1).await;
    fixture.roll_forward().await;
    fixture.server.user("ada").add(&fixture.acme, "new", "member").await;
    let mut replayed = Watch::from(&clients, &cursor).await;
    for watch in [&mut live, &mut replayed] {
        let mut seen = Vec::new();
        for change in changes(watch).await {
            assert!(change.change_time.is_some());
            let organization_id = change.organization_id.clone();
            match change.change {
                Some(Change::Membership(membership)) => {
                    assert_eq!((organization_id.as_str(), change.revision), ("", 0));
                    seen.push(format!("{} {} {}", membership.organization_id, membership.user_id, membership.role));
                }
                Some(Change::Organization(organization)) => {
                    assert!(!organization.purged);
                    seen.push(format!("{} {:?}", organization.organization_id, organization.state()));
                }
                Some(change @ (Change::Role(_) | Change::AccessModel(_))) => panic!("{change:?}"),
                Some(Change::User(user)) => seen.push(format!("{} {:?}", user.user_id, user.state())),
                None => seen.push(format!("{organization_id} at {}", change.revision)),
            }
        }
        seen.sort_unstable();
        let Fixture { acme, beta, gamma, .. } = &fixture;
        let mut expected = vec![
            format!("{acme} eve auditor"),
            format!("{acme} new member"),
            format!("{beta} Unspecified"),
            format!("{gamma} at 7"),
            "joan Unspecified".to_owned(),
        ];
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
    // A watch of one user gets the unknown change too: it may concern the user.
    let request = pb::WatchMembershipsRequest { cursor, user_id: "eve".to_owned(), ..Default::default() };
    let seen = changes(&mut Watch::open(&clients, request).await).await;
    let kinds: Vec<bool> = seen.iter().map(|change| change.change.is_some()).collect();
    assert_eq!(kinds.len(), 2, "{seen:?}");
    assert!(kinds.contains(&false) && kinds.contains(&true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_events_delivers_the_events_of_unknown_changes() {
    let fixture = Fixture::new().await;
    let clients = fixture.backend();
    let mut watch = clients.events.clone().watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
    soon(watch.message()).await.unwrap().unwrap();
    fixture.roll_forward().await;
    fixture.server.user("ada").add(&fixture.acme, "new", "member").await;
    let mut types = Vec::new();
    while types.len() < 4 {
        let message = soon(watch.message()).await.unwrap().unwrap();
        types.extend(message.events.into_iter().map(|event| (event.r#type, event.actor.unwrap().kind)));
    }
    types.sort_unstable();
    let newer = || ("newer.changed".to_owned(), "agent".to_owned());
    assert_eq!(types, [("member.added".to_owned(), "user".to_owned()), newer(), newer(), newer()]);
}
