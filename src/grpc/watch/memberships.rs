//! `WatchMemberships`: the change log as membership changes.

use super::pings::WatchPings;
use super::{WatchScope, WatchView};
use crate::domain::change::{ChangeDetail, LogEntry};
use crate::grpc::admit::read;
use crate::grpc::admit::stream::{RequestStream, StreamSender};
use crate::grpc::decode::check as decode;
use crate::grpc::{convert, limits, pb, status};
use crate::service::Roster;
use crate::service::change_feed::{LogChange, LogRow};
use pb::memberships_change::Change as ChangeMessage;
use prost::Message;
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
    super::run(feed, pings, MembershipView { scope, changes: Vec::new(), bytes: 0 }, sender).await
}

/// The next message of a membership watch.
struct MembershipView {
    scope: WatchScope,
    changes: Vec<pb::MembershipsChange>,
    bytes: usize,
}

impl WatchView for MembershipView {
    type Message = pb::WatchMembershipsResponse;

    async fn add(&mut self, rows: &[LogRow]) -> Result<usize, Status> {
        for row in rows {
            if let Some(change) = self.convert(&row.change) {
                let change_time = Some(convert::timestamp(row.at.write_time));
                let change = pb::MembershipsChange { change_time, ..change };
                self.bytes += change.encoded_len() + 2;
                self.changes.push(change);
            }
        }
        Ok(rows.len())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn message(&mut self, checkpoint: Option<(String, i64)>) -> pb::WatchMembershipsResponse {
        self.bytes = 0;
        let checkpoint = checkpoint.map(|(cursor, ping)| pb::Checkpoint { cursor, ping });
        pb::WatchMembershipsResponse { changes: std::mem::take(&mut self.changes), checkpoint }
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
            LogChange::Organization(LogEntry { organization, revision, detail: ChangeDetail::Unknown, .. }) => {
                let organization_id = organization.to_string();
                Some(pb::MembershipsChange { organization_id, revision: *revision, ..Default::default() })
            }
            LogChange::Organization(entry) => self.convert_entry(entry).map(of_known_type),
            LogChange::User { user, revision, state } => Some(of_known_type(ChangeMessage::User(pb::UserChange {
                user_id: user.to_string(),
                state: convert::user_state(*state).into(),
                revision: *revision,
            }))),
            LogChange::Unknown => None,
        }
    }

    fn convert_entry(&self, entry: &LogEntry) -> Option<ChangeMessage> {
        let LogEntry { organization, kind, revision, detail } = entry;
        let (organization_id, kind, revision) = (organization.to_string(), kind.as_str().to_owned(), *revision);
        match detail {
            ChangeDetail::Membership { user, role } => {
                self.scope.user.as_ref().is_none_or(|only| user == only).then(|| {
                    let role = role.as_ref().map(|role| role.as_str().to_owned()).unwrap_or_default();
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
            ChangeDetail::Unknown => None,
        }
    }
}

fn of_known_type(change: ChangeMessage) -> pb::MembershipsChange {
    pb::MembershipsChange { change: Some(change), ..Default::default() }
}
