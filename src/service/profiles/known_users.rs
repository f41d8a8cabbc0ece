//! The users of whom the datastore has a sign, as far as calls on their behalf have shown it.

use crate::domain::UserId;
use crate::service::limits;
use quick_cache::sync::Cache;
use std::fmt;
use std::sync::Arc;

/// Users whose first sign is stored. Clones share the same memory, which keeps the most used ones. Bearer tokens are not
/// looked up here: each is remembered by itself, because its claims may be new.
#[derive(Clone)]
pub(in crate::service) struct KnownUsers(Arc<Cache<UserId, ()>>);

impl KnownUsers {
    pub(super) fn contains(&self, user: &UserId) -> bool {
        self.0.get(user).is_some()
    }

    pub(super) fn add(&self, user: &UserId) {
        self.0.insert(user.clone(), ());
    }
}

impl Default for KnownUsers {
    fn default() -> Self {
        Self(Arc::new(Cache::new(limits::KNOWN_USERS)))
    }
}

impl fmt::Debug for KnownUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownUsers")
    }
}
