//! The numbers by which slots name the roles of the deployment.

use super::fingerprint::RoleCode;
use crate::domain::RoleName;
use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

/// The roles that always exist. The lookup of their numbers takes no lock.
const BUILT_IN: [RoleName; 2] = [RoleName::MEMBER, RoleName::ADMIN];

/// The names of the deployment's roles, by their numbers in slots. It only grows, so a reader of a slot takes no lock.
///
/// A model has at most 2 000 roles. When the table is full, after many renamed roles, a further name has no number: its
/// slots count as unknown until the process starts again.
pub(super) struct RoleNames {
    names: Box<[OnceLock<RoleName>]>,
    numbers: RwLock<HashMap<Box<str>, u16>>,
}

impl RoleNames {
    pub(super) fn new() -> Self {
        let names: Box<[OnceLock<RoleName>]> = (0..RoleCode::DEPLOYMENT_ROLES).map(|_| OnceLock::new()).collect();
        for (entry, name) in names.iter().zip(BUILT_IN) {
            let _ = entry.set(name);
        }
        Self { names, numbers: RwLock::default() }
    }

    /// The code of a role of the deployment. Adds a name that is not in the table. [`RoleCode::UNKNOWN`] if it is full.
    pub(super) fn code(&self, name: &str) -> RoleCode {
        let built_in = (0..).zip(&BUILT_IN).find(|(_, built_in)| built_in.as_str() == name);
        let number = built_in.map(|(number, _)| number).or_else(|| self.number(name)).or_else(|| self.add(name));
        number.map_or(RoleCode::UNKNOWN, RoleCode::of_deployment)
    }

    fn number(&self, name: &str) -> Option<u16> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn add(&self, name: &str) -> Option<u16> {
        let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(name) {
            return Some(*number);
        }
        let number = BUILT_IN.len() + numbers.len();
        self.names.get(number)?.set(RoleName::from_stored(name)).ok()?;
        let number = u16::try_from(number).ok()?;
        numbers.insert(name.into(), number);
        Some(number)
    }

    /// The name with a number that [`Self::code`] has given.
    pub(super) fn name(&self, number: u16) -> Option<&RoleName> {
        self.names.get(usize::from(number))?.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_code_and_a_full_table_adds_none() {
        let names = RoleNames::new();
        let name = |index: u16| format!("role-{index}");
        let room = RoleCode::DEPLOYMENT_ROLES - 2;
        let codes: Vec<RoleCode> = (0..room).map(|index| names.code(&name(index))).collect();
        assert_eq!(names.code("late"), RoleCode::UNKNOWN);
        for (index, code) in (0..room).zip(codes) {
            assert_eq!(names.code(&name(index)), code);
            let number = code.deployment_number().unwrap();
            assert_eq!(names.name(number).map(RoleName::as_str), Some(&*name(index)));
        }
        for built_in in BUILT_IN {
            let number = names.code(built_in.as_str()).deployment_number().unwrap();
            assert_eq!(names.name(number), Some(&built_in));
        }
    }
}
