//! The side table of a bucket: the roles that its organizations define for themselves.
//!
//! Organizations are often set up alike, so their roles have few different names and permissions. The table stores each of
//! them once. A role takes twelve bytes, and its first role adds the 48 bytes of an organization's entry. A name or a set of
//! permissions that no other role of the bucket has adds about 100 bytes and its own text or words.

use super::fingerprint::RoleCode;
use crate::domain::role::RoleView;
use crate::domain::{OrganizationId, PermissionSet, RoleName, RoleTable};
use std::collections::HashMap;
use std::hash::Hash;

/// A value that the table stores once.
trait SharedValue: Clone + Eq + Hash {
    /// The memory behind the value, in bytes.
    fn shared_bytes(&self) -> usize;
}

impl SharedValue for RoleName {
    fn shared_bytes(&self) -> usize {
        self.as_str().len() + 2 * size_of::<usize>()
    }
}

/// What a role holds; `None` if this program does not know one of its words.
impl SharedValue for Option<PermissionSet> {
    fn shared_bytes(&self) -> usize {
        self.as_ref().map_or(0, PermissionSet::shared_bytes)
    }
}

/// Values by number, each with the number of its uses.
struct Interner<T> {
    numbers: HashMap<T, u32>,
    /// `None` for a free number.
    values: Vec<Option<(T, u32)>>,
    free: Vec<u32>,
    /// The memory behind the values.
    shared_bytes: usize,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), free: Vec::new(), shared_bytes: 0 }
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<T: SharedValue> Interner<T> {
    /// The number of a value, which gets one more use.
    fn take(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            if let Some(Some((_, uses))) = self.values.get_mut(index(*number)) {
                *uses += 1;
            }
            return *number;
        }
        self.shared_bytes += value.shared_bytes();
        let entry = Some((value.clone(), 1));
        let number = if let Some(number) = self.free.pop() {
            self.values[index(number)] = entry;
            number
        } else {
            self.values.push(entry);
            u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
        };
        self.numbers.insert(value, number);
        number
    }

    /// Ends one use of a value. The last one removes it.
    fn give_back(&mut self, number: u32) {
        let Some(entry) = self.values.get_mut(index(number)) else { return };
        let Some((_, uses)) = entry else { return };
        *uses -= 1;
        if *uses == 0
            && let Some((value, _)) = entry.take()
        {
            self.shared_bytes -= value.shared_bytes();
            self.numbers.remove(&value);
            self.free.push(number);
        }
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.values.get(index(number))?.as_ref().map(|(value, _)| value)
    }

    fn bytes(&self) -> usize {
        map_bytes::<T, u32>(self.numbers.capacity())
            + self.values.capacity() * size_of::<Option<(T, u32)>>()
            + self.free.capacity() * size_of::<u32>()
            + self.shared_bytes
    }
}

/// The memory of a hash table of the standard library, in bytes: a power of two of slots, of which seven in eight may be
/// used, each with one control byte.
fn map_bytes<K, V>(capacity: usize) -> usize {
    (capacity * 8 / 7) * (size_of::<(K, V)>() + 1)
}

/// A role of an organization, by the numbers of its name and of what it holds.
#[derive(Clone, Copy)]
enum PlacedRole {
    /// A role that members can get.
    Defined { name: u32, permissions: u32 },
    /// A role whose members move to another one: `by` is the number of its name.
    Replaced { name: u32, by: u32 },
}

impl PlacedRole {
    fn name(self) -> u32 {
        match self {
            Self::Defined { name, .. } | Self::Replaced { name, .. } => name,
        }
    }
}

/// The roles of the organizations of one bucket.
#[derive(Default)]
pub(super) struct RoleSideTable {
    /// The roles of each organization by their places, which its slots name. `None` for a free place.
    organizations: HashMap<OrganizationId, Vec<Option<PlacedRole>>>,
    /// The number of places in all organizations.
    places: usize,
    names: Interner<RoleName>,
    permissions: Interner<Option<PermissionSet>>,
}

impl RoleSideTable {
    /// Adds or changes a role. Does nothing if the organization has a role in every place: then the role is unknown here.
    pub(super) fn put(&mut self, organization: OrganizationId, name: &RoleName, permissions: Option<PermissionSet>) {
        let Some(place) = self.reserve(organization, name) else { return };
        let (name, permissions) = (self.names.take(name.clone()), self.permissions.take(permissions));
        self.set(organization, place, PlacedRole::Defined { name, permissions });
    }

    /// Adds or changes a role whose members move to another one, as [`Self::put`] does.
    pub(super) fn put_replaced(&mut self, organization: OrganizationId, name: &RoleName, by: &RoleName) {
        let Some(place) = self.reserve(organization, name) else { return };
        let (name, by) = (self.names.take(name.clone()), self.names.take(by.clone()));
        self.set(organization, place, PlacedRole::Replaced { name, by });
    }

