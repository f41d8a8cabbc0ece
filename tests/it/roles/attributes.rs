//! Changes of members' attributes and roles: users are bound by the ceiling for both, services for roles only. The
//! ownership is about roles.

use super::apply;
use crate::harness::server::Clients;
use crate::harness::{Server, add, reason, transfer};
use prost_types::value::Kind;
use roster::domain::Scope;
use roster::grpc::pb;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The members of the organization and their roles. `deputy` holds what members hold and `members.update`; `accountant`
/// holds a permission that admins do not have.
const MEMBERS: [(&str, &str); 6] = [
    ("ada", "owner"),
    ("grace", "admin"),
    ("rosa", "admin"),
    ("dana", "deputy"),
    ("joan", "accountant"),
    ("alan", "member"),
];

/// A caller, and the role by which the ceiling decides about it. An operator counts as an owner.
const CALLERS: [(&str, &str); 9] = [
    ("ada", "owner"),
    ("grace", "admin"),
    ("dana", "deputy"),
    ("alan", "member"),
    ("mallory", ""),
    ("for grace", "admin"),
    ("manage", "admin"),
    ("check", ""),
    ("operator", "owner"),
];

/// The paths of the mask, and whether the request then changes the role and the attributes.
const MASKS: [(&[&str], bool, bool); 6] = [
    (&["attributes"], false, true),
    (&["role"], true, false),
    (&["role", "attributes"], true, true),
    (&["*"], true, true),
    // Without a mask the fields that are not empty change.
    (&[], true, true),
    (&["", "attributes"], false, true),
];

fn object(text: &str) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) };
    prost_types::Struct { fields: [("desk".to_owned(), value)].into() }
}

struct Fixture {
    server: Server,
    acme: String,
    /// What each role holds.
    roles: BTreeMap<String, BTreeSet<String>>,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start_generous().await;
        let mut ada = server.user("ada");
        let acme = ada.create("Acme").await;
        let mut fixture = Self { server, acme, roles: BTreeMap::new() };
        let member: Vec<String> = fixture.roles().await["member"].iter().cloned().collect();
        let deputy: Vec<&str> = member.iter().map(String::as_str).chain(["members.update"]).collect();
        let model = apply(json!({
            "permissions": [{ "name": "billing.read" }],
            "roles": [
                { "name": "deputy", "permissions": deputy },
                { "name": "accountant", "permissions": ["billing.read"] },
            ],
        }));
        fixture.server.operator().models.apply_access_model(model).await.unwrap();
        for (user, role) in &MEMBERS[1..] {
            let request = pb::AddMemberRequest { attributes: Some(object("old")), ..add(&fixture.acme, user, role) };
            fixture.server.operator().organizations.add_member(request).await.unwrap();
        }
        fixture.roles = fixture.roles().await;
        fixture
    }

    async fn roles(&self) -> BTreeMap<String, BTreeSet<String>> {
        let request = pb::ListRolesRequest { organization: self.acme.clone(), ..Default::default() };
        let listed = self.server.operator().roles.list_roles(request).await.unwrap().into_inner().roles;
        listed.into_iter().map(|role| (role.name, role.permissions.into_iter().collect())).collect()
    }

    fn caller(&self, name: &str) -> Clients {
        match name {
            "for grace" => self.server.on_behalf_of("grace"),
            "manage" => self.server.service(&[Scope::Manage]),
            "check" => self.server.service(&[Scope::Check]),
            "operator" => self.server.operator(),
            user => self.server.user(user),
        }
    }

    /// Sets the role `member` and new attributes, as far as the mask says so.
    fn request(&self, target: &str, paths: &[&str]) -> pb::UpdateMemberRequest {
        // The empty path stands for no mask, with an empty role.
        let is_masked = !paths.is_empty() && !paths.contains(&"");
        let update_mask =
            is_masked.then(|| prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        pb::UpdateMemberRequest {
            organization: self.acme.clone(),
            user_id: target.to_owned(),
            role: if paths.contains(&"") { String::new() } else { "member".to_owned() },
            attributes: Some(object("new")),
            update_mask,
            ..Default::default()
        }
    }

    /// The reason of the refusal, if there is one.
    fn expected(&self, (name, role): (&str, &str), target: &str, changes_role: bool) -> Option<&'static str> {
        match name {
            "alan" => return Some("ROLE_LACKS_PERMISSION"),
            "mallory" => return Some("PERMISSION_DENIED"),
            "check" => return Some("SCOPE_MISSING"),
            _ => {}
        }
        let Some((_, present)) = MEMBERS.iter().find(|(user, _)| *user == target) else {
            return Some("MEMBER_NOT_FOUND");
        };
        let reaches = |other: &str| self.roles[role].is_superset(&self.roles[other]);
        let is_user = !["manage", "operator"].contains(&name);
        if !changes_role {
            return (is_user && !reaches(present)).then_some("ROLE_ABOVE_CALLER");
        }
        match *present {
            "owner" => Some("OWNERSHIP_REQUIRED"),
            present if !reaches(present) || !reaches("member") => Some("ROLE_ABOVE_CALLER"),
            _ => None,
        }
    }
}

