//! Names of issuers: one issuer, or the issuers of all tenants of a provider.

use super::limits;

/// What stands for the name of a tenant in a setting.
pub(super) const TENANT: &str = "{tenant}";

/// Which issuers an entry of the settings accepts.
pub(super) enum IssuerName {
    /// The `iss` that equals this text.
    One(String),
    /// Each `iss` that is this text, the name of a tenant, and this text.
    Tenants {
        before: String,
        after: String,
        /// The tenants that are accepted; `None` for all.
        allowed: Option<Vec<String>>,
    },
}

impl IssuerName {
    /// Reads the setting `issuer`, with the setting `tenants`.
    ///
    /// # Errors
    /// What is wrong with `{tenant}` in it.
    pub(super) fn parse(text: &str, allowed: Option<&Vec<String>>) -> Result<Self, &'static str> {
        let Some((before, after)) = text.split_once(TENANT) else { return Ok(Self::One(text.to_owned())) };
        // A whole segment of the path: part of a host name could be registered by another party.
        let in_path = before.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        if !in_path || !before.ends_with('/') || !(after.is_empty() || after.starts_with('/')) || after.contains(TENANT)
        {
            return Err("write {tenant} once, as a whole segment of the path, as https://id.example/{tenant}/v2.0");
        }
        Ok(Self::Tenants { before: before.to_owned(), after: after.to_owned(), allowed: allowed.cloned() })
    }

    /// Returns whether this is the name of one issuer, which has precedence over patterns.
    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// Returns whether tokens with this `iss` are accepted.
    pub(super) fn matches(&self, issuer: &str) -> bool {
        match self {
            Self::One(name) => name == issuer,
            Self::Tenants { allowed, .. } => self.tenant(issuer).is_some_and(|tenant| {
                is_tenant(tenant) && allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == tenant))
            }),
        }
    }

    /// Returns the prefix of the user ids of this issuer, which matches.
    pub(super) fn user_id_prefix(&self, setting: &str, issuer: &str) -> String {
        self.tenant(issuer).map_or_else(|| setting.to_owned(), |tenant| setting.replacen(TENANT, tenant, 1))
    }

    fn tenant<'i>(&self, issuer: &'i str) -> Option<&'i str> {
        match self {
            Self::One(_) => None,
            Self::Tenants { before, after, .. } => issuer.strip_prefix(before)?.strip_suffix(after),
        }
    }
}

/// Returns whether this may be the name of a tenant: ASCII letters, digits, hyphens and underscores.
pub(super) fn is_tenant(name: &str) -> bool {
    (1..=limits::TENANT_BYTES).contains(&name.len()) && name.bytes().all(is_tenant_byte)
}

/// Returns whether user ids with this prefix name the tenant without ambiguity: behind `{tenant}` stands a character
/// that no tenant contains. Otherwise the user `b-c` of the tenant `a` and the user `c` of the tenant `a-b` could be
/// one.
pub(super) fn separates_tenants(prefix: &str) -> bool {
    prefix.split_once(TENANT).is_some_and(|(_, after)| {
        !after.contains(TENANT) && after.bytes().next().is_some_and(|next| !is_tenant_byte(next))
    })
}

/// Returns the length of the prefix that the issuer with this setting gives to a user id; `None` if the id cannot be that
/// of one of its users.
pub(super) fn matched_prefix(setting: &str, user_id: &str) -> Option<usize> {
    let Some((before, after)) = setting.split_once(TENANT) else {
        return user_id.starts_with(setting).then_some(setting.len());
    };
    let rest = user_id.strip_prefix(before)?;
    // What follows begins with a character that no tenant has.
    let tenant = rest.bytes().position(|byte| !is_tenant_byte(byte)).unwrap_or(rest.len());
    let is_one = is_tenant(&rest[..tenant]) && rest[tenant..].starts_with(after);
    is_one.then(|| before.len() + tenant + after.len())
}

