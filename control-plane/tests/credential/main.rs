//! Are the credentials of joined clusters renewed in time, by real API servers?

#[cfg(test)]
mod renewal;
