//! Reads of organizations and members.

use super::{Roster, ServiceError};
use crate::authz::decide::Access;
use crate::domain::{Member, Organization, Refusal, Role, SearchText, UserId};
use crate::service::limits;
use crate::store::StoreError;
use crate::store::row_page::RowPage;
use crate::store::{memberships, organizations, users};
use sqlx::PgConnection;

pub use crate::store::memberships::MemberFilter;
pub use crate::store::organizations::{OrganizationFilter, OrganizationPageKey, UserOrganizationFilter};

impl Roster {
    /// Reads the organization that the caller has access to.
    ///
    /// # Errors
    /// `ORGANIZATION_NOT_FOUND` if it was purged a moment ago; `VALUE_UNKNOWN`; if the datastore does not answer.
    pub async fn get_organization(&self, access: &Access) -> Result<Organization, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = organizations::get(&mut connection, access.organization()).await;
        let organization = connection.finish(outcome)?;
        Ok(organization.ok_or(Refusal::OrganizationNotFound)?)
    }

    /// Lists organizations.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_organizations(&self, filter: &OrganizationFilter) -> Result<RowPage<Organization>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = match &filter.search {
            Some(search) => search_organizations(&mut connection, filter, search).await,
            None => organizations::list(&mut connection, filter).await,
        };
        Ok(connection.finish(outcome)?)
    }

    /// Lists the organizations that a user is a member of, with the user's role in each.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_user_organizations(
        &self,
        user: &UserId,
        filter: &UserOrganizationFilter,
    ) -> Result<RowPage<(Organization, Role)>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = organizations::list_of_user(&mut connection, user, filter).await;
        Ok(connection.finish(outcome)?)
    }

    /// Reads one member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`, `VALUE_UNKNOWN`; if the datastore does not answer.
    pub async fn get_member(&self, access: &Access, user: &UserId) -> Result<Member, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = async {
            let membership = memberships::get(&mut connection, access.organization(), user).await?;
            Ok::<_, StoreError>((membership, users::get(&mut connection, user).await?))
        };
        let outcome = outcome.await;
        let (Some(membership), Some(user)) = connection.finish(outcome)? else {
            return Err(Refusal::MemberNotFound.into());
        };
        user.require_known_state()?;
        Ok(Member { membership, user })
    }

    /// Lists members of the organization.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_members(&self, access: &Access, filter: &MemberFilter) -> Result<RowPage<Member>, ServiceError> {
        let mut connection = self.pool.acquire_read().await?;
        let outcome = memberships::list(&mut connection, access.organization(), filter).await;
        Ok(connection.finish(outcome)?)
    }
}

/// Lists the organizations that a search finds. Each batch of candidates has its own snapshot, as each page has.
async fn search_organizations(
    connection: &mut PgConnection,
    filter: &OrganizationFilter,
    search: &SearchText,
) -> Result<RowPage<Organization>, StoreError> {
    let wanted = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let (mut found, mut after, mut most) = (Vec::new(), filter.after.clone(), filter.limit);
    loop {
        let candidates = organizations::search_candidates(connection, filter, search, after.as_ref(), most).await?;
        let RowPage { rows: candidates, is_cut } = candidates;
        let is_last = !is_cut && i64::try_from(candidates.len()).is_ok_and(|count| count < most);
        after = candidates.last().map(|last| OrganizationPageKey { name: last.name.as_str().to_owned(), id: last.id });
        found.extend(candidates.into_iter().filter(|candidate| filter.selects(candidate)));
        // A cut batch is as large as a page may be.
        if is_last || found.len() >= wanted || (is_cut && !found.is_empty()) {
            let is_cut = is_cut && found.len() < wanted;
            found.truncate(wanted);
            return Ok(RowPage { rows: found, is_cut });
        }
        most = limits::SEARCH_CANDIDATES;
    }
}
