use proptest::prelude::*;
use schemas::{
    Generation,
    scan::{ScanFact, ScanStatus},
};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    command::{ComplianceMode, Notes, Times},
    kinds::Kind,
};

const T0: i64 = 1_800_000_000_000;

fn host() -> HostFacts {
    HostFacts {
        id: Uuid::nil(),
        api_id: "a".into(),
        epoch: 7,
        connected: true,
        generation: Some(Generation::V21),
        docker_enabled: false,
        compliance_mode: ComplianceMode::OnDemand,
        openscap_enabled: true,
        docker_bench_enabled: false,
        update_interval: 30,
    }
}

fn command(kind: Kind, payload: &serde_json::Value) -> Command {
    let mut times = Times::default();
    times.enter(State::Queued, T0);
    Command {
        id: Uuid::nil(),
        host_id: Uuid::nil(),
        kind,
        payload: kind.spec().check(payload).expect("payload"),
        state: State::Queued,
        attempt: 0,
        losses: 0,
        refusals: 0,
        asked_epoch: 0,
        held_epoch: None,
        not_before: T0,
        expires_at: T0 + 86_400_000,
        next_check_at: Some(T0),
        cancel_requested_at: None,
        last_sign_at: None,
        returned_at: None,
        times,
        evidence: None,
        error: None,
        notes: Notes::default(),
        requested_by: "admin".into(),
        batch_id: Uuid::nil(),
        traceparent: None,
    }
}

fn take(c: &mut Command) {
    assert_eq!(apply(c, &host(), &Event::Take { blocked: false }, T0).asks.command, Some(Mode::Deliver));
    assert_eq!(c.state, State::Sending);
}

fn reply(c: &mut Command, r: CommandReply, at: i64) -> Step {
    let attempt = c.attempt;
    apply(c, &host(), &Event::Outcome { attempt, outcome: Outcome::Reply(r, Mode::Deliver) }, at)
}

fn phase(phase: ScanPhase, host_ms: i64) -> Deed {
    phase_of("", phase, host_ms, "")
}

fn phase_of(profile: &str, phase: ScanPhase, host_ms: i64, text: &str) -> Deed {
    Deed::ScanPhase { phase, host_ms: Some(host_ms), profile: profile.into(), text: text.into() }
}

fn result(name: &str, status: ScanStatus, started: i64) -> Deed {
    Deed::ScanResults {
        scans: vec![ScanFact {
            profile_type: "openscap".into(),
            profile_name: name.into(),
            status,
            started_at_ms: Some(started),
            error: String::new(),
        }],
    }
}

fn scan() -> Command {
    command(Kind::ComplianceScan, &json!({"profile_type":"openscap","profile_id":"cis"}))
}

#[test]
fn a_report_is_done_when_the_report_came_not_when_it_was_asked_for() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 5);
    assert_eq!((c.state, c.is_final()), (State::Delivered, false));
    apply(&mut c, &host(), &Event::Observe(&Deed::Report), T0 + 2000);
    assert_eq!(c.state, State::Succeeded);
    assert_eq!(c.evidence.as_ref().map(|e| e.deed.as_str()), Some("hosts/update"));
    assert_eq!(c.next_check_at, None);
}

#[test]
fn a_deed_that_comes_while_sending_counts_only_if_the_frame_was_written() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    apply(&mut c, &host(), &Event::Observe(&Deed::Report), T0 + 1);
    assert_eq!(c.state, State::Sending);
    let mut unwritten = c.clone();
    reply(&mut c, CommandReply::Sent { epoch: 7 }, T0 + 2);
    assert_eq!(c.state, State::Succeeded);
    let attempt = unwritten.attempt;
    apply(&mut unwritten, &host(), &Event::Outcome { attempt, outcome: Outcome::NoResponder(Mode::Deliver) }, T0 + 2);
    assert_eq!((unwritten.state, unwritten.notes.kept.len()), (State::Waiting, 0));
}

#[test]
fn a_pong_may_beat_the_workers_own_write() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    apply(&mut c, &host(), &Event::Proved { attempt: 1, epoch: 7 }, T0 + 1);
    reply(&mut c, CommandReply::Sent { epoch: 7 }, T0 + 2);
    assert_eq!(c.state, State::Delivered);
}

#[test]
fn facts_of_an_earlier_attempt_change_nothing() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    reply(&mut c, CommandReply::Sent { epoch: 7 }, T0 + 2);
    apply(&mut c, &host(), &Event::Lost { attempt: 1 }, T0 + 3);
    assert_eq!(c.state, State::Queued);
    apply(&mut c, &host(), &Event::Take { blocked: false }, T0 + 4);
    apply(&mut c, &host(), &Event::Proved { attempt: 1, epoch: 7 }, T0 + 5);
    assert_eq!((c.state, c.attempt), (State::Sending, 2));
}

