//! The claims of a token, as far as the settings of its issuer read them.
//!
//! A claim that occurs twice makes the token invalid if it is read; all other claims are skipped without being stored.
//! So a token takes a few times its own size while it is read, whatever it contains.

use super::credential_error::CredentialError;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;
use std::fmt;

/// The members of an object, in the order of their names. A hostile token may have thousands of objects, so each takes as
/// little as possible.
pub(super) struct Object(Vec<(String, ClaimValue)>);

/// The value of a claim. An object in it has each member once.
pub(super) enum ClaimValue {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Self>),
    Object(Object),
}

/// The claims that were asked for. Nothing in them is verified.
pub(super) struct Claims(Object);

impl Claims {
    /// Reads the claims with these names, or whose names begin a path among these, from a JSON object.
    ///
    /// # Errors
    /// [`CredentialError::InvalidClaims`] if this is no JSON object, or if one of the claims occurs twice.
    pub(super) fn parse(json: &[u8], names: &[String]) -> Result<Self, CredentialError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let claims = deserializer.deserialize_map(ClaimsVisitor(names)).map_err(|_| CredentialError::InvalidClaims)?;
        deserializer.end().map_err(|_| CredentialError::InvalidClaims)?;
        Ok(Self(claims))
    }

    /// Finds a claim; `None` if the token does not have it.
    ///
    /// A claim with exactly this name comes first. Otherwise the dots separate the members of objects, as in
    /// `realm_access.roles`. The longest name of a member that begins the path is the one that counts, so a member may
    /// have dots in its name.
    ///
    /// # Errors
    /// [`CredentialError::InvalidClaims`] if the path leads into a value that is no object.
    pub(super) fn find(&self, name: &str) -> Result<Option<&ClaimValue>, CredentialError> {
        find(&self.0, name)
    }

    /// Returns the first of these claims that the token has, as a text.
    ///
    /// # Errors
    /// [`CredentialError::InvalidClaims`] if it is no text.
    pub(super) fn text(&self, names: &[String]) -> Result<Option<&str>, CredentialError> {
        self.first(names)?.map(|value| value.as_text().ok_or(CredentialError::InvalidClaims)).transpose()
    }

    /// Returns a claim that is a number; `None` if the token does not have it.
    ///
    /// # Errors
    /// [`CredentialError::InvalidClaims`] if it is no number.
    pub(super) fn number(&self, name: &str) -> Result<Option<&Number>, CredentialError> {
        match self.find(name)? {
            None => Ok(None),
            Some(ClaimValue::Number(number)) => Ok(Some(number)),
            Some(_) => Err(CredentialError::InvalidClaims),
        }
    }

    /// Returns the first of these claims that the token has.
    pub(super) fn first(&self, names: &[String]) -> Result<Option<&ClaimValue>, CredentialError> {
        for name in names {
            if let Some(value) = self.find(name)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

impl Object {
    /// Returns an object with these members; `None` if two have the same name.
    fn new(mut members: Vec<(String, ClaimValue)>) -> Option<Self> {
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        members.is_sorted_by(|(one, _), (other, _)| one < other).then_some(Self(members))
    }

    fn get(&self, name: &str) -> Option<&ClaimValue> {
        let place = self.0.binary_search_by(|(member, _)| member.as_str().cmp(name)).ok()?;
        Some(&self.0[place].1)
    }
}

fn find<'a>(object: &'a Object, name: &str) -> Result<Option<&'a ClaimValue>, CredentialError> {
    if let Some(value) = object.get(name) {
        return Ok(Some(value));
    }
    for (dot, _) in name.rmatch_indices('.') {
        match object.get(&name[..dot]) {
            None => {}
            Some(ClaimValue::Object(members)) => return find(members, &name[dot + 1..]),
            Some(_) => return Err(CredentialError::InvalidClaims),
        }
    }
    Ok(None)
}

/// Whether a claim with this name is asked for, or begins a path that is.
fn is_read(key: &str, names: &[String]) -> bool {
    names.iter().any(|name| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

impl ClaimValue {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    /// Returns the text, or the texts of a list; `None` for everything else.
    pub(super) fn as_texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Text(text) => Some(vec![text]),
            Self::List(values) => values.iter().map(Self::as_text).collect(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Object(_) => None,
        }
    }

    /// Adds the names of scopes or roles in this value: the words of a text, and the names of the members of an object.
    /// A list may hold both. `None` for everything else.
    pub(super) fn add_words<'a>(&'a self, words: &mut Vec<&'a str>) -> Option<()> {
        match self {
            Self::Text(text) => words.extend(text.split_ascii_whitespace()),
            Self::Object(members) => words.extend(members.0.iter().map(|(name, _)| name.as_str())),
            Self::List(values) => {
                for value in values {
                    match value {
                        Self::Text(_) | Self::Object(_) => value.add_words(words)?,
                        Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) => return None,
                    }
                }
            }
            Self::Null | Self::Bool(_) | Self::Number(_) => return None,
        }
        Some(())
    }

    /// Returns a Boolean, which may be a text: some providers send `"true"`, and Entra `"1"`. `None` for everything else.
    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Text(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            Self::Null | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    /// Returns whether this is `null`, or a blank text.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Null) || self.as_text().is_some_and(|text| text.trim().is_empty())
    }
}

