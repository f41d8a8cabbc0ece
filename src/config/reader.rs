//! Looks settings up in the flags, the environment and the file, and collects the mistakes.

use super::UnknownVariables;
use super::environment::{self, Environment};
use super::file_table::{self, ValueMistake};
use super::format::{Setting, SettingRow};
use crate::authn::AuthSettings;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The text of one setting, not yet checked.
struct RawSetting {
    /// `None` for a value in the file that is no text, whole number or Boolean, and for a variable that is not Unicode:
    /// no setting takes such a value.
    text: Option<String>,
    /// The flag, the variable or the file that holds it, for messages.
    origin: String,
    is_from_file: bool,
}

/// The names of settings with a hash of the value of each, which may be a secret.
pub type FixedSettings = BTreeMap<&'static str, u64>;

fn fingerprint<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A table of the file is invalid; the reader holds the mistakes.
pub(super) struct InvalidSetting;

pub(super) struct SettingsReader<'a> {
    environment: &'a Environment,
    path: Option<PathBuf>,
    /// The keys of the file that have not been read yet. `None` if the file cannot be read.
    file: Option<Table>,
    /// The names of all settings that have been read.
    names: Vec<&'static str>,
    mistakes: Vec<String>,
    /// The keys in tables of the file whose value is a mistake, as `api_keys[0].scopes`.
    invalid: Vec<String>,
    warnings: Vec<String>,
    /// A fingerprint of each setting that is given and that a reload does not take over.
    fixed: FixedSettings,
}

impl<'a> SettingsReader<'a> {
    pub(super) fn new(path: Option<&PathBuf>, environment: &'a Environment) -> Self {
        let variable = || Some(PathBuf::from(environment.find(environment::CONFIG)?.clone().unwrap_or_default()));
        let path = path.cloned().or_else(variable);
        let mut mistakes = Vec::new();
        let file = match path.as_deref().map(read) {
            None => Some(Table::new()),
            Some(Ok(table)) => Some(table),
            Some(Err(mistake)) => {
                mistakes.push(mistake);
                None
            }
        };
        Self {
            environment,
            path,
            file,
            names: Vec::new(),
            mistakes,
            invalid: Vec::new(),
            warnings: Vec::new(),
            fixed: FixedSettings::new(),
        }
    }

    /// The value of a setting, or its default. A value that is out of range, a required setting that is absent and a
    /// setting under both its names are mistakes; the default then stands in for the value.
    pub(super) fn setting<T>(&mut self, setting: Setting<T>, flag: Option<&String>, former_flag: Option<&String>) -> T {
        let Setting {
            row: SettingRow { name, former, range, default: default_text, is_reloaded, is_path, .. },
            parse,
            default,
        } = setting;
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
        let Some(mut raw) = raw else {
            // A file that cannot be read may hold it.
            if default_text.is_none() && self.file.is_some() {
                let (flag, variable) = (SettingRow::flag(name), SettingRow::variable(name));
                self.mistakes
                    .push(format!("{name} is needed: give {flag}, {variable}, or {name} in the settings file"));
            }
            return default;
        };
        if is_path && raw.is_from_file {
            // An empty path is a mistake, and would become the directory.
            let path = raw.text.filter(|path| !path.is_empty());
            raw.text = path.map(|path| self.directory().join(path).to_string_lossy().into_owned());
        }
        if !is_reloaded {
            self.fixed.insert(name, fingerprint(&raw.text));
        }
        raw.text.ok_or_else(Vec::new).and_then(|text| parse(&text)).unwrap_or_else(|mut instead| {
            if instead.is_empty() {
                instead.push(range);
            }
            let sentence = |instead| format!("{used_name} (from {}): write {instead}", raw.origin);
            self.mistakes.extend(instead.into_iter().map(sentence));
            default
        })
    }

    /// The tables of this name in the file, without their mistakes. `None` if the file cannot be read, or holds
    /// something else under this name.
    pub(super) fn tables<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<Vec<T>> {
        self.names.push(name);
        let values = match self.file.as_mut()?.remove(name) {
            None => return Some(Vec::new()),
            Some(Value::Array(values)) if values.iter().all(Value::is_table) => values,
            Some(_) => {
                self.mistakes
                    .push(format!("{name} (from {}): write tables, each under [[{name}]]", self.file_origin()));
                return None;
            }
        };
        let tables = values.into_iter().enumerate();
        Some(tables.filter_map(|(index, value)| self.parse(&format!("{name}[{index}]"), value)).collect())
    }

    /// The table of this name in the file, without its mistakes; `None` if there is none.
    ///
    /// # Errors
    /// If nothing can be said about the rest of the table, or the file cannot be read. The mistake is added.
    pub(super) fn table<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, InvalidSetting> {
        self.names.push(name);
        let Some(value) = self.file.as_mut().ok_or(InvalidSetting)?.remove(name) else { return Ok(None) };
        self.fixed.insert(name, fingerprint(&value.to_string()));
        self.parse(name, value).map(Some).ok_or(InvalidSetting)
    }