/// Returns those of the other prefixes that are longer than this one and that a user id with this prefix may begin with. The
/// settings allow them: the empty prefix is the default, and begins every other.
pub(super) fn longer_prefixes<'p>(prefix: &str, others: impl Iterator<Item = &'p str>) -> Vec<String> {
    // No other prefix may begin like a pattern, so a user id with the prefix of a tenant is of one issuer.
    let is_longer = |other: &&str| !prefix.contains(TENANT) && other.len() > prefix.len() && other.starts_with(prefix);
    let mut longer: Vec<String> = others.filter(is_longer).map(str::to_owned).collect();
    // In one order, however the settings order the issuers.
    longer.sort_unstable();
    longer
}

/// Returns whether users of two issuers with these prefixes could have one id. Of two plain prefixes only equal ones count:
/// the empty one is the default, and begins every other.
pub(super) fn prefixes_collide(one: &str, other: &str) -> bool {
    match (one.split_once(TENANT), other.split_once(TENANT)) {
        (None, None) => one == other,
        (Some(pattern), None) => !other.is_empty() && may_begin_alike(pattern, other),
        (None, Some(pattern)) => !one.is_empty() && may_begin_alike(pattern, one),
        (Some(pattern), Some(other_pattern)) => {
            // Any name of a tenant stands for all of them.
            may_begin_alike(pattern, &other.replacen(TENANT, "t", 1))
                || may_begin_alike(other_pattern, &one.replacen(TENANT, "t", 1))
        }
    }
}

/// Returns whether the pattern, with some name of a tenant, begins with the text, or the text with it.
fn may_begin_alike((before, after): (&str, &str), text: &str) -> bool {
    let Some(rest) = text.strip_prefix(before) else { return before.starts_with(text) };
    let (tenant, behind) = rest.split_at(rest.bytes().position(|byte| !is_tenant_byte(byte)).unwrap_or(rest.len()));
    behind.is_empty() || (!tenant.is_empty() && (behind.starts_with(after) || after.starts_with(behind)))
}

