//! The languages of mails: the built-in templates, and what texts need beside them: dates, titles of roles, quotation marks.

use crate::domain::{Locale, RoleName};
use time::{OffsetDateTime, UtcOffset};

/// The templates of a language: the name of each without its language, and its source.
type LanguageTemplates = [(&'static str, &'static str); 12];

/// The names and contents of files in the directory of a language in `templates/`.
macro_rules! embedded {
    ($language:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("templates/", $language, "/", $name)))),*]
    };
}

macro_rules! templates_of {
    ($language:literal) => {
        embedded!(
            $language: "invitation.subject",
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
        )
    };
}

/// The languages with built-in templates.
pub(super) const BUILT_IN: [(&str, LanguageTemplates); 3] =
    [("en", templates_of!("en")), ("de", templates_of!("de")), ("ja", templates_of!("ja"))];

/// The names of the templates, without a language.
pub(super) fn template_names() -> impl Iterator<Item = &'static str> {
    let (_, templates) = &BUILT_IN[0];
    templates.iter().map(|(name, _)| *name)
}

const ENGLISH_MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const GERMAN_MONTHS: [&str; 12] = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
];

/// The time in UTC in the form of the language: `1 December 2026, 14:30 UTC`, or `2026-12-01 14:30 UTC` in a language without
/// built-in templates.
pub(super) fn format_time(locale: &Locale, time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let clock = format!("{:02}:{:02}", time.hour(), time.minute());
    let name_in = |months: [&'static str; 12]| months[usize::from(month - 1)];
    match locale.language() {
        "en" => format!("{day} {} {year}, {clock} UTC", name_in(ENGLISH_MONTHS)),
        "de" => format!("{day}. {} {year}, {clock} Uhr (UTC)", name_in(GERMAN_MONTHS)),
        "ja" => format!("{year}年{month}月{day}日 {clock}（UTC）"),
        _ => format!("{year:04}-{month:02}-{day:02} {clock} UTC"),
    }
}

/// The title of a role that always exists, in this language; the name of another role, or in another language.
pub(super) fn role_title<'a>(locale: &Locale, role: &'a RoleName) -> &'a str {
    let [owner, admin, member] = match locale.language() {
        "de" => ["Inhaber/in", "Administrator/in", "Mitglied"],
        "ja" => ["オーナー", "管理者", "メンバー"],
        _ => return role.as_str(),
    };
    let titles = [(RoleName::OWNER, owner), (RoleName::ADMIN, admin), (RoleName::MEMBER, member)];
    titles.into_iter().find_map(|(name, title)| (name == *role).then_some(title)).unwrap_or(role.as_str())
}

/// The quotation marks around a name.
pub(super) fn quotation_marks(locale: &Locale) -> [char; 2] {
    match locale.language() {
        "de" => ['„', '“'],
        "ja" => ['「', '」'],
        _ => ['“', '”'],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale(tag: &str) -> Locale {
        Locale::parse(tag).unwrap()
    }

    #[test]
    fn times_have_the_form_of_their_language() {
        // 2026-03-01 00:05 in Tokyo.
        let time = OffsetDateTime::from_unix_timestamp(1_772_291_100)
            .unwrap()
            .to_offset(UtcOffset::from_hms(9, 0, 0).unwrap());
        for (tag, text) in [
            ("en", "28 February 2026, 15:05 UTC"),
            ("en-US", "28 February 2026, 15:05 UTC"),
            ("de", "28. Februar 2026, 15:05 Uhr (UTC)"),
            ("de-AT", "28. Februar 2026, 15:05 Uhr (UTC)"),
            ("ja", "2026年2月28日 15:05（UTC）"),
            ("fr", "2026-02-28 15:05 UTC"),
        ] {
            assert_eq!(format_time(&locale(tag), time), text);
        }
        for month in 1..=12_u8 {
            let name = time::Month::try_from(month).unwrap();
            let time = OffsetDateTime::UNIX_EPOCH.replace_month(name).unwrap();
            let english = name.to_string();
            assert!(format_time(&locale("en"), time).contains(&english));
            assert!(format_time(&locale("de"), time).contains(GERMAN_MONTHS[usize::from(month) - 1]));
        }
    }

    #[test]
    fn roles_that_always_exist_have_titles() {
        for (tag, role, title) in [
            ("en", RoleName::ADMIN, "admin"),
            ("de", RoleName::ADMIN, "Administrator/in"),
            ("de-CH", RoleName::OWNER, "Inhaber/in"),
            ("ja", RoleName::MEMBER, "メンバー"),
            ("ja", RoleName::from_stored("org:auditor"), "org:auditor"),
            ("fr", RoleName::MEMBER, "member"),
        ] {
            assert_eq!(role_title(&locale(tag), &role), title);
        }
    }
}
