//! What a peer does and what it gets: the table of ARCHITECTURE.md, each row played by hand against the real server, while
//! another agent is connected beside it and must notice nothing.

mod deeds;
mod dying;
mod table;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tests::{
    admin::Admin,
    credentials::Credentials,
    internal,
    raw::{self, PATIENCE, Wire},
    server::Server as Target,
};
use tokio::time::{Instant, sleep};

use crate::harness::Server;
use deeds::{DEEDS, Deed};
use table::Gets;

/// Rows that are played side by side.
const SIDE_BY_SIDE: usize = 8;

#[test]
fn every_row_has_its_deed_and_every_deed_its_row() {
    let rows: BTreeSet<_> = table::rows().into_iter().map(|(does, _)| does).collect();
    let deeds: BTreeSet<_> = DEEDS.iter().map(|(does, _)| (*does).to_owned()).collect();
    assert_eq!(rows.difference(&deeds).collect::<Vec<_>>(), Vec::<&String>::new(), "nobody knows how to do this");
    assert_eq!(deeds.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new(), "the table does not say this");
    assert!(rows.len() > 30, "{} rows", rows.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_peer_gets_what_the_table_says() {
    let server = Server::start().await;
    let (admin, target) = (server.admin().await, server.target());
    let beside = admin.add_host("beside").await.unwrap();
    let mut beside = Wire::agent(&target, &beside).await.unwrap();
    let plays: Vec<(String, Gets, Deed)> = table::rows()
        .into_iter()
        .filter_map(|(does, gets)| Some((DEEDS.iter().find(|(known, _)| *known == does)?.1(), does, gets)))
        .flat_map(|(deeds, does, gets)| deeds.into_iter().map(move |deed| (does.clone(), gets, deed)))
        .collect();
    let names: Vec<_> = (1..=plays.len()).map(|n| format!("peer-{n}")).collect();
    let hosts = admin.add_hosts(&names).await.unwrap();
    let failed: Vec<String> = stream::iter(plays.into_iter().zip(hosts))
        .map(|((does, gets, deed), host)| {
            let (admin, target) = (admin.clone(), target.clone());
            async move {
                let mut play = Play { admin, target, host };
                let played = play.row(&deed, gets).await;
                played.err().map(|error| format!("| {does} | {gets:?} |: {error:#}\n    {deed:?}"))
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .filter_map(|failed| async { failed })
        .collect()
        .await;
    assert!(failed.is_empty(), "{} rows:\n{}", failed.len(), failed.join("\n"));
    beside.ping(b"undisturbed").await.unwrap();
    // Ignored is not unseen.
    for reason in ["malformed", "unknown_type", "binary"] {
        let series = format!("patchbay_frames_ignored_total{{reason=\"{reason}\"}}");
        internal::wait(&server.internal_url(), &series, |n| n > 0.0).await.unwrap();
    }
}

struct Play {
    admin: Admin,
    target: Target,
    host: Credentials,
}

impl Play {
    async fn row(&mut self, deed: &Deed, gets: Gets) -> anyhow::Result<()> {
        let mut wire = Wire::agent(&self.target, &self.host).await?;
        self.presence(true).await?;
        let mut newer = None;
        match deed {
            Deed::Send(bytes) => wire.write(bytes).await?,
            Deed::Ping { before, payload, after } => {
                wire.write(&[before.clone(), raw::frame(raw::PING, payload), after.clone()].concat()).await?;
                let pong = wire.frame().await?;
                ensure!((pong.first, &pong.payload) == (raw::PONG, payload), "no pong: {pong:?}");
            }
            Deed::Fin => wire.finish().await?,
            Deed::Reset => {
                ensure!(gets == Gets::End, "who is gone gets nothing");
                wire.reset();
                return self.presence(false).await;
            }
            Deed::Newer => newer = Some(Wire::agent(&self.target, &self.host).await?),
            Deed::Removed => {
                self.api("DELETE", "").await?;
            }
            Deed::Rotated => {
                self.api("POST", "/rotate-key").await?;
            }
        }
        match gets {
            // The pong was compared above.
            Gets::Pong | Gets::Ignored => {
                wire.ping(b"still there").await?;
                self.presence(true).await
            }
            Gets::Close(code) => {
                ensure!(wire.closed().await? == Some(code), "another close code");
                // Who has not closed does so now; nobody is cut off.
                if !matches!(deed, Deed::Send(bytes) if bytes[0] == raw::CLOSE) {
                    let _ = wire.write(&raw::frame(raw::CLOSE, &code.to_be_bytes())).await;
                }
                ensure!(wire.ended(PATIENCE).await?, "a reset, which may overtake the close frame");
                drop(wire);
                if let Some(mut newer) = newer {
                    newer.ping(b"the newest").await?;
                    return self.presence(true).await;
                }
                self.presence(false).await
            }
            Gets::End => {
                wire.ended(PATIENCE).await?;
                self.presence(false).await
            }
        }
    }

    async fn api(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        let path = format!("/hosts/{}{path}", self.host.id);
        self.admin.call(method.parse()?, &path, None).await?.ok()
    }

    /// Waits until both say so: whoever holds the agent, and the hint that lists read.
    async fn presence(&self, expected: bool) -> anyhow::Result<()> {
        let api_id = &self.host.api_id;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = self.admin.get(&format!("/ws/status/{api_id}")).await?.ok()?;
            let hint = self.admin.get(&format!("/ws/status?apiIds={api_id}")).await?.ok()?;
            if asked["data"]["connected"] == expected && hint["data"][api_id]["connected"] == expected {
                return Ok(());
            }
            (Instant::now() < deadline).then_some(()).with_context(|| format!("presence: {asked} {hint}"))?;
            sleep(Duration::from_millis(20)).await;
        }
    }
}
