//! A tower layer that lets only those requests through whose user may.

use super::{Answer, Check, Error, MembershipCache, Question};
use crate::domain::{OrganizationRef, Permission, Role, UserId};
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::request::Parts;
use http::{Request, Response};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tower::{Layer, Service};

/// Whom a request is from and which organization it is about, as the backend has made out; or the status to refuse it
/// with if it does not say.
pub type CallSubject = Result<(OrganizationRef, UserId), Status>;

/// Why a request is not let through.
#[derive(Debug)]
pub enum GuardRejection {
    /// It does not say who, or where.
    Unnamed(Status),
    /// The user may not.
    Denied(Answer),
    /// Nobody could say: neither the copy nor the server.
    Unavailable(Error),
}

impl GuardRejection {
    /// The gRPC status that says so. It does not tell a stranger why: that is in the answer.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Unnamed(status) => status.clone(),
            Self::Denied(_) => Status::permission_denied("permission denied, or no such organization"),
            Self::Unavailable(_) => Status::unavailable("permissions cannot be checked just now"),
        }
    }
}

/// Lets a request through if its user holds a permission in its organization, or a role. `extract` says from a request's
/// head who and where; it must go by what the backend has verified itself, such as its session, never by what a caller
/// merely claims. Others are answered in its place: with the gRPC status of [`GuardRejection::status`], or what
/// [`Self::answering`] makes.
///
/// The organization has to be in the head, in a header or the path: a layer in front of a gRPC method does not see the
/// message. Where it is in the message, ask the [`MembershipCache`] in the handler.
#[derive(Debug, Clone)]
pub struct RequirePermission<E, R = GrpcStatus> {
    cache: MembershipCache,
    question: Question,
    extract: Arc<E>,
    respond: R,
}

/// Answers with a gRPC status.
#[derive(Debug, Clone, Copy)]
pub struct GrpcStatus;

/// Makes the answer to what is not let through.
pub trait Respond<B> {
    /// The answer.
    fn respond(&self, stopped: GuardRejection) -> Response<B>;
}

impl<B: Default> Respond<B> for GrpcStatus {
    fn respond(&self, stopped: GuardRejection) -> Response<B> {
        stopped.status().into_http()
    }
}

/// Answers with what a function makes.
#[derive(Debug, Clone)]
pub struct RespondWith<F>(F);

impl<B, F: Fn(GuardRejection) -> Response<B>> Respond<B> for RespondWith<F> {
    fn respond(&self, stopped: GuardRejection) -> Response<B> {
        self.0(stopped)
    }
}

impl<E: Fn(&Parts) -> CallSubject> RequirePermission<E> {
    /// Asks for a permission.
    pub fn new(cache: &MembershipCache, permission: Permission, extract: E) -> Self {
        Self::asking(cache, Question::Permission(permission), extract)
    }

    /// Asks for at least this role.
    pub fn role(cache: &MembershipCache, role: Role, extract: E) -> Self {
        Self::asking(cache, Question::Role(role), extract)
    }

    fn asking(cache: &MembershipCache, question: Question, extract: E) -> Self {
        Self { cache: cache.clone(), question, extract: Arc::new(extract), respond: GrpcStatus }
    }

    /// Answers what is not let through with what this function makes: for services that do not speak gRPC.
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
            question: *question,
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

type GuardResult<T, E> = Result<T, E>;

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
    // The copy mostly knows, and then nothing is boxed.
    type Future = Either<
        S::Future,
        Either<Ready<GuardResult<Response<A>, S::Error>>, BoxFuture<'static, GuardResult<Response<A>, S::Error>>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let RequirePermission { cache, question, extract, respond } = &self.layer;
        let stop = |stopped| Either::Right(Either::Left(ready(Ok(respond.respond(stopped)))));
        let check = match extract(&parts) {
            Ok((organization, user)) => Check { organization, user, question: *question },
            Err(status) => return stop(GuardRejection::Unnamed(status)),
        };
        let request = Request::from_parts(parts, body);
        match cache.check_now(&check) {
            Some(answer) if answer.is_allowed() => return Either::Left(self.inner.call(request)),
            Some(answer) => return stop(GuardRejection::Denied(answer)),
            None => {}
        }
        // The one that is ready is taken; its clone need not be.
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
