//! The texts of mails: minijinja templates, built-in or custom. Every template is rendered with sample data when the
//! process starts, for every locale that uses it.
//!
//! The variables of a template:
//!
//! | name | value |
//! |---|---|
//! | `organization` | the name of the organization in quotation marks, sanitized by [`super::names`] |
//! | `sender` | the name of the user who invites or adds, in the same form; none if the mail names no sender |
//! | `role` | the name of the role |
//! | `role_title` | the title of a role that always exists, in the language of the mail; the name of another role |
//! | `link` | the page to accept at. Not for `added`, and not in a subject, which is shown on locked screens |
//! | `expires` | the expiry of the invitation, as `1 December 2026, 14:30 UTC`. Not for `added` |
//! | `expire_time` | the same time as numbers, in UTC: `year`, `month`, `day`, `hour`, `minute`. Not for `added` |
//! | `lang` | the locale of the mail, for the attribute of HTML: `de-AT` |
//! | `dir` | the direction of its writing, for the attribute of HTML: `ltr` or `rtl` |
//!
//! Any other variable is an error. Values are never interpreted as templates, and minijinja escapes them in files whose
//! name ends with `.html`.
//!
//! A name that is written from right to left, or stands in a template whose language or text is, is isolated from the text
//! around it: between U+2068 and U+2069 in subjects and texts, in an element `<bdi>` in HTML. In HTML, a name is therefore
//! content of an element, and not the value of an attribute.
//!
//! A locale has templates if each template has a file for the locale or for one of its fallbacks: `de-AT` needs no file
//! beside the built-in ones of `de`. A letter is written in the first locale that has templates: its own one, the fallbacks
//! of that, the locale of the deployment. All parts of a letter are thus in one language.

use super::languages::{format_time, quotation_marks, role_title, template_names};
use super::names::{END_OF_ISOLATE, ISOLATE, quoted};
use super::template_files::{self, TemplateFiles, with_locale};
use crate::domain::characters::has_right_to_left;
use crate::domain::{DisplayName, Locale, RoleName};
use crate::service::outbox::{Letter, Occasion};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use time::{OffsetDateTime, UtcOffset};

const OCCASIONS: [Occasion; 4] = [Occasion::Invitation, Occasion::Reminder, Occasion::Added, Occasion::OwnerActivation];

/// The invitation token in links of sample data.
const SAMPLE_TOKEN: &str = "0123456789sample-token";

/// The templates of all mails. Each has been rendered with sample data without an error.
pub(super) struct Templates {
    environment: Environment<'static>,
    /// The locales that have templates.
    locales: CompleteLocales,
    /// The locale of the deployment.
    default: Locale,
}

/// The name of the file of each template, by the name of the template.
type FileNames = BTreeMap<&'static str, String>;

/// The locales that have a file for each template.
type CompleteLocales = BTreeMap<Locale, FileNames>;

/// The other locales, with the names of the files that they lack.
type IncompleteLocales = Vec<(Locale, Vec<String>)>;

/// The rendered texts of one mail.
pub(super) struct MailTexts {
    pub(super) locale: Locale,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// The variables of a mail. An absent one is undefined, so that a template which uses it fails.
struct Values<'a> {
    locale: &'a Locale,
    organization: &'a str,
    sender: Option<&'a str>,
    role: &'a RoleName,
    link: Option<&'a str>,
    expires: Option<OffsetDateTime>,
}

impl Values<'_> {
    /// The variables of a template with this source.
    fn context(&self, source: &str) -> Value {
        let is_right_to_left = self.locale.is_right_to_left();
        let marks = quotation_marks(self.locale);
        let name = |name: &str| quoted(name, marks, is_right_to_left || has_right_to_left(source));
        let mut values = BTreeMap::from([
            ("organization", Value::from(name(self.organization))),
            ("sender", Value::from(self.sender.map(name))),
            ("role", Value::from(self.role.as_str())),
            ("role_title", Value::from(role_title(self.locale, self.role))),
            ("lang", Value::from(self.locale.as_str())),
            ("dir", Value::from(if is_right_to_left { "rtl" } else { "ltr" })),
        ]);
        values.extend(self.link.map(|link| ("link", Value::from(link))));
        if let Some(time) = self.expires {
            values.insert("expires", Value::from(format_time(self.locale, time)));
            values.insert("expire_time", numbers(time));
        }
        Value::from(values)
    }
}

