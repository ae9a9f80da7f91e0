//! Which loopback addresses belong to this mesh, and to no other?
//!
//! Linux takes all of 127.0.0.0/8 for its own. A network of a mesh is a /24 of it; who holds the
//! claim port on its first address owns it, also against other processes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bound while the network is in use.
const CLAIM_PORT: u16 = 15_011;
/// Second octets: 127.64 to 127.191. The local demo uses lower ones.
const SECOND_FIRST: u8 = 64;
const SECONDS: u32 = 128;
/// Networks looked at before giving up.
const TRIES: u32 = 4_096;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A /24, held until dropped.
#[derive(Debug)]
pub struct Subnet {
    second: u8,
    third: u8,
    _claim: TcpListener,
}

impl Subnet {
    /// A network that nobody else has.
    ///
    /// # Panics
    /// None is free.
    #[must_use]
    pub fn claim() -> Self {
        // Another process begins elsewhere, so that claims rarely meet.
        let start = std::process::id().wrapping_mul(97);
        for _ in 0..TRIES {
            let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let [.., third] = number.to_be_bytes();
            let second = u8::try_from((number >> 8) % SECONDS).unwrap_or(0) + SECOND_FIRST;
            let first = SocketAddr::from((Ipv4Addr::new(127, second, third, 1), CLAIM_PORT));
            if let Ok(claim) = TcpListener::bind(first) {
                return Self {
                    second,
                    third,
                    _claim: claim,
                };
            }
        }
        unreachable!(
            "no free network under 127.64.0.0/9: is every address of 127.0.0.0/8 local here?"
        )
    }

    /// An address of the network. 1 is the control plane's, if it lives here.
    #[must_use]
    pub fn host(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.second, self.third, host))
    }

    /// The network as CIDR.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("127.{}.{}.0/24", self.second, self.third)
    }
}
