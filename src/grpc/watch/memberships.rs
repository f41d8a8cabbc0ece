//! `WatchMemberships`: the change log as membership changes.

use super::packing::MessageItems;
use super::pings::WatchPings;
use super::{CheckpointParts, WatchCheckpoint, WatchScope, WatchView};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::MODEL_BUCKET;
use crate::domain::{Role, UserId};
use crate::grpc::admit::read;
use crate::grpc::admit::stream::{RequestStream, StreamSender};
use crate::grpc::decode::check as decode;
use crate::grpc::{access_model, convert, limits, pb, status};
use crate::service::Roster;
use crate::service::change_feed::{LogChange, LogRow};
use pb::memberships_change::Change as ChangeMessage;
use tokio::time::timeout;
use tonic::Status;

/// Sends the changes that the caller's first message asks for, until the stream ends.
pub(in crate::grpc) async fn watch(
    roster: Roster,
    mut requests: RequestStream<pb::WatchMembershipsRequest>,
    sender: StreamSender<pb::WatchMembershipsResponse>,
) -> Result<(), Status> {
    let first = timeout(limits::DEADLINE, requests.next()).await.map_err(|_| status::deadline_exceeded())??;
    let first = first.ok_or_else(status::no_first_message)?;
    let input = read(|fields| decode::watch(&first, fields))?;
    let organization = WatchScope::find(&roster, input.organization.as_ref(), input.cursor.is_some()).await?;
    let scope = WatchScope { organization, user: input.user, kind: input.kind };
    let model = scope.user.is_none().then_some(MODEL_BUCKET);
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter().chain(model)).await?;
    // The caller knows no model if the cursor does not cover it.
    let model = feed.unknown_model().await?;
    let pings = WatchPings::new(roster.clone(), first.ping, requests);
    super::run(feed, model.as_slice(), pings, MembershipView { roster, scope }, sender).await
}

/// The changes of memberships in rows of the change log.
struct MembershipView {
    roster: Roster,
    scope: WatchScope,
}

impl WatchView for MembershipView {
    type Item = pb::MembershipsChange;
    type Message = pb::WatchMembershipsResponse;

    async fn items(&self, rows: &[LogRow]) -> Result<(Vec<(usize, pb::MembershipsChange)>, usize), Status> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (number, row) in rows.iter().enumerate() {
            if bytes >= limits::CHUNK_BYTES {
                return Ok((items, number));
            }
            if let Some(change) = self.convert(row) {
                let change_time = Some(convert::timestamp(row.at.write_time));
                let item = pb::MembershipsChange { change_time, ..change };
                bytes += convert::field_bytes(&item);
                items.push((number, item));
            }
        }
        Ok((items, rows.len()))
    }

    fn message(
        MessageItems { items, continued }: MessageItems<pb::MembershipsChange>,
        checkpoint: WatchCheckpoint,
    ) -> Self::Message {
        let checkpoint = checkpoint.map(|CheckpointParts { cursor, ping, built_in_roles_changed }| pb::Checkpoint {
            cursor,
            ping,
            built_in_roles_changed,
        });
        pb::WatchMembershipsResponse { changes: items, checkpoint, continued }
    }
}

impl MembershipView {
    /// The message of a change; `None` if the change is outside the scope.
    fn convert(&self, row: &LogRow) -> Option<pb::MembershipsChange> {
        match &row.change {
            LogChange::Model { revision, model } if self.scope.user.is_none() => {
                Some(of_known_type(ChangeMessage::AccessModel(access_model::change(*revision, model))))
            }
            LogChange::Model { .. } | LogChange::Unknown => None,
            change if !self.scope.contains(change) => None,
            LogChange::Organization(entry) => match &self.scope.user {
                Some(user) => self.convert_for(user, entry, row.at.position),
                None => Some(convert_entry(entry)),
            },
            LogChange::User { user, revision, state, .. } => Some(of_known_type(ChangeMessage::User(pb::UserChange {
                user_id: user.to_string(),
                state: convert::user_state(*state).into(),
                revision: *revision,
            }))),
        }
    }

    /// The message of a change, at this position of the log, for a watch of one user. A purge ends the user's membership,
    /// and the log has no other entry of that end. It is left out only if the user certainly was no member.
    fn convert_for(&self, only: &UserId, entry: &LogEntry, position: i64) -> Option<pb::MembershipsChange> {
        match &entry.detail {
            ChangeDetail::Membership { user, .. } => (user == only).then(|| convert_entry(entry)),
            ChangeDetail::Organization { state: None, .. } => {
                let ends = self.roster.may_have_been_member(entry.organization, only, position);
                ends.then(|| membership(entry, only, None))
            }
            ChangeDetail::Organization { state: Some(_), .. } | ChangeDetail::Role { .. } => None,
            // The change may concern any member.
            ChangeDetail::Unknown => Some(convert_entry(entry)),
        }
    }
}

fn membership(entry: &LogEntry, user: &UserId, role: Option<&Role>) -> pb::MembershipsChange {
    of_known_type(ChangeMessage::Membership(pb::MembershipChange {
        organization_id: entry.organization.to_string(),
        user_id: user.to_string(),
        role: role.map(|role| role.name.to_string()).unwrap_or_default(),
        revision: entry.revision,
        kind: entry.kind.as_str().to_owned(),
    }))
}

fn convert_entry(entry: &LogEntry) -> pb::MembershipsChange {
    let LogEntry { organization, kind, revision, detail } = entry;
    let (organization_id, kind, revision) = (organization.to_string(), kind.as_str().to_owned(), *revision);
    match detail {
        ChangeDetail::Membership { user, role } => membership(entry, user, role.as_ref()),
        ChangeDetail::Organization { state, owner, slug } => {
            of_known_type(ChangeMessage::Organization(pb::OrganizationChange {
                organization_id,
                slug: slug.to_string(),
                kind,
                state: state.map_or(pb::OrganizationState::Unspecified, convert::organization_state).into(),
                owner_id: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
                revision,
                purged: state.is_none(),
            }))
        }
        ChangeDetail::Role { name, permissions, replaced_by } => {
            let change = ChangeMessage::Role(pb::OrganizationRoleChange {
                organization_id: organization_id.clone(),
                kind,
                role: name.to_string(),
                permissions: permissions.clone().unwrap_or_default(),
                deleted: permissions.is_none(),
                replaced_by: replaced_by.as_ref().map(ToString::to_string).unwrap_or_default(),
                revision,
            });
            // For clients that do not know the message, it is an unknown change of the organization.
            pb::MembershipsChange { change: Some(change), organization_id, revision, ..Default::default() }
        }
        ChangeDetail::Unknown => pb::MembershipsChange { organization_id, revision, ..Default::default() },
    }
}

fn of_known_type(change: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change: Some(change), ..Default::default() }
}
