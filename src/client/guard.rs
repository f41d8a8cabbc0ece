//! A tower layer that rejects requests whose user lacks a permission or a role.

use super::{Answer, Check, Error, MembershipCache, Question};
use crate::domain::{OrganizationRef, Permission, RoleName, UserId};
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::request::Parts;
use http::{Request, Response};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tower::{Layer, Service};

/// The organization and the user of a request, as the backend has verified them; or the status to reject the request
/// with if it names none.
pub type CallSubject = Result<(OrganizationRef, UserId), Status>;

/// Why the guard rejects a request.
#[derive(Debug)]
pub enum GuardRejection {
    /// The request names no user or no organization; the status is the one from `extract`.
    Unnamed(Status),
    /// The user lacks the permission or the role.
    Denied(Answer),
    /// Neither the replica nor the server could answer.
    Unavailable(Error),
}

impl GuardRejection {
    /// The gRPC status for the caller. For a denied request it hides the reason, which is in the [`Answer`], so that a
    /// caller cannot probe for organizations.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Unnamed(status) => status.clone(),
            Self::Denied(_) => Status::permission_denied("permission denied, or no such organization"),
            Self::Unavailable(_) => Status::unavailable("permissions cannot be checked just now"),
        }
    }
}

/// A tower layer that forwards a request only if its user holds a permission or a role in its organization.
///
/// `extract` returns the organization and the user from the request's head. It must use data that the backend has
/// verified itself, such as its session, never an unverified claim of the caller. The guard answers other requests in
/// place of the inner service: with the gRPC status of [`GuardRejection::status`], or with the response that
/// [`Self::answering`] makes.
///
/// The organization must be in the request's head, in a header or the path: a layer in front of a gRPC method does not
/// see the message. If the organization is in the message, call [`MembershipCache::check`] in the handler.
#[derive(Debug, Clone)]
pub struct RequirePermission<E, R = GrpcStatus> {
    cache: MembershipCache,
    question: Question,
    extract: Arc<E>,
    respond: R,
}

/// Responds with a gRPC status.
#[derive(Debug, Clone, Copy)]
pub struct GrpcStatus;

/// Makes the response to a rejected request.
pub trait Respond<B> {
    /// Builds the response to a rejected request.
    fn respond(&self, rejection: GuardRejection) -> Response<B>;
}

impl<B: Default> Respond<B> for GrpcStatus {
    fn respond(&self, rejection: GuardRejection) -> Response<B> {
        rejection.status().into_http()
    }
}

/// Responds with the result of a function.
#[derive(Debug, Clone)]
pub struct RespondWith<F>(F);

impl<B, F: Fn(GuardRejection) -> Response<B>> Respond<B> for RespondWith<F> {
    fn respond(&self, rejection: GuardRejection) -> Response<B> {
        self.0(rejection)
    }
}

impl<E: Fn(&Parts) -> CallSubject> RequirePermission<E> {
    /// A layer that requires a permission: one of roster's own, or one of the application
    /// ([`Permission::new`]). While no access model declares it, the guard rejects every request as
    /// [`GuardRejection::Unavailable`].
    pub fn new(cache: &MembershipCache, permission: Permission, extract: E) -> Self {
        Self::requiring(cache, Question::Permission(permission), extract)
    }

    /// A layer that requires at least this role, of the deployment or of the organization: every permission that it
    /// holds. A role of the deployment that the access model does not have rejects every request as
    /// [`GuardRejection::Unavailable`], and a role that the organization does not have as [`GuardRejection::Denied`].
    pub fn role(cache: &MembershipCache, role: RoleName, extract: E) -> Self {
        Self::requiring(cache, Question::Role(role), extract)
    }

    fn requiring(cache: &MembershipCache, question: Question, extract: E) -> Self {
        Self { cache: cache.clone(), question, extract: Arc::new(extract), respond: GrpcStatus }
    }

    /// Answers rejected requests with the response of this function, for services that do not speak gRPC.
    pub fn answering<B, F: Fn(GuardRejection) -> Response<B>>(
        self,
        respond: F,
    ) -> RequirePermission<E, RespondWith<F>> {
        let Self { cache, question, extract, respond: GrpcStatus } = self;
        RequirePermission { cache, question, extract, respond: RespondWith(respond) }
    }
}

impl<S, E, R: Clone> Layer<S> for RequirePermission<E, R> {
    type Service = Guard<S, E, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { cache, question, extract, respond } = self;
        let layer = RequirePermission {
            cache: cache.clone(),
            question: question.clone(),
            extract: extract.clone(),
            respond: respond.clone(),
        };
        Guard { inner, layer }
    }
}

/// A service behind [`RequirePermission`].
#[derive(Debug)]
pub struct Guard<S, E, R = GrpcStatus> {
    inner: S,
    layer: RequirePermission<E, R>,
}

impl<S: Clone, E, R: Clone> Clone for Guard<S, E, R> {
    fn clone(&self) -> Self {
        self.layer.layer(self.inner.clone())
    }
}

impl<S: tonic::server::NamedService, E, R> tonic::server::NamedService for Guard<S, E, R> {
    const NAME: &'static str = S::NAME;
}

/// The future of a [`Guard`]: the inner service's future, a rejection that is ready, or a boxed future that checks with
/// the server first. `F` is the future of the inner service, `A` the body of its response, and `E` its error.
///
/// The replica answers most checks, and then nothing is boxed.
pub type GuardFuture<F, A, E> =
    Either<F, Either<Ready<Result<Response<A>, E>>, BoxFuture<'static, Result<Response<A>, E>>>>;

impl<S, E, R, B, A> Service<Request<B>> for Guard<S, E, R>
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    E: Fn(&Parts) -> CallSubject,
    R: Respond<A> + Clone + Send + 'static,
    B: Send + 'static,
    A: Send + 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = GuardFuture<S::Future, A, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let RequirePermission { cache, question, extract, respond } = &self.layer;
        let reject = |rejection| Either::Right(Either::Left(ready(Ok(respond.respond(rejection)))));
        let check = match extract(&parts) {
            Ok((organization, user)) => Check { organization, user, question: question.clone() },
            Err(status) => return reject(GuardRejection::Unnamed(status)),
        };
        let request = Request::from_parts(parts, body);
        match cache.check_now(&check) {
            Some(answer) if answer.is_allowed() => return Either::Left(self.inner.call(request)),
            Some(answer) => return reject(GuardRejection::Denied(answer)),
            None => {}
        }
        // The future takes the instance that `poll_ready` has made ready; the clone left in its place need not be
        // ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (cache, respond) = (cache.clone(), respond.clone());
        Either::Right(Either::Right(Box::pin(async move {
            match cache.check(&check).await {
                Ok(answer) if answer.is_allowed() => inner.call(request).await,
                Ok(answer) => Ok(respond.respond(GuardRejection::Denied(answer))),
                Err(error) => Ok(respond.respond(GuardRejection::Unavailable(error))),
            }
        })))
    }
}
