//! The document as a file that people keep in version control, in TOML or JSON. Both have the same shape.

use super::{AccessModel, ModelParts};
use crate::domain::Violation;
use crate::domain::limits::PERMISSION_NAME_CHARACTERS;
use crate::domain::nearest::nearest;
use serde_json::Value;
use std::path::Path;

/// The language of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// TOML, with `[[permissions]]` and `[[roles]]`.
    Toml,
    /// JSON, with lists of objects.
    Json,
}

/// Why a file is no access model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelFileError {
    /// The text is not of the format.
    #[error("{0}")]
    Syntax(String),
    /// Parts of the document are wrong. Each place is below the document and names the items on the way, as
    /// `roles[3].permissions[2] ("accountant", "billing.reed")`.
    #[error("{}", lines(.0))]
    Violations(Vec<Violation>),
}

impl FileFormat {
    /// The format of a file with this name: TOML for `.toml`, otherwise JSON.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        if is_toml { Self::Toml } else { Self::Json }
    }

    /// The format of a text without a name. Only JSON begins with a brace.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Toml }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If the text is not of this format, or has an unknown key or a value of another type: all of these. Otherwise the
    /// violations of the rules of a model, all of them.
    pub fn parse(self, text: &str) -> Result<AccessModel, ModelFileError> {
        let document: Value = self.read(text)?;
        let mut violations = Vec::new();
        check(&mut violations, "", &document, &MODEL);
        let parsed = if violations.is_empty() {
            // A key that stands twice in a JSON object is an error here, and not in a `Value`.
            AccessModel::parse(&self.read::<ModelParts>(text)?, "")
        } else {
            Err(violations)
        };
        parsed.map_err(|mut violations| {
            for violation in &mut violations {
                violation.field += &names(&document, &violation.field);
            }
            ModelFileError::Violations(violations)
        })
    }

    /// Prints a model in its canonical form, with a line break at the end. Equal models have equal texts.
    #[must_use]
    pub fn print(self, model: &AccessModel) -> String {
        let parts = ModelParts::from(model);
        let text = match self {
            // No text lacks a form in TOML, and none in JSON.
            Self::Toml => toml::to_string_pretty(&parts).unwrap_or_default(),
            Self::Json => serde_json::to_string_pretty(&parts).unwrap_or_default(),
        };
        format!("{}\n", text.trim_end())
    }

    fn read<T: serde::de::DeserializeOwned>(self, text: &str) -> Result<T, ModelFileError> {
        let error = match self {
            Self::Toml => match toml::from_str(text) {
                Ok(read) => return Ok(read),
                Err(error) => error.to_string(),
            },
            Self::Json => match serde_json::from_str(text) {
                Ok(read) => return Ok(read),
                Err(error) => error.to_string(),
            },
        };
        let language = if self == Self::Toml { "TOML" } else { "JSON" };
        Err(ModelFileError::Syntax(format!("not valid {language}: {}", error.trim_end())))
    }
}

/// The form of a value.
enum Form {
    Text,
    Texts,
    /// An object with these keys.
    Object(&'static [(&'static str, Form)]),
    /// A list of objects with these keys.
    Objects(&'static [(&'static str, Form)]),
}

const MODEL: Form = Form::Object(&[
    ("delegable", Form::Texts),
    ("permissions", Form::Objects(&[("name", Form::Text), ("title", Form::Text), ("description", Form::Text)])),
    (
        "roles",
        Form::Objects(&[
            ("name", Form::Text),
            ("kind", Form::Text),
            ("title", Form::Text),
            ("description", Form::Text),
            ("permissions", Form::Texts),
        ]),
    ),
]);

/// Adds every part of a value that does not have its form.
fn check(violations: &mut Vec<Violation>, place: &str, value: &Value, form: &Form) {
    match (form, value) {
        (Form::Text, Value::String(_)) => {}
        (Form::Texts, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check(violations, &format!("{place}[{index}]"), item, &Form::Text);
            }
        }
        (Form::Objects(keys), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check(violations, &format!("{place}[{index}]"), item, &Form::Object(keys));
            }
        }
        (Form::Object(keys), Value::Object(object)) => {
            let prefix = if place.is_empty() { String::new() } else { format!("{place}.") };
            for (key, value) in object {
                let place = format!("{prefix}{key}");
                if let Some((_, form)) = keys.iter().find(|(known, _)| known == key) {
                    check(violations, &place, value, form);
                } else {
                    let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
                    let near = nearest(key, names.iter().copied());
                    let names = names.join(", ");
                    let sentence = format!("no such key; the nearest is {near}; there are {names}");
                    violations.push(Violation { field: place, sentence });
                }
            }
        }
        (Form::Text | Form::Texts | Form::Object(_) | Form::Objects(_), _) => {
            let sentence = match form {
                Form::Text => "write a text in quotation marks",
                Form::Texts => "write a list of texts in square brackets",
                Form::Object(_) => "write an object, in TOML a table",
                Form::Objects(_) => "write a list of objects, in TOML tables with the name in [[ ]]",
            };
            violations.push(Violation { field: place.to_owned(), sentence: sentence.to_owned() });
        }
    }
}

