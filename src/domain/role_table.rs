//! What the roles of a deployment hold, at one revision of its access model.

use super::access_model::{AccessModel, ReplacedRoles};
use super::role::{ADMIN_PERMISSIONS, MEMBER_PERMISSIONS, built_in_permissions};
use super::{Kind, Permission, PermissionName, PermissionSet, Role, RoleName, RoleView};
use std::collections::HashMap;

/// The roles of the deployment with what they hold, resolved from an access model. Roles of organizations are not in it.
///
/// A word that this process cannot keep (see [`Permission::declare`]) makes the roles that hold it unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleTable {
    revision: i64,
    /// The roles by name, without `owner`.
    roles: HashMap<RoleName, RoleTableEntry>,
    /// What `member` and `admin` hold, as in `roles`. Most members hold one of them.
    built_in: [Option<PermissionSet>; 2],
    /// Removed roles whose members move to one of `roles`.
    replaced: ReplacedRoles,
    /// The permissions that the model declares, and roster's own.
    declared: PermissionSet,
    /// Roster's own permissions that roles of organizations may hold.
    delegable: PermissionSet,
}

/// A role of the deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RoleTableEntry {
    permissions: Option<PermissionSet>,
    /// The kind of organizations in which it exists; `None` for all kinds.
    kind: Option<Kind>,
}

impl RoleTable {
    /// The table of a stored access model at this revision.
    #[must_use]
    pub fn new(revision: i64, model: &AccessModel) -> Self {
        let reserved = Permission::RESERVED.iter().copied();
        let words = model.permissions().iter().map(|permission| permission.name.as_str());
        let application = words.filter_map(Permission::declare).filter(|permission| !permission.is_reserved());
        let declared = reserved.chain(application).collect::<PermissionSet>();
        let mut roles: HashMap<RoleName, RoleTableEntry> =
            [(RoleName::MEMBER, MEMBER_PERMISSIONS), (RoleName::ADMIN, ADMIN_PERMISSIONS)]
                .map(|(name, permissions)| (name, RoleTableEntry { permissions: Some(permissions), kind: None }))
                .into();
        for role in model.roles().iter().filter(|role| role.name != RoleName::OWNER) {
            let permissions = role.permissions.iter().map(|word| Permission::find(word)).collect();
            roles.insert(role.name.clone(), RoleTableEntry { permissions, kind: role.kind.clone() });
        }
        let delegable = model.delegable().iter().filter_map(|word| Permission::find(word));
        let delegable = delegable.filter(|permission| permission.is_reserved()).collect();
        Self::with_roles(revision, roles, declared, delegable)
    }

    /// The table of an access model at this revision, from what a server sends of it: the permissions that exist, and each
    /// role of the deployment with its kind and what it holds; `None` for permissions that this program does not know.
    #[must_use]
    pub fn of_sets(
        revision: i64,
        declared: PermissionSet,
        roles: impl IntoIterator<Item = (RoleName, Option<Kind>, Option<PermissionSet>)>,
    ) -> Self {
        let roles = roles.into_iter().filter(|(name, ..)| *name != RoleName::OWNER);
        let roles = roles.map(|(name, kind, permissions)| (name, RoleTableEntry { permissions, kind })).collect();
        Self::with_roles(revision, roles, declared, PermissionSet::NONE)
    }

    fn with_roles(
        revision: i64,
        roles: HashMap<RoleName, RoleTableEntry>,
        declared: PermissionSet,
        delegable: PermissionSet,
    ) -> Self {
        let permissions = |name: RoleName| roles.get(&name).and_then(|role| role.permissions.clone());
        let built_in = [permissions(RoleName::MEMBER), permissions(RoleName::ADMIN)];
        Self { revision, roles, built_in, replaced: ReplacedRoles::default(), declared, delegable }
    }

    /// The table with removed roles whose members still move.
    #[must_use]
    pub fn with_replaced(self, replaced: ReplacedRoles) -> Self {
        Self { replaced, ..self }
    }

    /// The table without an access model.
    #[must_use]
    pub fn built_in() -> Self {
        Self::new(0, &AccessModel::default())
    }

