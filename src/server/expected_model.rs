//! The access model that a file says the deployment has, and its comparison with the stored one. The server never applies
//! it: an operator does, once for all servers.

use super::limits;
use super::metrics::Metrics;
use crate::domain::access_model::{AccessModel, ModelPlan};
use crate::service::access_model::PresentModel;
use crate::service::{Roster, ServiceError};
use crate::store::StoreError;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// An access model in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// The file with the expected model.
    pub path: PathBuf,
    /// The model that was read from it.
    pub model: AccessModel,
}

impl ModelFile {
    /// Compares the stored model with the file. Logs a difference as a warning, with what applying the file would change.
    /// Returns whether they differ.
    pub fn compare(&self, stored: &PresentModel) -> bool {
        let plan = ModelPlan::between(&stored.model, &self.model);
        if plan.is_empty() {
            return false;
        }
        tracing::warn!(
            file = %self.path.display(),
            revision = stored.revision,
            change = plan.summary(),
            "the stored access model differs from access_model_file: apply the file by `roster access-model apply`, or \
             correct it"
        );
        true
    }
}

/// The file with the access model that the deployment should have, if there is one. Clones share one state.
#[derive(Debug, Clone)]
pub struct ExpectedModel(Arc<watch::Sender<Option<Arc<ModelFile>>>>);

impl Default for ExpectedModel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl ExpectedModel {
    /// Expects the model of this file.
    #[must_use]
    pub fn new(file: ModelFile) -> Self {
        Self(Arc::new(watch::Sender::new(Some(Arc::new(file)))))
    }

    /// The file; `None` to expect nothing.
    #[must_use]
    pub fn file(&self) -> Option<Arc<ModelFile>> {
        self.0.borrow().clone()
    }

    /// Takes over what `next` has read. Returns whether it is another file or another model.
    #[must_use]
    pub fn adopt(&self, next: &Self) -> bool {
        let next = next.file();
        self.0.send_if_modified(|file| {
            let is_other = *file != next;
            if is_other {
                *file = next;
            }
            is_other
        })
    }
}

/// Reads the stored model, within a time limit.
///
/// # Errors
/// If the datastore does not answer in time, or a newer release wrote a model that this one cannot read.
pub async fn read_stored(roster: &Roster) -> Result<PresentModel, ServiceError> {
    timeout(limits::MODEL_TIMEOUT, roster.access_model()).await.unwrap_or(Err(StoreError::Silent.into()))
}

/// Compares the stored model with the file at the start, and when one of them has changed, until the server stops. A
/// difference is one warning for each pair of them.
pub(super) async fn compare_models(
    expected: ExpectedModel,
    roster: Roster,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut files = expected.0.subscribe();
    let rounds = async {
        loop {
            let file = files.borrow_and_update().clone();
            let changed = files.changed();
            let Some(file) = file else {
                metrics.model_differs(Some(false));
                let _ = changed.await;
                continue;
            };
            tokio::select! {
                () = follow(&file, &roster, &metrics) => {}
                // The sender lives as long as `expected`.
                _ = changed => {}
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}

/// Compares the stored model with this file, now and whenever it changes, as long as the future is not dropped.
async fn follow(file: &ModelFile, roster: &Roster, metrics: &Metrics) {
    let mut compared: Option<(PresentModel, bool)> = None;
    let mut is_silent = false;
    loop {
        match read_stored(roster).await {
            Ok(stored) => {
                is_silent = false;
                // Another revision may have the same model: EnableRoles makes one.
                let known = compared.as_ref().filter(|(present, _)| present.model == stored.model);
                let differs = known.map_or_else(|| file.compare(&stored), |(_, differs)| *differs);
                metrics.model_differs(Some(differs));
                compared = Some((stored, differs));
            }
            Err(error) => {
                if !is_silent {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the stored access model cannot be compared with access_model_file");
                }
                is_silent = true;
                metrics.model_differs(None);
            }
        }
        let read = Instant::now();
        let is_due = || {
            let known = roster.replica().roles().revision();
            let is_newer = compared.as_ref().is_none_or(|(present, _)| known > present.revision);
            is_silent || is_newer || read.elapsed() >= limits::MODEL_EVERY
        };
        tokio::time::sleep(limits::MODEL_LOOK).await;
        while !is_due() {
            tokio::time::sleep(limits::MODEL_LOOK).await;
        }
    }
}
