//! Sanitizes the names in mails. An attacker can invite a stranger to an organization called “Your account is locked,
//! see evil.example”. The names are the only part of the mail that its sender chooses, so they must read as names, and
//! no mail program may turn them into links or headers.

use crate::domain::characters;

/// FIRST STRONG ISOLATE and POP DIRECTIONAL ISOLATE: the text between them has a direction that does not depend on the
/// text around it, and does not reorder that text (UAX #9).
pub(super) const ISOLATE: char = '\u{2068}';
pub(super) const END_OF_ISOLATE: char = '\u{2069}';

/// Returns the name in a form that is safe in a line of text and in a header:
///
/// - A run of white space of any kind becomes one space, so the name is one line.
/// - Control, direction and zero-width characters are removed, except where a script or an emoji needs them. A name that
///   was stored before names had this rule may have them elsewhere.
/// - A space is inserted after each of `. : / \ @` and their full-width variants, unless it is the last character. Mail
///   programs recognize links by these characters (`evil.example`, `https://…`, `//…`, `user@…`), but not before a
///   space. The name stays readable (`St. Gallen`, `Node. js`), and no normalization removes the space, as it would
///   replace a look-alike character.
pub(super) fn sanitize(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let mut text = String::with_capacity(name.len() + name.len() / 4);
    let mut space_due = false;
    for c in characters::without_misplaced(&name).chars() {
        if c == ' ' {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
            space_due = false;
        } else {
            if space_due {
                text.push(' ');
            }
            text.push(c);
            space_due = matches!(c, '.' | ':' | '/' | '\\' | '@' | '․' | '。' | '｡' | '．' | '：' | '／' | '＼' | '＠');
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// The sanitized name between quotation marks. Quotation marks inside it are replaced, so that it cannot close them. The
/// marks are part of the value, so that a custom template cannot omit them.
///
/// A name stands between [`ISOLATE`] and [`END_OF_ISOLATE`] if it has text from right to left, or if the text around it does
/// (`is_in_right_to_left`). A sanitized name contains none of the two.
pub(super) fn quoted(name: &str, [open, close]: [char; 2], is_in_right_to_left: bool) -> String {
    let is_mark = |c| matches!(c, '"' | '“' | '”' | '„' | '‟' | '«' | '»' | '〝' | '〞' | '〟' | '＂');
    // Brackets are ordinary characters of a name where they are not its quotation marks.
    let is_bracket = |c| open == '「' && matches!(c, '「' | '」' | '『' | '』' | '｢' | '｣' | '﹁' | '﹂' | '﹃' | '﹄');
    let name = sanitize(name).replace(|c| is_mark(c) || is_bracket(c), "'");
    if is_in_right_to_left || characters::has_right_to_left(&name) {
        format!("{open}{ISOLATE}{name}{END_OF_ISOLATE}{close}")
    } else {
        format!("{open}{name}{close}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_without_invisible_characters() {
        assert_eq!(sanitize("Ada\r\nBcc: eve@x.example"), "Ada Bcc: eve@ x. example");
        assert_eq!(sanitize("\u{202e}a\u{2066}b\u{200f}c\u{61c}d\u{200b}e\u{feff}\0\u{1b}"), "abcde");
        assert_eq!(sanitize("a \u{2028}\t\u{a0} b "), "a b");
        assert_eq!(sanitize("a \u{200b}\u{85}\u{2028} b\u{200b} "), "a b");
        assert_eq!(sanitize("Ac\u{200d}me\u{fe0f}"), "Acme");
        assert_eq!(sanitize("\u{200d}"), "");
    }

    #[test]
    fn scripts_and_emoji_keep_their_joiners() {
        for name in ["خانه\u{200c}ها", "ශ්\u{200d}රී", "👩\u{200d}🚀", "🏳\u{fe0f}\u{200d}🌈", "葛\u{e0100}城"]
        {
            assert_eq!(sanitize(name), name);
        }
        assert_eq!(sanitize("خانه\u{200c}.example"), "خانه. example");
    }

    #[test]
    fn names_contain_no_links() {
        assert_eq!(sanitize("see https://evil.example/x?y=1"), "see https: / / evil. example/ x?y=1");
        assert_eq!(sanitize("www.evil.example"), "www. evil. example");
        assert_eq!(sanitize("10.0.0.1"), "10. 0. 0. 1");
        assert_eq!(sanitize("evil．example"), "evil． example");
        assert_eq!(sanitize("evil\u{200b}.\u{200b}example"), "evil. example");
        assert_eq!(sanitize("Dr. Who Inc."), "Dr. Who Inc.");
    }

    #[test]
    fn names_cannot_close_their_quotation_marks() {
        let (english, german, japanese) = (['“', '”'], ['„', '“'], ['「', '」']);
        assert_eq!(quoted("Acme” has sent you “a present", english, false), "“Acme' has sent you 'a present”");
        assert_eq!(quoted("Acme“ hat „ein Geschenk", german, false), "„Acme' hat 'ein Geschenk“");
        for bracket in ['「', '」', '『', '』', '｢', '｣', '﹁', '﹂', '﹃', '﹄', '“', '"'] {
            assert_eq!(quoted(&format!("株{bracket}空"), japanese, false), "「株'空」");
        }
        assert_eq!(quoted("株式会社「空」", english, false), "“株式会社「空」”");
    }

    #[test]
    fn names_are_isolated_where_a_direction_changes() {
        const MARKS: [char; 2] = ['“', '”'];
        assert_eq!(quoted("Acme", MARKS, true), "“\u{2068}Acme\u{2069}”");
        assert_eq!(quoted("Ac\u{61c}me\u{200f}", MARKS, false), "“Acme”");
        assert_eq!(quoted("שלום\u{2069}”", MARKS, false), "“\u{2068}שלום'\u{2069}”");
    }
}
