//! Why was a byte stream not opened, and who knows more?

use isthmus_proxy_core::failure::Failure;
use isthmus_proxy_core::message::ResponseHead;

/// Longest id of a reason: a workload's name and a number.
const REASON_BYTES_MAX: usize = 512;

/// A byte stream that was not opened.
#[derive(Debug)]
pub struct NotOpened {
    /// The failure.
    pub failure: Failure,
    /// The id under which the proxy that refused it knows why.
    pub reason: Option<String>,
}

impl NotOpened {
    /// Another proxy refused it with this answer.
    #[must_use]
    pub fn by(failure: Failure, answer: &ResponseHead) -> Self {
        let reason = reason(answer);
        Self { failure, reason }
    }
}

impl From<Failure> for NotOpened {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            reason: None,
        }
    }
}

/// The id under which the proxy that gave this answer knows why.
#[must_use]
pub fn reason(answer: &ResponseHead) -> Option<String> {
    answer.fields.get(b"x-mesh-reason").and_then(id)
}

/// A reason's id as proxies write them; what is none is left out.
fn id(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    (plain && text.len() <= REASON_BYTES_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use isthmus_proxy_core::message::BodyLength;

    use super::*;

    #[test]
    fn what_is_no_id_is_left_out() {
        let by = |value: &[u8]| {
            let mut head = ResponseHead::new(403, BodyLength::Empty);
            head.fields.push(b"x-mesh-reason", value);
            NotOpened::by(Failure::Denied, &head).reason
        };
        let good = "west/shop/cart-1:1f";
        assert_eq!(by(good.as_bytes()).as_deref(), Some(good));
        for bad in [
            &b""[..],
            b"a b",
            b"a\xff",
            "\u{e9}".as_bytes(),
            &[b'a'; 513],
        ] {
            assert_eq!(by(bad), None, "{bad:?}");
        }
    }
}
