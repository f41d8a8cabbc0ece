//! Locales: the languages of mails.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A language tag of BCP 47 such as `de`, `de-AT`, `pt-BR` or `zh-Hant-TW`: at most 35 characters, in the case that RFC 5646
/// §2.1.1 recommends. A well-formed tag says nothing about whether the language exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Locale(String);

/// What a locale looks like, for callers.
const SHAPE: &str = "a language tag of at most 35 characters, as de, de-AT or pt-BR";

impl Locale {
    /// Parses a tag in any case.
    ///
    /// # Errors
    /// If it is longer than 35 characters, or not a `langtag` of RFC 5646 §2.1 with a language of two or three letters.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > limits::LOCALE_CHARACTERS || !is_well_formed(text) {
            return Err(Invalid::new(SHAPE));
        }
        let mut tag = String::with_capacity(text.len());
        let mut is_in_extension = false;
        for subtag in text.split('-') {
            let is_first = tag.is_empty();
            if !is_first {
                tag.push('-');
            }
            is_in_extension |= subtag.len() == 1;
            match subtag.len() {
                2 if !is_first && !is_in_extension => tag.push_str(&subtag.to_ascii_uppercase()),
                4 if !is_in_extension => {
                    tag.push_str(&subtag[..1].to_ascii_uppercase());
                    tag.push_str(&subtag[1..].to_ascii_lowercase());
                }
                _ => tag.push_str(&subtag.to_ascii_lowercase()),
            }
        }
        Ok(Self(tag))
    }

    /// A tag of the datastore. Its rules were checked when it was written, by a program that may have newer ones.
    #[must_use]
    pub fn from_stored(tag: String) -> Self {
        Self(tag)
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The primary language: `de` of `de-AT`.
    #[must_use]
    pub fn language(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }

    /// The tag and its fallbacks, the most precise first: `zh-Hant-TW`, `zh-Hant`, `zh`. This is the order of the lookup of
    /// RFC 4647 §3.4, which removes a single character together with what follows it.
    pub fn fallbacks(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), |locale| {
            let (mut shorter, _) = locale.0.rsplit_once('-')?;
            while let Some((before, last)) = shorter.rsplit_once('-')
                && last.len() == 1
            {
                shorter = before;
            }
            Some(Self(shorter.to_owned()))
        })
    }

    /// Whether the language is written from right to left: by its script, or else by its language.
    #[must_use]
    pub fn is_right_to_left(&self) -> bool {
        let script = self
            .0
            .split('-')
            .skip(1)
            .take_while(|subtag| subtag.len() > 1)
            .find(|subtag| subtag.len() == 4 && subtag.bytes().all(|byte| byte.is_ascii_alphabetic()));
        script.map_or_else(
            || RIGHT_TO_LEFT_LANGUAGES.contains(&self.language()),
            |script| RIGHT_TO_LEFT_SCRIPTS.contains(&script),
        )
    }
}

/// Scripts in use that are written from right to left (Unicode 17, by `Bidi_Class`).
const RIGHT_TO_LEFT_SCRIPTS: [&str; 9] = ["Adlm", "Arab", "Aran", "Hebr", "Mand", "Nkoo", "Rohg", "Syrc", "Thaa"];

/// Languages that are written in such a script unless their tag names another one (the likely subtags of CLDR 48).
const RIGHT_TO_LEFT_LANGUAGES: [&str; 27] = [
    "aii", "ar", "arc", "ary", "arz", "bal", "bgn", "bqi", "ckb", "dv", "fa", "glk", "he", "iw", "ks", "lrc", "mzn",
    "nqo", "pnb", "ps", "rhg", "sd", "skr", "syr", "ug", "ur", "yi",
];

