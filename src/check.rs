//! `patchbay check`: an agent of a host made for it connects through the front door and has a command delivered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use gateway::{
    admin::{Admin, AdminRequest},
    socket::client::{Address, Client},
};
use jobs::{Kind, State};
use serde_json::{Value, json};
use store::{NewBatch, Store, Target};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{config::Config, parts::Opened, signals, wiring};

/// For one step, such as the delivery.
const STEP: Duration = Duration::from_secs(30);
/// The state of the command is looked at this often.
const LOOK: Duration = Duration::from_millis(50);

/// Plays it through, and leaves nothing behind. Answers how long each step took, in milliseconds.
///
/// # Errors
/// The step that failed.
pub async fn check(config: &Config, url: &str) -> anyhow::Result<Value> {
    if !config.is_shared() {
        bail!("patchbay check is for gateways and workers that share a PostgreSQL: DATABASE_URL is not one");
    }
    let address = Address::parse(url)?;
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone())?;
    let opened = Opened::open_made(config).await?;
    let bus = wiring::open_bus(config).await?;
    let admin = Admin::new(opened.store(), bus.clone());
    let name = format!("patchbay-check-{:08x}", rand::random::<u32>());
    let host = admin.run(AdminRequest::HostAdd { name: name.clone() }).await?;
    // Whatever happens, also a signal: its host goes again.
    let played = tokio::select! {
        played = play(opened.store(), &address, &host) => played,
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped by a signal")),
    };
    let removed = admin.run(AdminRequest::HostRemove { id: text(&host, "id")?.to_owned() }).await;
    bus.flush().await;
    opened.close().await;
    let played = played?;
    removed.with_context(|| format!("the host {name} stays behind"))?;
    Ok(played)
}

async fn play(store: Arc<dyn Store>, address: &Address, host: &Value) -> anyhow::Result<Value> {
    let began = Instant::now();
    let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut agent = Client::connect(address, text(host, "api_id")?, text(host, "api_key")?).await?;
    wait_for(&mut agent, "connected").await.context("after the upgrade")?;
    let connected = millis(began);

    let asked = Instant::now();
    let host_id: Uuid = text(host, "id")?.parse()?;
    let batch = NewBatch {
        id: Uuid::now_v7(),
        // One that has succeeded when it was read: nothing open stays behind.
        kind: Kind::SettingsUpdate,
        payload: json!({"update_interval": 60}),
        target: Target::Hosts(vec![host_id]),
        expires_in_ms: i64::try_from(STEP.as_millis())?,
        spread_ms: None,
        requested_by: "patchbay check".to_owned(),
        traceparent: None,
        idempotency: None,
    };
    let Ok(created) = store.create(&batch).await? else { bail!("the command was not taken") };
    let id = created.commands.first().context("the command was not made")?.id;
    wait_for(&mut agent, Kind::SettingsUpdate.name()).await.context("no worker delivers")?;
    let came = millis(asked);
    // The pong that proves it is written by reading on.
    let proved = async {
        loop {
            match store.command(id).await? {
                Some(command) if matches!(command.state, State::Delivered | State::Succeeded) => return anyhow::Ok(()),
                Some(command) if command.is_final() => bail!("the command ended as {}", command.state.name()),
                _ => sleep(LOOK).await,
            }
        }
    };
    let reading = async {
        loop {
            if let Err(error) = agent.message().await {
                return anyhow::Error::from(error);
            }
        }
    };
    let delivered = async {
        tokio::select! {
            done = proved => done,
            error = reading => Err(error),
        }
    };
    timeout(STEP, delivered).await.context("the delivery was not proved in time")??;
    Ok(json!({"connected_ms": connected, "frame_ms": came, "delivered_ms": millis(asked)}))
}

async fn wait_for(agent: &mut Client, kind: &str) -> anyhow::Result<()> {
    let waiting = async {
        while agent.message().await?["type"] != kind {}
        Ok(())
    };
    timeout(STEP, waiting).await.with_context(|| format!("no {kind:?} came within {} s", STEP.as_secs()))?
}

fn text<'a>(host: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    host[name].as_str().with_context(|| format!("the new host has no {name}"))
}
