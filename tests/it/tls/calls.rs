//! Calls and streams over TLS.

use crate::harness::Server;
use crate::harness::server::{Clients, Credential};
use crate::harness::tls::{Authority, VERSIONS, channel};
use crate::streams::soon;
use roster::domain::Scope;
use roster::grpc::pb;
use std::sync::Arc;

#[tokio::test]
async fn calls_and_streams_work_in_both_versions() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, authority.server_tls(None), |_| {}).await;
    let organization = server.user("ada").create("Acme").await;
    for version in VERSIONS {
        let channel = channel(server.address, Arc::new(authority.client(None, &[version])));
        let mut clients = Clients::new(&channel, server.credential(&[Scope::Check, Scope::Manage]));
        assert!(clients.is_member(&organization, "ada").await);
        assert!(!clients.is_member(&organization, "bob").await);
        let request = pb::ExportMembershipsRequest::default();
        let mut export = clients.checks.export_memberships(request).await.unwrap().into_inner();
        let mut rows = 0;
        while let Some(message) = soon(export.message()).await.unwrap() {
            rows += message.organizations.len();
        }
        assert_eq!(rows, 1);
    }
    // Without a credential, as in plaintext.
    let mut anonymous = Clients::new(&server.channel(), Credential::default());
    let refusal = anonymous.checks.check_membership(crate::harness::is_member(&organization, "ada")).await;
    assert_eq!(crate::harness::refused(refusal).1, "CREDENTIAL_MISSING");
}
