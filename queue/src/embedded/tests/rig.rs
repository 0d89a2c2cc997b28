//! What tests of the queue have in common: keys, clocks and randomness that obey, and the queue on a disk in memory.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use types::{Clock, DataKey, KeyContext, KeyError, Keys, WrappedDataKey};

use crate::{
    BootClock, FunctionNumber, PartitionNumber, Request,
    clock::Clocks,
    embedded::{Config, EmbeddedQueue, Finding, OpenError},
    storage::memory::MemoryDisk,
    testing::pause,
};

pub(super) use crate::testing::Random;

/// Small, so that a short test sees many.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024;

/// A key service whose wraps are numbers: of the key, and behind it how often it was wrapped again. It can forget.
#[derive(Debug, Default)]
pub(super) struct TestKeys {
    keys: Mutex<Vec<(DataKey, KeyContext)>>,
    destroyed: Mutex<HashSet<String>>,
    /// By key: the newest wrap that was made, and the oldest that may still be opened.
    newest_wrap: Mutex<HashMap<u64, u64>>,
    oldest_wrap: Mutex<HashMap<u64, u64>>,
}

impl TestKeys {
    /// The same keys, for a copy that goes its own way.
    fn copy(&self) -> Self {
        Self {
            keys: Mutex::new(self.keys.lock().unwrap().clone()),
            destroyed: Mutex::new(self.destroyed.lock().unwrap().clone()),
            newest_wrap: Mutex::new(self.newest_wrap.lock().unwrap().clone()),
            oldest_wrap: Mutex::new(self.oldest_wrap.lock().unwrap().clone()),
        }
    }

    pub(super) fn destroy(&self, arn: &str) {
        self.destroyed.lock().unwrap().insert(arn.to_owned());
    }

    /// All wraps of a function's keys but the newest are needed no more: to open one from now on is a fault.
    pub(super) fn retire_wraps(&self, arn: &str) {
        let newest = self.newest_wrap.lock().unwrap();
        for (number, (_, context)) in (0_u64..).zip(self.keys.lock().unwrap().iter()) {
            if context.arn == arn
                && let Some(wrap) = newest.get(&number)
            {
                self.oldest_wrap.lock().unwrap().insert(number, *wrap);
            }
        }
    }

    /// Of the key, and of the wrap.
    fn numbers(wrapped: &WrappedDataKey) -> (u64, u64) {
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let (key, wrap) = wrapped.0.split_at(8);
        (number(key), number(wrap))
    }
}

impl Keys for TestKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        pause();
        let mut keys = self.keys.lock().unwrap();
        let number = keys.len() as u64;
        let key = DataKey::new([number as u8 + 1; 32]);
        keys.push((key.clone(), context.clone()));
        Ok((key, WrappedDataKey(number.to_le_bytes().to_vec())))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        if self.destroyed.lock().unwrap().contains(&context.arn) {
            return Err(KeyError::UnknownKey(context.arn.clone()));
        }
        let (number, wrap) = Self::numbers(wrapped);
        let oldest = self.oldest_wrap.lock().unwrap().get(&number).copied().unwrap_or_default();
        assert!(wrap >= oldest, "a wrap that was replaced for good is still needed");
        pause();
        let keys = self.keys.lock().unwrap();
        let (key, made_for) = keys.get(number as usize).ok_or(KeyError::UnknownFormat)?;
        assert_eq!(made_for, context);
        Ok(key.clone())
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        pause();
        let (key, wrap) = Self::numbers(wrapped);
        let newest = wrap + 1;
        self.newest_wrap.lock().unwrap().insert(key, newest);
        Ok(WrappedDataKey([key.to_le_bytes(), newest.to_le_bytes()].concat()))
    }
}

/// Both clocks, set by hand.
#[derive(Debug)]
pub(super) struct TestClock {
    wall_ms: AtomicU64,
    boot_ms: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Self {
        Self { wall_ms: AtomicU64::new(1_700_000_000_000), boot_ms: AtomicU64::new(1_000_000) }
    }

