//! E-mail addresses and the normal form by which they are compared.

use super::characters::{self, JOINER, NON_JOINER};
use super::{Invalid, limits};
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use serde::{Deserialize, Serialize};

/// Characters whose normalization form C is ASCII: the Greek question mark, the Greek varia and the Kelvin sign. The normal
/// form would name another mailbox. Former releases accepted the Kelvin sign.
const ASCII_IN_DISGUISE: [char; 3] = ['\u{37e}', '\u{1fef}', '\u{212a}'];

/// An address as the caller wrote it, in normalization form C, and its normal form.
///
/// The normal form has lower-case ASCII letters and the domain in strict IDNA. It is not lossy: dots and plus signs
/// stay, and Unicode letters are not case-folded, because that would merge different mailboxes. Texts that are
/// canonically equivalent name one mailbox (RFC 6532 §3.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmailAddress {
    given: String,
    normal: String,
}

impl EmailAddress {
    /// Parses an address.
    ///
    /// The part before the @ has letters of every script with their marks, numbers, ``!#$%&'*+-/=?^_`{|}~`` and dots, in
    /// any number and also before the @, as Japanese carriers hand them out, but not at the beginning. It has U+200C and
    /// U+200D where a script needs them. It is never in quotation marks; [`Self::local_for_mail`] adds those.
    ///
    /// # Errors
    /// If the text is not of the form `local@domain`, with a domain name that has a dot, and at most 254 bytes.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        let (local, domain) =
            text.rsplit_once('@').ok_or_else(|| Invalid::new("an address has the form name@domain"))?;
        if local.contains(ASCII_IN_DISGUISE) {
            return Err(Invalid::new("the part before the @ has a character that looks like an ASCII character"));
        }
        let local = characters::compose(local);
        if !(local.chars().all(stands_in_local) && !local.starts_with('.') && !characters::has_misplaced(&local)) {
            return Err(Invalid::new(
                "the part before the @ is letters, digits, !#$%&'*+-/=?^_`{|}~ and dots, but not at the beginning",
            ));
        }
        if local.is_empty() || quoted_where_needed(&local).len() > limits::EMAIL_LOCAL_BYTES {
            return Err(Invalid::new("the part before the @ has 1 to 64 bytes"));
        }
        let ascii_domain = idna::domain_to_ascii_strict(domain)
            .ok()
            .filter(|domain| domain.contains('.') && !domain.ends_with('.'))
            .ok_or_else(|| Invalid::new("the part after the @ is not a domain name"))?;
        let given = format!("{local}@{}", characters::compose(domain));
        if given.len() > limits::EMAIL_BYTES {
            return Err(Invalid::new("an address has at most 254 bytes"));
        }
        // Lower case can compose with a mark where the capital does not.
        let normal_local = characters::compose(&local.to_ascii_lowercase());
        Ok(Self { given, normal: format!("{normal_local}@{ascii_domain}") })
    }

    /// An address of the datastore. Its rules were checked when it was written, by a program that may have other ones: an
    /// address that this program would not accept is compared by its lower-case ASCII letters only.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self::parse(&text).unwrap_or_else(|_| {
            let (local, domain) = text.rsplit_once('@').unwrap_or((&text, ""));
            let domain = idna::domain_to_ascii_strict(domain).unwrap_or_else(|_| domain.to_owned());
            Self { normal: format!("{}@{domain}", local.to_ascii_lowercase()), given: text }
        })
    }

    /// The address as the caller wrote it, trimmed and in normalization form C.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The normal form, by which addresses are compared.
    #[must_use]
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// The part before the @ as mail needs it: as its owner spells it, and in quotation marks if its dots need them
    /// (RFC 5321 §4.1.2).
    #[must_use]
    pub fn local_for_mail(&self) -> String {
        let (local, _) = self.given.rsplit_once('@').unwrap_or_default();
        quoted_where_needed(local)
    }
}