/// A time in UTC as numbers, for languages whose form of it is not built in.
fn numbers(time: OffsetDateTime) -> Value {
    let time = time.to_offset(UtcOffset::UTC);
    Value::from(BTreeMap::from([
        ("year", time.year()),
        ("month", u8::from(time.month()).into()),
        ("day", time.day().into()),
        ("hour", time.hour().into()),
        ("minute", time.minute().into()),
    ]))
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
    /// Reads the templates and renders each with sample data, for every locale that has a file and for that of the
    /// deployment.
    ///
    /// # Errors
    /// All mistakes, each with the name of the setting and of the file.
    pub(super) fn load(directory: Option<&Path>, default: Locale) -> Result<Self, Vec<String>> {
        let place = directory.map_or_else(String::new, |directory| format!(" (in {})", directory.display()));
        let in_files = |mistake: String| format!("mail.templates{place}: {mistake}");
        let (files, mistakes) = template_files::read(directory, &default);
        let mut mistakes: Vec<String> = mistakes.into_iter().map(in_files).collect();
        let (locales, incomplete) = inherit(&files, &default);
        for (locale, missing) in incomplete {
            let mistake = format!("{locale} is not built in and lacks the templates {}", missing.join(", "));
            mistakes.push(if locale == default { format!("mail.locale: {mistake}") } else { in_files(mistake) });
        }
        let mut environment = environment().map_err(|error| vec![error.to_string()])?;
        let mut invalid = BTreeSet::new();
        for file in files.into_values().flat_map(BTreeMap::into_values) {
            if let Err(error) = environment.add_template_owned(file.name.clone(), file.source) {
                mistakes.push(in_files(format!("{}: {error}", file.name)));
                invalid.insert(file.name);
            }
        }
        let templates = Self { environment, locales, default };
        mistakes.extend(templates.problems(&invalid).into_iter().map(in_files));
        if mistakes.is_empty() { Ok(templates) } else { Err(mistakes) }
    }

    /// Renders the texts of a letter.
    ///
    /// # Errors
    /// A sentence that names the template that failed, without the values.
    pub(super) fn render(&self, letter: &Letter, link: Option<&str>) -> Result<MailTexts, String> {
        let mut wanted = letter.locale.iter().flat_map(Locale::fallbacks).chain([self.default.clone()]);
        let found = wanted.find_map(|locale| self.locales.get_key_value(&locale));
        let (locale, files) = found.ok_or("no locale has templates")?;
        let mut values = Values {
            locale,
            organization: letter.organization.as_str(),
            sender: letter.sender.as_ref().map(DisplayName::as_str),
            role: &letter.role,
            link: None,
            expires: letter.expire_time,
        };
        let part = |extension: &str, values: &Values| {
            let file = files.get(format!("{}.{extension}", stem(letter.occasion)).as_str());
            let file = file.ok_or("a template is missing")?;
            self.part(file, values).map_err(|error| format!("the template {file} failed: {}", error.kind()))
        };
        let subject = part("subject", &values)?.trim().to_owned();
        values.link = link;
        let (text, html) = (part("txt", &values)?, part("html", &values)?);
        Ok(MailTexts { locale: locale.clone(), subject, text, html })
    }

    fn part(&self, file: &str, values: &Values) -> Result<String, Error> {
        let template = self.environment.get_template(file)?;
        let text = template.render(values.context(template.source()))?;
        // After the escaping, and whatever filters a template has for the names.
        let is_html = file.rsplit_once('.').is_some_and(|(_, extension)| extension == "html");
        Ok(if is_html { text.replace(ISOLATE, "<bdi>").replace(END_OF_ISOLATE, "</bdi>") } else { text })
    }

    /// The mistakes of all templates in every locale, without the files whose syntax is invalid. Locales share files, and so
    /// their mistakes.
    fn problems(&self, invalid: &BTreeSet<String>) -> BTreeSet<String> {
        let mut problems = BTreeSet::new();
        for (locale, files) in &self.locales {
            for (name, file) in files.iter().filter(|(_, file)| !invalid.contains(*file)) {
                problems.extend(self.problem(locale, name, file).map(|problem| format!("{file}: {problem}")));
            }
        }
        problems
    }

    /// Renders a template with sample data, with a sender and without, and returns the first mistake.
    fn problem(&self, locale: &Locale, name: &str, file: &str) -> Option<String> {
        let (stem_of_name, extension) = name.split_once('.')?;
        let occasion = OCCASIONS.into_iter().find(|occasion| stem(*occasion) == stem_of_name)?;
        let is_subject = extension == "subject";
        let is_invitation = occasion != Occasion::Added;
        let has_link = is_invitation && !is_subject;
        let link = format!("https://example.com/join?token={SAMPLE_TOKEN}");
        let try_with = |sender: Option<&str>| {
            let values = Values {
                locale,
                organization: "Example & Co.",
                sender,
                role: &RoleName::MEMBER,
                link: has_link.then_some(link.as_str()),
                expires: is_invitation.then_some(OffsetDateTime::UNIX_EPOCH),
            };
            match self.part(file, &values) {
                Err(error) => Some(error.to_string()),
                Ok(text) if text.trim().is_empty() => Some("the rendered text is empty".to_owned()),
                Ok(text) if is_subject && text.trim().contains(['\r', '\n']) => Some("write one line".to_owned()),
                Ok(text) if has_link && !text.contains(SAMPLE_TOKEN) => Some("{{ link }} is missing".to_owned()),
                Ok(_) => None,
            }
        };
        try_with(Some("Ada Lovelace")).or_else(|| try_with(None))
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // A line that contains only a tag leaves no empty line in the text.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?;
    environment.set_syntax(syntax);
    Ok(environment)
}

/// The locales of these files and of the deployment. A locale has the files of its fallbacks where it has none.
fn inherit(files: &TemplateFiles, default: &Locale) -> (CompleteLocales, IncompleteLocales) {
    let (mut locales, mut incomplete) = (CompleteLocales::new(), IncompleteLocales::new());
    for locale in files.keys().chain([default]).collect::<BTreeSet<_>>() {
        let find = |name| locale.fallbacks().find_map(|tag| Some(files.get(&tag)?.get(name)?.name.clone()));
        let found: FileNames = template_names().filter_map(|name| Some((name, find(name)?))).collect();
        let missing = template_names().filter(|name| !found.contains_key(name));
        let missing: Vec<String> = missing.map(|name| with_locale(name, locale)).collect();
        if missing.is_empty() {
            locales.insert(locale.clone(), found);
        } else {
            incomplete.push((locale.clone(), missing));
        }
    }
    (locales, incomplete)
}

#[cfg(test)]
mod tests {
    use super::super::languages::BUILT_IN;
    use super::*;

    #[test]
    fn built_in_templates_use_the_same_variables_in_every_language() {
        let locale = |tag: &str| Locale::parse(tag).unwrap();
        let Ok(templates) = Templates::load(None, locale("en")) else { panic!("a built-in template is invalid") };
        let variables = |tag: &str, name: &str| {
            let file = &templates.locales[&locale(tag)][name];
            templates.environment.get_template(file).unwrap().undeclared_variables(false)
        };
        for name in template_names() {
            let english = variables("en", name);
            assert!(english.contains("organization"), "{name}");
            for (language, _) in BUILT_IN {
                assert_eq!(variables(language, name), english, "{language}: {name}");
            }
        }
    }
}
