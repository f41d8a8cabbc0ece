//! Formats of settings: which text one accepts, which value that gives, and what holds when the setting is absent.

use super::listen_address::{self, ListenAddress};
use super::log_filter;
use crate::server::TrustedProxies;
use crate::store::datastore_url::{self, DatastoreUrl};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The name of the value of a setting that is a path.
const FILE: &str = "FILE";

/// Reads a value. The error lists what may be written instead, where the format knows it better than its range.
type Parse<T> = Box<dyn Fn(&str) -> Result<T, Vec<String>>>;

/// The format of a setting that has no name and no default yet.
pub(super) struct Format<T> {
    value_name: &'static str,
    range: String,
    parse: Parse<T>,
    print: Box<dyn Fn(&T) -> String>,
}

/// What the documents say about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingRow {
    /// The key in the settings file. The flag and the variable are derived from it.
    pub(super) name: &'static str,
    /// The name before a rename. It is accepted until 1.0, with a warning.
    pub(super) former: Option<&'static str>,
    pub(super) value_name: &'static str,
    /// What may be written; also the end of the error that begins with "write".
    pub(super) range: String,
    /// The default in words; `None` for a setting that must be given.
    pub(super) default: Option<String>,
    pub(super) help: &'static str,
    /// Whether a reload takes over a changed value.
    pub(super) is_reloaded: bool,
    /// Whether it is a path, which in the settings file is relative to the file's directory.
    pub(super) is_path: bool,
}

impl SettingRow {
    pub(super) fn unnamed(value_name: &'static str, range: String, default: Option<String>) -> Self {
        Self {
            name: "",
            former: None,
            value_name,
            range,
            default,
            help: "",
            is_reloaded: false,
            is_path: value_name == FILE,
        }
    }

    pub(super) fn flag(name: &str) -> String {
        format!("--{}", name.replace('_', "-"))
    }

    pub(super) fn variable(name: &str) -> String {
        format!("ROSTER_{}", name.to_ascii_uppercase())
    }

    pub(super) fn help(&self) -> String {
        match &self.default {
            Some(default) => format!("{} [default: {default}]", self.help),
            None => self.help.to_owned(),
        }
    }
}

/// One setting: its row in the documents, and how its value is read.
pub(super) struct Setting<T> {
    pub(super) row: SettingRow,
    pub(super) parse: Parse<T>,
    /// The value if the setting is absent.
    pub(super) default: T,
}

impl<T: 'static> Format<T> {
    /// A setting with this default.
    pub(super) fn or(self, default: T) -> Setting<T> {
        let text = (self.print)(&default);
        self.or_described(default, &text)
    }

    /// A setting whose default depends on the machine and is described in words.
    pub(super) fn or_described(self, default: T, description: &str) -> Setting<T> {
        let row = SettingRow::unnamed(self.value_name, self.range, Some(description.to_owned()));
        Setting { row, parse: self.parse, default }
    }

    /// A setting that may be absent; the text describes the behaviour without it.
    pub(super) fn optional(self, without: &str) -> Setting<Option<T>> {
        let row = SettingRow::unnamed(self.value_name, self.range, Some(without.to_owned()));
        Setting { row, parse: Box::new(move |text| (self.parse)(text).map(Some)), default: None }
    }

    /// A setting without a default: its absence is a mistake, which the reader adds, and gives `None`.
    pub(super) fn required(self) -> Setting<Option<T>> {
        let row = SettingRow::unnamed(self.value_name, self.range, None);
        Setting { row, parse: Box::new(move |text| (self.parse)(text).map(Some)), default: None }
    }
}

impl<T> Setting<T> {
    /// A setting of which a reload takes over a changed value.
    pub(super) fn reloaded(mut self) -> Self {
        self.row.is_reloaded = true;
        self
    }

    pub(super) fn named(mut self, name: &'static str, former: Option<&'static str>, help: &'static str) -> Self {
        self.row = SettingRow { name, former, help: help.trim_start(), ..self.row };
        self
    }
}

/// The URL of a Postgres database.
pub(super) fn database_url() -> Format<DatastoreUrl> {
    Format {
        value_name: "URL",
        range: datastore_url::FORM.to_owned(),
        parse: Box::new(|text| DatastoreUrl::parse(text).map_err(|invalid| invalid.0)),
        // A URL may hold a password.
        print: Box::new(|_| String::new()),
    }
}

