//! How much of a body is read?

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::lost;
use super::traffic::Traffic;
use crate::kubernetes::error::ApiError;

/// A body of more bytes than this is large.
const LARGE_BYTES: usize = 1 << 20;

/// A body, read to its end. One that is large has its turn as long as it is there: of a cluster's answers only
/// one at a time takes as much memory as it may (SECURITY S27).
#[derive(Debug)]
pub struct Whole {
    bytes: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Whole {
    /// Its bytes, without its turn: for what is kept small.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for Whole {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// A body to its end, if that comes before `limit` bytes. It waits for its turn where it is large, and nothing
/// more is read meanwhile.
pub(super) async fn whole(
    mut body: Incoming,
    limit: usize,
    (traffic, turns): (&Traffic, &Arc<Semaphore>),
) -> Result<Whole, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(ApiError::TooLarge { limit });
    }
    let cut = |error| match error {
        ApiError::Unreachable(why) => ApiError::Cut(why),
        other => other,
    };
    // In pieces: what grows as a whole is copied on the way, and twice there.
    let (mut pieces, mut length, mut turn) = (Vec::new(), 0_usize, None);
    while let Some(data) = chunk(&mut body, traffic).await.map_err(cut)? {
        length = length.saturating_add(data.len());
        if length > limit {
            return Err(ApiError::TooLarge { limit });
        }
        pieces.push(data);
        if length > LARGE_BYTES && turn.is_none() {
            // It is closed by nobody; if it were, nobody would wait for anybody.
            turn = Arc::clone(turns).acquire_owned().await.ok();
        }
    }
    let mut bytes = BytesMut::with_capacity(length);
    for piece in pieces {
        bytes.extend_from_slice(&piece);
    }
    Ok(Whole {
        bytes: bytes.freeze(),
        _turn: turn,
    })
}

/// The next bytes of a body. Cancel-safe.
pub(super) async fn chunk(
    body: &mut Incoming,
    traffic: &Traffic,
) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        // Trailers say nothing to us.
        if let Ok(data) = frame.map_err(|error| lost(&error))?.into_data() {
            traffic.read(data.len());
            return Ok(Some(data));
        }
    }
    Ok(None)
}
