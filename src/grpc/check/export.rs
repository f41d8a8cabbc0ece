//! `ExportMemberships`: all memberships, in messages of bounded size.

use crate::domain::{Kind, Refusal, UserId, UserState};
use crate::grpc::admit::stream::StreamSender;
use crate::grpc::{convert, limits, pb, status};
use crate::service::Roster;
use crate::service::export::{ExportHead, ExportRow, ExportSink};
use crate::service::export_queue::ExportOrigin;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;

/// Sends all memberships; the cursor comes last.
pub(super) async fn export(
    roster: Roster,
    origin: ExportOrigin,
    kind: Option<Kind>,
    sender: StreamSender<pb::ExportMembershipsResponse>,
) -> Result<(), Status> {
    let (chunk, last) = (pb::ExportMembershipsResponse::default(), pb::OrganizationChange::default());
    let mut writer = ExportWriter { sender, chunk, bytes: 0, last };
    let token = roster.export(&origin, kind.as_ref(), &mut writer).await?;
    writer.chunk.cursor = token.encode();
    writer.send().await
}

fn organization(head: ExportHead) -> pb::OrganizationChange {
    pb::OrganizationChange {
        organization_id: head.id.to_string(),
        slug: head.slug.to_string(),
        kind: head.kind.as_str().to_owned(),
        state: convert::organization_state(head.state).into(),
        owner_id: head.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        revision: head.revision,
        purged: false,
    }
}

/// Builds and sends the messages of one export.
struct ExportWriter {
    sender: StreamSender<pb::ExportMembershipsResponse>,
    /// The next message.
    chunk: pb::ExportMembershipsResponse,
    /// The size of the next message, in bytes.
    bytes: usize,
    /// The latest organization.
    last: pb::OrganizationChange,
}

impl ExportWriter {
    /// Sends the next message. A caller who does not take it soon loses the turn of its export, and the export ends.
    async fn send(&mut self) -> Result<(), Status> {
        self.bytes = 0;
        let sent = self.sender.send(std::mem::take(&mut self.chunk));
        timeout(limits::EXPORT_STALL, sent).await.map_err(|_| status::refused(&Refusal::SlowReader))?
    }

    fn begin(&mut self, organization: pb::OrganizationChange) {
        self.bytes += organization.encoded_len() + 8;
        self.last = organization.clone();
        self.chunk
            .organizations
            .push(pb::ExportedOrganization { organization: Some(organization), ..Default::default() });
    }

    async fn send_if_full(&mut self) -> Result<(), Status> {
        if self.bytes >= limits::CHUNK_BYTES { self.send().await } else { Ok(()) }
    }
}

impl ExportSink for ExportWriter {
    type Error = Status;

    async fn row(&mut self, row: ExportRow) -> Result<(), Status> {
        if let Some(head) = row.head {
            self.begin(organization(head));
        } else if self.chunk.organizations.is_empty() {
            // The message before was full: this message repeats the organization and continues its members.
            self.begin(self.last.clone());
        }
        if let (Some((user, role)), Some(last)) = (row.member, self.chunk.organizations.last_mut()) {
            let member = pb::ExportedMember { user_id: user.to_string(), role: role.name.into() };
            self.bytes += member.encoded_len() + 2;
            last.members.push(member);
        }
        self.send_if_full().await
    }

    async fn waiting(&mut self) -> Result<(), Status> {
        self.sender.send(pb::ExportMembershipsResponse::default()).await
    }

    async fn user(&mut self, user: UserId, state: UserState) -> Result<(), Status> {
        let user = pb::ExportedUser { user_id: user.to_string(), state: convert::user_state(state).into() };
        self.bytes += user.encoded_len() + 2;
        self.chunk.users.push(user);
        self.send_if_full().await
    }
}
