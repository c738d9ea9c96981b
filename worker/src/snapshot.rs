//! What the store knows of the queues, folded into what dashboards show. Pure.

use std::collections::BTreeMap;

use jobs::{Kind, Queue, State, queue::SCHEDULES};
use schemas::status::{MINUTES, NextTick, QueueStanding, QueueStatus, Running, WorkerAlive};
use store::Standing;
use uuid::Uuid;

const MINUTE_MS: i64 = 60_000;

/// A snapshot, as this worker says it.
pub fn snapshot(worker: Uuid, standing: Standing) -> QueueStatus {
    // Housekeeping has no commands.
    let queues = Queue::ALL.into_iter().filter(|queue| queue.kinds().next().is_some());
    QueueStatus {
        at: standing.at,
        worker,
        queues: queues.map(|queue| of_queue(queue, &standing)).collect(),
        running_count: running_count(&standing),
        schedules: SCHEDULES
            .iter()
            .map(|schedule| {
                let last = standing.ticks.iter().find(|(name, _)| name == schedule.name).map(|(_, tick)| *tick);
                NextTick {
                    name: schedule.name.to_owned(),
                    every_secs: schedule.every_secs,
                    last_at: last.map(|tick| schedule.began_at(tick)),
                    next_at: schedule.next_at(last, standing.at),
                }
            })
            .collect(),
        running: standing
            .under_way
            .into_iter()
            .map(|row| Running {
                id: row.id,
                queue: row.kind.spec().queue().name().to_owned(),
                kind: row.kind.name().to_owned(),
                state: row.state.name().to_owned(),
                host_id: row.host_id,
                host: row.host,
                created_at: row.created_at,
                since: row.since,
            })
            .collect(),
        workers: standing
            .workers
            .into_iter()
            .map(|beat| WorkerAlive { id: beat.id, host: beat.host, started_at: beat.started_at })
            .collect(),
    }
}

/// A command that is read by its host, and of whose deed nothing can be seen, has ended.
fn under_way(kind: Kind, state: State) -> bool {
    state.is_active() && (state != State::Delivered || kind.spec().has_deed())
}

fn running_count(standing: &Standing) -> u64 {
    standing.counts.iter().filter(|(kind, state, _)| under_way(*kind, *state)).map(|(.., n)| n).sum()
}

fn of_queue(queue: Queue, standing: &Standing) -> QueueStanding {
    let ours = |kind: &Kind| kind.spec().queue() == queue;
    let mut counts: BTreeMap<String, u64> = State::ALL.iter().map(|state| (state.name().to_owned(), 0)).collect();
    for (_, state, n) in standing.counts.iter().filter(|(kind, ..)| ours(kind)) {
        *counts.entry(state.name().to_owned()).or_default() += n;
    }
    let this_minute = standing.at.div_euclid(MINUTE_MS);
    let mut ended = vec![0; MINUTES + 1];
    for (_, minute, n) in standing.ended.iter().filter(|(kind, ..)| ours(kind)) {
        // Another worker's clock may be a little ahead: its newest minute is ours.
        let ago = usize::try_from((this_minute - minute).max(0)).unwrap_or(usize::MAX);
        if let Some(slot) = MINUTES.checked_sub(ago).and_then(|at| ended.get_mut(at)) {
            *slot += n;
        }
    }
    let oldest = |wanted: State| {
        let of_state = standing.oldest.iter().filter(|(kind, state, _)| ours(kind) && *state == wanted);
        of_state.map(|(_, _, at)| *at).min()
    };
    QueueStanding {
        name: queue.name().to_owned(),
        counts,
        ended,
        oldest_queued_at: oldest(State::Queued),
        oldest_waiting_at: oldest(State::Waiting),
    }
}

#[cfg(test)]
mod tests {
    use store::{Beat, UnderWay};

    use super::*;

    const NOW: i64 = 1_767_225_600_000 + 30_000;

    fn standing() -> Standing {
        let minute = NOW / MINUTE_MS;
        Standing {
            at: NOW,
            counts: vec![
                (Kind::ReportNow, State::Queued, 3),
                (Kind::SettingsUpdate, State::Queued, 4),
                (Kind::SettingsUpdate, State::Delivered, 100),
                (Kind::ReportNow, State::Delivered, 2),
                (Kind::ComplianceScan, State::Running, 5),
            ],
            ended: vec![
                (Kind::ReportNow, minute, 1),
                (Kind::SettingsUpdate, minute - 1, 2),
                (Kind::ReportNow, minute - 1, 3),
                (Kind::ComplianceScan, minute - 10, 7),
                (Kind::ComplianceScan, minute - 11, 9),
                (Kind::ComplianceScan, minute + 1, 4),
            ],
            oldest: vec![
                (Kind::ReportNow, State::Queued, NOW - 5),
                (Kind::SettingsUpdate, State::Queued, NOW - 9),
                (Kind::ComplianceScan, State::Waiting, NOW - 7),
            ],
            under_way: vec![UnderWay {
                id: Uuid::from_u128(1),
                kind: Kind::ComplianceScan,
                state: State::Running,
                host_id: Uuid::from_u128(2),
                host: Some("web".to_owned()),
                created_at: NOW - 8,
                since: NOW - 3,
            }],
            workers: vec![Beat { id: Uuid::from_u128(3), host: "machine".to_owned(), started_at: 5 }],
            ticks: vec![("retention".to_owned(), NOW / 1_000 / 300)],
        }
    }

    #[test]
    fn kinds_are_gathered_into_their_queues() {
        let shown = snapshot(Uuid::from_u128(3), standing());
        let [commands, scans] = &shown.queues[..] else { panic!("{:?}", shown.queues) };
        assert_eq!((commands.name.as_str(), scans.name.as_str()), ("agent-commands", "compliance"));
        assert_eq!((commands.counts["queued"], commands.counts["delivered"], commands.counts["failed"]), (7, 102, 0));
        assert_eq!(commands.counts.len(), State::ALL.len());
        assert_eq!((commands.oldest_queued_at, commands.oldest_waiting_at), (Some(NOW - 9), None));
        assert_eq!((scans.oldest_queued_at, scans.oldest_waiting_at), (None, Some(NOW - 7)));
        assert_eq!(commands.ended, [0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1]);
        assert_eq!(scans.ended, [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
        // What only had to be read has ended with that.
        assert_eq!(shown.running_count, 7);
        assert_eq!((shown.running[0].queue.as_str(), shown.running[0].host.as_deref()), ("compliance", Some("web")));
        assert_eq!(shown.schedules[0].next_at, (NOW / 300_000 + 1) * 300_000);
    }

    #[test]
    fn what_is_published_reads_back() {
        let shown = snapshot(Uuid::from_u128(3), standing());
        let text = serde_json::to_string(&shown).unwrap();
        assert!(text.contains(r#""at":"2026-01-01T00:00:30.000Z""#), "{text}");
        assert_eq!(serde_json::from_str::<QueueStatus>(&text).unwrap(), shown);
    }
}
