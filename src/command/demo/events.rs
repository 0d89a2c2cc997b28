//! The second half: ten thousand events for a function that fails on some, with the server killed in the middle.
//!
//! ```text
//!   AWS CLI ─ the first ─┐                          ┌─ succeeded ─► arn:aws:file:::shipped ─────┐
//!   sender ─ the others ─┴─► Invoke, Event ─► queue ┤                                           ├─► evidence ─► judge
//!     │                          ▲  kill -9,        └─ failed ─► again, twice ─► dead letters ──┘
//!     └─ 202s ─► judge           └─ start again          ▲                           │
//!                                                        └── redrive, once mended ───┘
//! ```
//! What became of the events is said by the [`Judge`] alone.

use std::{
    future::pending,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    runtime::{self, Runtime},
    time::{MissedTickBehavior, interval},
};

use super::{
    aws::Aws,
    evidence::Evidence,
    judge::{Judge, Verdict},
    live::Live,
    screen::{grouped, part},
    sender::{self, Sender},
    server::{SPEED_UP, Server},
    write_zip,
};
use crate::command::client::Client;

const PYTHON: &str = include_str!("orders.py");
const FUNCTION: &str = "demo-orders";
const DESTINATION: &str = "shipped";
const EVENTS: u32 = 10_000;
/// So many are accepted when the server is killed.
const KILL_AT: usize = EVENTS as usize / 2;
/// How often the evidence is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a part waits while nothing changes, and how long at all.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);

/// The demo's own side of it: what it sent, was promised and has found.
struct Orders {
    runtime: Runtime,
    client: Arc<Client>,
    judge: Judge,
    evidence: Evidence,
    live: Live,
}

/// Returns what became of all events.
pub(super) fn show(aws: &Aws, server: &mut Server, scratch: &Path) -> anyhow::Result<Verdict> {
    part(&format!("Create {FUNCTION}, which fails on some events"), || create(aws, scratch))?;
    let mut orders = Orders::new(server)?;
    part("Send the first event with the AWS CLI", || orders.send_first(aws))?;
    let until = grouped(KILL_AT as u64);
    let sender = part(&format!("Send the others over HTTP, until {until} are accepted"), || {
        let mut sender = orders.start_sending();
        orders.receive(&mut sender, KILL_AT)?;
        Ok(sender)
    })?;
    part("Kill the server with SIGKILL, and start it again", || orders.kill(server))?;
    part("Send the rest", || orders.send_rest(sender))?;
    part("Wait for what is queued, and for retries", || orders.settle())?;
    part("Look at the dead letters", || orders.show_dead_letters(server))?;
    part("Mend the function, and redrive", || orders.mend(aws, server))?;
    part("Wait for what was redriven", || orders.settle())?;
    let verdict = part("Judge by the file and the payloads of the dead letters", || orders.judge())?;
    aws.run(&["lambda", "delete-function", "--function-name", FUNCTION])?;
    Ok(verdict)
}

fn create(aws: &Aws, scratch: &Path) -> anyhow::Result<()> {
    let zip = scratch.join("demo-orders.zip");
    write_zip(&zip, "orders.py", PYTHON)?;
    let closed = ["--environment", "Variables={WAREHOUSE=closed}"];
    aws.create_function(FUNCTION, "python3.11", "orders.lambda_handler", &zip, &closed)?;
    let destination = format!("OnSuccess={{Destination=arn:aws:file:::{DESTINATION}}}");
    let configure = ["lambda", "put-function-event-invoke-config", "--function-name", FUNCTION];
    aws.run(&[&configure[..], &["--destination-config", &destination]].concat())?;
    println!(
        "one order in a hundred is wrong and always fails; one in ten fails while the warehouse is closed;\n\
         of the other tries one in twenty fails. Two retries, as on AWS, but not after 1 and 2 minutes:\n\
         waits between tries are {SPEED_UP} times shorter here ([async] test_speed_up, for tests only).\n\
         OnSuccess: arn:aws:file:::{DESTINATION}. No OnFailure: what fails for good becomes a dead letter."
    );
    Ok(())
}

// === impl Orders ===

