//! Sets of permissions.

use super::Permission;
use std::sync::Arc;

/// A set of permissions, one bit for each. Cheap to clone, whatever its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PermissionSet {
    /// Roster's own permissions: bit n is the permission with the number n.
    reserved: u64,
    application: ApplicationSet,
}

/// The permissions of the application in a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ApplicationSet {
    None,
    /// Bit n of word w is the permission with the number 64 × (w + 1) + n. The last word is not zero.
    Words(Arc<[u64]>),
    /// Every permission, also those that are declared later.
    Every,
}

const BITS: usize = u64::BITS as usize;

impl PermissionSet {
    /// The empty set.
    pub const NONE: Self = Self { reserved: 0, application: ApplicationSet::None };

    /// The set of all permissions, also of those that are declared later. It is the set of the owner and of operators.
    pub const EVERYTHING: Self = Self { reserved: u64::MAX, application: ApplicationSet::Every };

    /// The set of these permissions of roster's own.
    ///
    /// # Panics
    /// If one of them is a permission of the application. The constants of this program are evaluated by the compiler.
    #[must_use]
    pub const fn of(reserved: &[Permission]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < reserved.len() {
            bits |= 1_u64 << reserved[index].number();
            index += 1;
        }
        Self { reserved: bits, application: ApplicationSet::None }
    }

