//! Looks settings up in the flags, the environment and the file, and collects the mistakes.

use super::Environment;
use super::format::{Setting, SettingRow};
use crate::authn::AuthSettings;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The text of one setting, not yet checked.
struct RawSetting {
    /// `None` for a value in the file that is no text, whole number or Boolean: no setting takes such a value.
    text: Option<String>,
    /// The flag, the variable or the file that holds it, for messages.
    origin: String,
}

/// A table of the file is invalid; the reader holds the mistakes.
pub(super) struct InvalidSetting;

pub(super) struct SettingsReader<'a> {
    environment: Environment<'a>,
    path: Option<PathBuf>,
    /// The keys of the file that have not been read yet. `None` if the file cannot be read.
    file: Option<Table>,
    /// The names of all settings that have been read.
    names: Vec<&'static str>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
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
        Self { environment, path, file, names: Vec::new(), mistakes, warnings: Vec::new() }
    }

    /// The value of a setting, or its default. A value that is out of range, a required setting that is absent and a
    /// setting under both its names are mistakes; the default then stands in for the value.
    pub(super) fn setting<T>(&mut self, setting: Setting<T>, flag: Option<&String>, former_flag: Option<&String>) -> T {
        let Setting { row: SettingRow { name, former, range, default: default_text, .. }, parse, default } = setting;
        self.names.push(name);
        let mut used_name = name;
        let mut raw = self.find(name, flag);
        if let Some(former) = former
            && let Some(old) = self.find(former, former_flag)
        {
            if let Some(new) = &raw {
                self.mistakes.push(format!(
                    "{former} (from {}) is the former name of {name} (from {}), and both are given: remove {former}",
                    old.origin, new.origin
                ));
                return default;
            }
            self.warnings
                .push(format!("{former} (from {}) is deprecated and will be removed in 1.0: use {name}", old.origin));
            (used_name, raw) = (former, Some(old));
        }
        let Some(raw) = raw else {
            // A file that cannot be read may hold it.
            if default_text.is_none() && self.file.is_some() {
                let (flag, variable) = (SettingRow::flag(name), SettingRow::variable(name));
                self.mistakes
                    .push(format!("{name} is needed: give {flag}, {variable}, or {name} in the settings file"));
            }
            return default;
        };
        raw.text.ok_or(None).and_then(|text| parse(&text)).unwrap_or_else(|instead| {
            let instead = instead.unwrap_or(range);
            self.mistakes.push(format!("{used_name} (from {}): write {instead}", raw.origin));
            default
        })
    }

    /// The tables of this name in the file. `None` if one is invalid, or if the file cannot be read.
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

    /// The table of this name in the file; `None` if there is none.
    ///
    /// # Errors
    /// If the table is invalid, or the file cannot be read. The mistake is added.
    pub(super) fn table<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, InvalidSetting> {
        self.names.push(name);
        let (file, path) = (self.file.as_mut().ok_or(InvalidSetting)?, self.path.as_deref().unwrap_or(Path::new("")));
        let Some(value) = file.remove(name) else { return Ok(None) };
        value.try_into().map(Some).map_err(|error| {
            self.mistakes.push(format!("{name} (from {}): {}", path.display(), error.message()));
            InvalidSetting
        })
    }

    /// The directory of the settings file. Relative paths in the file start there.
    pub(super) fn directory(&self) -> PathBuf {
        self.path.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default()
    }

    /// Resolves the paths of key files, which are relative to the settings file.
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

    /// Adds mistakes in settings that only the file can hold. Each begins with the name of a setting.
    pub(super) fn add(&mut self, mistakes: Vec<String>) {
        let origin = match &self.path {
            Some(path) => format!("(in {})", path.display()),
            None => "(there is no settings file: name one by --config or ROSTER_CONFIG)".to_owned(),
        };
        self.mistakes.extend(mistakes.into_iter().map(|mistake| format!("{mistake} {origin}")));
    }

    /// Adds a mistake that concerns several settings.
    pub(super) fn add_sentence(&mut self, sentence: &str) {
        self.mistakes.push(sentence.to_owned());
    }

    /// All mistakes, and the warnings. Call it after every setting has been read: the keys of the file that remain are
    /// unknown settings, which are mistakes.
    pub(super) fn finish(mut self) -> (Vec<String>, Vec<String>) {
        if let (Some(path), Some(file)) = (&self.path, &self.file) {
            let names = self.names.join(", ");
            let unknown =
                file.keys().map(|key| format!("{key} (from {}): no such setting; there are {names}", path.display()));
            self.mistakes.extend(unknown);
        }
        (self.mistakes, self.warnings)
    }

    /// The mistakes so far.
    pub(super) fn mistakes(self) -> Vec<String> {
        self.mistakes
    }

    fn find(&mut self, name: &'static str, flag: Option<&String>) -> Option<RawSetting> {
        // Removed in any case: the keys that remain are unknown settings.
        let in_file = self.file.as_mut().and_then(|table| table.remove(name));
        if let Some(text) = flag {
            return Some(RawSetting { text: Some(text.clone()), origin: SettingRow::flag(name) });
        }
        let variable = SettingRow::variable(name);
        if let Some(text) = (self.environment)(&variable) {
            return Some(RawSetting { text: Some(text), origin: variable });
        }
        let text = match in_file? {
            Value::String(text) => Some(text),
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(value) => Some(value.to_string()),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
        };
        Some(RawSetting { text, origin: self.path.as_deref().unwrap_or(Path::new("")).display().to_string() })
    }
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
