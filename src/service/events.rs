//! Reads of the audit trail.

use super::change_feed::LogChange;
use super::{Roster, ServiceError, access_model};
use crate::authz::decide::Access;
use crate::domain::Refusal;
use crate::domain::event::{EventRecord, EventType};
use crate::store::row_page::RowPage;
use crate::store::{StoreError, events, users};

pub use crate::store::events::{EventFilter, UserEventFilter};

impl Roster {
    /// Lists the events of the organization, the newest first.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_events(
        &self,
        access: &Access,
        filter: &EventFilter,
    ) -> Result<RowPage<EventRecord>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = events::list(&mut connection, access.organization(), filter).await;
        Ok(connection.finish(outcome)?)
    }

    /// Lists the events of a user, the newest first.
    ///
    /// # Errors
    /// `USER_NOT_FOUND`; if the datastore does not answer.
    pub async fn list_user_events(&self, filter: &UserEventFilter) -> Result<RowPage<EventRecord>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = async {
            let user = users::get(&mut connection, &filter.user).await?;
            Ok::<_, StoreError>((user, events::list_of_user(&mut connection, filter).await?))
        };
        let outcome = outcome.await;
        let (user, rows) = connection.finish(outcome)?;
        user.ok_or(Refusal::UserNotFound)?;
        Ok(RowPage { rows, is_cut: false })
    }

    /// Reads the events of these changes, in the order of the changes and each with the index of its change, and the number
    /// of changes that were looked up: fewer than all if the events are large. If types are given, only events of these
    /// types.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn events_of(
        &self,
        changes: &[&LogChange],
        types: Option<&[EventType]>,
    ) -> Result<(Vec<(usize, EventRecord)>, usize), ServiceError> {
        // A model is large, so at most one of them is read at once.
        let with_models = types.is_none_or(|types| types.contains(&EventType::ModelChanged));
        let model = changes.iter().enumerate().find_map(|(index, change)| match change {
            LogChange::Model { revision, .. } if with_models => Some((index, *revision)),
            _ => None,
        });
        let changes = model.map_or(changes, |(index, _)| &changes[..=index]);
        let keys: Vec<events::EventKey> = changes
            .iter()
            .map(|change| match change {
                LogChange::Organization(entry) => events::EventKey::Organization(entry.organization, entry.revision),
                LogChange::User { user, revision, .. } => events::EventKey::User(user.clone(), *revision),
                LogChange::Model { .. } | LogChange::Unknown => events::EventKey::Unknown,
            })
            .collect();
        let mut connection = self.pool.acquire_read().await?;
        let outcome = async {
            let (mut events, looked_up) = events::find(&mut connection, &keys, types).await?;
            if let Some((index, revision)) = model.filter(|(index, _)| *index < looked_up)
                && let Some(event) = access_model::event(&mut connection, revision).await?
            {
                events.push((index, event));
            }
            Ok::<_, StoreError>((events, looked_up))
        };
        let outcome = outcome.await;
        Ok(connection.finish(outcome)?)
    }
}
