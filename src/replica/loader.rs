//! Loading some buckets: everything that one snapshot holds of them.

use super::ReplicaState;
use crate::replica::limits;
use crate::replica_tables::Bucket;
use crate::store::StoreError;
use crate::store::log::snapshot::BucketSnapshot;
use crate::store::log::tail::LogPosition;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Some buckets of organizations, and what a load of them came to.
pub(super) struct BucketLoad {
    pub(super) buckets: RangeInclusive<i16>,
    pub(super) loaded: Result<Vec<LoadedBucket>, StoreError>,
}

/// A bucket as a snapshot held it, and where in the log that was.
pub(super) struct LoadedBucket {
    pub(super) number: i16,
    pub(super) bucket: Bucket,
    pub(super) at: LogPosition,
}

/// Loads buckets of organizations.
pub(super) async fn load(shared: Arc<ReplicaState>, buckets: RangeInclusive<i16>) -> BucketLoad {
    let loaded = tokio::time::timeout(limits::LOAD_TIMEOUT, read(&shared, &buckets)).await;
    BucketLoad { buckets, loaded: loaded.unwrap_or(Err(StoreError::Timeout(None))) }
}

async fn read(shared: &ReplicaState, buckets: &RangeInclusive<i16>) -> Result<Vec<LoadedBucket>, StoreError> {
    let mut connection = shared.own.acquire().await?;
    let (mut snapshot, positions) = BucketSnapshot::begin(&mut connection, *buckets.start(), *buckets.end()).await?;
    let new = |(number, at): (i16, LogPosition)| LoadedBucket { number, bucket: shared.tables.bucket(at.position), at };
    let mut loaded: Vec<LoadedBucket> = buckets.clone().zip(positions).map(new).collect();
    let place = |bucket: i16| usize::from((bucket - buckets.start()).unsigned_abs());
    snapshot
        .organizations(|kept| {
            if let Some(LoadedBucket { bucket, .. }) = loaded.get_mut(place(kept.id.bucket())) {
                bucket.put_organization(kept.id, kept.state, kept.revision, kept.owner.as_ref(), &kept.slug);
            }
        })
        .await?;
    snapshot
        .members(|organization, user, role| {
            if let Some(LoadedBucket { bucket, .. }) = loaded.get_mut(place(organization.bucket())) {
                bucket.put_member(organization, user, role);
            }
        })
        .await?;
    snapshot.end().await?;
    Ok(loaded)
}
