//! The client's replica applies messages, without a server.

mod roles;

use super::apply::{ApplyError, ApplyOutcome, ExportLoader, RecentChanges};
use super::follow::{PingHistory, WriteParts};
use super::replica::ClientReplica;
use crate::client::{Check, CheckReason, limits};
use crate::domain::{Kind, RoleName};
use crate::pb::{self, memberships_change::Change as ChangeMessage};

const ACME: &str = "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11";
const OTHER: &str = "10000000-5a39-4d0c-9a53-3a0f2c8f7a11";

fn organization(id: &str, revision: i64, purged: bool) -> pb::OrganizationChange {
    let state = if purged { pb::OrganizationState::Unspecified } else { pb::OrganizationState::Active };
    pb::OrganizationChange {
        organization_id: id.to_owned(),
        slug: format!("slug-{}", &id[..8]),
        kind: Kind::default_kind().as_str().to_owned(),
        state: state.into(),
        owner_id: if purged { String::new() } else { "ada".to_owned() },
        revision,
        purged,
    }
}

fn change(change: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change: Some(change), ..Default::default() }
}

fn created(id: &str, revision: i64) -> pb::MembershipsChange {
    change(ChangeMessage::Organization(organization(id, revision, false)))
}

fn purged(id: &str, revision: i64) -> pb::MembershipsChange {
    change(ChangeMessage::Organization(organization(id, revision, true)))
}

fn member(id: &str, user: &str, role: &str, revision: i64) -> pb::MembershipsChange {
    change(ChangeMessage::Membership(pb::MembershipChange {
        organization_id: id.to_owned(),
        user_id: user.to_owned(),
        role: role.to_owned(),
        revision,
        kind: Kind::default_kind().as_str().to_owned(),
    }))
}

fn user(id: &str, state: pb::UserState, revision: i64) -> pb::MembershipsChange {
    change(ChangeMessage::User(pb::UserChange { user_id: id.to_owned(), state: state.into(), revision }))
}

fn empty() -> (ClientReplica, RecentChanges) {
    (ExportLoader::new(true).finish(), RecentChanges::default())
}

/// The reason and the revision of the replica's answer.
fn answer(replica: &ClientReplica, organization: &str, user: &str) -> (CheckReason, i64) {
    let check = Check::member(organization, user).unwrap();
    let answer = replica.answer(&check).unwrap();
    (answer.reason, answer.revision)
}

#[test]
fn repeated_changes_are_skipped() {
    let (replica, mut recent) = empty();
    let history = [
        created(ACME, 1),
        member(ACME, "ada", "admin", 2),
        member(ACME, "eve", "member", 3),
        member(ACME, "eve", "", 4),
    ];
    assert_eq!(replica.apply(&history, &mut recent).unwrap().changes, 4);
    for from in 0..history.len() {
        let ApplyOutcome { changes, repetitions, .. } = replica.apply(&history[from..=from], &mut recent).unwrap();
        assert_eq!((changes, repetitions), (0, 1));
        assert_eq!(answer(&replica, ACME, "eve"), (CheckReason::NotAMember, 4));
        assert_eq!(answer(&replica, "slug-7b0c3a1e", "ada"), (CheckReason::Allowed, 4));
    }
    assert_eq!(replica.memberships(), 1);
}

#[test]
fn a_role_is_deleted_also_without_a_new_revision() {
    let (replica, mut recent) = empty();
    let history = [created(ACME, 1), roles::defined(ACME, "org:auditor", &[], 2)];
    replica.apply(&history, &mut recent).unwrap();
    let check = Check::role(ACME, "eve", RoleName::parse("org:auditor").unwrap()).unwrap();
    assert_eq!(replica.answer(&check).map(|answer| answer.reason), Some(CheckReason::NotAMember));
    for _ in 0..2 {
        replica.apply(&[roles::deleted(ACME, "org:auditor", 2)], &mut recent).unwrap();
        // The server says that there is no such role.
        assert_eq!(replica.answer(&check), None);
    }
    replica.apply(&[roles::defined(ACME, "org:auditor", &[], 3)], &mut recent).unwrap();
    replica.apply(&[roles::deleted(ACME, "org:auditor", 2)], &mut recent).unwrap();
    assert_eq!(replica.answer(&check).map(|answer| answer.reason), Some(CheckReason::NotAMember));
}

