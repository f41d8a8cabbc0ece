//! The characters of names and of other texts that people read: their normal form, and which of them are invisible.
//!
//! The properties are those of the Unicode character database. They only grow for assigned characters that matter here,
//! so that a text which was valid stays valid.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{
    BidiClass, CanonicalCombiningClass, DefaultIgnorableCodePoint, Emoji, EmojiModifier, ExtendedPictographic,
    GeneralCategory, GeneralCategoryGroup, IndicSyllabicCategory, JoiningType, UnifiedIdeograph,
};
use icu_properties::{CodePointMapData, CodePointSetData};

/// ZERO WIDTH NON-JOINER: keeps letters apart that would join.
pub const NON_JOINER: char = '\u{200c}';
/// ZERO WIDTH JOINER: joins letters, and emoji to one emoji.
pub const JOINER: char = '\u{200d}';

/// Letters and symbols without ink. Source: their names and glyphs in the code charts of Unicode 17.
const BLANK: [char; 5] = [
    // BRAILLE PATTERN BLANK
    '\u{2800}',
    // OBJECT REPLACEMENT CHARACTER, which stands for something that is not in the text
    '\u{fffc}',
    // EGYPTIAN HIEROGLYPH FULL BLANK and HALF BLANK
    '\u{13441}',
    '\u{13442}',
    // MUSICAL SYMBOL NULL NOTEHEAD
    '\u{1d159}',
];

/// The text in normalization form C.
#[must_use]
pub fn compose(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned()
}

/// Whether a character is invisible, or reorders or separates the text around it: control characters, separators of lines
/// and paragraphs, `Default_Ignorable_Code_Point`, and the marks of interlinear annotations. Such characters let one
/// text pass for another.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}')
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Whether a character is white space, or a letter or a symbol without ink.
#[must_use]
pub fn is_blank(c: char) -> bool {
    c.is_whitespace() || BLANK.contains(&c)
}

/// Whether a text has at least one letter, number, punctuation mark or symbol with ink.
#[must_use]
pub fn has_ink(text: &str) -> bool {
    const WITH_INK: GeneralCategoryGroup = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::Punctuation)
        .union(GeneralCategoryGroup::Symbol);
    text.chars().any(|c| WITH_INK.contains(category(c)) && !is_invisible(c) && !BLANK.contains(&c))
}

/// Whether a text has an invisible character where no script and no emoji needs it.
#[must_use]
pub fn has_misplaced(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    (0..characters.len()).any(|index| is_misplaced(&characters, index))
}

/// The text without the invisible characters that no script and no emoji needs at their place.
#[must_use]
pub fn without_misplaced(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    (0..characters.len()).filter(|index| !is_misplaced(&characters, *index)).map(|index| characters[index]).collect()
}

/// Whether a text has a character that is written from right to left, or a number of such a script.
#[must_use]
pub fn has_right_to_left(text: &str) -> bool {
    let classes = CodePointMapData::<BidiClass>::new();
    let is_right_to_left =
        |c| matches!(classes.get(c), BidiClass::RightToLeft | BidiClass::ArabicLetter | BidiClass::ArabicNumber);
    text.chars().any(is_right_to_left)
}

fn is_misplaced(characters: &[char], index: usize) -> bool {
    let c = characters[index];
    if !is_invisible(c) {
        return false;
    }
    let (before, after) = (&characters[..index], &characters[index + 1..]);
    let is_needed = match c {
        NON_JOINER => breaks_cursive_connection(before, after) || breaks_conjunct(before, after),
        JOINER => follows_virama(before, after) || joins_to_virama(before, after) || joins_emoji(before, after),
        // Variation selectors: text and emoji presentation, and variants of ideographs.
        '\u{fe0e}' | '\u{fe0f}' => has_presentation(before, after),
        '\u{fe00}'..='\u{fe0d}' | '\u{e0100}'..='\u{e01ef}' => {
            before.last().is_some_and(|c| CodePointSetData::new::<UnifiedIdeograph>().contains(*c))
        }
        // The variation selectors of Mongolian, and its vowel separator before a final A or E (The Unicode Standard, 13.5).
        '\u{180b}'..='\u{180d}' | '\u{180f}' => before.last().is_some_and(|c| is_mongolian(*c)),
        '\u{180e}' => {
            let is_vowel = |c: &char| matches!(c, '\u{1820}' | '\u{1821}');
            before.last().is_some_and(|c| is_mongolian(*c)) && after.first().is_some_and(is_vowel)
        }
        '\u{e0020}'..='\u{e007f}' => is_in_flag(before, c, after),
        _ => false,
    };
    !is_needed
}

