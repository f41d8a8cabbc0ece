//! The rules of a model. Every violation is found at once, with its place in the document.

use super::parts::{ModelParts, PermissionParts, RoleParts};
use super::{AccessModel, DeclaredPermission, DeclaredRole, Description, Title, WordSet, built_in, limits};
use crate::domain::permission_name::{has_reserved_segment, is_label};
use crate::domain::{Invalid, Kind, Permission, PermissionName, RoleName, Violation};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{Arguments, Display};

impl AccessModel {
    /// Checks a document and makes a model of it.
    ///
    /// # Errors
    /// The violations in the order of the document, at most [`limits::VIOLATIONS`]. The field of each begins with
    /// `parent`, as `model.roles[3].permissions[2]` for the parent `model`; an empty parent stands for the document
    /// itself.
    pub fn parse(parts: &ModelParts, parent: &str) -> Result<Self, Vec<Violation>> {
        let mut reader = ModelReader { parent, violations: Vec::new() };
        let delegable = reader.delegable(&parts.delegable);
        let permissions = reader.permissions(&parts.permissions);
        let declared: HashSet<&str> = parts.permissions.iter().map(|permission| permission.name.as_str()).collect();
        let roles = reader.roles(&parts.roles, &declared);
        reader.check_counts(parts, &roles);
        let model = Self::new(permissions, roles, delegable);
        reader.check_built_in(parts, &model);
        if reader.violations.is_empty() && json_bytes(&model) > limits::MODEL_BYTES {
            reader.wrong(
                format_args!(""),
                Invalid::new("the model has at most 960 KiB as JSON: shorten descriptions, or let roles hold less"),
            );
        }
        if reader.violations.is_empty() { Ok(model) } else { Err(reader.violations) }
    }
}

/// Reads the parts of one document and collects its violations.
struct ModelReader<'a> {
    parent: &'a str,
    violations: Vec<Violation>,
}

impl ModelReader<'_> {
    fn wrong(&mut self, place: Arguments<'_>, invalid: Invalid) {
        if self.violations.len() < limits::VIOLATIONS {
            let place = place.to_string();
            let dot = if self.parent.is_empty() || place.is_empty() { "" } else { "." };
            self.violations.push(Violation { field: format!("{}{dot}{place}", self.parent), sentence: invalid.0 });
        }
    }

    fn take<T>(&mut self, place: Arguments<'_>, parsed: Result<T, Invalid>) -> Option<T> {
        parsed.map_err(|invalid| self.wrong(place, invalid)).ok()
    }

    fn delegable(&mut self, words: &[String]) -> WordSet {
        let mut set = WordSet::new();
        for (index, word) in words.iter().enumerate() {
            let checked = delegable_word(word).and_then(|()| insert(&mut set, word));
            self.take(format_args!("delegable[{index}]"), checked);
        }
        set
    }

    fn permissions(&mut self, parts: &[PermissionParts]) -> Vec<DeclaredPermission> {
        let mut permissions = Vec::with_capacity(parts.len());
        let mut places = Places::default();
        for (index, part) in parts.iter().enumerate() {
            let name = permission_name(&part.name).and_then(|name| places.add("permissions", &part.name, index, name));
            let name = self.take(format_args!("permissions[{index}].name"), name);
            let title = self.take(format_args!("permissions[{index}].title"), Title::parse(&part.title));
            let description = Description::parse(&part.description);
            let description = self.take(format_args!("permissions[{index}].description"), description);
            if let (Some(name), Some(title), Some(description)) = (name, title, description) {
                permissions.push(DeclaredPermission { name, title, description });
            }
        }
        permissions
    }

    /// The roles. `declared` are the names of the application's permissions, invalid ones too: they are violations once.
    fn roles(&mut self, parts: &[RoleParts], declared: &HashSet<&str>) -> Vec<DeclaredRole> {
        let mut roles = Vec::with_capacity(parts.len());
        let mut places = Places::default();
        for (index, part) in parts.iter().enumerate() {
            let name = role_name(&part.name).and_then(|name| places.add("roles", &part.name, index, name));
            let name = self.take(format_args!("roles[{index}].name"), name);
            let kind = self.take(format_args!("roles[{index}].kind"), kind(part));
            let title = self.take(format_args!("roles[{index}].title"), Title::parse(&part.title));
            let description = Description::parse(&part.description);
            let description = self.take(format_args!("roles[{index}].description"), description);
            let mut permissions = WordSet::new();
            for (at, word) in part.permissions.iter().enumerate() {
                let checked = held_word(word, declared).and_then(|()| insert(&mut permissions, word));
                self.take(format_args!("roles[{index}].permissions[{at}]"), checked);
            }
            if let (Some(name), Some(kind), Some(title), Some(description)) = (name, kind, title, description) {
                roles.push(DeclaredRole { name, kind, title, description, permissions });
            }
        }
        roles
    }

    fn check_counts(&mut self, parts: &ModelParts, roles: &[DeclaredRole]) {
        let count = parts.permissions.len();
        if count > limits::PERMISSIONS {
            let sentence = format!("a model declares at most 1 000 permissions, and this one {count}: remove some");
            self.wrong(format_args!("permissions"), Invalid(sentence));
        }
        let count = parts.roles.iter().filter(|role| !built_in::is_built_in(&role.name)).count();
        if count > limits::ROLES {
            let sentence =
                format!("a model has at most 2 000 roles beside admin and member, and this one {count}: remove some");
            self.wrong(format_args!("roles"), Invalid(sentence));
        }
        let mut of_kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let mut of_all = 0;
        for role in roles.iter().filter(|role| !built_in::is_built_in(role.name.as_str())) {
            match &role.kind {
                Some(kind) => *of_kinds.entry(kind.as_str()).or_default() += 1,
                None => of_all += 1,
            }
        }
        if of_all > limits::ROLES_OF_A_KIND {
            let sentence = format!("at most 100 roles are for all kinds, and these are {of_all}: remove some");
            self.wrong(format_args!("roles"), Invalid(sentence));
            return;
        }
        for (kind, count) in of_kinds.into_iter().filter(|(_, count)| of_all + count > limits::ROLES_OF_A_KIND) {
            let sentence = format!(
                "at most 100 roles are for one kind, and the kind {kind} has {count} and the {of_all} for all kinds: \
                 remove some"
            );
            self.wrong(format_args!("roles"), Invalid(sentence));
        }
    }

    /// Checks that `admin` includes `member`, unless one of them has another violation.
    fn check_built_in(&mut self, parts: &ModelParts, model: &AccessModel) {
        let (admin_name, member_name) = (RoleName::ADMIN, RoleName::MEMBER);
        let place = |name: &RoleName| parts.roles.iter().position(|role| role.name == name.as_str());
        let (admin, member) = (place(&admin_name), place(&member_name));
        let Some(index) = admin.or(member) else { return };
        let has_violation = [admin, member].into_iter().flatten().any(|index| {
            let prefix = format!("roles[{index}].");
            self.violations.iter().any(|violation| violation.field.contains(&prefix))
        });
        let (Some(admin), Some(member)) = (model.words_of(admin_name.as_str()), model.words_of(member_name.as_str()))
        else {
            return;
        };
        let lacks: Vec<&str> = member.difference(&admin).map(|word| &**word).collect();
        if !has_violation && !lacks.is_empty() {
            let sentence = format!(
                "admin must hold every permission that member holds, and lacks {}: add them to admin, or remove them \
                 from member",
                enumeration(&lacks)
            );
            self.wrong(format_args!("roles[{index}].permissions"), Invalid(sentence));
        }
    }
}