impl Orders {
    fn new(server: &Server) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self {
            runtime,
            client: Arc::new(Client::of(&server.global())?),
            judge: Judge::default(),
            evidence: Evidence::new(FUNCTION, server.destination(DESTINATION)),
            live: Live::new(FUNCTION),
        })
    }

    fn send_first(&mut self, aws: &Aws) -> anyhow::Result<()> {
        let payload = sender::payload(0);
        let printed = aws.send_event(FUNCTION, &payload)?;
        println!(
            "aws lambda invoke --function-name {FUNCTION} --invocation-type Event --payload '{payload}' …"
        );
        println!("{}", printed.trim());
        ensure!(printed.contains("202"), "the first event was not accepted");
        self.judge.accepted(0);
        Ok(())
    }

    fn start_sending(&self) -> Sender {
        println!("signed as the AWS CLI does, which would take half a second for each");
        Sender::start(self.runtime.handle(), self.client.clone(), FUNCTION, 1..EVENTS)
    }

    /// Takes promises until there are so many.
    fn receive(&mut self, sender: &mut Sender, count: usize) -> anyhow::Result<()> {
        let in_time = self.watch(Some(sender), |judge| judge.accepted_count() >= count)?;
        let accepted = self.judge.accepted_count();
        ensure!(in_time, "only {accepted} of {count} events were accepted");
        Ok(())
    }

    fn send_rest(&mut self, mut sender: Sender) -> anyhow::Result<()> {
        self.receive(&mut sender, EVENTS as usize)?;
        println!("{} events had no answer when the server died, and were sent again", sender.unanswered());
        Ok(())
    }

    fn kill(&mut self, server: &mut Server) -> anyhow::Result<()> {
        server.kill()?;
        self.live.server_ended();
        self.evidence.look_at_records(&mut self.judge)?;
        let [accepted, open] =
            [self.judge.accepted_count(), self.judge.open_count()].map(|count| grouped(count as u64));
        println!("killed: {accepted} were accepted, {open} of them have no outcome yet");
        let began = Instant::now();
        server.start_again()?;
        println!("ready again after {:.1} s on the same data directory", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Waits until each event has succeeded or is a dead letter. What has not in time, the judge will name.
    fn settle(&mut self) -> anyhow::Result<()> {
        if !self.watch(None, |judge| judge.open_count() == 0)? {
            let open = grouped(self.judge.open_count() as u64);
            println!("{open} events have neither succeeded nor become dead letters, and none does any more");
        }
        Ok(())
    }

    /// Looks at what goes on until `enough`; `false` if it does not come to that. Dead letters are not looked at while events are sent.
    fn watch(
        &mut self,
        mut sender: Option<&mut Sender>,
        enough: impl Fn(&Judge) -> bool,
    ) -> anyhow::Result<bool> {
        let Self { runtime, client, judge, evidence, live } = self;
        live.begin(judge.accepted_count());
        runtime.block_on(async {
            let (began, mut changed, mut known) = (Instant::now(), Instant::now(), judge.counts());
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    promise = next_promise(&mut sender) => {
                        let promise = promise?;
                        judge.accepted(promise.number);
                        evidence.promised(promise.request_id, promise.number);
                        if !enough(judge) {
                            continue;
                        }
                    }
                    _ = looks.tick() => {}
                }
                evidence.look_at_records(judge)?;
                if sender.is_none() {
                    evidence.look_at_dead_letters(client, judge).await?;
                }
                if known != judge.counts() {
                    (known, changed) = (judge.counts(), Instant::now());
                }
                let enough = enough(judge);
                if enough || changed.elapsed() >= PATIENCE || began.elapsed() >= LONGEST {
                    live.end(client, judge.accepted_count()).await?;
                    return Ok(enough);
                }
                live.show(client, judge.accepted_count()).await?;
            }
        })
    }

    fn show_dead_letters(&self, server: &Server) -> anyhow::Result<()> {
        println!(
            "{} events are dead letters now, the oldest of them:",
            grouped(self.judge.dead_count() as u64)
        );
        waterwheel(server, &["dead-letters", "list", "--function", FUNCTION, "--limit", "3"])?;
        let ids = self.runtime.block_on(self.evidence.dead_letters(&self.client))?;
        let id = ids.first().context("there are no dead letters, and some events always fail")?;
        waterwheel(server, &["dead-letters", "show", FUNCTION, id])?;
        waterwheel(server, &["dead-letters", "show", FUNCTION, id, "--payload"])
    }

    fn mend(&self, aws: &Aws, server: &Server) -> anyhow::Result<()> {
        let update = ["lambda", "update-function-configuration", "--function-name", FUNCTION];
        aws.run(&[&update[..], &["--environment", "Variables={WAREHOUSE=open}"]].concat())?;
        aws.run(&["lambda", "wait", "function-updated-v2", "--function-name", FUNCTION])?;
        println!("{FUNCTION} has WAREHOUSE=open now");
        let redrive = ["dead-letters", "redrive", "--function", FUNCTION, "--reason", "RetriesExhausted"];
        waterwheel(server, &redrive)
    }

    fn judge(&mut self) -> anyhow::Result<Verdict> {
        self.evidence.look_at_records(&mut self.judge)?;
        self.evidence.forget_promises();
        self.runtime.block_on(self.evidence.look_at_dead_letters(&self.client, &mut self.judge))?;
        let verdict = self.judge.verdict();
        let (numbers, again) = (self.judge.succeeded_count(), self.judge.repeated());
        let records = grouped(numbers as u64 + again);
        println!("{records} records in the file, of {} events", grouped(numbers as u64));
        println!("{again} records are of events that ran more than once: at least once is the promise");
        println!("{} events in the dead-letter store", grouped(self.judge.dead_count() as u64));
        Ok(verdict)
    }
}

/// The next promise. Waits for ever where nothing is sent, or no more.
async fn next_promise(sender: &mut Option<&mut Sender>) -> anyhow::Result<sender::Accepted> {
    match sender {
        Some(sender) => match sender.next().await {
            Some(promise) => promise,
            None => pending().await,
        },
        None => pending().await,
    }
}

/// Runs a command of this program against the server, as an operator would, and prints what that sees.
fn waterwheel(server: &Server, arguments: &[&str]) -> anyhow::Result<()> {
    println!("$ waterwheel {}", arguments.join(" "));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).envs(server.operator_variables());
    let done = command.output().context("cannot run this program once more")?;
    if !done.status.success() {
        bail!("waterwheel {}: {}", arguments[..2].join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    String::from_utf8_lossy(&done.stdout).lines().for_each(|line| println!("  {line}"));
    Ok(())
}