    /// The union of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let application = match (&self.application, &other.application) {
            (ApplicationSet::Every, _) | (_, ApplicationSet::Every) => ApplicationSet::Every,
            (ApplicationSet::None, some) | (some, ApplicationSet::None) => some.clone(),
            (ApplicationSet::Words(first), ApplicationSet::Words(second)) => {
                let (long, short) = if first.len() < second.len() { (second, first) } else { (first, second) };
                let words = long.iter().enumerate().map(|(index, word)| word | short.get(index).unwrap_or(&0));
                ApplicationSet::Words(words.collect())
            }
        };
        Self { reserved: self.reserved | other.reserved, application }
    }

    /// The permissions that both sets contain.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let application = match (&self.application, &other.application) {
            (ApplicationSet::Every, some) | (some, ApplicationSet::Every) => some.clone(),
            (ApplicationSet::None, _) | (_, ApplicationSet::None) => ApplicationSet::None,
            (ApplicationSet::Words(first), ApplicationSet::Words(second)) => {
                let mut words: Vec<u64> = first.iter().zip(second.iter()).map(|(one, other)| one & other).collect();
                words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
                if words.is_empty() { ApplicationSet::None } else { ApplicationSet::Words(words.into()) }
            }
        };
        Self { reserved: self.reserved & other.reserved, application }
    }

    /// Whether the set contains this permission.
    #[must_use]
    pub fn contains(&self, permission: Permission) -> bool {
        let number = usize::from(permission.number());
        match (number.checked_sub(BITS), &self.application) {
            (None, _) => self.reserved & (1 << number) != 0,
            (Some(_), ApplicationSet::None) => false,
            (Some(_), ApplicationSet::Every) => true,
            (Some(bit), ApplicationSet::Words(words)) => {
                words.get(bit / BITS).is_some_and(|word| word & (1 << (bit % BITS)) != 0)
            }
        }
    }

    /// Whether the set contains every permission of the other set.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.reserved & other.reserved == other.reserved
            && match (&self.application, &other.application) {
                (ApplicationSet::Every, _) | (_, ApplicationSet::None) => true,
                (ApplicationSet::None | ApplicationSet::Words(_), ApplicationSet::Every)
                | (ApplicationSet::None, ApplicationSet::Words(_)) => false,
                (ApplicationSet::Words(own), ApplicationSet::Words(others)) => {
                    others.iter().enumerate().all(|(index, word)| word & !own.get(index).unwrap_or(&0) == 0)
                }
            }
    }

    /// Whether the set is [`Self::EVERYTHING`].
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::EVERYTHING
    }

    /// The permissions of the set, in the order of their numbers. Of [`Self::EVERYTHING`], roster's own.
    pub fn iter(&self) -> impl Iterator<Item = Permission> {
        let words = match &self.application {
            ApplicationSet::Words(words) => &words[..],
            ApplicationSet::None | ApplicationSet::Every => &[],
        };
        let reserved = Permission::RESERVED.iter().copied().filter(|permission| self.contains(*permission));
        let numbers = (Permission::RESERVED_NUMBERS..).zip(0..words.len() * BITS);
        let application = numbers.filter(|(_, bit)| words[bit / BITS] & (1 << (bit % BITS)) != 0);
        reserved.chain(application.map(|(number, _)| Permission::from_number(number)))
    }

    /// The memory behind the set, in bytes; sets that were cloned from one share it.
    #[must_use]
    pub fn shared_bytes(&self) -> usize {
        match &self.application {
            ApplicationSet::Words(words) => size_of_val(&words[..]) + 2 * size_of::<usize>(),
            ApplicationSet::None | ApplicationSet::Every => 0,
        }
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let (mut reserved, mut words) = (0, Vec::new());
        for permission in permissions {
            let number = usize::from(permission.number());
            match number.checked_sub(BITS) {
                None => reserved |= 1 << number,
                Some(bit) => {
                    if words.len() <= bit / BITS {
                        words.resize(bit / BITS + 1, 0_u64);
                    }
                    words[bit / BITS] |= 1 << (bit % BITS);
                }
            }
        }
        let application = if words.is_empty() { ApplicationSet::None } else { ApplicationSet::Words(words.into()) };
        Self { reserved, application }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(numbers: &BTreeSet<u16>) -> PermissionSet {
        numbers.iter().copied().map(Permission::from_number).collect()
    }

    fn numbers() -> impl Strategy<Value = BTreeSet<u16>> {
        let number = prop_oneof![0..u16::try_from(Permission::RESERVED.len()).unwrap(), 60..70_u16, 120..400_u16];
        let number = number.prop_filter("no permission", |number| {
            usize::from(*number) < Permission::RESERVED.len() || *number >= Permission::RESERVED_NUMBERS
        });
        prop::collection::btree_set(number, 0..20)
    }

    proptest! {
        #[test]
        fn a_set_of_permissions_behaves_like_a_set_of_numbers(first in numbers(), second in numbers()) {
            let (a, b) = (set(&first), set(&second));
            prop_assert_eq!(a.iter().map(Permission::number).collect::<BTreeSet<_>>(), first.clone());
            prop_assert_eq!(a.includes(&b), first.is_superset(&second));
            prop_assert_eq!(a == b, first == second);
            let union: BTreeSet<u16> = first.union(&second).copied().collect();
            prop_assert_eq!(a.union(&b), set(&union));
            let both: BTreeSet<u16> = first.intersection(&second).copied().collect();
            prop_assert_eq!(a.intersection(&b), set(&both));
            prop_assert_eq!(a.intersection(&PermissionSet::EVERYTHING), a.clone());
            prop_assert_eq!(PermissionSet::NONE.intersection(&a), PermissionSet::NONE);
            prop_assert!(union.iter().all(|number| a.union(&b).contains(Permission::from_number(*number))));
            prop_assert!(PermissionSet::EVERYTHING.includes(&a) && a.includes(&PermissionSet::NONE));
            prop_assert!(!a.includes(&PermissionSet::EVERYTHING));
            prop_assert!(a.union(&PermissionSet::EVERYTHING).is_everything());
        }
    }

    #[test]
    fn everything_contains_a_permission_that_is_declared_later() {
        let later = Permission::declare("billing.test-later").unwrap();
        assert!(PermissionSet::EVERYTHING.contains(later));
        assert!(!PermissionSet::NONE.contains(later));
        assert!(PermissionSet::EVERYTHING.iter().eq(Permission::RESERVED.iter().copied()));
    }
}
