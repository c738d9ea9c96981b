//! The API: every route, what it takes to use it, and what it is for. Routers, guards and the OpenAPI document are made of
//! this table, so what is not in it does not exist.

use axum::{Router, routing::on};
use store::Permission::{ManageHosts, ManageUsers, UseRemoteAccess, ViewDashboard, ViewHosts, ViewReports, ViewUsers};

use super::{
    auth, automation, commands, events, hosts, openapi,
    page::Page,
    route::{
        Access::{Login, Needs, NeedsAny, Public},
        Route,
        Verb::{Delete, Get, Post, Put},
    },
    status, terminals,
};
use crate::App;

macro_rules! api {
    ($path:literal) => {
        concat!("/api/v1", $path)
    };
}

static TABLE: [Route; 36] = [
    Route::new(Post, api!("/auth/login"), Public, "Log in", |m| on(m, auth::login))
        .takes::<auth::LoginRequest>()
        .gives::<auth::LoggedIn>(),
    Route::new(Post, api!("/auth/logout"), Login, "End the session", |m| on(m, auth::logout)).gives::<auth::Said>(),
    Route::new(Get, api!("/auth/me"), Login, "The user of this session", |m| on(m, auth::me)).gives::<auth::Me>(),
    Route::new(Get, api!("/hosts"), Needs(ViewHosts), "Hosts by name", |m| on(m, hosts::list))
        .query(&["connected", "search", "cursor", "limit"])
        .gives::<Page<hosts::HostRow>>(),
    Route::new(Post, api!("/hosts"), Needs(ManageHosts), "Add one host or many", |m| on(m, hosts::add))
        .takes::<hosts::AddRequest>()
        .gives::<hosts::Added>()
        .statuses(&[201]),
    Route::new(Get, api!("/hosts/{id}"), Needs(ViewHosts), "One host", |m| on(m, hosts::get)).gives::<hosts::HostRow>(),
    Route::new(Delete, api!("/hosts/{id}"), Needs(ManageHosts), "Remove a host", |m| on(m, hosts::remove))
        .statuses(&[204]),
    Route::new(Post, api!("/hosts/{id}/rotate-key"), Needs(ManageHosts), "Replace a host's key", |m| {
        on(m, hosts::rotate_key)
    })
    .gives::<hosts::AddedHost>(),
    Route::new(Put, api!("/hosts/{id}/integrations"), Needs(ManageHosts), "Set a host's integrations", |m| {
        on(m, hosts::integrations)
    })
    .takes::<hosts::IntegrationsRequest>()
    .gives::<hosts::HostRow>(),
    Route::new(Get, api!("/hosts/{id}/report"), Needs(ViewReports), "The latest report, as it came", |m| {
        on(m, hosts::report)
    })
    .gives::<serde_json::Value>(),
    Route::new(Get, api!("/hosts/{id}/integration-status"), Needs(ViewHosts), "The state of integrations", |m| {
        on(m, hosts::integration_status)
    })
    .gives::<hosts::IntegrationStatuses>(),
    Route::new(Get, api!("/hosts/{id}/scans"), Needs(ViewReports), "The newest scan results", |m| on(m, hosts::scans))
        .query(&["limit"])
        .gives::<hosts::Scans>(),
    Route::new(Get, api!("/commands"), Needs(ViewHosts), "Commands, newest first", |m| on(m, commands::list))
        .query(&["batch_id", "host_id", "state", "kind", "cursor", "limit"])
        .gives::<Page<commands::CommandRow>>(),
    Route::new(Post, api!("/commands"), NeedsAny(commands::NEEDS), "Ask hosts for something", |m| {
        on(m, commands::create)
    })
    .takes::<commands::CommandRequest>()
    .gives::<commands::CreatedBatch>()
    .statuses(&[202]),
    Route::new(Get, api!("/commands/{id}"), Needs(ViewHosts), "One command", |m| on(m, commands::get))
        .gives::<commands::CommandRow>(),
    Route::new(Post, api!("/commands/{id}/cancel"), NeedsAny(commands::NEEDS), "Call a command off", |m| {
        on(m, commands::cancel)
    })
    .gives::<commands::CommandRow>()
    .statuses(&[200, 202, 409]),
    Route::new(Get, api!("/ws/status"), Needs(ViewHosts), "Which agents are connected", |m| on(m, status::bulk))
        .query(&["apiIds"])
        .gives::<status::Statuses>(),
    Route::new(Get, api!("/ws/status/summary"), Needs(ViewHosts), "How many agents are connected", |m| {
        on(m, status::summary)
    })
    .gives::<status::StatusSummary>(),
    Route::new(Get, api!("/ws/status/{api_id}"), Needs(ViewHosts), "Is this agent connected", |m| on(m, status::one))
        .gives::<status::OneStatus>(),
    Route::new(
        Post,
        api!("/automation/bullboard-ticket"),
        Needs(ViewDashboard),
        "A one-time pass to the dashboard's page",
        |m| on(m, automation::ticket),
    )
    .gives::<automation::Ticket>(),
    Route::new(Get, api!("/automation/stats"), Needs(ViewDashboard), "Commands by queue, in upstream's states", |m| {
        on(m, automation::stats)
    })
    .gives::<automation::QueueStats>(),
    Route::new(Get, api!("/automation/stats/{queue}"), Needs(ViewDashboard), "The same of one queue", |m| {
        on(m, automation::queue_stats)
    })
    .gives::<automation::QueueStats>(),
    Route::new(Get, api!("/automation/jobs/{queue}"), Needs(ViewDashboard), "A queue's newest commands", |m| {
        on(m, automation::jobs)
    })
    .query(&["limit"])
    .gives::<automation::Jobs>(),
    Route::new(Get, api!("/automation/health"), Needs(ViewDashboard), "How the queues are", |m| {
        on(m, automation::health)
    })
    .gives::<automation::QueueHealth>(),
    Route::new(Post, api!("/auth/ssh-ticket"), Needs(UseRemoteAccess), "A one-time pass to a terminal", |m| {
        on(m, terminals::ticket)
    })
    .denied_as("ssh_terminal_access_denied")
    .takes::<terminals::TicketRequest>()
    .gives::<terminals::SshTicket>(),
    Route::new(Get, api!("/terminals"), Needs(ViewUsers), "Terminals, newest first", |m| on(m, terminals::list))
        .query(&["host_id", "user_id", "open", "cursor", "limit"])
        .gives::<Page<terminals::Terminal>>(),
    Route::new(Get, api!("/audit"), Needs(ViewUsers), "The audit log, newest first", |m| on(m, terminals::audit))
        .query(&["event", "user_id", "host_id", "session_id", "from", "until", "cursor", "limit"])
        .gives::<Page<terminals::AuditEntry>>(),
    Route::new(Get, api!("/recordings"), Needs(ManageUsers), "Recordings of terminals, newest first", |m| {
        on(m, terminals::recordings)
    })
    .query(&["host_id", "user_id", "open", "cursor", "limit"])
    .gives::<Page<terminals::Recording>>(),
    Route::new(Get, api!("/recordings/{id}"), Needs(ManageUsers), "A recording, as asciicast v2", |m| {
        on(m, terminals::recording)
    }),
    Route::new(Delete, api!("/recordings/{id}"), Needs(ManageUsers), "Remove a recording", |m| {
        on(m, terminals::remove_recording)
    })
    .statuses(&[204]),
    Route::new(Get, api!("/hosts/{id}/ssh-keys"), Needs(ViewHosts), "SSH keys that a host showed first", |m| {
        on(m, terminals::ssh_keys)
    })
    .gives::<terminals::SshKeys>(),
    Route::new(Delete, api!("/hosts/{id}/ssh-keys"), Needs(ManageHosts), "Trust the next SSH key of a host", |m| {
        on(m, terminals::forget_ssh_keys)
    })
    .query(&["port"])
    .gives::<terminals::Forgotten>(),
    Route::new(Put, api!("/hosts/{id}/terminals"), Needs(ManageHosts), "Set what terminals on a host do", |m| {
        on(m, terminals::options)
    })
    .takes::<terminals::OptionsRequest>()
    .gives::<hosts::HostRow>(),
    Route::new(Get, "/health", Public, "The server is there", |m| on(m, automation::alive))
        .gives::<automation::Alive>(),
    Route::new(Get, api!("/events"), Needs(events::NEEDS), "What happens to hosts, as it happens", |m| {
        on(m, events::get)
    })
    .query(&["host_id", "types"])
    .streams(),
    Route::new(Get, api!("/openapi.json"), Public, "This document", |m| on(m, openapi::get))
        .gives::<serde_json::Value>(),
];

/// Every route there is.
#[must_use]
pub fn table() -> &'static [Route] {
    &TABLE
}

/// The routes, each behind its guard.
pub(super) fn mount(app: &App) -> Router<App> {
    TABLE.iter().fold(Router::new(), |router, route| route.mount(router, app))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_method_of_a_path_is_there_once() {
        let mut seen = HashSet::new();
        for route in table() {
            assert!(seen.insert((route.verb.name(), route.path)), "{} {}", route.verb.name(), route.path);
        }
    }

    #[test]
    fn only_what_must_be_is_public() {
        let public: Vec<_> = table().iter().filter(|route| route.access == Public).map(|route| route.path).collect();
        assert_eq!(public, [api!("/auth/login"), "/health", api!("/openapi.json")]);
    }

    #[test]
    fn what_changes_something_is_never_open_to_who_may_only_look() {
        let looks = store::Role { name: "readonly".into(), permissions: vec![ViewHosts, ViewReports] };
        let open: Vec<_> = table()
            .iter()
            .filter(|route| route.verb.is_unsafe() && route.access.lacks(&looks).is_none())
            .map(|route| route.path)
            .collect();
        assert_eq!(open, [api!("/auth/login"), api!("/auth/logout")]);
    }
}
