//! W3C trace context, as it travels in HTTP headers, command rows, task metadata and bus headers.

use serde::{Deserialize, Serialize};

/// A checked `traceparent` (W3C Trace Context, level 1, version 00).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceContext(String);

impl TraceContext {
    /// Accepts `00-<32 hex>-<16 hex>-<2 hex>` with ids that are not all zero; anything else is no context.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let parts: Vec<&str> = traceparent.trim().split('-').collect();
        let [version, trace, span, flags] = parts[..] else {
            return None;
        };
        let hex =
            |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let alive = |s: &str| s.bytes().any(|b| b != b'0');
        let fits = version == "00" && hex(trace, 32) && alive(trace) && hex(span, 16) && alive(span) && hex(flags, 2);
        fits.then(|| Self(traceparent.trim().to_owned()))
    }

    /// The header value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_traceparent_counts() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(good).map(|c| c.as_str().to_owned()), Some(good.to_owned()));
        for bad in ["", "00-0-0-0", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "x"] {
            assert!(TraceContext::parse(bad).is_none(), "{bad}");
        }
    }
}
