//! Invitations, from creation to their end.

mod agreement;
mod batches;
mod erasure;
mod life;
mod limits;
mod locales;
mod mail_states;
mod notifications;
mod outbox;
mod published;
mod races;
mod scale;
mod security;

use crate::harness::server::Clients;
use crate::harness::{IssuedInvitation, Server};
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

/// A request to invite an identifier that is not an address, with the token in the answer.
pub fn invite_identifier(organization: &str, identifier: &str) -> pb::CreateInvitationRequest {
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

/// A request to revoke an invitation.
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

/// Settings with mail, which waits in the outbox, and with limits that no test reaches by chance.
pub fn high_limits() -> InvitationSettings {
    InvitationSettings {
        mail: true,
        pending_per_organization: 1_000_000,
        per_organization_and_day: 1_000_000,
        sends_per_invitation: 1_000_000,
        cooldown: Duration::ZERO,
        mails_per_recipient_and_day: 1_000_000,
        mails_per_sender_to_recipient_and_day: 1_000_000,
        failed_tokens_per_minute: 1_000_000,
    }
}

/// A server, an organization of `ada`, and a backend that invites into it.
pub struct Fixture {
    pub server: Server,
    pub ada: Clients,
    pub backend: Clients,
    pub acme: String,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(high_limits()).await
    }

    pub async fn with(settings: InvitationSettings) -> Self {
        let server = Server::with_invitations(settings).await;
        let mut ada = server.user_with_email("ada");
        let acme = ada.create("Acme").await;
        let backend = server.service(&[Scope::Manage]);
        Self { server, ada, backend, acme }
    }

    /// Adds an admin with a verified address to the organization.
    pub async fn admin(&self, id: &str) -> Clients {
        let mut admin = self.server.user_with_email(id);
        admin.users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        self.ada.clone().add(&self.acme, id, "admin").await;
        admin
    }

    pub async fn create(&self, request: pb::CreateInvitationRequest) -> IssuedInvitation {
        create(&self.backend, request).await
    }

    /// Invites an address into the organization.
    pub async fn invite(&self, email: &str) -> IssuedInvitation {
        self.create(invite(&self.acme, email)).await
    }

    /// Sends a reminder, and returns its token.
    pub async fn remind(&self, id: &str, rotate: bool) -> String {
        let request = remind(&self.acme, id, rotate);
        self.backend.clone().invitations.remind_invitation(request).await.unwrap().into_inner().token
    }

    pub async fn revoke(&self, id: &str) {
        self.backend.clone().invitations.revoke_invitation(revoke(&self.acme, id)).await.unwrap();
    }

    /// The preview of a token for an anonymous caller.
    pub async fn preview(&self, token: &str) -> Result<pb::ReceivedInvitation, Status> {
        let answer = self.server.anonymous().invitations.preview_invitation(preview(token)).await?;
        Ok(answer.into_inner().invitation.unwrap())
    }

    /// The invitation as its managers see it.
    pub async fn get(&self, id: &str) -> pb::Invitation {
        let request = pb::GetInvitationRequest { organization: self.acme.clone(), invitation_id: id.to_owned() };
        self.backend.clone().invitations.get_invitation(request).await.unwrap().into_inner().invitation.unwrap()
    }

    /// Runs a statement directly on the database. Panics if it changes no row.
    pub async fn sql(&self, statement: &str) {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.server.database.pool).await.unwrap();
        assert_ne!(done.rows_affected(), 0, "{statement}");
    }

    /// Makes an invitation expire now.
    pub async fn expire(&self, id: &str) {
        self.sql(&format!("UPDATE invitations SET expire_time = clock_timestamp() WHERE id = '{id}'")).await;
    }
}

/// Prints a measurement if `ROSTER_TEST_FIGURES` is set.
pub fn figure(text: &str) {
    if std::env::var_os("ROSTER_TEST_FIGURES").is_some() {
        std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

/// Bytes in hexadecimal, as Postgres prints them.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Creates an invitation as this caller.
pub async fn create(caller: &Clients, request: pb::CreateInvitationRequest) -> IssuedInvitation {
    let created = caller.clone().invitations.create_invitation(request).await.unwrap().into_inner();
    IssuedInvitation { id: created.invitation.unwrap().invitation_id, token: created.token }
}