/// Reads the claims that are asked for.
struct ClaimsVisitor<'n>(&'n [String]);

impl<'de> Visitor<'de> for ClaimsVisitor<'_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut claims = Vec::new();
        while let Some(key) = map.next_key_seed(ReadName(self.0))? {
            match key {
                Some(key) => claims.push((key, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Object::new(claims).ok_or_else(|| A::Error::custom("repeated"))
    }
}

/// Reads the name of a claim; `None` if the claim is not asked for.
struct ReadName<'n>(&'n [String]);

impl<'de> DeserializeSeed<'de> for ReadName<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ReadName<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(is_read(name, self.0).then(|| name.to_owned()))
    }
}

impl<'de> Deserialize<'de> for ClaimValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = ClaimValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<ClaimValue, E> {
        Number::from_f64(value).map(ClaimValue::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ClaimValue, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(ClaimValue::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClaimValue, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Object::new(members).map(ClaimValue::Object).ok_or_else(|| A::Error::custom("repeated"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, names: &[&str]) -> Result<Claims, CredentialError> {
        Claims::parse(json.as_bytes(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    /// The words of the claim; `None` if the token does not have it, or `Err` if it is invalid.
    fn words(json: &str, name: &str) -> Result<Option<Vec<String>>, CredentialError> {
        let claims = parse(json, &[name])?;
        let Some(value) = claims.find(name)? else { return Ok(None) };
        let mut words = Vec::new();
        value.add_words(&mut words).ok_or(CredentialError::InvalidClaims)?;
        Ok(Some(words.into_iter().map(str::to_owned).collect()))
    }

    #[test]
    fn a_name_is_a_claim_and_otherwise_a_path() {
        for (json, name, expected) in [
            (r#"{"scope":"a  b\tc"}"#, "scope", Some(&["a", "b", "c"][..])),
            (r#"{"scp":["a b","c",""]}"#, "scp", Some(&["a", "b", "c"])),
            (r#"{"scope":""}"#, "scope", Some(&[])),
            (r#"{"realm_access":{"roles":["a"]}}"#, "realm_access.roles", Some(&["a"])),
            (r#"{"realm_access":{"roles":["a"]},"realm_access.roles":"b"}"#, "realm_access.roles", Some(&["b"])),
            // The dots of a URL, and of the id of a client, are no path.
            (r#"{"https://x.example/roles":"a"}"#, "https://x.example/roles", Some(&["a"])),
            (
                r#"{"a":{"my.client":{"roles":["x"]},"my":{"client":{"roles":["y"]}}}}"#,
                "a.my.client.roles",
                Some(&["x"]),
            ),
            (r#"{"a":{"my":{"client":{"roles":["y"]}}}}"#, "a.my.client.roles", Some(&["y"])),
            (r#"{"urn:roles":{"a":{"1":"x.example"},"b":{}}}"#, "urn:roles", Some(&["a", "b"])),
            (r#"{"urn:roles":[{"a":{"1":"x.example"}},"b"]}"#, "urn:roles", Some(&["a", "b"])),
            (r#"{"realm_access":{}}"#, "realm_access.roles", None),
            (r#"{"realm_access":{"roles":["a"]}}"#, "realm_access.role", None),
            (r#"{"scopes":"a"}"#, "scope", None),
            (r#"{"":"a"}"#, "scope", None),
            (r#"{"":{"a":"b"}}"#, ".a", Some(&["b"])),
        ] {
            let found = words(json, name).unwrap();
            assert_eq!(
                found.as_deref(),
                expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{json} {name}"
            );
        }
    }

    #[test]
    fn a_claim_that_is_read_occurs_once_and_has_a_type_that_fits() {
        let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for (json, name) in [
            (r#"{"a":"x","a":"x"}"#, "a"),
            (r#"{"a":{"b":"x"},"a":{"c":"x"}}"#, "a.b"),
            (r#"{"a":"x","\u0061":"x"}"#, "a"),
            (r#"{"a":{"b":"x","\u0062":"y"}}"#, "a.b"),
            (r#"{"a":{"b":"x","b":"y"}}"#, "a.b"),
            (r#"{"a":{"b":"x","c":{"d":1,"d":2}}}"#, "a.b"),
            (r#"{"a":7}"#, "a"),
            (r#"{"a":null}"#, "a"),
            (r#"{"a":["x",null]}"#, "a"),
            (r#"{"a":["x",["y"]]}"#, "a"),
            (r#"{"a":"x"}"#, "a.b"),
            (r#"{"a":{"b":[]}}"#, "a.b.c"),
            (&nested, "a"),
            (r#"["a"]"#, "a"),
            (r#"{"a":"x"} {}"#, "a"),
            (r#"{"a":"x""#, "a"),
            ("", "a"),
        ] {
            assert_eq!(words(json, name), Err(CredentialError::InvalidClaims), "{json}");
        }
        // Nothing is said about the others.
        assert_eq!(words(r#"{"b":1,"b":{"c":1,"c":2},"a":"x","a2":1,"a2":2}"#, "a").unwrap().unwrap(), ["x"]);
        let many = format!(r#"{{"a":["{}"]}}"#, vec!["r"; 8000].join("\",\""));
        assert_eq!(words(&many, "a").unwrap().unwrap().len(), 8000);
    }
}
