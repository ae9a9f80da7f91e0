//! Can a pod be at the address that its cluster says?
//!
//! The proxies of all clusters are told, and dial from their own hosts: an address that means another host
//! on each of them would lead them to themselves. Kubernetes takes no such endpoints; who has
//! taken over an API server says what he likes.

use std::net::IpAddr;

use isthmus_control_plane_core::model::Spec;

use crate::kubernetes::access::unfit;

/// What is wrong with the addresses of a pod or of endpoints. `loopback`: its cluster is on this machine,
/// as in the demo.
pub(in crate::source) fn misleading(spec: &Spec, loopback: bool) -> Option<String> {
    let wrong = |ip: &IpAddr| {
        let what = unfit(*ip, loopback && !ip.is_unspecified())?;
        Some(format!("{ip} is {what}, and no pod's"))
    };
    if let Spec::Pod(pod) = spec {
        return pod.ips.iter().find_map(wrong);
    }
    if let Spec::EndpointSlice(slice) = spec {
        let mut told = slice.endpoints.iter().flat_map(|e| &e.addresses);
        return told.find_map(wrong);
    }
    None
}

#[cfg(test)]
mod tests {
    use isthmus_proto::ids::ClusterId;

    use super::*;
    use crate::manifest;

    fn pod(ip: &str) -> Spec {
        let json = format!(
            r#"{{"metadata": {{"name": "cart-1", "namespace": "shop"}}, "status": {{"podIP": "{ip}"}}}}"#
        );
        let east: ClusterId = "east".parse().unwrap();
        let mut parsed = manifest::object(json.as_bytes(), "v1", "Pod", &east);
        parsed.objects.pop().unwrap().spec
    }

    #[test]
    fn a_pod_is_not_on_the_host_of_whoever_calls_it() {
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(misleading(&pod(ip), false).is_some(), "{ip}");
            assert_eq!(misleading(&pod(ip), true), None, "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(misleading(&pod(ip), false).is_some(), "{ip}");
            assert!(misleading(&pod(ip), true).is_some(), "{ip}");
        }
        for ip in ["10.0.0.1", "fd00::1"] {
            assert_eq!(misleading(&pod(ip), false), None, "{ip}");
        }
    }
}
