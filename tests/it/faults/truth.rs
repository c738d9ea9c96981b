//! What must be true once a fault is over, by the hosts' own log and the rows.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tests::{
    admin::Admin,
    claims,
    log::{Event, What},
};
use tokio::time::{Instant, sleep};

use super::{
    part::Part,
    town::{Socket, Town},
};

/// Five times what is promised: a test looks whether it holds, and the table says how long it took.
const PRESENCE: Duration = Duration::from_secs(5 * 2);
const HINTS: Duration = Duration::from_secs(5 * 15);
/// A scan whose frame got lost is sent again a minute after its agent is back, and the stream may have a few in a row.
const SETTLED: Duration = Duration::from_secs(180);
const MEMORY: Duration = Duration::from_secs(60);
pub const MEMORY_RATIO: f64 = 1.2;

/// Waits until both gateways have said of each host whether its socket is open, as the bus answers. Says when the last
/// answer came true; those that were true when they were first asked for don't count.
pub async fn presence(town: &Town) -> Duration {
    let began = Instant::now();
    let hosts = || town.hosts.iter().map(|host| host.api_id.as_str());
    let questions: Vec<_> = town.admins.iter().flat_map(|admin| hosts().map(move |host| (admin, host))).collect();
    let answers = stream::iter(questions).map(|(admin, api_id)| came_true(town, admin, api_id, began));
    answers.buffer_unordered(4).fold(Duration::ZERO, async |last, true_at| last.max(true_at)).await
}

async fn came_true(town: &Town, admin: &Admin, api_id: &str, began: Instant) -> Duration {
    let path = format!("/ws/status/{api_id}");
    for question in 0.. {
        let (asked, was) = (began.elapsed(), town.socket(api_id));
        let told = get(admin, &path).await.map(|answer| answer["data"]["connected"] == true);
        let is = town.socket(api_id);
        if fits(was, told, is) {
            return if question == 0 { Duration::ZERO } else { asked };
        }
        let says = format!("{api_id} after {asked:.1?}: told {told:?}, was {was:?}, is {is:?}");
        assert!(asked < PRESENCE, "presence is not true: {says}\n{}", town.activity());
        sleep(Duration::from_millis(50)).await;
    }
    unreachable!("it asks until it is true")
}

/// Waits until the lists of both gateways, which read hints, are true. Says when the last line came true.
pub async fn hints(town: &Town) -> Duration {
    within(town, async |open| {
        let mut lists = Vec::new();
        for admin in &town.admins {
            let list = get(admin, "/hosts?limit=1000").await.unwrap_or_default();
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let told = |item: &Value| Some((item["api_id"].as_str()?.to_owned(), item["connected"].as_bool()?));
            lists.push(items.iter().filter_map(told).collect::<HashMap<_, _>>());
        }
        open.iter().map(|(gateway, api_id)| lists[*gateway].get(api_id).copied()).collect()
    })
    .await
}

async fn get(admin: &Admin, path: &str) -> Option<Value> {
    let request = admin.request(reqwest::Method::GET, path).timeout(Duration::from_secs(3));
    request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
}

/// Asks until each line of each gateway was once true.
async fn within(town: &Town, ask: impl AsyncFn(&[(usize, String)]) -> Vec<Option<bool>>) -> Duration {
    let began = Instant::now();
    let hosts = || town.hosts.iter().map(|host| host.api_id.clone());
    let mut open: Vec<_> =
        (0..town.admins.len()).flat_map(|gateway| hosts().map(move |host| (gateway, host))).collect();
    loop {
        let round = began.elapsed();
        let before = town.sockets();
        let told = ask(&open).await;
        let after = town.sockets();
        let fit = |api_id: &str, told| fits(before.get(api_id).copied(), told, after.get(api_id).copied());
        let mut untrue: Vec<_> = open.into_iter().zip(told).filter(|((_, api_id), told)| !fit(api_id, *told)).collect();
        let Some(((gateway, api_id), told)) = untrue.first() else { return round };
        let (is, number) = (after.get(api_id), gateway + 1);
        let says = format!("{} hints, as {api_id} by gateway {number}: told {told:?}, is {is:?}", untrue.len());
        assert!(round < HINTS, "not true after {round:.1?}: {says}\n{}", town.activity());
        open = untrue.drain(..).map(|(asked, _)| asked).collect();
        sleep(Duration::from_millis(100)).await;
    }
}

/// Who moved meanwhile is asked for again.
fn fits(was: Option<Socket>, told: Option<bool>, is: Option<Socket>) -> bool {
    was == is && told == Some(is.is_some_and(|(_, open)| open))
}

/// How often agents lost their socket since an event of the log.
pub fn losses(town: &Town, since: u64) -> usize {
    let lost = |event: &Event| event.seq > since && matches!(event.what, What::Disconnected { .. });
    town.fleet.log().select(lost).len()
}

/// Waits until all rows are final, but those whose host has given up to tell its deed: they stay open until their
/// silence is over.
pub async fn settled(town: &Town) -> Vec<Value> {
    let (deadline, mut fewest, mut moved) = (Instant::now() + SETTLED, usize::MAX, Instant::now());
    loop {
        let rows = town.admins[0].commands("").await.unwrap();
        let open: Vec<_> = rows.iter().filter(|row| row["final"] == false).collect();
        if open.len() < fewest {
            (fewest, moved) = (open.len(), Instant::now());
        }
        let stuck = claims::stuck(&rows, &town.hosts, town.fleet.log());
        if open.is_empty() || (stuck.is_empty() && moved.elapsed() > Duration::from_secs(5)) {
            return rows;
        }
        assert!(Instant::now() < deadline, "open, though their hosts told all: {stuck:?}\n{}", town.fleet.counts());
        sleep(Duration::from_millis(250)).await;
    }
}

/// What the rows say and the hosts don't bear out: duplicates, and all others.
pub fn contradictions(town: &Town, rows: &[Value]) -> (Vec<String>, Vec<String>) {
    claims::duplicates_and_others(&town.fleet.log().events(), &town.hosts, rows)
}

/// Each host has applied what its owner wants.
pub async fn settings(town: &Town) -> Vec<String> {
    let list = town.admins[0].get("/hosts?limit=1000").await.unwrap().ok().unwrap();
    let mut wrong = Vec::new();
    for item in list["items"].as_array().unwrap() {
        let agent = town.fleet.agent(item["api_id"].as_str().unwrap()).unwrap();
        if item["update_interval"] != agent.update_interval() {
            let (name, has, wanted) = (&item["name"], agent.update_interval(), &item["update_interval"]);
            wrong.push(format!("{name} has the interval {has}, not {wanted}"));
        }
    }
    wrong
}

/// Memory of each process, by pid.
pub fn memory(town: &Town) -> HashMap<u32, u64> {
    town.parts().filter_map(|part| Some((part.pid()?, part.rss()?))).collect()
}

/// Waits until whoever lived through it has its memory back; the highest ratio, and whose. None: nobody did.
pub async fn memory_back(town: &Town, before: &HashMap<u32, u64>) -> Option<(f64, String)> {
    let deadline = Instant::now() + MEMORY;
    loop {
        let ratio = |part: &Part| {
            let (now, before) = (part.rss()?, *before.get(&part.pid()?)?);
            Some((now as f64 / before as f64, part.name.clone()))
        };
        let worst = town.parts().filter_map(ratio).max_by(|a, b| a.0.total_cmp(&b.0))?;
        if worst.0 <= MEMORY_RATIO || Instant::now() >= deadline {
            return Some(worst);
        }
        sleep(Duration::from_millis(500)).await;
    }
}
