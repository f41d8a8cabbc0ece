//! Case folding: how the search of organizations compares texts.
//!
//! The folding depends on no locale and on no database, so that a search has the same answer everywhere. The datastore
//! stores folded names. Unicode never changes the folding or the normalization of an assigned character, so a stored
//! folding stays valid when the Unicode data of this program are updated.

use super::characters::{JOINER, NON_JOINER};
use super::text::bounded;
use super::{Invalid, Name, Slug, limits};
use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// Folds a text: full case folding without the Turkic mappings, in normalization form C.
///
/// Texts that differ only in case, or that are canonically equivalent, have the same folding: `Straße` and `STRASSE`,
/// `é` and `e` with U+0301. The decomposition before the folding is that of Unicode 3.13, D145: it brings marks that
/// fold to letters (U+0345) into one order. The folding is idempotent.
#[must_use]
pub fn fold(text: &str) -> String {
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed);
    ComposingNormalizerBorrowed::new_nfc().normalize(&folded).into_owned()
}

/// The text of a search, folded; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchText(String);

impl SearchText {
    /// Parses a text that may stand in a name.
    ///
    /// Joiners at its end are ignored: what they join may not be typed yet.
    ///
    /// # Errors
    /// If it is longer than a name, or has characters that a name does not have. It need not have a visible character.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim_end_matches([NON_JOINER, JOINER]);
        bounded(text, "a search", limits::NAME_CHARACTERS).map(|text| Self(fold(&text)))
    }

    /// The folded text.
    #[must_use]
    pub fn folded(&self) -> &str {
        &self.0
    }

    /// Whether the text may stand anywhere in a name or a slug. A text of fewer than
    /// [`limits::SEARCH_ANYWHERE_CHARACTERS`] characters must stand at the beginning.
    #[must_use]
    pub fn matches_anywhere(&self) -> bool {
        self.0.chars().nth(limits::SEARCH_ANYWHERE_CHARACTERS - 1).is_some()
    }

    /// Whether the search finds an organization with this name and slug.
    #[must_use]
    pub fn finds(&self, name: &Name, slug: &Slug) -> bool {
        // The folding of a slug is the slug.
        self.stands_in(slug.as_str()) || self.stands_in(&fold(name.as_str()))
    }

    fn stands_in(&self, folded: &str) -> bool {
        if self.matches_anywhere() { folded.contains(&self.0) } else { folded.starts_with(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nfd(text: &str) -> String {
        DecomposingNormalizerBorrowed::new_nfd().normalize(text).into_owned()
    }

    fn finds(search: &str, name: &str) -> bool {
        let slug = Slug::from_name("unrelated").unwrap();
        SearchText::parse(search).unwrap().finds(&Name::parse(name).unwrap(), &slug)
    }

    #[test]
    fn texts_that_differ_in_case_or_in_their_form_fold_alike() {
        for (text, folded) in [
            ("Ärger GmbH", "ärger gmbh"),
            ("A\u{308}RGER", "ärger"),
            ("Straße", "strasse"),
            ("STRASSE", "strasse"),
            ("STRA\u{1e9e}E", "strasse"),
            // Final sigma, sigma.
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
            ("σίσυφος", "σίσυφοσ"),
            ("ﬁnance ﬀ", "finance ff"),
            // Long s and a ligature with it.
            ("ſt ﬅ", "st st"),
            ("ŉ", "ʼn"),
            // Kelvin, Ångström, Ohm, micro.
            ("\u{212a}\u{212b}\u{2126}\u{b5}", "kåωμ"),
            // Not Turkic: I folds to i; the dotted capital keeps its dot; the dotless letter stays.
            ("ISI", "isi"),
            ("İ", "i\u{307}"),
            ("ı", "ı"),
            // Cherokee folds to upper case.
            ("\u{ab70}", "\u{13a0}"),
            ("𐐀", "𐐨"),
            // Marks in another order, and the iota below, which folds to a letter.
            ("a\u{323}\u{307}", "ạ\u{307}"),
            ("a\u{307}\u{323}", "ạ\u{307}"),
            ("ᾼ", "αι"),
            ("Α\u{345}\u{301}", "άι"),
            // Hangul, decomposed.
            ("\u{1112}\u{1161}\u{11ab}", "한"),
            ("", ""),
        ] {
            assert_eq!(fold(text), folded, "{text:?}");
        }
        assert_ne!(fold("e"), fold("é"));
        assert_ne!(fold("ｆ"), fold("f"), "compatibility forms stay different");
    }

    #[test]
    fn every_character_has_a_stable_folding_of_bounded_length() {
        // Behind the compatibility ideographs, no character changes in a folding or in a normalization.
        for c in '\0'..='\u{2fa1f}' {
            let text = c.to_string();
            let folded = fold(&text);
            // A name of 200 characters fits into an index of Postgres, whose entries have at most 2704 bytes.
            assert!(folded.len() <= 12, "{c:?}");
            if folded == text {
                continue;
            }
            // The dotless i has the capital I only in Turkic languages. It folds to itself.
            let (upper, lower) = (text.to_uppercase(), text.to_lowercase());
            assert_eq!((fold(&upper), fold(&lower)), (folded.clone(), folded), "{c:?}");
            for text in [text, format!("a{c}\u{345}"), format!("Ά\u{345}{c}")] {
                let folded = fold(&text);
                assert_eq!((fold(&folded), fold(&nfd(&text))), (folded.clone(), folded), "{c:?}");
            }
        }
    }

    #[test]
    fn short_texts_match_at_the_beginning_and_long_ones_anywhere() {
        assert!(finds("gmb", "Ärger GmbH") && finds("H", "hugo") && finds("är", "A\u{308}rger"));
        assert!(!finds("mb", "Ärger GmbH") && !finds("r", "Ärger") && !finds("gmbx", "Ärger GmbH"));
        // Characters are counted after folding.
        assert!(!finds("ß", "Straße") && finds("aß", "assel") && finds("aß", "Strasse"));
        assert!(finds("İs", "sis i\u{307}s") && finds("e\u{301}a", "éa") && !finds("e\u{301}a", "réa"));
    }

    #[test]
    fn unfinished_words_are_searched() {
        assert!(finds("خانه\u{200c}", "خانه\u{200c}ها") && finds("👩\u{200d}", "👩\u{200d}🚀"));
        assert!(finds("خانه\u{200c}ها", "خانه\u{200c}ها") && !finds("خانه\u{200c}ها", "خانهها"));
        // The virama of a conjunct that is not complete, and a vowel sign.
        assert!(finds("श्", "श्री") && SearchText::parse("ा").is_ok());
        for bad in ["", "\u{200c}", "a\u{202e}b", "Ac\u{200c}me", "a\nb"] {
            assert!(SearchText::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slugs_match_like_names() {
        let slug = Slug::parse("acme-org").unwrap();
        let finds = |search: &str| SearchText::parse(search).unwrap().finds(&Name::parse("x").unwrap(), &slug);
        assert!(finds("ACME") && finds("E-o") && finds("ac"));
        assert!(!finds("or") && !finds("acme_org"));
    }

    proptest! {
        #[test]
        fn the_folding_ignores_case_and_form(text in "[a-zA-ZäÄßẞéÉşŞİΣςσάΆǅﬃ가힣дД ]{0,20}") {
            let folded = fold(&text);
            prop_assert_eq!(fold(&folded), folded.clone());
            for variant in [nfd(&text), text.to_uppercase(), text.to_lowercase(), nfd(&text.to_uppercase())] {
                prop_assert_eq!(fold(&variant), folded.clone());
            }
        }

        #[test]
        fn the_folding_of_any_text_is_idempotent(text in any::<String>()) {
            let folded = fold(&text);
            prop_assert_eq!(fold(&nfd(&text)), folded.clone());
            prop_assert_eq!(fold(&folded), folded);
        }
    }
}
