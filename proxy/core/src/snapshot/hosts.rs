//! Can whoever is to be called be at this address?
//!
//! What a cluster says of its pods and gateways is dialled by proxies of every cluster, each on its own
//! host: an address that means another host on each of them leads to the proxy itself, to what
//! listens beside it, or to its host's metadata.

use std::net::IpAddr;

/// What an endpoint, a gateway or an exported pod may have for an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hosts {
    loopback: bool,
}

impl Hosts {
    /// What may be told to a workload that has these addresses itself: where it has one of loopback, all
    /// have, each its own, as on a laptop.
    #[must_use]
    pub fn beside(own: &[IpAddr]) -> Self {
        Self {
            loopback: own.iter().any(|ip| ip.to_canonical().is_loopback()),
        }
    }

    /// Can somebody else be there?
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, ip: IpAddr) -> Result<(), String> {
        let kind = match ip.to_canonical() {
            ip if ip.is_loopback() && !self.loopback => "loopback: this host itself",
            ip if ip.is_unspecified() => "unspecified: this host itself",
            ip if ip.is_multicast() => "multicast",
            // Metadata services of clouds live there: 169.254.169.254.
            IpAddr::V4(v4) if v4.is_link_local() => "link-local",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
            IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
            IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
        };
        Err(format!("{ip} is {kind}"))
    }

    /// The same of all of them.
    pub(super) fn check_all(self, ips: impl IntoIterator<Item = IpAddr>) -> Result<(), String> {
        let mut ips = ips.into_iter();
        ips.try_for_each(|ip| self.check(ip))
            .map_err(|why| format!("addresses: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_else_is_at_an_address_of_this_host() {
        let (pod, laptop) = (
            Hosts::beside(&[ip("10.0.0.1"), ip("fd00::1")]),
            Hosts::beside(&[ip("127.20.0.1")]),
        );
        assert_eq!(pod, Hosts::default());
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(pod.check(ip(text)).is_err(), "{text}");
            assert_eq!(laptop.check(ip(text)), Ok(()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "255.255.255.255",
        ] {
            assert!(pod.check(ip(text)).is_err(), "{text}");
            assert!(laptop.check(ip(text)).is_err(), "{text}");
        }
        for text in [
            "10.0.0.1",
            "128.0.0.1",
            "126.255.255.255",
            "fd00::1",
            "2001:db8::1",
            "::2",
        ] {
            assert_eq!(pod.check(ip(text)), Ok(()), "{text}");
        }
    }
}
