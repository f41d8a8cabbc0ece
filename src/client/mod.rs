//! The client library for backends, behind the feature `client`.
//!
//! * [`Client`] sends checks to the server, one or a batch.
//! * [`MembershipCache`] answers checks in the backend's own process, from a replica of all memberships that it
//!   maintains by watching the server. Its answers are as fresh as a server's: by default, every answer includes every
//!   write acknowledged more than a second ago. When the replica cannot guarantee that, the cache asks the server.
//! * [`RequirePermission`] is a tower layer on top of the cache. It forwards only requests whose user holds a
//!   permission or a role.
//!
//! A check may name any role, and any permission that the access model of the deployment declares:
//! [`Permission::new`](crate::domain::Permission::new) makes one of the application, such as `billing.refund`.
//!
//! Checks and their reasons are those of [`crate::domain::check`]. Every failure is an [`Error`], with the server's
//! reason if there is one.

mod cache;
mod error;
mod guard;
pub mod limits;
mod question;
mod route;
mod settings;
#[cfg(feature = "client-tls")]
mod tls;

pub use crate::domain::check::{Check, CheckReason, Question};
pub use cache::{CacheSettings, MembershipCache, Statistics};
pub use error::{Error, Failure};
pub use guard::{CallSubject, Guard, GuardFuture, GuardRejection, RequirePermission};
pub use settings::{ClientSettings, TokenSource};

use crate::domain::RoleName;
use crate::pb;
use crate::pb::check_service_client::CheckServiceClient;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// The consistency requirement of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The answer includes every write acknowledged longer ago than the maximum staleness: one second by default, the
    /// setting `max_staleness` of the server or of [`CacheSettings`] otherwise.
    #[default]
    Recent,
    /// As [`Self::Recent`], and the answer includes every write that this token covers: the `consistency_token` of a
    /// write or of an earlier answer.
    AtLeastAsFresh(String),
    /// The answer includes every write acknowledged before the check.
    Full,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The replica in this process.
    Cache,
    /// The server, from its replica.
    Server,
    /// The server, from its primary.
    Primary,
    /// The server, from its replica beyond the maximum staleness: its primary does not answer, and its setting
    /// `serve_stale` allows such answers.
    Stale,
}

/// The answer to a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reason; only [`CheckReason::Allowed`] permits the action.
    pub reason: CheckReason,
    /// The user's role; `None` for a user who is not a member.
    pub role: Option<RoleName>,
    /// The revision of the organization that the answer reflects; 0 if the organization does not exist.
    pub revision: i64,
    /// The source of the answer.
    pub source: Source,
    /// A consistency token that covers the state that the answer came from. Empty in a batch, which has one token for
    /// all answers, and in answers from the replica in this process.
    pub consistency_token: String,
}

impl Answer {
    /// Whether the action is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reason == CheckReason::Allowed
    }
}

/// A client of one roster server. Cheap to clone; all clones share one connection, which reconnects after it is lost.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    settings: ClientSettings,
    /// Why the settings allow no connection.
    refusal: Option<Arc<str>>,
}

impl Client {
    /// Connects to the server.
    ///
    /// # Errors
    /// If no server accepts the connection. [`Error::InvalidSettings`] if the settings allow none: the credential would
    /// cross a network in plain text, or the address needs TLS and this build has none.
    pub async fn connect(settings: ClientSettings) -> Result<Self, Error> {
        let connected = settings.endpoint()?.connect().await;
        let channel = connected.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(Self { channel, settings, refusal: None })
    }

    /// A client that connects on its first call. Must be called within a tokio runtime. If the settings allow no
    /// connection, every call fails with [`Error::InvalidSettings`].
    #[must_use]
    pub fn lazy(settings: ClientSettings) -> Self {
        match settings.endpoint() {
            Ok(endpoint) => Self { channel: endpoint.connect_lazy(), settings, refusal: None },
            Err(error) => {
                let sentence = error.to_string();
                Self { channel: route::refusing(&sentence), settings, refusal: Some(sentence.into()) }
            }
        }
    }

    /// A client with the same settings and a separate connection.
    fn with_separate_connection(&self) -> Self {
        Self::lazy(self.settings.clone())
    }