#[test]
fn the_parts_of_a_write_are_applied_together() {
    let (replica, mut recent) = empty();
    let mut parts = WriteParts::default();
    let mut receive = |changes: Vec<pb::MembershipsChange>, continued| {
        let changes = parts.join(changes, continued).ok().unwrap();
        changes.map(|changes| replica.apply(&changes, &mut recent).unwrap().changes)
    };
    assert_eq!(receive(vec![created(ACME, 1)], false), Some(1));
    assert_eq!(receive(vec![member(ACME, "alan", "member", 2)], true), None);
    assert_eq!(receive(vec![member(ACME, "eve", "member", 3)], true), None);
    assert_eq!(answer(&replica, ACME, "alan"), (CheckReason::NotAMember, 1));
    assert_eq!(receive(vec![member(ACME, "joan", "member", 4), created(OTHER, 1)], false), Some(4));
    assert_eq!(answer(&replica, ACME, "joan"), (CheckReason::Allowed, 4));
    // The next write starts without them.
    assert_eq!(receive(vec![member(ACME, "eve", "", 5)], false), Some(1));
    assert_eq!(receive(Vec::new(), false), Some(0));
}

#[test]
fn a_write_beyond_the_limit_leads_to_a_new_export() {
    let mut parts = WriteParts::default();
    let changes = |count| vec![pb::MembershipsChange::default(); count];
    assert!(parts.join(changes(limits::CACHE_WRITE_CHANGES), true).is_ok_and(|all| all.is_none()));
    let end = parts.join(changes(1), true).err();
    assert!(end.is_some_and(|end| end.needs_export));
}

#[test]
fn a_gap_rejects_the_whole_message() {
    let (replica, mut recent) = empty();
    replica.apply(&[created(ACME, 1), created(OTHER, 1)], &mut recent).unwrap();
    let message = [member(OTHER, "eve", "member", 2), member(ACME, "eve", "member", 3)];
    assert!(matches!(replica.apply(&message, &mut recent), Err(ApplyError::Gap)));
    assert_eq!(answer(&replica, OTHER, "eve"), (CheckReason::NotAMember, 1));
    // An organization begins with its first revision.
    let unknown = [created("20000000-5a39-4d0c-9a53-3a0f2c8f7a11", 2)];
    assert!(matches!(replica.apply(&unknown, &mut recent), Err(ApplyError::Gap)));
}

#[test]
fn an_unreadable_change_rejects_the_whole_message() {
    let (replica, mut recent) = empty();
    replica.apply(&[created(ACME, 1)], &mut recent).unwrap();
    let message = [member(ACME, "eve", "member", 2), member("acme", "eve", "member", 3)];
    assert!(matches!(replica.apply(&message, &mut recent), Err(ApplyError::Unreadable(_))));
    assert_eq!(answer(&replica, ACME, "eve"), (CheckReason::NotAMember, 1));
}

/// Whether the replica leaves the check to the server.
fn asks_server(replica: &ClientReplica, organization: &str, user: &str) -> bool {
    replica.answer(&Check::member(organization, user).unwrap()).is_none()
}

#[test]
fn a_value_of_a_newer_server_concerns_only_its_own_membership_organization_or_user() {
    let (replica, mut recent) = empty();
    let suspended = |state: i32| {
        let organization = pb::OrganizationChange { state, ..organization(OTHER, 2, false) };
        change(ChangeMessage::Organization(organization))
    };
    let message = [
        created(ACME, 1),
        member(ACME, "eve", "auditor", 2),
        member(ACME, "alan", "member", 3),
        member(ACME, "joan", "member", 4),
        created(OTHER, 1),
        suspended(77),
        change(ChangeMessage::User(pb::UserChange { user_id: "joan".to_owned(), state: 77, revision: 1 })),
    ];
    assert_eq!(replica.apply(&message, &mut recent).unwrap().changes, 7);
    let is_waiting = |organization, user| asks_server(&replica, organization, user);
    assert!(is_waiting(ACME, "eve") && is_waiting("slug-7b0c3a1e", "eve"));
    assert!(is_waiting(ACME, "joan") && is_waiting("no-such", "joan"));
    assert!(is_waiting(OTHER, "ada") && is_waiting("slug-10000000", "ada"));
    for (user, reason) in
        [("ada", CheckReason::Allowed), ("alan", CheckReason::Allowed), ("x", CheckReason::NotAMember)]
    {
        assert_eq!(answer(&replica, ACME, user), (reason, 4));
    }
    // A batch with such a check goes to the server.
    let checks = [Check::member(ACME, "ada").unwrap(), Check::member(ACME, "eve").unwrap()];
    assert!(replica.answers(&checks).is_none() && replica.answers(&checks[..1]).is_some());
    // The values go away.
    let known = [
        member(ACME, "eve", "admin", 5),
        suspended(pb::OrganizationState::Inactive.into()),
        user("joan", pb::UserState::Active, 2),
    ];
    let known = known.map(|mut change| {
        if let Some(ChangeMessage::Organization(organization)) = &mut change.change {
            organization.revision = 3;
        }
        change
    });
    replica.apply(&known, &mut recent).unwrap();
    for (organization, user, expected) in [
        (ACME, "eve", (CheckReason::Allowed, 5)),
        (ACME, "joan", (CheckReason::Allowed, 5)),
        (OTHER, "ada", (CheckReason::OrganizationInactive, 3)),
    ] {
        assert_eq!(answer(&replica, organization, user), expected);
    }
}