    /// Reads a table and adds its mistakes; `None` if nothing else can be said about it.
    fn parse<T: DeserializeOwned>(&mut self, name: &str, value: Value) -> Option<T> {
        let origin = self.file_origin();
        let Value::Table(table) = value else {
            self.mistakes.push(format!("{name} (from {origin}): write a table, under [{name}]"));
            return None;
        };
        let mut mistakes = Vec::new();
        let parsed = file_table::parse(table, &mut mistakes);
        for ValueMistake { place, sentence, is_known } in mistakes {
            let key = format!("{name}{place}");
            self.mistakes.push(format!("{key} (from {origin}): {sentence}"));
            self.invalid.extend(is_known.then_some(key));
        }
        parsed
            .map_err(|missing| {
                let key = format!("{name}.{}", missing.unwrap_or_default());
                if !self.is_invalid(&key) {
                    self.mistakes.push(format!("{key} (from {origin}): this setting is needed"));
                }
            })
            .ok()
    }

    /// Whether the value of this key, or a part of it, is a mistake that was reported.
    fn is_invalid(&self, key: &str) -> bool {
        let is_part = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        self.invalid.iter().any(|invalid| invalid.strip_prefix(key).is_some_and(is_part))
    }

    fn file_origin(&self) -> String {
        self.path.as_deref().unwrap_or(Path::new("")).display().to_string()
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
            let files = keys.chain(&mut issuer.jwks_file).chain(&mut issuer.hs256_secret_file);
            for file in files.chain(&mut issuer.ca_file) {
                // An empty path is absent, and would become the directory.
                if !file.as_os_str().is_empty() {
                    *file = directory.join(&*file);
                }
            }
        }
        settings
    }

    /// Adds mistakes in settings that only the file can hold. Each begins with the name of a setting. One that only
    /// follows from a mistake that was reported is left out.
    pub(super) fn add(&mut self, mistakes: Vec<String>) {
        let origin = match &self.path {
            Some(path) => format!("(in {})", path.display()),
            None => "(there is no settings file: name one by --config or ROSTER_CONFIG)".to_owned(),
        };
        for mistake in mistakes {
            if !self.is_invalid(mistake.split([':', ' ']).next().unwrap_or_default()) {
                self.mistakes.push(format!("{mistake} {origin}"));
            }
        }
    }

    /// Adds warnings about settings that only the file can hold. Each begins with the name of a setting. One about a
    /// setting with a mistake is left out.
    pub(super) fn warn(&mut self, sentences: &[String]) {
        let origin = self.file_origin();
        for sentence in sentences {
            if !self.is_invalid(sentence.split(':').next().unwrap_or_default()) {
                self.warnings.push(format!("{sentence} (in {origin})"));
            }
        }
    }

    /// Adds a mistake that concerns several settings.
    pub(super) fn add_sentence(&mut self, sentence: &str) {
        self.mistakes.push(sentence.to_owned());
    }

    /// Adds a warning that concerns several settings.
    pub(super) fn warn_sentence(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }

    /// All mistakes, and the warnings. Call it after every setting has been read: the keys of the file that remain are
    /// unknown settings, which are mistakes. An unknown variable (`unknown` has a sentence for each) is a warning or a
    /// mistake, and a mistake if there are others, because it may be their cause.
    pub(super) fn finish(
        mut self,
        unknown_variables: UnknownVariables,
        unknown: Vec<String>,
    ) -> (Vec<String>, Vec<String>) {
        if let (Some(path), Some(file)) = (&self.path, &self.file) {
            let sentence = |key: &String| {
                let sentence = file_table::no_such_key(key, &self.names);
                format!("{key} (from {}): {sentence}", path.display())
            };
            self.mistakes.extend(file.keys().map(sentence));
        }
        if self.mistakes.is_empty() && unknown_variables == UnknownVariables::Warn {
            self.warnings.extend(unknown);
        } else {
            self.mistakes.extend(unknown);
        }
        (self.mistakes, self.warnings)
    }

    /// The mistakes so far, and the warnings, for a command that reads some settings only. The other keys of the file
    /// are not looked at.
    pub(super) fn finish_part(mut self, unknown: Vec<String>) -> (Vec<String>, Vec<String>) {
        self.file = None;
        self.finish(UnknownVariables::Warn, unknown)
    }

    /// A fingerprint of each setting that is given and that a reload does not take over.
    pub(super) fn fixed(&self) -> FixedSettings {
        self.fixed.clone()
    }

    /// The settings file; `None` if there is none.
    pub(super) fn file(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn find(&mut self, name: &'static str, flag: Option<&String>) -> Option<RawSetting> {
        // Removed in any case: the keys that remain are unknown settings.
        let in_file = self.file.as_mut().and_then(|table| table.remove(name));
        if let Some(text) = flag {
            return Some(RawSetting { text: Some(text.clone()), origin: SettingRow::flag(name), is_from_file: false });
        }
        let variable = SettingRow::variable(name);
        if let Some(text) = self.environment.find(&variable) {
            return Some(RawSetting { text: text.clone(), origin: variable, is_from_file: false });
        }
        let text = match in_file? {
            Value::String(text) => Some(text),
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(value) => Some(value.to_string()),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
        };
        Some(RawSetting { text, origin: self.file_origin(), is_from_file: true })
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