    /// The connection, for roster's other services, whose tonic clients are in [`crate::pb`].
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request with this message, the credential and the timeout.
    ///
    /// # Errors
    /// [`Error::Credential`] if the token source fails, [`Error::InvalidSettings`] if the settings allow no connection.
    pub async fn request<M>(&self, message: M) -> Result<Request<M>, Error> {
        let mut request = self.stream_request(message).await?;
        request.set_timeout(self.settings.timeout);
        Ok(request)
    }

    /// A request with the credential and without a timeout.
    async fn stream_request<M>(&self, message: M) -> Result<Request<M>, Error> {
        if let Some(sentence) = &self.refusal {
            return Err(Error::InvalidSettings(sentence.to_string()));
        }
        let mut request = Request::new(message);
        if let Some(credential) = &self.settings.credential {
            request.metadata_mut().insert("authorization", credential.header().await?);
        }
        Ok(request)
    }

    fn checks(&self) -> CheckServiceClient<Channel> {
        CheckServiceClient::new(self.channel.clone())
    }

    /// Waits for a call, at most for the timeout.
    async fn with_deadline<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.settings.timeout, call).await.unwrap_or(Err(Error::TimedOut))
    }

    /// Makes a call that only reads. If its connection ends under it, makes it again after each of
    /// [`limits::REPEAT_PAUSES`]: tonic does not repeat a call that the server has not begun, as other libraries do when a
    /// connection reaches its maximum age. The next connection may lead to a server that stops too. A call for which no
    /// connection could be opened is made once more, at once.
    async fn repeat<M: Clone, T>(
        &self,
        message: M,
        call: impl AsyncFn(CheckServiceClient<Channel>, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut pauses = limits::REPEAT_PAUSES.iter();
        loop {
            let answer = call(self.checks(), self.request(message.clone()).await?).await;
            let is_repeated = |status: &Status, pause: &Duration| {
                error::is_of_connection(status) && (pause.is_zero() || status.code() != Code::Unavailable)
            };
            match (answer, pauses.next()) {
                (Err(status), Some(pause)) if is_repeated(&status, pause) => tokio::time::sleep(*pause).await,
                (answer, _) => return Ok(answer?.into_inner()),
            }
        }
    }

    /// Checks one user in one organization.
    ///
    /// # Errors
    /// If there is no answer. A denial is an answer, not an error.
    pub async fn check(&self, check: &Check, consistency: &Consistency) -> Result<Answer, Error> {
        let result = self.with_deadline(async {
            let message = pb::CheckMembershipRequest {
                organization: check.organization.to_string(),
                user_id: check.user.to_string(),
                question: question::of_check(&check.question),
                consistency: question::consistency(consistency),
            };
            let answer = self.repeat(message, async |mut checks, request| checks.check_membership(request).await);
            Ok(answer.await?.result)
        });
        question::answer(result.await?.ok_or_else(|| Error::Unreadable("an answer without a result".to_owned()))?)
    }

    /// Sends a batch of at most [`crate::domain::limits::BATCH_CHECKS`] checks. Returns the answers in the order of the
    /// checks, and a consistency token that covers all of them. All answers about one organization come from one state
    /// of it. A check that depends on a value of a newer version of roster has the reason
    /// [`CheckReason::ValueUnknown`], which permits nothing; the others are answered.
    ///
    /// # Errors
    /// If there are no answers. A denial is an answer, not an error.
    pub async fn check_batch(
        &self,
        checks: &[Check],
        consistency: &Consistency,
    ) -> Result<(Vec<Answer>, String), Error> {
        if checks.is_empty() {
            return Ok((Vec::new(), String::new()));
        }
        let response = self.with_deadline(async {
            let items = checks.iter().map(question::item).collect();
            let message = pb::BatchCheckMembershipRequest { items, consistency: question::consistency(consistency) };
            self.repeat(message, async |mut checks, request| checks.batch_check_membership(request).await).await
        });
        let pb::BatchCheckMembershipResponse { results, consistency_token } = response.await?;
        if results.len() != checks.len() {
            return Err(Error::Unreadable(format!("{} answers to {} questions", results.len(), checks.len())));
        }
        Ok((results.into_iter().map(question::batch_answer).collect::<Result<_, _>>()?, consistency_token))
    }

    /// The timeout of a call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }
}
