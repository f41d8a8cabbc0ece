//! `WatchMemberships`: the change log as membership changes.

use super::packing::MessageItems;
use super::pings::WatchPings;
use super::{CheckpointParts, WatchCheckpoint, WatchScope, WatchView};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::grpc::admit::read;
use crate::grpc::admit::stream::{RequestStream, StreamSender};
use crate::grpc::decode::check as decode;
use crate::grpc::{convert, limits, pb, status};
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
    let feed = roster.follow(input.cursor.as_ref(), scope.buckets().into_iter()).await?;
    let pings = WatchPings::new(roster, first.ping, requests);
    super::run(feed, pings, MembershipView { scope }, sender).await
}

/// The changes of memberships in rows of the change log.
struct MembershipView {
    scope: WatchScope,
}

impl WatchView for MembershipView {
    type Item = pb::MembershipsChange;
    type Message = pb::WatchMembershipsResponse;

    async fn items(&self, rows: &[LogRow]) -> Result<(Vec<(usize, pb::MembershipsChange)>, usize), Status> {
        let item = |(number, row): (usize, &LogRow)| {
            let change_time = Some(convert::timestamp(row.at.write_time));
            Some((number, pb::MembershipsChange { change_time, ..self.convert(&row.change)? }))
        };
        Ok((rows.iter().enumerate().filter_map(item).collect(), rows.len()))
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
        if !self.scope.contains(change) {
            return None;
        }
        match change {
            // Sent whatever user is watched: the change may concern any member.
            LogChange::Organization(LogEntry {
                organization,
                revision,
                detail: ChangeDetail::Role { .. } | ChangeDetail::Unknown,
                ..
            }) => {
                let organization_id = organization.to_string();
                Some(pb::MembershipsChange { organization_id, revision: *revision, ..Default::default() })
            }
            LogChange::Organization(entry) => self.convert_entry(entry).map(of_known_type),
            LogChange::User { user, revision, state } => Some(of_known_type(ChangeMessage::User(pb::UserChange {
                user_id: user.to_string(),
                state: convert::user_state(*state).into(),
                revision: *revision,
            }))),
            LogChange::Model { .. } | LogChange::Unknown => None,
        }
    }

    fn convert_entry(&self, entry: &LogEntry) -> Option<ChangeMessage> {
        let LogEntry { organization, kind, revision, detail } = entry;
        let (organization_id, kind, revision) = (organization.to_string(), kind.as_str().to_owned(), *revision);
        match detail {
            ChangeDetail::Membership { user, role } => {
                self.scope.user.as_ref().is_none_or(|only| user == only).then(|| {
                    let role = role.as_ref().map(|role| role.name.to_string()).unwrap_or_default();
                    let user_id = user.to_string();
                    ChangeMessage::Membership(pb::MembershipChange { organization_id, user_id, role, revision, kind })
                })
            }
            ChangeDetail::Organization { state, owner, slug } => self.scope.user.is_none().then(|| {
                ChangeMessage::Organization(pb::OrganizationChange {
                    organization_id,
                    slug: slug.to_string(),
                    kind,
                    state: state.map_or(pb::OrganizationState::Unspecified, convert::organization_state).into(),
                    owner_id: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
                    revision,
                    purged: state.is_none(),
                })
            }),
            ChangeDetail::Role { .. } | ChangeDetail::Unknown => None,
        }
    }
}

fn of_known_type(change: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change: Some(change), ..Default::default() }
}