fn is_mongolian(c: char) -> bool {
    matches!(c, '\u{1820}'..='\u{18aa}')
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn is_letter(c: char) -> bool {
    GeneralCategoryGroup::Letter.contains(category(c))
}

fn is_nonspacing(c: char) -> bool {
    category(c) == GeneralCategory::NonspacingMark
}

fn combining_class(c: char) -> CanonicalCombiningClass {
    CodePointMapData::<CanonicalCombiningClass>::new().get(c)
}

fn is_virama(c: char) -> bool {
    combining_class(c) == CanonicalCombiningClass::Virama
}

/// Nonspacing marks that may stand beside a joiner: `M₁` of UAX #31.
fn is_reordered(c: char) -> bool {
    is_nonspacing(c) && combining_class(c) != CanonicalCombiningClass::NotReordered
}

/// UAX #31, context A1: U+200C between letters of a cursive script that would join.
fn breaks_cursive_connection(before: &[char], after: &[char]) -> bool {
    let types = CodePointMapData::<JoiningType>::new();
    let is_opaque = |c: &&char| types.get(**c) != JoiningType::Transparent;
    let left = before.iter().rev().find(is_opaque).map(|c| types.get(*c));
    let right = after.iter().find(is_opaque).map(|c| types.get(*c));
    matches!(left, Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(right, Some(JoiningType::RightJoining | JoiningType::DualJoining))
}

/// UAX #31, context A2: U+200C between a virama and a letter, which would form a conjunct.
fn breaks_conjunct(before: &[char], after: &[char]) -> bool {
    ends_with_virama(before) && after.iter().find(|c| !is_reordered(**c)).is_some_and(|c| is_letter(*c))
}

/// UAX #31, context B: U+200D behind a virama, and not before a dependent vowel.
fn follows_virama(before: &[char], after: &[char]) -> bool {
    let classes = CodePointMapData::<IndicSyllabicCategory>::new();
    let is_vowel = |c: &char| classes.get(*c) == IndicSyllabicCategory::VowelDependent;
    // Invisible characters between the two may be removed.
    let next = after.iter().find(|c| !is_invisible(**c));
    ends_with_virama(before) && !next.is_some_and(is_vowel)
}

/// Whether a text ends with a letter and a virama, and marks behind each.
fn ends_with_virama(text: &[char]) -> bool {
    let virama = text.iter().rposition(|c| is_virama(*c) || !is_reordered(*c)).filter(|index| is_virama(text[*index]));
    let Some(virama) = virama else { return false };
    text[..virama].iter().rfind(|c| !is_nonspacing(**c)).is_some_and(|c| is_letter(*c))
}

/// U+200D between RA and the virama keeps the form of RA in Bengali and Kannada (The Unicode Standard, 12.2 and 12.8).
/// UAX #31 does not have this context.
fn joins_to_virama(before: &[char], after: &[char]) -> bool {
    matches!((before.last(), after.first()), (Some('\u{9b0}'), Some('\u{9cd}')) | (Some('\u{cb0}'), Some('\u{ccd}')))
}

/// A ZWJ sequence of emoji (UTS #51, ED-16): U+200D between emoji, the first with its presentation and skin tone.
fn joins_emoji(before: &[char], after: &[char]) -> bool {
    let is_extension = |c: char| c == '\u{fe0f}' || CodePointSetData::new::<EmojiModifier>().contains(c);
    let is_emoji = |c: &char| CodePointSetData::new::<ExtendedPictographic>().contains(*c);
    before.iter().rfind(|c| !is_extension(**c)).is_some_and(is_emoji) && after.first().is_some_and(is_emoji)
}

/// U+FE0E and U+FE0F behind an emoji, or within a keycap (UTS #51, ED-9a and ED-14c).
fn has_presentation(before: &[char], after: &[char]) -> bool {
    let is_emoji = |c: &char| {
        let is_pictographic = CodePointSetData::new::<ExtendedPictographic>().contains(*c);
        CodePointSetData::new::<Emoji>().contains(*c) && (is_pictographic || after.first() == Some(&'\u{20e3}'))
    };
    before.last().is_some_and(is_emoji)
}

/// The flag of a subdivision, such as Scotland (UTS #51, annex C): a black flag, three to six letters and digits as tags,
/// and the end tag.
fn is_in_flag(before: &[char], tag: char, after: &[char]) -> bool {
    let is_tag = |c: &char| matches!(c, '\u{e0020}'..='\u{e007f}');
    let begin = before.iter().rposition(|c| !is_tag(c));
    let Some(begin) = begin.filter(|begin| before[*begin] == '\u{1f3f4}') else { return false };
    let tags = before[begin + 1..].iter().chain([&tag]).chain(after.iter().take_while(|c| is_tag(c)));
    let tags: Vec<char> = tags.copied().collect();
    let is_word = |c: &char| matches!(c, '\u{e0030}'..='\u{e0039}' | '\u{e0061}'..='\u{e007a}');
    tags.split_last()
        .is_some_and(|(last, word)| *last == '\u{e007f}' && (3..=6).contains(&word.len()) && word.iter().all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts that people write, with the script or the kind of sequence that needs their invisible characters.
    const WRITTEN: [(&str, &str); 39] = [
        ("Persian, A1", "خانه\u{200c}های ایرانی"),
        ("Persian, A1", "می\u{200c}خواهم"),
        ("Persian, A1 before ALEF", "نرم\u{200c}افزار"),
        ("Persian, A1 with marks", "مَی\u{651}\u{200c}\u{64e}خ"),
        ("Arabic", "مُحَمَّد"),
        ("Hebrew", "בְּרֵאשִׁית"),
        ("Hindi", "श्रीमती प्रिया"),
        ("Hindi, A2", "क्\u{200c}ष"),
        ("Hindi, A2 with a nukta", "क\u{93c}्\u{200c}ष"),
        ("Hindi, B", "क्\u{200d}ष"),
        ("Marathi, B", "दर्\u{200d}या"),
        ("Sinhala, B", "ශ්\u{200d}රී ලංකා"),
        ("Malayalam, B at the end", "അവന\u{d4d}\u{200d}"),
        ("Malayalam, B before a blank", "അവന\u{d4d}\u{200d} വന്നു"),
        ("Tamil", "தமிழ்"),
        ("Tamil, A2", "க்\u{200c}ஷ"),
        ("Bengali", "র\u{200d}\u{9cd}যাব"),
        ("Kannada", "ರ\u{200d}\u{ccd}ಯ"),
        ("Thai", "ผู้หญิง"),
        ("Khmer", "ខ្មែរ"),
        ("Burmese", "မြန်မာ"),
        ("Mongolian", "ᠮᠣᠩᠭᠣᠯ\u{180e}ᠠ"),
        ("Mongolian", "ᠭ\u{180b}ᠠ"),
        ("Japanese", "葛\u{e0100}城"),
        ("Chinese", "㐂\u{fe00}"),
        ("Hangul", "한국어"),
        ("Vietnamese", "Nguyễn Thị Ánh"),
        ("emoji", "👩\u{200d}🚀"),
        ("emoji with a skin tone", "👩🏽\u{200d}🚀"),
        ("emoji with a presentation", "🕵\u{fe0f}\u{200d}♂\u{fe0f}"),
        ("emoji", "👩\u{200d}❤\u{fe0f}\u{200d}💋\u{200d}👨"),
        ("emoji", "👨\u{200d}👩\u{200d}👧\u{200d}👦"),
        ("emoji", "🏳\u{fe0f}\u{200d}🌈 🏳\u{fe0f}\u{200d}⚧\u{fe0f} 🏴\u{200d}☠\u{fe0f}"),
        ("text presentation", "❤\u{fe0e}"),
        ("keycap", "1\u{fe0f}\u{20e3} #\u{fe0f}\u{20e3}"),
        ("flag", "🇮🇷 🇩🇪"),
        ("flag of Scotland", "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}"),
        ("flag of Texas", "🏴\u{e0075}\u{e0073}\u{e0074}\u{e0078}\u{e007f}!"),
        (
            "flag of Scotland twice",
            "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
        ),
    ];

    /// Texts with an invisible character that nothing needs at its place.
    const MISPLACED: [(&str, &str); 31] = [
        ("alone", "\u{200d}"),
        ("alone", "\u{200c}"),
        ("between Latin letters", "Ac\u{200c}me"),
        ("between Latin letters", "Ac\u{200d}me"),
        ("at the beginning", "\u{200c}خانه"),
        ("at the end", "خانه\u{200c}"),
        ("twice", "می\u{200c}\u{200c}خواهم"),
        ("before a blank", "خانه\u{200c} ها"),
        ("behind a letter that does not join", "دارو\u{200c}خانه"),
        ("between Persian letters", "خا\u{200d}نه"),
        ("between Hindi letters", "क\u{200c}ष"),
        ("between Hindi letters", "क\u{200d}ष"),
        ("A2 without a letter behind", "क्\u{200c}"),
        ("A2 without a letter before", "्\u{200c}ष"),
        ("B before a dependent vowel", "क्\u{200d}ा"),
        ("B without a letter", "1्\u{200d}ष"),
        ("Thai", "ผู\u{200b}้หญิง"),
        ("behind an emoji", "🚀\u{200d}"),
        ("before an emoji", "a\u{200d}🚀"),
        ("behind a flag", "🇮🇷\u{200d}🇩🇪"),
        ("presentation of a letter", "a\u{fe0f}"),
        ("presentation of a digit", "1\u{fe0f}"),
        ("presentation twice", "❤\u{fe0f}\u{fe0f}"),
        ("variant of a letter", "a\u{fe00}"),
        ("variant of a letter", "a\u{e0100}"),
        ("Mongolian beside Latin", "a\u{180b}"),
        ("tags behind a letter", "a\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}"),
        ("tags without an end", "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}"),
        ("tags that are no code", "🏴\u{e0067}\u{e0062}\u{e0020}\u{e0063}\u{e0074}\u{e007f}"),
        ("too many tags", "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e0074}\u{e0074}\u{e007f}"),
        ("an end tag", "🏴\u{e007f}"),
    ];

    #[test]
    fn scripts_and_emoji_have_the_invisible_characters_that_they_need() {
        for (kind, text) in WRITTEN {
            assert!(!has_misplaced(text) && !has_misplaced(&compose(text)) && has_ink(text), "{kind}: {text:?}");
            assert_eq!(without_misplaced(text), text, "{kind}");
        }
    }

    #[test]
    fn invisible_characters_are_misplaced_elsewhere() {
        for (kind, text) in MISPLACED {
            assert!(has_misplaced(text), "{kind}: {text:?}");
            assert!(!has_misplaced(&without_misplaced(text)), "{kind}: {text:?}");
        }
    }

    #[test]
    fn every_invisible_character_is_misplaced_between_latin_letters() {
        for c in '\0'..=char::MAX {
            let is_ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c);
            let category = category(c);
            let is_format = category == GeneralCategory::Format
                && !matches!(c,
                // Signs that show above or around numbers, and the layout of hieroglyphs.
                '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{110bd}' | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}');
            let is_separator = matches!(category, GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator);
            let is_refused = is_ignorable || is_format || is_separator || c.is_control();
            assert_eq!(has_misplaced(&format!("a{c}b")), is_refused, "{c:?}");
            assert_eq!(is_invisible(c), is_refused, "{c:?}");
        }
    }

    #[test]
    fn only_letters_numbers_punctuation_and_symbols_have_ink() {
        for text in ["a", "٣", "!", "€", "🚀", "한", "\u{200d}a", "\u{2800}⠁"] {
            assert!(has_ink(text), "{text:?}");
        }
        for text in ["", " ", "\u{200d}", "\u{2800}", "\u{fe0f}", "\u{1d159}", "\u{301}", "\u{3164}", "\u{ffa0}"] {
            assert!(!has_ink(text), "{text:?}");
        }
        for text in ["\u{115f}\u{1160}", "\u{3000}", "\u{e000}", "\u{10ffff}", "\u{fffc}", "\u{13441}\u{13442}"] {
            assert!(!has_ink(text), "{text:?}");
        }
    }

    #[test]
    fn texts_from_right_to_left_are_recognized() {
        for text in ["שלום", "Acme שלום", "محمد", "٣٤", "ܫܠܡܐ", "\u{1e900}"] {
            assert!(has_right_to_left(text), "{text:?}");
        }
        for text in ["", "Acme 34", "株式会社", "हिन्दी", "🚀"] {
            assert!(!has_right_to_left(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_misplaced_after_the_removal(
            text in "[a1क्ा\u{200b}\u{200c}\u{200d}\u{fe0f}\u{20e3}خوم\u{64e}❤🏽🏴\u{e0067}\u{e007f}\u{180b}ᠭ葛\u{e0100}ര\u{d4d} ]{0,12}"
        ) {
            let removed = without_misplaced(&text);
            prop_assert!(!has_misplaced(&removed), "{:?}", removed);
            prop_assert!(text.chars().filter(|c| !is_invisible(*c)).eq(removed.chars().filter(|c| !is_invisible(*c))));
        }
    }
}
