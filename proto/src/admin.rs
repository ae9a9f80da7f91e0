//! Who may ask a proxy or a control plane for more than whether it is ready, and its metrics?
//!
//! Whoever can read a file that the process has written for its owner: the listener is on loopback,
//! which a pod's containers share, and everybody on a host (SECURITY S10, S21).

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The file in the state folder that has the token, as text.
pub const TOKEN_FILE: &str = "admin-token";
/// Bytes of randomness in a token.
pub const TOKEN_BYTES: usize = 32;
/// What stands before the token in the field `authorization` (RFC 6750 §2.1).
const SCHEME: &str = "Bearer ";
/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 16 * 1024;

/// What an operator shows. Its text is in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// It is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no token: it should be one line of letters, digits and the signs of RFC 6750")]
pub struct InvalidToken;

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// A new one.
    #[must_use]
    pub fn of(random: [u8; TOKEN_BYTES]) -> Self {
        Self(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// It holds something else.
    pub fn read(text: &[u8]) -> Result<Self, InvalidToken> {
        let text = std::str::from_utf8(text).map_err(|_| InvalidToken)?;
        let text = text.trim_end();
        let is_sign = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if text.is_empty() || text.len() > TOKEN_CHARS_MAX || !text.bytes().all(is_sign) {
            return Err(InvalidToken);
        }
        Ok(Self(text.to_owned()))
    }

    /// The token itself, for who checks it elsewhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a file has it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n", self.0)
    }

    /// What the field `authorization` says.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// What a field `authorization` shows; `None`: nothing of this kind.
    #[must_use]
    pub fn shown(authorization: &[u8]) -> Option<Self> {
        let (scheme, token) = authorization.split_at_checked(SCHEME.len())?;
        // RFC 9110 §11.1: the scheme's case is of no meaning.
        let is_ours = scheme.eq_ignore_ascii_case(SCHEME.as_bytes());
        is_ours.then(|| Self::read(token).ok()).flatten()
    }

    /// Is it the same? How long that takes tells nothing of it.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let digest = |token: &Self| {
            let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
            mac.update(token.0.as_bytes());
            Some(mac)
        };
        let other = digest(other).map(|mac| mac.finalize().into_bytes());
        match (digest(self), other) {
            (Some(own), Some(other)) => own.verify_slice(&other).is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_it_stands_in_its_file() {
        let (one, other) = (Token::of([7; TOKEN_BYTES]), Token::of([8; TOKEN_BYTES]));
        assert_eq!(Token::read(one.text().as_bytes()), Ok(one.clone()));
        let shown = Token::shown(one.authorization().as_bytes()).unwrap();
        assert!(one.is(&shown) && !other.is(&shown) && !one.is(&other));
        assert!(
            Token::shown(b"bearer abc")
                .unwrap()
                .is(&Token("abc".to_owned()))
        );
        for none in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Basic abc",
            b"Bearer a b",
            b"Bearer \xff",
        ] {
            assert_eq!(Token::shown(none), None, "{}", none.escape_ascii());
        }
        for none in ["", "\n", "a\nb", "a b", "\u{e9}"] {
            assert_eq!(Token::read(none.as_bytes()), Err(InvalidToken), "{none:?}");
        }
        assert_eq!(
            Token::read("a".repeat(TOKEN_CHARS_MAX + 1).as_bytes()),
            Err(InvalidToken)
        );
        assert_eq!(format!("{one:?}"), "Token");
    }
}
