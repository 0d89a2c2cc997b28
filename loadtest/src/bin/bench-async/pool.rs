//! The function's processes as peers have them: bare runtime processes, each driven by a thread of this program.
//!
//! ```text
//!   call ─► one queue ─┬─► thread ── Runtime API ──► process
//!                      └─► thread ── Runtime API ──► process
//! ```

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use loadtest::floor::{Floor, Prepared};
use tokio::sync::oneshot;

/// As many as events of one function are tried at once on two cores.
pub(crate) const PROCESSES: usize = 4;
/// How often the count is looked at.
const GLANCE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Call {
    payload: Bytes,
    done: oneshot::Sender<Result<()>>,
}

/// The processes, and how to call them. Cheap to clone; they end with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    calls: mpsc::Sender<Call>,
    done: Arc<AtomicU64>,
}

impl Pool {
    pub(crate) fn start(function: &Prepared) -> Result<Self> {
        let (calls, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..PROCESSES {
            let (mut process, _) = function.start(b"{}")?;
            let waiting = waiting.clone();
            thread::spawn(move || serve(&mut process, &waiting));
        }
        Ok(Self { calls, done: Arc::default() })
    }

    /// Has one of the processes handle an event.
    pub(crate) async fn call(&self, payload: Bytes) -> Result<()> {
        let (done, answered) = oneshot::channel();
        self.calls.send(Call { payload, done }).map_err(|_| anyhow!("no process is left"))?;
        answered.await.context("the process has ended")??;
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Calls that have ended well.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn wait_for(&self, calls: u64) -> Result<()> {
        let begin = Instant::now();
        while self.done() < calls {
            ensure!(begin.elapsed() < PATIENCE, "{} of {calls} calls ended in {PATIENCE:?}", self.done());
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}

fn serve(process: &mut Floor, waiting: &Mutex<mpsc::Receiver<Call>>) {
    loop {
        // The lock is held while waiting: whoever has it is who takes the next call.
        let call = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Call { payload, done }) = call else { return };
        let ran = process.prepare(&payload).and_then(|()| process.run()).map(drop);
        let broken = ran.is_err();
        // Who called may have given up.
        let _ = done.send(ran);
        if broken {
            return;
        }
    }
}
