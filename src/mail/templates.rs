//! The texts of mails: minijinja templates, ours or a deployment's own, tried with sample data when the process starts.
//!
//! What a template can show:
//!
//! | name | value |
//! |---|---|
//! | `organization` | its name in quotation marks, made harmless by [`super::names`] |
//! | `sender` | who invites or adds, likewise; none if nobody is named |
//! | `role` | the role's name |
//! | `link` | where to accept. Not for `added`, and not in a subject, which shows up on locked screens |
//! | `expires` | until when, as `1 December 2026, 14:30 UTC`. Not for `added` |
//!
//! Anything else is an error. Values are never templates themselves, and minijinja escapes
//! them where a file's name ends with `.html`.

use super::names::quoted;
use crate::domain::DisplayName;
use crate::service::outbox::{Letter, Occasion};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use std::collections::BTreeMap;
use std::path::Path;
use time::{OffsetDateTime, UtcOffset};

/// Names and sources of these files.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("templates/", $name)))),*] };
}

const OURS: &[(&str, &str)] = embedded![
    "invitation.subject",
    "invitation.txt",
    "invitation.html",
    "reminder.subject",
    "reminder.txt",
    "reminder.html",
    "added.subject",
    "added.txt",
    "added.html",
    "owner_activation.subject",
    "owner_activation.txt",
    "owner_activation.html",
];

const OCCASIONS: [Occasion; 4] = [Occasion::Invitation, Occasion::Reminder, Occasion::Added, Occasion::OwnerActivation];

/// The token of sample links.
const SAMPLE_TOKEN: &str = "0123456789sample-token";

/// The templates of all mails. Each can be rendered.
pub(super) struct Templates(Environment<'static>);

/// A mail's texts.
pub(super) struct MailTexts {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// What a mail shows. Values that it does not have are undefined, so that a template which needs them is an error.
struct Values<'a> {
    organization: &'a str,
    sender: Option<&'a str>,
    role: &'a str,
    link: Option<&'a str>,
    expires: Option<OffsetDateTime>,
}

impl Values<'_> {
    fn context(&self) -> Value {
        let mut values = BTreeMap::from([
            ("organization", Value::from(quoted(self.organization))),
            ("sender", Value::from(self.sender.map(quoted))),
            ("role", Value::from(self.role)),
        ]);
        values.extend(self.link.map(|link| ("link", Value::from(link))));
        values.extend(self.expires.map(|time| ("expires", Value::from(moment(time)))));
        Value::from(values)
    }
}

fn moment(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    format!("{} {} {}, {:02}:{:02} UTC", time.day(), time.month(), time.year(), time.hour(), time.minute())
}

fn stem(occasion: Occasion) -> &'static str {
    match occasion {
        Occasion::Invitation => "invitation",
        Occasion::Reminder => "reminder",
        Occasion::Added => "added",
        Occasion::OwnerActivation => "owner_activation",
    }
}

impl Templates {
    /// Reads the templates and tries them all.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with the file's name.
    pub(super) fn load(directory: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut mistakes = directory.map(strangers).unwrap_or_default();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // So that a line with a tag alone leaves no empty line in a text.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| vec![error.to_string()])?);
        for &(name, ours) in OURS {
            let read = source(directory, name, ours).and_then(|source| {
                environment.add_template_owned(name, source).map_err(|error| format!("{name}: {error}"))
            });
            mistakes.extend(read.err());
        }
        if mistakes.is_empty() {
            let templates = Self(environment);
            mistakes.extend(OURS.iter().filter_map(|(name, _)| templates.problem(name)));
            if mistakes.is_empty() {
                return Ok(templates);
            }
        }
        let place = directory.map_or_else(String::new, |directory| format!(" (in {})", directory.display()));
        Err(mistakes.into_iter().map(|mistake| format!("mail.templates{place}: {mistake}")).collect())
    }

    /// A letter's texts.
    ///
    /// # Errors
    /// A sentence that says which template failed, without the values.
    pub(super) fn render(&self, letter: &Letter, link: Option<&str>) -> Result<MailTexts, String> {
        let mut values = Values {
            organization: letter.organization.as_str(),
            sender: letter.sender.as_ref().map(DisplayName::as_str),
            role: letter.role.as_str(),
            link: None,
            expires: letter.expire_time,
        };
        let part = |extension: &str, values: &Values| {
            let name = format!("{}.{extension}", stem(letter.occasion));
            self.part(&name, values).map_err(|error| format!("the template {name} failed: {}", error.kind()))
        };
        let subject = part("subject", &values)?.trim().to_owned();
        values.link = link;
        Ok(MailTexts { subject, text: part("txt", &values)?, html: part("html", &values)? })
    }

    fn part(&self, name: &str, values: &Values) -> Result<String, Error> {
        self.0.get_template(name)?.render(values.context())
    }

    /// What is wrong with a template, as sample data show: with a sender and without.
    fn problem(&self, name: &str) -> Option<String> {
        let (stem_of_name, extension) = name.split_once('.')?;
        let occasion = OCCASIONS.into_iter().find(|occasion| stem(*occasion) == stem_of_name)?;
        let is_subject = extension == "subject";
        let asks = occasion != Occasion::Added;
        let has_link = asks && !is_subject;
        let link = format!("https://example.com/join?token={SAMPLE_TOKEN}");
        let try_with = |sender: Option<&str>| {
            let values = Values {
                organization: "Example & Co.",
                sender,
                role: "member",
                link: has_link.then_some(link.as_str()),
                expires: asks.then_some(OffsetDateTime::UNIX_EPOCH),
            };
            match self.part(name, &values) {
                Err(error) => Some(error.to_string()),
                Ok(text) if text.trim().is_empty() => Some("nothing is left of it when it is rendered".to_owned()),
                Ok(text) if is_subject && text.trim().contains(['\r', '\n']) => Some("write one line".to_owned()),
                Ok(text) if has_link && !text.contains(SAMPLE_TOKEN) => Some("{{ link }} is missing".to_owned()),
                Ok(_) => None,
            }
        };
        let problem = try_with(Some("Ada Lovelace")).or_else(|| try_with(None))?;
        Some(format!("{name}: {problem}"))
    }
}

/// The file of this name in the directory, or else our own.
fn source(directory: Option<&Path>, name: &str, ours: &str) -> Result<String, String> {
    let Some(path) = directory.map(|directory| directory.join(name)) else { return Ok(ours.to_owned()) };
    match std::fs::read_to_string(path) {
        Ok(theirs) => Ok(theirs),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(ours.to_owned()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Files that replace nothing: a misspelt name would otherwise be passed over in silence. Hidden files may stay.
fn strangers(directory: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let unknown = names.filter(|name| !name.starts_with('.') && OURS.iter().all(|(ours, _)| ours != name));
    unknown.map(|name| format!("{name}: no mail has a template of this name")).collect()
}
