//! The two generations of agents that exist, and the strings by which a server can tell them apart.

use std::str::FromStr;

use serde::Serialize;

/// Which agent is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Generation {
    /// Agents 1.4.x.
    #[serde(rename = "1.4")]
    V1,
    /// Agents 2.x.
    #[serde(rename = "2.1")]
    V2,
}

impl Generation {
    /// As the recordings' file names spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "1.4",
            Self::V2 => "2.1",
        }
    }

    /// `agentVersion` of its reports (protocol 3).
    pub fn agent_version(self) -> &'static str {
        match self {
            Self::V1 => "1.4.2",
            Self::V2 => "2.1.4",
        }
    }

    /// User-Agent of its HTTP calls, all but the version check (protocol 3).
    pub fn http_user_agent(self) -> &'static str {
        match self {
            Self::V1 => "go-resty/2.16.5 (https://github.com/go-resty/resty)",
            Self::V2 => "go-resty/2.17.2 (https://github.com/go-resty/resty)",
        }
    }
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.4" => Ok(Self::V1),
            "2.1" => Ok(Self::V2),
            other => Err(format!("unknown generation {other:?}: it is 1.4 or 2.1")),
        }
    }
}
