//! Ordered partitions: one order, kept, and done by checkpoints.

use std::time::Duration;

use super::{Checked, LEASE, MANY, Stage, Subject, checks, named, numbers, same, tokens};
use crate::{Queue, Refused, WriteError};

checks! {
    an_ordered_partition_keeps_its_order,
    what_is_given_back_takes_along_what_follows,
    a_lost_lease_of_a_lane_takes_along_what_follows_and_cannot_checkpoint,
    a_held_event_stops_what_follows,
    a_checkpoint_ends_all_up_to_it_and_keeps_its_position,
    each_order_is_done_in_its_own_way,
}

async fn an_ordered_partition_keeps_its_order<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let lane = stage.lane();
    stage.put(lane, 1..=3).await?;
    stage.put_for(stage.function("g"), lane, [4]).await?;
    stage.put(lane, 5..=6).await?;
    same("the first", numbers(&stage.lease(lane, 2).await?.1), vec![1, 2])?;
    same("the next", numbers(&stage.lease(lane, MANY).await?.1), vec![3, 4, 5, 6])?;
    stage.crash();
    same("after a crash", stage.all(stage.lane()).await?, vec![1, 2, 3, 4, 5, 6])
}

async fn what_is_given_back_takes_along_what_follows<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let lane = stage.lane();
    stage.put(lane, 1..=6).await?;
    let (epoch, leased) = stage.lease(lane, 3).await?;
    let (later, behind) = stage.lease(lane, 2).await?;
    stage.queue().release(epoch, &tokens(&leased[1..2]))?;
    same("from there on", stage.all(lane).await?, vec![2, 3, 4, 5, 6])?;
    let lost = stage.queue().checkpoint(later, behind[0].token, b"").await;
    same(
        "what came back is lost to its lease",
        matches!(lost, Err(WriteError::Refused(Refused::LeaseLost))),
        true,
    )
}

async fn a_lost_lease_of_a_lane_takes_along_what_follows_and_cannot_checkpoint<S: Subject>(
    stage: &mut Stage<S>,
) -> Checked {
    let lane = stage.lane();
    stage.put(lane, 1..=4).await?;
    let (lost, leased) = stage.lease(lane, 2).await?;
    stage.subject.pass(LEASE / 2);
    stage.lease(lane, 1).await?;
    stage.subject.pass(LEASE / 2);
    same("all come again", stage.all(lane).await?, vec![1, 2, 3, 4])?;
    let stale = stage.queue().checkpoint(lost, leased[1].token, b"x").await;
    same("refused", matches!(stale, Err(WriteError::Refused(Refused::LeaseLost))), true)?;
    same("the position", stage.queue().position(lane), None)
}

async fn a_held_event_stops_what_follows<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let lane = stage.lane();
    stage.put(lane, 1..=3).await?;
    let (epoch, leased) = stage.lease(lane, 1).await?;
    let not_before = stage.subject.wall_ms() + 5000;
    stage.queue().note(epoch, named(&leased)[0], 1, not_before).await?;
    stage.queue().release(epoch, &tokens(&leased))?;
    same("the lane stands still", stage.all(lane).await?, vec![])?;
    stage.crash();
    same("also after a crash", stage.all(stage.lane()).await?, vec![])?;
    stage.subject.pass(Duration::from_secs(5));
    same("and goes on", stage.all(stage.lane()).await?, vec![1, 2, 3])
}

async fn a_checkpoint_ends_all_up_to_it_and_keeps_its_position<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let lane = stage.lane();
    stage.put(lane, 1..=6).await?;
    let (epoch, leased) = stage.lease(lane, 4).await?;
    stage.queue().checkpoint(epoch, leased[1].token, b"two").await?;
    stage.queue().checkpoint(epoch, leased[2].token, b"three").await?;
    same("the position", stage.queue().position(lane), Some(b"three".to_vec()))?;
    same("what is left", stage.queue().depth(lane).events, 3)?;
    for _ in 0..2 {
        stage.crash();
        same("the position after a crash", stage.queue().position(stage.lane()), Some(b"three".to_vec()))?;
        same("what comes after a crash", stage.all(stage.lane()).await?, vec![4, 5, 6])?;
    }
    Ok(())
}

async fn each_order_is_done_in_its_own_way<S: Subject>(stage: &mut Stage<S>) -> Checked {
    let wrong =
        |result: Result<(), WriteError>| matches!(result, Err(WriteError::Refused(Refused::WrongOrder)));
    stage.put(stage.lane(), [1]).await?;
    stage.put(stage.shared(), [2]).await?;
    let (epoch, leased) = stage.lease(stage.lane(), 1).await?;
    same("an ack in a lane", wrong(stage.queue().ack(epoch, &named(&leased)).await), true)?;
    let long = stage.queue().checkpoint(epoch, leased[0].token, &[0; 4097]).await;
    same("a long position", matches!(long, Err(WriteError::Refused(Refused::PositionTooLong(4097)))), true)?;
    stage.queue().checkpoint(epoch, leased[0].token, &[0; 4096]).await?;
    let (epoch, leased) = stage.lease(stage.shared(), 1).await?;
    let checkpoint = stage.queue().checkpoint(epoch, leased[0].token, b"").await;
    same("a checkpoint elsewhere", wrong(checkpoint), true)
}