#[test]
fn an_agent_that_came_while_it_was_asked_for_is_asked_again_at_once() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    let newer = HostFacts { epoch: 8, ..host() };
    let step =
        apply(&mut c, &newer, &Event::Outcome { attempt: 1, outcome: Outcome::NoResponder(Mode::Deliver) }, T0 + 1);
    assert_eq!((c.state, step.push_at), (State::Queued, Some(T0 + 1)));
}

#[test]
fn what_was_repeated_with_again_and_found_nobody_counts_as_perhaps_written() {
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    apply(&mut c, &host(), &Event::Outcome { attempt: 1, outcome: Outcome::NoResponder(Mode::Again) }, T0 + 1);
    assert_eq!(c.state, State::Sent);
}

#[test]
fn a_request_without_an_answer_is_made_again_before_it_counts_as_written() {
    let mut c = command(Kind::ComplianceScan, &json!({"enable_remediation": true}));
    take(&mut c);
    apply(&mut c, &host(), &Event::Outcome { attempt: 1, outcome: Outcome::Unknown }, T0 + 1);
    assert_eq!((c.state, c.next_check_at), (State::Sending, Some(T0 + 1 + CLAIM_MS)));
    let step = apply(&mut c, &host(), &Event::Check, T0 + 1 + CLAIM_MS);
    assert_eq!(step.asks.command, Some(Mode::Again));
    let written = Outcome::Reply(CommandReply::Sent { epoch: 7 }, Mode::Again);
    apply(&mut c, &host(), &Event::Outcome { attempt: 1, outcome: written }, T0 + 2 + CLAIM_MS);
    assert_eq!(c.state, State::Sent);
}

#[test]
fn expiry_and_cancel_while_sending_are_decided_by_the_outcome() {
    for written in [true, false] {
        let mut c = scan();
        take(&mut c);
        apply(&mut c, &host(), &Event::Cancel, T0 + 1);
        assert_eq!(c.state, State::Sending);
        if written {
            let step = reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 2);
            assert_eq!((c.state, step.push_at), (State::Delivered, Some(T0 + 2)));
            let step = apply(&mut c, &host(), &Event::Take { blocked: false }, T0 + 3);
            assert!(step.asks.cancel);
        } else {
            apply(
                &mut c,
                &host(),
                &Event::Outcome { attempt: 1, outcome: Outcome::NoResponder(Mode::Deliver) },
                T0 + 2,
            );
            assert_eq!(c.state, State::Cancelled);
        }
    }
    let mut c = command(Kind::ReportNow, &json!(null));
    take(&mut c);
    let late = c.expires_at + 1;
    let mut sent = c.clone();
    apply(&mut c, &host(), &Event::Outcome { attempt: 1, outcome: Outcome::NoResponder(Mode::Deliver) }, late);
    assert_eq!(c.state, State::Expired);
    reply(&mut sent, CommandReply::Sent { epoch: 7 }, late);
    assert_eq!(sent.state, State::Sent);
}

#[test]
fn only_started_opens_a_scan_and_only_the_result_ends_it() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    // Buffered before our scan, by one that ran on its own.
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Sending, T0)), T0 + 2);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Completed, T0)), T0 + 2);
    assert_eq!(c.state, State::Delivered);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, T0 + 10_000)), T0 + 3);
    assert_eq!(c.state, State::Running);
    // Begun before ours, by the host's clock.
    apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, T0 + 1_000)), T0 + 4);
    // Another profile.
    apply(&mut c, &host(), &Event::Observe(&result("stig", ScanStatus::Completed, T0 + 10_500)), T0 + 4);
    assert_eq!(c.state, State::Running);
    apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, T0 + 10_500)), T0 + 5);
    assert_eq!(c.state, State::Succeeded);
}

#[test]
fn a_whole_scan_that_is_over_before_the_outcome_is_known_counts_by_the_hosts_own_clock() {
    let mut c = scan();
    take(&mut c);
    // A host an hour behind.
    let host_ms = T0 - 3_600_000;
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, host_ms)), T0 + 1);
    apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, host_ms + 10)), T0 + 2);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 3);
    assert_eq!(c.state, State::Succeeded);
}

#[test]
fn a_failed_result_says_level1_server_whatever_was_asked() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    apply(&mut c, &host(), &Event::Observe(&result("level1_server", ScanStatus::Failed, T0)), T0 + 5);
    assert_eq!(c.state, State::Failed);
}

#[test]
fn completed_without_a_result_means_that_no_scanner_ran() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, T0)), T0 + 3);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Completed, T0)), T0 + 4);
    assert_eq!((c.state, c.error.as_deref()), (State::Failed, Some("no scanner ran")));
}

