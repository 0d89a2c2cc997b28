//! What is accepted comes, as it was, until it is done; and then never again.

use std::time::Duration;

use super::{Checked, Stage, Subject, checks, id, named, numbers, payload, same, sorted};
use crate::{Queue, Refused, WriteError, partition::Order};

checks! {
    an_event_comes_as_it_was_queued,
    an_accepted_event_survives_a_crash,
    an_acked_event_never_comes_again,
    an_event_that_was_not_acked_comes_again_after_a_crash,
    a_purge_of_a_function_ends_what_is_queued_and_nothing_later,
    a_purge_of_a_partition_ends_what_is_queued_and_nothing_later,
    a_redirect_is_remembered,
    names_keep_their_numbers,
    names_that_are_too_long_are_refused,
}

async fn an_event_comes_as_it_was_queued<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let (shared, function) = (stage.shared(), stage.function("f"));
    let accepted = Duration::from_millis(stage.subject.wall_ms());
    stage.put(shared, [1]).await?;
    let (_, leased) = stage.lease(shared, 1).await?;
    let event = &leased[0];
    same("its id", event.id, id(1))?;
    same("function and partition", (event.function, event.partition), (function, shared))?;
    same("failed attempts", event.attempts, 0)?;
    same("payload", &event.payload, &payload(1))?;
    same("attributes", &event.attributes[..], b"a")?;
    let late = event.accepted.saturating_sub(accepted);
    same("accepted before it was queued", event.accepted < accepted, false)?;
    same("accepted long after", late > Duration::from_secs(10), false)
}

async fn an_accepted_event_survives_a_crash<S: Subject>(stage: &mut Stage<S>) -> Checked {
    stage.put(stage.shared(), 1..=20).await?;
    stage.put(stage.lane(), 21..=40).await?;
    stage.crash();
    same("in the shared partition", sorted(stage.all(stage.shared()).await?), (1..=20).collect())?;
    let (_, leased) = stage.lease(stage.lane(), 20).await?;
    same("in the lane", numbers(&leased), (21..=40).collect())?;
    let payloads = leased.iter().map(|event| event.payload.clone()).collect::<Vec<_>>();
    same("payloads", payloads, (21..=40).map(payload).collect())
}

async fn an_acked_event_never_comes_again<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=4).await?;
    let (epoch, leased) = stage.lease(shared, 2).await?;
    let first = numbers(&leased);
    stage.queue().ack(epoch, &named(&leased)).await?;
    let rest: Vec<u8> = (1..=4).filter(|number| !first.contains(number)).collect();
    same("what is left", sorted(stage.all(shared).await?), rest.clone())?;
    stage.subject.pass(super::LEASE);
    same("what is left when its lease is lost", sorted(stage.all(shared).await?), rest.clone())?;
    for _ in 0..2 {
        stage.crash();
        same("what is left after a crash", sorted(stage.all(stage.shared()).await?), rest.clone())?;
    }
    Ok(())
}

async fn an_event_that_was_not_acked_comes_again_after_a_crash<S: Subject>(stage: &mut Stage<S>) -> Checked {
    stage.put(stage.shared(), 1..=3).await?;
    same("leased", sorted(stage.all(stage.shared()).await?), vec![1, 2, 3])?;
    stage.crash();
    same("leased again", sorted(stage.all(stage.shared()).await?), vec![1, 2, 3])
}

async fn a_purge_of_a_function_ends_what_is_queued_and_nothing_later<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=3).await?;
    stage.put_for(stage.function("g"), shared, [4]).await?;
    let (epoch, leased) = stage.lease(shared, 1).await?;
    stage.queue().purge(stage.function("f")).await?;
    stage.put(shared, [5]).await?;
    let late = stage.queue().ack(epoch, &named(&leased)).await;
    // Whose it was may have been the other function's.
    let done = if numbers(&leased) == [4] { vec![5] } else { vec![4, 5] };
    same("an ack of what was purged is refused", late.is_err(), done.len() == 2)?;
    same("after the purge", sorted(stage.all(shared).await?), done.clone())?;
    stage.crash();
    same("after a crash", sorted(stage.all(stage.shared()).await?), done)
}

async fn a_purge_of_a_partition_ends_what_is_queued_and_nothing_later<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    for partition in [stage.shared(), stage.lane()] {
        stage.put(partition, 1..=3).await?;
        stage.put_for(stage.function("g"), partition, [4]).await?;
        stage.lease(partition, 1).await?;
    }
    stage.queue().purge_partition(stage.lane()).await?;
    stage.put(stage.lane(), [5]).await?;
    same("in the lane", stage.all(stage.lane()).await?, vec![5])?;
    same("in the other partition", stage.all(stage.shared()).await?.len(), 3)?;
    stage.crash();
    same("in the lane after a crash", stage.all(stage.lane()).await?, vec![5])?;
    same("in the other partition after a crash", stage.all(stage.shared()).await?.len(), 4)
}

async fn a_redirect_is_remembered<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let function = stage.function("f");
    same("before", stage.queue().redirected(function), None)?;
    let own = stage.partition("own", Order::None);
    stage.queue().redirect(function, Some(own)).await?;
    same("at once", stage.queue().redirected(function), Some(own))?;
    stage.crash();
    let (function, own) = (stage.function("f"), stage.partition("own", Order::None));
    same("after a crash", stage.queue().redirected(function), Some(own))?;
    stage.queue().redirect(function, None).await?;
    stage.crash();
    same("taken back", stage.queue().redirected(stage.function("f")), None)
}

async fn names_keep_their_numbers<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let numbers = |stage: &Stage<S>| (stage.shared(), stage.lane(), stage.function("f"), stage.function("g"));
    let before = numbers(stage);
    same("asked again", numbers(stage), before)?;
    let (shared, lane, f, g) = before;
    same("two of a kind", (shared == lane, f == g), (false, false))?;
    stage.put_for(f, shared, [1]).await?;
    stage.put_for(g, lane, [2]).await?;
    stage.crash();
    same("after a crash", numbers(stage), before)
}

async fn names_that_are_too_long_are_refused<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let queue = stage.queue();
    let (long, longer) = ("x".repeat(1024), "x".repeat(1025));
    same("a long name", queue.partition(&long, Order::None).is_ok(), true)?;
    same("a longer one", queue.partition(&longer, Order::None).err(), Some(Refused::NameTooLong(1025)))?;
    same("a long ARN", queue.function(&long).is_ok(), true)?;
    let refused = matches!(queue.function(&longer), Err(WriteError::Refused(Refused::NameTooLong(1025))));
    same("a longer one is refused", refused, true)
}
