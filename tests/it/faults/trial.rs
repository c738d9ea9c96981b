//! One fault, or two at once, under a stream of commands: what was asked, what became of it, and the line of the table.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    claims::{lost, states},
    stream::Stream,
};

use super::{
    fault::{Fault, happen},
    town::Town,
    truth,
};

/// Commands a second.
const RATE: u32 = 12;
/// Accepted before the fault begins, and after it has ended.
const BEFORE: usize = 20;
const AFTER: usize = 20;

/// A town, and everything that it was asked for.
pub struct Trial {
    pub town: Town,
    seed: u64,
    ids: Vec<String>,
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Trial {
    /// All agents are there, and each part has done its work for a while, so that its memory is that of one that works.
    pub async fn start(agents: usize, seed: u64) -> Self {
        let mut trial =
            Self { town: Town::start(agents).await, seed, ids: Vec::new(), lines: Vec::new(), wrong: Vec::new() };
        let kinds = [("report_now", json!({})), ("settings_update", json!({"update_interval": 15}))];
        for (kind, payload) in kinds.into_iter().chain([("compliance_scan", json!({}))]) {
            let body = json!({"kind": kind, "all": true, "payload": payload});
            let answer = trial.town.admins[0].post("/commands", &body).await.unwrap().ok().unwrap();
            let ids = answer["commands"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned());
            trial.ids.extend(ids);
        }
        let stream = trial.stream();
        stream.accepted(60).await;
        let asked = stream.stop().await;
        trial.ids.extend(asked.ids);
        trial.wrong.extend(asked.wrong);
        truth::settled(&trial.town).await;
        trial
    }

    fn stream(&mut self) -> Stream {
        self.seed += 1;
        let hosts = self.town.hosts.iter().map(|host| host.id.clone()).collect();
        Stream::start(self.town.admins.clone(), hosts, RATE, self.seed)
    }

    async fn rows(&self) -> Vec<Value> {
        self.town.admins[0].commands("").await.unwrap()
    }

    /// Lets it happen, and looks whether everything is true afterwards.
    pub async fn run(&mut self, faults: &[Fault]) {
        let names: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let name = names.join("; ");
        println!("--- {name}");
        let memory = truth::memory(&self.town);
        let stream = self.stream();
        stream.accepted(BEFORE).await;
        let last = happen(&mut self.town, faults).await;
        let accepted = stream.count();
        println!("at the end of the fault: {}", self.town.fleet.counts());
        let (presence, hints) = tokio::join!(truth::presence(&self.town), truth::hints(&self.town));
        stream.accepted(accepted + AFTER).await;
        let asked = stream.stop().await;
        let rows = truth::settled(&self.town).await;

        let (duplicates, mut wrong) = truth::contradictions(&self.town, &rows);
        self.ids.extend(asked.ids.iter().cloned());
        wrong.extend(lost(&self.ids, &rows));
        wrong.extend(asked.wrong);
        wrong.extend(truth::settings(&self.town).await);
        let losses = truth::losses(&self.town, last);
        if matches!(faults, [Fault::GatewayFreezes(_)]) && losses > 0 {
            wrong.push(format!("{losses} agents lost their socket after SIGCONT"));
        }
        let memory = truth::memory_back(&self.town, &memory).await;
        if let Some((ratio, whose)) = memory.as_ref().filter(|(ratio, _)| *ratio > truth::MEMORY_RATIO) {
            wrong.push(format!("{whose} has {ratio:.2} times the memory that it had before"));
        }
        let states = states(rows.iter().filter(|row| asked.ids.contains(row["id"].as_str().unwrap_or_default())));
        let mismatches = wrong.len();
        self.lines.push(format!(
            "| {name} | {} | {} | {states} | {} | {mismatches} | {} | {} | {} |",
            asked.ids.len(),
            asked.retries,
            duplicates.len(),
            seconds(presence),
            seconds(hints),
            memory.map_or_else(|| "–".to_owned(), |(ratio, _)| format!("{ratio:.2}")),
        ));
        println!("{}", self.lines.last().unwrap());
        for wrong in duplicates.into_iter().chain(wrong) {
            println!("{name}: {wrong}");
            self.wrong.push(format!("{name}: {wrong}"));
        }
    }

    /// What is still open belongs to hosts that gave up to tell their deed: their silence passes, and all must be final.
    /// Prints the table, and fails when something in it is wrong.
    pub async fn end(mut self) {
        let open = self.rows().await.into_iter().filter(|row| row["final"] == false).count();
        if open > 0 {
            println!("{open} rows of hosts that gave up to tell what they did: three hours pass");
            self.town.later(Duration::from_secs(3 * 3_600 + 60)).await;
            for id in self.rows().await.iter().filter_map(|row| row["id"].as_str()) {
                self.town.admins[0].wait_final(id, Duration::from_secs(120)).await.unwrap();
            }
            let rows = self.rows().await;
            let (duplicates, wrong) = truth::contradictions(&self.town, &rows);
            self.wrong.extend(duplicates.into_iter().chain(wrong).chain(lost(&self.ids, &rows)));
        }
        println!(
            "\n| fault | asked | sent again | ended as | duplicates | mismatches | presence true after | hints true after | \
             memory |\n|---|---|---|---|---|---|---|---|---|"
        );
        for line in &self.lines {
            println!("{line}");
        }
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
