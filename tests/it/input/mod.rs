//! Invalid input of every kind: the error names every invalid field, and nothing changes.

mod addresses;
mod batches;
mod bytes;
mod defaults;
mod fields;
mod invitations;
mod names;
mod protocol;
mod user_ids;
mod values;

use crate::access::user_token;
use crate::harness::Server;
use crate::harness::dump::assert_same;
use crate::harness::dynamic::{self, Caller, message, path};
use crate::harness::samples::{SampleCaller, Target, Write, sample};
use crate::harness::server::Clients;
use crate::invitations::invite;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use roster::authz::rules;
use roster::domain::Scope;
use roster::grpc::pb;
use std::collections::BTreeMap;
use tonic::Status;
use tonic_types::StatusExt;

/// A server with organizations, members and an invitation.
struct Fixture {
    server: Server,
    organization: String,
    /// The id of a pending invitation into the organization. It is to an identifier, so any user with the token may
    /// answer it.
    invitation: String,
    /// The token of that invitation.
    token: String,
    /// A caller who passes every access rule, and has no profile that a call would store.
    operator: Caller,
    /// The user `ada`, for methods that only users may call. Her bearer token was used before, so a call stores no
    /// profile.
    user: Caller,
    /// The typed clients of `ada`.
    ada: Clients,
    /// The content of the database at the start.
    before: BTreeMap<String, Vec<String>>,
}

impl Fixture {
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
        let created = server.operator().invitations.create_invitation(invite).await.unwrap().into_inner();
        let (invitation, token) = (created.invitation.unwrap().invitation_id, created.token);
        let before = server.database.dump().await;
        Self { server, organization, invitation, token, operator, user, ada, before }
    }

    /// Calls a method as the operator, or as the user where the method is for users only.
    async fn call(&mut self, method: &MethodDescriptor, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let rule = rules::method(&path(method)).unwrap();
        let (caller, _) =
            sample(rule, &Target::default(), &Write::default()).expect("the method has no sample request");
        let caller = if caller == SampleCaller::Invitee { &mut self.user } else { &mut self.operator };
        caller.call(method, message).await
    }

    /// Asserts that the database is unchanged since the start.
    async fn assert_unchanged(&self) {
        assert_same(&self.server.database.dump().await, &self.before);
    }
}

/// Every method with a valid request. See [`values::good`].
fn good_requests(fixture: &Fixture) -> Vec<(MethodDescriptor, DynamicMessage)> {
    let methods = dynamic::methods();
    assert!(methods.len() >= 37, "only {} methods were found", methods.len());
    methods.into_iter().map(|method| (method.clone(), values::good(fixture, &method.input()))).collect()
}

/// The fields that an `INVALID_REQUEST` error names, sorted by name.
#[track_caller]
fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_REQUEST"), "{status:?}");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let mut violations = details.bad_request().unwrap().field_violations.clone();
    assert!(violations.iter().all(|violation| !violation.description.is_empty()), "{violations:?}");
    violations.sort_by(|a, b| a.field.cmp(&b.field));
    violations.into_iter().map(|violation| violation.field).collect()
}

/// Whether the walks descend into a message type: those of the package `roster.v1`.
fn is_own(descriptor: &prost_reflect::MessageDescriptor) -> bool {
    descriptor.package_name() == message("Member").package_name()
}