#[test]
fn after_a_change_of_an_unknown_type_the_server_answers_about_the_organization() {
    let new = "20000000-5a39-4d0c-9a53-3a0f2c8f7a11";
    let unknown =
        |id: &str, revision| pb::MembershipsChange { organization_id: id.to_owned(), revision, ..Default::default() };
    let (replica, mut recent) = empty();
    replica.apply(&[created(ACME, 1), created(OTHER, 1)], &mut recent).unwrap();
    assert_eq!(answer(&replica, "no-such", "ada"), (CheckReason::OrganizationNotFound, 0));
    // One that concerns no organization is skipped.
    let nothing = pb::MembershipsChange::default();
    replica.apply(&[nothing, unknown(ACME, 2), unknown(new, 1)], &mut recent).unwrap();
    // It leaves no gap in the revisions, and a later change does not undo it.
    replica.apply(&[created(ACME, 3), member(ACME, "eve", "member", 4), created(new, 2)], &mut recent).unwrap();
    assert_eq!(replica.apply(&[unknown(ACME, 2)], &mut recent).unwrap().repetitions, 1);
    for organization in [ACME, "slug-7b0c3a1e", new, "slug-20000000"] {
        assert!(asks_server(&replica, organization, "ada"), "{organization}");
    }
    // It may have renamed an organization.
    assert!(asks_server(&replica, "no-such", "ada"));
    assert_eq!(answer(&replica, OTHER, "ada"), (CheckReason::Allowed, 1));
    assert_eq!(answer(&replica, "slug-10000000", "eve"), (CheckReason::NotAMember, 1));
    // A gap is still one.
    assert!(matches!(replica.apply(&[unknown(OTHER, 3)], &mut recent), Err(ApplyError::Gap)));
}

#[test]
fn an_export_may_have_values_of_a_newer_server() {
    let mut loader = ExportLoader::new(true);
    let members = [("ada", "admin"), ("eve", "auditor"), ("joan", "member")];
    let members = members.map(|(user, role)| pb::ExportedMember { user_id: user.to_owned(), role: role.to_owned() });
    let acme = pb::ExportedOrganization {
        organization: Some(organization(ACME, 7, false)),
        members: members.to_vec(),
        ..Default::default()
    };
    let other = pb::OrganizationChange { state: 0, ..organization(OTHER, 7, false) };
    let other = pb::ExportedOrganization { organization: Some(other), members: members.to_vec(), ..Default::default() };
    let users = vec![pb::ExportedUser { user_id: "joan".to_owned(), state: 77 }];
    let message = pb::ExportMembershipsResponse { organizations: vec![acme, other], users, ..Default::default() };
    loader.add(&message).unwrap();
    let replica = loader.finish();
    assert_eq!(answer(&replica, ACME, "ada"), (CheckReason::Allowed, 7));
    assert_eq!(answer(&replica, ACME, "alan"), (CheckReason::NotAMember, 7));
    for (organization, user) in [(ACME, "eve"), (ACME, "joan"), (OTHER, "ada"), (OTHER, "alan")] {
        assert!(asks_server(&replica, organization, user), "{organization} {user}");
    }
}

#[test]
fn a_purged_organization_stays_purged_when_its_history_is_repeated() {
    let (replica, mut recent) = empty();
    let history = [created(ACME, 1), member(ACME, "eve", "member", 2), purged(ACME, 3)];
    assert!(replica.apply(&history, &mut recent).unwrap().purged);
    assert_eq!(replica.apply(&history, &mut recent).unwrap().repetitions, 3);
    assert_eq!(answer(&replica, ACME, "eve"), (CheckReason::OrganizationNotFound, 0));
    assert_eq!(replica.memberships(), 0);
}

