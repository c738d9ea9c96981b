//! The statements that run often or over much. A test reads their plans: none may walk through a whole table.

use jobs::{Kind, Queue, State};
use uuid::Uuid;

use super::{
    Conn as _, Engine, audit, batch, commands, hosts, maintenance, presence, recordings, rows, ssh_keys, status,
    terminals, tickets, work,
};
use crate::{AuditFilter, ListFilter, TerminalFilter};

/// Each with what it does.
#[doc(hidden)]
#[must_use]
pub fn hot_queries<E: Engine>() -> Vec<(&'static str, String)> {
    let mut queries = of_commands_and_hosts::<E>();
    queries.extend(of_terminals::<E>());
    queries
}

fn of_terminals<E: Engine>() -> Vec<(&'static str, String)> {
    let (host_id, user_id, session_id) = (Some(Uuid::nil()), Some(Uuid::nil()), Some(Uuid::nil()));
    let event = Some("ssh_terminal_opened".to_owned());
    let list = |filter: &TerminalFilter| terminals::list_sql(filter, false).0;
    let recordings = |filter: &TerminalFilter| terminals::list_sql(filter, true).0;
    let log = |filter: &AuditFilter| audit::list_sql(filter).0;
    let (all, entries) = (TerminalFilter::default(), AuditFilter::default());
    let open = TerminalFilter { open: Some(true), ..all.clone() };
    vec![
        ("open terminals of a user and a host", terminals::OPEN_COUNTS.to_owned()),
        ("a terminal", terminals::TERMINAL.to_owned()),
        ("a terminal is connected", terminals::TERMINAL_CONNECTED.to_owned()),
        ("a terminal ends", terminals::END.to_owned()),
        ("terminals at agents", terminals::AT_AGENTS.to_owned()),
        ("terminals left their agents", terminals::left_sql::<E::Conn>()),
        ("terminals of a gateway end", terminals::end_some_sql::<E::Conn>(true)),
        ("all terminals end", terminals::end_some_sql::<E::Conn>(false)),
        ("newest terminals", list(&all)),
        ("newest ended terminals", list(&TerminalFilter { open: Some(false), ..all.clone() })),
        ("open terminals", list(&open)),
        ("open terminals of a host", list(&TerminalFilter { host_id, ..open.clone() })),
        ("open terminals of a user", list(&TerminalFilter { user_id, ..open })),
        ("a host's terminals", list(&TerminalFilter { host_id, ..all.clone() })),
        ("a user's terminals", list(&TerminalFilter { user_id, ..all.clone() })),
        ("a user's terminals on a host", list(&TerminalFilter { user_id, host_id, ..all.clone() })),
        ("newest recordings", recordings(&all)),
        ("a host's recordings", recordings(&TerminalFilter { host_id, ..all.clone() })),
        ("a user's recordings", recordings(&TerminalFilter { user_id, ..all })),
        ("a recording", recordings::RECORDING.to_owned()),
        ("the next chunk", recordings::NEXT_CHUNK.to_owned()),
        ("a chunk", recordings::CHUNK.to_owned()),
        ("forget a recording", recordings::forget_sql()),
        ("old chunks", recordings::OLD_CHUNKS.to_owned()),
        ("old recordings", recordings::forget_old_sql()),
        ("old terminals", maintenance::OLD_TERMINALS.to_owned()),
        ("entries of terminals", audit::OF_TERMINALS.to_owned()),
        ("newest entries", log(&entries)),
        ("entries of an event", log(&AuditFilter { event: event.clone(), ..entries.clone() })),
        ("entries of a user", log(&AuditFilter { user_id, ..entries.clone() })),
        ("entries of a user, narrowed", log(&AuditFilter { user_id, event: event.clone(), ..entries.clone() })),
        ("entries of a host", log(&AuditFilter { host_id, ..entries.clone() })),
        ("entries of a host, narrowed", log(&AuditFilter { host_id, user_id, event, ..entries.clone() })),
        ("entries of a terminal", log(&AuditFilter { session_id, ..entries })),
        ("old entries", maintenance::OLD_AUDITS.to_owned()),
        ("a key that is known", ssh_keys::KNOWN.to_owned()),
        ("a key is seen again", ssh_keys::SEEN_AGAIN.to_owned()),
        ("keys of a host", ssh_keys::KEYS.to_owned()),
        ("forget keys", ssh_keys::FORGET.to_owned()),
    ]
}

