//! What a backend needs to ask roster, behind the feature `client`.
//!
//! * [`Client`] asks the server: one question, or many at once.
//! * [`MembershipCache`] answers in the caller's own process, from a copy that it keeps by following the server, and is as
//!   fresh as a server: everything acknowledged longer than a second ago is in every answer. Where it cannot promise
//!   that, it asks the server.
//! * [`RequirePermission`] is a tower layer on top of it, which lets only those requests through whose user may.
//!
//! The questions and answers are those of [`crate::domain::check`]. Whatever goes wrong is one [`Error`], with the reason
//! that the server gave.

mod cache;
mod error;
mod guard;
pub mod limits;
mod question;
mod settings;

pub use crate::domain::check::{Check, CheckReason, Question};
pub use cache::{CacheSettings, MembershipCache, Statistics};
pub use error::{Error, Failure};
pub use guard::{CallSubject, Guard, GuardRejection, RequirePermission};
pub use settings::{ClientSettings, TokenSource};

use crate::domain::Role;
use crate::pb;
use crate::pb::check_service_client::CheckServiceClient;
use std::future::Future;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How fresh an answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything acknowledged longer than a second ago, or what was agreed in its place.
    #[default]
    Recent,
    /// That, and at least what this token covers: the `consistency_token` of a write or of an earlier answer.
    AtLeastAsFresh(String),
    /// Everything acknowledged before the question was asked.
    Full,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The copy in this process.
    Cache,
    /// The server, from its memory.
    Server,
    /// The server, from its datastore.
    Primary,
    /// The server, from a memory older than it should be, because its datastore does not answer and its settings allow it.
    Stale,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why; [`CheckReason::Allowed`] is the only yes.
    pub reason: CheckReason,
    /// The user's role; none for who is not a member.
    pub role: Option<Role>,
    /// The organization's revision that the answer reflects; 0 for one that is not there.
    pub revision: i64,
    /// Who answered.
    pub source: Source,
    /// A token that covers the state that the answer came from; empty if the answer is one of many, whose token stands
    /// beside them, or from the copy in this process.
    pub consistency_token: String,
}

impl Answer {
    /// Whether the answer is yes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reason == CheckReason::Allowed
    }
}

/// Asks a server. Cheap to clone; clones share one connection, which is made again when it is lost.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    settings: ClientSettings,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// If none answers there.
    pub async fn connect(settings: ClientSettings) -> Result<Self, Error> {
        let channel = settings.endpoint.connect().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(Self { channel, settings })
    }

    /// A client that connects when it is first asked. Must be made inside of a tokio runtime.
    #[must_use]
    pub fn lazy(settings: ClientSettings) -> Self {
        Self { channel: settings.endpoint.connect_lazy(), settings }
    }

    /// The same over a connection of its own.
    fn apart(&self) -> Self {
        Self::lazy(self.settings.clone())
    }

    /// The connection, for roster's other services: tonic's clients of them are in [`crate::pb`].
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with this message, which shows the credential and ends in time.
    ///
    /// # Errors
    /// If there is no credential to show.
    pub async fn request<M>(&self, message: M) -> Result<Request<M>, Error> {
        let mut request = self.stream(message).await?;
        request.set_timeout(self.settings.timeout);
        Ok(request)
    }

    /// A request that shows the credential, and has no end.
    async fn stream<M>(&self, message: M) -> Result<Request<M>, Error> {
        let mut request = Request::new(message);
        if let Some(token) = &self.settings.token {
            request.metadata_mut().insert("authorization", token.header().await?);
        }
        Ok(request)
    }

    fn checks(&self) -> CheckServiceClient<Channel> {
        CheckServiceClient::new(self.channel.clone())
    }

    /// Waits for a call, no longer than a call may take.
    async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.settings.timeout, call).await.unwrap_or(Err(Error::TimedOut))
    }

    /// Asks one question.
    ///
    /// # Errors
    /// If there is no answer. *No* is an answer.
    pub async fn check(&self, check: &Check, consistency: &Consistency) -> Result<Answer, Error> {
        let result = self.within(async {
            let message = pb::CheckMembershipRequest {
                organization: check.organization.to_string(),
                user_id: check.user.to_string(),
                question: question::of_check(check.question),
                consistency: question::consistency(consistency),
            };
            let request = self.request(message).await?;
            Ok(self.checks().check_membership(request).await.map(Response::into_inner)?.result)
        });
        question::answer(result.await?.ok_or_else(|| Error::Unreadable("an answer without a result".to_owned()))?)
    }

    /// Asks many questions at once, at most [`crate::domain::limits::BATCH_CHECKS`]: the answers in their order, all about one
    /// organization from one state of it, and a token that covers all.
    ///
    /// # Errors
    /// If there are no answers. *No* is an answer.
    pub async fn check_batch(
        &self,
        checks: &[Check],
        consistency: &Consistency,
    ) -> Result<(Vec<Answer>, String), Error> {
        if checks.is_empty() {
            return Ok((Vec::new(), String::new()));
        }
        let answers = self.within(async {
            let items = checks.iter().map(question::item).collect();
            let message = pb::BatchCheckMembershipRequest { items, consistency: question::consistency(consistency) };
            let request = self.request(message).await?;
            Ok(self.checks().batch_check_membership(request).await.map(Response::into_inner)?)
        });
        let pb::BatchCheckMembershipResponse { results, consistency_token } = answers.await?;
        if results.len() != checks.len() {
            return Err(Error::Unreadable(format!("{} answers to {} questions", results.len(), checks.len())));
        }
        Ok((results.into_iter().map(question::answer).collect::<Result<_, _>>()?, consistency_token))
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }
}
