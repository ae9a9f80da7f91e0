//! What happens in a collection, event by event?

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;

use super::read;
use super::traffic::Traffic;
use crate::kubernetes::error::ApiError;

/// The events of a collection, each one line of JSON.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    read: BytesMut,
    /// So much of `read` has no end of a line in it.
    searched: usize,
    limit: usize,
    traffic: Arc<Traffic>,
}

impl Watch {
    pub(super) fn new(body: Incoming, limit: usize, traffic: Arc<Traffic>) -> Self {
        Self {
            body,
            read: BytesMut::new(),
            searched: 0,
            limit,
            traffic,
        }
    }

    /// The next event; `None` when the server has ended the watch. It waits as long as nothing
    /// happens: whoever expects something sets a time. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost, the event is too large, or the watch ended within one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(line) = self.line()? {
                return Ok(Some(line));
            }
            match read::chunk(&mut self.body, &self.traffic).await? {
                Some(data) => self.read.extend_from_slice(&data),
                None if self.read.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => {
                    self.read.clear();
                    let why = "the watch ended within an event";
                    return Err(ApiError::Malformed(why.to_owned()));
                }
            }
        }
    }

    /// A line that is whole and says something.
    fn line(&mut self) -> Result<Option<Bytes>, ApiError> {
        let limit = self.limit;
        loop {
            let rest = self.read.get(self.searched..).unwrap_or_default();
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.read.len();
                if self.searched > limit {
                    return Err(ApiError::TooLarge { limit });
                }
                return Ok(None);
            };
            let end = self.searched + at;
            let line = self.read.split_to(end + 1).freeze().slice(..end);
            self.searched = 0;
            if line.len() > limit {
                return Err(ApiError::TooLarge { limit });
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }
}
