//! Request messages to the inputs of the service: every field is parsed once, here, and the error names every invalid
//! field.

pub(super) mod access_model;
pub(super) mod check;
pub(super) mod event;
pub(super) mod invitation;
pub(super) mod organization;
pub(super) mod permissions;
pub(super) mod role;
pub(super) mod user;

use crate::domain::attributes;
use crate::domain::ids::parse_uuid;
use crate::domain::{Attributes, AuditReason, EmailAddress, Invalid, Kind, Refusal, UserId, Violation};
use crate::grpc::limits;
use crate::service::consistency_token::ConsistencyToken;
use crate::service::members::Person;
use serde_json::{Map, Value};
use uuid::Uuid;

/// Borrows the variant of a generated `oneof` as an enum of [`crate::grpc::decode`]: protobuf makes a type of its own for
/// each message that has the `oneof`.
macro_rules! borrow_oneof {
    ($field:expr, $oneof:path => $target:ident { $($variant:ident),+ }) => {{
        use $oneof as Field;
        $field.as_ref().map(|value| match value {
            $(Field::$variant(text) => $target::$variant(text)),+
        })
    }};
}
use borrow_oneof;

/// The sentence about a batch without items, or with more than `most`.
pub(super) fn item_count(most: usize) -> String {
    let (thousands, rest) = (most / 1000, most % 1000);
    if thousands == 0 { format!("1 to {rest} items") } else { format!("1 to {thousands} {rest:03} items") }
}

/// Reads the fields of one message and collects what is invalid.
#[derive(Debug, Default)]
pub(super) struct FieldReader {
    violations: Vec<Violation>,
    item: Option<usize>,
}

/// At least one field is invalid. The violations are in the [`FieldReader`].
#[derive(Debug)]
pub(super) struct InvalidFields;

impl FieldReader {
    /// Reads the request's `items`, all of them, so that the error names every invalid field. A violation inside an item
    /// is prefixed with the item's index.
    pub(super) fn items<I: IntoIterator, T>(
        &mut self,
        items: I,
        mut read: impl FnMut(&mut Self, I::Item) -> Result<T, InvalidFields>,
    ) -> Result<Vec<T>, InvalidFields> {
        let items = items.into_iter();
        let (mut values, mut outcome) = (Vec::with_capacity(items.size_hint().0), Ok(()));
        for (index, item) in items.enumerate() {
            self.item = Some(index);
            match read(self, item) {
                Ok(value) => values.push(value),
                Err(invalid) => outcome = Err(invalid),
            }
        }
        self.item = None;
        outcome.map(|()| values)
    }

    /// Adds a violation. The first twenty are kept.
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

    /// Takes a text that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, InvalidFields> {
        if text.is_empty() { Ok(None) } else { self.take(field, parse(text)).map(Some) }
    }

    /// Takes attributes; absent attributes are empty.
    pub(super) fn attributes(
        &mut self,
        field: &str,
        attributes: Option<&prost_types::Struct>,
    ) -> Result<Attributes, InvalidFields> {
        self.take(field, parse_attributes(attributes))
    }

    /// Takes a user to add or to make the owner, by id or by e-mail address.
    pub(super) fn person(&mut self, reference: Option<UserReference<'_>>) -> Result<Person, InvalidFields> {
        match reference {
            Some(UserReference::UserId(id)) => self.take("user_id", UserId::parse_new(id)).map(Person::Id),
            Some(UserReference::Email(email)) => self.take("email", EmailAddress::parse(email)).map(Person::Email),
            None => Err(self.wrong("user_id", Invalid::new("name the user: user_id or email"))),
        }
    }

    /// Takes the states of a filter, at most `most` of them, each one of `allowed`. Left out: `default`.
    pub(super) fn states<S: Copy>(
        &mut self,
        numbers: &[i32],
        default: S,
        allowed: &[S],
        most: usize,
        number_and_name: impl Fn(S) -> (i32, &'static str),
    ) -> Result<Vec<S>, InvalidFields> {
        if numbers.is_empty() {
            return Ok(vec![default]);
        }
        if numbers.len() > most {
            return Err(self.wrong("states", Invalid::new(format!("at most {most} states"))));
        }
        let states = numbers.iter().map(|number| {
            allowed.iter().copied().find(|state| number_and_name(*state).0 == *number).ok_or_else(|| {
                let names: Vec<_> = allowed.iter().map(|state| number_and_name(*state).1).collect();
                Invalid::new(format!("each state is one of {}", names.join(", ")))
            })
        });
        self.take("states", states.collect())
    }

    /// Takes the kind of a filter.
    pub(super) fn kind(&mut self, text: &str) -> Result<Option<Kind>, InvalidFields> {
        self.optional("kind", text, Kind::parse)
    }

    /// Takes the cursor from which to watch; `None` watches from now.
    pub(super) fn cursor(&mut self, text: &str) -> Result<Option<ConsistencyToken>, InvalidFields> {
        self.optional("cursor", text, |text| {
            ConsistencyToken::decode(text)
                .map_err(|_| Invalid::new("not a cursor: give back that of a checkpoint or an export"))
        })
    }

    /// Takes the reason and the request id of a write.
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

    /// Takes the field mask of an update: for each of `known`, whether the update changes it. Without a mask the fields
    /// that are `filled` change (AIP-134).
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

    /// Finishes: the parsed input, or a refusal with every violation.
    pub(super) fn finish<T>(self, parsed: Result<T, InvalidFields>) -> Result<T, Refusal> {
        match parsed {
            Ok(input) if self.violations.is_empty() => Ok(input),
            Ok(_) | Err(InvalidFields) => Err(Refusal::InvalidRequest(self.violations)),
        }
    }
}

/// A user as a request names them.
#[derive(Debug, Clone, Copy)]
pub(super) enum UserReference<'m> {
    /// By the user's id.
    UserId(&'m str),
    /// By e-mail address.
    Email(&'m str),
}

/// Converts a `Struct` to attributes.
fn parse_attributes(attributes: Option<&prost_types::Struct>) -> Result<Attributes, Invalid> {
    let Some(attributes) = attributes else { return Ok(Attributes::default()) };
    let mut object = Map::new();
    for (key, value) in &attributes.fields {
        object.insert(key.clone(), json(value)?);
    }
    Attributes::new(object)
}

/// Converts a value. The recursion is bounded: the protobuf decoder refuses messages that nest deeper than 100 levels.
fn json(value: &prost_types::Value) -> Result<Value, Invalid> {
    use prost_types::value::Kind;
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::NumberValue(number)) => {
            let number = attributes::number(*number);
            Value::Number(number.ok_or_else(|| Invalid::new("attributes hold no NaN and no infinity"))?)
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
