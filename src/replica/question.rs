//! Questions about users in organizations, and how they are answered from a standing.

use super::AnswerSource;
use super::consistency_token::ConsistencyToken;
use crate::domain::{
    BucketPosition, OrganizationId, OrganizationRef, Role, RoleName, RoleView, Standing, StandingView, UserId,
    UserStatus,
};
use crate::replica_tables::{Bucket, MemberLookup, PublishedRoles};
use crate::store::standing::{ResolvedStanding, StandingKey};

/// A question about a user in an organization. It is answered where the standing is read, under the lock of the bucket:
/// nothing is copied out of the tables that the answer does not need.
pub trait StandingQuestion {
    /// The answer to the question.
    type Answer;

    /// The organization and the user of the question; without a user, it is about the organization alone.
    fn subject(&self) -> (&OrganizationRef, Option<&UserId>);

    /// A role of the organization's own that the answer depends on, beside that of the user.
    fn named_role(&self) -> Option<&RoleName> {
        None
    }

    /// Whether the answer depends on what the roles hold. Then it reflects the access model, and its token covers it.
    fn depends_on_model(&self) -> bool {
        true
    }

    /// Answers the question.
    fn answer(&self, facts: &Facts<'_>) -> Self::Answer;

    /// Whether an answer from memory is final. Otherwise the primary answers, which may know more.
    fn is_final(_answer: &Self::Answer) -> bool {
        true
    }
}

/// A standing, and the positions of the change log that it reflects.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'t> {
    /// The standing of the subject.
    pub standing: StandingView<'t>,
    /// When an operator last reinstated the user, as in [`Standing::reinstated_at`].
    pub reinstated_at: Option<i64>,
    /// The position of the organization's bucket; `None` if the organization was named by an unknown slug.
    pub position: Option<BucketPosition>,
    /// The position of the user's bucket.
    pub user_position: BucketPosition,
    /// The position of the access model.
    pub model: BucketPosition,
}

/// An answer, and what the consistency token of the answer covers.
#[derive(Debug, Clone)]
pub struct SourcedAnswer<A> {
    /// The answer to the question.
    pub answer: A,
    /// The source of the answer.
    pub source: AnswerSource,
    /// The organization that it is about; `None` if it does not exist.
    pub(super) organization: Option<OrganizationId>,
    position: Option<BucketPosition>,
    user_position: BucketPosition,
    /// `None` if the answer does not depend on the access model.
    pub(super) model: Option<BucketPosition>,
}

impl<A> SourcedAnswer<A> {
    pub(super) fn new<Q: StandingQuestion<Answer = A>>(question: &Q, facts: &Facts<'_>, source: AnswerSource) -> Self {
        Self {
            answer: question.answer(facts),
            source,
            organization: facts.standing.organization.map(|head| head.id),
            position: facts.position,
            user_position: facts.user_position,
            model: question.depends_on_model().then_some(facts.model),
        }
    }

    /// Adds what the answer reflects to a consistency token.
    pub fn cover(&self, token: &mut ConsistencyToken) {
        if let Some(position) = self.position {
            token.cover(position);
        }
        token.cover_user(self.user_position);
        cover_model(token, self.model);
    }
}

/// Adds an access model to a consistency token. Without a model, there is nothing that an answer could lack.
pub(super) fn cover_model(token: &mut ConsistencyToken, model: Option<BucketPosition>) {
    if let Some(model) = model.filter(|model| model.position > 0) {
        token.cover(model);
    }
}

impl<'t> Facts<'t> {
    /// The standing in a bucket of the tables; `None` if the tables do not know it, or have no room for a role that it
    /// depends on. The user is not part of the bucket: see
    /// [`Self::with_user`].
    pub(super) fn in_bucket<Q: StandingQuestion>(question: &Q, bucket: &'t Bucket, id: OrganizationId) -> Option<Self> {
        let deployment = bucket.deployment_roles();
        let member = bucket.find(id, question.subject().1, &deployment.table)?;
        Self::of_member(question, bucket, id, member)
    }

    /// As [`Self::in_bucket`], after the lookup of the subject in the bucket.
    pub(super) fn of_member<Q: StandingQuestion>(
        question: &Q,
        bucket: &'t Bucket,
        id: OrganizationId,
        MemberLookup { organization, role }: MemberLookup<'t>,
    ) -> Option<Self> {
        if role.is_some_and(RoleView::is_unknown) {
            return None;
        }
        let deployment = bucket.deployment_roles();
        let roles = &*deployment.table;
        let named_role = question.named_role().and_then(|name| bucket.organization_role(id, name, roles));
        Some(Self {
            standing: StandingView { organization, role, user_state: None, roles, named_role },
            reinstated_at: None,
            position: Some(bucket.at()),
            user_position: BucketPosition::start(0),
            model: deployment.at,
        })
    }

    /// The standing in an answer of the primary.
    pub(super) fn of_primary(resolved: &'t ResolvedStanding, deployment: &'t PublishedRoles) -> Self {
        let ResolvedStanding { standing, named_role } = resolved;
        let named_role = named_role.as_ref().map(Role::view);
        Self {
            standing: StandingView { named_role, ..standing.view(&deployment.table) },
            reinstated_at: standing.reinstated_at,
            position: standing.position,
            user_position: standing.user_position,
            model: deployment.at,
        }
    }

    /// Adds the user, who is not part of the bucket.
    pub(super) fn with_user(mut self, status: UserStatus, position: BucketPosition) -> Self {
        self.standing.user_state = status.state;
        self.reinstated_at = status.reinstated_at;
        self.user_position = position;
        self
    }

    fn to_standing(self) -> Standing {
        Standing {
            organization: self.standing.organization,
            role: self.standing.role.map(RoleView::to_role),
            user_state: self.standing.user_state,
            reinstated_at: self.reinstated_at,
            position: self.position,
            user_position: self.user_position,
        }
    }
}

/// The question as the primary is asked.
pub(super) fn key<Q: StandingQuestion>(question: &Q) -> StandingKey {
    let (organization, user) = question.subject();
    StandingKey { organization: organization.clone(), user: user.cloned(), named_role: question.named_role().cloned() }
}

impl<Q: StandingQuestion> StandingQuestion for &Q {
    type Answer = Q::Answer;

    fn subject(&self) -> (&OrganizationRef, Option<&UserId>) {
        (**self).subject()
    }

    fn named_role(&self) -> Option<&RoleName> {
        (**self).named_role()
    }

    fn depends_on_model(&self) -> bool {
        (**self).depends_on_model()
    }

    fn answer(&self, facts: &Facts<'_>) -> Q::Answer {
        (**self).answer(facts)
    }

    fn is_final(answer: &Q::Answer) -> bool {
        Q::is_final(answer)
    }
}

/// The question for the standing itself.
impl StandingQuestion for (&OrganizationRef, Option<&UserId>) {
    type Answer = Standing;

    fn subject(&self) -> (&OrganizationRef, Option<&UserId>) {
        *self
    }

    fn answer(&self, facts: &Facts<'_>) -> Standing {
        facts.to_standing()
    }
}
