//! Inputs of the methods of `CheckService` that answer with permissions or explain a check.

use super::check::{self, freshness};
use super::{FieldReader, InvalidFields, item_count};
use crate::domain::Invalid;
use crate::domain::limits::BATCH_EFFECTIVE_PERMISSIONS;
use crate::grpc::pb;
use crate::service::Freshness;
use crate::service::checks::Check;

/// The input of `GetEffectivePermissions`: a check without a question.
pub(in crate::grpc) fn effective(
    message: pb::GetEffectivePermissionsRequest,
    fields: &mut FieldReader,
) -> Result<(Check, Freshness), InvalidFields> {
    let pb::GetEffectivePermissionsRequest { organization, user_id, consistency } = message;
    check::check(pb::CheckMembershipRequest { organization, user_id, consistency, question: None }, fields)
}

/// The input of `BatchGetEffectivePermissions`: checks without a question.
pub(in crate::grpc) fn effective_of_batch(
    message: pb::BatchGetEffectivePermissionsRequest,
    fields: &mut FieldReader,
) -> Result<(Vec<Check>, Freshness), InvalidFields> {
    let pb::BatchGetEffectivePermissionsRequest { items, consistency } = message;
    if !(1..=BATCH_EFFECTIVE_PERMISSIONS).contains(&items.len()) {
        let count = fields.wrong("items", Invalid(item_count(BATCH_EFFECTIVE_PERMISSIONS)));
        freshness(fields, consistency.as_ref())?;
        return Err(count);
    }
    let item = |item: pb::EffectivePermissionsItem| pb::CheckItem {
        organization: item.organization,
        user_id: item.user_id,
        question: None,
    };
    let items = items.into_iter().map(item).collect();
    check::batch(pb::BatchCheckMembershipRequest { items, consistency }, fields)
}

/// The input of `ExplainCheck`, which has the fields of `CheckMembership`.
pub(in crate::grpc) fn explain(
    message: pb::ExplainCheckRequest,
    fields: &mut FieldReader,
) -> Result<(Check, Freshness), InvalidFields> {
    use pb::check_membership_request::Question;
    use pb::explain_check_request::Question as Explained;
    let pb::ExplainCheckRequest { organization, user_id, question, consistency } = message;
    let question = question.map(|question| match question {
        Explained::Role(role) => Question::Role(role),
        Explained::Permission(permission) => Question::Permission(permission),
    });
    check::check(pb::CheckMembershipRequest { organization, user_id, question, consistency }, fields)
}
