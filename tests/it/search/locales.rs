//! One answer under every locale and every provider of locales.

use super::{run, search, search_paged};
use crate::harness::{Database, Server};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use roster::domain::{Name, SearchText, Slug};
use roster::server::ServerSettings;

/// Locales, as options of CREATE DATABASE. A Postgres has those of its operating system, and ICU if it was built so.
const LOCALES: [&str; 8] = [
    "LC_COLLATE 'C' LC_CTYPE 'C'",
    "LOCALE 'C.UTF-8'",
    "LOCALE 'en_US.UTF-8'",
    "LOCALE 'de_DE.UTF-8'",
    "LOCALE 'tr_TR.UTF-8'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'tr' LC_COLLATE 'C' LC_CTYPE 'C'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'de' LC_COLLATE 'C' LC_CTYPE 'C'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'tr-u-ks-level1' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
];

/// A migrated database with this locale; `None` if this Postgres does not have it.
async fn with_locale(locale: &str) -> Option<Database> {
    match Database::with_options(&format!("TEMPLATE template0 ENCODING 'UTF8' {locale}")).await {
        Ok(database) => {
            database.migrate().await;
            Some(database)
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("locale") || message.contains("ICU"), "{locale}: {message}");
            None
        }
    }
}

/// Names that a locale could compare in its own way, ordered by code point.
const NAMES: [&str; 12] = [
    "100%_\\ sure",
    "A\u{308}rger AG",
    "INSEL ısı",
    "Straße 9",
    "inselı",
    "strasse 10",
    "Ärger GmbH",
    "İnsel",
    "ΣΊΣΥΦΟΣ",
    "σίσυφος 2",
    "Данные",
    "ﬁnance",
];

/// Searches, each with the numbers of the names that it finds.
const SEARCHES: [(&str, &[usize]); 27] = [
    ("Ärger", &[1, 6]),
    ("ärger", &[1, 6]),
    ("ÄRGER GMBH", &[6]),
    ("a\u{308}RG", &[1, 6]),
    ("är", &[1, 6]),
    ("rg", &[]),
    // The slug is a transliteration.
    ("arger", &[1, 6]),
    ("STRASSE", &[3, 5]),
    ("straße", &[3, 5]),
    ("STRAẞE", &[3, 5]),
    ("ß", &[]),
    ("insel", &[2, 4, 7]),
    ("INSEL", &[2, 4, 7]),
    ("i\u{307}nsel", &[7]),
    ("İNSEL", &[7]),
    ("inselı", &[4]),
    ("INSELI", &[4]),
    ("σίσυφοσ", &[8, 9]),
    ("ΣΊΣΥΦΟΣ", &[8, 9]),
    ("σ", &[8, 9]),
    ("ДАННЫЕ", &[10]),
    ("анн", &[10]),
    ("FINANCE", &[11]),
    ("0%_\\ S", &[0]),
    ("%_\\", &[0]),
    ("1_", &[]),
    ("%%%", &[]),
];

#[tokio::test]
async fn a_search_has_the_same_answer_under_every_locale() {
    let mut locales = 0;
    for locale in LOCALES {
        let Some(database) = with_locale(locale).await else { continue };
        locales += 1;
        let server = Server::over(database, ServerSettings::default()).await;
        let (mut ada, mut operator) = (server.user("ada"), server.operator());
        for name in NAMES {
            ada.create(name).await;
        }
        // Former releases stored names as they were written. The folding is the same.
        run(&server.database, "UPDATE organizations SET name = 'A\u{308}rger AG' WHERE name = 'Ärger AG'").await;
        for (text, found) in SEARCHES {
            let found: Vec<&str> = found.iter().map(|number| NAMES[*number]).collect();
            assert_eq!(search(&mut operator, text).await, found, "{text:?} in {locale}");
        }
        // The list itself is ordered by code point.
        assert_eq!(search(&mut operator, "").await, NAMES, "{locale}");
    }
    assert!(locales > 1, "only the locale C was tested");
}

/// A text of these characters.
fn text(runner: &mut TestRunner, pattern: &'static str) -> String {
    pattern.new_tree(runner).unwrap().current()
}

#[tokio::test]
async fn a_search_finds_the_names_whose_folding_contains_its_folding() {
    for locale in [LOCALES[0], LOCALES[5]] {
        let Some(database) = with_locale(locale).await else { continue };
        let mut runner = TestRunner::deterministic();
        let server = Server::over(database, ServerSettings::default()).await;
        let (mut ada, mut operator) = (server.user("ada"), server.operator());
        let mut organizations = Vec::new();
        for _ in 0..90 {
            let mut names = std::iter::repeat_with(|| text(&mut runner, "[aAbBiIİıßsSẞσςΣé%_\\\\\u{301}]{1,9}"));
            let name = names.find(|name| Name::parse(name).is_ok()).unwrap();
            let request = crate::harness::organization(&name);
            let created = ada.organizations.create_organization(request).await.unwrap().into_inner();
            let created = created.organization.unwrap();
            organizations.push((created.name, created.id, created.slug));
        }
        // A third of the names is not folded, another third has the folding of another name.
        run(
            &server.database,
            "UPDATE organizations SET folded_name = NULL, folded_revision = NULL WHERE bucket % 3 = 0;
             UPDATE organizations SET folded_name = 'sasis', folded_revision = 0 WHERE bucket % 3 = 1",
        )
        .await;
        organizations.sort();
        for _ in 0..60 {
            let searched = text(&mut runner, "[abisIßΣé%_\\\\]{1,4}");
            let filter = SearchText::parse(&searched).unwrap();
            let finds = |name: &str, slug: &str| filter.finds(&Name::parse(name).unwrap(), &Slug::parse(slug).unwrap());
            let found = organizations.iter().filter(|(name, _, slug)| finds(name, slug));
            let found: Vec<&String> = found.map(|(name, ..)| name).collect();
            let answer = search_paged(&mut operator, &searched, 3).await;
            assert_eq!(answer.iter().collect::<Vec<_>>(), found, "{searched:?} in {locale}");
        }
    }
}
