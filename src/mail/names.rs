//! Sanitizes the names in mails. An attacker can invite a stranger to an organization called “Your account is locked,
//! see evil.example”. The names are the only part of the mail that its sender chooses, so they must read as names, and
//! no mail program may turn them into links or headers.

use crate::domain::text::is_invisible;

/// Returns the name in a form that is safe in a line of text and in a header:
///
/// - A run of white space of any kind becomes one space, so the name is one line.
/// - Control, direction and zero-width characters are removed. This includes U+200D: an emoji that it joins is shown as
///   its parts, which is better than a name that looks like another.
/// - A space is inserted after each of `. : / \ @` and their full-width variants, unless it is the last character. Mail
///   programs recognize links by these characters (`evil.example`, `https://…`, `//…`, `user@…`), but not before a
///   space. The name stays readable (`St. Gallen`, `Node. js`), and no normalization removes the space, as it would
///   replace a look-alike character.
pub(super) fn sanitize(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + name.len() / 4);
    let mut space_due = false;
    for c in name.chars() {
        if c.is_whitespace() {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
            space_due = false;
        } else if !is_invisible(c) {
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

/// The sanitized name in quotation marks. Quotation marks inside it are replaced, so that it cannot close them. The
/// marks are part of the value, so that a custom template cannot omit them.
pub(super) fn quoted(name: &str) -> String {
    let is_mark = |c| matches!(c, '"' | '“' | '”' | '„' | '‟' | '«' | '»' | '〝' | '〞' | '〟' | '＂');
    format!("“{}”", sanitize(name).replace(is_mark, "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_without_invisible_characters() {
        assert_eq!(sanitize("Ada\r\nBcc: eve@x.example"), "Ada Bcc: eve@ x. example");
        assert_eq!(sanitize("\u{202e}a\u{2066}b\u{200f}c\u{61c}d\u{200b}e\u{feff}\0\u{1b}"), "abcde");
        assert_eq!(sanitize("a \u{2028}\t\u{a0} b "), "a b");
        assert_eq!(sanitize("👩\u{200d}🚀"), "👩🚀");
        assert_eq!(sanitize("\u{200d}"), "");
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
        assert_eq!(quoted("Acme” has sent you “a present"), "“Acme' has sent you 'a present”");
    }
}