/// The place at which each name stands first.
#[derive(Default)]
struct Places<'a>(HashMap<&'a str, usize>);

impl<'a> Places<'a> {
    fn add<T>(&mut self, list: &str, name: &'a str, index: usize, parsed: T) -> Result<T, Invalid> {
        if let Some(first) = self.0.get(name) {
            return Err(Invalid(format!("{list}[{first}] has the same name: rename or remove one of them")));
        }
        self.0.insert(name, index);
        Ok(parsed)
    }
}

fn permission_name(text: &str) -> Result<PermissionName, Invalid> {
    if built_in::is_reserved(text) {
        return Err(Invalid::new("this is a permission of roster and always exists: remove it from this list"));
    }
    PermissionName::parse(text)
}

fn role_name(text: &str) -> Result<RoleName, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("a role has a name: write one, such as accountant"));
    }
    if text == RoleName::OWNER.as_str() {
        return Err(Invalid::new("the owner always holds every permission: remove this role"));
    }
    if text.starts_with("org:") {
        return Err(Invalid::new("names that begin with org: belong to the roles of organizations: remove the prefix"));
    }
    if !is_label(text) || text.len() > RoleName::MAX_LENGTH {
        return Err(Invalid::new("the name of a role is 1 to 64 of a-z, 0-9, _ and -, and begins with a letter"));
    }
    RoleName::parse(text)
}

fn kind(role: &RoleParts) -> Result<Option<Kind>, Invalid> {
    if role.kind.is_empty() {
        return Ok(None);
    }
    if built_in::is_built_in(&role.name) {
        return Err(Invalid::new("admin and member exist for all kinds: leave the kind out"));
    }
    Kind::parse(&role.kind).map(Some)
}

/// Checks a permission that a role holds.
fn held_word(word: &str, declared: &HashSet<&str>) -> Result<(), Invalid> {
    if built_in::is_reserved(word) || (declared.contains(word) && !word.is_empty()) {
        return Ok(());
    }
    if has_reserved_segment(word) {
        return Err(no_such_permission());
    }
    Err(Invalid::new("the model does not declare this permission: add it to the list `permissions`, or remove it here"))
}

/// Checks a permission that the roles of organizations may hold.
fn delegable_word(word: &str) -> Result<(), Invalid> {
    if built_in::is_reserved(word) {
        Ok(())
    } else if has_reserved_segment(word) {
        Err(no_such_permission())
    } else {
        Err(Invalid::new(
            "this list is for roster's own permissions; roles of organizations may hold those of the application anyway: \
             remove it",
        ))
    }
}

fn no_such_permission() -> Invalid {
    let words: Vec<&str> = built_in::reserved().map(Permission::as_str).collect();
    Invalid(format!("roster has no such permission: its own are {}", words.join(", ")))
}

fn insert(set: &mut WordSet, word: &str) -> Result<(), Invalid> {
    if set.insert(word.into()) {
        Ok(())
    } else {
        Err(Invalid::new("the list contains this permission twice: remove one of them"))
    }
}

/// The words in a sentence: the first ones and the number of the others.
pub(super) fn enumeration(words: &[impl AsRef<str> + Display]) -> String {
    let (first, others) = words.split_at(words.len().min(limits::WORDS_IN_A_SENTENCE));
    let first = first.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if others.is_empty() { first } else { format!("{first} and {} more", others.len()) }
}

/// The size of a model as compact JSON, in bytes.
fn json_bytes(model: &AccessModel) -> usize {
    serde_json::to_vec(&ModelParts::from(model)).map_or(usize::MAX, |json| json.len())
}
