//! Limits of the operating system that a gateway runs into first.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the agents' sockets: listeners, the database, browsers, agents' HTTP calls, terminals.
const OTHER_FILES: u64 = 2_000;

/// Raises the number of open files to what the system allows, and answers how many agents fit: `wanted` or fewer. Above
/// that number an agent gets a 503 and tries another gateway, instead of a connection that nobody can accept.
pub fn agents_that_fit(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    // Unlimited is `None`.
    let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = fit(open_files);
    if fit < wanted {
        tracing::info!(
            open_files,
            agents = fit,
            "the limit of open files (ulimit -n) allows fewer agents than PATCHBAY_MAX_CONNECTIONS"
        );
    }
    fit.min(wanted)
}

/// A small limit is shared out by halves.
fn fit(open_files: u64) -> usize {
    let agents = open_files.saturating_sub(OTHER_FILES).max(open_files / 2).max(1);
    usize::try_from(agents).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_keep_their_share() {
        assert_eq!(fit(1_024), 512);
        assert_eq!(fit(20_000), 18_000);
        assert_eq!(fit(0), 1);
        assert!(fit(u64::MAX) > 1_000_000);
    }
}