#[test]
fn a_result_from_before_we_asked_counts_only_once_the_frame_is_proved_read() {
    for (r, end) in [
        (CommandReply::Sent { epoch: 7 }, State::Sent),
        // The host's clock is a minute behind.
        (CommandReply::Delivered { epoch: 7 }, State::Succeeded),
    ] {
        let mut c = scan();
        take(&mut c);
        reply(&mut c, r, T0 + 1);
        apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, T0 - 60_000)), T0 + 2_000);
        assert_eq!(c.state, end);
        apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, T0 + 1_000)), T0 + 3_000);
        assert_eq!(c.state, State::Succeeded);
    }
}

#[test]
fn what_a_scan_before_says_late_ends_nothing() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    apply(&mut c, &host(), &Event::Observe(&phase_of("stig", ScanPhase::Started, T0, "")), T0 + 2);
    apply(&mut c, &host(), &Event::Observe(&phase_of("stig", ScanPhase::Failed, T0, "not accepted")), T0 + 2);
    assert_eq!(c.state, State::Delivered);
    apply(&mut c, &host(), &Event::Observe(&phase_of("cis", ScanPhase::Started, T0, "")), T0 + 3);
    assert_eq!(c.state, State::Running);
    // The same profile, scanned before; its results were posted before this one began.
    let posted = phase_of("cis", ScanPhase::Completed, T0, "Scan completed! Score: 94.4%");
    apply(&mut c, &host(), &Event::Observe(&posted), T0 + 4);
    assert_eq!(c.state, State::Running);
    let nothing = phase_of("cis", ScanPhase::Completed, T0, "Scan completed (no results)");
    apply(&mut c, &host(), &Event::Observe(&nothing), T0 + 5);
    assert_eq!(c.state, State::Failed);
}

#[test]
fn a_failed_result_after_our_cancel_is_cancelled_and_a_completed_one_succeeded() {
    for (status, end) in [(ScanStatus::Failed, State::Cancelled), (ScanStatus::Completed, State::Succeeded)] {
        let mut c = scan();
        take(&mut c);
        reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
        apply(&mut c, &host(), &Event::Cancel, T0 + 2);
        let step = apply(&mut c, &host(), &Event::Observe(&result("cis", status, T0)), T0 + 5);
        assert_eq!((c.state, step.ring_next), (end, true));
    }
}

#[test]
fn a_scan_without_repair_is_sent_again_when_the_agent_came_back_and_says_nothing() {
    for repair in [false, true] {
        let mut c = command(Kind::ComplianceScan, &json!({"enable_remediation": repair}));
        take(&mut c);
        reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
        apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, T0)), T0 + 3);
        apply(&mut c, &host(), &Event::Wake { slot: T0 }, T0 + 10_000);
        apply(&mut c, &host(), &Event::Check, T0 + 69_000);
        assert_eq!(c.state, State::Running);
        let step = apply(&mut c, &host(), &Event::Check, T0 + 70_000);
        assert_eq!(c.state, if repair { State::Running } else { State::Queued });
        assert_eq!(step.push_at.is_some(), !repair);
    }
}

#[test]
fn a_scan_that_speaks_after_the_reconnect_goes_on() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, T0)), T0 + 3);
    apply(&mut c, &host(), &Event::Wake { slot: T0 }, T0 + 10_000);
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Evaluating, T0)), T0 + 20_000);
    apply(&mut c, &host(), &Event::Check, T0 + 70_000);
    assert_eq!((c.state, c.returned_at), (State::Running, None));
}

#[test]
fn losses_end_unconfirmed_after_five() {
    let mut c = command(Kind::SettingsUpdate, &json!({"update_interval": 30}));
    for n in 1..=LOSSES_MAX {
        apply(&mut c, &host(), &Event::Take { blocked: false }, T0);
        let attempt = c.attempt;
        reply(&mut c, CommandReply::Sent { epoch: 7 }, T0);
        apply(&mut c, &host(), &Event::Lost { attempt }, T0);
        assert_eq!(c.state, if n < LOSSES_MAX { State::Queued } else { State::Unconfirmed });
    }
}

#[test]
fn one_that_is_called_off_after_a_loss_says_that_it_may_be_on_the_host() {
    for asked_while_sent in [true, false] {
        let mut c = scan();
        take(&mut c);
        reply(&mut c, CommandReply::Sent { epoch: 7 }, T0);
        if asked_while_sent {
            apply(&mut c, &host(), &Event::Cancel, T0 + 1);
        }
        apply(&mut c, &host(), &Event::Lost { attempt: 1 }, T0 + 2);
        apply(&mut c, &host(), &Event::Cancel, T0 + 3);
        assert_eq!((c.state, c.error.is_some()), (State::Cancelled, true));
    }
    let mut never_sent = scan();
    apply(&mut never_sent, &host(), &Event::Cancel, T0 + 1);
    assert_eq!((never_sent.state, never_sent.error), (State::Cancelled, None));
}

