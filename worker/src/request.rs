//! One request to whoever holds an agent, and what its end means.

use std::time::Duration;

use bus::{Bus, BusError, trace};
use jobs::{Command, HostFacts, Outcome, Prepared};
use schemas::{
    ApiId, TraceContext,
    message::{CommandReply, CommandRequest, Mode, Part},
    subject,
};
use tokio::time::Instant;
use tracing::{Instrument as _, field::Empty};

/// Past this a holder drops the request.
const START_WITHIN_MS: i64 = 2_500;
/// How long an answer may take: the holder waits 2 s for the pong.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer "superseded" counts only when nothing better came within this time.
const BETTER_WITHIN: Duration = Duration::from_millis(100);

/// Asks for the frame of a command, or for the one that cancels it.
pub async fn ask(bus: &dyn Bus, command: &Command, host: &HostFacts, part: Part, mode: Mode, now_ms: i64) -> Outcome {
    let frame = match part {
        Part::Cancel => command.kind.spec().cancel_frame(),
        Part::Command => match command.kind.spec().prepare(&command.payload, host) {
            Prepared::Frame(frame) => Some(frame),
            Prepared::Nothing(_) | Prepared::Cannot(_) => None,
        },
    };
    let (Some(frame), Ok(api_id)) = (frame, ApiId::parse(&host.api_id)) else {
        return Outcome::Unknown;
    };
    let request = CommandRequest {
        id: command.id,
        part,
        attempt: command.attempt,
        asked_epoch: match part {
            Part::Command => command.asked_epoch,
            // Whichever connection is there now: the host has the command since an earlier one.
            Part::Cancel => 0,
        },
        deadline_ms: now_ms + START_WITHIN_MS,
        mode,
        quiet: command.kind.spec().quiet(),
        frame: frame.encode(),
    };
    let kind = command.kind.name();
    let verb = if part == Part::Cancel { "cancel" } else { "deliver" };
    let span = tracing::info_span!(
        target: trace::TARGET,
        "request",
        otel.name = format_args!("{verb} {kind}"),
        otel.kind = "client",
        messaging.operation.type = "send",
        patchbay.command.id = %command.id,
        patchbay.command.kind = kind,
        patchbay.command.attempt = command.attempt,
        patchbay.outcome = Empty,
    );
    let stored = command.traceparent.as_deref();
    trace::link_stored(&span, stored);
    let carried = trace::of(&span).or_else(|| stored.and_then(TraceContext::parse));
    let asked = send(bus, &api_id, &request, carried).instrument(span.clone());
    let outcome = tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or(Outcome::Unknown);
    span.record("patchbay.outcome", word(&outcome));
    outcome
}

async fn send(bus: &dyn Bus, api_id: &ApiId, request: &CommandRequest, trace: Option<TraceContext>) -> Outcome {
    let Ok(body) = serde_json::to_vec(request) else {
        return Outcome::Unknown;
    };
    let asked = bus.ask(&subject::agent_command(api_id), body.into(), trace).await;
    if request.part == Part::Command {
        store::failpoint::hit("request_out");
    }
    let mut replies = match asked {
        Ok(replies) => replies,
        Err(BusError::NoResponder) => return Outcome::NoResponder(request.mode),
        Err(BusError::Timeout | BusError::Disconnected | BusError::TooLarge) => return Outcome::Unknown,
    };
    let mut poor = None;
    let mut until = Instant::now() + ANSWER_WITHIN;
    loop {
        let wait = until.saturating_duration_since(Instant::now());
        let Ok(message) = replies.next(wait).await else {
            return poor.map_or(Outcome::Unknown, |reply| Outcome::Reply(reply, request.mode));
        };
        match message.parse::<CommandReply>() {
            Ok(reply @ (CommandReply::Superseded | CommandReply::Unknown)) => {
                // Two may hold the host for a moment; the newer one's answer is the one that counts.
                poor = Some(reply);
                until = until.min(Instant::now() + BETTER_WITHIN);
            }
            Ok(reply) => {
                if request.part == Part::Command {
                    store::failpoint::hit("reply_lost");
                }
                return Outcome::Reply(reply, request.mode);
            }
            Err(error) => tracing::warn!(%error, "an answer that is none"),
        }
    }
}

/// How it went in a word, for traces.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Reply(reply, _) => reply.name(),
        Outcome::Unknown => "unknown",
        Outcome::NoResponder(_) => "no_responder",
    }
}
