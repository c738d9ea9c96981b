//! Messages as NATS carries them, and ours.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_nats::{HeaderMap, Subscriber};
use futures_util::{FutureExt, StreamExt};
use schemas::TraceContext;

use super::options::SubjectPrefix;
use crate::Message;

/// W3C trace context, as in HTTP.
const TRACEPARENT: &str = "traceparent";

/// The headers of a message that belongs to a trace.
pub(super) fn headers(trace: Option<&TraceContext>) -> Option<HeaderMap> {
    trace.map(|trace| {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, trace.as_str());
        headers
    })
}

/// A message of ours; `None` for one that stands outside of our subjects.
pub(super) fn incoming(prefix: &SubjectPrefix, message: async_nats::Message) -> Option<Message> {
    let trace = message.headers.as_ref().and_then(|headers| headers.get(TRACEPARENT));
    Some(Message {
        subject: prefix.strip(message.subject.as_str())?.into(),
        trace: trace.and_then(|trace| TraceContext::parse(trace.as_str())),
        // Whoever wants an answer elsewhere is none of us.
        reply: message.reply.as_ref().and_then(|reply| prefix.strip(reply.as_str())).map(Arc::from),
        body: message.payload,
    })
}

/// A subscription that is read straight from the library's queue.
pub(crate) struct Mailbox {
    subscriber: Subscriber,
    prefix: SubjectPrefix,
}

impl Mailbox {
    pub(super) fn new(subscriber: Subscriber, prefix: SubjectPrefix) -> Self {
        Self { subscriber, prefix }
    }

    pub(crate) async fn next(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            let message = ready!(self.subscriber.poll_next_unpin(cx));
            let Some(message) = message else { return Poll::Ready(None) };
            if let Some(message) = incoming(&self.prefix, message) {
                return Poll::Ready(Some(message));
            }
        }
    }

    pub(crate) fn try_next(&mut self) -> Option<Message> {
        // What is there must be seen, however much this task has done in its turn.
        tokio::task::unconstrained(self.next()).now_or_never().flatten()
    }
}
