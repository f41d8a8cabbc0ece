//! What goes on beside the calls: health, mail, housekeeping.

use crate::authz::rules;
use crate::mail::Mailer;
use crate::server::limits;
use crate::service::Roster;
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

/// Asks Postgres again and again, and tells health what it says.
pub(super) async fn watch_health(health: HealthReporter, roster: Roster, stop: CancellationToken) {
    let mut serving = None;
    let mut migrated = false;
    let rounds = async {
        loop {
            let asked = tokio::time::timeout(limits::HEALTH_TIMEOUT, ask(&roster, &mut migrated)).await;
            let now = if matches!(asked, Ok(Ok(true))) { ServingStatus::Serving } else { ServingStatus::NotServing };
            if serving != Some(now) {
                tell(&asked, now);
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

type PingOutcome = Result<Result<bool, crate::store::StoreError>, tokio::time::error::Elapsed>;

fn tell(asked: &PingOutcome, now: ServingStatus) {
    match asked {
        Ok(Ok(true)) => tracing::info!("health: {now}"),
        Ok(Ok(false)) => tracing::warn!("health: {now}: migrations are missing; run `roster migrate`"),
        Ok(Err(error)) => {
            tracing::warn!(error = error as &dyn std::error::Error, "health: {now}: the datastore does not answer");
        }
        Err(_) => tracing::warn!("health: {now}: the datastore does not answer in time"),
    }
}

async fn ask(roster: &Roster, migrated: &mut bool) -> Result<bool, crate::store::StoreError> {
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

/// Sends what waits in the outbox, if mail is sent at all.
pub(super) async fn send_mail(mailer: Option<Mailer>, roster: Roster, stop: CancellationToken) {
    let Some(mailer) = mailer else { return };
    let claim = || roster.claim_letter();
    let settle = |id, sent| roster.settle_letter(id, sent);
    crate::mail::worker::run(&mailer, claim, settle, roster.mail_due(), &stop).await;
}

/// Tidies now and then.
pub(super) async fn tidy(roster: Roster, stop: CancellationToken) {
    let rounds = async {
        loop {
            tokio::time::sleep(limits::TIDY_EVERY).await;
            match roster.tidy().await {
                Ok(tidied) if tidied == crate::service::housekeeping::TidyReport::default() => {}
                Ok(tidied) => tracing::info!(?tidied, "tidied"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "tidying failed"),
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}
