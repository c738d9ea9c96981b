//! Commands over the API: asking for them, reading them, calling them off.

mod cancel;
mod create;
mod read;

use jobs::Kind;
use serde_json::Value;
use store::{Account, Permission};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::{
    cancel::cancel,
    create::{CommandRequest, CreatedBatch, create},
    read::{get, list},
};
use super::error::ApiError;

/// A command as `jobs::view` prints it. Times are RFC 3339.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what `jobs::view` prints; nothing is built from it")]
pub struct CommandRow {
    id: Uuid,
    host_id: Uuid,
    kind: String,
    state: String,
    /// How often a worker began to send it.
    attempt: i32,
    /// It will move no more.
    r#final: bool,
    /// The deed that ended it.
    evidence: Option<CommandEvidence>,
    /// Why it did not succeed.
    error: Option<String>,
    #[schema(value_type = Object)]
    payload: Value,
    /// A user's name, or `system`.
    requested_by: String,
    batch_id: Uuid,
    created_at: String,
    /// Not sent after.
    expires_at: String,
    cancel_requested_at: Option<String>,
    /// When it last entered each state; only the states it was in are there.
    queued_at: Option<String>,
    waiting_at: Option<String>,
    sending_at: Option<String>,
    sent_at: Option<String>,
    delivered_at: Option<String>,
    running_at: Option<String>,
    succeeded_at: Option<String>,
    failed_at: Option<String>,
    cancelled_at: Option<String>,
    unconfirmed_at: Option<String>,
    expired_at: Option<String>,
}

/// A deed of the host.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what `jobs::view` prints; nothing is built from it")]
pub struct CommandEvidence {
    /// `hosts/update`, `compliance/scans`, …
    deed: String,
    at: String,
    detail: Option<String>,
    /// A deed that came after the command had ended otherwise.
    #[schema(value_type = Option<Object>)]
    late: Option<Value>,
}

/// Any of these opens the routes that send and cancel; [`may_ask`] decides by the kind.
pub const NEEDS: &[Permission] = &[Permission::ManageHosts, Permission::ManageCompliance];

/// May the user ask for this kind?
///
/// # Errors
/// 403.
fn may_ask(account: &Account, kind: Kind) -> Result<(), ApiError> {
    let enough: &[Permission] = match kind {
        Kind::ComplianceScan => NEEDS,
        _ => &[Permission::ManageHosts],
    };
    if enough.iter().any(|permission| account.role.may(*permission)) {
        Ok(())
    } else {
        Err(ApiError::Forbidden(enough[0]))
    }
}

#[cfg(test)]
mod tests {
    use store::Role;

    use super::*;

    fn account(permissions: &[Permission]) -> Account {
        Account {
            id: Uuid::nil(),
            username: "u".into(),
            role: Role { name: "r".into(), permissions: permissions.to_vec() },
            active: true,
            created_at: 0,
            last_login_at: None,
        }
    }

    #[test]
    fn scans_may_be_asked_for_by_who_manages_compliance() {
        let auditor = account(&[Permission::ManageCompliance]);
        assert!(may_ask(&auditor, Kind::ComplianceScan).is_ok());
        assert!(may_ask(&auditor, Kind::ReportNow).is_err());
        let manager = account(&[Permission::ManageHosts]);
        assert!(Kind::ALL.into_iter().all(|kind| may_ask(&manager, kind).is_ok()));
        assert!(Kind::ALL.into_iter().all(|kind| may_ask(&account(&[Permission::ViewHosts]), kind).is_err()));
    }
}