    /// The table of an access model at this revision that this program cannot read. No role is known but `owner`.
    #[must_use]
    pub fn unreadable(revision: i64) -> Self {
        let declared = Permission::RESERVED.iter().copied().collect();
        let (roles, built_in) = (HashMap::new(), [None, None]);
        let (replaced, delegable) = (ReplacedRoles::default(), PermissionSet::NONE);
        Self { revision, roles, built_in, replaced, declared, delegable }
    }

    /// Whether the access model changes what `admin` or `member` hold.
    #[must_use]
    pub fn changes_built_in_roles(&self) -> bool {
        [RoleName::ADMIN, RoleName::MEMBER]
            .iter()
            .any(|name| self.permissions(name) != built_in_permissions(name).as_ref())
    }

    /// The revision of the access model; 0 before the first one.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The role that replaces a removed one whose members still move; `None` for any other role.
    #[must_use]
    pub fn replacement(&self, name: &RoleName) -> Option<&RoleName> {
        self.replaced.get(name)
    }

    /// The permissions of a role of the deployment, or of `owner`. A removed role holds what its replacement holds. `None`
    /// if this table does not have the role, or this process does not know what it holds.
    #[must_use]
    pub fn permissions(&self, name: &RoleName) -> Option<&PermissionSet> {
        const OWNER: &PermissionSet = &PermissionSet::EVERYTHING;
        let [member, admin] = &self.built_in;
        match name.as_str() {
            "member" => member.as_ref(),
            "admin" => admin.as_ref(),
            "owner" => Some(OWNER),
            _ => {
                let role = self.roles.get(name).or_else(|| self.roles.get(self.replacement(name)?));
                role?.permissions.as_ref()
            }
        }
    }

    /// Whether the deployment has the role, or members who still have it, also if this process does not know what it holds.
    /// `false` for roles of organizations.
    #[must_use]
    pub fn has(&self, name: &RoleName) -> bool {
        *name == RoleName::OWNER || self.roles.contains_key(name) || self.replacement(name).is_some()
    }

    /// The role with this name as a membership holds it: a removed role is its replacement. Unknown if it is not in this
    /// table.
    #[must_use]
    pub fn role(&self, name: RoleName) -> Role {
        let permissions = self.permissions(&name).cloned();
        Role { permissions, name: self.replacement(&name).cloned().unwrap_or(name) }
    }

    /// As [`Self::role`], lent.
    #[must_use]
    pub fn view<'t>(&'t self, name: &'t RoleName) -> RoleView<'t> {
        RoleView { name: self.replacement(name).unwrap_or(name), permissions: self.permissions(name) }
    }

    /// Whether organizations of this kind have the role. `false` for `owner` and for roles of organizations.
    #[must_use]
    pub fn exists_for(&self, name: &RoleName, kind: &Kind) -> bool {
        self.roles.get(name).is_some_and(|role| role.kind.as_ref().is_none_or(|own| own == kind))
    }

    /// The roles of the deployment that hold a permission, with `owner`, in no particular order. `None` if this process does
    /// not know what one of the roles holds.
    #[must_use]
    pub fn holders(&self, permission: Permission) -> Option<Vec<RoleName>> {
        let mut holders = vec![RoleName::OWNER];
        for (name, role) in &self.roles {
            if role.permissions.as_ref()?.contains(permission) {
                holders.push(name.clone());
            }
        }
        Some(holders)
    }

    /// The permissions that exist: roster's own, and those that the model declares.
    #[must_use]
    pub fn declared(&self) -> &PermissionSet {
        &self.declared
    }

    /// Roster's own permissions that roles of organizations may hold.
    #[must_use]
    pub fn delegable(&self) -> &PermissionSet {
        &self.delegable
    }

    /// The permissions behind the stored words of a role of an organization; `None` if this program does not know one.
    #[must_use]
    pub fn set_of_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Option<PermissionSet> {
        words.into_iter().map(|word| Self::permission_of(word.as_ref())).collect()
    }