    pub(super) fn advance(&self, time: Duration) {
        let millis = time.as_millis() as u64;
        self.wall_ms.fetch_add(millis, Ordering::SeqCst);
        self.boot_ms.fetch_add(millis, Ordering::SeqCst);
    }

    fn copy(&self) -> Self {
        let copy = |millis: &AtomicU64| AtomicU64::new(millis.load(Ordering::SeqCst));
        Self { wall_ms: copy(&self.wall_ms), boot_ms: copy(&self.boot_ms) }
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    /// Somebody sets the wall clock.
    pub(super) fn jump(&self, by_ms: i64) {
        self.wall_ms.store(self.wall_ms().saturating_add_signed(by_ms), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        pause();
        Duration::from_millis(self.wall_ms())
    }
}

impl BootClock for TestClock {
    fn since_boot(&self) -> Duration {
        pause();
        Duration::from_millis(self.boot_ms.load(Ordering::SeqCst))
    }
}

/// A machine with a disk; queues are opened on it one after the other.
#[derive(Debug, Clone)]
pub(super) struct Rig {
    pub(super) disk: MemoryDisk,
    pub(super) keys: Arc<TestKeys>,
    pub(super) clock: Arc<TestClock>,
    pub(super) segment_bytes: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self {
            disk: MemoryDisk::default(),
            keys: Arc::default(),
            clock: Arc::new(TestClock::new()),
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// The same machine, for a history that goes its own way from here.
    pub(super) fn fork(&self) -> Self {
        Self {
            disk: self.disk.copy(),
            keys: Arc::new(self.keys.copy()),
            clock: Arc::new(self.clock.copy()),
            segment_bytes: self.segment_bytes,
        }
    }

    pub(super) fn try_open(&self) -> Result<(EmbeddedQueue, Vec<Finding>), OpenError> {
        let config = Config { segment_bytes: self.segment_bytes, ..Config::new("/nowhere".into()) };
        let clocks = Clocks { wall: self.clock.clone(), boot: self.clock.clone() };
        EmbeddedQueue::open_on(config, Box::new(self.disk.clone()), self.keys.clone(), clocks)
    }

    /// Opens what must be in order.
    pub(super) fn open(&self) -> EmbeddedQueue {
        let (queue, findings) = self.try_open().unwrap();
        assert_eq!(findings, []);
        queue
    }
}

/// Runs `each` for one number after the other, on all cores, until what it counts of itself, which it returns first, adds up to
/// as many as the variable says; `QUEUE_SEED` is the first number. Returns all that was counted. The number that something goes
/// wrong with is printed.
pub(super) fn for_numbers<const N: usize>(
    variable: &str,
    default: u64,
    each: impl Fn(u64) -> [u64; N] + Sync,
) -> [u64; N] {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (wanted, first) = (number(variable, default), number("QUEUE_SEED", 0));
    let next = AtomicU64::new(first);
    let sums = [const { AtomicU64::new(0) }; N];
    let work = || {
        while sums[0].load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| each(seed))) {
                Ok(counts) => {
                    for (sum, count) in sums.iter().zip(counts) {
                        sum.fetch_add(count, Ordering::Relaxed);
                    }
                }
                Err(cause) => {
                    println!("number {seed} went wrong: QUEUE_SEED={seed} {variable}=1");
                    sums[0].store(u64::MAX / 2, Ordering::Relaxed);
                    std::panic::resume_unwind(cause);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted as usize);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    sums.map(AtomicU64::into_inner)
}

/// Asks for events as they are now.
pub(super) fn request<'a>(
    partition: PartitionNumber,
    events: usize,
    lease: Duration,
    exclude: &'a HashSet<FunctionNumber>,
) -> Request<'a> {
    Request { partition, events, bytes: u64::MAX, wait: Duration::ZERO, lease, exclude }
}

/// Runs what never has to wait for anybody else: every wait in it leads its own commit.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits for somebody"),
    }
}