fn stands_in_local(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c);
    }
    let is_mark = || GeneralCategoryGroup::Mark.contains(CodePointMapData::<GeneralCategory>::new().get(c));
    let is_visible = || !characters::is_invisible(c) && (c.is_alphanumeric() || is_mark());
    matches!(c, NON_JOINER | JOINER) || is_visible()
}

fn quoted_where_needed(local: &str) -> String {
    if local.split('.').any(str::is_empty) { format!("\"{local}\"") } else { local.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        EmailAddress::parse(text).ok().map(|address| address.normal)
    }

    #[test]
    fn addresses_have_one_normal_form() {
        assert_eq!(normal(" Ada@Example.COM "), Some("ada@example.com".to_owned()));
        assert_eq!(normal("ada@bücher.example"), Some("ada@xn--bcher-kva.example".to_owned()));
        assert_ne!(normal("a.b@x.example"), normal("ab@x.example"));
        assert_ne!(normal("a..b@x.example"), normal("a.b@x.example"));
        assert_ne!(normal("a+b@x.example"), normal("a@x.example"));
        assert_ne!(normal("É@x.example"), normal("é@x.example"));
        // A dotless i: Unicode upper-casing would turn it into I, which is another mailbox.
        assert_ne!(normal("k\u{131}m@x.example"), normal("kim@x.example"));
    }

    /// Addresses, each with the spellings of one mailbox.
    const EQUAL: [(&str, &[&str]); 9] = [
        ("renée@x.example", &["rene\u{301}e@x.example", "Rene\u{301}E@X.example"]),
        ("É@x.example", &["E\u{301}@x.example"]),
        ("\u{1f0}@x.example", &["j\u{30c}@x.example", "J\u{30c}@x.example"]),
        ("한국@x.example", &["\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}@x.example"]),
        // A nukta is composed by no normal form.
        ("\u{915}\u{93c}@x.example", &["\u{958}@x.example"]),
        ("ப\u{bca}@x.example", &["ப\u{bc6}\u{bbe}@x.example"]),
        ("Ω@x.example", &["\u{2126}@x.example"]),
        ("ada@bücher.example", &["ada@bu\u{308}cher.example", "ADA@XN--BCHER-KVA.example"]),
        // Marks in another order.
        ("a\u{323}\u{302}@x.example", &["a\u{302}\u{323}@x.example", "\u{1ead}@x.example"]),
    ];

    #[test]
    fn canonically_equivalent_addresses_are_equal() {
        for (one, others) in EQUAL {
            for other in others {
                assert!(normal(one).is_some());
                assert_eq!(normal(one), normal(other), "{other:?}");
            }
        }
    }

    /// Addresses that providers hand out, with the part before the @ in a mail.
    const TAKEN: [(&str, &str); 21] = [
        ("ada.l+roster@gmail.com", "ada.l+roster"),
        ("user_example.com#EXT#@contoso.onmicrosoft.com", "user_example.com#EXT#"),
        ("dpdcnf87nu@privaterelay.appleid.com", "dpdcnf87nu"),
        ("a..b@docomo.ne.jp", "\"a..b\""),
        ("ab.@docomo.ne.jp", "\"ab.\""),
        ("a...b..@ezweb.ne.jp", "\"a...b..\""),
        ("a.-b.@au.com", "\"a.-b.\""),
        ("-a_@softbank.ne.jp", "-a_"),
        ("संपर्क@डाटामेल.भारत", "संपर्क"),
        ("क्\u{200d}ष@x.example", "क्\u{200d}ष"),
        ("ติดต่อ@ตัวอย่าง.ไทย", "ติดต่อ"),
        ("தொடர்பு@x.example", "தொடர்பு"),
        ("ශ්\u{200d}රී@x.example", "ශ්\u{200d}රී"),
        ("خانه\u{200c}ها@x.example", "خانه\u{200c}ها"),
        ("مُحَمَّد@x.example", "مُحَمَّد"),
        ("שָׁלוֹם@x.example", "ש\u{5b8}\u{5c1}לו\u{5b9}ם"),
        ("用户@例子.广告", "用户"),
        ("やまだ..たろう@x.example", "\"やまだ..たろう\""),
        ("か\u{3099}@x.example", "が"),
        ("nguyễn@x.example", "nguyễn"),
        ("Pelé@x.example", "Pelé"),
    ];

    #[test]
    fn addresses_of_every_script_are_taken() {
        for (text, local) in TAKEN {
            let address = EmailAddress::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(address.local_for_mail(), local, "{text:?}");
            assert_eq!(address.given(), characters::compose(text));
            // The given form is what is stored.
            assert_eq!(EmailAddress::from_stored(address.given().to_owned()), address);
        }
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        for bad in [
            "",
            "ada",
            "@x.example",
            "ada@",
            ".a@x.example",
            "..@x.example",
            "a b@x.example",
            "ada@localhost",
            "ada@x.example.",
            "a@b@x.example",
            "a\0@x.example",
            "a@-x.example",
            "\"a\"@x.example",
            "\"a..b\"@docomo.ne.jp",
            "a;b@x.example",
            "a\u{37e}b@x.example",
            "a\u{1fef}b@x.example",
            "\u{212a}im@x.example",
            "ki\u{200d}m@x.example",
            "ki\u{200c}m@x.example",
            "kim\u{200b}@x.example",
            "kim\u{3164}@x.example",
            "kim\u{fe0f}@x.example",
            "葛\u{e0100}@x.example",
            "k\u{34f}im@x.example",
            "\u{202e}kim@x.example",
            "🚀@x.example",
        ] {
            assert_eq!(normal(bad), None, "{bad:?}");
        }
        assert_eq!(normal(&format!("{}@x.example", "a".repeat(65))), None);
        // The quotation marks count.
        assert_eq!(normal(&format!("{}.@x.example", "a".repeat(62))), None);
        assert!(normal(&format!("{}.@x.example", "a".repeat(61))).is_some());
    }

    #[test]
    fn no_other_character_becomes_ascii() {
        for c in '\u{80}'..=char::MAX {
            let composed = characters::compose(&c.to_string());
            assert_eq!(composed.contains(|c: char| c.is_ascii()), ASCII_IN_DISGUISE.contains(&c), "{c:?}");
        }
    }

    /// The normal form of former releases, for an address that they accepted.
    fn former(local: &str) -> Option<String> {
        let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
        let is_accepted = local.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
        is_accepted.then(|| format!("{}@x.example", local.to_ascii_lowercase()))
    }

    /// The migration of stored normal forms composes them.
    #[test]
    fn the_normal_form_is_the_former_one_composed() {
        for c in '\0'..=char::MAX {
            for local in [format!("{c}"), format!("aE{c}"), format!("Αப\u{bc6}{c}\u{345}"), format!("{c}Z.z")] {
                let Some(former) = former(&local) else { continue };
                if let Some(new) = normal(&format!("{local}@x.example")) {
                    assert_eq!(characters::compose(&former), new, "{local:?}");
                } else {
                    let is_refused = characters::is_invisible(c) || ASCII_IN_DISGUISE.contains(&c);
                    assert!(is_refused, "{local:?} was accepted");
                }
            }
        }
    }

    #[test]
    fn stored_addresses_of_former_releases_keep_their_normal_form() {
        for (stored, normal) in [
            ("\u{212a}IM@Bücher.example", "\u{212a}im@xn--bcher-kva.example"),
            ("Kim\u{3164}@X.example", "kim\u{3164}@x.example"),
            ("no address", "no address@"),
        ] {
            let address = EmailAddress::from_stored(stored.to_owned());
            assert_eq!((address.given(), address.normal()), (stored, normal));
        }
    }
}
