//! The tables of the settings file: each value is checked alone, so that every mistake is found.

use crate::domain::nearest::nearest;
use serde::de::DeserializeOwned;
use std::fmt;
use toml::{Table, Value};

/// The place of a value in a table.
#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, ".{key}"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// What is wrong with one value.
pub(super) struct ValueMistake {
    /// The place below the table, as `.keys[0].file`.
    pub(super) place: String,
    /// What is wrong, as a sentence without a subject. It does not repeat the value.
    pub(super) sentence: String,
    /// Whether the key exists, so that a later mistake about the same key would only follow from this one.
    pub(super) is_known: bool,
}

/// Reads a table, without the values that are mistakes. `Err` if a key is missing without which nothing else can be
/// said: its name.
///
/// The mistakes are found by trial: every value alone, in an otherwise empty table, must be one that `T` reads. So `T`
/// may require a key, and its keys may not exclude each other.
pub(super) fn parse<T: DeserializeOwned>(table: Table, mistakes: &mut Vec<ValueMistake>) -> Result<T, Option<String>> {
    let table = without_mistakes::<T>(&mut Vec::new(), Value::Table(table), mistakes);
    let table = table.unwrap_or(Value::Table(Table::new()));
    table.try_into().map_err(|error: toml::de::Error| missing_field(error.message()).map(str::to_owned))
}

/// The value without the parts that are mistakes; `None` if it is a mistake itself.
fn without_mistakes<T: DeserializeOwned>(
    path: &mut Vec<Step>,
    value: Value,
    mistakes: &mut Vec<ValueMistake>,
) -> Option<Value> {
    // Of a list and of a table first only the kind.
    let bare = match &value {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Table(_) => Value::Table(Table::new()),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.clone()
        }
    };
    if let Err(error) = alone(path, bare).try_into::<T>()
        && missing_field(error.message()).is_none()
    {
        mistakes.push(mistake(path, error.message()));
        return None;
    }
    let mut part = |step: Step, value: Value| {
        path.push(step);
        let part = without_mistakes::<T>(path, value, mistakes);
        path.pop();
        part
    };
    Some(match value {
        Value::Array(values) => {
            let values = values.into_iter().enumerate();
            Value::Array(values.filter_map(|(index, value)| part(Step::Index(index), value)).collect())
        }
        Value::Table(table) => {
            let values = table.into_iter();
            Value::Table(values.filter_map(|(key, value)| Some((key.clone(), part(Step::Key(key), value)?))).collect())
        }
        single => single,
    })
}

/// A document that holds only this value, at this place.
fn alone(path: &[Step], value: Value) -> Value {
    path.iter().rfold(value, |value, step| match step {
        Step::Key(key) => Value::Table(Table::from_iter([(key.clone(), value)])),
        Step::Index(_) => Value::Array(vec![value]),
    })
}

fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

fn mistake(path: &[Step], message: &str) -> ValueMistake {
    let place = path.iter().map(Step::to_string).collect();
    let (problem, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    if problem.starts_with("unknown field ") {
        let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let key = path.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        let sentence = no_such_key(key.unwrap_or_default(), &names);
        return ValueMistake { place, sentence, is_known: false };
    }
    let sentence = if expected.is_empty() { message.to_owned() } else { format!("write {}", form(expected)) };
    ValueMistake { place, sentence, is_known: true }
}

/// The sentence about a key that does not exist, beside these.
pub(super) fn no_such_key(key: &str, names: &[&str]) -> String {
    format!("no such setting; the nearest is {}; there are {}", nearest(key, names.iter().copied()), names.join(", "))
}

/// What the library expects, in words of the settings file.
fn form(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" | "string only" => "a text in quotation marks".to_owned(),
        "a sequence" => "a list in square brackets".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number that is not negative".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.replace('`', ""),
    }
}