/// Whether the subtags have the order and the form of a `langtag`: language, extended languages, script, region, variants,
/// extensions, private use.
fn is_well_formed(text: &str) -> bool {
    let alphabetic = |subtag: &str| subtag.bytes().all(|byte| byte.is_ascii_alphabetic());
    let alphanumeric = |subtag: &str| subtag.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let digits = |subtag: &str| subtag.bytes().all(|byte| byte.is_ascii_digit());
    let mut subtags = text.split('-').peekable();
    if !subtags.next().is_some_and(|language| matches!(language.len(), 2 | 3) && alphabetic(language)) {
        return false;
    }
    for _ in 0..3 {
        subtags.next_if(|subtag| subtag.len() == 3 && alphabetic(subtag));
    }
    subtags.next_if(|subtag| subtag.len() == 4 && alphabetic(subtag));
    subtags.next_if(|subtag| (subtag.len() == 2 && alphabetic(subtag)) || (subtag.len() == 3 && digits(subtag)));
    let is_variant = |subtag: &str| match subtag.len() {
        4 => subtag.as_bytes()[0].is_ascii_digit() && alphanumeric(subtag),
        length => (5..=8).contains(&length) && alphanumeric(subtag),
    };
    while subtags.next_if(|subtag| is_variant(subtag)).is_some() {}
    while let Some(singleton) = subtags.next() {
        let is_private = singleton.eq_ignore_ascii_case("x");
        let shortest = if is_private { 1 } else { 2 };
        let is_part = |subtag: &&str| (shortest..=8).contains(&subtag.len()) && alphanumeric(subtag);
        if singleton.len() != 1 || !alphanumeric(singleton) || subtags.next_if(is_part).is_none() {
            return false;
        }
        while subtags.next_if(is_part).is_some() {}
    }
    true
}

impl fmt::Display for Locale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locale(text: &str) -> Locale {
        Locale::parse(text).unwrap()
    }

    #[test]
    fn tags_are_written_in_one_case() {
        for (text, tag) in [
            ("de", "de"),
            ("DE", "de"),
            ("de-at", "de-AT"),
            ("PT-br", "pt-BR"),
            ("es-419", "es-419"),
            ("ZH-hANT-tw", "zh-Hant-TW"),
            ("zh-yue-hk", "zh-yue-HK"),
            ("sl-ROZAJ-Biske-1994", "sl-rozaj-biske-1994"),
            ("de-ch-1901", "de-CH-1901"),
            ("EN-us-U-CA-Buddhist", "en-US-u-ca-buddhist"),
            ("en-us-u-fw-MON-x-AB-Cdef", "en-US-u-fw-mon-x-ab-cdef"),
            ("az-arab-x-aze-derbend", "az-Arab-x-aze-derbend"),
        ] {
            assert_eq!(locale(text).as_str(), tag);
            assert_eq!(locale(tag).as_str(), tag);
        }
        assert_eq!(locale(&format!("en-x-{}", ["abcdefgh"; 3].join("-"))).as_str().len(), 31);
        assert!(Locale::parse("en-x-abcdefgh-abcdefgh-abcdefgh-abc").is_ok());
    }

    #[test]
    fn texts_of_another_form_are_no_tags() {
        for text in [
            "",
            " ",
            "d",
            "german",
            "Deutsch",
            "de_AT",
            "de-",
            "-de",
            "de--AT",
            "de AT",
            "de-AT ",
            "dé",
            "日本語",
            "de-A",
            "d1",
            "de-AT-BE",
            "de-1",
            "de-12",
            "de-abcdefghi",
            "de-u",
            "de-u-a",
            "de-x",
            "en-u-ca-",
            "x-private",
            "i-klingon",
            "*",
            "de,en",
            "de;q=1",
            "C",
            "C.UTF-8",
            "../de",
            "de/AT",
            "de\0",
            "de\r\nBcc: x",
            "12",
            "419-es",
            "en-x-abcdefgh-abcdefgh-abcdefgh-abcd",
        ] {
            assert!(Locale::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fallbacks_end_at_the_language() {
        for (tag, fallbacks) in [
            ("de", &["de"][..]),
            ("de-AT", &["de-AT", "de"]),
            ("zh-Hant-TW", &["zh-Hant-TW", "zh-Hant", "zh"]),
            ("en-US-u-ca-buddhist", &["en-US-u-ca-buddhist", "en-US-u-ca", "en-US", "en"]),
            ("de-x-a-b", &["de-x-a-b", "de"]),
        ] {
            let found: Vec<String> = locale(tag).fallbacks().map(|locale| locale.0).collect();
            assert_eq!(found, fallbacks);
        }
    }

    #[test]
    fn the_script_decides_the_direction_and_else_the_language() {
        for tag in ["ar", "he-IL", "fa", "ur-PK", "az-Arab", "ckb-IQ", "pa-Arab-PK", "dv", "yi-Hebr"] {
            assert!(locale(tag).is_right_to_left(), "{tag}");
        }
        for tag in ["de", "ja", "ar-Latn", "az", "ks-Deva", "pa", "en-x-arab", "ug-Cyrl"] {
            assert!(!locale(tag).is_right_to_left(), "{tag}");
        }
    }
}
