//! Attributes: a small JSON object that a deployment stores with an organization or a membership.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use serde_json::{Map, Number, Serializer, Value};
use std::io;

/// A JSON object of at most 8 KiB as compact JSON and 8 levels, without NUL characters.
///
/// The size is that of the text that Postgres prints for the stored object, without the spaces between the parts:
/// Postgres prints every digit of a number, so `1e308` has 309 bytes. Objects that former releases stored may be larger.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Attributes(Map<String, Value>);

/// Numbers are compared by value: former releases stored 7 as `7.0`.
impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        is_equal_object(&self.0, &other.0)
    }
}

impl Attributes {
    /// Checks an object.
    ///
    /// # Errors
    /// If the object is too large or too deep, or contains a NUL character, which Postgres cannot store.
    pub fn new(object: Map<String, Value>) -> Result<Self, Invalid> {
        let value = Value::Object(object);
        check(&value, 1)?;
        let mut size = SizeLimit { left: limits::ATTRIBUTES_BYTES };
        if value.serialize(&mut Serializer::with_formatter(&mut size, StoredFormat)).is_err() {
            return Err(Invalid::new("attributes have at most 8 KiB as compact JSON with all digits of each number"));
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

/// A number of attributes; `None` for NaN and infinities. A whole number is an integer, so that Postgres stores 7
/// instead of `7.0`.
#[must_use]
pub fn number(number: f64) -> Option<Number> {
    let float = Number::from_f64(number)?;
    // `Display` prints all digits of a number, and a fraction only if there is one. Zero has no sign.
    let text = if number == 0.0 { "0".to_owned() } else { number.to_string() };
    let integer = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    Some(integer.unwrap_or(float))
}

fn is_equal_object(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    one.len() == other.len() && one.iter().all(|(key, item)| other.get(key).is_some_and(|other| is_equal(item, other)))
}

fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => is_equal_object(one, other),
        _ => one == other,
    }
}

/// Compact JSON with the numbers as Postgres prints them: every digit, no exponent.
struct StoredFormat;

impl Formatter for StoredFormat {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write!(writer, "{value}")
    }
}

/// Counts the bytes that are written, and fails once they exceed a limit.
struct SizeLimit {
    left: usize,
}

impl io::Write for SizeLimit {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
