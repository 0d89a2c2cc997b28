//! What operators see and do.

use std::{collections::HashSet, time::Duration};

use super::{Checked, MANY, Stage, Subject, checks, id, named, payload, request, same, sorted};
use crate::{
    Browse, EventState, FunctionNumber, PartitionNumber, Queue, ReadError, Request, partition::Order,
};

checks! {
    every_partition_is_known_by_its_name,
    every_function_is_known_by_its_arn,
    depth_and_stat_count_what_is_not_done,
    the_oldest_is_known_whether_it_waits_or_is_leased,
    browsing_shows_what_is_not_done_and_keeps_nobody_from_it,
    peeking_opens_one_event_and_keeps_nobody_from_it,
    a_drain_leases_nothing_more_and_waits_for_what_is_leased,
    a_drain_ends_in_time,
    a_scrub_of_a_sound_queue_finds_nothing,
}

async fn every_partition_is_known_by_its_name<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let (shared, lane) = (stage.shared(), stage.lane());
    stage.put(shared, [1]).await?;
    stage.put(lane, [2]).await?;
    for crashed in [false, true] {
        if crashed {
            stage.crash();
        }
        for (number, name) in stage.queue().partitions() {
            let order = if number == lane { Order::Strict } else { Order::None };
            same("the name is the number's", stage.queue().partition(&name, order).ok(), Some(number))?;
        }
        let numbers: HashSet<_> = stage.queue().partitions().into_iter().map(|(number, _)| number).collect();
        same("both are there", numbers.is_superset(&HashSet::from([stage.shared(), stage.lane()])), true)?;
    }
    Ok(())
}

async fn every_function_is_known_by_its_arn<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let (shared, f) = (stage.shared(), stage.function("f"));
    stage.put_for(f, shared, [1]).await?;
    for crashed in [false, true] {
        if crashed {
            stage.crash();
        }
        let functions = stage.queue().functions();
        same("f is there", functions.iter().filter(|(number, _)| *number == f).count(), 1)?;
        for (number, arn) in functions {
            same("the ARN is the number's", stage.queue().function(&arn).ok(), Some(number))?;
        }
    }
    Ok(())
}

async fn depth_and_stat_count_what_is_not_done<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let (shared, f, g) = (stage.shared(), stage.function("f"), stage.function("g"));
    same("of nothing", stage.queue().stat(shared).await?, vec![])?;
    stage.put_for(f, shared, 1..=3).await?;
    stage.put_for(g, shared, [4]).await?;
    stage.put(stage.lane(), [5]).await?;
    let (epoch, leased) = stage.lease(shared, 2).await?;
    let depth = stage.queue().depth(shared);
    same("waiting and leased", depth.events, 4)?;
    same("bytes", depth.bytes >= 4 * 50, true)?;
    stage.queue().ack(epoch, &named(&leased)).await?;
    same("after an ack", stage.queue().depth(shared).events, 2)?;
    stage.crash();
    let (shared, lane) = (stage.shared(), stage.lane());
    same("after a crash", stage.queue().depth(shared).events, 2)?;
    let stats = stage.queue().stat(shared).await?;
    same("functions add up", stats.iter().map(|stat| stat.depth.events).sum(), 2)?;
    same("no function is unnamed", stats.iter().any(|stat| stat.function.is_none()), false)?;
    let lane = stage.queue().stat(lane).await?;
    same(
        "a lane is one",
        lane.iter().map(|stat| (stat.function, stat.depth.events)).collect(),
        vec![(None, 1)],
    )
}

async fn the_oldest_is_known_whether_it_waits_or_is_leased<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let lane = stage.lane();
    let oldest = async |stage: &Stage<S>| {
        let stats = stage.queue().stat(lane).await?;
        Ok::<_, ReadError>(stats.first().and_then(|stat| stat.oldest))
    };
    let before = Duration::from_millis(stage.subject.wall_ms());
    stage.put(lane, [1]).await?;
    stage.subject.pass(Duration::from_secs(50));
    stage.put(lane, [2]).await?;
    let first = oldest(stage).await?;
    let is_first = |oldest: Option<Duration>| {
        oldest.is_some_and(|oldest| oldest >= before && oldest < before + Duration::from_secs(40))
    };
    same("it waits", is_first(first), true)?;
    let (epoch, leased) = stage.lease(lane, 1).await?;
    same("it is leased", oldest(stage).await?, first)?;
    stage.queue().checkpoint(epoch, leased[0].token, b"").await?;
    same("the next one's turn", is_first(oldest(stage).await?), false)
}

