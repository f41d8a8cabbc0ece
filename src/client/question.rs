//! Conversions between the domain's checks and the protobuf messages.

use super::{Answer, Check, CheckReason, Consistency, Error, Failure, Question, Source};
use crate::domain::RoleName;
use crate::pb;
use std::collections::HashMap;
use tonic::Code;

pub(super) fn of_check(question: &Question) -> Option<pb::check_membership_request::Question> {
    use pb::check_membership_request::Question as Wire;
    match question {
        Question::Member => None,
        Question::Role(role) => Some(Wire::Role(role.as_str().to_owned())),
        Question::Permission(permission) => Some(Wire::Permission(permission.as_str().to_owned())),
        Question::NewPermission(name) => Some(Wire::Permission(name.as_str().to_owned())),
    }
}

/// One question of a batch.
pub(super) fn item(check: &Check) -> pb::CheckItem {
    use pb::check_item::Question as Wire;
    let question = match &check.question {
        Question::Member => None,
        Question::Role(role) => Some(Wire::Role(role.as_str().to_owned())),
        Question::Permission(permission) => Some(Wire::Permission(permission.as_str().to_owned())),
        Question::NewPermission(name) => Some(Wire::Permission(name.as_str().to_owned())),
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

/// Parses an answer. A value that this version of the client does not know makes the answer unavailable: a guess could
/// be wrong.
pub(super) fn answer(result: pb::CheckResult) -> Result<Answer, Error> {
    let reason = match result.reason() {
        pb::CheckReason::Allowed => CheckReason::Allowed,
        pb::CheckReason::NotAMember => CheckReason::NotAMember,
        pb::CheckReason::OrganizationNotFound => CheckReason::OrganizationNotFound,
        pb::CheckReason::OrganizationInactive => CheckReason::OrganizationInactive,
        pb::CheckReason::OrganizationPending => CheckReason::OrganizationPending,
        pb::CheckReason::UserInactive => CheckReason::UserInactive,
        pb::CheckReason::RoleNotFound => CheckReason::RoleNotFound,
        pb::CheckReason::RoleTooLow => CheckReason::RoleTooLow,
        pb::CheckReason::RoleLacksPermission => CheckReason::RoleLacksPermission,
        pb::CheckReason::ValueUnknown => CheckReason::ValueUnknown,
        pb::CheckReason::Unspecified => return Err(newer("reason", &result.reason.to_string())),
    };
    if result.allowed != (reason == CheckReason::Allowed) {
        return Err(unreadable("an answer", "allowed contradicts the reason"));
    }
    let source = match result.source() {
        pb::CheckSource::Memory => Source::Server,
        pb::CheckSource::Primary => Source::Primary,
        pb::CheckSource::StaleMemory => Source::Stale,
        pb::CheckSource::Unspecified => return Err(newer("source", &result.source.to_string())),
    };
    let role = (!result.role.is_empty()).then(|| RoleName::parse(&result.role)).transpose();
    let role = role.map_err(|_| newer("role", &result.role))?;
    Ok(Answer { reason, role, revision: result.revision, source, consistency_token: result.consistency_token })
}

/// Parses an answer of a batch. One with a value that this version of the client does not know has the reason
/// [`CheckReason::ValueUnknown`]; the others stand.
pub(super) fn batch_answer(result: pb::CheckResult) -> Result<Answer, Error> {
    let unknown = Answer {
        reason: CheckReason::ValueUnknown,
        role: None,
        revision: 0,
        source: Source::Server,
        consistency_token: String::new(),
    };
    match answer(result) {
        Err(Error::Unavailable(_)) => Ok(unknown),
        parsed => parsed,
    }
}

/// The error for an answer with a value of a newer server.
fn newer(kind: &str, value: &str) -> Error {
    let value: String = value.chars().take(80).collect();
    Error::Unavailable(Box::new(Failure {
        code: Code::Unavailable,
        reason: Some(pb::ErrorReason::ValueUnknown),
        message: format!("the {kind} in the answer is not known to this client: upgrade it ({value})"),
        metadata: HashMap::from([("value".to_owned(), kind.to_owned())]),
        violations: Vec::new(),
        retry_after: None,
    }))
}

/// The error for a value from the server that this client does not know.
pub(super) fn unreadable(what: &str, value: &str) -> Error {
    let value: String = value.chars().take(80).collect();
    Error::Unreadable(format!("{what} that this client does not know: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_newer_server_makes_only_its_own_answer_unavailable() {
        let known = pb::CheckResult {
            allowed: true,
            reason: pb::CheckReason::Allowed.into(),
            role: "admin".to_owned(),
            revision: 7,
            consistency_token: String::new(),
            source: pb::CheckSource::Memory.into(),
        };
        assert!(batch_answer(known.clone()).is_ok_and(|item| item.is_allowed()) && answer(known.clone()).is_ok());
        for newer in [
            pb::CheckResult { role: "team:auditor".to_owned(), ..known.clone() },
            pb::CheckResult { allowed: false, reason: 77, ..known.clone() },
            pb::CheckResult { source: 77, ..known.clone() },
        ] {
            let error = answer(newer.clone()).err();
            let is_expected =
                |error: Error| error.is_unavailable() && error.reason() == Some(pb::ErrorReason::ValueUnknown);
            assert!(error.is_some_and(is_expected), "{newer:?}");
            let item = batch_answer(newer).map(|item| (item.reason, item.role.clone(), item.is_allowed()));
            assert_eq!(item.ok(), Some((CheckReason::ValueUnknown, None, false)));
        }
        // An answer that contradicts itself is a fault.
        let contradiction = pb::CheckResult { allowed: false, ..known };
        assert!(matches!(answer(contradiction.clone()), Err(Error::Unreadable(_))));
        assert!(matches!(batch_answer(contradiction), Err(Error::Unreadable(_))));
    }
}