    /// The place of a role: its own, or a free one. `None` if the organization has a role in every place.
    fn reserve(&mut self, organization: OrganizationId, name: &RoleName) -> Option<usize> {
        let place = self.place(organization, name.as_str());
        let places = self.organizations.entry(organization).or_default();
        let place = place.or_else(|| places.iter().position(Option::is_none));
        let place = place.unwrap_or(places.len());
        if place >= usize::from(RoleCode::ORGANIZATION_ROLES) {
            return None;
        }
        if place == places.len() {
            places.reserve_exact(1);
            places.push(None);
            self.places += 1;
        }
        Some(place)
    }

    /// Sets the role in a place that the organization has.
    fn set(&mut self, organization: OrganizationId, place: usize, role: PlacedRole) {
        let places = self.organizations.get_mut(&organization);
        if let Some(old) = places.and_then(|places| places.get_mut(place)?.replace(role)) {
            self.give_back(old);
        }
    }

    /// Ends the uses of the values of a role.
    fn give_back(&mut self, role: PlacedRole) {
        self.names.give_back(role.name());
        match role {
            PlacedRole::Defined { permissions, .. } => self.permissions.give_back(permissions),
            PlacedRole::Replaced { by, .. } => self.names.give_back(by),
        }
    }

    /// Removes a role. No member holds it once the transaction of the removal is applied.
    pub(super) fn remove(&mut self, organization: OrganizationId, name: &RoleName) {
        let Some(place) = self.place(organization, name.as_str()) else { return };
        let Some(places) = self.organizations.get_mut(&organization) else { return };
        let old = places[place].take();
        let is_last = places.iter().all(Option::is_none);
        if let Some(old) = old {
            self.give_back(old);
        }
        if is_last {
            self.remove_all(organization);
        }
    }

    /// Removes the roles of an organization.
    pub(super) fn remove_all(&mut self, organization: OrganizationId) {
        let Some(places) = self.organizations.remove(&organization) else { return };
        self.places -= places.len();
        for old in places.into_iter().flatten() {
            self.give_back(old);
        }
        if self.organizations.capacity() > 4 * self.organizations.len() {
            self.organizations.shrink_to_fit();
        }
    }

    fn place(&self, organization: OrganizationId, name: &str) -> Option<usize> {
        let is_named = |entry: &Option<PlacedRole>| {
            entry.is_some_and(|entry| self.names.get(entry.name()).is_some_and(|own| own.as_str() == name))
        };
        self.organizations.get(&organization)?.iter().position(is_named)
    }

    /// The code of a role of the organization; [`RoleCode::UNKNOWN`] if it is not here.
    pub(super) fn code(&self, organization: OrganizationId, name: &str) -> RoleCode {
        let place = self.place(organization, name).and_then(|place| u16::try_from(place).ok());
        place.map_or(RoleCode::UNKNOWN, RoleCode::of_organization)
    }

