//! Roster's own permissions and roles, as an access model names them.

use super::WordSet;
use crate::domain::role::built_in_permissions;
use crate::domain::{Permission, RoleName};

/// The roles that always exist and may be listed.
const LISTED: [RoleName; 2] = [RoleName::ADMIN, RoleName::MEMBER];

/// Every permission of roster.
pub(super) fn reserved() -> impl Iterator<Item = Permission> {
    Permission::RESERVED.iter().copied()
}

/// Whether the word is a permission of roster.
pub(super) fn is_reserved(word: &str) -> bool {
    reserved().any(|permission| permission.as_str() == word)
}

/// What `admin` or `member` holds if the model does not list it; `None` for any other role.
pub(super) fn words_of(role: &str) -> Option<WordSet> {
    let role = LISTED.into_iter().find(|built_in| built_in.as_str() == role)?;
    let permissions = built_in_permissions(&role)?;
    Some(permissions.iter().map(|permission| permission.as_str().into()).collect())
}

/// Whether the role is `admin` or `member`, which always exist.
pub(super) fn is_built_in(role: &str) -> bool {
    LISTED.iter().any(|built_in| built_in.as_str() == role)
}
