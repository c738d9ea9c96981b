//! Users, their roles and sessions.

use async_trait::async_trait;
use uuid::Uuid;

use crate::StoreError;

macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a role may do (protocol 4.1, with the finer names of generation 2.1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Permission { $($(#[$doc])* $variant,)* }

        impl Permission {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in rows and answers.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Reads a name.
            #[must_use]
            pub fn of_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

permissions! {
    /// See the dashboard and queues.
    ViewDashboard = "can_view_dashboard",
    /// See hosts.
    ViewHosts = "can_view_hosts",
    /// Change hosts, send commands.
    ManageHosts = "can_manage_hosts",
    /// See packages.
    ViewPackages = "can_view_packages",
    /// Change packages.
    ManagePackages = "can_manage_packages",
    /// See users.
    ViewUsers = "can_view_users",
    /// Change users.
    ManageUsers = "can_manage_users",
    /// Change superadmins.
    ManageSuperusers = "can_manage_superusers",
    /// See reports and compliance results.
    ViewReports = "can_view_reports",
    /// Export data.
    ExportData = "can_export_data",
    /// Change settings.
    ManageSettings = "can_manage_settings",
    /// Change notifications.
    ManageNotifications = "can_manage_notifications",
    /// See the notification log.
    ViewNotificationLogs = "can_view_notification_logs",
    /// Patch hosts.
    ManagePatching = "can_manage_patching",
    /// Run compliance scans.
    ManageCompliance = "can_manage_compliance",
    /// Change Docker.
    ManageDocker = "can_manage_docker",
    /// Change alerts.
    ManageAlerts = "can_manage_alerts",
    /// Trigger jobs.
    ManageAutomation = "can_manage_automation",
    /// Open terminals.
    UseRemoteAccess = "can_use_remote_access",
}

/// A role and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub permissions: Vec<Permission>,
}

impl Role {
    /// May it?
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub id: Uuid,
    /// The name, unique whatever its case.
    pub username: String,
    /// The role.
    pub role: Role,
    /// May log in.
    pub active: bool,
    /// Made.
    pub created_at: i64,
    /// Last login.
    pub last_login_at: Option<i64>,
}

/// What a login needs.
#[derive(Debug, Clone)]
pub struct LoginRow {
    /// The user.
    pub account: Account,
    /// bcrypt.
    pub password_hash: String,
}

/// A session to open.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// Lasts at most this long.
    pub lifetime_ms: i64,
    /// Ends when nothing is heard for so long.
    pub idle_ms: i64,
    /// From where.
    pub address: String,
    /// With what.
    pub user_agent: String,
}

/// A session and its user.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub account: Account,
    /// Ends at the latest.
    pub expires_at: i64,
    /// Ends when nothing is heard until then.
    pub idle_at: i64,
    /// Was ended.
    pub revoked_at: Option<i64>,
}

/// The port.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Makes the user; `Conflict` when the name is taken, `None` when there is no such role.
    async fn add_user(
        &self,
        id: Uuid,
        username: &str,
        password_hash: &str,
        role: &str,
    ) -> Result<Option<Account>, StoreError>;

    /// Makes the first user, if there is none yet: the first who asks wins. True for the winner.
    async fn add_first_user(
        &self,
        id: Uuid,
        username: &str,
        password_hash: &str,
        role: &str,
    ) -> Result<bool, StoreError>;

    /// Is there any user?
    async fn has_users(&self) -> Result<bool, StoreError>;

    /// Looks up a login by name, whatever its case.
    async fn login(&self, username: &str) -> Result<Option<LoginRow>, StoreError>;

    /// Replaces a password and ends the user's sessions: answers the user and the sessions that ended.
    async fn set_password(&self, username: &str, password_hash: &str) -> Result<Option<(Uuid, Vec<Uuid>)>, StoreError>;

    /// All roles.
    async fn roles(&self) -> Result<Vec<Role>, StoreError>;

    /// Opens a session.
    async fn open_session(&self, session: &NewSession) -> Result<(), StoreError>;

    /// A session with its user and role, read afresh. `touch`: this call is activity.
    async fn session(&self, id: Uuid, touch: bool) -> Result<Option<SessionRow>, StoreError>;

    /// Ends a session.
    async fn revoke_session(&self, id: Uuid) -> Result<(), StoreError>;
}

/// The roles a new store begins with (protocol 4.1). Terminals come with `can_manage_hosts`, as generation 1.4 had it.
#[must_use]
pub fn seeded_roles() -> Vec<Role> {
    use Permission as P;
    let readonly = [P::ViewDashboard, P::ViewHosts, P::ViewPackages, P::ViewReports];
    let user = [&readonly[..], &[P::ExportData]].concat();
    let host_manager = [
        &user[..],
        &[
            P::ManageHosts,
            P::ManagePackages,
            P::ManagePatching,
            P::ManageCompliance,
            P::ManageDocker,
            P::UseRemoteAccess,
        ],
    ]
    .concat();
    let admin: Vec<P> = P::ALL.iter().copied().filter(|p| *p != P::ManageSuperusers).collect();
    let role = |name: &str, permissions: Vec<P>| Role { name: name.to_owned(), permissions };
    vec![
        role("superadmin", P::ALL.to_vec()),
        role("admin", admin),
        role("host_manager", host_manager),
        role("user", user),
        role("readonly", readonly.to_vec()),
    ]
}