    /// The role in a place, or the role that replaces it. The roles of the deployment hold what the table says.
    pub(super) fn get<'t>(
        &'t self,
        organization: OrganizationId,
        place: u16,
        deployment: &'t RoleTable,
    ) -> Option<RoleView<'t>> {
        match self.entry(organization, usize::from(place))? {
            PlacedRole::Defined { name, permissions } => self.defined(name, permissions),
            PlacedRole::Replaced { by, .. } => {
                let name = self.names.get(by)?;
                if !name.is_of_organization() {
                    return Some(RoleView { name, permissions: deployment.permissions(name) });
                }
                match self.entry(organization, self.place(organization, name.as_str())?)? {
                    PlacedRole::Defined { name, permissions } => self.defined(name, permissions),
                    // A replacement is never replaced itself.
                    PlacedRole::Replaced { .. } => None,
                }
            }
        }
    }

    fn entry(&self, organization: OrganizationId, place: usize) -> Option<PlacedRole> {
        *self.organizations.get(&organization)?.get(place)?
    }

    fn defined(&self, name: u32, permissions: u32) -> Option<RoleView<'_>> {
        Some(RoleView { name: self.names.get(name)?, permissions: self.permissions.get(permissions)?.as_ref() })
    }

    /// The role with this name, or the role that replaces it, as [`Self::get`].
    pub(super) fn find<'t>(
        &'t self,
        organization: OrganizationId,
        name: &RoleName,
        deployment: &'t RoleTable,
    ) -> Option<RoleView<'t>> {
        let place = self.place(organization, name.as_str())?;
        self.get(organization, u16::try_from(place).ok()?, deployment)
    }

    /// The memory of the table, in bytes.
    pub(super) fn bytes(&self) -> usize {
        map_bytes::<OrganizationId, Vec<Option<PlacedRole>>>(self.organizations.capacity())
            + self.places * size_of::<Option<PlacedRole>>()
            + self.names.bytes()
            + self.permissions.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Permission;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NAMES: [&str; 3] = ["org:auditor", "org:clerk", "org:intern"];

    fn id(number: u128) -> OrganizationId {
        OrganizationId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn name(index: usize) -> RoleName {
        RoleName::from_stored(NAMES[index])
    }

    fn set(number: usize) -> Option<PermissionSet> {
        (number > 0).then(|| Permission::RESERVED.iter().copied().take(number).collect())
    }

    proptest! {
        #[test]
        fn the_side_table_behaves_like_a_map(
            steps in prop::collection::vec((0..4_u128, 0..NAMES.len(), prop::option::of(0..4_usize)), 1..80),
        ) {
            let (mut table, mut map) = (RoleSideTable::default(), BTreeMap::new());
            let deployment = RoleTable::built_in();
            for (number, index, permissions) in steps {
                let code = table.code(id(number), NAMES[index]);
                if let Some(permissions) = permissions {
                    table.put(id(number), &name(index), set(permissions));
                    let before = map.insert((number, index), permissions);
                    // A change keeps the place, which slots name.
                    prop_assert!(before.is_none() || table.code(id(number), NAMES[index]) == code);
                } else {
                    table.remove(id(number), &name(index));
                    map.remove(&(number, index));
                }
                for (number, index) in (0..4).flat_map(|number| (0..NAMES.len()).map(move |index| (number, index))) {
                    let permissions = map.get(&(number, index)).copied();
                    let role = table.find(id(number), &name(index), &deployment);
                    prop_assert_eq!(role.map(|role| role.permissions.cloned()), permissions.map(set));
                    let place = table.code(id(number), NAMES[index]).organization_place();
                    prop_assert_eq!(place.and_then(|place| table.get(id(number), place, &deployment)), role);
                }
            }
            for number in 0..4 {
                table.remove_all(id(number));
            }
            prop_assert_eq!((table.places, table.names.numbers.len(), table.permissions.numbers.len()), (0, 0, 0));
            prop_assert_eq!((table.names.shared_bytes, table.permissions.shared_bytes), (0, 0));
        }
    }

    #[test]
    fn a_replaced_role_is_the_other_one_and_gives_its_memory_back() {
        let (mut table, deployment) = (RoleSideTable::default(), RoleTable::built_in());
        let [auditor, clerk, _] = [0, 1, 2].map(name);
        table.put(id(1), &auditor, set(1));
        table.put(id(1), &clerk, set(2));
        let code = table.code(id(1), auditor.as_str());
        let held = |table: &RoleSideTable| table.find(id(1), &auditor, &deployment).map(RoleView::to_role);
        table.put_replaced(id(1), &auditor, &clerk);
        assert_eq!(held(&table).unwrap(), crate::domain::Role { name: clerk.clone(), permissions: set(2) });
        assert_eq!(table.code(id(1), auditor.as_str()), code);
        table.put(id(1), &clerk, set(3));
        assert_eq!(held(&table).unwrap().permissions, set(3));
        table.put_replaced(id(1), &auditor, &RoleName::ADMIN);
        assert_eq!(held(&table).unwrap(), crate::domain::Role::ADMIN);
        // The other role is not here: the role is unknown.
        table.put_replaced(id(1), &auditor, &name(2));
        assert_eq!(held(&table), None);
        assert_eq!(table.names.numbers.len(), 3);
        table.remove_all(id(1));
        assert_eq!((table.names.shared_bytes, table.permissions.shared_bytes), (0, 0));
    }

    #[test]
    fn a_role_without_a_place_is_unknown() {
        let mut table = RoleSideTable::default();
        let name = |index: u16| RoleName::from_stored(&format!("org:role-{index}"));
        for index in 0..=RoleCode::ORGANIZATION_ROLES {
            table.put(id(1), &name(index), set(1));
        }
        let last = name(RoleCode::ORGANIZATION_ROLES);
        let found = table.find(id(1), &last, &RoleTable::built_in()).is_some();
        assert_eq!((table.code(id(1), last.as_str()), found), (RoleCode::UNKNOWN, false));
        table.remove(id(1), &name(7));
        table.put(id(1), &last, set(2));
        assert_eq!(table.code(id(1), last.as_str()), RoleCode::of_organization(7));
    }

    #[test]
    fn equal_roles_of_many_organizations_share_memory() {
        let mut table = RoleSideTable::default();
        for number in 0..400 {
            for index in 0..50 {
                table.put(id(number), &RoleName::from_stored(&format!("org:role-{index}")), set(index % 8));
            }
        }
        let bytes = table.bytes() / (400 * 50);
        assert!((12..16).contains(&bytes), "{bytes} bytes for each role");
    }
}
