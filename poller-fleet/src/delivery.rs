//! Taking a record to its destination, until that has accepted it.
//!
//! ```text
//!   deliver ─┬─ accepted ───► done
//!            ├─ not now ────► again after 1 s … 5 min, until it is six hours old ─┐
//!            └─ never ────────────────────────────────────────────────────────────┴─► dead-letter store
//! ```
//! A function of ours as a destination has accepted as soon as its event is queued.

use std::{sync::Arc, time::Duration};

use connectors::destinations::{Delivery, DeliveryError, Destinations, Form};
use queue::{EventId, Queue, WriteError};
use types::{Clock, Destination, EventInvokePolicy, FunctionArn, FunctionRef, Lineage, RequestId, limits};

use crate::{
    attributes::{Attributes, DeadLetter, Invocation, Outgoing, OutgoingForm, Reason, Was, millis},
    engine::Work,
    event::{Again, Draft, Event, Failure, Tried},
    metrics,
    router::Router,
    schedule::{Next, Outcome, Progress, Schedule, Wait},
};

pub(crate) struct Deliveries<Q> {
    pub(crate) router: Arc<Router<Q>>,
    pub(crate) destinations: Destinations,
    pub(crate) schedule: Schedule,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Why something is not delivered.
enum Undelivered {
    NotNow(String),
    Never(String),
}

impl<Q: Queue> Work for Deliveries<Q> {
    type Kind = Outgoing;

    fn kind(attributes: Attributes) -> Option<Outgoing> {
        match attributes {
            Attributes::Deliver(outgoing) => Some(outgoing),
            Attributes::Invoke(_) | Attributes::DeadLetter(_) => None,
        }
    }

    async fn attempt(&self, event: &mut Event<Outgoing>) -> Tried {
        let (reason, never) = match self.deliver(event).await {
            Ok(drafts) => return Tried::Done(drafts),
            Err(Undelivered::NotNow(reason)) => (reason, false),
            Err(Undelivered::Never(reason)) => (reason, true),
        };
        let function = event.kind.function_name();
        metrics::delivery_failed(&function, &event.kind.form);
        event.failure = Some(Failure { response: None, code: 0, message: reason.clone() });
        event.attempts = event.attempts.saturating_add(1);
        let to = &event.kind.destination;
        match self.later(event).filter(|_| !never) {
            Some(wait) => {
                tracing::warn!(function, to, reason, retry_in = ?wait.in_memory, "a destination did not accept a record");
                Tried::Again(Again { wait, noted: false, refused: false })
            }
            None => {
                tracing::error!(
                    function,
                    to,
                    reason,
                    "a record goes to the dead-letter store: its destination does not take it"
                );
                self.dead_letter(event, reason)
            }
        }
    }
}

impl<Q: Queue> Deliveries<Q> {
    async fn deliver(&self, event: &Event<Outgoing>) -> Result<Vec<Draft>, Undelivered> {
        let destination: Destination = event
            .kind
            .destination
            .parse()
            .map_err(|error: types::ParseDestinationError| Undelivered::Never(error.to_string()))?;
        if let Destination::Function { region, account, name, .. } = &destination {
            let arn = FunctionArn { region: region.clone(), account: account.clone(), name: name.clone() };
            return self.invocation(event, &arn).map(|draft| vec![draft]).map_err(|error| match error {
                WriteError::Refused(reason) => Undelivered::Never(reason.to_string()),
                error => Undelivered::NotNow(error.to_string()),
            });
        }
        let delivery = Delivery {
            request_id: RequestId::from_bytes(event.kind.request_id),
            function_arn: event.kind.function_arn.clone(),
            at: Duration::from_millis(event.kind.at_ms),
            form: match &event.kind.form {
                OutgoingForm::Result { success } => Form::Result { success: *success },
                OutgoingForm::DeadLetter { error_code, error_message } => {
                    Form::DeadLetter { error_code: *error_code, error_message: error_message.clone() }
                }
            },
            body: event.payload.clone(),
        };
        self.destinations.deliver(&destination, &delivery).await.map(|()| Vec::new()).map_err(|error| {
            match error {
                DeliveryError::Unavailable { reason, .. } => Undelivered::NotNow(reason),
                DeliveryError::Refused { reason, .. } => Undelivered::Never(reason),
            }
        })
    }

    /// The record as an event of the function that is its destination.
    fn invocation(&self, event: &Event<Outgoing>, arn: &FunctionArn) -> Result<Draft, WriteError> {
        let (function, partition) = self.router.invocations(arn)?;
        let mut lineage: Lineage = event.kind.lineage.parse().unwrap_or_default();
        lineage.add(arn);
        let invocation = Invocation {
            lineage: lineage.to_string(),
            invoked_arn: event.kind.destination.clone(),
            client_context: None,
            traceparent: event.kind.traceparent.clone(),
            xray: event.kind.xray.clone(),
        };
        Ok(Draft {
            id: EventId(RequestId::random().to_bytes()),
            function,
            partition,
            attributes: Attributes::Invoke(invocation),
            payload: event.payload.clone(),
        })
    }

    /// How long to wait before it is tried again; `None`: it is too old.
    fn later(&self, event: &Event<Outgoing>) -> Option<Wait> {
        let age = self.clock.now().saturating_sub(event.accepted);
        let progress = Progress { age, attempts: 0, deferrals: event.attempts };
        match self.schedule.next(Outcome::NotTried, progress, &EventInvokePolicy::default()) {
            Next::RetryAfter(wait) => Some(wait),
            Next::GiveUp(_) => None,
        }
    }

    fn dead_letter(&self, event: &Event<Outgoing>, mut error: String) -> Tried {
        error.truncate(error.floor_char_boundary(limits::ERROR_MESSAGE_BYTES));
        let dead = DeadLetter {
            reason: Reason::Refused,
            at_ms: millis(self.clock.now()),
            accepted_ms: millis(event.accepted),
            attempts: event.attempts,
            error,
            was: Was::Deliver(event.kind.clone()),
        };
        let arn = event.kind.function_arn.parse::<FunctionRef>().ok().and_then(FunctionRef::into_arn);
        let partition = arn.and_then(|arn| self.router.dead_letters(&arn).ok());
        let Some(partition) = partition else {
            tracing::error!(event = %event.id, "a record names no function, so no dead-letter store is its own; it is kept");
            return Tried::Again(Again {
                wait: Wait::anywhere(Duration::from_secs(60)),
                noted: false,
                refused: false,
            });
        };
        Tried::Done(vec![Draft {
            id: event.id,
            function: event.function,
            partition,
            attributes: Attributes::DeadLetter(dead),
            payload: event.payload.clone(),
        }])
    }
}

impl Outgoing {
    /// The plain name, for metrics and logs.
    fn function_name(&self) -> String {
        self.function_arn
            .parse::<FunctionRef>()
            .map_or_else(|_| String::new(), |function| function.name.to_string())
    }
}
