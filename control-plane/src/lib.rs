//! How does the control plane learn, decide and tell?

pub mod config;
pub mod state;
pub mod keys;
pub mod authority;
pub mod trust;
pub mod token;
pub mod manifest;
pub mod source;
