//! The access matrix of roles that hold exactly one permission: every method that needs a permission, called by a member
//! with each such role of the deployment, and of the organization.

use super::fixture::{Fixture, user_token};
use super::requests::forms;
use crate::harness::add;
use crate::harness::raw::{self, Call};
use crate::harness::snapshot::Snapshot;
use roster::authz::rules::{AllowedCallers, METHODS};
use roster::domain::Permission;
use roster::grpc::pb;

/// A member whose role holds one permission only.
struct Holder {
    permission: Permission,
    user: String,
    token: String,
}

/// The name of the role that holds one permission, without a prefix.
fn role_of(permission: Permission) -> String {
    format!("only-{}", permission.as_str().replace('.', "-"))
}

/// Defines a role for each of roster's permissions, in the deployment and in the organization, with one member each.
async fn holders(fixture: &Fixture) -> Vec<Holder> {
    let words: Vec<String> = Permission::RESERVED.iter().map(ToString::to_string).collect();
    let role = |permission: &Permission| pb::AccessModelRole {
        name: role_of(*permission),
        permissions: vec![permission.to_string()],
        ..Default::default()
    };
    let roles = Permission::RESERVED.iter().map(role).collect();
    let model = pb::AccessModel { roles, delegable: words.clone(), ..Default::default() };
    let mut operator = fixture.server.operator();
    let request = pb::ApplyAccessModelRequest { model: Some(model), ..Default::default() };
    operator.models.apply_access_model(request).await.unwrap();
    let mut holders = Vec::new();
    for permission in Permission::RESERVED {
        let (organization, name) = (fixture.active.id.clone(), format!("org:{}", role_of(*permission)));
        let permissions = vec![permission.to_string()];
        let request = pb::CreateRoleRequest { organization, name: name.clone(), permissions, ..Default::default() };
        operator.roles.create_role(request).await.unwrap();
        for role in [role_of(*permission), name] {
            let user = role.replace("org:", "own-");
            operator.organizations.add_member(add(&fixture.active.id, &user, &role)).await.unwrap();
            let token = user_token(&fixture.server, &user);
            // The first call stores the profile of the token.
            fixture.server.with_token(&token).users.get_caller(pb::GetCallerRequest {}).await.unwrap();
            holders.push(Holder { permission: *permission, user, token });
        }
    }
    holders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_is_open_to_exactly_the_role_that_holds_its_permission() {
    let fixture = Fixture::new().await;
    let holders = holders(&fixture).await;
    let before = Snapshot::take(&fixture.server.database).await;
    let (mut mismatches, mut tried) = (Vec::new(), 0);
    for method in &METHODS {
        let AllowedCallers::Permission(needed) = method.rule.callers else { continue };
        let message = &forms(method, &fixture.active, None)[0];
        for holder in &holders {
            let call = Call::grpc(method.path, message).bearer(&holder.token);
            let answer = raw::send(fixture.server.address, call).await;
            let reason = answer.reason.unwrap_or_default();
            let is_open = !["ROLE_LACKS_PERMISSION", "PERMISSION_DENIED"].contains(&reason.as_str());
            let should_be = holder.permission == needed;
            // A closed method answers with this reason only, and an open one with any other or none.
            if is_open != should_be || (!should_be && reason != "ROLE_LACKS_PERMISSION") {
                mismatches.push(format!("{} by {}: {reason:?}", method.name, holder.user));
            }
            if should_be {
                before.restore().await;
                fixture.server.roster.replica().caught_up().await;
            }
            tried += 1;
        }
        assert!(before.changes().await.is_empty(), "{} changed something for a role that lacks {needed}", method.name);
    }
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
    assert!(tried > 500, "{tried} calls");
}
