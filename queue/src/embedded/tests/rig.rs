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
    BootClock,
    clock::Clocks,
    embedded::{Config, EmbeddedQueue, Finding, OpenError},
    storage::memory::MemoryDisk,
};

/// Small, so that a short test sees many.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024;

/// SplitMix64: the same seed, the same numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// A key service whose wraps are numbers, and which can forget.
#[derive(Debug, Default)]
pub(super) struct TestKeys {
    keys: Mutex<HashMap<Vec<u8>, (DataKey, KeyContext)>>,
    destroyed: Mutex<HashSet<String>>,
}

impl TestKeys {
    pub(super) fn destroy(&self, arn: &str) {
        self.destroyed.lock().unwrap().insert(arn.to_owned());
    }
}

impl Keys for TestKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        let mut keys = self.keys.lock().unwrap();
        let wrapped = (keys.len() as u64).to_le_bytes().to_vec();
        let key = DataKey::new([keys.len() as u8 + 1; 32]);
        keys.insert(wrapped.clone(), (key.clone(), context.clone()));
        Ok((key, WrappedDataKey(wrapped)))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        if self.destroyed.lock().unwrap().contains(&context.arn) {
            return Err(KeyError::UnknownKey(context.arn.clone()));
        }
        let keys = self.keys.lock().unwrap();
        let (key, made_for) = keys.get(&wrapped.0).ok_or(KeyError::UnknownFormat)?;
        assert_eq!(made_for, context);
        Ok(key.clone())
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, _: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        Ok(wrapped.clone())
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
        Duration::from_millis(self.wall_ms())
    }
}

impl BootClock for TestClock {
    fn since_boot(&self) -> Duration {
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

/// Runs `each` for as many numbers as the variable says, on all cores, and adds up what it returns. The number that something
/// goes wrong with is printed; `QUEUE_SEED` begins there.
pub(super) fn for_numbers(variable: &str, default: u64, each: impl Fn(u64) -> u64 + Sync) -> (u64, u64) {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (count, first) = (number(variable, default), number("QUEUE_SEED", 0));
    let (next, sum) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| each(seed))) {
                Ok(value) => drop(sum.fetch_add(value, Ordering::Relaxed)),
                Err(cause) => {
                    println!("number {seed} went wrong: QUEUE_SEED={seed} {variable}=1");
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    std::panic::resume_unwind(cause);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    (count, sum.into_inner())
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
