//! Bus subjects. Built here and nowhere else, from checked ids only.

use uuid::Uuid;

use crate::ApiId;

/// What a gateway that holds an agent listens to: `agent.<api_id>.*`, one subscription an agent.
#[must_use]
pub fn agent_all(id: &ApiId) -> String {
    format!("agent.{id}.*")
}

/// Deliver a frame ([`crate::message::CommandRequest`]), answered by [`crate::message::CommandReply`].
#[must_use]
pub fn agent_command(id: &ApiId) -> String {
    format!("agent.{id}.command")
}

/// "This connection holds the agent now" ([`crate::message::Claim`]).
#[must_use]
pub fn agent_claim(id: &ApiId) -> String {
    format!("agent.{id}.claim")
}

/// Is it connected? Answered by [`crate::message::StatusReply`]; no responder means offline.
#[must_use]
pub fn agent_status(id: &ApiId) -> String {
    format!("agent.{id}.status")
}

/// Close the live socket ([`crate::message::CloseRequest`]).
#[must_use]
pub fn agent_close(id: &ApiId) -> String {
    format!("agent.{id}.close")
}

/// Open a shell ([`crate::message::TerminalOpen`]), answered by [`crate::message::TerminalReply`].
#[must_use]
pub fn agent_terminal(id: &ApiId) -> String {
    format!("agent.{id}.terminal")
}

/// To the agent's side of a terminal ([`crate::message::TerminalIn`]). Asked, it is answered by
/// [`crate::message::TerminalState`].
#[must_use]
pub fn terminal_in(session: Uuid) -> String {
    format!("terminal.{session}.in")
}

/// To the browser's side of a terminal ([`crate::message::TerminalOut`]).
#[must_use]
pub fn terminal_out(session: Uuid) -> String {
    format!("terminal.{session}.out")
}

/// Something of a host changed ([`crate::event::Event`]).
#[must_use]
pub fn host_changed(host: Uuid) -> String {
    format!("host.{host}.changed")
}

/// Every host's changes.
pub const ALL_HOSTS_CHANGED: &str = "host.*.changed";

/// Revocations: `revoked.<user|session|role|host|key>.<id>` ([`crate::message::Revoked`] says what).
#[must_use]
pub fn revoked(what: &str, id: Uuid) -> String {
    format!("revoked.{what}.{id}")
}

/// Every revocation.
pub const ALL_REVOKED: &str = "revoked.>";

/// Where the queues stand ([`crate::status::QueueStatus`]), when it changes and every few seconds.
pub const QUEUES_STATUS: &str = "queues.status";

/// Asks for it; the workers answer as one group, [`WORKERS`].
pub const QUEUES_STATUS_ASK: &str = "queues.status.ask";

/// The group of the workers: one of them gets what is sent to it.
pub const WORKERS: &str = "workers";

/// Does that gateway live? Answered by [`crate::message::AliveReply`].
#[must_use]
pub fn gateway_alive(gateway: Uuid) -> String {
    format!("gateway.{gateway}.alive")
}

/// The last token of a subject: which of an agent's requests this is.
#[must_use]
pub fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}
