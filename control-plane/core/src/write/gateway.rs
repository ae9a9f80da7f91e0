//! What is to be said of east-west gateways? (Gateway API v1: `GatewayStatus`)

use crate::model::{Gateway, GatewayAddress, Kind, Listener, ListenerStatus, Said, Truth};
use crate::translate::gateway::{self, UNSUPPORTED_PROTOCOL};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::write::policy::said;
use crate::write::{Body, Plan, Settings, Subject, dated, is_said, reference};

/// A Gateway's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayBody {
    /// Where other networks reach it; `None`: somebody else keeps that.
    pub addresses: Option<Vec<GatewayAddress>>,
    /// What is said of its listeners: no kind of route is supported, and none attached.
    pub listeners: Vec<ListenerStatus>,
    /// Its conditions.
    pub conditions: Vec<Said>,
}

/// A condition without its type: status, reason, message.
type Verdict<'a> = (Truth, &'a str, &'a str);

/// Is it programmed, and where can it be reached?
pub(crate) fn programmed(
    (world, cluster): (&World, &Cluster),
    at: (&str, &str),
    gateway: &Gateway,
) -> (Vec<GatewayAddress>, (Truth, &'static str, String)) {
    let mut addresses = gateway::addresses(cluster, at, gateway);
    if addresses.is_empty() {
        let why = "it has no address, and no Service of its own that has one".to_owned();
        return (addresses, (Truth::False, "AddressNotAssigned", why));
    }
    let taken = addresses.iter().find_map(|address| match address {
        GatewayAddress::Ip(ip) => Some((*ip, world.pods_somewhere(cluster, *ip)?)),
        GatewayAddress::Hostname(_) => None,
    });
    let Some((ip, whose)) = taken else {
        return (addresses, (Truth::True, "Programmed", String::new()));
    };
    let why = format!("{ip} is in the ranges of {whose}: not everybody is told");
    addresses.retain(|address| match address {
        GatewayAddress::Ip(ip) => world.pods_somewhere(cluster, *ip).is_none(),
        GatewayAddress::Hostname(_) => true,
    });
    let verdict = if addresses.is_empty() {
        (Truth::False, "AddressNotUsable", why)
    } else {
        (Truth::True, "Programmed", why)
    };
    (addresses, verdict)
}

/// Gateways of other classes are other controllers'.
pub(super) fn look(
    (world, cluster): (&World, &Cluster),
    settings: Settings<'_>,
    subject: &Subject,
    plan: &mut Plan,
) {
    for (namespace, name, entry) in cluster.gateways.iter() {
        let gateway = &entry.value;
        if !gateway::is_ours(cluster, gateway) || !gateway::is_located(cluster, gateway) {
            continue;
        }
        let mut body = wanted((world, cluster), (namespace, name), gateway);
        if is_there(&body, gateway) {
            plan.unchanged("gateway_status");
            continue;
        }
        body.conditions = dated(body.conditions, &gateway.observed.conditions, settings.now);
        for listener in &mut body.listeners {
            let conditions = std::mem::take(&mut listener.conditions);
            let observed = observed(gateway, &listener.name);
            listener.conditions = dated(conditions, observed, settings.now);
        }
        let at = reference(cluster, Kind::Gateway, namespace, name);
        plan.write(at, Body::Gateway(body), subject);
    }
}

fn wanted(
    (world, cluster): (&World, &Cluster),
    at: (&str, &str),
    gateway: &Gateway,
) -> GatewayBody {
    let refusal = gateway::refusal(world, at.0, gateway);
    let (addresses, found) = programmed((world, cluster), at, gateway);
    let (addresses, programmed) = match (refusal, &found) {
        (Some(_), _) => (Vec::new(), (Truth::False, "Invalid", "not accepted")),
        (None, (status, reason, why)) => (addresses, (*status, *reason, why.as_str())),
    };
    let chosen = gateway.listener();
    let numbered = gateway.listeners.iter().enumerate();
    let listeners: Vec<_> = numbered
        .map(|(at, one)| {
            let conditions = listener(one, (chosen == Some(at), refusal, programmed));
            let said = |(kind, verdict): (&str, _)| said(&gateway.observed, kind, verdict);
            ListenerStatus {
                name: one.name.clone(),
                conditions: conditions.into_iter().map(said).collect(),
            }
        })
        .collect();
    let refused = |l: &ListenerStatus| l.conditions.iter().any(is_refused);
    let accepted = match refusal {
        Some((reason, why)) => (Truth::False, reason, why),
        // The Gateway API: accepted all the same, and why not as a whole.
        None if listeners.iter().any(refused) => (Truth::True, "ListenersNotValid", NOT_ALL),
        None => (Truth::True, "Accepted", ""),
    };
    GatewayBody {
        addresses: (!gateway.status.is_foreign).then_some(addresses),
        listeners,
        conditions: vec![
            said(&gateway.observed, "Accepted", accepted),
            said(&gateway.observed, "Programmed", programmed),
        ],
    }
}

const NOT_ALL: &str = "not all listeners are accepted";
const ONE_LISTENER: &str = "an east-west gateway has one listener: the first with the protocol TLS";
const NO_ROUTES: &str = "no route is attached to an east-west gateway";

fn is_refused(said: &Said) -> bool {
    said.kind == "Accepted" && said.status == Truth::False
}

/// What is said of a listener: is it the one, why is the gateway refused, is that programmed?
fn listener<'a>(
    listener: &Listener,
    (is_chosen, refusal, gateway): (bool, Option<(&'static str, &'static str)>, Verdict<'a>),
) -> [(&'static str, Verdict<'a>); 3] {
    let accepted = match refusal {
        _ if !is_chosen => (Truth::False, "PortUnavailable", ONE_LISTENER),
        Some((_, why)) if why == UNSUPPORTED_PROTOCOL => {
            (Truth::False, "UnsupportedProtocol", UNSUPPORTED_PROTOCOL)
        }
        Some((_, why)) => (Truth::False, "Invalid", why),
        None => (Truth::True, "Accepted", ""),
    };
    let programmed = match accepted {
        (Truth::True, ..) if gateway.0 == Truth::True => gateway,
        (Truth::True, ..) => (Truth::False, "Pending", gateway.2),
        (Truth::False | Truth::Unknown, ..) => (Truth::False, "Invalid", "not accepted"),
    };
    let resolved = if listener.names_kinds {
        (Truth::False, "InvalidRouteKinds", NO_ROUTES)
    } else {
        (Truth::True, "ResolvedRefs", "")
    };
    [
        ("Accepted", accepted),
        ("Programmed", programmed),
        ("ResolvedRefs", resolved),
    ]
}

fn observed<'a>(gateway: &'a Gateway, listener: &str) -> &'a [Said] {
    let mut all = gateway.status.listeners.iter();
    let found = all.find(|one| one.name == listener);
    found.map_or(&[], |one| &one.conditions)
}

/// Does the status say all of it? A listener that is gone has left with another generation.
fn is_there(wanted: &GatewayBody, gateway: &Gateway) -> bool {
    let is_told = |one: &ListenerStatus| is_said(&one.conditions, observed(gateway, &one.name));
    is_said(&wanted.conditions, &gateway.observed.conditions)
        && wanted.listeners.iter().all(is_told)
        && wanted
            .addresses
            .as_ref()
            .is_none_or(|addresses| *addresses == gateway.status.addresses)
}
