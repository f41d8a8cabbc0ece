//! Background tasks of a server: health, mail and housekeeping.

use crate::authz::rules;
use crate::mail::Mailer;
use crate::server::limits;
use crate::service::Roster;
use crate::store::StoreError;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub(super) async fn set_health(health: &HealthReporter, serving: ServingStatus) {
    health.set_service_status("", serving).await;
    for service in services() {
        health.set_service_status(service, serving).await;
    }
}

fn services() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<&str> = rules::METHODS.iter().map(|method| method.service).collect();
    names.dedup();
    names.into_iter()
}

/// Pings Postgres at intervals and updates the health service with the outcome, until the server stops.
pub(super) async fn watch_health(health: HealthReporter, roster: Roster, stop: CancellationToken) {
    let mut serving = None;
    let mut migrated = false;
    let rounds = async {
        loop {
            let outcome = tokio::time::timeout(limits::HEALTH_TIMEOUT, ping(&roster, &mut migrated)).await;
            let now = if matches!(outcome, Ok(Ok(true))) { ServingStatus::Serving } else { ServingStatus::NotServing };
            if serving != Some(now) {
                log_health(&outcome, now);
                set_health(&health, now).await;
                serving = Some(now);
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

fn log_health(outcome: &PingOutcome, now: ServingStatus) {
    match outcome {
        Ok(Ok(true)) => tracing::info!("health: {now}"),
        Ok(Ok(false)) => tracing::warn!("health: {now}: the schema is out of date; run `roster migrate`"),
        Ok(Err(error @ StoreError::Unusable(_))) => tracing::warn!("health: {now}: {error}"),
        Ok(Err(error)) => {
            tracing::warn!(error = error as &dyn std::error::Error, "health: {now}: the database did not answer");
        }
        Err(_) => tracing::warn!("health: {now}: the database did not answer in time"),
    }
}

/// Pings Postgres. Until the schema was up to date once, it also checks the migrations.
async fn ping(roster: &Roster, migrated: &mut bool) -> Result<bool, StoreError> {
    use crate::store::{datastore, migrations};
    let mut connection = roster.pool().acquire().await?;
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