async fn browse_all<S: Subject>(
    stage: &Stage<S>,
    partition: PartitionNumber,
    function: Option<FunctionNumber>,
    events: usize,
) -> Result<Vec<(u8, EventState)>, ReadError> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = stage.queue().browse(Browse { partition, function, from, events }).await?;
        found.extend(page.events.iter().map(|event| (event.id.0[0], event.state)));
        from = page.next;
        if from.is_none() {
            return Ok(found);
        }
    }
}

async fn browsing_shows_what_is_not_done_and_keeps_nobody_from_it<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    use EventState::{Leased, Waiting};
    let lane = stage.lane();
    stage.put(lane, 1..=3).await?;
    stage.put_for(stage.function("g"), lane, 4..=5).await?;
    let (epoch, leased) = stage.lease(lane, 2).await?;
    stage.queue().checkpoint(epoch, leased[0].token, b"").await?;
    let expected = vec![(2, Leased), (3, Waiting), (4, Waiting), (5, Waiting)];
    for events in [1, 2, MANY] {
        same("all of it", browse_all(stage, lane, None, events).await?, expected.clone())?;
    }
    let of_g = browse_all(stage, lane, Some(stage.function("g")), 1).await?;
    same("of one function", of_g, expected[2..].to_vec())?;
    same("of another partition", browse_all(stage, stage.shared(), None, 1).await?, vec![])?;
    same("nobody is kept from them", stage.all(lane).await?, vec![3, 4, 5])
}

async fn peeking_opens_one_event_and_keeps_nobody_from_it<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let shared = stage.shared();
    stage.put(shared, 1..=2).await?;
    let page = Browse { partition: shared, function: None, from: None, events: MANY };
    let events = stage.queue().browse(page).await?.events;
    same("both are there", events.len(), 2)?;
    for event in &events {
        let content = stage.queue().peek(shared, (event.location, event.id)).await?;
        let payload_found = content.as_ref().map(|content| content.payload.clone());
        same("its payload", payload_found, Some(payload(event.id.0[0])))?;
        same("its attributes", content.map(|content| content.attributes), Some(b"a".to_vec()))?;
    }
    same("another's id", stage.queue().peek(shared, (events[0].location, id(9))).await?, None)?;
    let (epoch, leased) = stage.lease(shared, MANY).await?;
    same("nobody is kept from them", sorted(super::numbers(&leased)), vec![1, 2])?;
    stage.queue().ack(epoch, &named(&leased)).await?;
    same("done", stage.queue().peek(shared, (events[0].location, events[0].id)).await?, None)
}

async fn a_drain_leases_nothing_more_and_waits_for_what_is_leased<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    let (shared, exclude) = (stage.shared(), HashSet::new());
    stage.put(shared, 1..=3).await?;
    let (epoch, leased) = stage.lease(shared, 1).await?;
    let work = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stage.put(shared, [4]).await?;
        stage.queue().extend(epoch, super::LEASE)?;
        Ok::<_, super::Broken>(stage.queue().ack(epoch, &named(&leased)).await?)
    };
    let waiting = Request { wait: Duration::from_secs(20), ..request(stage.lane(), 1, &exclude) };
    let (left, waited, worked) =
        tokio::join!(stage.queue().drain(Duration::from_secs(20)), stage.queue().lease(waiting), work);
    worked?;
    same("what is leased at its end", left, 0)?;
    same("who waited is told", matches!(waited, Err(ReadError::Draining)), true)?;
    let asked = stage.queue().lease(request(shared, 1, &exclude)).await;
    same("who asks is told", matches!(asked, Err(ReadError::Draining)), true)?;
    same("what waits stays", stage.queue().depth(shared).events, 3)?;
    stage.crash();
    same("when it is opened again", stage.all(stage.shared()).await?.len(), 3)
}

async fn a_drain_ends_in_time<S: Subject>(stage: &mut Stage<S>) -> Checked {
    stage.put(stage.shared(), 1..=3).await?;
    stage.lease(stage.shared(), 2).await?;
    same("what is leased at its end", stage.queue().drain(Duration::from_millis(20)).await, 2)
}

async fn a_scrub_of_a_sound_queue_finds_nothing<S: Subject>(stage: &mut Stage<S>) -> Checked {
    stage.put(stage.shared(), 1..=20).await?;
    stage.crash();
    stage.put(stage.lane(), 21..=40).await?;
    same("findings", stage.queue().scrub(u64::MAX).await?.findings, vec![])
}
