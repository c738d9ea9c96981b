//! Users, roles, sessions.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore, conflict,
    statement::{Cells, get, get_bool, get_uuid, sql},
};
use crate::{
    Account, Accounts, LoginRow, NewSession, Permission, Role, SessionRow, StoreError, ports::accounts::seeded_roles,
};

/// A user with the role's permissions in one text.
const USER: &str = "u.id, u.username, u.role, u.active, u.created_at, u.last_login_at, u.password_hash, \
     (SELECT string_agg(permission, ',') FROM roles WHERE name = u.role) AS permissions";

/// Activity is noted at most this often: a busy client costs no write a request.
const TOUCH_MS: i64 = 15_000;

/// What only one process does at a time.
const ROLES: i64 = 1;
const FIRST_USER: i64 = 2;

impl<E: Engine> SqlStore<E> {
    /// The roles of protocol 4.1; what exists already is left as it is.
    pub async fn seed_roles(&self) -> Result<(), StoreError> {
        let mut tx = self.engine.begin_alone(ROLES).await?;
        for role in seeded_roles() {
            let known = tx.optional(sql("SELECT 1 FROM roles WHERE name = $1 LIMIT 1").bind(&role.name)).await?;
            if known.is_some() {
                continue;
            }
            for permission in role.permissions {
                tx.run(
                    sql("INSERT INTO roles (name, permission) VALUES ($1, $2)")
                        .bind(&role.name)
                        .bind(permission.name()),
                )
                .await?;
            }
        }
        tx.commit().await
    }
}

fn permissions(text: Option<&str>) -> Vec<Permission> {
    let mut found: Vec<Permission> = text.unwrap_or_default().split(',').filter_map(Permission::of_name).collect();
    found.sort_unstable();
    found
}

fn account(row: &impl Cells) -> Result<Account, StoreError> {
    Ok(Account {
        id: get_uuid(row, "id")?,
        username: get(row, "username")?,
        role: Role { name: get(row, "role")?, permissions: permissions(get(row, "permissions")?) },
        active: get_bool(row, "active")?,
        created_at: get(row, "created_at")?,
        last_login_at: get(row, "last_login_at")?,
    })
}

/// Names are the same whatever their case.
fn name_key(username: &str) -> String {
    username.to_lowercase()
}

async fn insert<C: Conn>(
    tx: &mut C,
    id: Uuid,
    username: &str,
    hash: &str,
    role: &str,
    now: i64,
) -> Result<(), StoreError> {
    tx.try_run(sql(
        "INSERT INTO users (id, username, name_key, password_hash, role, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
    ).bind(id.to_string()).bind(username).bind(name_key(username)).bind(hash).bind(role).bind(now)).await.map(drop)
    .map_err(|e| conflict(e, "a user of that name"))
}

async fn read_user<C: Conn>(tx: &mut C, id: Uuid) -> Result<Option<Account>, StoreError> {
    tx.optional(sql(format!("SELECT {USER} FROM users u WHERE u.id = $1")).bind(id.to_string()))
        .await?
        .as_ref()
        .map(account)
        .transpose()
}

