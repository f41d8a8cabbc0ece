//! Invitations: the whole life.

mod life;
mod limits;
mod outbox;
mod published;
mod races;
mod scale;
mod security;

use crate::harness::Server;
use crate::harness::server::Clients;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::service::InvitationSettings;
use sqlx::AssertSqlSafe;
use std::io::Write;
use std::time::Duration;
use tonic::Status;

/// A request to invite an address, with the token in the answer.
pub fn invite(organization: &str, email: &str) -> pb::CreateInvitationRequest {
    pb::CreateInvitationRequest {
        organization: organization.to_owned(),
        recipient: Some(pb::create_invitation_request::Recipient::Email(email.to_owned())),
        delivery: pb::InvitationDelivery::Token.into(),
        ..Default::default()
    }
}

/// A request to invite somebody by what is not an address, with the token in the answer.
pub fn invite_other(organization: &str, identifier: &str) -> pb::CreateInvitationRequest {
    let recipient = Some(pb::create_invitation_request::Recipient::Identifier(identifier.to_owned()));
    pb::CreateInvitationRequest { recipient, ..invite(organization, "") }
}

/// A request to invite an address by mail.
pub fn invite_by_mail(organization: &str, email: &str) -> pb::CreateInvitationRequest {
    pb::CreateInvitationRequest { delivery: pb::InvitationDelivery::Email.into(), ..invite(organization, email) }
}

/// A request to accept by token.
pub fn accept(token: &str) -> pb::AcceptInvitationRequest {
    pb::AcceptInvitationRequest {
        invitation: Some(pb::accept_invitation_request::Invitation::Token(token.to_owned())),
        ..Default::default()
    }
}

/// A request to accept by id.
pub fn accept_id(id: &str) -> pb::AcceptInvitationRequest {
    pb::AcceptInvitationRequest {
        invitation: Some(pb::accept_invitation_request::Invitation::InvitationId(id.to_owned())),
        ..Default::default()
    }
}

/// A request to decline by token.
pub fn decline(token: &str) -> pb::DeclineInvitationRequest {
    pb::DeclineInvitationRequest {
        invitation: Some(pb::decline_invitation_request::Invitation::Token(token.to_owned())),
        ..Default::default()
    }
}

/// A request to preview.
pub fn preview(token: &str) -> pb::PreviewInvitationRequest {
    pb::PreviewInvitationRequest { token: token.to_owned() }
}

/// A request to take an invitation back.
pub fn revoke(organization: &str, id: &str) -> pb::RevokeInvitationRequest {
    pb::RevokeInvitationRequest {
        organization: organization.to_owned(),
        invitation_id: id.to_owned(),
        ..Default::default()
    }
}

/// A request to send an invitation again, with the token in the answer.
pub fn remind(organization: &str, id: &str, rotate: bool) -> pb::RemindInvitationRequest {
    pb::RemindInvitationRequest {
        organization: organization.to_owned(),
        invitation_id: id.to_owned(),
        delivery: pb::InvitationDelivery::Token.into(),
        rotate,
        ..Default::default()
    }
}

/// Limits that no test reaches by chance, and mail, which waits in the outbox.
pub fn roomy() -> InvitationSettings {
    InvitationSettings {
        mail: true,
        pending_per_organization: 1_000_000,
        per_organization_and_day: 1_000_000,
        sends_per_invitation: 1_000_000,
        cooldown: Duration::ZERO,
        mails_per_recipient_and_day: 1_000_000,
        failed_tokens_per_minute: 1_000_000,
    }
}

/// An invitation that was made, and the token that was told.
#[derive(Debug, Clone)]
pub struct Made {
    pub id: String,
    pub token: String,
}

/// An organization of ada's, and a backend that invites into it.
pub struct Scene {
    pub server: Server,
    pub ada: Clients,
    pub backend: Clients,
    pub acme: String,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(roomy()).await
    }

    pub async fn with(settings: InvitationSettings) -> Self {
        let server = Server::with_invitations(settings).await;
        let mut ada = server.user_with_email("ada");
        let acme = ada.create("Acme").await;
        let backend = server.service(&[Scope::Manage]);
        Self { server, ada, backend, acme }
    }

    /// An admin of the organization, known with a verified address.
    pub async fn admin(&self, id: &str) -> Clients {
        let mut admin = self.server.user_with_email(id);
        admin.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        self.ada.clone().add(&self.acme, id, "admin").await;
        admin
    }

    pub async fn make(&self, request: pb::CreateInvitationRequest) -> Made {
        make(&self.backend, request).await
    }

    /// Invites an address into the organization.
    pub async fn invite(&self, email: &str) -> Made {
        self.make(invite(&self.acme, email)).await
    }

    /// Reminds, and tells the further token.
    pub async fn remind(&self, id: &str, rotate: bool) -> String {
        let request = remind(&self.acme, id, rotate);
        self.backend.clone().invitations.remind_invitation(request).await.unwrap().into_inner().token
    }

    pub async fn revoke(&self, id: &str) {
        self.backend.clone().invitations.revoke_invitation(revoke(&self.acme, id)).await.unwrap();
    }

    /// What a token shows to whoever holds it.
    pub async fn preview(&self, token: &str) -> Result<pb::ReceivedInvitation, Status> {
        let answer = self.server.nobody().invitations.preview_invitation(preview(token)).await?;
        Ok(answer.into_inner().invitation.unwrap())
    }

    /// The invitation as those who manage it see it.
    pub async fn get(&self, id: &str) -> pb::Invitation {
        let request = pb::GetInvitationRequest { organization: self.acme.clone(), invitation_id: id.to_owned() };
        self.backend.clone().invitations.get_invitation(request).await.unwrap().into_inner().invitation.unwrap()
    }

    /// Runs a statement behind the server's back, which must find what it changes.
    pub async fn sql(&self, statement: &str) {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.server.database.pool).await.unwrap();
        assert_ne!(done.rows_affected(), 0, "{statement}");
    }

    /// Lets an invitation's time be over.
    pub async fn expire(&self, id: &str) {
        self.sql(&format!("UPDATE invitations SET expire_time = clock_timestamp() WHERE id = '{id}'")).await;
    }
}

/// Shows what was measured, where `ROSTER_TEST_FIGURES` asks for it.
pub fn figure(text: &str) {
    if std::env::var_os("ROSTER_TEST_FIGURES").is_some() {
        std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

/// Bytes as Postgres shows them.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Invites, as this caller.
pub async fn make(caller: &Clients, request: pb::CreateInvitationRequest) -> Made {
    let made = caller.clone().invitations.create_invitation(request).await.unwrap().into_inner();
    Made { id: made.invitation.unwrap().invitation_id, token: made.token }
}
