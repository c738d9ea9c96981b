//! Tickets, and the sessions of dashboards.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    statement::{get, get_uuid, sql},
};
use crate::{DashboardRow, NewTicket, OPEN_TICKETS_MAX, StoreError, TakenTicket, Tickets};

pub const LOOK: &str = "SELECT 1 FROM tickets WHERE digest = $1";

/// All that must be true of a ticket, in the statement that removes it.
pub const TAKE: &str = "DELETE FROM tickets WHERE digest = $1 AND expires_at > $2 AND COALESCE(host_id, '') = $3 \
     AND EXISTS (SELECT 1 FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = tickets.session_id \
         AND s.user_id = tickets.user_id AND s.revoked_at IS NULL AND s.expires_at > $2 \
         AND s.last_activity_at + s.idle_ms > $2 AND u.active = 1) \
     RETURNING user_id, session_id";

pub const DASHBOARD: &str =
    "SELECT session_id, expires_at FROM dashboard_sessions WHERE digest = $1 AND expires_at > $2";

pub const OLD_TICKETS: &str = "DELETE FROM tickets WHERE digest IN (SELECT digest FROM tickets WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1000)";

pub const OLD_DASHBOARDS: &str = "DELETE FROM dashboard_sessions WHERE digest IN \
     (SELECT digest FROM dashboard_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1000)";

/// Makes room for one more of a session: all but its newest go.
pub fn surplus_sql(table: &str) -> String {
    format!(
        "DELETE FROM {table} WHERE session_id = $1 AND digest NOT IN \
         (SELECT digest FROM {table} WHERE session_id = $1 ORDER BY expires_at DESC LIMIT $2)"
    )
}

async fn make_room<C: Conn>(tx: &mut C, table: &str, session_id: Uuid) -> Result<(), StoreError> {
    tx.run(sql(surplus_sql(table)).bind(session_id.to_string()).bind(OPEN_TICKETS_MAX - 1)).await.map(drop)
}

#[async_trait]
impl<E: Engine> Tickets for SqlStore<E> {
    async fn issue_ticket(&self, ticket: &NewTicket) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        make_room(&mut tx, "tickets", ticket.session_id).await?;
        tx.run(
            sql("INSERT INTO tickets (digest, user_id, session_id, host_id, expires_at) VALUES ($1, $2, $3, $4, $5)")
                .bind(&ticket.digest)
                .bind(ticket.user_id.to_string())
                .bind(ticket.session_id.to_string())
                .bind(ticket.host_id.map(|id| id.to_string()))
                .bind(self.now() + ticket.lifetime_ms),
        )
        .await?;
        tx.commit().await
    }

    async fn take_ticket(&self, digest: &str, host_id: Option<Uuid>) -> Result<Option<TakenTicket>, StoreError> {
        // Guesses cost a look, not the writer.
        let known = self.reader().await?.optional(sql(LOOK).bind(digest)).await?;
        if known.is_none() {
            return Ok(None);
        }
        let mut tx = self.engine.begin().await?;
        let row = tx
            .optional(
                sql(TAKE).bind(digest).bind(self.now()).bind(host_id.map(|id| id.to_string()).unwrap_or_default()),
            )
            .await?;
        tx.commit().await?;
        row.map(|row| {
            Ok(TakenTicket { user_id: get_uuid(&row, "user_id")?, session_id: get_uuid(&row, "session_id")? })
        })
        .transpose()
    }

    async fn open_dashboard(&self, digest: &str, session_id: Uuid, lifetime_ms: i64) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        make_room(&mut tx, "dashboard_sessions", session_id).await?;
        tx.run(
            sql("INSERT INTO dashboard_sessions (digest, session_id, expires_at) VALUES ($1, $2, $3)")
                .bind(digest)
                .bind(session_id.to_string())
                .bind(self.now() + lifetime_ms),
        )
        .await?;
        tx.commit().await
    }

    async fn dashboard(&self, digest: &str) -> Result<Option<DashboardRow>, StoreError> {
        let row = self.reader().await?.optional(sql(DASHBOARD).bind(digest).bind(self.now())).await?;
        row.map(|row| {
            Ok(DashboardRow { session_id: get_uuid(&row, "session_id")?, expires_at: get(&row, "expires_at")? })
        })
        .transpose()
    }

    async fn retire_tickets(&self) -> Result<u64, StoreError> {
        let mut tx = self.engine.begin().await?;
        let now = self.now();
        let mut removed = 0;
        for text in [OLD_TICKETS, OLD_DASHBOARDS] {
            removed += tx.run(sql(text).bind(now)).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }
}
