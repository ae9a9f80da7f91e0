//! How are fields packed into a block (RFC 7541)?
//!
//! The decoder is whole: static and dynamic table, size updates, Huffman. The encoder uses the
//! static table and plain literals only: between proxies of one mesh bytes are cheaper than the
//! time to pack them.

mod table;
mod decode;
mod encode;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoder, field, named, spelled, whole};

// Numbers of the static table (RFC 7541 appendix A).
pub(super) const AUTHORITY: u8 = 1;
pub(super) const METHOD: u8 = 2;
pub(super) const METHOD_GET: u8 = 2;
pub(super) const METHOD_POST: u8 = 3;
pub(super) const PATH: u8 = 4;
pub(super) const PATH_ROOT: u8 = 4;
pub(super) const SCHEME_HTTP: u8 = 6;
pub(super) const SCHEME_HTTPS: u8 = 7;
pub(super) const STATUS: u8 = 8;

/// Ours, and the protocol's default: bytes of the decoder's dynamic table (RFC 7541 §4.1).
pub(super) const TABLE_BYTES_MAX: u32 = 4096;

/// The block cannot be read; the connection's state is lost with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid(pub(super) &'static str);