fn is_tenant_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = "https://login.example/{tenant}/v2.0";

    #[test]
    fn a_tenant_cannot_stand_for_the_prefix_of_another_issuer() {
        for (one, other, collide) in [
            ("", "", true),
            ("a|", "a|", true),
            ("", "a|", false),
            ("a|", "a|b|", false),
            ("{tenant}:", "", false),
            ("{tenant}:", "keycloak:", true),
            ("{tenant}:", "keycloak|", false),
            ("{tenant}:", "keycloak", true),
            ("{tenant}:", "keycloak:x", true),
            ("{tenant}:", ":", false),
            ("entra:{tenant}:", "keycloak:", false),
            ("entra:{tenant}:", "entra:", true),
            ("entra:{tenant}:", "en", true),
            ("entra:{tenant}:", "entra:acme:", true),
            ("{tenant}:", "{tenant}:", true),
            ("{tenant}:", "{tenant}|", false),
            ("{tenant}:", "x-{tenant}:", true),
            ("a:{tenant}:", "b:{tenant}:", false),
        ] {
            assert_eq!(prefixes_collide(one, other), collide, "{one} {other}");
            assert_eq!(prefixes_collide(other, one), collide, "{other} {one}");
        }
    }

    #[test]
    fn a_prefix_names_the_issuer_of_a_user() {
        let long = format!("x:{}:ada", "a".repeat(limits::TENANT_BYTES));
        for (setting, user_id, length) in [
            ("", "ada", Some(0)),
            ("x|", "x|ada", Some(2)),
            ("x|", "x|", Some(2)),
            ("x|", "x", None),
            ("x|", "xx|ada", None),
            ("x:{tenant}:", "x:acme:ada", Some(7)),
            ("x:{tenant}:", "x:acme:b:c", Some(7)),
            ("x:{tenant}:", "x:a-b_c:", Some(8)),
            ("x:{tenant}:", "x::ada", None),
            ("x:{tenant}:", "x:acme", None),
            ("x:{tenant}:", "x:\u{e4}:ada", None),
            ("{tenant}|x|", "acme|x|ada", Some(7)),
            ("{tenant}|x|", "acme|y|ada", None),
            ("x:{tenant}:", &long, Some(long.len() - 3)),
            ("x:{tenant}:", &long.replace("a:", "aa:"), None),
        ] {
            assert_eq!(matched_prefix(setting, user_id), length, "{setting} {user_id}");
        }
    }

    #[test]
    fn the_longest_prefix_names_the_issuer() {
        let prefixes = ["", "a", "ab", "a|", "x:{tenant}:"];
        for (own, ids) in [
            ("", &["b", "x:", "x:acme", "x::ada"][..]),
            ("a", &["a", "acme", "a:b"]),
            ("ab", &["ab", "abc", "ab|x"]),
            ("a|", &["a|", "a|b"]),
            ("x:{tenant}:", &["x:acme:ada", "x:acme:x:b:ada"]),
        ] {
            for id in ids {
                let owners: Vec<&str> = prefixes
                    .into_iter()
                    .filter(|prefix| {
                        let longer = longer_prefixes(prefix, prefixes.into_iter());
                        matched_prefix(prefix, id).is_some()
                            && longer.iter().all(|other| matched_prefix(other, id).is_none())
                    })
                    .collect();
                assert_eq!(owners, [own], "{id}");
            }
        }
    }

    #[test]
    fn a_pattern_matches_exactly_one_segment() {
        let any = IssuerName::parse(PATTERN, None).unwrap();
        let long = format!("https://login.example/{}/v2.0", "a".repeat(limits::TENANT_BYTES));
        for (issuer, prefix) in [
            ("https://login.example/contoso/v2.0", Some("x:contoso:")),
            (
                "https://login.example/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
                Some("x:9188040d-6c67-4c5b-b112-36a304b66dad:"),
            ),
            ("https://login.example/eu-west-1_AbC/v2.0", Some("x:eu-west-1_AbC:")),
            ("https://login.example/{tenant}/v2.0", None),
            ("https://login.example//v2.0", None),
            ("https://login.example/a/b/v2.0", None),
            ("https://login.example/../v2.0", None),
            ("https://login.example/a:b/v2.0", None),
            ("https://login.example/a b/v2.0", None),
            ("https://login.example/a%2fb/v2.0", None),
            ("https://login.example/ä/v2.0", None),
            ("https://login.example/a/v2.0/", None),
            ("https://login.example/a/V2.0", None),
            ("https://login.example.evil.example/a/v2.0", None),
            ("https://evil.example/https://login.example/a/v2.0", None),
            ("https://login.example/v2.0", None),
        ] {
            let found = any.matches(issuer).then(|| any.user_id_prefix("x:{tenant}:", issuer));
            assert_eq!(found.as_deref(), prefix, "{issuer}");
        }
        assert!(any.matches(&long) && !any.matches(&long.replace("/a", "/aa")));

        let two = IssuerName::parse(PATTERN, Some(&vec!["contoso".to_owned(), "fabrikam".to_owned()])).unwrap();
        assert!(two.matches("https://login.example/fabrikam/v2.0"));
        assert!(!two.matches("https://login.example/Fabrikam/v2.0"));
        assert!(!two.matches("https://login.example/initech/v2.0"));
    }

    #[test]
    fn a_tenant_is_a_whole_segment_of_the_path() {
        for wrong in [
            "https://{tenant}.login.example/v2.0",
            "https://{tenant}/v2.0",
            "{tenant}",
            "/{tenant}",
            "https://login.example/x{tenant}/v2.0",
            "https://login.example/{tenant}x",
            "https://login.example/{tenant}/{tenant}",
            "https://login.example/?t={tenant}",
        ] {
            assert!(IssuerName::parse(wrong, None).is_err(), "{wrong}");
        }
        for (prefix, separates) in [
            ("x:{tenant}:", true),
            ("{tenant}/", true),
            ("{tenant}", false),
            ("x-{tenant}-", false),
            ("{tenant}_", false),
            ("{tenant}:{tenant}:", false),
            ("x:", false),
        ] {
            assert_eq!(separates_tenants(prefix), separates, "{prefix}");
        }
    }
}
