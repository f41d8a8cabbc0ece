//! `ExportMemberships`: all memberships, in messages of bounded size.

use crate::domain::{Kind, Permission, Refusal, Role, UserId, UserState};
use crate::grpc::admit::stream::StreamSender;
use crate::grpc::{access_model, convert, limits, pb, status};
use crate::service::Roster;
use crate::service::export::{ExportHead, ExportRole, ExportSink, StoredModel};
use crate::service::export_queue::ExportOrigin;
use prost::Message;
use std::collections::HashMap;
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
    let mut writer = ExportWriter { sender, chunk, words: HashMap::new(), bytes: 0, last };
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
    /// The index of each permission in the next message.
    words: HashMap<Permission, u32>,
    /// The size of the next message, in bytes.
    bytes: usize,
    /// The latest organization.
    last: pb::OrganizationChange,
}

impl ExportWriter {
    /// Sends the next message. A caller who does not take it soon loses the turn of its export, and the export ends.
    async fn send(&mut self) -> Result<(), Status> {
        self.bytes = 0;
        self.words.clear();
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

    /// Repeats the latest organization in a message that does not have it, because the message before was full.
    fn go_on(&mut self) {
        if self.chunk.organizations.is_empty() {
            self.begin(self.last.clone());
        }
    }

    /// Adds a role to the latest organization. A role that this server does not know is left out.
    fn add_role(&mut self, role: &ExportRole) {
        let held: Vec<Permission> = match (&role.replaced_by, &role.permissions) {
            (Some(_), _) => Vec::new(),
            (None, Some(held)) => held.iter().collect(),
            (None, None) => return,
        };
        let permissions = held.into_iter().map(|permission| self.index(permission)).collect();
        let replaced_by = role.replaced_by.as_ref().map(ToString::to_string).unwrap_or_default();
        let role = pb::ExportedRole { name: role.name.to_string(), permissions, replaced_by };
        self.go_on();
        self.bytes += convert::field_bytes(&role);
        if let Some(last) = self.chunk.organizations.last_mut() {
            last.roles.push(role);
        }
    }

    /// The index of a permission in the next message, which gets the word once.
    fn index(&mut self, permission: Permission) -> u32 {
        let next = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
        *self.words.entry(permission).or_insert_with(|| {
            let word = permission.as_str().to_owned();
            self.bytes += word.len() + 2;
            self.chunk.permissions.push(word);
            next
        })
    }

    async fn send_if_full(&mut self) -> Result<(), Status> {
        if self.bytes >= limits::CHUNK_BYTES { self.send().await } else { Ok(()) }
    }
}

impl ExportSink for ExportWriter {
    type Error = Status;

    async fn model(&mut self, model: StoredModel) -> Result<(), Status> {
        let model = access_model::change(model.revision, &model.model);
        self.bytes += convert::field_bytes(&model);
        self.chunk.access_model = Some(model);
        self.send_if_full().await
    }

    async fn organization(&mut self, head: ExportHead, roles: Vec<ExportRole>) -> Result<(), Status> {
        self.begin(organization(head));
        for role in &roles {
            self.add_role(role);
            self.send_if_full().await?;
        }
        self.send_if_full().await
    }

    async fn member(&mut self, user: UserId, role: Role) -> Result<(), Status> {
        self.go_on();
        let member = pb::ExportedMember { user_id: user.to_string(), role: role.name.into() };
        self.bytes += convert::field_bytes(&member);
        if let Some(last) = self.chunk.organizations.last_mut() {
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
