//! `WatchMemberships`: the change log as membership changes.

use super::packing::MessageItems;
use super::pings::WatchPings;
use super::{CheckpointParts, WatchCheckpoint, WatchScope, WatchView};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::domain::ids::MODEL_BUCKET;
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
    let organization = WatchScope::find(&roster, input.organization.as_ref()).await?;
    let scope = WatchScope { organization, user: input.user, kind: input.kind };
    let model = scope.user.is_none().then_some(MODEL_BUCKET);
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter().chain(model)).await?;
    // The caller knows no model if the cursor does not cover it.
    let model = feed.unknown_model().await?;
    let pings = WatchPings::new(roster, first.ping, requests);
    super::run(feed, model.as_slice(), pings, MembershipView { scope }, sender).await
}

/// The changes of memberships in rows of the change log.
struct MembershipView {
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
            if let Some(change) = self.convert(&row.change) {
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
    fn convert(&self, change: &LogChange) -> Option<pb::MembershipsChange> {
        match change {
            LogChange::Model { revision, model } if self.scope.user.is_none() => {
                Some(of_known_type(ChangeMessage::AccessModel(access_model::change(*revision, model))))
            }
            LogChange::Model { .. } | LogChange::Unknown => None,
            LogChange::Organization(_) | LogChange::User { .. } if !self.scope.contains(change) => None,
            LogChange::Organization(entry) => self.convert_entry(entry),
            LogChange::User { user, revision, state } => Some(of_known_type(ChangeMessage::User(pb::UserChange {
                user_id: user.to_string(),
                state: convert::user_state(*state).into(),
                revision: *revision,
            }))),
        }
    }

    fn convert_entry(&self, entry: &LogEntry) -> Option<pb::MembershipsChange> {
        let LogEntry { organization, kind, revision, detail } = entry;
        let (organization_id, kind, revision) = (organization.to_string(), kind.as_str().to_owned(), *revision);
        match detail {
            ChangeDetail::Membership { user, role } => {
                self.scope.user.as_ref().is_none_or(|only| user == only).then(|| {
                    let role = role.as_ref().map(|role| role.name.to_string()).unwrap_or_default();
                    let change =
                        pb::MembershipChange { organization_id, user_id: user.to_string(), role, revision, kind };
                    of_known_type(ChangeMessage::Membership(change))
                })
            }
            ChangeDetail::Organization { state, owner, slug } => self.scope.user.is_none().then(|| {
                of_known_type(ChangeMessage::Organization(pb::OrganizationChange {
                    organization_id,
                    slug: slug.to_string(),
                    kind,
                    state: state.map_or(pb::OrganizationState::Unspecified, convert::organization_state).into(),
                    owner_id: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
                    revision,
                    purged: state.is_none(),
                }))
            }),
            ChangeDetail::Role { name, permissions, replaced_by } => self.scope.user.is_none().then(|| {
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
            }),
            // Sent whatever user is watched: the change may concern any member.
            ChangeDetail::Unknown => Some(pb::MembershipsChange { organization_id, revision, ..Default::default() }),
        }
    }
}

fn of_known_type(change: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change: Some(change), ..Default::default() }
}
