//! Who stands where: the look-up behind every check and every decision.
//!
//! Today each answer comes from the primary, by one prepared statement. The copy in memory that is to answer most of
//! them stands behind the same two functions, so that nothing changes for those who ask.

use crate::domain::{OrganizationRef, Standing, UserId, UserState};
use crate::store::pool::Pool;
use crate::store::{StoreError, standing, users};

/// The look-up.
#[derive(Debug, Clone)]
pub struct Index {
    pool: Pool,
}

impl Index {
    /// A look-up over this datastore.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// One user in one organization; without a user, the organization alone.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn standing(
        &self,
        organization: &OrganizationRef,
        user: Option<&UserId>,
    ) -> Result<Standing, StoreError> {
        standing::one(&mut *self.pool.acquire().await?, organization, user).await
    }

    /// Many users in many organizations, all from one state of the datastore, in the order asked.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn standings(&self, questions: &[(OrganizationRef, UserId)]) -> Result<Vec<Standing>, StoreError> {
        standing::many(&mut *self.pool.acquire().await?, questions).await
    }

    /// Where a user is in their life; none for one not heard of.
    ///
    /// # Errors
    /// If the datastore does not answer.
    pub async fn user_state(&self, user: &UserId) -> Result<Option<UserState>, StoreError> {
        users::state(&mut *self.pool.acquire().await?, user).await
    }
}
