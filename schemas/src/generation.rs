//! The two generations of agents (protocol, head): 1.4 and 2.1.

use serde::{Deserialize, Serialize};

/// Which of the two agent generations a host runs, as told by the `agentVersion` of its HTTP calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// Agents before 2.0.
    #[serde(rename = "1.4")]
    V14,
    /// Agents from 2.0 on.
    #[serde(rename = "2.1")]
    V21,
}

impl Generation {
    /// Reads the generation off a version such as `1.4.2` or `2.1.4-pre`; `None` for what is no version.
    #[must_use]
    pub fn of_version(version: &str) -> Option<Self> {
        let major: u32 = version.trim_start_matches('v').split('.').next()?.parse().ok()?;
        Some(if major >= 2 { Self::V21 } else { Self::V14 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_decides() {
        assert_eq!(Generation::of_version("1.4.2"), Some(Generation::V14));
        assert_eq!(Generation::of_version("2.1.4-pre"), Some(Generation::V21));
        assert_eq!(Generation::of_version("dev"), None);
    }
}
