//! Times: milliseconds since the Unix epoch inside, RFC 3339 UTC with milliseconds on the wire.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Prints milliseconds since the Unix epoch as `2026-01-01T00:00:00.000Z`.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    let nanos = i128::from(unix_ms) * 1_000_000;
    let Ok(t) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else {
        return String::new();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

/// Reads an RFC 3339 time, with any offset and precision, as milliseconds since the Unix epoch.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let t = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(t.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// For `#[serde(with = …)]` and `serialize_with`: a time as RFC 3339 text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: serde::Serializer>(unix_ms: &i64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&rfc3339(*unix_ms))
}

/// For `#[serde(serialize_with = …)]`: an optional time as RFC 3339 text or null.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_option<S: serde::Serializer>(unix_ms: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
    match unix_ms {
        Some(ms) => s.serialize_str(&rfc3339(*ms)),
        None => s.serialize_none(),
    }
}

/// For `#[serde(with = …)]`: a time from RFC 3339 text.
///
/// # Errors
/// For text that is no time.
pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(d)?;
    parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("no RFC 3339 time"))
}

/// For `#[serde(with = …)]`: an optional time as RFC 3339 text or null.
pub mod option {
    pub use super::serialize_option as serialize;

    /// A time from RFC 3339 text, or none from null.
    ///
    /// # Errors
    /// For text that is no time.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
        let text = <Option<std::borrow::Cow<'_, str>> as serde::Deserialize>::deserialize(d)?;
        let read = |text: std::borrow::Cow<'_, str>| {
            super::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("no RFC 3339 time"))
        };
        text.map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_round_trip() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        let ms = 1_767_225_600_123;
        assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
        assert_eq!(parse_rfc3339("2026-11-24T23:10:23Z"), parse_rfc3339("2026-11-25T00:10:23+01:00"));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
