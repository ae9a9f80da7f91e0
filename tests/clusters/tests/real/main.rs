//! Does all that speaks to API servers work with real ones? Without their programs each test says
//! that it was skipped.

#[cfg(test)]
mod server;
#[cfg(test)]
mod api;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod write;
#[cfg(test)]
mod gateways;
#[cfg(test)]
mod services;