#[test]
fn repeated_user_changes_are_skipped_by_revision() {
    let (replica, mut recent) = empty();
    replica.apply(&[created(ACME, 1), member(ACME, "eve", "member", 2)], &mut recent).unwrap();
    let (off, on) = (user("eve", pb::UserState::Inactive, 5), user("eve", pb::UserState::Active, 6));
    replica.apply(std::slice::from_ref(&off), &mut recent).unwrap();
    assert_eq!(answer(&replica, ACME, "eve").0, CheckReason::UserInactive);
    replica.apply(&[on], &mut recent).unwrap();
    assert_eq!(replica.apply(&[off], &mut recent).unwrap().repetitions, 1);
    assert_eq!(answer(&replica, ACME, "eve").0, CheckReason::Allowed);
}

#[test]
fn an_organization_may_be_split_over_several_export_messages() {
    let mut loader = ExportLoader::new(true);
    for name in ["ada", "eve"] {
        let members = vec![pb::ExportedMember { user_id: name.to_owned(), role: "admin".to_owned() }];
        let exported = pb::ExportedOrganization {
            organization: Some(organization(ACME, 7, false)),
            members,
            ..Default::default()
        };
        let users = vec![pb::ExportedUser { user_id: "eve".to_owned(), state: pb::UserState::Inactive.into() }];
        let message = pb::ExportMembershipsResponse { organizations: vec![exported], users, ..Default::default() };
        loader.add(&message).unwrap();
    }
    let replica = loader.finish();
    assert_eq!(replica.memberships(), 2);
    assert_eq!(answer(&replica, ACME, "ada"), (CheckReason::Allowed, 7));
    assert_eq!(answer(&replica, ACME, "eve"), (CheckReason::UserInactive, 7));
    assert_eq!(answer(&replica, "no-such", "eve"), (CheckReason::OrganizationNotFound, 0));
}

#[test]
fn a_replica_of_one_kind_does_not_answer_for_others() {
    let replica = ExportLoader::new(false).finish();
    for name in [ACME, "acme"] {
        assert_eq!(replica.answer(&Check::member(name, "ada").unwrap()), None);
    }
}

#[test]
fn the_lease_is_the_send_time_of_the_newest_answered_ping() {
    let (replica, _) = empty();
    assert_eq!(replica.age(), None);
    let (mut pings, mut sent) = PingHistory::new();
    pings.send(pb::WatchMembershipsRequest::default());
    pings.send(pb::WatchMembershipsRequest::default());
    // The channel has room for two.
    pings.send(pb::WatchMembershipsRequest::default());
    let [first, second] = [sent.try_recv().unwrap().ping, sent.try_recv().unwrap().ping];
    assert!(0 < first && first <= second && sent.try_recv().is_err());
    assert_eq!(pings.confirm(0), None);
    assert_eq!(pings.confirm(second + 1), None);
    assert_eq!(pings.confirm(second), u64::try_from(second).ok());
    assert_eq!(pings.confirm(first), None, "it is older than the newest answered ping");

    let lease = u64::try_from(second).unwrap();
    replica.renew_lease(lease);
    replica.renew_lease(lease - 1);
    let age = replica.age().unwrap();
    assert!(age <= crate::clock::uptime().saturating_sub(std::time::Duration::from_nanos(lease)));
    replica.drop_lease();
    assert_eq!(replica.age(), None);
}

#[test]
fn a_refused_client_waits_longer_than_the_server_asks_for_and_no_two_wait_equally_long() {
    use super::follow::delay;
    use std::time::Duration;
    let [short, long] = [Duration::from_millis(25), Duration::from_secs(3)];
    let least = Duration::from_millis(200);
    for (pause, retry_after, range) in
        [(short, Some(least), least..least * 2), (long, Some(least), least..least + long), (long, None, long / 2..long)]
    {
        let delays: Vec<Duration> = (0..100).map(|_| delay(pause, retry_after)).collect();
        assert!(delays.iter().all(|delay| range.contains(delay)), "{delays:?}");
        let spread = delays.iter().max().unwrap().saturating_sub(*delays.iter().min().unwrap());
        assert!(spread > range.end.saturating_sub(range.start) / 2, "{delays:?}");
    }
}
