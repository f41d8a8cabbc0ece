//! Attributes: a small JSON object that a deployment stores with an organization or a membership.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object of at most 8 KiB as compact JSON and 8 levels, without NUL characters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Attributes(Map<String, Value>);

impl Attributes {
    /// Checks an object.
    ///
    /// # Errors
    /// If the object is too large or too deep, or contains a NUL character, which Postgres cannot store.
    pub fn new(object: Map<String, Value>) -> Result<Self, Invalid> {
        let value = Value::Object(object);
        check(&value, 1)?;
        if value.to_string().len() > limits::ATTRIBUTES_BYTES {
            return Err(Invalid::new("attributes have at most 8 KiB as compact JSON"));
        }
        match value {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(Invalid::new("attributes are a JSON object")),
        }
    }

    /// The attributes as a JSON object.
    #[must_use]
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The object as a JSON value, as it is stored.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

fn check(value: &Value, depth: usize) -> Result<(), Invalid> {
    if depth > limits::ATTRIBUTES_DEPTH {
        return Err(Invalid::new("attributes nest at most 8 levels"));
    }
    let no_nul = |text: &str| {
        if text.contains('\0') { Err(Invalid::new("attributes hold no NUL characters")) } else { Ok(()) }
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) => no_nul(text),
        Value::Array(items) => items.iter().try_for_each(|item| check(item, depth + 1)),
        Value::Object(object) => object.iter().try_for_each(|(key, item)| {
            no_nul(key)?;
            check(item, depth + 1)
        }),
    }
}
