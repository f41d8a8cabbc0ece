//! The addresses of the proxies that stand for many peers.

use std::fmt;
use std::net::IpAddr;

/// IP addresses and networks in CIDR notation. An IPv4 address counts in its form mapped to IPv6 too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

/// A network: the addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    /// All bits behind the prefix are 0.
    address: IpAddr,
    prefix: u32,
}

impl TrustedProxies {
    /// Parses addresses and networks that are separated by commas, as `10.0.0.0/8, 192.0.2.7, 2001:db8::/32`. An empty
    /// text is an empty list.
    ///
    /// # Errors
    /// What to write instead, without the text itself.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|entry| Network::parse(entry.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the list contains an address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Network { address, prefix }) in self.0.iter().enumerate() {
            write!(f, "{}{address}/{prefix}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "IP addresses and networks, separated by commas, as 10.0.0.0/8, 192.0.2.7, 2001:db8::/32";
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| FORM)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut prefix = match length {
            None => bits,
            // `from_str` also accepts a sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= bits).ok_or(FORM)?
            }
            Some(_) => return Err(FORM),
        };
        let network = Self { address, prefix };
        if network.first_bits(address) != Some(address) {
            return Err("networks without bits behind the prefix: 10.0.0.0/8 and not 10.1.2.3/8");
        }
        let canonical = address.to_canonical();
        if canonical != address {
            prefix = prefix.checked_sub(96).ok_or(FORM)?;
        }
        if prefix == 0 {
            return Err("networks of your proxies: one that contains every address would let each peer choose its own");
        }
        Ok(Self { address: canonical, prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.first_bits(address) == Some(self.address)
    }

    /// Returns an address with the bits behind the prefix set to 0; `None` if it is of the other family.
    fn first_bits(&self, address: IpAddr) -> Option<IpAddr> {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                Some(IpAddr::V4((address.to_bits() & mask).into()))
            }
            (IpAddr::V6(_), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                Some(IpAddr::V6((address.to_bits() & mask).into()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(list: &str, address: &str) -> bool {
        TrustedProxies::parse(list).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_contained_by_its_first_bits() {
        for (list, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.128.0.0/9", "10.128.0.1", "10.127.255.255"),
            ("192.0.2.0/31", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/1", "127.255.255.255", "128.0.0.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            (" 192.0.2.7 ,10.0.0.0/8,::1 ", "::1", "::2"),
        ] {
            assert!(contains(list, inside) && !contains(list, outside), "{list}");
        }
        assert!(!contains("", "127.0.0.1") && TrustedProxies::parse("  ").unwrap().is_empty());
    }

    #[test]
    fn a_bad_list_is_refused_with_a_sentence() {
        for (list, sentence) in [
            ("localhost", "IP addresses"),
            ("192.0.2.7:443", "IP addresses"),
            ("10.0.0.0/", "IP addresses"),
            ("10.0.0.0/33", "IP addresses"),
            ("10.0.0.0/+8", "IP addresses"),
            ("10.0.0.0/-1", "IP addresses"),
            ("10.0.0.0/8/8", "IP addresses"),
            ("10.0.0.0/255.0.0.0", "IP addresses"),
            ("10.0.0", "IP addresses"),
            ("010.0.0.0/8", "IP addresses"),
            ("10.0.0.0/8,", "IP addresses"),
            ("10.0.0.0/8 192.0.2.7", "IP addresses"),
            ("fe80::1%eth0", "IP addresses"),
            ("2001:db8::/129", "IP addresses"),
            ("10.0.0.1/8", "networks without bits"),
            ("2001:db8::1/64", "networks without bits"),
            ("0.0.0.0/0", "networks of your proxies"),
            ("::/0", "networks of your proxies"),
            ("::ffff:0:0/96", "networks of your proxies"),
        ] {
            assert!(TrustedProxies::parse(list).is_err_and(|error| error.starts_with(sentence)), "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_network_contains_exactly_the_addresses_with_its_prefix(bits: u32, other: u32, prefix in 1..=32_u32) {
            let shift = 32 - prefix;
            let network = std::net::Ipv4Addr::from((bits >> shift) << shift);
            let list = TrustedProxies::parse(&format!("{network}/{prefix}")).unwrap();
            let same = bits >> shift == other >> shift;
            prop_assert_eq!(list.contains(IpAddr::V4(other.into())), same);
            prop_assert!(list.contains(IpAddr::V4(bits.into())));
            prop_assert_eq!(TrustedProxies::parse(&list.to_string()), Ok(list));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9a-f:./, ]{0,40}") {
            let _ = TrustedProxies::parse(&text);
        }
    }
}
