//! Listing and showing dead letters: by looking, so that nothing is kept from anybody.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use queue::{Browse, Browsed, Content, EventId, EventState, Location, Ordinal, Queue, ReadError, SegmentId};
use types::{FunctionArn, FunctionRef, RequestId};

use super::{
    DeadLetterReason, Entry, Error, Filter, Letter, MAX_PAGE, Page, Query, Shown, Store, Unreadable, WasOnce,
};
use crate::{
    attributes::{Attributes, DeadLetter, Was},
    fleet::Handle,
};

/// Most events that are looked at for one page.
const LOOKED_AT: usize = 10_000;
/// Headers that are read at once.
const STEP: usize = 500;

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    function: String,
    /// `None`: at its beginning.
    place: Option<Location>,
}

/// What there is of an event, opened as far as it can be.
struct Opened {
    letter: Result<DeadLetter, Unreadable>,
    payload: Vec<u8>,
}

impl<Q: Queue> Handle<Q> {
    pub(super) async fn page_of_dead_letters(&self, query: Query) -> Result<Page, Error> {
        let Query { filter, marker, limit } = query;
        let limit = limit.clamp(1, MAX_PAGE);
        let marker = marker.map(|text| Marker::decode(&text).ok_or(Error::Marker(text))).transpose()?;
        let (mut page, mut looked_at) = (Page::default(), 0);
        let mut stores = self.stores(&filter).into_iter().peekable();
        while let Some(store) = stores.next() {
            let function = store.function.to_string();
            let mut place = match &marker {
                Some(marker) if function < marker.function => continue,
                Some(marker) if function == marker.function => marker.place,
                _ => None,
            };
            loop {
                let events = STEP.min(limit - page.entries.len());
                let browse = Browse { partition: store.partition, function: None, from: place, events };
                let browsed = self.router.queue().browse(browse).await?;
                looked_at += browsed.events.len();
                for event in &browsed.events {
                    page.entries.extend(self.entry(&store, event, &filter).await?);
                }
                place = browsed.next;
                if page.entries.len() >= limit || looked_at >= LOOKED_AT {
                    page.marker = match place {
                        Some(_) => Some(Marker { function, place }.encode()),
                        None => stores.peek().map(|next| Marker::beginning(&next.function).encode()),
                    };
                    return Ok(page);
                }
                if place.is_none() {
                    break;
                }
                // Looking may never have to wait for a disk.
                tokio::task::yield_now().await;
            }
        }
        Ok(page)
    }

