//! Which ports are free, and stay free while a killed server is away?

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context as _;

/// Below the range from which Linux gives ports to clients (`ip_local_port_range`, from 32768): no
/// connection of somebody else takes the place of a server that is to come back.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Three ports of loopback that nobody has, from a random place on.
///
/// # Errors
/// None is free.
pub(crate) fn free() -> anyhow::Result<[u16; 3]> {
    let range = LAST - FIRST;
    let start = u16::try_from(RandomState::new().build_hasher().finish() % u64::from(range))
        .unwrap_or_default();
    let mut found = (0..range)
        .map(|step| FIRST + (start + step) % range)
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let mut next = || found.next().context("no port of loopback is free");
    Ok([next()?, next()?, next()?])
}
