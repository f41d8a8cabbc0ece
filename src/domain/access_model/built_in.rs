//! Roster's own permissions and roles, as an access model names them.

use super::{DeclaredRole, WordSet};
use crate::domain::{Permission, Role};

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
    let role = [Role::ADMIN, Role::MEMBER].into_iter().find(|built_in| built_in.as_str() == role)?;
    let held = reserved().filter(|permission| role.permissions().contains(*permission));
    Some(held.map(|permission| permission.as_str().into()).collect())
}

/// Whether the role is `admin` or `member`, which always exist.
pub(super) fn is_built_in(role: &DeclaredRole) -> bool {
    [ADMIN, MEMBER].contains(&role.name.as_str())
}

/// The name of the role of administrators.
pub(super) const ADMIN: &str = "admin";
/// The name of the role of plain members.
pub(super) const MEMBER: &str = "member";
/// The name of the role of the owner, which no model lists.
pub(super) const OWNER: &str = "owner";
