//! What the commands read and change, whether by the database or by a server.

use crate::domain::access_model::{AccessModel, ModelPlan};
use crate::service::access_model::{PermissionEffect, RoleEffect};
use std::fmt;

/// The stored model.
pub(super) struct ModelVersion {
    pub(super) model: AccessModel,
    /// The number of changes so far, which is the etag.
    pub(super) revision: String,
    /// Whether custom roles and permissions are enabled.
    pub(super) is_enabled: bool,
}

/// What a replacement of the model has changed, or would change.
pub(super) struct AppliedPlan {
    pub(super) plan: ModelPlan,
    pub(super) uses: Vec<ModelUse>,
    /// The number of members who got another role.
    pub(super) moved: u32,
    /// The roles that have too many members to be moved at once: these hold the other role, and move later.
    pub(super) moving: Vec<String>,
    /// The revision of the stored model now.
    pub(super) revision: String,
}

/// How much a role or a permission that differs is used.
pub(super) struct ModelUse {
    pub(super) name: String,
    pub(super) holders: Holders,
    pub(super) count: i64,
    pub(super) organizations: i64,
    pub(super) is_estimate: bool,
}

/// What holds a role or a permission.
pub(super) enum Holders {
    /// Members with the role.
    Members {
        /// The role that they get instead; `None` if they keep theirs.
        replaced_by: Option<String>,
    },
    /// Roles of organizations with the permission.
    OrganizationRoles,
}

impl fmt::Display for ModelUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, holders, count, organizations, is_estimate } = self;
        let about = if *is_estimate { "about " } else { "" };
        let thing = match holders {
            Holders::Members { .. } => "member(s)",
            Holders::OrganizationRoles => "role(s) of organizations",
        };
        write!(f, "{name}: {about}{count} {thing}, in {about}{organizations} organization(s)")?;
        match holders {
            Holders::Members { replaced_by: Some(role) } => write!(f, "; they get the role {role}"),
            Holders::Members { replaced_by: None } | Holders::OrganizationRoles => Ok(()),
        }
    }
}

impl From<RoleEffect> for ModelUse {
    fn from(effect: RoleEffect) -> Self {
        Self {
            name: effect.name.to_string(),
            holders: Holders::Members { replaced_by: effect.replaced_by.map(|role| role.to_string()) },
            count: effect.members,
            organizations: effect.organizations,
            is_estimate: effect.is_estimate,
        }
    }
}

impl From<PermissionEffect> for ModelUse {
    fn from(effect: PermissionEffect) -> Self {
        Self {
            name: effect.name,
            holders: Holders::OrganizationRoles,
            count: effect.roles,
            organizations: effect.organizations,
            is_estimate: effect.is_estimate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_says_what_is_counted() {
        let members = |replaced_by: Option<&str>, is_estimate| ModelUse {
            name: "accountant".to_owned(),
            holders: Holders::Members { replaced_by: replaced_by.map(str::to_owned) },
            count: 12,
            organizations: 3,
            is_estimate,
        };
        let roles = ModelUse { holders: Holders::OrganizationRoles, ..members(None, false) };
        assert_eq!(members(None, false).to_string(), "accountant: 12 member(s), in 3 organization(s)");
        assert_eq!(
            members(Some("clerk"), true).to_string(),
            "accountant: about 12 member(s), in about 3 organization(s); they get the role clerk"
        );
        assert_eq!(roles.to_string(), "accountant: 12 role(s) of organizations, in 3 organization(s)");
    }
}
