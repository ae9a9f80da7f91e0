//! What does one HTTP/2 connection remember, and how does it end?

use std::time::Duration;

use super::flow::{ReceiveWindow, SendWindow, WINDOW_DEFAULT, WINDOW_MAX};
use super::frame::{self, setting};
use super::growth::{Busy, Clock};
use super::hpack::{Decoder, Encoder};
use super::limits::{Counters, Limits};
use super::receive::Reading;
use super::stream::{Closed, Streams};
use super::{ConnectionError, ErrorCode, Role, Settings, StreamId};

/// Ours: streams that a client opens before the server has said how many it takes.
const STREAMS_BEFORE_SETTINGS: u32 = 100;
/// Fixed by the protocol: no stream has a higher id.
pub(super) const STREAM_ID_MAX: u32 = 0x7fff_ffff;
/// Ours: what the PING carries whose answer proves that the first GOAWAY arrived.
pub(super) const SHUTDOWN_PING: [u8; 8] = *b"\xff\x00goaway";
/// Ours: what the PINGs carry that measure the round trip.
pub(super) const MEASURING_PING: [u8; 8] = *b"\xff\x00 trip?";

/// One HTTP/2 connection, either end. See the module for what its driver does.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) settings: Settings,
    pub(super) peer: PeerSettings,
    pub(super) reading: Reading,
    /// A block of fields whose CONTINUATION frames are still to come.
    pub(super) assembly: Option<Assembly>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) busy: Busy,
    /// Client: the id of the next stream.
    pub(super) next_id: u32,
    /// The last stream that our GOAWAY named.
    pub(super) away_sent: Option<u32>,
    /// The last stream that the peer's GOAWAY named.
    pub(super) away_received: Option<u32>,
    /// Streams that the peer's GOAWAY refused, and that the driver must hear of; lowest at the end.
    pub(super) refused: Vec<u32>,
    /// Our SETTINGS that the peer has not confirmed.
    pub(super) settings_unacked: u32,
    /// Our PINGs that the peer has not answered.
    pub(super) pings: u32,
    pub(super) failed: Option<ConnectionError>,
}

/// What the peer grants us.
#[derive(Debug)]
pub(super) struct PeerSettings {
    pub(super) seen: bool,
    pub(super) max_concurrent_streams: u32,
    pub(super) initial_window: u32,
    pub(super) connect_protocol: bool,
}

/// A block of fields that is not whole yet.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) stream: u32,
    pub(super) end: bool,
    /// The old priority scheme, and it names its own stream.
    pub(super) depends_on_itself: bool,
    pub(super) frames: u32,
    pub(super) block: Vec<u8>,
}

