//! The message of `roster dev` when it is ready: shell lines to paste.

use super::CliError;
use super::token::{LIFETIME, mint, service_claims, user_claims};
use crate::authn::mint::{ClaimSet, SigningKey};
use crate::domain::Scope;
use std::net::SocketAddr;
use std::path::Path;

/// Renders bearer tokens as shell variables, and calls that use them. The lines to paste contain no comments, because
/// not every interactive shell accepts them.
pub(super) fn welcome(directory: &Path, key: &SigningKey, address: SocketAddr) -> Result<String, CliError> {
    let user = |id: &str, name: &str| ClaimSet {
        email: Some(format!("{id}@example.com")),
        email_verified: Some(true),
        name: Some(name.to_owned()),
        ..user_claims(id)
    };
    let mut exports = Vec::new();
    for (variable, claims) in [
        ("OPERATOR", service_claims("operator", &[Scope::Operator])),
        ("SERVICE", service_claims("service", &[Scope::Check, Scope::Manage, Scope::ActAs])),
        ("ADA", user("ada", "Ada Lovelace")),
        ("GRACE", user("grace", "Grace Hopper")),
    ] {
        exports.push(format!("export {variable}={}", mint(key, claims, LIFETIME)?.expose()));
    }
    let calls: Vec<String> = [
        ("ADA", "", "UserService/GetCaller"),
        ("ADA", r#"{"name":"Acme"}"#, "OrganizationService/CreateOrganization"),
        ("ADA", r#"{"organization":"acme","user_id":"grace","role":"member"}"#, "OrganizationService/AddMember"),
        ("GRACE", r#"{"organization":"acme"}"#, "OrganizationService/ListMembers"),
        ("SERVICE", r#"{"organization":"acme","user_id":"grace"}"#, "CheckService/CheckMembership"),
    ]
    .into_iter()
    .map(|(token, request, method)| {
        let request = if request.is_empty() { String::new() } else { format!("-d '{request}' ") };
        format!("grpcurl -plaintext -H \"authorization: Bearer ${token}\" {request}{address} roster.v1.{method}")
    })
    .collect();
    Ok(format!(
        "roster is ready at {address}, with its data in {directory}. Ctrl-C stops it.\n\
         Mails are not sent: each is written to a file in {directory}/mail.\n\n\
         Paste this into another shell: tokens for an operator, a service with the scopes check, manage and act-as, and\n\
         two users, valid for {hours} hours.\n\n\
         {exports}\n\n\
         Then, for example:\n\n\
         grpcurl -plaintext {address} grpc.health.v1.Health/Check\n\
         {calls}\n\n\
         Other tokens: roster token --help",
        directory = directory.display(),
        hours = LIFETIME / 3600,
        exports = exports.join("\n"),
        calls = calls.join("\n"),
    ))
}
