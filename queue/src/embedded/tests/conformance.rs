//! What every queue promises, checked for ours: on a real disk, and on one in memory that forgets what was not synced.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;

use super::rig::{Rig, SEGMENT_BYTES, TestClock, TestKeys};
use crate::{
    Config, EmbeddedQueue,
    conformance::{Subject, assert_kept},
};

/// A power cut of the disk in memory: nothing that was not synced survives.
impl Subject for Rig {
    type Queue = EmbeddedQueue;

    fn open(&mut self) -> EmbeddedQueue {
        Rig::open(self)
    }

    fn crash(&mut self, queue: EmbeddedQueue) {
        drop(queue);
        self.disk.crash(&mut |bound| bound - 1);
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}

/// A real directory; a crash ends the process only.
struct OnDisk {
    directory: TempDir,
    keys: Arc<TestKeys>,
    clock: Arc<TestClock>,
}

impl OnDisk {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            keys: Arc::default(),
            clock: Arc::new(TestClock::new()),
        }
    }
}

impl Subject for OnDisk {
    type Queue = EmbeddedQueue;

    fn open(&mut self) -> EmbeddedQueue {
        let config = Config { segment_bytes: SEGMENT_BYTES, ..Config::new(self.directory.path().to_owned()) };
        let (queue, findings) =
            EmbeddedQueue::open(config, self.keys.clone(), self.clock.clone(), self.clock.clone()).unwrap();
        assert_eq!(findings, []);
        queue
    }

    fn crash(&mut self, queue: EmbeddedQueue) {
        drop(queue);
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}

#[tokio::test]
async fn our_queue_on_a_real_disk_keeps_every_promise() {
    assert_kept(OnDisk::new).await;
}

#[tokio::test(start_paused = true)]
async fn our_queue_keeps_every_promise_when_the_power_is_cut() {
    assert_kept(Rig::new).await;
}
