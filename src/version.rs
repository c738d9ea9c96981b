//! Which build this is.

/// The version, and the commit where it is known: `0.1.0 (1a2b3c4d5e6f)`.
pub const VERSION: &str = env!("PATCHBAY_VERSION");