#[test]
fn a_kind_without_a_deed_ends_in_delivered() {
    let mut c = command(Kind::SettingsUpdate, &json!({"update_interval": 30}));
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0 + 1);
    assert!(c.is_final() && c.next_check_at.is_none());
}

#[test]
fn silence_and_lifetime_end_a_scan_that_says_nothing() {
    let mut c = scan();
    take(&mut c);
    reply(&mut c, CommandReply::Delivered { epoch: 7 }, T0);
    assert_eq!(c.next_check_at, Some(T0 + 30 * 60_000));
    apply(&mut c, &host(), &Event::Observe(&phase(ScanPhase::Started, T0)), T0 + 60_000);
    apply(&mut c, &host(), &Event::Check, T0 + 30 * 60_000);
    assert_eq!(c.state, State::Running);
    apply(&mut c, &host(), &Event::Check, T0 + 31 * 60_000);
    assert_eq!(c.state, State::Unconfirmed);
    apply(&mut c, &host(), &Event::Observe(&result("cis", ScanStatus::Completed, T0)), T0 + 32 * 60_000);
    assert_eq!(c.state, State::Unconfirmed);
    assert!(c.evidence.and_then(|e| e.late).is_some());
}

#[test]
fn a_scan_waits_in_the_queue_while_another_holds_the_host() {
    let mut c = scan();
    let step = apply(&mut c, &host(), &Event::Take { blocked: true }, T0);
    assert_eq!((c.state, step.push_at), (State::Queued, None));
}

#[test]
fn both_scanners_off_fails_at_once() {
    let mut c = command(Kind::ComplianceScan, &json!(null));
    let off = HostFacts { openscap_enabled: false, ..host() };
    apply(&mut c, &off, &Event::Take { blocked: false }, T0);
    assert_eq!(c.state, State::Failed);
}

fn any_event() -> impl Strategy<Value = (u8, i32, u8)> {
    (0u8..14, 0i32..4, 0u8..6)
}

proptest! {
    /// Whatever happens in whatever order: states move only along the table, a final row never moves again, and a row
    /// that is not final always has a time at which the sweep looks at it.
    #[test]
    fn any_history_keeps_the_rules(kind in 0usize..4, history in proptest::collection::vec(any_event(), 0..60)) {
        let kind = Kind::ALL[kind];
        let payload = if kind == Kind::SettingsUpdate { json!({"update_interval": 30}) } else { json!(null) };
        let mut c = command(kind, &payload);
        let mut now = T0;
        for (what, back, pick) in history {
            now += i64::from(pick) * 20_000;
            let attempt = (c.attempt - back / 2).max(0);
            let phases = [ScanPhase::Started, ScanPhase::Evaluating, ScanPhase::Sending, ScanPhase::Completed, ScanPhase::Failed, ScanPhase::Cancelled];
            let deed = match pick {
                0 => Deed::Report,
                1 => Deed::IntegrationStatus { integration: "docker".into(), status: "ready".into() },
                2 => result("x", ScanStatus::Completed, now),
                3 => result("x", ScanStatus::Failed, now),
                _ => phase(phases[usize::from(what) % 6], now),
            };
            let event = match what {
                0 | 1 => Event::Take { blocked: pick == 5 },
                2 => Event::Outcome { attempt, outcome: Outcome::Reply(CommandReply::Delivered { epoch: 7 }, Mode::Deliver) },
                3 => Event::Outcome { attempt, outcome: Outcome::Reply(CommandReply::Sent { epoch: 7 }, Mode::Again) },
                4 => Event::Outcome { attempt, outcome: Outcome::NoResponder(Mode::Deliver) },
                5 => Event::Outcome { attempt, outcome: Outcome::Unknown },
                6 => Event::Outcome { attempt, outcome: Outcome::Reply(CommandReply::Busy, Mode::Deliver) },
                7 => Event::Proved { attempt, epoch: 7 },
                8 => Event::Lost { attempt },
                9 => Event::Observe(&deed),
                10 => Event::Check,
                11 => Event::Wake { slot: now },
                12 if back == 3 => Event::Cancel,
                13 if back == 3 && pick == 5 => Event::Remove,
                _ => Event::Observe(&deed),
            };
            let (from, was_final) = (c.state, c.is_final());
            let step = apply(&mut c, &host(), &event, now);
            prop_assert!(!was_final || c.state == from);
            prop_assert_eq!(step.moved, c.state != from);
            prop_assert_eq!(c.next_check_at.is_none(), c.is_final());
            prop_assert!(c.times.at(c.state).is_some());
            if c.is_final() { prop_assert!(step.push_at.is_none() && step.asks.is_empty()); }
        }
    }
}
