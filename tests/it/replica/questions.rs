//! Random questions, and the requests that ask them.

use super::oracle::{self, Criterion, Question, SLUGS, USERS, WORDS};
use super::traffic::{SeededRandom, Workload};
use crate::harness::is_member;
use roster::grpc::pb;

impl Workload {
    pub(super) fn single(&self, question: &Question) -> pb::CheckMembershipRequest {
        use pb::check_membership_request::Question::{Permission, Role};
        let condition = match question.criterion {
            Criterion::Member => None,
            Criterion::Admin => Some(Role("admin".to_owned())),
            Criterion::Owner => Some(Role("owner".to_owned())),
            Criterion::MembersAdd => Some(Permission("members.add".to_owned())),
            Criterion::Word(index) => Some(Permission(WORDS[index].0.to_owned())),
            Criterion::Accountant => Some(Role(oracle::Role::Accountant.name().to_owned())),
            Criterion::Own => Some(Role(oracle::Role::Own.name().to_owned())),
        };
        let request = is_member(&self.oracle.name(question), &oracle::user(question.user));
        pb::CheckMembershipRequest { question: condition, ..request }
    }

    pub(super) fn item(&self, question: &Question) -> pb::CheckItem {
        use pb::check_item::Question::{Permission, Role};
        use pb::check_membership_request::Question as Single;
        let single = self.single(question);
        let question = single.question.map(|question| match question {
            Single::Role(role) => Role(role),
            Single::Permission(permission) => Permission(permission),
        });
        pb::CheckItem { organization: single.organization, user_id: single.user_id, question }
    }

    /// A random question. A slug is the organization's present one or, with `any_slug`, any of its slugs; if no
    /// organization has it, the primary answers.
    pub fn question(&self, random: &mut SeededRandom, organization: usize, any_slug: bool) -> Question {
        const CRITERIA: [Criterion; 9] = [
            Criterion::Member,
            Criterion::Member,
            Criterion::Admin,
            Criterion::Owner,
            Criterion::MembersAdd,
            Criterion::Word(0),
            Criterion::Word(1),
            Criterion::Accountant,
            Criterion::Own,
        ];
        let criterion = CRITERIA[random.below(CRITERIA.len())];
        let slug = (random.below(4) == 0).then(|| {
            let last = self.oracle.organizations[organization].history.lock().unwrap().last().state.slug;
            if any_slug { random.below(SLUGS) } else { last }
        });
        Question { organization, slug, user: random.below(USERS), criterion }
    }
}
