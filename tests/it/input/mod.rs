//! Bad input of every kind: refused by name, all at once, and nothing changes.

mod batches;
mod bytes;
mod fields;
mod invitations;
mod protocol;
mod values;

use crate::access::user_token;
use crate::harness::dynamic::{self, Caller};
use crate::harness::server::Clients;
use crate::harness::{Server, dynamic::message};
use crate::invitations::invite;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::Status;
use tonic_types::StatusExt;

/// A server with something in it that could be changed.
struct World {
    server: Server,
    organization: String,
    /// A pending invitation there, by its id and its token: to an identifier, so that whoever holds the token may answer.
    invitation: String,
    token: String,
    /// A caller who passes every rule, and has no profile that a call would write.
    operator: Caller,
    /// `ada`, for what only people may do: with the token that she has shown before, which tells nothing new of her.
    user: Caller,
    ada: Clients,
    before: BTreeMap<String, Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let server = Server::start_generous().await;
        let token_of_ada = user_token(&server, "ada");
        let mut ada = server.with_token(&token_of_ada);
        let organization = ada.create("Acme").await;
        ada.add(&organization, "grace", "admin").await;
        ada.add(&organization, "alan", "member").await;
        ada.create("Beta").await;
        let operator = Caller::with_token(&server.channel(), server.service_token("root", &[Scope::Operator]));
        let user = Caller::with_token(&server.channel(), token_of_ada);
        let recipient = pb::create_invitation_request::Recipient::Identifier("+44 20 7946 0018".to_owned());
        let invite = pb::CreateInvitationRequest { recipient: Some(recipient), ..invite(&organization, "") };
        let made = server.operator().invitations.create_invitation(invite).await.unwrap().into_inner();
        let (invitation, token) = (made.invitation.unwrap().invitation_id, made.token);
        let before = server.database.dump().await;
        Self { server, organization, invitation, token, operator, user, ada, before }
    }

    /// Makes a call, as one who may.
    async fn call(&mut self, method: &MethodDescriptor, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let for_people = ["AcceptInvitation", "DeclineInvitation", "ListReceivedInvitations"].contains(&method.name());
        let caller = if for_people { &mut self.user } else { &mut self.operator };
        caller.call(method, message).await
    }

    /// Asserts that nothing was changed since the start.
    async fn assert_unchanged(&self) {
        assert_same(&self.server.database.dump().await, &self.before);
    }
}

/// Asserts that two dumps are equal, table by table: whole ones are too much to read.
fn assert_same(now: &BTreeMap<String, Vec<String>>, before: &BTreeMap<String, Vec<String>>) {
    for (table, rows) in now {
        assert_eq!(Some(rows), before.get(table), "{table}");
    }
}

/// The methods, each with a good request.
fn good_requests(world: &World) -> Vec<(MethodDescriptor, DynamicMessage)> {
    let methods = dynamic::methods();
    assert!(methods.len() >= 37, "only {} methods are walked", methods.len());
    methods.into_iter().map(|method| (method.clone(), values::good(world, &method.input()))).collect()
}

/// The fields that an error names, in order of name; it must name them as the caller's mistakes.
#[track_caller]
fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_REQUEST"), "{status:?}");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let mut named = details.bad_request().unwrap().field_violations.clone();
    assert!(named.iter().all(|violation| !violation.description.is_empty()), "{named:?}");
    named.sort_by(|a, b| a.field.cmp(&b.field));
    named.into_iter().map(|violation| violation.field).collect()
}

/// A message type that the walks go into: one of roster's own.
fn is_own(descriptor: &prost_reflect::MessageDescriptor) -> bool {
    descriptor.package_name() == message("Member").package_name()
}