/// An address to listen on, or a unix socket.
pub(super) fn address_or_socket() -> Format<ListenAddress> {
    Format {
        range: format!("{}, or unix: with the absolute path of a unix socket", listen_address::FORM),
        parse: Box::new(|text| text.parse().map_err(|_| Vec::new())),
        ..address()
    }
}

/// An address to listen on.
pub(super) fn address() -> Format<ListenAddress> {
    let has_port = |address: &ListenAddress| address.unix_socket().is_none();
    Format {
        value_name: "ADDRESS",
        range: listen_address::FORM.to_owned(),
        parse: Box::new(move |text| text.parse().ok().filter(has_port).ok_or_else(Vec::new)),
        print: Box::new(ListenAddress::to_string),
    }
}

/// A file. A relative path in the settings file starts at the directory of that file.
pub(super) fn file() -> Format<PathBuf> {
    Format {
        value_name: FILE,
        range: "the path of a file".to_owned(),
        parse: Box::new(|text| if text.is_empty() { Err(Vec::new()) } else { Ok(text.into()) }),
        print: Box::new(|path| path.display().to_string()),
    }
}

/// IP addresses and networks, none by default.
pub(super) fn networks() -> Format<TrustedProxies> {
    Format {
        value_name: "NETWORKS",
        range: "IP addresses and networks, separated by commas, as 10.0.0.0/8, 192.0.2.7, 2001:db8::/32".to_owned(),
        parse: Box::new(|text| TrustedProxies::parse(text).map_err(|instead| vec![instead.to_owned()])),
        print: Box::new(TrustedProxies::to_string),
    }
}

/// A filter of log lines.
pub(super) fn filter() -> Format<String> {
    Format {
        value_name: "FILTER",
        range: log_filter::FORM.to_owned(),
        parse: Box::new(log_filter::parse),
        print: Box::new(String::clone),
    }
}

/// A whole number in this range.
pub(super) fn number<T>(value_name: &'static str, range: RangeInclusive<T>) -> Format<T>
where
    T: FromStr + PartialOrd + Display + 'static,
{
    Format {
        value_name,
        range: format!("a whole number from {} to {}", range.start(), range.end()),
        parse: Box::new(move |text| text.parse().ok().filter(|number| range.contains(number)).ok_or_else(Vec::new)),
        print: Box::new(T::to_string),
    }
}

/// A time in milliseconds.
pub(super) fn milliseconds(range: RangeInclusive<u64>) -> Format<Duration> {
    number("MILLISECONDS", range).map(Duration::from_millis, |time| time.as_millis().to_string())
}

/// A time in milliseconds; 0 stands for none.
pub(super) fn milliseconds_or_none(range: RangeInclusive<u64>) -> Format<Option<Duration>> {
    let print = |time: &Option<Duration>| time.unwrap_or_default().as_millis().to_string();
    milliseconds(range).map(|time| Some(time).filter(|time| !time.is_zero()), print)
}

/// A time in hours.
pub(super) fn hours(range: RangeInclusive<u64>) -> Format<Duration> {
    number("HOURS", range).map(Duration::from_hours, |time| (time.as_secs() / 3600).to_string())
}

/// A size in MiB; the value is in bytes.
pub(super) fn mebibytes(range: RangeInclusive<usize>) -> Format<usize> {
    number("MIB", range).map(|mebibytes| mebibytes << 20, |bytes| (bytes >> 20).to_string())
}

/// One of these words.
pub(super) fn one_of<T: Copy + PartialEq + 'static, const N: usize>(
    value_name: &'static str,
    words: [(&'static str, T); N],
) -> Format<T> {
    Format {
        value_name,
        range: words.map(|(word, _)| word).join(" or "),
        parse: Box::new(move |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(Vec::new)
        }),
        print: Box::new(move |value| {
            words.iter().find(|(_, other)| other == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
        }),
    }
}

impl<N: 'static> Format<N> {
    fn map<T: 'static>(self, convert: fn(N) -> T, print: fn(&T) -> String) -> Format<T> {
        Format {
            value_name: self.value_name,
            range: self.range,
            parse: Box::new(move |text| (self.parse)(text).map(convert)),
            print: Box::new(print),
        }
    }
}
