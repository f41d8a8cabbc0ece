//! Loading one bucket: everything that one snapshot holds of it.

use super::Shared;
use crate::domain::limits;
use crate::memory::Bucket;
use crate::store::StoreError;
use crate::store::snapshot::Snapshot;
use crate::store::tail::Stamp;
use std::sync::Arc;

/// A bucket as a snapshot held it, and where in the log that was.
pub(super) type Loaded = (Bucket, Stamp);

/// Loads a bucket of organizations.
pub(super) async fn load(shared: Arc<Shared>, number: i16) -> (i16, Result<Loaded, StoreError>) {
    let loaded = tokio::time::timeout(limits::LOAD_TIMEOUT, read(&shared, number)).await;
    (number, loaded.unwrap_or(Err(StoreError::Timeout(None))))
}

async fn read(shared: &Shared, number: i16) -> Result<Loaded, StoreError> {
    let mut connection = shared.own.acquire().await?;
    let (mut snapshot, stamp) = Snapshot::begin(&mut connection, number).await?;
    let mut bucket = shared.memory.bucket(stamp.position);
    snapshot
        .organizations(|kept| {
            bucket.put_organization(kept.id, kept.state, kept.revision, kept.owner.as_ref(), &kept.slug);
        })
        .await?;
    snapshot.members(|organization, user, role| bucket.put_member(organization, user, role)).await?;
    snapshot.end().await?;
    Ok((bucket, stamp))
}
