//! A whole fleet on a real queue, with time that passes at once. Functions are closures; all else is what runs in production.

mod clock;
mod crowding;
mod dead_letters;
mod ends;

use std::{
    collections::HashMap,
    future::{pending, ready},
    os::unix::fs::PermissionsExt,
    str::FromStr as _,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use connectors::destinations;
use control::LocalKeyring;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use invoker::FunctionError;
use queue::{BootClock, Browse, EmbeddedQueue, PartitionNumber};
use tokio::time::Instant;
use tower::service_fn;
use types::{
    ApiError, Destination, ErrorCode, EventInvokePolicy, FunctionName, FunctionRef, FunctionSpec, Lineage,
    MemorySize, RuntimeName, Version,
};

use super::*;
use crate::{
    Amount, Schedule, SteadyClock,
    attributes::{DeadLetter, Reason, Was},
    schedule::Condition,
};

/// Both clocks of a test: they pass with tokio's. The wall clock can be set.
#[derive(Clone)]
struct TestClock {
    began: Instant,
    /// By how many seconds the wall clock was set, in all.
    set: Arc<AtomicI64>,
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        let set = self.set.load(Ordering::Relaxed);
        Duration::from_secs(1_800_000_000_u64.saturating_add_signed(set)) + self.began.elapsed()
    }
}

impl BootClock for TestClock {
    fn since_boot(&self) -> Duration {
        Duration::from_secs(1_000) + self.began.elapsed()
    }
}

/// What a function does with an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Succeeds,
    Fails,
    /// With an answer of this many bytes.
    FailsAtLength(usize),
    /// Succeeds after a tenth of a second, so many at once; others are throttled.
    AtOnce(u32),
    /// Succeeds after so many seconds.
    TakesSeconds(u64),
    /// An answer of an attempt that never comes.
    Hangs,
    Panics,
    Throttled,
}

/// Functions by name, and what they were asked to do.
#[derive(Default)]
struct World {
    functions: HashMap<FunctionName, (Does, EventInvokePolicy)>,
    attempts: Vec<(String, RequestId, Duration)>,
    /// Of those that only so many may be.
    running: u32,
}

#[derive(Clone)]
struct Stage {
    directory: Arc<tempfile::TempDir>,
    clock: TestClock,
    world: Arc<Mutex<World>>,
    config: Config,
}

struct Running {
    stage: Stage,
    queue: EmbeddedQueue,
    fleet: Fleet<EmbeddedQueue>,
}

/// As the keyring wants it.
fn private_directory() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o700)).tempdir().unwrap()
}

fn arn(name: &str) -> FunctionArn {
    let (region, account) = ("us-east-1".parse().unwrap(), "123456789012".parse().unwrap());
    FunctionArn { region, account, name: name.parse().unwrap() }
}

impl Functions for Stage {
    fn resolve(&self, function: &FunctionRef) -> Result<Arc<FunctionSpec>, ApiError> {
        if !self.world().functions.contains_key(&function.name) {
            return Err(ApiError::new(ErrorCode::ResourceNotFound, "gone"));
        }
        Ok(Arc::new(FunctionSpec {
            arn: arn(function.name.as_str()),
            version: Version::Latest,
            deployment: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
            runtime: RuntimeName::new("python3.11"),
            handler: "h".into(),
            memory: MemorySize(128),
            ephemeral_storage: MemorySize(512),
            timeout: Duration::from_secs(3),
            role: String::new(),
        }))
    }

    fn policy(&self, function: &FunctionRef) -> Option<EventInvokePolicy> {
        self.world().functions.get(&function.name).map(|(_, policy)| policy.clone())
    }
}

