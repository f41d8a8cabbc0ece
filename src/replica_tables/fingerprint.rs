//! Keyed fingerprints, which the replica stores in place of ids and slugs.
//!
//! `SipHash`-1-3 with 128 bits of output (Aumasson and Bernstein, "`SipHash`: a fast short-input PRF", 2012), under a
//! random key that never leaves the process: a caller that chooses ids cannot choose two with the same fingerprint,
//! because it cannot compute fingerprints. A slot keeps 115 bits of a membership's fingerprint. A false positive
//! requires that one of the n memberships of a bucket collides with an id that is not in it: probability n / 2^115 for
//! each check. With 10 million memberships in 256 buckets and a million checks per second that is one in 10^16 years.
//! (With 64 bits: one every three weeks.)

use super::table::TableEntry;
use crate::domain::{OrganizationId, Slug, UserId};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;

/// A 128-bit fingerprint of a text. Two words rather than one `u128`, which would force an alignment of sixteen bytes
/// on every type that contains it. The first word is never zero, so that an `Option` of a fingerprint takes no more
/// space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(NonZeroU64, u64);

impl Fingerprint {
    /// The part, out of this number, to which the fingerprint belongs. It uses bits that are not the leading or
    /// trailing bits of the hash.
    pub(super) fn part(self, parts: usize) -> usize {
        usize::try_from(self.1 >> 32).unwrap_or_default() % parts
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // All bits are equally random: see `PassthroughHasher`.
        state.write_u64(self.0.get());
    }
}

/// The secret key of a process's fingerprints.
#[derive(Clone, Copy)]
pub(super) struct FingerprintKey(SipHasher13);

impl FingerprintKey {
    /// A key from 16 random bytes.
    pub(super) fn new(random: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&random))
    }

    /// The fingerprint of a user in an organization. The owner is recognized by the same fingerprint.
    pub(super) fn member(&self, organization: OrganizationId, user: &str) -> Fingerprint {
        self.of(organization.as_uuid().as_bytes(), user)
    }

    /// The fingerprint of a user.
    pub(super) fn user(&self, user: &UserId) -> Fingerprint {
        self.of(b"u", user.as_str())
    }

    /// The fingerprint of a slug.
    pub(super) fn slug(&self, slug: &Slug) -> Fingerprint {
        self.of(b"s", slug.as_str())
    }

    /// The prefixes differ in length or letter, and no table mixes them.
    fn of(&self, prefix: &[u8], text: &str) -> Fingerprint {
        let mut hasher = self.0;
        hasher.write(prefix);
        hasher.write(text.as_bytes());
        let hash = hasher.finish128();
        Fingerprint(NonZeroU64::new(hash.h1).unwrap_or(NonZeroU64::MIN), hash.h2)
    }
}

/// A role in the twelve bits that a slot has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoleCode(u16);

impl RoleCode {
    /// The number of places for roles of one organization: above the quota of 50.
    pub(super) const ORGANIZATION_ROLES: u16 = 64;
    /// The number of names of the deployment's roles: above the 2 000 roles of one access model.
    pub(super) const DEPLOYMENT_ROLES: u16 = Self::UNKNOWN.0 - Self::ORGANIZATION_ROLES;
    /// A role that the tables do not know.
    pub(super) const UNKNOWN: Self = Self(0xfff);

    /// The role of an organization in this place, which is below [`Self::ORGANIZATION_ROLES`].
    pub(super) fn of_organization(place: u16) -> Self {
        Self(place)
    }

    /// The role of the deployment with this number, which is below [`Self::DEPLOYMENT_ROLES`].
    pub(super) fn of_deployment(number: u16) -> Self {
        Self(Self::ORGANIZATION_ROLES + number)
    }

    /// The place, for a role of the organization.
    pub(super) fn organization_place(self) -> Option<u16> {
        (self.0 < Self::ORGANIZATION_ROLES).then_some(self.0)
    }

    /// The number, for a role of the deployment.
    pub(super) fn deployment_number(self) -> Option<u16> {
        if self == Self::UNKNOWN { None } else { self.0.checked_sub(Self::ORGANIZATION_ROLES) }
    }
}

/// The bits of a slot that hold the role.
const ROLE_BITS: u64 = 0xfff;
/// The bit of a slot that says that a side table has more about the membership. Reserved: it is not set yet.
const SIDE_TABLE_BIT: u64 = ROLE_BITS + 1;
/// The bits of a slot that are not of the fingerprint.
const VALUE_BITS: u64 = ROLE_BITS | SIDE_TABLE_BIT;

/// A membership in sixteen bytes: 115 bits of fingerprint, twelve of role, and one reserved bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(Fingerprint);

impl Slot {
    /// The slot of a member with a role.
    pub(super) fn new(member: Fingerprint, role: RoleCode) -> Self {
        let Fingerprint(first, second) = Self::key_of(member);
        Self(Fingerprint(first, second | u64::from(role.0)))
    }

    /// The table key of a member's slot, independent of the role.
    pub(super) fn key_of(Fingerprint(first, second): Fingerprint) -> Fingerprint {
        Fingerprint(first, second & !VALUE_BITS)
    }

    /// The member's role.
    pub(super) fn role(self) -> RoleCode {
        RoleCode(u16::try_from(self.0.1 & ROLE_BITS).unwrap_or(RoleCode::UNKNOWN.0))
    }
}

impl TableEntry for Slot {
    type Key = Fingerprint;
    // Seven in eight: with four entries per line, nearly every entry is in the line of its hash or in the next.
    const FULL: usize = 28;

    fn key(&self) -> Fingerprint {
        Self::key_of(self.0)
    }

    fn hash(key: Fingerprint) -> u64 {
        key.0.get()
    }
}

/// A hasher for keys that are random already: it returns the key's word unchanged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassthroughHasher(u64);

impl Hasher for PassthroughHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Required by the trait; no key hashes bytes.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Builds the [`PassthroughHasher`] of a map.
pub(super) type PassthroughBuilder = std::hash::BuildHasherDefault<PassthroughHasher>;

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(key: FingerprintKey, organization: u128, user: &str, role: RoleCode) -> Slot {
        let organization = OrganizationId::from_uuid(uuid::Uuid::from_u128(organization));
        Slot::new(key.member(organization, user), role)
    }

    #[test]
    fn a_slot_holds_its_role_and_its_key_ignores_it() {
        let key = FingerprintKey::new([7; 16]);
        let first = RoleCode::of_organization(0);
        let ada = slot(key, 1, "ada", first).key();
        for code in 0..=RoleCode::UNKNOWN.0 {
            let slot = slot(key, 1, "ada", RoleCode(code));
            assert_eq!((slot.role(), slot.key()), (RoleCode(code), ada));
        }
        assert_ne!(ada, slot(key, 2, "ada", first).key());
        assert_ne!(ada, slot(key, 1, "adb", first).key());
        assert_ne!(ada, slot(FingerprintKey::new([8; 16]), 1, "ada", first).key());
    }

    #[test]
    fn every_code_is_of_an_organization_or_of_the_deployment_or_unknown() {
        for place in 0..RoleCode::ORGANIZATION_ROLES {
            let code = RoleCode::of_organization(place);
            assert_eq!((code.organization_place(), code.deployment_number()), (Some(place), None));
        }
        for number in 0..RoleCode::DEPLOYMENT_ROLES {
            let code = RoleCode::of_deployment(number);
            assert_eq!((code.organization_place(), code.deployment_number()), (None, Some(number)));
        }
        let unknown = RoleCode::UNKNOWN;
        assert_eq!((unknown.organization_place(), unknown.deployment_number()), (None, None));
    }
}