    pub(super) async fn dead_letter(&self, function: FunctionRef, id: RequestId) -> Result<Shown, Error> {
        let not_found = Error::NotFound { function: function.name.to_string(), id };
        let filter = Filter { function: Some(function), ..Filter::default() };
        for store in self.stores(&filter) {
            let mut from = None;
            loop {
                let browse = Browse { partition: store.partition, function: None, from, events: STEP };
                let browsed = self.router.queue().browse(browse).await?;
                let found = browsed
                    .events
                    .iter()
                    .find(|event| event.state != EventState::Damaged && event.id == EventId(id.to_bytes()));
                if let Some(event) = found {
                    // Gone by now: somebody redrove it.
                    return match self.open(&store, event).await? {
                        Some(opened) => Ok(opened.shown(&store, id)),
                        None => Err(not_found),
                    };
                }
                from = browsed.next;
                if from.is_none() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Err(not_found)
    }

    /// `None`: it is not meant, or done meanwhile.
    async fn entry(&self, store: &Store, event: &Browsed, filter: &Filter) -> Result<Option<Entry>, Error> {
        let id = (event.state != EventState::Damaged).then(|| RequestId::from_bytes(event.id.0));
        if id.is_some_and(|id| !filter.wants_id(id)) {
            return Ok(None);
        }
        let Some(Opened { letter, payload }) = self.open(store, event).await? else { return Ok(None) };
        let wanted = match (id, &letter) {
            (Some(id), Ok(letter)) => filter.wants(id, letter),
            _ => filter.wants_unreadable(id),
        };
        let letter = letter.map(|letter| Letter::new(&letter, payload.len()));
        Ok(wanted.then(|| Entry { id, function: store.function.clone(), letter }))
    }

    /// `None`: it is done meanwhile.
    async fn open(&self, store: &Store, event: &Browsed) -> Result<Option<Opened>, Error> {
        let unreadable = |why| Ok(Some(Opened { letter: Err(why), payload: Vec::new() }));
        if event.state == EventState::Damaged {
            return unreadable(Unreadable::Damaged);
        }
        match self.router.queue().peek(store.partition, (event.location, event.id)).await {
            Ok(None) => Ok(None),
            Ok(Some(Content { attributes, payload })) => {
                Ok(Some(Opened { letter: decode(&attributes), payload }))
            }
            Err(ReadError::Shredded) => unreadable(Unreadable::KeyDestroyed),
            Err(ReadError::Damaged { .. }) => unreadable(Unreadable::Damaged),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether what a store holds can no longer be opened, by the oldest of it: there is one key for all.
    pub(super) async fn is_key_destroyed(&self, store: &Store) -> Result<bool, Error> {
        let mut from = None;
        loop {
            let browse = Browse { partition: store.partition, function: None, from, events: STEP };
            let browsed = self.router.queue().browse(browse).await?;
            for event in &browsed.events {
                match self.open(store, event).await? {
                    Some(Opened { letter: Err(Unreadable::KeyDestroyed), .. }) => return Ok(true),
                    Some(Opened { letter: Err(Unreadable::Damaged), .. }) | None => {}
                    Some(_) => return Ok(false),
                }
            }
            from = browsed.next;
            if from.is_none() {
                return Ok(false);
            }
        }
    }
}

pub(super) fn decode(attributes: &[u8]) -> Result<DeadLetter, Unreadable> {
    match Attributes::decode(attributes) {
        Ok(Attributes::DeadLetter(letter)) => Ok(letter),
        Ok(_) => Err(Unreadable::Unknown("it is no dead letter".into())),
        Err(error) => Err(Unreadable::Unknown(error.to_string())),
    }
}

// === impl Opened ===

impl Opened {
    fn shown(self, store: &Store, id: RequestId) -> Shown {
        let Self { letter, payload } = self;
        let (client_context, trace) = match letter.as_ref().map(|letter| &letter.was) {
            Ok(Was::Invoke(invocation)) => (invocation.client_context.clone(), Some(invocation.xray.clone())),
            Ok(Was::Deliver(outgoing)) => (None, Some(outgoing.xray.clone())),
            Err(_) => (None, None),
        };
        let letter = letter.map(|letter| Letter::new(&letter, payload.len()));
        let entry = Entry { id: Some(id), function: store.function.clone(), letter };
        Shown { entry, client_context, trace, payload }
    }
}

// === impl Letter ===

impl Letter {
    fn new(letter: &DeadLetter, payload_bytes: usize) -> Self {
        Self {
            reason: DeadLetterReason::of(&letter.reason),
            accepted: std::time::Duration::from_millis(letter.accepted_ms),
            given_up: std::time::Duration::from_millis(letter.at_ms),
            attempts: letter.attempts,
            payload_bytes: payload_bytes as u64,
            error: letter.error.clone(),
            was: match &letter.was {
                Was::Invoke(invocation) => {
                    WasOnce::Invocation { invoked_arn: invocation.invoked_arn.clone() }
                }
                Was::Deliver(outgoing) => WasOnce::Record {
                    destination: outgoing.destination.clone(),
                    request_id: RequestId::from_bytes(outgoing.request_id),
                },
            },
        }
    }
}

// === impl Marker ===

impl Marker {
    fn beginning(function: &FunctionArn) -> Self {
        Self { function: function.to_string(), place: None }
    }

    fn encode(&self) -> String {
        let place = self.place.map(|place| format!(" {} {}", place.segment.0, place.ordinal.0));
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}{}", self.function, place.unwrap_or_default()))
    }

    fn decode(text: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = text.split(' ');
        let function = parts.next()?.to_owned();
        function.parse::<FunctionRef>().ok()?.into_arn()?;
        let place = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(segment), Some(ordinal), None) => {
                let (segment, ordinal) = (segment.parse().ok()?, ordinal.parse().ok()?);
                Some(Location { segment: SegmentId(segment), ordinal: Ordinal(ordinal) })
            }
            _ => return None,
        };
        Some(Self { function, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written_and_noise_is_not() {
        let function = "arn:aws:lambda:us-east-1:123456789012:function:f".to_owned();
        let place = Location { segment: SegmentId(7), ordinal: Ordinal(3) };
        for place in [None, Some(place)] {
            let marker = Marker { function: function.clone(), place };
            assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        }
        let encoded = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        for noise in ["", "%", "eA", &encoded(format!("{function} 1")), &encoded(format!("{function} 1 2 3"))]
        {
            assert_eq!(Marker::decode(noise), None, "{noise}");
        }
    }
}
