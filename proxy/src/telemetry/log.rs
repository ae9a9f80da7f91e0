//! How does an event read as a line?

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_proxy_core::failure::Blame;
use serde_json::{Value, json};

use super::Event;

/// Lines that wait for the writer, at most; beyond, they are dropped and counted.
const WAITING_LINES_MAX: usize = 8 * 1024;

/// Bytes of one text that comes from traffic; the rest is cut off. So a line is bounded, and with it
/// what waits for the writer and what is remembered of failures.
const TEXT_BYTES_MAX: usize = 1024;

/// A thread that writes lines, so that a slow disk holds no worker up.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<String>,
}

impl AccessLog {
    /// Opens `-` (standard output) or a file, appending.
    ///
    /// # Errors
    /// The file can't be opened, or the thread can't be started.
    pub fn open(target: &str) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = if target == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(OpenOptions::new().create(true).append(true).open(target)?)
        };
        Self::to(out)
    }

    pub(super) fn to(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let (lines, queue) = sync_channel(WAITING_LINES_MAX);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&queue, out))?;
        Ok(Self { lines })
    }

    /// False: the line was dropped.
    #[must_use]
    pub(super) fn write(&self, event: &Event, reason: Option<&str>) -> bool {
        // serde_json escapes control characters and quotes: traffic can't forge a line.
        self.lines
            .try_send(value(event, reason).to_string())
            .is_ok()
    }
}

fn write_lines(queue: &Receiver<String>, out: Box<dyn Write + Send>) {
    let mut out = BufWriter::new(out);
    while let Ok(line) = queue.recv() {
        // A full disk loses lines, not traffic.
        let _ = writeln!(out, "{line}");
        while let Ok(line) = queue.try_recv() {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
    }
}

fn text(known: &Option<Arc<str>>) -> &str {
    known.as_deref().unwrap_or_default()
}

/// What fits, and whether it is all.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
}

/// The event as JSON.
#[must_use]
pub fn value(event: &Event, reason: Option<&str>) -> Value {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut value = json!({
        "ts": now.as_secs_f64(),
        "direction": event.direction.as_str(),
        "protocol": event.protocol,
        "source": event.peer.as_ref().map(ToString::to_string),
        "source_cluster": text(&event.source_cluster),
        "service": text(&event.service),
        "destination_cluster": text(&event.destination_cluster),
        "endpoint": text(&event.endpoint),
        "hop": event.hop,
        "route": cut(&event.route),
        "policy": text(&event.policy),
        "status": event.status,
        "bytes_sent": event.bytes_sent,
        "bytes_received": event.bytes_received,
        "retries": event.retries,
        "duration_ms": event.duration.as_secs_f64() * 1e3,
        "generation": event.generation.0,
    });
    let Some(fields) = value.as_object_mut() else {
        return value;
    };
    if let Some((method, path)) = &event.request {
        fields.insert("method".to_owned(), json!(cut(method.as_str())));
        fields.insert("path".to_owned(), json!(cut(path.as_str())));
    }
    if let Some(failure) = event.failure {
        let blame = match failure.blame() {
            Blame::Downstream => "downstream",
            Blame::Upstream => "upstream",
            Blame::Mesh => "mesh",
        };
        fields.insert("flag".to_owned(), json!(failure.flag()));
        fields.insert("failure".to_owned(), json!(failure.name()));
        fields.insert("blame".to_owned(), json!(blame));
        let detail = match (failure.why(), &*event.detail) {
            (None, detail) => Cow::Borrowed(detail),
            (Some(why), "") => Cow::Borrowed(why),
            (Some(why), detail) => Cow::Owned(format!("{why}: {detail}")),
        };
        fields.insert("detail".to_owned(), json!(cut(&detail)));
    }
    if let Some(reason) = &event.upstream_reason {
        fields.insert("upstream_reason".to_owned(), json!(cut(reason)));
    }
    if !event.audit.is_empty() {
        fields.insert(
            "audit".to_owned(),
            json!(event.audit.iter().map(|p| &**p).collect::<Vec<_>>()),
        );
    }
    if let Some(reason) = reason {
        fields.insert("reason".to_owned(), json!(reason));
    }
    value
}

#[cfg(test)]
mod tests {
    use isthmus_proxy_core::canonical::path;
    use isthmus_proxy_core::failure::Failure;
    use isthmus_proxy_core::message::Method;
    use isthmus_proxy_core::snapshot::Generation;

    use super::*;
    use crate::telemetry::Direction;

    #[test]
    fn a_line_is_bounded_however_long_what_was_asked_for_is() {
        let mut event = Event::new(Direction::Inbound, "http/1.1", Generation(1));
        // Of two bytes each, and one before them: the limit is in the middle of one.
        let long = format!("/{}", "ä".repeat(30_000));
        let asked = path(format!("/{}", "a".repeat(60_000)).as_bytes()).unwrap();
        event.request = Some((Method::Other("M".repeat(30_000).into()), asked));
        event.failure = Some(Failure::Denied);
        event.detail = long.clone();
        event.route.clone_from(&long);
        event.upstream_reason = Some(long);
        let value = value(&event, Some("east/shop/cart-1:1"));
        let detail = value["detail"].as_str().unwrap();
        assert_eq!(detail.len(), TEXT_BYTES_MAX - 1 + "…".len());
        assert!(detail.ends_with("ä…"), "{detail}");
        let path = value["path"].as_str().unwrap();
        assert_eq!(path.len(), TEXT_BYTES_MAX + "…".len());
        let bytes = value.to_string().len();
        assert!(bytes < 6 * TEXT_BYTES_MAX, "{bytes}");
        event.detail = "short".to_owned();
        assert_eq!(super::value(&event, None)["detail"], "short");
    }
}