impl Stage {
    fn new() -> Self {
        Self {
            directory: Arc::new(private_directory()),
            clock: TestClock { began: Instant::now(), set: Arc::default() },
            world: Arc::default(),
            config: Config { shared_partitions: 2, ..Config::default() },
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn function(&self, name: &str, does: Does) {
        self.with_policy(name, does, EventInvokePolicy::default());
    }

    fn with_policy(&self, name: &str, does: Does, policy: EventInvokePolicy) {
        self.world().functions.insert(name.parse().unwrap(), (does, policy));
    }

    fn invoke(&self, request: &InvokeRequest) -> BoxFuture<'static, Result<InvokeOutcome, InvokeError>> {
        let name = request.function.arn.name.clone();
        let mut world = self.world();
        world.attempts.push((name.to_string(), request.request_id, self.clock.since_boot()));
        let mut does = world.functions[&name].0;
        match does {
            Does::AtOnce(limit) if world.running >= limit => does = Does::Throttled,
            Does::AtOnce(_) => world.running += 1,
            _ => {}
        }
        drop(world);
        let answer = |body: &str, function_error| {
            let body = stream::iter([Ok(Bytes::copy_from_slice(body.as_bytes()))]).boxed();
            let (executed_version, content_type) = (Version::Latest, "application/json".into());
            Ok(InvokeOutcome { executed_version, function_error, log_tail: None, content_type, body })
        };
        match does {
            Does::Succeeds => ready(answer("42", None)).boxed(),
            Does::Fails => {
                let error = r#"{"errorType":"E","errorMessage":"boom"}"#;
                ready(answer(error, Some(FunctionError::Unhandled))).boxed()
            }
            Does::FailsAtLength(bytes) => {
                ready(answer(&format!("\"{}\"", "x".repeat(bytes)), Some(FunctionError::Unhandled))).boxed()
            }
            Does::AtOnce(_) => {
                let (world, answer) = (self.world.clone(), answer("42", None));
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    world.lock().unwrap().running -= 1;
                    answer
                }
                .boxed()
            }
            Does::TakesSeconds(seconds) => {
                let answer = answer("42", None);
                async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    answer
                }
                .boxed()
            }
            Does::Hangs => pending().boxed(),
            Does::Panics => async { panic!("a fault of ours, in a test") }.boxed(),
            Does::Throttled => {
                ready(Err(InvokeError::Throttled { limit: 1, retry_after: Duration::from_secs(1) })).boxed()
            }
        }
    }

    async fn start(&self) -> Running {
        let keys = Arc::new(LocalKeyring::open_or_create(&self.directory.path().join("keyring")).unwrap());
        let boot = Arc::new(self.clock.clone());
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new(&self.clock, boot.clone()));
        let config = queue::Config {
            segment_bytes: 4 << 20,
            ..queue::Config::new(self.directory.path().join("queue"))
        };
        let (queue, findings) = EmbeddedQueue::open(config, keys.clone(), clock.clone(), boot).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        let files = destinations::Config {
            sealed_files: false,
            ..destinations::Config::new(self.directory.path().join("destinations"), keys)
        };
        let invoked = self.clone();
        let parts = Parts {
            config: self.config.clone(),
            queue: queue.clone(),
            invoker: service_fn(move |request: InvokeRequest| invoked.invoke(&request)),
            functions: Arc::new(self.clone()),
            destinations: Destinations::new(files).await.unwrap(),
            clock,
        };
        Running { stage: self.clone(), fleet: Fleet::start_under(Load::unwatched(), parts).unwrap(), queue }
    }

    /// When a function was tried, in seconds since the first time.
    fn tried(&self, name: &str) -> Vec<u64> {
        let times: Vec<_> =
            self.world().attempts.iter().filter(|(tried, ..)| tried == name).map(|(.., at)| *at).collect();
        times.iter().map(|at| (*at - times[0]).as_secs_f64().round() as u64).collect()
    }

    fn lines(&self, destination: &str) -> Vec<serde_json::Value> {
        let path = self.directory.path().join("destinations").join(destination);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Running {
    async fn accept(&self, name: &str) -> RequestId {
        let request_id = RequestId::random();
        let event = AsyncInvocation {
            function: arn(name),
            invoked_arn: arn(name).to_string(),
            request_id,
            payload: Bytes::from_static(br#"{"n":1}"#),
            client_context: None,
            trace: TraceContext { xray: "x".into(), traceparent: "t".into(), lineage: Lineage::default() },
        };
        self.fleet.handle().accept(event).await.unwrap();
        request_id
    }

    fn depth(&self, prefix: &str) -> u64 {
        let partitions = self.queue.partitions().into_iter().filter(|(_, name)| name.starts_with(prefix));
        partitions.map(|(number, _)| self.queue.depth(number).events).sum()
    }

    /// Lets time pass until nothing is left but dead letters.
    async fn quiet(&self) {
        for _ in 0..3_600 {
            if self.depth("async/") + self.depth("deliveries") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("events are left after six minutes: {:?}", self.stage.world().attempts);
    }

    async fn dead_letters(&self, name: &str) -> Vec<DeadLetter> {
        let partition = self.fleet.router.dead_letters(&arn(name)).unwrap();
        let page =
            self.queue.browse(Browse { partition, function: None, from: None, events: 100 }).await.unwrap();
        let mut letters = Vec::new();
        for event in page.events {
            let content = self.queue.peek(partition, (event.location, event.id)).await.unwrap().unwrap();
            assert_eq!(content.payload, br#"{"n":1}"#);
            let Attributes::DeadLetter(letter) = Attributes::decode(&content.attributes).unwrap() else {
                panic!()
            };
            letters.push(letter);
        }
        letters
    }

    /// Stops it and opens all of it again.
    async fn restart(self) -> Self {
        let Self { stage, queue, fleet } = self;
        fleet.stop(Duration::from_secs(30)).await;
        drop(queue);
        stage.start().await
    }
}

fn file(name: &str) -> Option<Destination> {
    Some(Destination::File { name: name.into() })
}

#[tokio::test(start_paused = true)]
async fn an_event_is_invoked_once_and_is_gone() {
    let stage = Stage::new();
    stage.function("f", Does::Succeeds);
    let fleet = stage.start().await;
    let mut accepted = Vec::new();
    for _ in 0..50 {
        accepted.push(fleet.accept("f").await);
    }
    fleet.quiet().await;
    let mut tried: Vec<_> = stage.world().attempts.iter().map(|(_, id, _)| *id).collect();
    tried.sort();
    accepted.sort();
    assert_eq!(tried, accepted);
    let fleet = fleet.restart().await;
    assert_eq!(fleet.depth(""), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_event_is_tried_after_one_and_two_minutes_and_is_kept_as_a_dead_letter() {
    let stage = Stage::new();
    stage.function("f", Does::Fails);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    fleet.quiet().await;
    assert_eq!(stage.tried("f"), [0, 60, 180]);
    let [letter] = &fleet.dead_letters("f").await[..] else { panic!() };
    assert_eq!(letter.reason, Reason::Invocation(Condition::RetriesExhausted));
    assert_eq!((letter.attempts, letter.error.as_str()), (3, "boom"));
    assert!(matches!(&letter.was, Was::Invoke(was) if was.invoked_arn == arn("f").to_string()));
}

#[tokio::test(start_paused = true)]
async fn throttling_counts_no_attempt_and_ends_with_the_events_age() {
    let stage = Stage::new();
    let policy =
        EventInvokePolicy { maximum_event_age: Duration::from_secs(60), ..EventInvokePolicy::default() };
    stage.with_policy("f", Does::Throttled, policy);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    fleet.quiet().await;
    assert_eq!(stage.tried("f"), [0, 1, 3, 7, 15, 31]);
    let [letter] = &fleet.dead_letters("f").await[..] else { panic!() };
    assert_eq!(letter.reason, Reason::Invocation(Condition::EventAgeExceeded));
    assert_eq!(letter.attempts, 0);
    assert_eq!(letter.at_ms - letter.accepted_ms, 60_000);
}

#[tokio::test(start_paused = true)]
async fn attempts_outlive_a_restart_and_so_does_the_wait() {
    let stage = Stage::new();
    stage.function("f", Does::Fails);
    let mut fleet = stage.start().await;
    fleet.accept("f").await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        fleet = fleet.restart().await;
    }
    fleet.quiet().await;
    let tried = stage.tried("f");
    assert_eq!(tried.len(), 3, "{tried:?}");
    assert!((60..=61).contains(&tried[1]) && (180..=182).contains(&tried[2]), "{tried:?}");
}

#[tokio::test(start_paused = true)]
async fn a_function_that_stands_still_holds_up_nobody_else() {
    let mut stage = Stage::new();
    stage.config.function_memory = Amount { events: 20, bytes: 1 << 20 };
    stage.function("stuck", Does::Hangs);
    stage.function("quick", Does::Succeeds);
    let fleet = stage.start().await;
    for _ in 0..1_000 {
        fleet.accept("stuck").await;
    }
    for _ in 0..50 {
        fleet.accept("quick").await;
    }
    tokio::time::timeout(Duration::from_secs(30), async {
        while stage.tried("quick").len() < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    // Its next events go elsewhere.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fleet.accept("stuck").await;
    assert_eq!(fleet.depth("async/own/"), 1);
    assert_eq!(fleet.depth("async/"), 1_001);
}

#[tokio::test(start_paused = true)]
async fn outcomes_go_to_their_destinations() {
    let stage = Stage::new();
    let policy = EventInvokePolicy {
        maximum_retry_attempts: 0,
        on_success: file("good"),
        on_failure: file("bad"),
        dead_letter_queue: file("letters"),
        ..EventInvokePolicy::default()
    };
    stage.with_policy("works", Does::Succeeds, policy.clone());
    stage.with_policy("fails", Does::Fails, policy);
    let fleet = stage.start().await;
    let (works, fails) = (fleet.accept("works").await, fleet.accept("fails").await);
    fleet.quiet().await;
    let [good] = &stage.lines("good")[..] else { panic!() };
    assert_eq!(good["requestContext"]["requestId"], works.to_string());
    assert_eq!(good["requestContext"]["condition"], "Success");
    assert_eq!(good["requestContext"]["functionArn"], format!("{}:$LATEST", arn("works")));
    assert_eq!((&good["requestPayload"]["n"], &good["responsePayload"]), (&1.into(), &42.into()));
    let [bad] = &stage.lines("bad")[..] else { panic!() };
    assert_eq!(bad["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(bad["requestContext"]["approximateInvokeCount"], 1);
    assert_eq!(bad["responseContext"]["functionError"], "Unhandled");
    assert_eq!(bad["responsePayload"]["errorMessage"], "boom");
    let [letter] = &stage.lines("letters")[..] else { panic!() };
    assert_eq!(letter["requestId"], fails.to_string());
    assert_eq!((&letter["errorCode"], &letter["errorMessage"]), (&200.into(), &"boom".into()));
    assert_eq!(fleet.depth("dead-letters/"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_is_tried_again_and_no_function_runs_again_for_it() {
    let stage = Stage::new();
    let policy = EventInvokePolicy { on_success: file("good"), ..EventInvokePolicy::default() };
    stage.with_policy("f", Does::Succeeds, policy);
    let mut fleet = stage.start().await;
    // A directory where the file should be.
    let path = stage.directory.path().join("destinations").join("good");
    std::fs::create_dir_all(&path).unwrap();
    fleet.accept("f").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    fleet = fleet.restart().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fleet.depth("deliveries"), 1);
    std::fs::remove_dir(&path).unwrap();
    fleet.quiet().await;
    assert_eq!(stage.lines("good").len(), 1);
    assert_eq!(stage.tried("f"), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_function_may_be_the_destination_of_another() {
    let stage = Stage::new();
    let next = arn("next").to_string().parse().unwrap();
    let policy = EventInvokePolicy { on_success: Some(next), ..EventInvokePolicy::default() };
    stage.with_policy("first", Does::Succeeds, policy);
    stage.function("next", Does::Succeeds);
    let fleet = stage.start().await;
    fleet.accept("first").await;
    fleet.quiet().await;
    assert_eq!((stage.tried("first").len(), stage.tried("next").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn events_of_a_deleted_function_are_kept_as_dead_letters() {
    let stage = Stage::new();
    stage.function("f", Does::Fails);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.world().functions.clear();
    fleet.quiet().await;
    let [letter] = &fleet.dead_letters("f").await[..] else { panic!() };
    assert_eq!(letter.reason, Reason::Invocation(Condition::FunctionDeleted));
    assert_eq!(letter.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_ours_in_an_attempt_loses_nothing() {
    let stage = Stage::new();
    stage.function("f", Does::Panics);
    let fleet = stage.start().await;
    fleet.accept("f").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stage.function("f", Does::Succeeds);
    fleet.quiet().await;
    assert_eq!(stage.tried("f").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_fleets_is_left_alone() {
    let stage = Stage::new();
    let fleet = stage.start().await;
    let other: PartitionNumber = fleet.queue.partition("mapping/0", queue::partition::Order::None).unwrap();
    let function = fleet.queue.function("arn:f").unwrap();
    let id = EventId([1; 16]);
    let event = queue::Event { id, function, partition: other, attributes: b"", payload: b"" };
    fleet.queue.enqueue(&[event]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.queue.depth(other).events, 1);
}
