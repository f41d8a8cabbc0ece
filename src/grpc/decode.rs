//! From messages to what the use cases take: everything is parsed once, here, and all that is wrong is said at once.

use super::pb;
use crate::domain::check::Question;
use crate::domain::ids::parse_uuid;
use crate::domain::{
    Attributes, AuditReason, EmailAddress, Invalid, Kind, OrganizationRef, OrganizationState, Permission, Refusal,
    Role, UserId, Violation,
};
use crate::grpc::limits;
use crate::service::consistency_token::ConsistencyToken;
use crate::service::members::Person;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

/// What is wrong with a message, gathered while its fields are read.
#[derive(Debug, Default)]
pub(super) struct FieldReader {
    violations: Vec<Violation>,
    item: Option<usize>,
}

/// The fields have been looked at, and something is wrong. The violations stand in the [`FieldReader`].
#[derive(Debug)]
pub(super) struct InvalidFields;

impl FieldReader {
    /// Reads the request's `items`: all of them, so that all that is wrong is said. What is wrong in one is named by its
    /// index; what is read afterwards is none of theirs.
    pub(super) fn items<I, T>(
        &mut self,
        items: &[I],
        mut read: impl FnMut(&mut Self, &I) -> Result<T, InvalidFields>,
    ) -> Result<Vec<T>, InvalidFields> {
        let mut all = Vec::with_capacity(items.len());
        for (replica, item) in items.iter().enumerate() {
            self.item = Some(replica);
            all.push(read(self, item));
        }
        self.item = None;
        all.into_iter().collect()
    }

    /// Says that a field is wrong. The first twenty are kept.
    pub(super) fn wrong(&mut self, field: &str, invalid: Invalid) -> InvalidFields {
        if self.violations.len() < limits::VIOLATIONS {
            let field = self.item.map_or_else(|| field.to_owned(), |replica| format!("items[{replica}].{field}"));
            self.violations.push(Violation { field, sentence: invalid.0 });
        }
        InvalidFields
    }

    /// Takes a parsed field.
    pub(super) fn take<T>(&mut self, field: &str, parsed: Result<T, Invalid>) -> Result<T, InvalidFields> {
        parsed.map_err(|invalid| self.wrong(field, invalid))
    }

