//! Fills a queue, for tests of what looks at queues:
//!
//! `fill DIRECTORY EVENTS FUNCTIONS PAYLOAD_BYTES [stay]`
//!
//! Half of the events go to each of two shared partitions; a hundred go to a lane, of which ten are done. With `stay` the queue is
//! kept open, and written to, until standard input ends.

use std::{collections::HashSet, io::Write as _, sync::Arc, time::Duration};

use queue::{
    Config, EmbeddedQueue, Event, EventId, FunctionNumber, PartitionNumber, Queue, Request, SystemBootClock,
    partition::Order,
};
use types::{DataKey, KeyContext, KeyError, Keys, SystemClock, WrappedDataKey};

/// Events that are made durable together.
const TOGETHER: u64 = 1000;
const CANARY: &[u8] = b"canary-of-a-payload ";

type Failure = Box<dyn std::error::Error>;

/// One key for all: nothing in a test is secret.
#[derive(Debug)]
struct OneKey;

impl Keys for OneKey {
    fn generate(&self, _: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        Ok((DataKey::new([1; 32]), WrappedDataKey(vec![1])))
    }

    fn unwrap(&self, _: &WrappedDataKey, _: &KeyContext) -> Result<DataKey, KeyError> {
        Ok(DataKey::new([1; 32]))
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        Ok(wrapped.clone())
    }
}

struct Filling<Q> {
    queue: Q,
    functions: Vec<FunctionNumber>,
    payload: Vec<u8>,
    next: u64,
}

impl<Q: Queue> Filling<Q> {
    async fn put(&mut self, partition: PartitionNumber, events: u64) -> Result<(), Failure> {
        let end = self.next + events;
        while self.next < end {
            let numbers = self.next..end.min(self.next + TOGETHER);
            self.next = numbers.end;
            let event = |number: u64| Event {
                id: EventId(u128::from(number).to_be_bytes()),
                function: self.functions[number as usize % self.functions.len()],
                partition,
                attributes: b"",
                payload: &self.payload,
            };
            self.queue.enqueue(&numbers.map(event).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Does the first ten of a lane.
    async fn finish_some(&self, lane: PartitionNumber) -> Result<(), Failure> {
        let exclude = HashSet::new();
        let lease = Duration::from_secs(60);
        let request = Request {
            partition: lane,
            events: 10,
            bytes: u64::MAX,
            wait: Duration::ZERO,
            lease,
            exclude: &exclude,
        };
        let (epoch, leased) = self.queue.lease(request).await?;
        let last = leased.last().ok_or("the lane is empty")?;
        Ok(self.queue.checkpoint(epoch, last.token, b"ten").await?)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, events, functions, payload_bytes, stay @ ..] = &arguments[..] else {
        return Err("usage: fill DIRECTORY EVENTS FUNCTIONS PAYLOAD_BYTES [stay]".into());
    };
    let (queue, _) = EmbeddedQueue::open(
        Config::new(directory.into()),
        Arc::new(OneKey),
        Arc::new(SystemClock),
        Arc::new(SystemBootClock),
    )?;
    let functions = (0..functions.parse::<u32>()?)
        .map(|number| queue.function(&format!("arn:aws:lambda:us-east-1:000000000000:function:f{number}")))
        .collect::<Result<_, _>>()?;
    let payload = CANARY.iter().copied().cycle().take(payload_bytes.parse()?).collect();
    let mut filling = Filling { queue: queue.clone(), functions, payload, next: 0 };
    let shared = [0, 1].map(|number| queue.partition(&format!("shared/{number}"), Order::None));
    let (first, second, lane) = (shared[0]?, shared[1]?, queue.partition("lane/orders/0", Order::Strict)?);
    let events: u64 = events.parse()?;
    filling.put(lane, 100).await?;
    filling.finish_some(lane).await?;
    filling.put(first, events / 2).await?;
    filling.put(second, events - events / 2).await?;
    let upkeep = queue.upkeep();
    while upkeep.step().await? {}
    println!("filled");
    std::io::stdout().flush()?;
    if !stay.is_empty() {
        // Until whoever started this closes its end.
        let end = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        while !end.is_finished() {
            filling.put(first, 10).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}
