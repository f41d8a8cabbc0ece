//! Reads of organizations and members.

use super::{Roster, ServiceError};
use crate::authz::decide::Access;
use crate::domain::{
    Member, Organization, OrganizationId, Permission, Refusal, Role, RoleTable, SearchText, UserId, ValueKind,
};
use crate::service::limits;
use crate::store::StoreError;
use crate::store::organization_roles::{self, OrganizationRole, RoleContent};
use crate::store::row_page::RowPage;
use crate::store::{access_model, memberships, organizations, transaction, users};
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

    /// Lists the members of the organization whose role holds the permission with this word, the owner included. The roles
    /// and the members are of one state.
    ///
    /// # Errors
    /// `INVALID_REQUEST` at `permission` if no such permission is declared; `VALUE_UNKNOWN` if the deployment has a role of
    /// which this program does not know what it holds; `CONFLICT`; if the datastore does not answer.
    pub async fn list_members_with_permission(
        &self,
        access: &Access,
        word: &str,
        filter: &MemberFilter,
    ) -> Result<RowPage<Member>, ServiceError> {
        let mut roles = self.replica.roles();
        for _ in 0..limits::READ_ATTEMPTS {
            let mut connection = self.pool.acquire_read().await?;
            let organization = access.organization();
            let page = members_with_permission(&mut connection, organization, &roles, word, filter.clone()).await;
            if let Some(page) = connection.finish(page)? {
                return Ok(page);
            }
            roles = self.replica.refresh_roles().await?.table;
        }
        Err(Refusal::Conflict.into())
    }
}

/// Lists the members whose role holds a permission, from one snapshot. `None` if these are not the present roles of the
/// deployment.
async fn members_with_permission(
    connection: &mut PgConnection,
    organization: OrganizationId,
    roles: &RoleTable,
    word: &str,
    filter: MemberFilter,
) -> Result<Option<RowPage<Member>>, ServiceError> {
    let mut snapshot = transaction::begin_snapshot(connection).await?;
    if access_model::position(&mut snapshot).await?.position != roles.revision() {
        return Ok(None);
    }
    let permission = Permission::find(word).filter(|permission| roles.declared().contains(*permission));
    let permission = permission.ok_or_else(|| Refusal::field("permission", "no such permission"))?;
    let mut holders = roles.holders(permission).ok_or(Refusal::ValueUnknown { value: ValueKind::Role })?;
    let own = organization_roles::list(&mut snapshot, organization, i64::from(limits::ORGANIZATION_ROLES)).await?;
    // The members of a role that is being replaced count as members of the new one.
    let holds = |role: &&OrganizationRole| {
        let RoleContent { permissions, replaced_by, .. } = &role.content;
        replaced_by.is_none() && permissions.iter().any(|permission| permission == word)
    };
    holders.extend(own.iter().filter(holds).map(|role| role.name.clone()));
    let filter = MemberFilter { roles: Some(holders), ..filter };
    let page = memberships::list(&mut snapshot, organization, &filter).await?;
    snapshot.commit().await.map_err(StoreError::from)?;
    Ok(Some(page))
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
