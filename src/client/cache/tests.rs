//! What a copy makes of what it is told, without a server.

use super::super::CheckReason;
use super::apply::{ApplyError, ApplyOutcome, ExportLoader, RecentChanges};
use super::follow::PingHistory;
use super::replica::ClientReplica;
use super::{Check, told};
use crate::domain::Kind;
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

fn change(told: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change_time: None, change: Some(told) }
}

fn made(id: &str, revision: i64) -> pb::MembershipsChange {
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

/// The reason and the revision that a copy answers with.
fn says(copy: &ClientReplica, organization: &str, user: &str) -> (CheckReason, i64) {
    let check = Check::member(organization, user).unwrap();
    let answer = told(&check, &copy.standing(&check).unwrap());
    (answer.reason, answer.revision)
}

#[test]
fn what_is_told_again_changes_nothing() {
    let (copy, mut recent) = empty();
    let history =
        [made(ACME, 1), member(ACME, "ada", "admin", 2), member(ACME, "eve", "member", 3), member(ACME, "eve", "", 4)];
    assert_eq!(copy.apply(&history, &mut recent).unwrap().changes, 4);
    for from in 0..history.len() {
        let ApplyOutcome { changes, repetitions, .. } = copy.apply(&history[from..=from], &mut recent).unwrap();
        assert_eq!((changes, repetitions), (0, 1));
        assert_eq!(says(&copy, ACME, "eve"), (CheckReason::NotAMember, 4));
        assert_eq!(says(&copy, "slug-7b0c3a1e", "ada"), (CheckReason::Allowed, 4));
    }
    assert_eq!(copy.memberships(), 1);
}

#[test]
fn a_gap_is_noticed_and_nothing_of_the_message_is_applied() {
    let (copy, mut recent) = empty();
    copy.apply(&[made(ACME, 1), made(OTHER, 1)], &mut recent).unwrap();
    let message = [member(OTHER, "eve", "member", 2), member(ACME, "eve", "member", 3)];
    assert!(matches!(copy.apply(&message, &mut recent), Err(ApplyError::Gap)));
    assert_eq!(says(&copy, OTHER, "eve"), (CheckReason::NotAMember, 1));
    // An organization begins with its first revision.
    let unknown = [made("20000000-5a39-4d0c-9a53-3a0f2c8f7a11", 2)];
    assert!(matches!(copy.apply(&unknown, &mut recent), Err(ApplyError::Gap)));
}

#[test]
fn what_is_not_understood_is_not_applied_by_half() {
    let (copy, mut recent) = empty();
    copy.apply(&[made(ACME, 1)], &mut recent).unwrap();
    for strange in [
        member(ACME, "eve", "janitor", 3),
        member("acme", "eve", "member", 3),
        user("eve", pb::UserState::Unspecified, 1),
        pb::MembershipsChange { change_time: None, change: None },
    ] {
        let message = [member(ACME, "eve", "member", 2), strange];
        assert!(matches!(copy.apply(&message, &mut recent), Err(ApplyError::Unreadable(_))));
        assert_eq!(says(&copy, ACME, "eve"), (CheckReason::NotAMember, 1));
    }
}

#[test]
fn what_is_purged_stays_so_when_its_past_is_told_again() {
    let (copy, mut recent) = empty();
    let history = [made(ACME, 1), member(ACME, "eve", "member", 2), purged(ACME, 3)];
    assert!(copy.apply(&history, &mut recent).unwrap().purged);
    assert_eq!(copy.apply(&history, &mut recent).unwrap().repetitions, 3);
    assert_eq!(says(&copy, ACME, "eve"), (CheckReason::OrganizationNotFound, 0));
    assert_eq!(copy.memberships(), 0);
}

#[test]
fn users_are_followed_by_their_revisions() {
    let (copy, mut recent) = empty();
    copy.apply(&[made(ACME, 1), member(ACME, "eve", "member", 2)], &mut recent).unwrap();
    let (off, on) = (user("eve", pb::UserState::Inactive, 5), user("eve", pb::UserState::Active, 6));
    copy.apply(std::slice::from_ref(&off), &mut recent).unwrap();
    assert_eq!(says(&copy, ACME, "eve").0, CheckReason::UserInactive);
    copy.apply(&[on], &mut recent).unwrap();
    assert_eq!(copy.apply(&[off], &mut recent).unwrap().repetitions, 1);
    assert_eq!(says(&copy, ACME, "eve").0, CheckReason::Allowed);
}

#[test]
fn an_export_comes_in_parts() {
    let mut loading = ExportLoader::new(true);
    for name in ["ada", "eve"] {
        let members = vec![pb::ExportedMember { user_id: name.to_owned(), role: "admin".to_owned() }];
        let exported = pb::ExportedOrganization { organization: Some(organization(ACME, 7, false)), members };
        let users = vec![pb::ExportedUser { user_id: "eve".to_owned(), state: pb::UserState::Inactive.into() }];
        let message = pb::ExportMembershipsResponse { organizations: vec![exported], users, cursor: String::new() };
        loading.take(&message).unwrap();
    }
    let copy = loading.finish();
    assert_eq!(copy.memberships(), 2);
    assert_eq!(says(&copy, ACME, "ada"), (CheckReason::Allowed, 7));
    assert_eq!(says(&copy, ACME, "eve"), (CheckReason::UserInactive, 7));
    assert_eq!(says(&copy, "nobody-s", "eve"), (CheckReason::OrganizationNotFound, 0));
}

#[test]
fn a_copy_of_one_kind_says_nothing_of_others() {
    let copy = ExportLoader::new(false).finish();
    for name in [ACME, "acme"] {
        assert_eq!(copy.standing(&Check::member(name, "ada").unwrap()), None);
    }
}

#[test]
fn the_lease_is_the_moment_of_the_newest_ping_that_came_back() {
    let (copy, _) = empty();
    assert_eq!(copy.age(), None);
    let (mut pings, mut sent) = PingHistory::new();
    pings.send(pb::WatchMembershipsRequest::default());
    pings.send(pb::WatchMembershipsRequest::default());
    // There is room for two.
    pings.send(pb::WatchMembershipsRequest::default());
    let [first, second] = [sent.try_recv().unwrap().ping, sent.try_recv().unwrap().ping];
    assert!(0 < first && first <= second && sent.try_recv().is_err());
    assert_eq!(pings.answered(0), None);
    assert_eq!(pings.answered(second + 1), None);
    assert_eq!(pings.answered(second), u64::try_from(second).ok());
    assert_eq!(pings.answered(first), None, "it is older than what has come back");

    let lease = u64::try_from(second).unwrap();
    copy.renew(lease);
    copy.renew(lease - 1);
    let age = copy.age().unwrap();
    assert!(age <= crate::clock::uptime().saturating_sub(std::time::Duration::from_nanos(lease)));
    copy.distrust();
    assert_eq!(copy.age(), None);
}
