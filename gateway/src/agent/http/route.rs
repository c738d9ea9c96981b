//! Which call a path is.

use axum::http::Method;

/// A call of an agent (protocol 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    UpdateInterval,
    Integrations,
    Ping,
    Update,
    IntegrationStatus,
    Scans,
    Version,
    Download,
}

impl Call {
    /// Reads a path: `[any prefix]/api/{v}/…`. A prefix is what an operator has put into the agent's URL and no proxy has
    /// taken off.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (version, call) = path.rsplit_once("/api/")?.1.split_once('/')?;
        let fits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        if !fits {
            return None;
        }
        match call {
            "settings/update-interval" => Some(Self::UpdateInterval),
            "hosts/integrations" => Some(Self::Integrations),
            "hosts/ping" => Some(Self::Ping),
            "hosts/update" => Some(Self::Update),
            "hosts/integration-status" => Some(Self::IntegrationStatus),
            "compliance/scans" => Some(Self::Scans),
            "hosts/agent/version" => Some(Self::Version),
            "hosts/agent/download" => Some(Self::Download),
            _ => None,
        }
    }

    /// How metrics name it.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::UpdateInterval => "/api/{v}/settings/update-interval",
            Self::Integrations => "/api/{v}/hosts/integrations",
            Self::Ping => "/api/{v}/hosts/ping",
            Self::Update => "/api/{v}/hosts/update",
            Self::IntegrationStatus => "/api/{v}/hosts/integration-status",
            Self::Scans => "/api/{v}/compliance/scans",
            Self::Version => "/api/{v}/hosts/agent/version",
            Self::Download => "/api/{v}/hosts/agent/download",
        }
    }

    /// Its only method.
    pub(super) fn method(self) -> Method {
        match self {
            Self::UpdateInterval | Self::Integrations | Self::Version | Self::Download => Method::GET,
            Self::Ping | Self::Update | Self::IntegrationStatus | Self::Scans => Method::POST,
        }
    }

    /// Is it lost if it is refused? (Protocol 6-10.)
    pub(super) fn is_posted_once(self) -> bool {
        matches!(self, Self::Update | Self::IntegrationStatus | Self::Scans)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::handles, *};

    #[test]
    fn agents_are_understood_however_their_url_was_written() {
        for path in [
            "/api/v1/hosts/ping",
            "//api/v1/hosts/ping",
            "///api/v1/hosts/ping",
            "/api/v2/hosts/ping",
            "/api/2.1/hosts/ping",
            "/base/path/api/v1/hosts/ping",
            "/base//api/v1/hosts/ping",
        ] {
            assert_eq!(Call::of(path), Some(Call::Ping), "{path}");
        }
    }

    #[test]
    fn what_is_the_apis_is_left_to_it() {
        for path in [
            "/api/v1/hosts",
            "/api/v1/hosts/",
            "/api/v1/hosts/0198c0de-0000-7000-8000-000000000000",
            "/api/v1/hosts/ping/",
            "/api/v1/compliance/scans/active",
            "/api/v1/agents/ws",
            "/api//hosts/ping",
            "/api/v-1/hosts/ping",
            "/hosts/ping",
            "/",
        ] {
            assert!(!handles(&Method::POST, path), "{path}");
        }
        assert!(!handles(&Method::OPTIONS, "/api/v1/hosts/ping"));
    }

    #[test]
    fn patterns_are_the_paths_that_are_read() {
        for path in
            ["settings/update-interval", "hosts/ping", "hosts/integrations", "hosts/update", "hosts/agent/version"]
        {
            let call = Call::of(&format!("/api/v1/{path}")).unwrap();
            assert_eq!(call.pattern(), format!("/api/{{v}}/{path}"));
        }
        for path in ["hosts/integration-status", "compliance/scans", "hosts/agent/download"] {
            let call = Call::of(&format!("/api/v1/{path}")).unwrap();
            assert_eq!(call.pattern(), format!("/api/{{v}}/{path}"));
        }
    }

    #[test]
    fn a_known_path_is_ours_whatever_the_method() {
        assert!(handles(&Method::POST, "/api/v1/hosts/ping"));
        assert!(handles(&Method::GET, "/api/v1/hosts/ping"));
        assert!(handles(&Method::DELETE, "/api/v1/settings/update-interval"));
    }
}
