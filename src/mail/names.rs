//! Names in mail. Somebody invites a stranger to an organization called “Your account is locked, see evil.example”: the
//! name is the only part of the mail that its sender chooses, so it must read as a name and do nothing.

use crate::domain::text::is_invisible;

/// A name that can stand in a line of text or in a header:
///
/// - white space of any kind is one space, so it is one line;
/// - control, direction and zero-width characters are gone, also U+200D: an emoji that it joins shows as its parts,
///   which is better than a name that looks like another;
/// - a space follows each of `. : / \ @` and their full-width kin that something follows. Mail programs turn text into
///   links by these alone (`evil.example`, `https://…`, `//…`, `user@…`), and by none of them before a space. It stays
///   readable (`St. Gallen`, `Node. js`), and unlike a look-alike character nothing folds it back.
pub(super) fn clean(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + name.len() / 4);
    let mut breaks = false;
    for c in name.chars() {
        if c.is_whitespace() {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
            breaks = false;
        } else if !is_invisible(c) {
            if breaks {
                text.push(' ');
            }
            text.push(c);
            breaks = matches!(c, '.' | ':' | '/' | '\\' | '@' | '․' | '。' | '｡' | '．' | '：' | '／' | '＼' | '＠');
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// A clean name in quotation marks that it cannot close. The marks are part of the value, so that a template of a
/// deployment's own cannot forget them.
pub(super) fn quoted(name: &str) -> String {
    let is_mark = |c| matches!(c, '"' | '“' | '”' | '„' | '‟' | '«' | '»' | '〝' | '〞' | '〟' | '＂');
    format!("“{}”", clean(name).replace(is_mark, "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_without_hidden_characters() {
        assert_eq!(clean("Ada\r\nBcc: eve@x.example"), "Ada Bcc: eve@ x. example");
        assert_eq!(clean("\u{202e}a\u{2066}b\u{200f}c\u{61c}d\u{200b}e\u{feff}\0\u{1b}"), "abcde");
        assert_eq!(clean("a \u{2028}\t\u{a0} b "), "a b");
        assert_eq!(clean("👩\u{200d}🚀"), "👩🚀");
        assert_eq!(clean("\u{200d}"), "");
    }

    #[test]
    fn a_name_is_no_link() {
        assert_eq!(clean("see https://evil.example/x?y=1"), "see https: / / evil. example/ x?y=1");
        assert_eq!(clean("www.evil.example"), "www. evil. example");
        assert_eq!(clean("10.0.0.1"), "10. 0. 0. 1");
        assert_eq!(clean("evil．example"), "evil． example");
        assert_eq!(clean("evil\u{200b}.\u{200b}example"), "evil. example");
        assert_eq!(clean("Dr. Who Inc."), "Dr. Who Inc.");
    }

    #[test]
    fn a_name_does_not_close_its_quotation_marks() {
        assert_eq!(quoted("Acme” has sent you “a present"), "“Acme' has sent you 'a present”");
    }
}