#[async_trait]
impl<E: Engine> Accounts for SqlStore<E> {
    async fn add_user(
        &self,
        id: Uuid,
        username: &str,
        password_hash: &str,
        role: &str,
    ) -> Result<Option<Account>, StoreError> {
        let mut tx = self.engine.begin().await?;
        let known = tx.optional(sql("SELECT 1 FROM roles WHERE name = $1 LIMIT 1").bind(role)).await?;
        if known.is_none() {
            return Ok(None);
        }
        insert(&mut tx, id, username, password_hash, role, self.now()).await?;
        let made = read_user(&mut tx, id).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn add_first_user(
        &self,
        id: Uuid,
        username: &str,
        password_hash: &str,
        role: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.engine.begin_alone(FIRST_USER).await?;
        let any = tx.optional(sql("SELECT 1 FROM users LIMIT 1")).await?;
        if any.is_some() {
            return Ok(false);
        }
        insert(&mut tx, id, username, password_hash, role, self.now()).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        let any = self.reader().await?.optional(sql("SELECT 1 FROM users LIMIT 1")).await?;
        Ok(any.is_some())
    }

    async fn login(&self, username: &str) -> Result<Option<LoginRow>, StoreError> {
        let row = self
            .reader()
            .await?
            .optional(sql(format!("SELECT {USER} FROM users u WHERE u.name_key = $1")).bind(name_key(username)))
            .await?;
        row.map(|row| Ok(LoginRow { account: account(&row)?, password_hash: get(&row, "password_hash")? })).transpose()
    }

    async fn set_password(&self, username: &str, password_hash: &str) -> Result<Option<(Uuid, Vec<Uuid>)>, StoreError> {
        let mut tx = self.engine.begin().await?;
        let row = tx
            .optional(
                sql("UPDATE users SET password_hash = $1 WHERE name_key = $2 RETURNING id")
                    .bind(password_hash)
                    .bind(name_key(username)),
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let user = get_uuid(&row, "id")?;
        let ended = tx
            .all(
                sql("UPDATE sessions SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL RETURNING id")
                    .bind(self.now())
                    .bind(user.to_string()),
            )
            .await?
            .iter()
            .map(|row| get_uuid(row, "id"))
            .collect::<Result<_, _>>()?;
        tx.commit().await?;
        Ok(Some((user, ended)))
    }

    async fn roles(&self) -> Result<Vec<Role>, StoreError> {
        self.reader()
            .await?
            .all(sql("SELECT name, string_agg(permission, ',') AS permissions FROM roles GROUP BY name ORDER BY name"))
            .await?
            .iter()
            .map(|row| Ok(Role { name: get(row, "name")?, permissions: permissions(get(row, "permissions")?) }))
            .collect()
    }

    async fn open_session(&self, session: &NewSession) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        let now = self.now();
        tx.run(sql(
            "INSERT INTO sessions (id, user_id, created_at, expires_at, idle_ms, last_activity_at, address, user_agent) \
             VALUES ($1, $2, $3, $4, $5, $3, $6, $7)",
        ).bind(session.id.to_string()).bind(session.user_id.to_string()).bind(now).bind(now + session.lifetime_ms).bind(session.idle_ms).bind(&session.address).bind(&session.user_agent)).await?;
        tx.run(sql("UPDATE users SET last_login_at = $1 WHERE id = $2").bind(now).bind(session.user_id.to_string()))
            .await?;
        tx.commit().await
    }

    async fn session(&self, id: Uuid, touch: bool) -> Result<Option<SessionRow>, StoreError> {
        let text = format!(
            "SELECT {USER}, s.id AS session_id, s.expires_at, s.idle_ms, s.last_activity_at, s.revoked_at \
             FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1"
        );
        let row = self.reader().await?.optional(sql(text).bind(id.to_string())).await?;
        let Some(row) = row else { return Ok(None) };
        let now = self.now();
        let heard: i64 = get(&row, "last_activity_at")?;
        let idle_ms: i64 = get(&row, "idle_ms")?;
        let mut session = SessionRow {
            id,
            account: account(&row)?,
            expires_at: get(&row, "expires_at")?,
            idle_at: heard + idle_ms,
            revoked_at: get(&row, "revoked_at")?,
        };
        let alive = session.revoked_at.is_none() && now < session.expires_at && now < session.idle_at;
        if touch && alive && now - heard >= TOUCH_MS.min(idle_ms / 4) {
            self.writer()
                .await?
                .run(
                    sql("UPDATE sessions SET last_activity_at = $1 WHERE id = $2 AND last_activity_at < $1")
                        .bind(now)
                        .bind(id.to_string()),
                )
                .await?;
            session.idle_at = now + idle_ms;
        }
        Ok(Some(session))
    }

    async fn revoke_session(&self, id: Uuid) -> Result<(), StoreError> {
        self.writer()
            .await?
            .run(
                sql("UPDATE sessions SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
                    .bind(self.now())
                    .bind(id.to_string()),
            )
            .await
            .map(drop)
    }
}
