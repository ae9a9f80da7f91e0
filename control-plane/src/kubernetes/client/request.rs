//! How is one question asked, and when is it asked again?

use std::fmt::Write as _;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use serde_json::Value;
use tokio::time::timeout;

use super::connect::{Line, lost};
use super::traffic::Verb;
use super::{Api, read};
use crate::kubernetes::credential::Held;
use crate::kubernetes::error::{ApiError, tame};

/// Who asks.
const AGENT: &str = concat!("isthmus/", env!("CARGO_PKG_VERSION"));
/// A refusal says no more, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// RFC 9110 §15.5.2.
const UNAUTHORIZED: u16 = 401;

/// One question.
pub(super) struct Ask<'a> {
    pub(super) verb: Verb,
    method: Method,
    path: &'a str,
    query: String,
    body: Option<(&'static str, Bytes)>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(verb: Verb, method: Method, path: &'a str) -> Self {
        Self {
            verb,
            method,
            path,
            query: String::new(),
            body: None,
        }
    }

    pub(super) fn query(mut self, pairs: &[(&str, &str)]) -> Self {
        for (name, value) in pairs {
            self.query
                .push(if self.query.is_empty() { '?' } else { '&' });
            encode(&mut self.query, name);
            self.query.push('=');
            encode(&mut self.query, value);
        }
        self
    }

    pub(super) fn body(mut self, kind: &'static str, object: &Value) -> Self {
        self.body = Some((kind, object.to_string().into()));
        self
    }

    /// May it be asked twice, when it is not known whether it was heard?
    fn harmless(&self) -> bool {
        match self.verb {
            Verb::Get | Verb::List | Verb::Watch | Verb::Apply => true,
            Verb::Create | Verb::Replace | Verb::Delete => false,
        }
    }

    fn request(&self, base: &str, held: &Held) -> Result<Request<Full<Bytes>>, ApiError> {
        if !is_path(self.path) {
            return Err(ApiError::Malformed(format!(
                "{:?} is no path",
                tame(self.path)
            )));
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("{base}{}{}", self.path, self.query))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT);
        if let Some(bearer) = &held.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let body = match &self.body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, *kind);
                body.clone()
            }
            None => Bytes::new(),
        };
        request
            .body(Full::new(body))
            .map_err(|_| ApiError::Malformed(format!("{:?} is no path", tame(self.path))))
    }
}

impl Api {
    /// The body of the answer, if it is one.
    pub(super) async fn answer(&self, line: &Line, ask: &Ask<'_>) -> Result<Incoming, ApiError> {
        let asked = Box::pin(self.ask(line, ask));
        let response = timeout(self.inner.settings.answer_timeout, asked)
            .await
            .unwrap_or(Err(ApiError::Silent))?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let refusal = timeout(self.inner.settings.answer_timeout, self.refusal(response));
        Err(refusal.await.unwrap_or(ApiError::Silent))
    }

    /// Asks; once more if the connection had ended meanwhile, or if there may be a newer credential.
    pub(super) async fn ask(
        &self,
        line: &Line,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, ApiError> {
        let inner = &self.inner;
        let (mut refused, mut tried) = (None, false);
        loop {
            let held = inner.keeper.current(refused).await?;
            let request = ask.request(&inner.base, &held)?;
            let mut taken = line.take(inner, &held).await?;
            let asked = SystemTime::now();
            let sent = taken.sender.try_send_request(request).await;
            if let Ok(response) = &sent
                && let Some(date) = response.headers().get(DATE).and_then(|d| d.to_str().ok())
            {
                inner.traffic.dated(date, asked);
            }
            match sent {
                Ok(response) if response.status() == UNAUTHORIZED => {
                    if refused.is_some() || !inner.keeper.renewable() {
                        return Ok(response);
                    }
                    refused = Some(held.stamp);
                }
                Ok(response) => return Ok(response),
                Err(mut failed) => {
                    // Also when others are served on it still: it takes no new questions (GOAWAY).
                    line.forget(taken.number).await;
                    let unheard = failed.take_message().is_some();
                    if tried || taken.fresh || !(unheard || ask.harmless()) {
                        return Err(lost(failed.error()));
                    }
                    tried = true;
                }
            }
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> ApiError {
        let text = |name| {
            response
                .headers()
                .get(name)?
                .to_str()
                .ok()
                .map(ToOwned::to_owned)
        };
        let (retry_after, location) = (text(RETRY_AFTER), text(LOCATION));
        let status = response.status();
        if status.is_redirection() {
            return ApiError::Redirect(tame(&location.unwrap_or_default()));
        }
        let with = (&*self.inner.traffic, &self.inner.turns);
        let body = Box::pin(read::whole(response.into_body(), REFUSAL_BYTES_MAX, with)).await;
        // A refusal whose text can't be read is a refusal still.
        let body = body.map(read::Whole::into_bytes).unwrap_or_default();
        ApiError::of_status(status.as_u16(), retry_after.as_deref(), &body)
    }
}

/// Is it a path, and nothing that leads out of itself?
fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/%".contains(&b);
    path.starts_with('/')
        && path.bytes().all(plain)
        && !path.contains("//")
        && path.split('/').all(|part| part != "." && part != "..")
}

/// RFC 3986 §2.3: everything but the unreserved is escaped.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let ask = Ask::new(Verb::List, Method::GET, "/api/v1/pods")
            .query(&[("continue", "a+/=&b"), ("fieldSelector", "metadata.name=ä")]);
        assert_eq!(
            ask.query,
            "?continue=a%2B%2F%3D%26b&fieldSelector=metadata.name%3D%C3%A4"
        );
    }

    #[test]
    fn names_do_not_lead_out_of_a_path() {
        for path in [
            "/api/v1/namespaces/a/pods/b.c-d",
            "/version",
            "/apis/x:y/%41",
        ] {
            assert!(is_path(path), "{path}");
        }
        for path in [
            "",
            "api",
            "/api/../x",
            "/a//b",
            "/a?b",
            "/a#b",
            "/a b",
            "/a\n",
            "/ä",
            "/..",
        ] {
            assert!(!is_path(path), "{path}");
        }
    }
}
