//! Which organization has which slug.
//!
//! Buckets are applied one after the other, so a slug that moved may for a moment be claimed by two organizations or by
//! one that has already let go of it. Therefore every claim is kept, and the organization itself has the last word.

use super::fingerprint::{Fingerprint, PassthroughBuilder};
use crate::domain::OrganizationId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// What a slug takes, in bytes: an entry, and that a table is between half and full.
pub(super) const BYTES: usize = (size_of::<(Fingerprint, OrganizationId)>() + 1) * 3 / 2;

/// What changed about who has which slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlugChange {
    pub(super) organization: OrganizationId,
    pub(super) old: Option<Fingerprint>,
    pub(super) new: Option<Fingerprint>,
}

#[derive(Default)]
struct SlugClaims {
    first: HashMap<Fingerprint, OrganizationId, PassthroughBuilder>,
    /// Claims on slugs that are in `first` for somebody else: hardly ever any.
    others: Vec<(Fingerprint, OrganizationId)>,
}

/// Parts with a lock each, so that one that grows holds up few others.
const PARTS: usize = 64;

/// The slugs of all buckets.
pub(super) struct Slugs([RwLock<SlugClaims>; PARTS]);

impl Default for Slugs {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RwLock::default()))
    }
}

impl Slugs {
    /// Takes in the slugs of a bucket that was loaded.
    pub(super) fn put_all(&self, slugs: impl Iterator<Item = (Fingerprint, OrganizationId)>) {
        for (slug, organization) in slugs {
            self.write(slug).put(slug, organization);
        }
    }

    /// Takes in what changed.
    pub(super) fn apply(&self, renamed: &[SlugChange]) {
        for SlugChange { organization, old, new } in renamed {
            if let Some(slug) = old {
                self.write(*slug).take(*slug, *organization);
            }
            if let Some(slug) = new {
                self.write(*slug).put(*slug, *organization);
            }
        }
    }

    /// The organizations that claim a slug: one, as a rule.
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
        if let Some(place) = self.others.iter().position(|claim| *claim == (slug, organization)) {
            self.others.swap_remove(place);
        }
        if self.first.get(&slug) == Some(&organization) {
            self.first.remove(&slug);
            if let Some(place) = self.others.iter().position(|(other, _)| *other == slug) {
                let (slug, organization) = self.others.swap_remove(place);
                self.first.insert(slug, organization);
            }
        }
    }
}
