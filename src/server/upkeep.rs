//! Background tasks of a server: health, mail and housekeeping.

use crate::authn::Authenticator;
use crate::grpc::standard::{Health, HealthState};
use crate::mail::Mailer;
use crate::server::limits;
use crate::service::Roster;
use crate::store::StoreError;
use crate::store::pool::Pool;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Pings Postgres at intervals and updates the health service with the outcome, until the server stops.
///
/// The pings have connections of their own, so health depends on the database and not on the calls.
pub(super) async fn watch_health(health: Health, roster: Roster, stop: CancellationToken) {
    let pool = roster.pool().beside(limits::HEALTH_CONNECTIONS);
    let mut reported = None;
    let mut migrated = false;
    let rounds = async {
        loop {
            let outcome = timeout(limits::HEALTH_TIMEOUT, ping(&pool, &mut migrated)).await;
            let state = if matches!(outcome, Ok(Ok(true))) { HealthState::Serving } else { HealthState::NotServing };
            if reported != Some(state) {
                log_health(&outcome);
                health.report(state);
                reported = Some(state);
            }
            tokio::time::sleep(limits::HEALTH_EVERY).await;
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}

/// Whether the schema is up to date; an error if Postgres did not answer, or not in time.
type PingOutcome = Result<Result<bool, StoreError>, tokio::time::error::Elapsed>;

fn log_health(outcome: &PingOutcome) {
    match outcome {
        Ok(Ok(true)) => tracing::info!("health: SERVING"),
        Ok(Ok(false)) => tracing::warn!("health: NOT_SERVING: the schema is out of date; run `roster migrate`"),
        Ok(Err(error @ StoreError::Unusable(_))) => tracing::warn!("health: NOT_SERVING: {error}"),
        Ok(Err(error)) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "health: NOT_SERVING: the database did not answer");
        }
        Err(_) => tracing::warn!("health: NOT_SERVING: the database did not answer in time"),
    }
}

/// Pings Postgres, and once more on another connection if there is no answer: a session may have ended although Postgres
/// answers.
async fn ping(pool: &Pool, migrated: &mut bool) -> Result<bool, StoreError> {
    match timeout(limits::HEALTH_RETRY, ping_once(pool, migrated)).await {
        Ok(Err(error @ StoreError::Unusable(_))) => Err(error),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => ping_once(pool, migrated).await,
    }
}

/// Pings Postgres on one connection. Until the schema was up to date once, it also checks the migrations.
async fn ping_once(pool: &Pool, migrated: &mut bool) -> Result<bool, StoreError> {
    use crate::store::{datastore, migrations};
    let mut connection = pool.acquire().await?;
    let outcome = if *migrated {
        datastore::ping(&mut connection).await.map(|()| true)
    } else {
        migrations::is_migrated(&mut connection).await
    };
    *migrated = connection.finish(outcome)?;
    Ok(*migrated)
}

/// Sends the mails in the outbox until the server stops. Returns at once if mail is switched off.
pub(super) async fn send_mail(mailer: Option<Mailer>, roster: Roster, stop: CancellationToken) {
    let Some(mailer) = mailer else { return };
    let claim = || roster.claim_letter();
    let settle = |id, sent| roster.settle_letter(id, sent);
    crate::mail::worker::run(&mailer, claim, settle, roster.mail_due(), &stop).await;
}

/// Fetches the keys of identity providers, as long as the future is not dropped. Calls are served until the connections
/// have ended, and their tokens are verified until then.
pub(super) async fn refresh_keys(authenticator: Authenticator) {
    authenticator.refresh_keys().await;
}

/// Runs housekeeping at intervals until the server stops.
pub(super) async fn tidy(roster: Roster, stop: CancellationToken) {
    let rounds = async {
        loop {
            tokio::time::sleep(limits::TIDY_EVERY).await;
            match tokio::time::timeout(limits::TIDY_TIMEOUT, roster.tidy()).await {
                Ok(Ok(report)) if report == crate::service::housekeeping::TidyReport::default() => {}
                Ok(Ok(report)) => tracing::info!(?report, "housekeeping changed rows"),
                Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "housekeeping failed"),
                Err(_) => tracing::warn!("housekeeping did not end in time; the next round continues it"),
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}