    /// The permission behind a word of a stored model or role; `None` if this program does not know it.
    ///
    /// A model has declared each word of the application before, but this process may not have read that model yet.
    #[must_use]
    pub fn permission_of(word: &str) -> Option<Permission> {
        let declare = || PermissionName::parse(word).ok().and_then(|name| Permission::declare(name.as_str()));
        Permission::find(word).or_else(declare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> RoleTable {
        let model = json!({
            "permissions": [{ "name": "billing.table-read" }, { "name": "billing.table-write" }],
            "roles": [
                { "name": "accountant", "kind": "customer", "permissions": ["billing.table-read", "members.list"] },
                { "name": "member", "permissions": ["billing.table-read", "organization.read"] },
                { "name": "newer", "permissions": ["teams.table-manage"] },
            ],
            "delegable": ["members.add"],
        });
        RoleTable::new(3, &AccessModel::from_stored(&model).unwrap())
    }

    #[test]
    fn roles_hold_what_the_model_says_and_else_what_is_built_in() {
        let (table, read) = (table(), || Permission::find("billing.table-read").unwrap());
        let accountant = table.role(RoleName::parse("accountant").unwrap());
        assert!(accountant.require().unwrap().contains(read()));
        assert!(accountant.require().unwrap().contains(Permission::MEMBERS_LIST));
        let member = table.role(RoleName::MEMBER);
        assert!(member.require().unwrap().contains(read()));
        assert!(!member.require().unwrap().contains(Permission::MEMBERSHIP_LEAVE));
        assert_eq!(table.role(RoleName::ADMIN), Role::ADMIN);
        assert_eq!(table.role(RoleName::OWNER), Role::OWNER);
        assert_eq!(RoleTable::built_in().role(RoleName::MEMBER), Role::MEMBER);
        assert!(table.changes_built_in_roles() && !RoleTable::built_in().changes_built_in_roles());
    }

    #[test]
    fn a_role_with_an_unknown_permission_is_unknown() {
        let table = table();
        for name in ["newer", "nobody", "org:accountant"] {
            assert!(!table.role(RoleName::parse(name).unwrap()).is_known(), "{name}");
        }
    }

    #[test]
    fn the_holders_of_a_permission_are_known_if_every_role_is() {
        let model = |roles: serde_json::Value| {
            let model = json!({ "permissions": [{ "name": "billing.table-held" }], "roles": roles });
            RoleTable::new(1, &AccessModel::from_stored(&model).unwrap())
        };
        let clerk = json!({ "name": "clerk", "permissions": ["billing.table-held"] });
        let table = model(json!([clerk, { "name": "guest", "permissions": ["members.list"] }]));
        let held = Permission::find("billing.table-held").unwrap();
        let names = |permission| {
            let holders = table.holders(permission).unwrap();
            holders.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(held), ["clerk", "owner"].map(str::to_owned).into());
        assert_eq!(names(Permission::MEMBERS_LIST), ["admin", "guest", "member", "owner"].map(str::to_owned).into());
        assert_eq!(names(Permission::OWNERSHIP_TRANSFER), ["owner".to_owned()].into());
        assert_eq!(model(json!([clerk, { "name": "newer", "permissions": ["teams.fly"] }])).holders(held), None);
    }

    #[test]
    fn the_words_of_a_stored_role_are_known_before_their_model_is_read() {
        let set = RoleTable::set_of_words(["members.list", "billing.table-role"]).unwrap();
        assert!(set.contains(Permission::MEMBERS_LIST));
        assert!(set.contains(Permission::find("billing.table-role").unwrap()));
        assert_eq!(RoleTable::set_of_words(["members.fly"]), None, "a newer program has more words of roster's own");
        assert_eq!(RoleTable::set_of_words([""; 0]), Some(PermissionSet::NONE));
    }

    #[test]
    fn a_role_of_one_kind_exists_there_only() {
        let (table, name) = (table(), RoleName::parse("accountant").unwrap());
        let (customer, team) = (Kind::parse("customer").unwrap(), Kind::parse("team").unwrap());
        assert!(table.exists_for(&name, &customer) && !table.exists_for(&name, &team));
        assert!(table.exists_for(&RoleName::ADMIN, &team) && !table.exists_for(&RoleName::OWNER, &team));
    }

    #[test]
    fn only_what_the_model_declares_exists() {
        let table = table();
        let undeclared = Permission::declare("billing.table-undeclared").unwrap();
        assert!(table.declared().contains(Permission::find("billing.table-write").unwrap()));
        assert!(table.declared().contains(Permission::MEMBERS_ADD) && !table.declared().contains(undeclared));
        assert!(table.delegable().contains(Permission::MEMBERS_ADD));
    }
}