fn of_commands_and_hosts<E: Engine>() -> Vec<(&'static str, String)> {
    let list = |filter: &ListFilter| commands::list_sql(filter).0;
    let all = ListFilter::default();
    let (batch_id, host_id) = (Some(Uuid::nil()), Some(Uuid::nil()));
    let (state, kind) = (Some(State::Queued), Some(Kind::ReportNow));
    vec![
        ("due rows", commands::DUE.to_owned()),
        ("rows by id", work::read_sql(commands::BY_ID)),
        ("hosts in the order of locks", work::lock_sql::<E::Conn>()),
        ("hosts of commands", work::LOCK_OF.to_owned()),
        ("open rows of a host", work::read_sql(commands::OPEN)),
        ("rows under way of a host", work::read_sql(commands::UNDER_WAY)),
        ("rows that a late deed may concern", work::read_sql(commands::LATELY_UNCONFIRMED)),
        ("rows that a connect wakes", work::read_sql(presence::WAKES)),
        ("rows that wait for a host", work::read_sql(presence::WAITS)),
        ("write one row", rows::update_sql(1, E::Conn::NUMBERED)),
        ("write many rows", rows::update_sql(8, E::Conn::NUMBERED)),
        ("settings that were read", work::SETTINGS_READ.to_owned()),
        ("next scans", work::NEXT_SCANS.to_owned()),
        ("hosts with a scan under way", commands::BUSY.to_owned()),
        ("open rows by host", batch::OPEN_COUNTS.to_owned()),
        ("identical commands", batch::twins_sql(batch::TWINS)),
        ("identical scans", batch::twins_sql(batch::TWIN_SCANS)),
        ("newest commands", list(&all)),
        ("newest commands of a kind", list(&ListFilter { kind, ..all.clone() })),
        ("a batch", list(&ListFilter { batch_id, ..all.clone() })),
        ("a batch, narrowed", list(&ListFilter { batch_id, state, kind, ..all.clone() })),
        ("a host's commands", list(&ListFilter { host_id, ..all.clone() })),
        ("a host's commands, narrowed", list(&ListFilter { host_id, state, kind, ..all })),
        ("authentication", hosts::AUTH.to_owned()),
        ("presence", hosts::PRESENCE.to_owned()),
        ("connected hosts", hosts::CONNECTED.to_owned()),
        ("hosts that name a connection", presence::NAMED.to_owned()),
        ("connect", presence::CONNECT.to_owned()),
        ("disconnect", presence::DISCONNECT.to_owned()),
        ("assert hints", presence::ASSERT_HINTS.to_owned()),
        ("clear hints", presence::CLEAR_HINTS.to_owned()),
        ("gateways that hold somebody", presence::GATEWAYS.to_owned()),
        ("clear the hints of a gateway", presence::CLEAR_HINTS_OF.to_owned()),
        ("stale keys", presence::STALE_KEYS.to_owned()),
        ("hosts with unseen settings", presence::UNSEEN.to_owned()),
        ("old commands", maintenance::OLD_COMMANDS.to_owned()),
        ("old sessions", maintenance::OLD_SESSIONS.to_owned()),
        ("old keys", maintenance::OLD_KEYS.to_owned()),
        ("old tasks", E::OLD_TASKS.to_owned()),
        ("the worker that reports", status::REPORTER.to_owned()),
        ("workers that live", status::WORKERS.to_owned()),
        ("commands that ended lately", status::ENDED.to_owned()),
        ("oldest commands", status::oldest_sql()),
        ("commands under way", status::under_way_sql()),
        ("last ticks", status::ticks_sql()),
        ("newest commands of a queue", status::newest_sql(Queue::AgentCommands, 10)),
        ("old workers", status::OLD_WORKERS.to_owned()),
        ("old minutes", E::OLD_MINUTES.to_owned()),
        ("look for a ticket", tickets::LOOK.to_owned()),
        ("take a ticket", tickets::TAKE.to_owned()),
        ("tickets beyond those that may be open", tickets::surplus_sql("tickets")),
        ("a dashboard's session", tickets::DASHBOARD.to_owned()),
        ("old tickets", tickets::OLD_TICKETS.to_owned()),
        ("old dashboards", tickets::OLD_DASHBOARDS.to_owned()),
    ]
}
