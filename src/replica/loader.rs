//! The loader: reads a range of buckets from one snapshot of the primary.

use super::ReplicaState;
use crate::domain::RoleTable;
use crate::domain::ids::ORGANIZATION_BUCKETS;
use crate::replica::limits;
use crate::replica_tables::Bucket;
use crate::store::StoreError;
use crate::store::log::snapshot::BucketSnapshot;
use crate::store::log::tail::LogPosition;
use crate::store::pool::PooledConnection;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A range of organization buckets and the result of loading it.
pub(super) struct BucketLoad {
    pub(super) buckets: RangeInclusive<i16>,
    pub(super) result: Result<Vec<LoadedBucket>, StoreError>,
}

/// A bucket as of a snapshot, and the snapshot's position in the bucket's log.
pub(super) struct LoadedBucket {
    pub(super) number: i16,
    pub(super) bucket: Bucket,
    pub(super) position: LogPosition,
}

/// Loads organization buckets, in at most [`limits::LOAD_TIMEOUT`].
pub(super) async fn load(shared: Arc<ReplicaState>, buckets: RangeInclusive<i16>) -> BucketLoad {
    let outcome = tokio::time::timeout(limits::LOAD_TIMEOUT, async {
        let mut connection = shared.replica_pool.acquire().await?;
        let outcome = read(&shared, &mut connection, &buckets).await;
        connection.finish(outcome)
    });
    let result = outcome.await.unwrap_or(Err(StoreError::Silent));
    BucketLoad { buckets, result }
}

async fn read(
    shared: &ReplicaState,
    connection: &mut PooledConnection,
    buckets: &RangeInclusive<i16>,
) -> Result<Vec<LoadedBucket>, StoreError> {
    let (mut snapshot, positions) = BucketSnapshot::begin(connection, *buckets.start(), *buckets.end()).await?;
    let new = |(number, position): (i16, LogPosition)| {
        let bucket = shared.tables.bucket(position.in_bucket(number));
        LoadedBucket { number, bucket, position }
    };
    let mut loaded: Vec<LoadedBucket> = buckets.clone().zip(positions).map(new).collect();
    let index = |bucket: i16| usize::from((bucket - buckets.start()).unsigned_abs());
    snapshot
        .organizations(|row| {
            if let Some(LoadedBucket { bucket, .. }) = loaded.get_mut(index(row.id.bucket())) {
                bucket.put_organization(row.id, row.state, row.revision, row.owner.as_ref(), &row.slug);
            }
        })
        .await?;
    // Before the members, whose slots name the places of the roles.
    snapshot
        .roles(|organization, name, words, replaced_by| {
            let Some(LoadedBucket { bucket, .. }) = loaded.get_mut(index(organization.bucket())) else { return };
            match replaced_by {
                Some(replaced_by) => bucket.put_replaced_role(organization, &name, &replaced_by),
                None => bucket.put_role(organization, &name, RoleTable::set_of_words(words)),
            }
        })
        .await?;
    snapshot
        .members(|organization, user, role| {
            if let Some(LoadedBucket { bucket, .. }) = loaded.get_mut(index(organization.bucket())) {
                bucket.put_member(organization, user, role);
            }
        })
        .await?;
    snapshot.end().await?;
    Ok(loaded)
}

/// The number of buckets to load at once, for a membership table of this size in bytes.
pub(super) fn stride(bytes: i64) -> i16 {
    let buckets = limits::LOAD_BYTES.saturating_mul(ORGANIZATION_BUCKETS.into()) / bytes.max(1);
    i16::try_from(buckets).unwrap_or(ORGANIZATION_BUCKETS).clamp(1, ORGANIZATION_BUCKETS)
}
