//! The answers with permissions, and the explanations of checks.

use crate::domain::{OrganizationState, Permission, PermissionSet};
use crate::grpc::{convert, pb, role};
use crate::service::effective_permissions::EffectivePermissions;
use crate::service::explanations::{Explanation, RolePath};
use std::collections::HashMap;

/// The answer of `GetEffectivePermissions`.
pub(super) fn effective(
    answer: &EffectivePermissions,
    consistency_token: String,
) -> pb::GetEffectivePermissionsResponse {
    let mut permissions: Vec<String> = answer.permissions.iter().map(|permission| permission.to_string()).collect();
    permissions.sort_unstable();
    pb::GetEffectivePermissionsResponse {
        reason: convert::check_reason(answer.reason).into(),
        role: answer.role.clone().unwrap_or_default(),
        permissions,
        revision: answer.revision,
        consistency_token,
        source: convert::check_source(answer.source).into(),
    }
}

/// The answer of `BatchGetEffectivePermissions`. Each word and each set is in it once: 1 000 owners hold 1 000 000
/// permissions.
pub(super) fn effective_of_batch(
    answers: &[EffectivePermissions],
    consistency_token: String,
) -> pb::BatchGetEffectivePermissionsResponse {
    let mut sets: Vec<&PermissionSet> = Vec::new();
    let mut numbers: HashMap<&PermissionSet, usize> = HashMap::new();
    let mut results = Vec::with_capacity(answers.len());
    for answer in answers {
        let number = *numbers.entry(&answer.permissions).or_insert_with(|| {
            sets.push(&answer.permissions);
            sets.len() - 1
        });
        results.push(pb::EffectivePermissionsResult {
            reason: convert::check_reason(answer.reason).into(),
            role: answer.role.clone().unwrap_or_default(),
            permission_set: index(number),
            revision: answer.revision,
            source: convert::check_source(answer.source).into(),
        });
    }
    let all = sets.iter().fold(PermissionSet::NONE, |all, set| all.union(set));
    let mut words: Vec<(&'static str, Permission)> = all.iter().map(|held| (held.as_str(), held)).collect();
    words.sort_unstable();
    let indexes: HashMap<Permission, u32> =
        words.iter().enumerate().map(|(number, (_, permission))| (*permission, index(number))).collect();
    let permission_set = |set: &&PermissionSet| {
        let mut permissions: Vec<u32> = set.iter().filter_map(|permission| indexes.get(&permission).copied()).collect();
        permissions.sort_unstable();
        pb::EffectivePermissionSet { permissions }
    };
    pb::BatchGetEffectivePermissionsResponse {
        results,
        permission_sets: sets.iter().map(permission_set).collect(),
        permissions: words.into_iter().map(|(word, _)| word.to_owned()).collect(),
        consistency_token,
    }
}

/// The answer of `ExplainCheck`. Only operators see that an organization is deleted.
pub(super) fn explained(
    explanation: Explanation,
    sees_deleted: bool,
    consistency_token: String,
) -> pb::ExplainCheckResponse {
    let is_hidden = explanation.organization_state == Some(OrganizationState::Deleted) && !sees_deleted;
    let state = explanation.organization_state.filter(|_| !is_hidden);
    let path = |path: &RolePath| pb::RolePath {
        role: path.role.to_string(),
        origin: role::origin(path.origin).into(),
        origin_revision: path.origin_revision,
        membership_revision: path.membership_revision,
        replaced_by: path.replaced_by.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    pb::ExplainCheckResponse {
        result: Some(convert::check_result(explanation.answer, consistency_token)),
        role: explanation.role.as_ref().filter(|_| !is_hidden).map(path),
        role_suffices: explanation.role_suffices && !is_hidden,
        organization_state: state.map_or(pb::OrganizationState::Unspecified, convert::organization_state).into(),
        user_state: convert::user_state(explanation.user_state).into(),
    }
}

/// A position in a list of a message, which has far fewer elements than this type can count.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
