//! The share of the streams that one caller may have open.

use crate::authn::CallerKey;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The open streams of each caller. Clones share the counts.
///
/// A share belongs to a caller and not to an address, because the streams of many callers may come through one proxy.
#[derive(Debug, Clone)]
pub struct StreamShares(Arc<ShareCounts>);

#[derive(Debug)]
struct ShareCounts {
    limit: usize,
    /// Contains the callers with open streams only.
    open: Mutex<HashMap<CallerKey, usize>>,
}

impl ShareCounts {
    fn open(&self) -> MutexGuard<'_, HashMap<CallerKey, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamShares {
    /// Each caller may have this many streams open. The limit is exact.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(ShareCounts { limit, open: Mutex::default() }))
    }

    /// Counts one more stream of a caller, until the result is dropped. `None` if the caller has as many as it may have.
    pub(super) fn take(&self, caller: CallerKey) -> Option<StreamShare> {
        {
            let mut open = self.0.open();
            let count = open.entry(caller.clone()).or_default();
            if *count >= self.0.limit {
                return None;
            }
            *count += 1;
        }
        Some(StreamShare { counts: self.0.clone(), caller })
    }
}

/// One counted stream of a caller.
#[derive(Debug)]
pub(super) struct StreamShare {
    counts: Arc<ShareCounts>,
    caller: CallerKey,
}

impl Drop for StreamShare {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.counts.open().entry(self.caller.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Namespace, ServiceIdentity};

    #[test]
    fn a_share_is_exact_for_each_caller_and_leaves_nothing_behind() {
        let shares = StreamShares::new(2);
        let service = |namespace| CallerKey::Service(ServiceIdentity { name: "billing".to_owned(), namespace });
        let key = || service(Namespace::ApiKeys);
        let mut first = vec![shares.take(key()), shares.take(key())];
        assert!(first.iter().all(Option::is_some) && shares.take(key()).is_none());
        // Another issuer's service of the same name is another caller.
        let other = shares.take(service(Namespace::Issuer("https://issuer.test".into())));
        assert!(other.is_some());
        first.pop();
        assert!(shares.take(key()).is_some(), "and it is returned at once");
        drop((first, other));
        assert!(shares.0.open().is_empty());
    }
}
