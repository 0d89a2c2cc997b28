//! One lease at a time, and what a lost one means.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{Checked, LEASE, MANY, Stage, Subject, checks, named, numbers, request, same, sorted, tokens};
use crate::{Queue, Refused, Request, WriteError};

checks! {
    a_leased_event_is_nobody_elses,
    a_lost_lease_gives_its_events_back_and_decides_nothing,
    an_extended_lease_goes_on,
    a_released_event_comes_again,
    a_noted_event_is_held_and_its_attempts_are_known,
    excluded_functions_are_passed_over,
    a_lease_is_bounded_by_count_and_bytes_but_never_empty_for_it,
    a_lease_waits_for_the_first_event,
    a_lease_that_waits_in_vain_ends_in_time,
    a_lease_that_is_dropped_while_it_waits_holds_nothing,
}

fn is_lost(result: &Result<(), WriteError>) -> bool {
    matches!(result, Err(WriteError::Refused(Refused::LeaseLost)))
}

async fn a_leased_event_is_nobody_elses<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=4).await?;
    let (first, leased) = stage.lease(shared, 2).await?;
    let (second, others) = stage.lease(shared, MANY).await?;
    same("two leases", first == second, false)?;
    same("both together", sorted([numbers(&leased), numbers(&others)].concat()), vec![1, 2, 3, 4])?;
    same("a third", stage.all(shared).await?, vec![])?;
    let stolen = stage.queue().ack(first, &named(&others)).await;
    same("an ack of another's events is refused", is_lost(&stolen), true)?;
    Ok(stage.queue().ack(second, &named(&others)).await?)
}

async fn a_lost_lease_gives_its_events_back_and_decides_nothing<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=2).await?;
    let (lost, leased) = stage.lease(shared, 1).await?;
    stage.subject.pass(LEASE);
    let (held, again) = stage.lease(shared, MANY).await?;
    same("they come again", sorted(numbers(&again)), vec![1, 2])?;
    let queue = stage.queue();
    same("ack", is_lost(&queue.ack(lost, &named(&leased)).await), true)?;
    same("note", is_lost(&queue.note(lost, named(&leased)[0], 7, u64::MAX / 2).await), true)?;
    same("release", is_lost(&queue.release(lost, &tokens(&leased))), true)?;
    same("extend", is_lost(&queue.extend(lost, LEASE)), true)?;
    same("whoever has them has them still", stage.all(shared).await?, vec![])?;
    queue.release(held, &tokens(&again))?;
    let (_, again) = stage.lease(shared, MANY).await?;
    same("attempts", again.iter().map(|event| event.attempts).collect(), vec![0, 0])
}

async fn an_extended_lease_goes_on<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, [1]).await?;
    let (epoch, _) = stage.lease(shared, 1).await?;
    stage.subject.pass(LEASE / 2);
    stage.queue().extend(epoch, LEASE)?;
    stage.subject.pass(LEASE / 2);
    same("it holds", stage.all(shared).await?, vec![])?;
    stage.subject.pass(LEASE / 2);
    same("and ends", stage.all(shared).await?, vec![1])
}

async fn a_released_event_comes_again<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=3).await?;
    let (epoch, leased) = stage.lease(shared, 3).await?;
    stage.queue().release(epoch, &tokens(&leased[..1]))?;
    same("one comes again", stage.all(shared).await?, numbers(&leased[..1]))?;
    same(
        "it is not that lease's any more",
        is_lost(&stage.queue().ack(epoch, &named(&leased[..1])).await),
        true,
    )?;
    Ok(stage.queue().ack(epoch, &named(&leased[1..])).await?)
}

async fn a_noted_event_is_held_and_its_attempts_are_known<S: Subject>(stage: &mut Stage<S>) -> Checked {
    const WAIT: Duration = Duration::from_secs(5);
    let shared = stage.shared();
    stage.put(shared, [1]).await?;
    let (epoch, leased) = stage.lease(shared, 1).await?;
    let not_before = stage.subject.wall_ms() + 5000;
    stage.queue().note(epoch, named(&leased)[0], 3, not_before).await?;
    same("the lease goes on", stage.all(shared).await?, vec![])?;
    stage.queue().release(epoch, &tokens(&leased))?;
    same("it is held", stage.all(shared).await?, vec![])?;
    stage.crash();
    same("it is held after a crash", stage.all(stage.shared()).await?, vec![])?;
    stage.subject.pass(WAIT);
    let (_, again) = stage.lease(stage.shared(), 1).await?;
    same("when its time has come", again.iter().map(|event| event.attempts).collect(), vec![3])
}

async fn excluded_functions_are_passed_over<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=2).await?;
    stage.put_for(stage.function("g"), shared, [3]).await?;
    let exclude = HashSet::from([stage.function("f")]);
    let (_, leased) = stage.queue().lease(request(shared, MANY, &exclude)).await?;
    same("others", numbers(&leased), vec![3])?;
    same("they wait", sorted(stage.all(shared).await?), vec![1, 2])
}

async fn a_lease_is_bounded_by_count_and_bytes_but_never_empty_for_it<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=5).await?;
    let exclude = HashSet::new();
    let (_, leased) = stage.queue().lease(Request { bytes: 1, ..request(shared, MANY, &exclude) }).await?;
    same("of one byte", leased.len(), 1)?;
    same("of three events", stage.lease(shared, 3).await?.1.len(), 3)?;
    same("the rest", stage.all(shared).await?.len(), 1)
}

async fn a_lease_waits_for_the_first_event<S: Subject>(stage: &mut Stage<S>) -> Checked {
    const LONG: Duration = Duration::from_secs(20);
    let (shared, exclude, began) = (stage.shared(), HashSet::new(), Instant::now());
    let wait = Request { wait: LONG, ..request(shared, MANY, &exclude) };
    let later = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stage.put(shared, [1]).await
    };
    let (leased, put) = tokio::join!(stage.queue().lease(wait.clone()), later);
    put?;
    let (epoch, leased) = leased?;
    same("what comes is leased", numbers(&leased), vec![1])?;
    let later = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stage.queue().release(epoch, &tokens(&leased))
    };
    let (again, released) = tokio::join!(stage.queue().lease(wait), later);
    released?;
    same("what is released is leased", numbers(&again?.1), vec![1])?;
    same("at once", began.elapsed() < LONG, true)
}

async fn a_lease_that_waits_in_vain_ends_in_time<S: Subject>(stage: &mut Stage<S>) -> Checked {
    const WAIT: Duration = Duration::from_millis(30);
    let (exclude, began) = (HashSet::new(), Instant::now());
    let wait = Request { wait: WAIT, ..request(stage.shared(), MANY, &exclude) };
    same("nothing", stage.queue().lease(wait).await?.1.len(), 0)?;
    same("not sooner", began.elapsed() >= WAIT, true)
}

async fn a_lease_that_is_dropped_while_it_waits_holds_nothing<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let (shared, exclude) = (stage.shared(), HashSet::new());
    let wait = Request { wait: Duration::from_secs(20), ..request(shared, MANY, &exclude) };
    let waited = tokio::time::timeout(Duration::from_millis(20), stage.queue().lease(wait)).await;
    same("it was dropped", waited.is_err(), true)?;
    stage.put(shared, [1]).await?;
    same("what came later", stage.all(shared).await?, vec![1])
}
