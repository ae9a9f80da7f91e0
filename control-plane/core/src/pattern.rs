//! Will every proxy understand this regular expression?
//!
//! A proxy refuses a resource that has one that it does not understand. It is better said to the
//! author, in a status, than in a refusal that only operators see.

/// Longest regular expression, in characters.
pub const CHARS_MAX: usize = 1_024;
/// Largest when compiled, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// Checks a regular expression as the proxies will use it: anchored at both ends.
///
/// # Errors
/// Why it would be refused.
pub fn check(text: &str) -> Result<(), String> {
    if text.chars().count() > CHARS_MAX {
        return Err(format!("longer than {CHARS_MAX} characters"));
    }
    let build = |pattern: &str| {
        let built = regex::bytes::RegexBuilder::new(pattern)
            .size_limit(BYTES_MAX)
            .build();
        // The last line is the reason; the others draw the place.
        built.map(drop).map_err(|error| {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or("not understood").trim();
            reason.strip_prefix("error: ").unwrap_or(reason).to_owned()
        })
    };
    // Alone first: `a)|(b` is none, though it becomes one between the anchors.
    build(text)?;
    build(&format!(r"\A(?:{text})\z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_would_refuse_is_refused() {
        assert_eq!(check("a|b+"), Ok(()));
        assert_eq!(check(&"x".repeat(CHARS_MAX)), Ok(()));
        for bad in ["a)|(b", "(", "a{2,1}", r"\w{1000}{1000}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&"x".repeat(CHARS_MAX + 1)).is_err());
    }
}
