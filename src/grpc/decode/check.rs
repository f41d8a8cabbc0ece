//! Inputs of `CheckService`.

use super::{FieldReader, InvalidFields, borrow_oneof, item_count};
use crate::domain::check::Question;
use crate::domain::limits::BATCH_CHECKS;
use crate::domain::{Invalid, Kind, OrganizationRef, Permission, PermissionName, RoleName, UserId};
use crate::grpc::pb;
use crate::service::Freshness;
use crate::service::checks::Check;
use crate::service::consistency_token::ConsistencyToken;

/// The question of a check, as the request spells it.
#[derive(Debug, Clone, Copy)]
enum QuestionText<'m> {
    /// At least this role.
    Role(&'m str),
    /// Whether the role holds this permission.
    Permission(&'m str),
}

fn question(
    fields: &mut FieldReader,
    organization: &str,
    user_id: String,
    question: Option<QuestionText<'_>>,
) -> Result<Check, InvalidFields> {
    let organization = fields.take("organization", OrganizationRef::parse(organization));
    let user = fields.take("user_id", UserId::parse_string(user_id));
    let question = match question {
        None => Ok(Question::Member),
        Some(QuestionText::Role(role)) => fields.take("role", RoleName::parse(role)).map(Question::Role),
        Some(QuestionText::Permission(word)) => fields.take("permission", permission(word)),
    };
    Ok(Check { organization: organization?, user: user?, question: question? })
}

/// A question about a permission of this word. A word that this process has not seen may be in a newer access model.
fn permission(word: &str) -> Result<Question, Invalid> {
    match Permission::find(word) {
        Some(permission) => Ok(Question::Permission(permission)),
        None => match PermissionName::parse(word) {
            Ok(name) => Ok(Question::NewPermission(name)),
            Err(_) => Err(Invalid::new("no such permission")),
        },
    }
}

/// The consistency that the answer must have.
pub(super) fn freshness(
    fields: &mut FieldReader,
    consistency: Option<&pb::Consistency>,
) -> Result<Freshness, InvalidFields> {
    use pb::consistency::Requirement;
    match consistency.and_then(|consistency| consistency.requirement.as_ref()) {
        Some(Requirement::AtLeastAsFresh(token)) => {
            fields.take("consistency.at_least_as_fresh", ConsistencyToken::decode(token)).map(Freshness::AtLeast)
        }
        Some(Requirement::FullyConsistent(true)) => Ok(Freshness::Full),
        Some(Requirement::FullyConsistent(false)) | None => Ok(Freshness::Recent),
    }
}

/// The question of `CheckMembership`.
pub(in crate::grpc) fn check(
    message: pb::CheckMembershipRequest,
    fields: &mut FieldReader,
) -> Result<(Check, Freshness), InvalidFields> {
    let text =
        borrow_oneof!(message.question, pb::check_membership_request::Question => QuestionText { Role, Permission });
    let check = question(fields, &message.organization, message.user_id, text);
    let freshness = freshness(fields, message.consistency.as_ref());
    Ok((check?, freshness?))
}

/// One question of `StreamChecks`.
pub(in crate::grpc) fn stream(
    message: pb::StreamChecksRequest,
    fields: &mut FieldReader,
) -> Result<(Check, Freshness), InvalidFields> {
    let text =
        borrow_oneof!(message.question, pb::stream_checks_request::Question => QuestionText { Role, Permission });
    let check = question(fields, &message.organization, message.user_id, text);
    let freshness = freshness(fields, message.consistency.as_ref());
    Ok((check?, freshness?))
}

/// The questions of `BatchCheckMembership`.
pub(in crate::grpc) fn batch(
    message: pb::BatchCheckMembershipRequest,
    fields: &mut FieldReader,
) -> Result<(Vec<Check>, Freshness), InvalidFields> {
    let count = if (1..=BATCH_CHECKS).contains(&message.items.len()) {
        Ok(())
    } else {
        Err(fields.wrong("items", Invalid(item_count(BATCH_CHECKS))))
    };
    let freshness = freshness(fields, message.consistency.as_ref());
    count?;
    let checks = fields.items(message.items, |fields, item| {
        let text = borrow_oneof!(item.question, pb::check_item::Question => QuestionText { Role, Permission });
        question(fields, &item.organization, item.user_id, text)
    });
    Ok((checks?, freshness?))
}

/// What a membership watch asks for.
pub(in crate::grpc) struct MembershipWatch {
    pub(in crate::grpc) cursor: Option<ConsistencyToken>,
    pub(in crate::grpc) organization: Option<OrganizationRef>,
    pub(in crate::grpc) user: Option<UserId>,
    pub(in crate::grpc) kind: Option<Kind>,
}

/// The first message of `WatchMemberships`.
pub(in crate::grpc) fn watch(
    message: &pb::WatchMembershipsRequest,
    fields: &mut FieldReader,
) -> Result<MembershipWatch, InvalidFields> {
    let cursor = fields.cursor(&message.cursor);
    let organization = fields.optional("organization", &message.organization, OrganizationRef::parse);
    let user = fields.optional("user_id", &message.user_id, UserId::parse);
    let kind = fields.kind(&message.kind);
    Ok(MembershipWatch { cursor: cursor?, organization: organization?, user: user?, kind: kind? })
}

/// A later message of `WatchMemberships`: it carries a ping and nothing else.
pub(in crate::grpc) fn ping(
    message: &pb::WatchMembershipsRequest,
    fields: &mut FieldReader,
) -> Result<i64, InvalidFields> {
    let pb::WatchMembershipsRequest { cursor, organization, user_id, kind, ping } = message;
    let texts = [("cursor", cursor), ("organization", organization), ("user_id", user_id), ("kind", kind)];
    let mut result = Ok(*ping);
    for (name, _) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        result = Err(fields.wrong(name, Invalid::new("only the first message says what to watch")));
    }
    result
}
