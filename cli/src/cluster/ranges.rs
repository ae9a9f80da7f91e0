//! From which ranges have a cluster's services their addresses?

use isthmus_control_plane::kubernetes::{Api, ApiError};
use serde_json::{Value, json};

use crate::install::objects::{MANAGED_BY, MANAGED_LABEL, SYSTEM};
use crate::kubernetes::{self, strings};

/// Kubernetes 1.33 and later.
const LISTED: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Addresses that no cluster gives to a service: they are for documentation (RFC 5737, RFC 3849).
const NOBODYS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// What stands before the range where such an address is refused.
const MARK: &str = "range of valid IPs is ";

/// The ranges; why they can't be found out, if so.
pub(super) async fn of(api: &Api) -> Result<Vec<String>, String> {
    if let Ok(Some(items)) = kubernetes::list(api, LISTED).await {
        let listed = listed(&items);
        if !listed.is_empty() {
            return Ok(listed);
        }
    }
    let mut found = Vec::new();
    let mut why = None;
    for address in NOBODYS {
        match asked(api, address).await {
            Ok(range) => found.push(range),
            // A cluster may have addresses of one family only.
            Err(said) => why = why.or(Some(said)),
        }
    }
    match why {
        Some(why) if found.is_empty() => Err(why),
        _ => Ok(found),
    }
}

fn listed(items: &[Value]) -> Vec<String> {
    let ranges = items
        .iter()
        .flat_map(|item| strings(item, "/spec/cidrs", ""));
    ranges.collect()
}

/// The range that an API server names when it refuses a Service with an address out of it. Nothing is
/// made: it is only tried.
async fn asked(api: &Api, address: &str) -> Result<String, String> {
    let family = if address.contains(':') {
        "IPv6"
    } else {
        "IPv4"
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        // As the mesh's own: the control plane's account may make no others.
        "metadata": {
            "generateName": "isthmus-range-", "namespace": SYSTEM,
            "labels": { MANAGED_LABEL: MANAGED_BY },
        },
        "spec": { "clusterIP": address, "ipFamilies": [family], "ports": [{ "port": 80 }] },
    });
    let path = format!("/api/v1/namespaces/{SYSTEM}/services");
    match api.try_create(&path, &service).await {
        Ok(_) => Err(format!("{address} was taken for an address of a service")),
        Err(ApiError::Status { message, .. }) => named(&message).ok_or(message),
        Err(error) => Err(error.to_string()),
    }
}

/// `… The range of valid IPs is 10.96.0.0/12`
fn named(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(MARK)?;
    let word = rest.split_whitespace().next()?;
    let range = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
    let (address, bits) = range.split_once('/')?;
    let _: std::net::IpAddr = address.parse().ok()?;
    let _: u8 = bits.parse().ok()?;
    Some(range.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read_from_the_refusal() {
        let before = "Service \"a\" is invalid: spec.clusterIPs: Invalid value: []string{\"192.0.2.1\"}: \
                      failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range.";
        let of = |range: &str| named(&format!("{before} The range of valid IPs is {range}"));
        assert_eq!(of("10.96.0.0/12").as_deref(), Some("10.96.0.0/12"));
        assert_eq!(of("fd00:10::/108.").as_deref(), Some("fd00:10::/108"));
        assert_eq!(of("secret"), None);
        assert_eq!(of("10.96.0.0/many"), None);
        // EKS names none.
        assert_eq!(
            named(
                "failed to allocate IP 192.0.2.1: the provided network does not match the current range"
            ),
            None
        );
    }

    #[test]
    fn ranges_of_every_service_cidr_count() {
        let items = [
            json!({ "spec": { "cidrs": ["10.96.0.0/16", "fd00::/108"] } }),
            json!({ "spec": { "cidrs": ["10.97.0.0/16"] } }),
            json!({}),
        ];
        assert_eq!(
            listed(&items),
            ["10.96.0.0/16", "fd00::/108", "10.97.0.0/16"]
        );
    }
}
