//! Which events a client wants.

use std::collections::HashSet;

use schemas::event::EventKind;
use uuid::Uuid;

use super::ring::Entry;
use crate::api::{body::Query, error::ApiError};

/// Most hosts a filter names.
const HOSTS_MAX: usize = 1_000;

const KINDS: [EventKind; 3] = [EventKind::Presence, EventKind::Command, EventKind::ScanProgress];

/// Hosts and kinds; `None` is all.
#[derive(Debug, Default)]
pub(super) struct Filter {
    hosts: Option<HashSet<Uuid>>,
    kinds: Option<Vec<EventKind>>,
}

impl Filter {
    /// `?host_id=` and `?types=`, each repeated or a comma list.
    pub(super) fn read(mut query: Query) -> Result<Self, ApiError> {
        let hosts = query.list("host_id");
        let kinds = query.list("types");
        query.end()?;
        if hosts.len() > HOSTS_MAX {
            return Err(ApiError::bad(format!("host_id takes at most {HOSTS_MAX} hosts")));
        }
        let hosts: Result<HashSet<Uuid>, _> = hosts.iter().map(|text| text.parse()).collect();
        let hosts = hosts.map_err(|_| ApiError::bad("host_id must be a UUID"))?;
        let of_name = |name: &String| KINDS.into_iter().find(|kind| kind.name() == name);
        let kinds: Option<Vec<EventKind>> = kinds.iter().map(of_name).collect();
        let kinds = kinds.ok_or_else(|| ApiError::bad("types must be of presence, command, scan_progress"))?;
        Ok(Self { hosts: (!hosts.is_empty()).then_some(hosts), kinds: (!kinds.is_empty()).then_some(kinds) })
    }

    /// Is it wanted?
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&entry.host_id))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&entry.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(uri: &str) -> Result<Filter, ApiError> {
        Filter::read(Query::of(&uri.parse().unwrap()).unwrap())
    }

    fn entry(host: u128, kind: EventKind) -> Entry {
        Entry { host_id: Uuid::from_u128(host), kind, text: bytes::Bytes::new() }
    }

    #[test]
    fn a_filter_names_hosts_and_kinds() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let some = filter(&format!("/events?host_id={one}&host_id={two}&types=command,presence")).unwrap();
        assert!(some.wants(&entry(1, EventKind::Command)));
        assert!(some.wants(&entry(2, EventKind::Presence)));
        assert!(!some.wants(&entry(3, EventKind::Command)));
        assert!(!some.wants(&entry(1, EventKind::ScanProgress)));
        let all = filter("/events").unwrap();
        assert!(all.wants(&entry(9, EventKind::ScanProgress)));
    }

    #[test]
    fn what_cannot_be_wanted_is_refused() {
        for bad in ["/events?host_id=web", "/events?types=commands", "/events?type=command"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