#[tokio::test]
async fn users_are_bound_by_the_ceiling_and_services_for_roles_only() {
    let fixture = Fixture::new().await;
    let mut accepted = 0;
    for caller in CALLERS {
        let mut clients = fixture.caller(caller.0);
        for (target, present) in MEMBERS.into_iter().chain([("nina", "")]) {
            for (paths, changes_role, changes_attributes) in MASKS {
                let case = format!("{caller:?} changes {paths:?} of {target}");
                let request = pb::UpdateMemberRequest { validate_only: true, ..fixture.request(target, paths) };
                let answer = clients.organizations.update_member(request).await;
                let expected = fixture.expected(caller, target, changes_role);
                assert_eq!(answer.as_ref().err().map(reason).as_deref(), expected, "{case}");
                let Ok(answer) = answer else { continue };
                accepted += 1;
                let member = answer.into_inner().member.unwrap();
                assert_eq!(member.role, if changes_role { "member" } else { present }, "{case}");
                let Some(attributes) = member.attributes else { continue };
                let old = if target == "ada" { prost_types::Struct::default() } else { object("old") };
                assert_eq!(attributes, if changes_attributes { object("new") } else { old }, "{case}");
            }
        }
    }
    // With two masks without a role: three callers change six members, two four, and one two.
    assert!(accepted > (3 * 6 + 2 * 4 + 2) * 2, "{accepted}");
    fixture.server.database.assert_invariants().await;
}

#[tokio::test]
async fn a_service_sets_attributes_on_the_membership_of_the_owner() {
    let fixture = Fixture::new().await;
    let (server, acme) = (&fixture.server, &fixture.acme);
    let (mut ada, mut backend) = (server.user("ada"), server.service(&[Scope::Manage]));
    let get = pb::GetMemberRequest { organization: acme.clone(), user_id: "ada".to_owned() };
    let before = backend.organizations.get_member(get.clone()).await.unwrap().into_inner().member.unwrap();
    let request = pb::UpdateMemberRequest { etag: before.etag.clone(), ..fixture.request("ada", &["attributes"]) };
    let after = backend.organizations.update_member(request.clone()).await.unwrap().into_inner().member.unwrap();
    assert_eq!((after.role.as_str(), after.attributes.as_ref()), ("owner", Some(&object("new"))));
    assert_ne!(after.etag, before.etag);
    assert_eq!(backend.organizations.get_member(get).await.unwrap().into_inner().member.unwrap(), after);
    let stale = backend.organizations.update_member(request).await.unwrap_err();
    assert_eq!(reason(&stale), "ETAG_MISMATCH");
    assert!(server.service(&[Scope::Check]).is_member(acme, "ada").await);
    // They stay with the membership when the ownership moves.
    ada.organizations.transfer_ownership(transfer(acme, "grace")).await.unwrap();
    let get = pb::GetMemberRequest { organization: acme.clone(), user_id: String::new() };
    let former = ada.organizations.get_member(get).await.unwrap().into_inner().member.unwrap();
    assert_eq!((former.role.as_str(), former.attributes), ("admin", Some(object("new"))));
    server.database.assert_invariants().await;
}
