//! What can discovery tell a proxy, and under which names does a proxy ask?

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bytes::Bytes;
use isthmus_proto::ids::{InvalidName, NetworkId, ServiceName, is_dns_name};

/// The types of resources, in the order in which a proxy asks for them: first what lets it accept
/// connections, then what lets it make them, parents before children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The proxy's own workload.
    Workload,
    /// Who may call it.
    AccessPolicy,
    /// Whom to believe.
    TrustBundle,
    /// The ways between networks.
    Gateway,
    /// How old the news of each cluster is.
    ClusterFreshness,
    /// What can be called.
    Service,
    /// How calls are routed. Children of services.
    Route,
    /// Who answers. Children of services.
    Endpoint,
    /// What a gateway may forward to.
    ExportedEndpoint,
    /// How a gateway checks handles.
    HandleKeys,
}

/// How many kinds there are.
pub const KINDS: usize = Kind::ALL.len();

impl Kind {
    /// Every kind, in its order.
    pub const ALL: [Self; 10] = [
        Self::Workload,
        Self::AccessPolicy,
        Self::TrustBundle,
        Self::Gateway,
        Self::ClusterFreshness,
        Self::Service,
        Self::Route,
        Self::Endpoint,
        Self::ExportedEndpoint,
        Self::HandleKeys,
    ];

    /// The type URL on the wire.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Workload => "type.googleapis.com/isthmus.resource.v1.Workload",
            Self::AccessPolicy => "type.googleapis.com/isthmus.resource.v1.AccessPolicy",
            Self::TrustBundle => "type.googleapis.com/isthmus.resource.v1.TrustBundle",
            Self::Gateway => "type.googleapis.com/isthmus.resource.v1.Gateway",
            Self::ClusterFreshness => "type.googleapis.com/isthmus.resource.v1.ClusterFreshness",
            Self::Service => "type.googleapis.com/isthmus.resource.v1.Service",
            Self::Route => "type.googleapis.com/isthmus.resource.v1.Route",
            Self::Endpoint => "type.googleapis.com/isthmus.resource.v1.Endpoint",
            Self::ExportedEndpoint => "type.googleapis.com/isthmus.resource.v1.ExportedEndpoint",
            Self::HandleKeys => "type.googleapis.com/isthmus.resource.v1.HandleKeys",
        }
    }

    /// The kind of a type URL.
    #[must_use]
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The last part of the type URL, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.type_url()
            .rsplit_once('.')
            .map_or("", |(_, name)| name)
    }

    /// The service's part of a child's name in discovery: `service#workload` of an endpoint,
    /// `route@service` of a route. `None`: the kind has no parent, or this is a key.
    #[must_use]
    pub fn parent(self, name: &str) -> Option<&str> {
        match self {
            Self::Endpoint => name.split_once('#').map(|(service, _)| service),
            Self::Route => name.split_once('@').map(|(_, service)| service),
            Self::Workload
            | Self::AccessPolicy
            | Self::TrustBundle
            | Self::Gateway
            | Self::ClusterFreshness
            | Self::Service
            | Self::ExportedEndpoint
            | Self::HandleKeys => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One piece of news. They may come in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A resource is there, or has changed.
    Upsert {
        /// Its type.
        kind: Kind,
        /// Its name in discovery.
        name: String,
        /// Keys under which it was asked for, besides its name.
        aliases: Vec<String>,
        /// Changes when the content does.
        version: String,
        /// The content, encoded.
        body: Bytes,
    },
    /// A resource is gone, or there is nothing under a key.
    Remove {
        /// Its type.
        kind: Kind,
        /// A name in discovery, or a key that was asked for.
        name: String,
    },
    /// A resource, or the answer for a key, is not wanted any more: it becomes unknown.
    Forget {
        /// Its type.
        kind: Kind,
        /// A name in discovery, or a key that was asked for.
        name: String,
    },
    /// The type has had an answer: what is not there now is known not to be there.
    Answered {
        /// Which.
        kind: Kind,
    },
}

/// Under which name a service is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `host:cart.shop.svc.cluster.local`: in lower case.
    Host(Box<str>),
    /// `vip:east-net/10.96.0.5`: an address on a network.
    Vip(NetworkId, IpAddr),
    /// `shop/cart.shop.svc.cluster.local`: the service's own name.
    Name(ServiceName),
}

impl FromStr for Key {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad = |why| InvalidName::new("service key", text, why);
        if let Some(host) = text.strip_prefix("host:") {
            if is_dns_name(host) {
                return Ok(Self::Host(host.into()));
            }
            return Err(bad("not a DNS name in lower case after host:"));
        }
        if let Some(vip) = text.strip_prefix("vip:") {
            let (network, ip) = vip
                .split_once('/')
                .ok_or_else(|| bad("not vip:network/address"))?;
            let ip = ip
                .parse()
                .map_err(|_| bad("not an IP address after vip:network/"))?;
            return Ok(Self::Vip(network.parse()?, ip));
        }
        text.parse().map(Self::Name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Vip(network, ip) => write!(f, "vip:{network}/{ip}"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_proto::resource;
    use prost::Name;

    #[test]
    fn the_type_urls_are_those_of_the_contract() {
        let contract = [
            resource::Workload::type_url(),
            resource::AccessPolicy::type_url(),
            resource::TrustBundle::type_url(),
            resource::Gateway::type_url(),
            resource::ClusterFreshness::type_url(),
            resource::Service::type_url(),
            resource::Route::type_url(),
            resource::Endpoint::type_url(),
            resource::ExportedEndpoint::type_url(),
            resource::HandleKeys::type_url(),
        ];
        assert_eq!(Kind::ALL.map(|kind| kind.type_url().to_owned()), contract);
        for kind in Kind::ALL {
            assert_eq!(Kind::of_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::of_type_url("type.googleapis.com/Endpoint"), None);
    }

    #[test]
    fn keys_print_as_they_are_read() {
        for text in [
            "host:cart.shop",
            "vip:east-net/10.0.0.1",
            "vip:n/fd00::1",
            "shop/cart.shop",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "cart",
            "host:",
            "host:A",
            "vip:10.0.0.1",
            "vip:n/x",
            "a/b/c",
            "*",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_childs_name_holds_its_parents() {
        assert_eq!(
            Kind::Endpoint.parent("shop/cart#east/shop/cart-1"),
            Some("shop/cart")
        );
        assert_eq!(Kind::Route.parent("shop/r@shop/cart"), Some("shop/cart"));
        assert_eq!(Kind::Endpoint.parent("host:cart"), None);
        assert_eq!(Kind::Service.parent("shop/cart#x"), None);
    }
}
