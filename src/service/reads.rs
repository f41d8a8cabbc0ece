//! Reads of organizations and members.

use super::{Error, Roster};
use crate::auth::decide::Access;
use crate::domain::{Member, Organization, Refusal, Role, UserId};
use crate::store::{memberships, organizations, users};

pub use crate::store::memberships::Filter as MemberFilter;
pub use crate::store::organizations::{After, Filter as OrganizationFilter, FilterOfUser};

impl Roster {
    /// Reads the organization that the caller has been let into.
    ///
    /// # Errors
    /// If the datastore does not answer, or the organization was purged a moment ago.
    pub async fn get_organization(&self, access: &Access) -> Result<Organization, Error> {
        let found = organizations::get(&mut *self.pool.acquire().await?, access.organization()).await?;
        Ok(found.ok_or(Refusal::OrganizationNotFound)?)
    }

    /// Lists organizations.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_organizations(&self, filter: &OrganizationFilter) -> Result<Vec<Organization>, Error> {
        Ok(organizations::list(&mut *self.pool.acquire().await?, filter).await?)
    }

    /// Lists the organizations that a user is in.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_user_organizations(
        &self,
        user: &UserId,
        filter: &FilterOfUser,
    ) -> Result<Vec<(Organization, Role)>, Error> {
        Ok(organizations::list_of_user(&mut *self.pool.acquire().await?, user, filter).await?)
    }

    /// Reads one member.
    ///
    /// # Errors
    /// `MEMBER_NOT_FOUND`.
    pub async fn get_member(&self, access: &Access, user: &UserId) -> Result<Member, Error> {
        let mut connection = self.pool.acquire().await?;
        let membership = memberships::get(&mut connection, access.organization(), user).await?;
        let membership = membership.ok_or(Refusal::MemberNotFound)?;
        let user = users::get(&mut connection, user).await?.ok_or(Refusal::MemberNotFound)?;
        Ok(Member { membership, user })
    }

    /// Lists members.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn list_members(&self, access: &Access, filter: &MemberFilter) -> Result<Vec<Member>, Error> {
        Ok(memberships::list(&mut *self.pool.acquire().await?, access.organization(), filter).await?)
    }
}
