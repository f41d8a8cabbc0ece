//! The table from slugs to organizations.
//!
//! The follower applies buckets one after the other. A slug that moves between organizations may therefore for a moment
//! be claimed by both, or by one that has already given it up. The table keeps every claim; a lookup verifies each
//! claim in the organization's own record, which is authoritative.

use super::fingerprint::{Fingerprint, PassthroughBuilder};
use crate::domain::OrganizationId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// The memory of one slug, in bytes: an entry with its control byte, and half as much again because the table is
/// between half full and full.
pub(super) const BYTES: usize = (size_of::<(Fingerprint, OrganizationId)>() + 1) * 3 / 2;

/// A change of an organization's slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlugChange {
    pub(super) organization: OrganizationId,
    pub(super) old: Option<Fingerprint>,
    pub(super) new: Option<Fingerprint>,
}

#[derive(Default)]
struct SlugClaims {
    first: HashMap<Fingerprint, OrganizationId, PassthroughBuilder>,
    /// Claims on slugs that another organization claims in `first`: almost always empty.
    others: Vec<(Fingerprint, OrganizationId)>,
}

/// The number of parts, each with a separate lock: while one part grows, the others stay available.
const PARTS: usize = 64;

/// The slugs of all buckets.
pub(super) struct Slugs([RwLock<SlugClaims>; PARTS]);

impl Default for Slugs {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RwLock::default()))
    }
}

impl Slugs {
    /// Adds the slugs of a loaded bucket.
    pub(super) fn put_all(&self, slugs: impl Iterator<Item = (Fingerprint, OrganizationId)>) {
        for (slug, organization) in slugs {
            self.write(slug).put(slug, organization);
        }
    }

    /// Applies changes of slugs.
    pub(super) fn apply(&self, changes: &[SlugChange]) {
        for SlugChange { organization, old, new } in changes {
            if let Some(slug) = old {
                self.write(*slug).take(*slug, *organization);
            }
            if let Some(slug) = new {
                self.write(*slug).put(*slug, *organization);
            }
        }
    }

    /// The organizations that claim a slug: normally one.
    pub(super) fn find(&self, slug: Fingerprint) -> impl Iterator<Item = OrganizationId> + use<> {
        let claims = self.0[slug.part(PARTS)].read().unwrap_or_else(PoisonError::into_inner);
        let first = claims.first.get(&slug).copied();
        let others: Vec<OrganizationId> =
            claims.others.iter().filter(|(other, _)| *other == slug).map(|(_, organization)| *organization).collect();
        first.into_iter().chain(others)
    }

    fn write(&self, slug: Fingerprint) -> RwLockWriteGuard<'_, SlugClaims> {
        self.0[slug.part(PARTS)].write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlugClaims {
    fn put(&mut self, slug: Fingerprint, organization: OrganizationId) {
        let first = *self.first.entry(slug).or_insert(organization);
        if first != organization && !self.others.contains(&(slug, organization)) {
            self.others.push((slug, organization));
        }
    }

    fn take(&mut self, slug: Fingerprint, organization: OrganizationId) {
        if let Some(index) = self.others.iter().position(|claim| *claim == (slug, organization)) {
            self.others.swap_remove(index);
        }
        if self.first.get(&slug) == Some(&organization) {
            self.first.remove(&slug);
            if let Some(index) = self.others.iter().position(|(other, _)| *other == slug) {
                let (slug, organization) = self.others.swap_remove(index);
                self.first.insert(slug, organization);
            }
        }
    }
}