impl Connection {
    /// Begins a connection: what must go out first is in `out`.
    #[must_use]
    pub fn new(role: Role, mut settings: Settings, out: &mut Vec<u8>) -> Self {
        settings.initial_window = settings.initial_window.min(WINDOW_MAX);
        settings.stream_window_max = settings.stream_window_max.min(WINDOW_MAX);
        settings.connection_window = settings.connection_window.clamp(WINDOW_DEFAULT, WINDOW_MAX);
        settings.max_frame = settings
            .max_frame
            .clamp(frame::FRAME_BYTES_MIN, frame::FRAME_BYTES_MAX);
        if role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
        }
        write_settings(role, &settings, out);
        let more = settings.connection_window - WINDOW_DEFAULT;
        if more > 0 {
            frame::write_window_update(0, more, out);
        }
        Self {
            role,
            peer: PeerSettings {
                seen: false,
                max_concurrent_streams: STREAMS_BEFORE_SETTINGS,
                initial_window: WINDOW_DEFAULT,
                connect_protocol: false,
            },
            reading: match role {
                Role::Client => Reading::FirstFrame,
                Role::Server => Reading::Preface,
            },
            assembly: None,
            decoder: Decoder::new(),
            encoder: Encoder::default(),
            streams: Streams::new(role, settings.max_concurrent_streams),
            send: SendWindow::new(WINDOW_DEFAULT),
            receive: ReceiveWindow::new(settings.connection_window),
            limits: Limits::new(settings.max_concurrent_streams, settings.resets_max),
            clock: Clock::new(),
            busy: Busy::default(),
            next_id: 1,
            away_sent: None,
            away_received: None,
            refused: Vec::new(),
            settings_unacked: 1,
            pings: 0,
            failed: None,
            settings,
        }
    }

    /// Asks for a sign of life; [`super::Event::Pong`] brings the payload back. To be asked while
    /// nothing else is under way: windows grow by how long the answer takes.
    pub fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) {
        self.clock.ask();
        self.pings = self.pings.saturating_add(1);
        frame::write_ping(payload, false, out);
    }

    /// Says goodbye at once: what is open goes on, new streams of the peer are refused. A client
    /// that has just sent a request is told that it was not looked at, so prefer
    /// [`Self::shutdown`] where nothing is wrong.
    pub fn go_away(&mut self, code: ErrorCode, out: &mut Vec<u8>) {
        self.write_go_away(code, "", out);
    }

    /// Says goodbye in two steps, so that no request is lost (RFC 9113 §6.8): the first GOAWAY
    /// refuses nothing; the second, with the real last stream, goes out by itself when the peer
    /// has proved that it saw the first. Called again: the second step now.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        if self.role == Role::Client || self.away_sent.is_some() {
            if self.away_sent.is_none_or(|last| last == STREAM_ID_MAX) {
                self.write_go_away(ErrorCode::NoError, "", out);
            }
            return;
        }
        self.away_sent = Some(STREAM_ID_MAX);
        frame::write_go_away(STREAM_ID_MAX, ErrorCode::NoError, "", out);
        frame::write_ping(SHUTDOWN_PING, false, out);
    }

    /// Tells that everything in `out` is on its way, so that no answer waits any more. Offering an
    /// empty `out` to [`Self::decode`] tells the same, so offer the buffer that waits for the
    /// socket, not one for the moment. After 1,000 answers that wait, the connection is cut, as
    /// one whose peer does not read.
    pub fn flushed(&mut self) {
        self.limits.flushed();
    }

    /// Answers (acks, resets) since the last [`Self::flushed`].
    #[must_use]
    pub fn pending_control(&self) -> usize {
        frame::size(self.limits.waiting())
    }

    /// Tells how much time has passed since the connection began: the abuse budgets refill by it,
    /// and windows grow by it. Without it, keep-alive PINGs of a connection that is otherwise idle
    /// use the budget up after 1,000 of them, and no window grows.
    /// True, at most once a second: a good moment to look at [`Self::take_counters`].
    pub fn at(&mut self, since_begin: Duration) -> bool {
        let seconds = self.clock.at(since_begin);
        if seconds > 0 {
            self.limits.elapsed(seconds);
        }
        seconds > 0
    }

    /// A block of fields that has begun and is not whole: of which stream?
    #[must_use]
    pub fn open_block(&self) -> Option<StreamId> {
        self.assembly.as_ref().map(|open| StreamId(open.stream))
    }

    /// Ends it: the peer has begun something and does not come to its end.
    pub fn give_up(&mut self, why: &'static str, out: &mut Vec<u8>) {
        let code = ErrorCode::EnhanceYourCalm;
        self.fail(ConnectionError { code, why }, out);
    }

    /// What the peer has done since the last [`Self::take_counters`], for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.limits.counters
    }

    /// ... and counts from zero again.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.limits.counters)
    }

    /// The rule of which the breach ended the connection, if one did.
    #[must_use]
    pub fn failed(&self) -> Option<ConnectionError> {
        self.failed
    }

    /// Streams of which at least one side has not ended.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Has either end sent GOAWAY, or the connection failed?
    #[must_use]
    pub fn is_going_away(&self) -> bool {
        self.away_sent.is_some() || self.away_received.is_some() || self.failed.is_some()
    }

    /// Is it over: going away, nothing open, and nothing more can begin? Then flush and close.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let closed_to_peer = self.role == Role::Client
            || self.away_received.is_some()
            || self.away_sent.is_some_and(|last| last != STREAM_ID_MAX);
        self.is_going_away() && closed_to_peer && self.streams.len() == 0
    }

    /// Client: may requests carry `protocol` (RFC 8441)? False until the peer's settings came.
    #[must_use]
    pub fn peer_allows_connect_protocol(&self) -> bool {
        self.peer.connect_protocol
    }

    /// Have the peer's settings come?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.peer.seen
    }

    /// Client: would [`Self::open`] succeed?
    #[must_use]
    pub fn can_open(&self) -> bool {
        self.role == Role::Client
            && !self.is_going_away()
            && self.next_id <= STREAM_ID_MAX
            && self.streams.len() < frame::size(self.peer.max_concurrent_streams)
    }

    /// The receive window that streams have now. Until the peer confirms our settings it may count
    /// on the protocol's default, where ours is smaller.
    pub(super) fn stream_window(&self) -> u32 {
        if self.settings_unacked > 0 {
            self.settings.initial_window.max(WINDOW_DEFAULT)
        } else {
            self.settings.initial_window
        }
    }

    /// Sends RST_STREAM for something that the peer did. True: the driver knows the stream.
    pub(super) fn break_stream(
        &mut self,
        id: u32,
        code: ErrorCode,
        out: &mut Vec<u8>,
    ) -> Result<bool, ConnectionError> {
        self.limits.counters.stream_errors = self.limits.counters.stream_errors.saturating_add(1);
        self.limits.broke()?;
        self.limits.answer()?;
        frame::write_reset(id, code, out);
        Ok(self.streams.remove(id, Closed::ByUs))
    }

    /// The connection is broken: nothing more is read.
    pub(super) fn fail(&mut self, error: ConnectionError, out: &mut Vec<u8>) {
        self.failed = Some(error);
        self.limits.counters.connection_errors += 1;
        self.write_go_away(error.code, error.why, out);
    }

    pub(super) fn write_go_away(&mut self, code: ErrorCode, why: &str, out: &mut Vec<u8>) {
        let seen = match self.role {
            Role::Client => 0,
            Role::Server => self.streams.highest(),
        };
        // RFC 9113 §6.8: the number never grows.
        let last = self.away_sent.unwrap_or(STREAM_ID_MAX).min(seen);
        self.away_sent = Some(last);
        frame::write_go_away(last, code, why, out);
    }
}

/// Writes the settings that differ from the protocol's defaults.
fn write_settings(role: Role, ours: &Settings, out: &mut Vec<u8>) {
    let mut list = smallvec::SmallVec::<[(u16, u32); 6]>::new();
    match role {
        Role::Client => list.push((setting::ENABLE_PUSH, 0)),
        Role::Server => {
            list.push((setting::MAX_CONCURRENT_STREAMS, ours.max_concurrent_streams));
            if ours.enable_connect_protocol {
                list.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
        }
    }
    list.push((setting::INITIAL_WINDOW_SIZE, ours.initial_window));
    if ours.max_frame != frame::FRAME_BYTES_MIN {
        list.push((setting::MAX_FRAME_SIZE, ours.max_frame));
    }
    list.push((setting::MAX_HEADER_LIST_SIZE, ours.header_list_bytes));
    frame::write_settings(&list, out);
}
