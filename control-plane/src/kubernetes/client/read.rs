//! How much of a body is read?

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::connect::lost;
use super::traffic::Traffic;
use crate::kubernetes::error::ApiError;

/// A body to its end, if that comes before `limit` bytes.
pub(super) async fn whole(
    mut body: Incoming,
    limit: usize,
    traffic: &Traffic,
) -> Result<Bytes, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(ApiError::TooLarge { limit });
    }
    let mut read = BytesMut::with_capacity(announced);
    let cut = |error| match error {
        ApiError::Unreachable(why) => ApiError::Cut(why),
        other => other,
    };
    while let Some(data) = chunk(&mut body, traffic).await.map_err(cut)? {
        if read.len().saturating_add(data.len()) > limit {
            return Err(ApiError::TooLarge { limit });
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
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
