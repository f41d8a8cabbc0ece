//! E-mail addresses and the normal form by which they are compared.

use super::{Invalid, limits};
use serde::{Deserialize, Serialize};

/// An address as the caller wrote it, and its normal form.
///
/// The normal form has lower-case ASCII letters and the domain in strict IDNA. It is not lossy: dots and plus signs
/// stay, and Unicode letters are not case-folded, because that would merge different mailboxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmailAddress {
    given: String,
    normal: String,
}

impl EmailAddress {
    /// Parses an address.
    ///
    /// # Errors
    /// If the text is not `local@domain` with a dot-atom on the left, a domain name on the right, and at most 254
    /// bytes.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let given = text.trim();
        if given.len() > limits::EMAIL_BYTES {
            return Err(Invalid::new("an address has at most 254 bytes"));
        }
        let (local, domain) =
            given.rsplit_once('@').ok_or_else(|| Invalid::new("an address has the form name@domain"))?;
        if local.is_empty() || local.len() > limits::EMAIL_LOCAL_BYTES {
            return Err(Invalid::new("the part before the @ has 1 to 64 bytes"));
        }
        let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
        if !local.split('.').all(|part| !part.is_empty() && part.chars().all(atom)) {
            return Err(Invalid::new(
                "the part before the @ is letters, digits and !#$%&'*+-/=?^_`{|}~, with single dots between",
            ));
        }
        let domain = idna::domain_to_ascii_strict(domain)
            .ok()
            .filter(|domain| domain.contains('.') && !domain.ends_with('.'))
            .ok_or_else(|| Invalid::new("the part after the @ is not a domain name"))?;
        Ok(Self { given: given.to_owned(), normal: format!("{}@{domain}", local.to_ascii_lowercase()) })
    }

    /// An address of the datastore. Its rules were checked when it was written, by a program that may have newer ones:
    /// an address that this program would not accept is its own normal form.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self::parse(&text).unwrap_or_else(|_| Self { normal: text.clone(), given: text })
    }

    /// The address as the caller wrote it, trimmed.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The normal form, by which addresses are compared.
    #[must_use]
    pub fn normal(&self) -> &str {
        &self.normal
    }
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
        assert_ne!(normal("a+b@x.example"), normal("a@x.example"));
        // U+212A is the Kelvin sign: Unicode lower-casing would turn it into k, which is another mailbox.
        assert_ne!(normal("\u{212a}im@x.example"), normal("kim@x.example"));
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        for bad in [
            "",
            "ada",
            "@x.example",
            "ada@",
            "a..b@x.example",
            ".a@x.example",
            "a b@x.example",
            "ada@localhost",
            "ada@x.example.",
            "a@b@x.example",
            "a\0@x.example",
            "a@-x.example",
            "\"a\"@x.example",
        ] {
            assert_eq!(normal(bad), None, "{bad:?}");
        }
        assert_eq!(normal(&format!("{}@x.example", "a".repeat(65))), None);
    }
}
