//! Conversions between the domain's checks and the protobuf messages.

use super::{Answer, Check, CheckReason, Consistency, Error, Question, Source};
use crate::domain::Role;
use crate::pb;

pub(super) fn of_check(question: Question) -> Option<pb::check_membership_request::Question> {
    use pb::check_membership_request::Question as Wire;
    match question {
        Question::Member => None,
        Question::Role(role) => Some(Wire::Role(role.as_str().to_owned())),
        Question::Permission(permission) => Some(Wire::Permission(permission.as_str().to_owned())),
    }
}

/// One question of a batch.
pub(super) fn item(check: &Check) -> pb::CheckItem {
    use pb::check_item::Question as Wire;
    let question = match check.question {
        Question::Member => None,
        Question::Role(role) => Some(Wire::Role(role.as_str().to_owned())),
        Question::Permission(permission) => Some(Wire::Permission(permission.as_str().to_owned())),
    };
    pb::CheckItem { organization: check.organization.to_string(), user_id: check.user.to_string(), question }
}

pub(super) fn consistency(consistency: &Consistency) -> Option<pb::Consistency> {
    use pb::consistency::Requirement;
    let requirement = match consistency {
        Consistency::Recent => return None,
        Consistency::AtLeastAsFresh(token) => Requirement::AtLeastAsFresh(token.clone()),
        Consistency::Full => Requirement::FullyConsistent(true),
    };
    Some(pb::Consistency { requirement: Some(requirement) })
}

/// Parses an answer. A value that this version of the client does not know is an error: a guess could be wrong.
pub(super) fn answer(result: pb::CheckResult) -> Result<Answer, Error> {
    let reason = match result.reason() {
        pb::CheckReason::Allowed => CheckReason::Allowed,
        pb::CheckReason::NotAMember => CheckReason::NotAMember,
        pb::CheckReason::OrganizationNotFound => CheckReason::OrganizationNotFound,
        pb::CheckReason::OrganizationInactive => CheckReason::OrganizationInactive,
        pb::CheckReason::OrganizationPending => CheckReason::OrganizationPending,
        pb::CheckReason::UserInactive => CheckReason::UserInactive,
        pb::CheckReason::RoleTooLow => CheckReason::RoleTooLow,
        pb::CheckReason::RoleLacksPermission => CheckReason::RoleLacksPermission,
        pb::CheckReason::ValueUnknown => CheckReason::ValueUnknown,
        pb::CheckReason::Unspecified => return Err(unreadable("a reason", &result.reason.to_string())),
    };
    if result.allowed != (reason == CheckReason::Allowed) {
        return Err(unreadable("an answer", "allowed contradicts the reason"));
    }
    let source = match result.source() {
        pb::CheckSource::Memory => Source::Server,
        pb::CheckSource::Primary => Source::Primary,
        pb::CheckSource::StaleMemory => Source::Stale,
        pb::CheckSource::Unspecified => return Err(unreadable("a source", &result.source.to_string())),
    };
    let role = (!result.role.is_empty()).then(|| Role::parse(&result.role)).transpose();
    let role = role.map_err(|_| unreadable("a role", &result.role))?;
    Ok(Answer { reason, role, revision: result.revision, source, consistency_token: result.consistency_token })
}

/// Parses an answer of a batch. One that this version of the client cannot parse is no answer; the others stand.
pub(super) fn batch_answer(result: pb::CheckResult) -> Answer {
    let unknown = Answer {
        reason: CheckReason::ValueUnknown,
        role: None,
        revision: 0,
        source: Source::Server,
        consistency_token: String::new(),
    };
    answer(result).unwrap_or(unknown)
}

/// The error for a value from the server that this client does not know.
pub(super) fn unreadable(what: &str, value: &str) -> Error {
    let value: String = value.chars().take(80).collect();
    Error::Unreadable(format!("{what} that this client does not know: {value}"))
}
