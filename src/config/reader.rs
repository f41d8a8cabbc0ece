//! Where settings are looked for, and where mistakes gather.

use super::Environment;
use crate::authn::AuthSettings;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What was given for one setting, and where; or what is to be written instead.
struct RawSetting {
    text: Result<String, String>,
    origin: String,
}

/// Something is wrong, and stands among the mistakes.
pub(super) struct InvalidSetting;

pub(super) struct SettingsReader<'a> {
    environment: Environment<'a>,
    path: Option<PathBuf>,
    /// What the file holds and has not been asked for. None if there is a file that cannot be read.
    file: Option<Table>,
    /// Every setting that has been asked for.
    names: Vec<&'static str>,
    mistakes: Vec<String>,
}

impl<'a> SettingsReader<'a> {
    pub(super) fn new(path: Option<&PathBuf>, environment: Environment<'a>) -> Self {
        let path = path.cloned().or_else(|| environment("ROSTER_CONFIG").map(PathBuf::from));
        let mut mistakes = Vec::new();
        let file = match path.as_deref().map(read) {
            None => Some(Table::new()),
            Some(Ok(table)) => Some(table),
            Some(Err(mistake)) => {
                mistakes.push(mistake);
                None
            }
        };
        Self { environment, path, file, names: Vec::new(), mistakes }
    }

    /// A setting, if it is given rightly.
    pub(super) fn setting<T>(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.find(name, flag)?;
        let parsed = given.text.and_then(|text| parse(&text));
        parsed.map_err(|wanted| self.mistakes.push(format!("{name} (from {}): write {wanted}", given.origin))).ok()
    }

    /// A setting that has to be given.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let before = self.mistakes.len();
        let value = self.setting(name, flag, parse);
        if value.is_none() && self.mistakes.len() == before && self.file.is_some() {
            let (flag, variable) = (flag_name(name), variable_name(name));
            self.mistakes.push(format!("{name} is needed: give {flag}, {variable}, or {name} in the settings file"));
        }
        value
    }

    /// The tables of this name in the file. None if one is wrong, or if the file cannot be read.
    pub(super) fn tables<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<Vec<T>> {
        self.names.push(name);
        let (file, path) = (self.file.as_mut()?, self.path.as_deref().unwrap_or(Path::new("")));
        let values = match file.remove(name) {
            None => return Some(Vec::new()),
            Some(Value::Array(values)) if values.iter().all(Value::is_table) => values,
            Some(_) => {
                self.mistakes.push(format!("{name} (from {}): write tables, each under [[{name}]]", path.display()));
                return None;
            }
        };
        let count = values.len();
        let mut tables = Vec::with_capacity(count);
        for (index, value) in values.into_iter().enumerate() {
            match value.try_into() {
                Ok(table) => tables.push(table),
                Err(error) => {
                    self.mistakes.push(format!("{name}[{index}] (from {}): {}", path.display(), error.message()));
                }
            }
        }
        (tables.len() == count).then_some(tables)
    }

    /// The table of this name in the file, if there is one.
    ///
    /// # Errors
    /// If it is wrong, or the file cannot be read: the mistake is noted.
    pub(super) fn table<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, InvalidSetting> {
        self.names.push(name);
        let (file, path) = (self.file.as_mut().ok_or(InvalidSetting)?, self.path.as_deref().unwrap_or(Path::new("")));
        let Some(value) = file.remove(name) else { return Ok(None) };
        value.try_into().map(Some).map_err(|error| {
            self.mistakes.push(format!("{name} (from {}): {}", path.display(), error.message()));
            InvalidSetting
        })
    }

    /// Where paths in the file begin.
    pub(super) fn directory(&self) -> PathBuf {
        self.path.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default()
    }

    /// Paths in the file are relative to it.
    pub(super) fn resolve(&self, mut settings: AuthSettings) -> AuthSettings {
        let directory = self.directory();
        for issuer in &mut settings.issuers {
            let keys = issuer.keys.iter_mut().map(|key| &mut key.file);
            for file in keys.chain(&mut issuer.jwks_file).chain(&mut issuer.hs256_secret_file) {
                *file = directory.join(&*file);
            }
        }
        settings
    }

    /// Mistakes in what only the file can hold; each begins with a setting's name.
    pub(super) fn add(&mut self, mistakes: Vec<String>) {
        let origin = match &self.path {
            Some(path) => format!("(in {})", path.display()),
            None => "(there is no settings file: name one by --config or ROSTER_CONFIG)".to_owned(),
        };
        self.mistakes.extend(mistakes.into_iter().map(|mistake| format!("{mistake} {origin}")));
    }

    /// The mistakes, those included that only show when everything has been asked for: what nobody asks for.
    pub(super) fn finish(mut self) -> Vec<String> {
        if let (Some(path), Some(file)) = (&self.path, &self.file) {
            let names = self.names.join(", ");
            let unknown =
                file.keys().map(|key| format!("{key} (from {}): no such setting; there are {names}", path.display()));
            self.mistakes.extend(unknown);
        }
        self.mistakes
    }

    /// The mistakes so far.
    pub(super) fn mistakes(self) -> Vec<String> {
        self.mistakes
    }

    fn find(&mut self, name: &'static str, flag: Option<&String>) -> Option<RawSetting> {
        self.names.push(name);
        // Taken in any case: what is left over is nobody's.
        let in_file = self.file.as_mut().and_then(|table| table.remove(name));
        if let Some(text) = flag {
            return Some(RawSetting { text: Ok(text.clone()), origin: flag_name(name) });
        }
        let variable = variable_name(name);
        if let Some(text) = (self.environment)(&variable) {
            return Some(RawSetting { text: Ok(text), origin: variable });
        }
        let text = match in_file? {
            Value::String(text) => Ok(text),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Boolean(yes) => Ok(yes.to_string()),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                Err("a text, a whole number, or true or false".to_owned())
            }
        };
        Some(RawSetting { text, origin: self.path.as_deref().unwrap_or(Path::new("")).display().to_string() })
    }
}

fn flag_name(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn variable_name(name: &str) -> String {
    format!("ROSTER_{}", name.to_ascii_uppercase())
}

fn read(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the settings file {} cannot be read: {error}", path.display()))?;
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own text repeats the line, which may hold a password.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("the settings file {} is not TOML: line {line}: {}", path.display(), error.message())
    })
}
