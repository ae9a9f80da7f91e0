//! By which addresses do proxies find the control plane?

use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use isthmus_proto::ids::is_dns_name;
use serde::Deserialize;

use super::{ConfigError, Home, value};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    address: Option<String>,
    home: Option<String>,
}

/// Where proxies find [`Config::discovery`](super::Config::discovery), HOST:PORT; at least one of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// From every cluster; `None`: clusters other than the home cluster are not told.
    pub address: Option<String>,
    /// From the home cluster. Default: `address`.
    pub home: Option<String>,
}

pub(super) fn understand(
    raw: Option<Raw>,
    home: Option<&Home>,
) -> Result<Option<Advertise>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let told = [
        ("advertise.address", &raw.address),
        ("advertise.home", &raw.home),
    ];
    for (key, text) in told {
        let parts = text.as_ref().map(|text| text.rsplit_once(':'));
        let good = parts.is_none_or(|parts| {
            parts.is_some_and(|(host, port)| {
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let is_v6 = bare.is_some_and(|h| h.parse::<Ipv6Addr>().is_ok());
                (is_dns_name(host) || is_v6) && port.parse::<NonZeroU16>().is_ok()
            })
        });
        if !good {
            return Err(value(key, "not HOST:PORT"));
        }
    }
    match (&raw.address, &raw.home) {
        (None, None) => Err(value("advertise", "one of address and home is needed")),
        (_, Some(_)) if home.is_none() => Err(value("advertise.home", "there is no home cluster")),
        _ => Ok(Some(Advertise {
            address: raw.address,
            home: raw.home,
        })),
    }
}
