//! A hundred environments in virtual machines come and go, in every way that one can end, and leave nothing: no process,
//! mount, cgroup, socket, descriptor, file or memory. Needs what `kvm_microvm.rs` needs.
//!
//! Two are under way at any time, each with a cgroup of its own, so that a test knows which processes are whose. What a
//! process makes once (threads, their stacks) is made before anything is counted.

mod common;

use std::{
    cell::RefCell,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Group, frame, gone, kill, microvm, spec, traces::Traces, until};
use sandbox::{AgentFrame, Isolation, MicrovmIsolation, MicrovmLimits, StartError};

const CYCLES: usize = 100;
/// More user ids than a lane ever has at once.
const LANE_UIDS: u32 = 1000;

/// What is ended is gone at once; the machine's first process may take a moment to collect who has died.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what the kernel tells nobody.
const PAUSE: Duration = Duration::from_millis(2);

/// The memory allocator may keep some; 100 leaks of 11 KiB are more.
const MOST_GROWTH_KIB: u64 = 1024;

/// How an environment ends, or a start that never makes one.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Nobody waits for it any more when its monitor has hardly been asked for.
    GivenUpAtOnce,
    /// … and when its kernel boots.
    GivenUpInBoot,
    /// Its monitor is killed while its kernel boots.
    KilledInBoot,
    /// Its agent has said hello; its runtime has not initialised.
    Stopped,
    Dropped,
    Killed,
    /// It is stopped when it has initialised.
    StoppedIdle,
}

/// A full boot takes seconds on an emulated processor, so three of ten reach their agent.
fn way(cycle: usize) -> Way {
    match cycle % 10 {
        0 if cycle.is_multiple_of(50) => Way::StoppedIdle,
        0 => Way::Stopped,
        1 => Way::Killed,
        2 | 3 => Way::GivenUpAtOnce,
        4 | 5 => Way::GivenUpInBoot,
        6 => Way::Dropped,
        _ => Way::KilledInBoot,
    }
}

/// Environments that follow one another.
struct Lane<'a> {
    group: Group,
    isolation: MicrovmIsolation,
    directory: &'a Path,
}

impl<'a> Lane<'a> {
    fn new(number: u32, directory: &'a Path) -> Self {
        let group = Group::new(&format!("leftovers{number}"));
        let uids = microvm::UID_BASE + number * LANE_UIDS;
        let isolation = microvm::open(&group, uids, MicrovmLimits::default());
        Self { group, isolation, directory }
    }

    async fn cycle(&self, way: Way) {
        let directory = self.directory.join(self.group.name());
        let spec = spec(&self.isolation, &directory, "python3.11", "def handler(event, context): pass\n");
        let code = Arc::downgrade(&spec.code);
        let mut start = tokio_test::task::spawn(self.isolation.start(spec));
        match way {
            Way::GivenUpAtOnce => {
                assert!(start.poll().is_pending());
                drop(start);
            }
            Way::GivenUpInBoot => {
                assert!(start.poll().is_pending());
                self.monitor_runs().await;
                drop(start);
            }
            Way::KilledInBoot => {
                assert!(start.poll().is_pending());
                self.monitor_runs().await;
                kill(&self.group.processes());
                let end = start.await;
                assert!(matches!(end, Err(StartError::Setup { .. })), "{end:?}");
            }
            Way::Stopped => start.await.unwrap().stop().await,
            Way::Dropped => drop(start.await.unwrap()),
            Way::Killed => {
                let mut environment = start.await.unwrap();
                kill(&self.group.processes());
                while environment.recv().await.is_ok() {}
            }
            Way::StoppedIdle => {
                let mut environment = start.await.unwrap();
                while frame(&mut environment).await != AgentFrame::Idle {}
                environment.stop().await;
            }
        }
        gone(&code).await;
    }

    /// Waits until a monitor has become the user that it runs as: the next thing it does is to boot a kernel.
    async fn monitor_runs(&self) {
        let runs = || self.group.users().into_iter().find(|uid| *uid >= microvm::UID_BASE);
        until("a monitor runs", runs).await;
    }

    /// Takes one cycle after the other, as long as there are some.
    async fn run(&self, cycles: &RefCell<Range<usize>>) {
        while let Some(cycle) = next(cycles) {
            self.cycle(way(cycle)).await;
        }
    }
}

fn next(cycles: &RefCell<Range<usize>>) -> Option<usize> {
    cycles.borrow_mut().next()
}

#[tokio::test]
#[ignore = "needs a KVM that boots kernels: make test-microvm"]
async fn a_hundred_environments_that_end_in_every_way_leave_nothing_behind() {
    // So that every socket of the namespace is this test's.
    #[expect(deprecated, reason = "unsafe only for UnshareFlags::FILES, which is not used")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lanes = [Lane::new(0, directory.path()), Lane::new(1, directory.path())];
    let traces = || {
        let runtimes = microvm::runtimes();
        Traces::now(&[&lanes[0].group, &lanes[1].group], &[directory.path(), runtimes.dir()])
    };
    let both = async |cycles: usize| {
        let cycles = RefCell::new(0..cycles);
        futures::future::join(lanes[0].run(&cycles), lanes[1].run(&cycles)).await;
    };

    both(10).await;
    let before = traces();
    let begun = Instant::now();
    both(CYCLES).await;
    println!("{CYCLES} environments took {:?}", begun.elapsed());

    let ended = Instant::now();
    let mut after = traces();
    while !after.left_since(&before).is_empty() && ended.elapsed() < PATIENCE {
        tokio::time::sleep(PAUSE).await;
        after = traces();
    }
    let left = after.left_since(&before);
    assert!(left.is_empty(), "{}", left.join("\n"));
    let (resident, shared) = after.growth_since(&before);
    println!("resident memory grew by {resident} KiB, memory files by {shared} KiB");
    assert!(resident <= MOST_GROWTH_KIB, "resident memory grew by {resident} KiB");
    assert!(shared <= MOST_GROWTH_KIB, "memory files grew by {shared} KiB");
}
