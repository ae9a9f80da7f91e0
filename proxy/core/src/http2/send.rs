//! Which bytes carry our side of the streams?

use super::block::asked;
use super::connection::STREAM_ID_MAX;
use super::flow::{ReceiveWindow, SendWindow, both};
use super::frame::{self, PAYLOAD_SENT_MAX};
use super::growth::Pace;
use super::hpack::{self, Encoder};
use super::stream::{Closed, Stream, UNKNOWN};
use super::{Connection, ErrorCode, OpenError, Role, StreamGone, StreamId};
use crate::message::{Fields, Method, RequestHead, ResponseHead};

impl Connection {
    /// Client: sends a request. `end`: and it has no body.
    ///
    /// A `protocol` makes it an extended CONNECT, whatever the method (RFC 8441 §5). Fields that
    /// HTTP/2 does not have are left out.
    ///
    /// # Errors
    /// The peer takes no more streams, now or at all.
    pub fn open(
        &mut self,
        head: &RequestHead,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<StreamId, OpenError> {
        if self.is_going_away() {
            return Err(OpenError::GoingAway);
        }
        // A server has no ids: it may not push.
        if self.role == Role::Server || self.next_id > STREAM_ID_MAX {
            return Err(OpenError::Exhausted);
        }
        if !self.can_open() {
            return Err(OpenError::TooManyStreams);
        }
        if !head.protocol.is_empty() && !self.peer.connect_protocol {
            return Err(OpenError::NoConnectProtocol);
        }
        let id = self.next_id;
        self.next_id += 2;
        let stream = Stream {
            content: UNKNOWN,
            send: SendWindow::new(self.peer.initial_window),
            receive: ReceiveWindow::new(self.stream_window()),
            grown: 0,
            pace: Pace::default(),
            remote_ended: false,
            local_ended: end,
            head_seen: false,
            head_sent: true,
            asked: asked(head),
            informational: 0,
        };
        self.streams.insert(id, stream);
        let encoder = &mut self.encoder;
        frame::write_block(id, end, out, |out| encode_request(encoder, head, out));
        Ok(StreamId(id))
    }

    /// Server: sends the head of a response. `end`: and it has no body. Heads with a status below
    /// 200 may come before, and end nothing. The 101 of an HTTP/1.1 upgrade becomes 200, the
    /// answer to an extended CONNECT (RFC 8441 §5).
    ///
    /// # Errors
    /// The stream is gone, or has had its head.
    pub fn respond(
        &mut self,
        id: StreamId,
        head: &ResponseHead,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), StreamGone> {
        let stream = self.streams.get_mut(id.0).ok_or(StreamGone)?;
        if stream.head_sent || self.role == Role::Client {
            return Err(StreamGone);
        }
        let status = if head.status == 101 { 200 } else { head.status };
        let last = status >= 200;
        stream.head_sent = last;
        let opened = stream.asked.is_opened_by(status);
        let encoder = &mut self.encoder;
        frame::write_block(id.0, end && last, out, |out| {
            encoder.begin(out);
            encode_status(status, out);
            encode_fields(&head.fields, opened, out);
        });
        if end && last {
            self.end_local(id.0);
        }
        Ok(())
    }

    /// Server: answers an [`super::Event::TooLarge`] with 431 (RFC 6585 §5) and these fields. To be
    /// called once, before anything else is sent; `end`: as the event says.
    pub fn too_large_told(
        &mut self,
        (id, end): (StreamId, bool),
        fields: &Fields,
        out: &mut Vec<u8>,
    ) {
        let encoder = &mut self.encoder;
        frame::write_block(id.0, true, out, |out| {
            encoder.begin(out);
            encode_status(431, out);
            encode_fields(fields, false, out);
        });
        if !end {
            frame::write_reset(id.0, ErrorCode::NoError, out);
        }
    }

    /// How many bytes of DATA may be sent on a stream now. 0 also if it is gone, or has ended.
    #[must_use]
    pub fn capacity(&self, id: StreamId) -> usize {
        match self.streams.get(id.0) {
            Some(stream) if !stream.local_ended => both(stream.send, self.send),
            Some(_) | None => 0,
        }
    }

    /// How many bytes of DATA may be sent on all streams together now.
    #[must_use]
    pub fn connection_capacity(&self) -> usize {
        self.send.available()
    }

    /// Is the stream there, and may we still send on it?
    #[must_use]
    pub fn is_sending(&self, id: StreamId) -> bool {
        self.streams
            .get(id.0)
            .is_some_and(|stream| !stream.local_ended)
    }

    /// Sends as much of `data` as the windows allow, in frames that fit a TLS record each, and
    /// returns how much that was. `end` counts only when all of it went.
    ///
    /// # Errors
    /// The stream is gone, has ended in our direction, or has not had its head.
    pub fn data(
        &mut self,
        id: StreamId,
        data: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, StreamGone> {
        let stream = self.streams.get_mut(id.0).ok_or(StreamGone)?;
        if stream.local_ended || !stream.head_sent {
            return Err(StreamGone);
        }
        let most = both(stream.send, self.send);
        let (now, later) = data.split_at_checked(most).unwrap_or((data, &[]));
        let last = end && later.is_empty();
        stream.send.take(now.len());
        self.send.take(now.len());
        let mut pieces = now.chunks(PAYLOAD_SENT_MAX).peekable();
        while let Some(piece) = pieces.next() {
            frame::write_data(id.0, piece, last && pieces.peek().is_none(), out);
            self.limits.sent(piece.len());
        }
        if last {
            if now.is_empty() {
                frame::write_data(id.0, &[], true, out);
            }
            self.end_local(id.0);
        }
        Ok(now.len())
    }

    /// Sends trailers, which end our side of the stream.
    ///
    /// # Errors
    /// The stream is gone, has ended in our direction, or has not had its head.
    pub fn trailers(
        &mut self,
        id: StreamId,
        fields: &Fields,
        out: &mut Vec<u8>,
    ) -> Result<(), StreamGone> {
        if fields.is_empty() {
            return self.data(id, &[], true, out).map(drop);
        }
        let stream = self.streams.get(id.0).ok_or(StreamGone)?;
        if stream.local_ended || !stream.head_sent {
            return Err(StreamGone);
        }
        let encoder = &mut self.encoder;
        frame::write_block(id.0, true, out, |out| {
            encoder.begin(out);
            encode_fields(fields, true, out);
        });
        self.end_local(id.0);
        Ok(())
    }

    /// Breaks a stream off, if it is there.
    pub fn reset(&mut self, id: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
        if self.streams.get(id.0).is_some() {
            frame::write_reset(id.0, code, out);
            self.streams.remove(id.0, Closed::ByUs);
        }
    }

    /// Tells that the application took so many bytes of [`super::Event::Data`]: the peer is
    /// granted as many again, once they are half a window. Every byte must be given back once,
    /// also those of a stream that is gone: they count for the connection.
    pub fn consumed(&mut self, id: StreamId, bytes: usize, out: &mut Vec<u8>) {
        self.credit_connection(bytes, out);
        let base = self.stream_window();
        let Some(stream) = self.streams.get_mut(id.0).filter(|s| !s.remote_ended) else {
            return;
        };
        let full = base.saturating_add_signed(stream.grown);
        let Some(grant) = stream.receive.release(bytes, full) else {
            return;
        };
        let mut most = self.settings.stream_window_max;
        let mut small = false;
        if let Some(period) = self.clock.period() {
            self.busy.note(stream.pace, period);
            most = most.min(self.busy.most(period));
            // The peer waits for each window ...
            small = stream.pace.went(grant, full, period);
        }
        // ... and nothing is left unread: it is worth more room.
        let more = if small && stream.receive.is_whole(full) {
            self.growth(full, most)
        } else {
            0
        };
        let less = full.saturating_sub(most).min(grant);
        self.streams.grow(id.0, more, less);
        let grant = grant.saturating_add(more) - less;
        if grant > 0 {
            frame::write_window_update(id.0, grant, out);
        }
    }

    /// By how much the window of one stream may grow: it doubles, as far as it and all together may.
    fn growth(&self, full: u32, most: u32) -> u32 {
        let one = most.saturating_sub(full);
        let all = self
            .settings
            .growth_max
            .saturating_sub(self.streams.grown());
        full.min(one).min(all)
    }

    pub(super) fn credit_connection(&mut self, bytes: usize, out: &mut Vec<u8>) {
        if let Some(grant) = self
            .receive
            .release_shared(bytes, self.settings.connection_window)
        {
            frame::write_window_update(0, grant, out);
        }
    }

    /// Our side of a stream has ended.
    fn end_local(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.local_ended = true;
            if stream.remote_ended {
                self.streams.remove(id, Closed::Ended);
                self.limits.completed();
            }
        }
    }
}

fn encode_request(encoder: &mut Encoder, head: &RequestHead, out: &mut Vec<u8>) {
    encoder.begin(out);
    let extended = !head.protocol.is_empty();
    let connect = extended || head.method == Method::Connect;
    match &head.method {
        _ if connect => hpack::named(hpack::METHOD, b"CONNECT", out),
        Method::Get => hpack::whole(hpack::METHOD_GET, out),
        Method::Post => hpack::whole(hpack::METHOD_POST, out),
        other => hpack::named(hpack::METHOD, other.as_str().as_bytes(), out),
    }
    if extended || !connect {
        hpack::whole(
            if head.https {
                hpack::SCHEME_HTTPS
            } else {
                hpack::SCHEME_HTTP
            },
            out,
        );
        match head.path.as_slice() {
            b"/" | b"" => hpack::whole(hpack::PATH_ROOT, out),
            path => hpack::named(hpack::PATH, path, out),
        }
    }
    if !head.authority.is_empty() {
        hpack::named(hpack::AUTHORITY, &head.authority, out);
    }
    if extended {
        hpack::spelled(b":protocol", &head.protocol, out);
    }
    encode_fields(&head.fields, connect, out);
}

fn encode_status(status: u16, out: &mut Vec<u8>) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        other => {
            let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or_default();
            let text = [digit(other / 100), digit(other / 10), digit(other)];
            return hpack::named(hpack::STATUS, &text, out);
        }
    };
    hpack::whole(index, out);
}

/// `unmeasured`: there is no content that a content-length could count (CONNECT, trailers).
fn encode_fields(fields: &Fields, unmeasured: bool, out: &mut Vec<u8>) {
    for (name, value) in fields.iter() {
        if !(unmeasured && name == b"content-length") {
            hpack::field(name, value, out);
        }
    }
}
