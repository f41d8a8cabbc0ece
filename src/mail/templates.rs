//! The texts of mails: minijinja templates, built-in or custom. Every template is rendered with sample data when the
//! process starts.
//!
//! The variables of a template:
//!
//! | name | value |
//! |---|---|
//! | `organization` | the name of the organization in quotation marks, sanitized by [`super::names`] |
//! | `sender` | the name of the user who invites or adds, in the same form; none if the mail names no sender |
//! | `role` | the name of the role |
//! | `link` | the page to accept at. Not for `added`, and not in a subject, which is shown on locked screens |
//! | `expires` | the expiry of the invitation, as `1 December 2026, 14:30 UTC`. Not for `added` |
//!
//! Any other variable is an error. Values are never interpreted as templates, and minijinja escapes them in files whose
//! name ends with `.html`.
//!
//! A name that is written from right to left, or stands in a template with text from right to left, is isolated from the
//! text around it: between U+2068 and U+2069 in subjects and texts, in an element `<bdi>` in HTML. In HTML, a name is
//! therefore content of an element, and not the value of an attribute.

use super::names::{END_OF_ISOLATE, ISOLATE, quoted};
use crate::domain::DisplayName;
use crate::domain::characters::has_right_to_left;
use crate::service::outbox::{Letter, Occasion};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use std::collections::BTreeMap;
use std::path::Path;
use time::{OffsetDateTime, UtcOffset};

/// The names and contents of files in `templates/`.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("templates/", $name)))),*] };
}

const BUILT_IN: &[(&str, &str)] = embedded![
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

/// The invitation token in links of sample data.
const SAMPLE_TOKEN: &str = "0123456789sample-token";

/// The templates of all mails. Each has been rendered with sample data without an error.
pub(super) struct Templates(Environment<'static>);

/// The rendered texts of one mail.
pub(super) struct MailTexts {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// The variables of a mail. An absent one is undefined, so that a template which uses it fails.
struct Values<'a> {
    organization: &'a str,
    sender: Option<&'a str>,
    role: &'a str,
    link: Option<&'a str>,
    expires: Option<OffsetDateTime>,
}

impl Values<'_> {
    /// The variables of a template with this source.
    fn context(&self, source: &str) -> Value {
        let is_right_to_left = has_right_to_left(source);
        let name = |name: &str| quoted(name, is_right_to_left);
        let mut values = BTreeMap::from([
            ("organization", Value::from(name(self.organization))),
            ("sender", Value::from(self.sender.map(name))),
            ("role", Value::from(self.role)),
        ]);
        values.extend(self.link.map(|link| ("link", Value::from(link))));
        values.extend(self.expires.map(|time| ("expires", Value::from(format_time(time)))));
        Value::from(values)
    }
}

fn format_time(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    format!("{} {} {}, {:02}:{:02} UTC", time.day(), time.month(), time.year(), time.hour(), time.minute())
}

/// The name of the template files of an occasion, without the extension.
fn stem(occasion: Occasion) -> &'static str {
    match occasion {
        Occasion::Invitation => "invitation",
        Occasion::Reminder => "reminder",
        Occasion::Added => "added",
        Occasion::OwnerActivation => "owner_activation",
    }
}

impl Templates {
    /// Reads the templates and renders each with sample data.
    ///
    /// # Errors
    /// All mistakes, each with the name of the file.
    pub(super) fn load(directory: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut mistakes = directory.map(unknown_files).unwrap_or_default();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A line that contains only a tag leaves no empty line in the text.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| vec![error.to_string()])?);
        let mut added = Vec::with_capacity(BUILT_IN.len());
        for &(name, built_in) in BUILT_IN {
            let outcome = source(directory, name, built_in).and_then(|source| {
                environment.add_template_owned(name, source).map_err(|error| format!("{name}: {error}"))
            });
            match outcome {
                Ok(()) => added.push(name),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        let templates = Self(environment);
        mistakes.extend(added.into_iter().filter_map(|name| templates.problem(name)));
        if mistakes.is_empty() {
            return Ok(templates);
        }
        let place = directory.map_or_else(String::new, |directory| format!(" (in {})", directory.display()));
        Err(mistakes.into_iter().map(|mistake| format!("mail.templates{place}: {mistake}")).collect())
    }

    /// Renders the texts of a letter.
    ///
    /// # Errors
    /// A sentence that names the template that failed, without the values.
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
        let template = self.0.get_template(name)?;
        let text = template.render(values.context(template.source()))?;
        // After the escaping, and whatever filters a template has for the names.
        let is_html = name.split_once('.').is_some_and(|(_, extension)| extension == "html");
        Ok(if is_html { text.replace(ISOLATE, "<bdi>").replace(END_OF_ISOLATE, "</bdi>") } else { text })
    }

    /// Renders a template with sample data, with a sender and without, and returns the first mistake.
    fn problem(&self, name: &str) -> Option<String> {
        let (stem_of_name, extension) = name.split_once('.')?;
        let occasion = OCCASIONS.into_iter().find(|occasion| stem(*occasion) == stem_of_name)?;
        let is_subject = extension == "subject";
        let is_invitation = occasion != Occasion::Added;
        let has_link = is_invitation && !is_subject;
        let link = format!("https://example.com/join?token={SAMPLE_TOKEN}");
        let try_with = |sender: Option<&str>| {
            let values = Values {
                organization: "Example & Co.",
                sender,
                role: "member",
                link: has_link.then_some(link.as_str()),
                expires: is_invitation.then_some(OffsetDateTime::UNIX_EPOCH),
            };
            match self.part(name, &values) {
                Err(error) => Some(error.to_string()),
                Ok(text) if text.trim().is_empty() => Some("the rendered text is empty".to_owned()),
                Ok(text) if is_subject && text.trim().contains(['\r', '\n']) => Some("write one line".to_owned()),
                Ok(text) if has_link && !text.contains(SAMPLE_TOKEN) => Some("{{ link }} is missing".to_owned()),
                Ok(_) => None,
            }
        };
        let problem = try_with(Some("Ada Lovelace")).or_else(|| try_with(None))?;
        Some(format!("{name}: {problem}"))
    }
}

/// The custom template of this name, or the built-in one if the directory has none.
fn source(directory: Option<&Path>, name: &str, built_in: &str) -> Result<String, String> {
    let Some(path) = directory.map(|directory| directory.join(name)) else { return Ok(built_in.to_owned()) };
    match std::fs::read_to_string(path) {
        Ok(custom) => Ok(custom),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(built_in.to_owned()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Mistakes for files that replace no template: a misspelt name would otherwise be ignored silently. Hidden files are
/// allowed.
fn unknown_files(directory: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let unknown = names.filter(|name| !name.starts_with('.') && BUILT_IN.iter().all(|(built_in, _)| built_in != name));
    unknown.map(|name| format!("{name}: there is no template of this name")).collect()
}