/// The names of the list items on the way to a place, because an index alone is hard to find in a long file.
fn names(document: &Value, place: &str) -> String {
    let mut names = Vec::new();
    let mut value = Some(document);
    for step in place.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        let Ok(index) = step.parse::<usize>() else {
            value = value.and_then(|value| value.get(step));
            continue;
        };
        value = value.and_then(|value| value.get(index));
        let name = value.and_then(|item| item.get("name").unwrap_or(item).as_str());
        names.extend(name.filter(|name| !name.is_empty()).map(|name| {
            let start: String = name.chars().take(PERMISSION_NAME_CHARACTERS).collect();
            Value::String(start).to_string()
        }));
    }
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// One line for each violation.
fn lines(violations: &[Violation]) -> String {
    let line = |Violation { field, sentence }: &Violation| {
        if field.is_empty() { sentence.clone() } else { format!("{field}: {sentence}") }
    };
    violations.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use FileFormat::{Json, Toml};

    const TOML: &str = r#"delegable = ["members.add"]

[[permissions]]
name = "billing.read"
title = "Read bills"

[[roles]]
name = "accountant"
kind = "vendor"
title = "Accountant"
permissions = [
    "billing.read",
    "members.list",
]

[[roles]]
name = "guest"
permissions = []
"#;

    const JSON: &str = r#"{
  "delegable": [
    "members.add"
  ],
  "permissions": [
    {
      "name": "billing.read",
      "title": "Read bills"
    }
  ],
  "roles": [
    {
      "name": "accountant",
      "kind": "vendor",
      "title": "Accountant",
      "permissions": [
        "billing.read",
        "members.list"
      ]
    },
    {
      "name": "guest",
      "permissions": []
    }
  ]
}
"#;

    #[test]
    fn both_formats_have_one_shape_and_a_canonical_text() {
        let model = Toml.parse(TOML).unwrap();
        assert_eq!(Json.parse(JSON).unwrap(), model);
        assert_eq!((Toml.print(&model).as_str(), Json.print(&model).as_str()), (TOML, JSON));
        for (text, format) in [("", Toml), ("\n", Toml), ("{}", Json), (" \n{ }\n", Json)] {
            assert_eq!((FileFormat::of_text(text), format.parse(text)), (format, Ok(AccessModel::default())));
        }
        for (path, format) in [("a.toml", Toml), ("a.TOML", Toml), ("a.json", Json), ("toml", Json), ("a", Json)] {
            assert_eq!(FileFormat::of_path(Path::new(path)), format, "{path}");
        }
    }

    #[test]
    fn every_unknown_key_and_wrong_type_is_named() {
        let toml = "rolls = []\ndelegable = ['a', 1]\npermissions = 'x'\n[[roles]]\nname = 5\nkinds = 'a'\n\
                    permissions = 'members.add'\n[roles.title]\na = 1";
        let json = r#"{"rolls": [], "delegable": ["a", 1], "permissions": "x",
            "roles": [{"name": 5, "kinds": "a", "permissions": "members.add", "title": {"a": 1}}]}"#;
        let expected = [
            "delegable[1]: write a text in quotation marks",
            "permissions: write a list of objects, in TOML tables with the name in [[ ]]",
            "roles[0].kinds: no such key; the nearest is kind; there are name, kind, title, description, permissions",
            "roles[0].name: write a text in quotation marks",
            "roles[0].permissions: write a list of texts in square brackets",
            "roles[0].title: write a text in quotation marks",
            "rolls: no such key; the nearest is roles; there are delegable, permissions, roles",
        ];
        for (format, text) in [(Toml, toml), (Json, json)] {
            let error = format.parse(text).unwrap_err().to_string();
            let mut lines: Vec<&str> = error.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, expected);
        }
        for (format, text, expected) in [
            (Json, "[]", "write an object, in TOML a table"),
            (Json, r#"{"roles": [null]}"#, "roles[0]: write an object, in TOML a table"),
            (Json, r#"{"roles": null}"#, "roles: write a list of objects, in TOML tables with the name in [[ ]]"),
            (Toml, "delegable = [1979-05-27]", "delegable[0]: write a text in quotation marks"),
        ] {
            assert_eq!(format.parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_text_of_another_language_is_no_model() {
        for (format, text, part) in [
            (Json, TOML, "not valid JSON: "),
            (Json, "", "not valid JSON: "),
            (Json, r#"{"roles": [], "roles": []}"#, "not valid JSON: duplicate field `roles` at line 1 column 21"),
            (Json, r#"{"roles": [{"name": "a", "name": "b"}]}"#, "duplicate field `name`"),
            (Json, "{} {}", "trailing characters"),
            (Toml, JSON, "not valid TOML: "),
            (Toml, "roles = []\nroles = []", "line 2"),
        ] {
            let error = format.parse(text).unwrap_err();
            assert!(matches!(&error, ModelFileError::Syntax(sentence) if sentence.contains(part)), "{text}: {error}");
        }
        let deep = format!("{}{}", r#"{"roles":["#, "[".repeat(100_000));
        assert!(matches!(Json.parse(&deep), Err(ModelFileError::Syntax(_))));
        let deep = format!("roles = {}", "[".repeat(100_000));
        assert!(matches!(Toml.parse(&deep), Err(ModelFileError::Syntax(_))));
    }

    #[test]
    fn a_violation_of_the_rules_has_its_place_in_the_file() {
        let toml = "delegable = ['x.y']\n[[roles]]\nname = 'a'\npermissions = ['members.add', 'x.y', '']\n[[roles]]\n\
                    name = \"\\u001b[31m\"\n[[roles]]\ntitle = \"\\u0007\"";
        let error = Toml.parse(toml).unwrap_err().to_string();
        let places: Vec<&str> =
            error.lines().filter_map(|line| line.split_once(": ")).map(|(place, _)| place).collect();
        assert_eq!(
            places,
            [
                r#"delegable[0] ("x.y")"#,
                r#"roles[0].permissions[1] ("a", "x.y")"#,
                r#"roles[0].permissions[2] ("a")"#,
                r#"roles[1].name ("\u001b[31m")"#,
                "roles[2].name",
                "roles[2].title",
            ]
        );
        assert!(error.contains(r#"("a", "x.y"): the model does not declare this permission: add it"#), "{error}");
    }
}