    /// Takes a text that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, InvalidFields> {
        if text.is_empty() { Ok(None) } else { self.take(field, parse(text)).map(Some) }
    }

    /// Takes attributes; left out, they are empty.
    pub(super) fn attributes(
        &mut self,
        field: &str,
        given: Option<&prost_types::Struct>,
    ) -> Result<Attributes, InvalidFields> {
        self.take(field, attributes(given))
    }

    /// Takes a user, named by id or by address.
    pub(super) fn person(&mut self, named: Option<UserReference<'_>>) -> Result<Person, InvalidFields> {
        match named {
            Some(UserReference::UserId(id)) => self.take("user_id", UserId::parse(id)).map(Person::Id),
            Some(UserReference::Email(email)) => self.take("email", EmailAddress::parse(email)).map(Person::Email),
            None => Err(self.wrong("user_id", Invalid::new("name the user: user_id or email"))),
        }
    }

    /// Takes the states of a filter: `allowed` are the ones that it knows; left out, it is ACTIVE.
    pub(super) fn states(
        &mut self,
        given: &[i32],
        allowed: &[OrganizationState],
    ) -> Result<Vec<OrganizationState>, InvalidFields> {
        if given.is_empty() {
            return Ok(vec![OrganizationState::Active]);
        }
        if given.len() > OrganizationState::ALL.len() {
            return Err(self.wrong("states", Invalid::new("at most 4 states")));
        }
        let known = given.iter().map(|state| {
            state_from(*state).filter(|state| allowed.contains(state)).ok_or_else(|| {
                let names: Vec<_> = allowed.iter().map(|state| state.as_str()).collect();
                Invalid::new(format!("each state is one of {}", names.join(", ")))
            })
        });
        self.take("states", known.collect())
    }

    /// Takes a kind that a filter asks for.
    pub(super) fn kind(&mut self, text: &str) -> Result<Option<Kind>, InvalidFields> {
        self.optional("kind", text, Kind::parse)
    }

    /// Takes the place from which to watch; none for now.
    pub(super) fn cursor(&mut self, text: &str) -> Result<Option<ConsistencyToken>, InvalidFields> {
        self.optional("cursor", text, |text| {
            ConsistencyToken::decode(text)
                .map_err(|_| Invalid::new("not a cursor: give back that of a checkpoint or an export"))
        })
    }

    /// Takes what every write carries.
    pub(super) fn write(
        &mut self,
        reason: &str,
        request_id: &str,
    ) -> Result<(Option<AuditReason>, Option<Uuid>), InvalidFields> {
        let reason = self.optional("reason", reason, AuditReason::parse);
        let request_id = self.optional("request_id", request_id, |text| {
            parse_uuid(text).ok_or_else(|| Invalid::new("a UUID in its form of 36 characters"))
        });
        Ok((reason?, request_id?))
    }

    /// Takes the field mask of an update: which of `known` are to be changed. Left out, those that `filled` says are not
    /// empty (AIP-134).
    pub(super) fn mask<const N: usize>(
        &mut self,
        mask: Option<&prost_types::FieldMask>,
        known: [&str; N],
        filled: [bool; N],
    ) -> Result<[bool; N], InvalidFields> {
        let paths = mask.map_or(&[][..], |mask| &mask.paths[..]);
        if paths.is_empty() {
            return Ok(filled);
        }
        if paths.iter().any(|path| path == "*") {
            return Ok([true; N]);
        }
        if paths.iter().any(|path| !known.contains(&path.as_str())) {
            let sentence = format!("each path is one of {}, or *", known.join(", "));
            return Err(self.wrong("update_mask", Invalid(sentence)));
        }
        Ok(known.map(|field| paths.iter().any(|path| path == field)))
    }

    /// Takes the questions of a check.
    pub(super) fn check(
        &mut self,
        organization: &str,
        user_id: &str,
        question: Option<QuestionText<'_>>,
    ) -> Result<crate::service::checks::Check, InvalidFields> {
        let organization = self.take("organization", OrganizationRef::parse(organization));
        let user = self.take("user_id", UserId::parse(user_id));
        let question = match question {
            None => Ok(Question::Member),
            Some(QuestionText::Role(role)) => self.take("role", Role::parse(role)).map(Question::Role),
            Some(QuestionText::Permission(word)) => {
                let known = Permission::parse(word).ok_or_else(|| Invalid::new("no such permission"));
                self.take("permission", known).map(Question::Permission)
            }
        };
        Ok(crate::service::checks::Check { organization: organization?, user: user?, question: question? })
    }

    /// Ends the reading: what was read, or everything that is wrong.
    pub(super) fn finish<T>(self, read: Result<T, InvalidFields>) -> Result<T, Refusal> {
        match read {
            Ok(read) if self.violations.is_empty() => Ok(read),
            Ok(_) | Err(InvalidFields) => Err(Refusal::InvalidRequest(self.violations)),
        }
    }
}

/// How a request names a user.
#[derive(Debug, Clone, Copy)]
pub(super) enum UserReference<'m> {
    /// By id.
    UserId(&'m str),
    /// By address.
    Email(&'m str),
}

/// What a check asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum QuestionText<'m> {
    /// At least this role.
    Role(&'m str),
    /// This permission.
    Permission(&'m str),
}

fn state_from(number: i32) -> Option<OrganizationState> {
    match pb::OrganizationState::try_from(number).ok()? {
        pb::OrganizationState::Unspecified => None,
        pb::OrganizationState::Pending => Some(OrganizationState::Pending),
        pb::OrganizationState::Active => Some(OrganizationState::Active),
        pb::OrganizationState::Inactive => Some(OrganizationState::Inactive),
        pb::OrganizationState::Deleted => Some(OrganizationState::Deleted),
    }
}

/// Reads a `Struct` as attributes.
pub(super) fn attributes(given: Option<&prost_types::Struct>) -> Result<Attributes, Invalid> {
    let Some(given) = given else { return Ok(Attributes::default()) };
    let mut object = Map::new();
    for (key, value) in &given.fields {
        object.insert(key.clone(), json(value)?);
    }
    Attributes::new(object)
}

/// The decoder of protobuf has bounded the depth already: messages nest at most a hundred levels.
fn json(value: &prost_types::Value) -> Result<Value, Invalid> {
    use prost_types::value::Kind;
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::NumberValue(number)) => {
            let number =
                Number::from_f64(*number).ok_or_else(|| Invalid::new("attributes hold no NaN and no infinity"))?;
            Value::Number(number)
        }
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json).collect::<Result<_, _>>()?),
        Some(Kind::StructValue(object)) => {
            let mut map = Map::new();
            for (key, value) in &object.fields {
                map.insert(key.clone(), json(value)?);
            }
            Value::Object(map)
        }
    })
}
